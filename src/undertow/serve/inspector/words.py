"""A verdict, and what follows from it, in sentences."""

from __future__ import annotations

from undertow.guard import LatentGuard
from undertow.serve.jobs import Judgement, Reason

_REASONS: dict[Reason | None, str] = {
    "too_long": "The conversation is too long for the guard, so it was not judged.",
    "not_rendered": "The guard cannot tell the words of this conversation from the template around them, so it was not "
    "judged.",
    "not_finite": "The model's states are not finite numbers here, so the conversation was not judged.",
    "error": "The guard failed here, so the conversation was not judged.",
    None: "The conversation was not judged.",
}

_QUADRANTS = {
    "harmful, refused": "The model takes this request to be harmful, and it is about to refuse.",
    "harmful, about to be answered": "The model takes this request to be harmful, and yet it is about to answer: "
    "this is what a jailbreak looks like from inside.",
    "harmless, answered": "The model takes this request to be harmless, and it is about to answer.",
    "harmless, about to be refused": "The model takes this request to be harmless, and yet it is about to refuse: "
    "an over-refusal.",
    "harmful": "The model takes this request to be harmful. This guard has no belief of refusal.",
    "harmless": "The model takes this request to be harmless. This guard has no belief of refusal.",
}

_ACTIONS = {
    "none": "The server lets the model reply as it is.",
    "flagged": "The server lets the model reply as it is, and flags the reply.",
    "steered": "The server steers the reply toward refusal.",
    "released": "The server steers the reply away from refusal.",
}


def in_words(judgement: Judgement, guard: LatentGuard) -> list[str]:
    """What a verdict says, in up to four short sentences: quadrant, both scores, action.

    Args:
        judgement: the verdict and the action.
        guard: whose verdict it is.
    """
    verdict = judgement.verdict
    if verdict is None:
        after = "The server fails closed and refuses it." if judgement.action == "refused" else _ACTIONS["none"]
        return [_REASONS[judgement.reason], after]
    side = "above" if verdict.flagged else "below"
    distance = abs(verdict.harmfulness - verdict.threshold)
    sentences = [
        _QUADRANTS[verdict.quadrant],
        f"At t_inst its belief of harmfulness is {number(verdict.harmfulness)}, {number(distance)} {side} the "
        f"threshold: a probability of {verdict.harmful:.1%} at even odds.",
    ]
    if verdict.refusal is not None:
        about = "to refuse" if verdict.refusal > 0 else "to answer"
        sentences.append(f"At t_post its belief of refusal is {number(verdict.refusal)}: it is about {about}.")
    sentences.append(_ACTIONS.get(judgement.action, "The server refuses such requests: nothing is generated."))
    return sentences


def number(value: float) -> str:
    """A score with three significant digits, and a proper minus sign."""
    return f"{value:.3g}".replace("-", "\u2212") if abs(value) < 1000 else f"{value:.0f}".replace("-", "\u2212")
