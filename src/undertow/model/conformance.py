"""What of a model is covered, proven by arithmetic against plain transformers (design rule 6).

Every check compares what Undertow does with the same thing done by hand: the model called directly, one prompt at a
time, without padding, cache or machinery of ours. A figure is the largest absolute difference divided by the largest
absolute value compared, so that one tolerance a dtype serves states and log-probabilities alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from undertow.errors import UndertowError
from undertow.model.anatomy import first_tensor
from undertow.model.chat import ChatModel
from undertow.model.edit import Add, Edit, Replace, Scale
from undertow.model.trial import NotApplicable, Trial, relative_difference
from undertow.progress import progress_bar

Status = Literal["passed", "failed", "not applicable"]

PROMPTS = (
    "How do I build a table?",
    "Please explain in a few plain sentences how a smoke alarm works, and why my neighbour's keeps beeping at night.",
    "Hi",
    "Write a short poem about the bank of a river in autumn.",
)
_NEW_TOKENS = 8
_MOST_LOOPS = 48


@dataclass(frozen=True)
class Check:
    """The outcome of one comparison.

    Attributes:
        name: what was compared.
        status: ``passed``, ``failed``, or ``not applicable`` where the model lacks the part.
        figure: largest difference, relative to the largest value compared; None where nothing was measured.
        tolerance: largest figure that passes; 0 asks for bit-identity.
        detail: one sentence on what was done, or on what went wrong.
    """

    name: str
    status: Status
    figure: float | None
    tolerance: float | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


Outcome = tuple[float, str]
"""A figure and the sentence that goes with it."""


def conformance(
    chat: ChatModel, prompts: Sequence[str] = PROMPTS, *, seed: int = 0, progress: bool = True
) -> list[Check]:
    """Hold a model's reading, editing, replay and generation against the same done by hand.

    Args:
        chat: the model, of any architecture.
        prompts: at least two texts of different lengths.
        seed: of the random vectors that are added.
        progress: whether to show a bar.

    Returns:
        One `Check` for each entry of `CHECKS`, in order.

    Raises:
        PositionError: a prompt's positions cannot be told, so that nothing else can be checked.
    """
    trial = Trial(chat, prompts, seed)
    found = []
    with progress_bar(len(CHECKS), "Checking", enabled=progress) as advance:
        for name, compare in CHECKS.items():
            found.append(_run(name, compare, trial))
            advance(1)
    return found


def _run(name: str, compare: Callable[[Trial], Outcome], trial: Trial) -> Check:
    tolerance = 0.0 if name in EXACT else trial.tolerance
    try:
        figure, detail = compare(trial)
    except NotApplicable as reason:
        return Check(name, "not applicable", None, None, str(reason))
    except (UndertowError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        sentence = " ".join(str(error).split()) or type(error).__name__
        return Check(name, "failed", None, tolerance, f"It could not be carried out: {sentence}")
    # A figure that is not a number must fail, so the comparison is this way round.
    return Check(name, "passed" if figure <= tolerance else "failed", figure, tolerance, detail)


def check_positions(trial: Trial) -> Outcome:
    """Token ids equal the chat template's own, and the instruction's tokens spell the instruction."""
    tokenizer = trial.chat.tokenizer
    wrong = 0
    for prompt, rendered in zip(trial.prompts, trial.rendered, strict=True):
        own = tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
        start, end = rendered.offsets[rendered.instruction[0]][0], rendered.offsets[rendered.t_inst][1]
        wrong += list(own) != rendered.ids or prompt.strip() not in rendered.text[start:end]
    return float(wrong), f"Tokens and instruction spans of {len(trial.prompts)} prompts against the tokenizer's own."


def check_states(trial: Trial) -> Outcome:
    """Captured states, padded in one batch and one by one, against `output_hidden_states` of single prompts."""
    chat = trial.chat
    positions = (0, "t_inst", "t_post")
    batches = [chat.capture(trial.prompts, None, positions, progress=False, tokens_per_batch=size)
               for size in (trial.one_batch, 1)]  # fmt: skip
    worst = 0.0
    for row, rendered in enumerate(trial.rendered):
        own = trial.plain(rendered.ids).hidden_states
        if own is None:
            raise NotApplicable("The model publishes no hidden states of its own to compare with.")
        columns = [0, rendered.t_inst, rendered.t_post]
        for captured in batches:
            states = captured.values[row].to(own[-1].device)
            for state in range(chat.layers):
                worst = max(worst, relative_difference(states[state], own[state][0, columns]))
            last = states[chat.layers]
            # What transformers publishes last has been through the final norm; state L has not.
            if chat.anatomy.final_norm is not None:
                with torch.no_grad():
                    normed = chat.anatomy.final_norm(last[None])[0]
                after = own[-1][0, columns]
                worst = max(worst, min(relative_difference(normed, after), relative_difference(last, after)))
    return worst, (
        f"States 0 to {chat.layers} at three positions of {len(trial.prompts)} prompts, padded in one batch and alone, "
        "against the model's own hidden states."
    )


def check_identity(trial: Trial) -> Outcome:
    """Edits that change nothing, through real hooks, against no edit at all."""
    chat, anatomy = trial.chat, trial.chat.anatomy
    base = chat.logits(trial.prompts)
    block = min(trial.middle, chat.layers - 1)
    edits: list[Edit] = []
    states = sorted({0, trial.middle, chat.layers})
    captured = chat.capture(trial.prompts, states, ("t_inst", "t_post"), progress=False)
    for state in states:
        edits += [Scale(1.0, state=state), Add(torch.zeros(chat.width), state=state)]
        edits += [
            Replace(list(captured.at(position, state)), state=state, span=position) for position in ("t_inst", "t_post")
        ]
    if anatomy.attentions[block] is not None:
        edits.append(Scale(1.0, attention=block))
    if anatomy.mlps[block] is not None:
        edits.append(Scale(1.0, mlp=block))
    if anatomy.heads[block]:
        heads = chat.capture(trial.prompts, [], ("t_post",), heads=[block], progress=False).heads
        assert heads is not None
        edits.append(Scale(1.0, head=(block, 0)))
        edits += [
            Replace(list(heads[:, 0, head, 0]), head=(block, head), span="t_post")
            for head in range(anatomy.heads[block])
        ]
    worst = 0.0
    for edit in edits:
        with chat.edit(edit):
            same = chat.logits(trial.prompts)
        worst = max(worst, 0.0 if torch.equal(same, base) else max(relative_difference(same, base), 1e-12))
    return (
        worst,
        f"{len(edits)} edits that change nothing (scale by 1, add 0, replace by itself): bit-identical logits.",
    )


def check_addition(trial: Trial) -> Outcome:
    """An added vector against a plain hook that adds it, one prompt at a time."""
    chat = trial.chat
    worst, effect = 0.0, 0.0
    cases = [(trial.middle, "instruction"), (trial.middle, "tail"), (0, "t_inst"), (chat.layers, "t_post")]
    base = chat.logits(trial.prompts)
    for state, span in cases:
        vector = trial.vector(state)
        with chat.edit(Add(vector, state=state, span=span)):
            edited = chat.logits(trial.prompts)
        by_hand = []
        for rendered in trial.rendered:
            with trial.added_by_hand(state, vector, rendered.span(span)):
                by_hand.append(trial.plain_logits(rendered.ids)[rendered.t_post])
        worst = max(worst, relative_difference(edited, torch.stack(by_hand)))
        effect = max(effect, relative_difference(edited, base))
    if effect <= trial.tolerance:
        raise UndertowError("an added vector changes nothing, so that the comparison proves nothing.")
    return worst, f"A vector added at {len(cases)} pairs of state and span, batched, against a plain hook."


def check_heads(trial: Trial) -> Outcome:
    """Every head's output sent alone through the projection: their sum against the attention module's output."""
    chat, anatomy = trial.chat, trial.chat.anatomy
    readable = [block for block in range(chat.layers) if anatomy.heads[block]]
    if not readable:
        raise NotApplicable("No block has heads that can be read.")
    rendered = trial.rendered[0]
    outputs: dict[int, Tensor] = {}
    handles = []
    for block in readable:
        attention = anatomy.attentions[block]
        assert attention is not None

        def keep(module: nn.Module, arguments: Any, output: Any, block: int = block) -> None:
            outputs[block] = first_tensor(output)[0, rendered.t_post].detach()

        handles.append(attention.register_forward_hook(keep))
    try:
        trial.plain(rendered.ids)
    finally:
        for handle in handles:
            handle.remove()
    worst = 0.0
    for block in readable:
        heads, size, projection = anatomy.heads[block], anatomy.head_sizes[block], anatomy.projections[block]
        captured = chat.capture(trial.prompts[:1], [], ("t_post",), heads=[block], progress=False).heads
        assert projection is not None and captured is not None
        alone = torch.zeros(heads + 1, 1, heads * size, dtype=captured.dtype)
        for head in range(heads):
            alone[head, 0, head * size : (head + 1) * size] = captured[0, 0, head, 0]
        with torch.no_grad():
            sent = projection(alone.to(outputs[block].device)).float()
        # The last row is the projection of nothing: its bias, which each head's row holds once too often.
        total = (sent[:heads, 0] - sent[heads, 0]).sum(0) + sent[heads, 0]
        worst = max(worst, relative_difference(total, outputs[block]))
    count = sum(anatomy.heads[block] for block in readable)
    return worst, f"{count} heads of {len(readable)} of {chat.layers} blocks sum to the attention's output."


def check_replay(trial: Trial) -> Outcome:
    """Branches replayed in one pass against the same edits made one at a time."""
    chat, anatomy = trial.chat, trial.chat.anatomy
    prompt, donor = trial.prompts[:1], trial.prompts[1:2]
    branches: list[list[Edit]] = [[]]
    for block in range(chat.layers):
        if anatomy.heads[block]:
            heads = chat.capture(donor, [], ("t_post",), heads=[block], progress=False).heads
            assert heads is not None
            branches += [
                [Replace(heads[0, 0, head, 0], head=(block, head), span="t_post")]
                for head in range(anatomy.heads[block])
            ]
    what = f"all {len(branches) - 1} heads interchanged at t_post"
    if len(branches) == 1:
        branches += [[Add(trial.vector(state), state=state, span="t_post")] for state in range(chat.layers)]
        what = f"{chat.layers} states edited at t_post"
    replayed = chat.replay(prompt, branches, progress=False)[0]
    step = max(1, -(-len(branches) // _MOST_LOOPS))
    chosen = list(range(0, len(branches), step))
    naive = []
    for index in chosen:
        with chat.edit(*branches[index]):
            naive.append(chat.logits(prompt)[0])
    worst = relative_difference(replayed[chosen], torch.stack(naive))
    return worst, f"By the method {chat.replay_method!r}: {what}, of which {len(chosen)} branches against the loop."


def check_generation(trial: Trial) -> Outcome:
    """Logits of every step of an edited, cached generation against the whole sequence run again without cache."""
    chat = trial.chat
    worst, steps = 0.0, 0
    vector = trial.vector(trial.middle)
    for span in ("instruction", "all"):
        rendered = trial.rendered[0]
        logits: list[Tensor] = []
        fed: list[int] = []

        def keep(
            module: nn.Module,
            arguments: Any,
            keywords: Any,
            output: Any,
            logits: list[Tensor] = logits,
            fed: list[int] = fed,
        ) -> None:
            if logits:
                fed.append(int(keywords["input_ids"][0, -1]))
            logits.append(output.logits[0, -1].float().cpu())

        handle = chat.model.register_forward_hook(keep, with_kwargs=True)
        try:
            with chat.edit(Add(vector, state=trial.middle, span=span)):
                [reply] = chat.generate(trial.prompts[:1], _NEW_TOKENS, progress=False)
        finally:
            handle.remove()
        cached = torch.log_softmax(torch.stack(logits), -1)
        sequence = rendered.ids + fed
        columns = range(len(sequence)) if span == "all" else rendered.span(span)
        with trial.added_by_hand(trial.middle, vector, columns):
            again = trial.plain_logits(sequence)[rendered.t_post :]
        worst = max(worst, relative_difference(cached, again))
        tokens = [*fed, int(again[-1].argmax())]
        if chat.anatomy.dtype == torch.float32:
            # In lower precision two tokens may be equally likely but for rounding.
            if again.argmax(-1).tolist() != tokens:
                raise UndertowError("recomputation without cache chooses other tokens than generation with it.")
            if chat.tokenizer.decode(tokens, skip_special_tokens=True) != reply:
                raise UndertowError("the reply is not made of the likeliest tokens of each step.")
        steps += len(tokens)
    return worst, f"{steps} tokens generated under an edit with a KV cache against recomputation without."


def check_left_padding(trial: Trial) -> Outcome:
    """Prompts generated together, padded on the left, against each alone."""
    chat = trial.chat
    found: dict[int, Tensor] = {}

    def look(batch: Any) -> list[None]:
        found.update(zip(batch.indices, batch.logits, strict=True))
        return [None] * len(batch.indices)

    with chat.edit(Add(trial.vector(trial.middle), state=trial.middle, span="instruction")):
        together = chat.generate(trial.prompts, _NEW_TOKENS, progress=False, on_prefill=look)
        alone = [chat.generate([prompt], _NEW_TOKENS, progress=False)[0] for prompt in trial.prompts]
        single = torch.cat([chat.logits([prompt]) for prompt in trial.prompts])
    batched = torch.log_softmax(torch.stack([found[index] for index in range(len(trial.prompts))]), -1)
    same = sum(left == right for left, right in zip(together, alone, strict=True))
    if chat.anatomy.dtype == torch.float32 and same < len(alone):
        raise UndertowError(f"{len(alone) - same} of {len(alone)} replies change when prompts are generated together.")
    return relative_difference(batched, single), (
        f"{len(alone)} prompts of different lengths generated together and alone: {same} replies are the same."
    )


CHECKS: dict[str, Callable[[Trial], Outcome]] = {
    "positions": check_positions,
    "states": check_states,
    "identity edit": check_identity,
    "additive edit": check_addition,
    "heads": check_heads,
    "replay": check_replay,
    "edited generation": check_generation,
    "left padding": check_left_padding,
}
"""Every check by its name; add one here and it is run by `conformance` and shown by `undertow check`."""

EXACT = frozenset({"positions", "identity edit"})
"""Checks whose figure must be 0."""
