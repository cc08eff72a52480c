"""`prepare` with replies that a test writes itself, the openings learnt from them, and what a real model gives."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.studied import small_context
from tests.studies.beliefs.requested import HARMFUL, HARMLESS, requests
from undertow.errors import UndertowError
from undertow.measure.judge import SubstringJudge
from undertow.measure.observed import Observed
from undertow.prompts import Prompt
from undertow.prompts.wrappers import FAMILIES
from undertow.studies.beliefs import material as module
from undertow.studies.beliefs.material import Material, learnt_openings, prepare


class Words:
    """A tokenizer whose ids are a list's places of words."""

    vocabulary = ("Sure.", "Sorry", "Well", "Hm", "<think>")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return ([99] if add_special_tokens else []) + [self.vocabulary.index(word) for word in text.split()]


def openings(*counts: tuple[str, int, int]) -> tuple[list[str], Any]:
    """Replies that open so, and how many of them answer and refuse."""
    replies, refused = [], []
    for opening, answers, refusals in counts:
        replies += [f" {opening} Hm\n"] * (answers + refusals)
        refused += [False] * answers + [True] * refusals
    return replies, np.array(refused)


def test_openings_of_at_least_nine_in_ten_are_learnt() -> None:
    judge = learnt_openings(Words(), *openings(("Sure.", 19, 1), ("Sorry", 1, 9), ("Well", 8, 2), ("Hm", 2, 8)))
    assert judge is not None
    assert (judge.refusal_tokens, judge.answer_tokens) == ((1,), (0,))
    judge = learnt_openings(Words(), *openings(("Well", 0, 1), ("Sure.", 1, 0), ("Hm", 4, 0), ("Sorry", 0, 3)))
    assert judge is not None
    assert (judge.refusal_tokens, judge.answer_tokens) == ((1, 2), (0, 3))


def test_exactly_nine_answers_in_ten_are_enough() -> None:
    judge = learnt_openings(Words(), *openings(("Sure.", 18, 2), ("Sorry", 0, 9)))
    assert judge is not None and judge.answer_tokens == (0,)


@pytest.mark.parametrize(
    "counts",
    [
        [("Well", 10, 10)],
        [("Sure.", 8, 2), ("Sorry", 0, 9)],
        [("Sure.", 9, 0), ("Sorry", 2, 8)],
        [("Sure.", 9, 0)],
        [("Sorry", 0, 9)],
    ],
)
def test_no_judge_where_openings_do_not_tell(counts: list[tuple[str, int, int]]) -> None:
    assert learnt_openings(Words(), *openings(*counts)) is None


@pytest.mark.parametrize("reply", ["<think> Hm </think> Sure.", "<think> Hm", "", "  "])
def test_no_judge_where_a_reply_opens_with_reasoning_or_is_empty(reply: str) -> None:
    replies, refused = openings(("Sure.", 9, 0), ("Sorry", 0, 9))
    assert learnt_openings(Words(), replies, refused) is not None
    assert learnt_openings(Words(), [*replies, reply], np.append(refused, False)) is None


def prepared(monkeypatch: pytest.MonkeyPatch, reply: Any, **options: Any) -> Any:
    """`prepare` of a model that replies so to each prompt, with no model behind it."""
    seen: dict[str, Any] = {}

    def observe(chat: Any, prompts: Sequence[Prompt], *, reply_tokens: int, judge: Any, progress: bool) -> Observed:
        seen.update(prompts=list(prompts), reply_tokens=reply_tokens, progress=progress)
        replies = [reply(prompt) for prompt in prompts]
        states = {
            name: np.arange(2 * len(prompts), dtype=np.float32).reshape(-1, 2, 1) for name in ("t_inst", "t_post")
        }
        return Observed(list(prompts), replies, np.array(judge.refused(replies), dtype=bool), states)

    monkeypatch.setattr(module, "observe_replies", observe)
    material = Material.gather(requests(HARMFUL, 40), requests(HARMLESS, 40), families=("suffix",))
    chat = SimpleNamespace(tokenizer=Words(), layers=1)
    return prepare(chat, material, **options), material, seen  # type: ignore[arg-type]


