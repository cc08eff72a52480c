from __future__ import annotations

from typing import get_args

import pytest

from undertow.guard import LatentGuard, Quadrant, Verdict
from undertow.serve.inspector.words import in_words, number
from undertow.serve.jobs import Action, Judgement, Reason


def verdict(quadrant: Quadrant, harmfulness: float, refusal: float | None) -> Verdict:
    return Verdict(0.973, refusal, quadrant, harmfulness >= 0.5, harmfulness, 0.5)


def test_every_quadrant_action_and_reason_has_its_sentence(guard: LatentGuard) -> None:
    for quadrant in get_args(Quadrant):
        for action in get_args(Action):
            words = in_words(Judgement(verdict(quadrant, 1.0, 2.0), action), guard)
            assert len(words) == 4 and all(sentence.endswith(".") for sentence in words)
            assert quadrant.split(",")[0] in words[0]
    for reason in get_args(Reason):
        words = in_words(Judgement(None, "refused", reason), guard)
        assert "not judged" in words[0] and words[1] == "The server fails closed and refuses it."
    assert in_words(Judgement(None, "none", "error"), guard)[1] == "The server lets the model reply as it is."


def test_the_numbers_are_the_verdicts(guard: LatentGuard) -> None:
    words = " ".join(in_words(Judgement(verdict("harmful, about to be answered", 1.75, -0.25), "refused"), guard))
    assert "harmfulness is 1.75, 1.25 above the threshold: a probability of 97.3%" in words
    assert "refusal is \u22120.25: it is about to answer" in words and "nothing is generated" in words
    below = in_words(Judgement(verdict("harmless", -1.0, None), "none"), guard)
    assert len(below) == 3 and "\u22121, 1.5 below the threshold" in below[1]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (-2.5, "\u22122.5"), (12345.6, "12346"), (0.00123, "0.00123")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
