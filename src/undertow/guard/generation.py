"""Generation under the guard's eye: the verdict comes out of the prefill that the reply needs anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from undertow.errors import GuardError
from undertow.guard.verdict import Verdict
from undertow.prompts import as_prompts

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard
    from undertow.model.generate import PrefillBatch

REFUSAL_TEXT = "I'm sorry, but I can't help with that."
"""What the guard says in the model's place."""

OnHarmful = Literal["refuse", "flag", "steer"]
OnOverRefusal = Literal["release", "keep"]
Action = Literal["none", "refused", "flagged", "steered", "released"]


@dataclass(frozen=True)
class GuardedReply:
    """A reply with what the guard thought and did.

    Attributes:
        text: the reply; the guard's own refusal where the action is "refused".
        verdict: read in the prefill of this very generation.
        action: "none"; "refused" (nothing was generated), "flagged" (generated as it is), "steered" (toward refusal)
            or "released" (away from it).
    """

    text: str
    verdict: Verdict
    action: Action


def guarded_generate(
    guard: LatentGuard,
    prompts: Any,
    on_harmful: OnHarmful = "refuse",
    on_over_refusal: OnOverRefusal = "keep",
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    refusal_text: str = REFUSAL_TEXT,
    progress: bool = True,
) -> list[GuardedReply]:
    """Generate replies, judging every prompt by the states of its own prefill; there is no second forward pass.

    A steered or released reply re-runs only the few template tokens after the instruction, against the KV cache.

    Args:
        guard: the guard; its model generates.
        prompts: a text, a Prompt, one conversation, or a sequence of these.
        on_harmful: for flagged prompts: "refuse" gives `refusal_text` and generates nothing; "flag" generates as ever;
            "steer" pushes toward refusal where the model is about to answer.
        on_over_refusal: for prompts that are not flagged, yet about to be refused: "release" pushes away from refusal,
            "keep" does nothing.
        max_new_tokens, temperature, top_p, seed: as for `ChatModel.generate`.
        refusal_text: the reply in the place of a refused one.

    Raises:
        GuardError: an unknown policy; steering asked of a guard without it; release asked of a guard without a refusal
            belief.
        NotFiniteError: states are not finite, in which case nothing is returned.
        PositionError: a prompt cannot be rendered.
    """
    from undertow.model.generate import Decision, Steer, Stop

    _check_policy(guard, on_harmful, on_over_refusal)
    listed = as_prompts(prompts)
    if not listed:
        return []
    verdicts: list[Verdict | None] = [None] * len(listed)
    actions: list[Action] = ["none"] * len(listed)

    def look(batch: PrefillBatch) -> list[Decision]:
        decisions: list[Decision] = []
        states = {position: batch.at(position) for position in guard.positions}
        found = guard.read(states, [listed[index].id for index in batch.indices])
        for index, verdict in zip(batch.indices, found, strict=True):
            action = decide(verdict, on_harmful, on_over_refusal)
            verdicts[index], actions[index] = verdict, action
            if action == "refused":
                decisions.append(Stop(refusal_text))
            elif action in ("steered", "released"):
                assert guard.steering is not None
                decisions.append(Steer(guard.steering.edits("refusal" if action == "steered" else "answer")))
            else:
                decisions.append(None)
        return decisions

    texts = guard.model.generate(
        listed,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        progress=progress,
        on_prefill=look,
        prefill_states=guard.states,
        prefill_positions=guard.positions,
    )
    replies = []
    for text, verdict, action in zip(texts, verdicts, actions, strict=True):
        # Fails closed: a reply whose prompt was never judged is an error, not an answer.
        if verdict is None:
            raise GuardError(
                "The model generated a reply without showing its prefill to the guard; nothing is returned."
            )
        replies.append(GuardedReply(text, verdict, action))
    return replies


def decide(verdict: Verdict, on_harmful: OnHarmful, on_over_refusal: OnOverRefusal) -> Action:
    """What a policy does with a verdict."""
    if verdict.flagged:
        if on_harmful == "refuse":
            return "refused"
        if on_harmful == "steer" and (verdict.refusal is None or verdict.refusal <= 0):
            return "steered"
        return "flagged"
    if on_over_refusal == "release" and verdict.refusal is not None and verdict.refusal > 0:
        return "released"
    return "none"


def _check_policy(guard: LatentGuard, on_harmful: str, on_over_refusal: str) -> None:
    if on_harmful not in ("refuse", "flag", "steer"):
        raise GuardError(f"on_harmful must be 'refuse', 'flag' or 'steer', not {on_harmful!r}.")
    if on_over_refusal not in ("release", "keep"):
        raise GuardError(f"on_over_refusal must be 'release' or 'keep', not {on_over_refusal!r}.")
    if (on_harmful == "steer" or on_over_refusal == "release") and guard.steering is None:
        raise GuardError(
            "This guard has no refusal direction to steer with; fit it with steering=True on prompts of which the "
            "model refuses some."
        )
    if on_over_refusal == "release" and guard.refusal is None:
        raise GuardError(
            "This guard has no refusal belief, so it cannot tell an over-refusal; use on_over_refusal='keep'."
        )