def sensible(prompt: Prompt) -> str:
    return "Sorry" if prompt.harmful else "Sure."


def test_prepare_keeps_the_halves_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    context, material, seen = prepared(monkeypatch, sensible, seed=7, most=5, reply_tokens=9, progress=False)
    assert seen == {"prompts": [*material.fit, *material.test], "reply_tokens": 9, "progress": False}
    for panel, half in ((context.fit, material.fit), (context.test, material.test)):
        assert panel.prompts == list(half)
        assert panel.refused.tolist() == [bool(prompt.harmful) for prompt in half]
    states = np.concatenate([context.fit.states("t_inst"), context.test.states("t_inst")])
    np.testing.assert_array_equal(states.ravel(), np.arange(states.size))
    assert context.fit.bare.tolist() == [-1] * len(material.fit)
    assert context.test.bare.tolist() == list(material.test_bare)
    assert (context.seed, context.most, context.reply_tokens, context.progress) == (7, 5, 9, False)
    assert context.states == (0, 1) and isinstance(context.judge, SubstringJudge)
    assert (context.openings.refusal_tokens, context.openings.answer_tokens) == ((1,), (0,))


def test_openings_come_from_fit_prompts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = set(Material.gather(requests(HARMFUL, 40), requests(HARMLESS, 40), families=("suffix",)).fit)
    context, _, _ = prepared(monkeypatch, lambda prompt: sensible(prompt) if prompt in fitted else "Well")
    assert (context.openings.refusal_tokens, context.openings.answer_tokens) == ((1,), (0,))


def test_another_judge_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = SubstringJudge(substrings=("Well",), name="mine")
    context, _, _ = prepared(monkeypatch, lambda prompt: "Well" if prompt.wrapper else sensible(prompt), judge=judge)
    assert context.judge is judge
    assert context.test.refused.tolist() == [bool(prompt.wrapper) for prompt in context.test.prompts]


def test_replies_that_break_off_in_reasoning_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndertowError, match=r"100% of the replies are still reasoning after 12 tokens: add --no-th"):
        prepared(monkeypatch, lambda prompt: "<think> Hm", reply_tokens=12)
    # 30 of 140 prompts are one too many for a fifth; 28 are not.
    order: list[Prompt] = []

    def some(most: int) -> Any:
        order.clear()

        def reply(prompt: Prompt) -> str:
            order.append(prompt)
            return "<think> Hm" if len(order) <= most else sensible(prompt)

        return reply

    total = len(prepared(monkeypatch, some(0))[2]["prompts"])
    assert total == 140
    prepared(monkeypatch, some(28))
    with pytest.raises(UndertowError, match="21% of the replies"):
        prepared(monkeypatch, some(30))


def test_a_model_that_answers_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndertowError, match="answers none of the harmless fit prompts"):
        prepared(monkeypatch, lambda prompt: "Sorry")


def test_the_small_context_is_what_the_organism_does() -> None:
    context = small_context()
    material = Material.gather(families=FAMILIES, most=48, seed=0)
    assert (context.fit.prompts, context.test.prompts) == (list(material.fit), list(material.test))
    rows = [0, 60, 150, 300]
    texts = [material.test[row].text for row in rows]
    assert context.chat.generate(texts, 16, progress=False) == [context.test.observed.replies[row] for row in rows]
    values = context.chat.capture(texts, progress=False)
    for name in ("t_inst", "t_post"):
        np.testing.assert_allclose(context.test.states(name, rows), values.at(name).float().numpy(), atol=1e-4)
    assert context.openings is not None
    first = context.chat.tokenizer(context.fit.observed.replies, add_special_tokens=False)["input_ids"]
    for ids, refused in zip(first, context.fit.refused, strict=True):
        assert (ids[0] in context.openings.refusal_tokens) == refused
