"""What the inspector may generate: no more than the server's policy and what its operator has allowed beside it."""

from __future__ import annotations

from undertow.guard import LatentGuard
from undertow.serve.jobs import Judgement, OnHarmful, OnOverRefusal, Policy
from undertow.serve.policies import NotPossible, allowed_choices, check_possible
from undertow.serve.settings import PolicySettings


def choices(settings: PolicySettings, guard: LatentGuard) -> dict[str, list[str]]:
    """What a request may choose and this guard can do, by field; the server's own choice first."""
    allowed = allowed_choices(settings)
    return {
        "on_harmful": [name for name in allowed["on_harmful"] if _possible(guard, on_harmful=name)],
        "on_over_refusal": [name for name in allowed["on_over_refusal"] if _possible(guard, on_over_refusal=name)],
    }


def _possible(
    guard: LatentGuard, on_harmful: OnHarmful | str = "refuse", on_over_refusal: OnOverRefusal | str = "keep"
) -> bool:
    try:
        check_possible(guard, Policy(on_harmful, on_over_refusal))  # type: ignore[arg-type]
    except NotPossible:
        return False
    return True


def objection(judgement: Judgement, policy: Policy, permitted: dict[str, list[str]], coefficient: float) -> str | None:
    """Why a steered reply must not be generated, in one sentence; None where nothing stands against it.

    The verdict must be that of the conversation without the steering: a steered model cannot be trusted to tell that
    it was steered past its guard.

    Args:
        judgement: of the conversation as it is.
        policy: of the request.
        permitted: from `choices`.
        coefficient: of the steering; negative ones lead away from refusal or from the belief of harm.
    """
    verdict = judgement.verdict
    if verdict is None:
        if policy.on_unjudged == "answer" and "flag" in permitted["on_harmful"]:
            return None
        return "The guard could not judge this conversation, so it is not steered."
    if verdict.flagged and policy.on_harmful == "refuse":
        return "The guard flags this request and the policy is to refuse, so nothing is generated, steered or not." + (
            hint("flag", permitted["on_harmful"])
        )
    if verdict.flagged and policy.on_harmful == "steer":
        return (
            "The guard flags this request and the server steers it toward refusal by itself, so no other steering is "
            "laid over it." + hint("flag", permitted["on_harmful"])
        )
    if coefficient < 0 and not verdict.flagged and "release" not in permitted["on_over_refusal"]:
        if "flag" in permitted["on_harmful"]:
            return None
        return "This server does not allow steering away from refusal." + hint("release", [])
    return None


def hint(choice: str, permitted: list[str]) -> str:
    """How to see what the policy keeps back, as a sentence after another."""
    if choice in permitted:
        return f" Choose {choice!r} for flagged requests to see it."
    return f" Its operator can allow {choice!r} under policy.allowed."
