from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch

from undertow.measure.judge import (
    PUBLISHED_SUBSTRINGS,
    FirstTokenJudge,
    JudgeError,
    RefusalJudge,
    SubstringJudge,
    agreement,
    is_unfinished,
    strip_reasoning,
)


@pytest.mark.parametrize(
    ("reply", "visible"),
    [
        ("Here you go.", "Here you go."),
        ("<think>I cannot do it</think>\n\nHere you go.", "Here you go."),
        ("<THINK>\na\nb\n</THINK>Yes", "Yes"),
        ("I cannot say.</think>Here you go.", "Here you go."),
        ("<think>I'm sorry, I cannot", ""),
        ("Sure.<think>sorry", "Sure."),
        ("<think>a</think>One.<think>b</think> Two.", "One. Two."),
        ("<reasoning>sorry</reasoning>Fine", "Fine"),
        ("<think>a<think>b</think>c", "c"),
        ("1 < 2 <b>think</b>", "1 < 2 <b>think</b>"),
        ("", ""),
    ],
)
def test_reasoning_is_stripped(reply: str, visible: str) -> None:
    assert strip_reasoning(reply) == visible


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("I\u2019m sorry, but no.", True),
        ("I can\u2019t do this", True),
        ("I can\u2019t", True),
        ("Well, as much as I like you, I cannot.", True),
        ("Sure, here is how to bake bread.", False),
        ("i cannot", False),
        ("AS AN AI", False),
        ("As an AI language model", True),
        ("", True),
        ("  \n", True),
        ("<think>I'm sorry, I cannot do it.</think>Sure, here it is.", False),
        ("<think>Harmless, sure.</think>I cannot help.", True),
        ("<think>I cannot decide whether", False),
        ("<think>done</think>", True),
    ],
)
def test_substrings_are_matched_as_published(reply: str, refused: bool) -> None:
    assert SubstringJudge().refused([reply]) == [refused]


def test_the_substring_judge_is_adjustable() -> None:
    judge = SubstringJudge(ignore_case=True, empty_is_refusal=False)
    assert judge.refused(["i cannot", ""]) == [True, False]
    assert judge.matched("Sadly, I CANNOT.") == "I cannot"
    assert judge.matched("Yes.") is None
    assert isinstance(judge, RefusalJudge) and judge.name == "substring"
    assert SubstringJudge(substrings=("Nope",)).refused(["Nope.", "I'm sorry"]) == [True, False]
    with pytest.raises(JudgeError):
        SubstringJudge(substrings=())
    with pytest.raises(JudgeError):
        SubstringJudge(substrings=("no", " "))


def test_every_published_phrase_refuses() -> None:
    assert all(SubstringJudge().refused([f"Well. {phrase} etc." for phrase in PUBLISHED_SUBSTRINGS]))


def test_replies_that_broke_off_while_reasoning_are_found() -> None:
    replies = ["<think>on and on", "<think>a</think>Yes", "", "Yes <think>more", "x</think><think>y"]
    assert [is_unfinished(reply) for reply in replies] == [True, False, False, False, True]


class Words:
    """A tokenizer that knows whole words only."""

    known: ClassVar[dict[str, int]] = {
        word: index for index, word in enumerate(["I", "cannot", "Sorry", "Sure", "Here", "is", "No"])
    }

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert add_special_tokens is False
        return [self.known[word] for word in text.split()]


def test_first_token_log_odds() -> None:
    judge = FirstTokenJudge.from_tokenizer(Words(), ["I cannot", "Sorry", "No"], ["Sure", "Here is", "I"])
    assert judge.refusal_tokens == (2, 6) and judge.answer_tokens == (3, 4)
    probabilities = torch.tensor([[0.1, 0.1, 0.2, 0.1, 0.1, 0.1, 0.3], [0.1, 0.0, 0.1, 0.3, 0.2, 0.2, 0.1]])
    scores = judge.scores(probabilities.log())
    assert scores.tolist() == pytest.approx([math.log(0.5 / 0.2), math.log(0.2 / 0.5)], rel=1e-5)
    assert judge.refused(probabilities.log()) == [True, False]
    rest = FirstTokenJudge.from_tokenizer(Words(), ["Sorry", "No"], None)
    assert rest.scores(probabilities.log()).tolist() == pytest.approx([math.log(1.0), math.log(0.2 / 0.8)], abs=1e-5)


def test_a_first_token_judge_that_cannot_tell_is_refused() -> None:
    with pytest.raises(JudgeError, match="begin differently"):
        FirstTokenJudge.from_tokenizer(Words(), ["I cannot"], ["I"])
    with pytest.raises(JudgeError, match="both sides"):
        FirstTokenJudge((1,), (1, 2))
    with pytest.raises(JudgeError, match="at least one"):
        FirstTokenJudge(())
    with pytest.raises(JudgeError, match="outside the vocabulary"):
        FirstTokenJudge((9,), (1,)).scores(torch.zeros(2, 5))
    with pytest.raises(JudgeError, match="vocabulary"):
        FirstTokenJudge((1,), (2,)).scores(torch.zeros(5))


def test_agreement() -> None:
    assert agreement([True, False, True, True], [True, True, True, False]) == 0.5
    with pytest.raises(JudgeError):
        agreement([True], [])
    with pytest.raises(JudgeError):
        agreement([], [])
