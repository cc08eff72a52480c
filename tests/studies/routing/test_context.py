"""Halves, donors and head outputs, against plain passes; what cannot be prepared is refused by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders import byte_level_tokenizer, tiny_chat, tiny_model
from tests.studies.routing.plain import Pass, odds_of, texts, tiny_context, token_ids, words_pairs
from undertow.errors import UndertowError
from undertow.model import ChatModel
from undertow.prompts.pairs import PairSet
from undertow.studies.routing.context import LEAST_HALF, LEAST_PAIRS, head_outputs, other_rows, prepare

STATED: dict[str, Any] = {"refusal_tokens": ("Q",), "answer_tokens": ("Y",), "reply_tokens": 1}


def test_halves_share_no_text_and_the_seed_draws_them() -> None:
    chat, pairs = tiny_chat(), list(words_pairs(20))
    # Three pairs share one control: they have to stay together.
    for row in (3, 8, 15):
        pairs[row] = replace(pairs[row], control=pairs[2].control)
    found = [prepare(chat, PairSet(pairs), seed=seed, **STATED) for seed in (0, 0, 1)]
    split = []
    for context in found:
        halves = [
            {*texts(context, half, "sensitive"), *texts(context, half, "control")} for half in ("choose", "report")
        ]
        assert not halves[0] & halves[1]
        assert len(context.choose) + len(context.report) == 20 and abs(len(context.choose) - 10) <= 3
        split.append(halves[0])
    assert split[0] == split[1] != split[2]


def test_donors_are_the_right_prompts_outputs() -> None:
    context = tiny_context()
    half = context.report
    for side in ("sensitive", "control"):
        plain = [Pass(context.chat, text).heads for text in texts(context, "report", side)]
        for block, head in context.heads:
            own = torch.stack([one[block][-1, head] for one in plain])
            torch.testing.assert_close(torch.stack(half.donors(side, (block, head))), own, atol=1e-5, rtol=1e-4)
            others = torch.stack(half.donors(side, (block, head), half.others))
            torch.testing.assert_close(others, own[torch.as_tensor(half.others)], atol=1e-5, rtol=1e-4)
    [edit] = half.swap("control", [(1, 2)], [4, 0])
    assert edit.head == (1, 2) and edit.span == "t_post"
    torch.testing.assert_close(torch.stack(edit.value), torch.stack(half.donors("control", (1, 2)))[[4, 0]])


def test_reading_under_a_swap_of_several_heads_equals_a_plain_pass() -> None:
    context = tiny_context()
    heads = [(0, 1), (2, 3)]
    found = context.read(context.report, "sensitive", [[], context.report.swap("control", heads)])
    for row, (text, donor) in enumerate(
        zip(texts(context, "report", "sensitive"), texts(context, "report", "control"), strict=True)
    ):
        given, end = Pass(context.chat, donor).heads, len(token_ids(context.chat, text)) - 1
        changes = {(block, head): ([end], given[block][-1:, head]) for block, head in heads}
        assert found[row, 1] == pytest.approx(odds_of(context, Pass(context.chat, text, changes).logits[-1]), abs=1e-5)


def test_heads_of_different_sizes_are_read_alike() -> None:
    chat = ChatModel(tiny_model("llama", num_key_value_heads=4), byte_level_tokenizer())
    prompts = list(words_pairs(4).sensitive)
    found = head_outputs(chat, prompts)
    assert list(found) == [0, 1, 2]
    for row, prompt in enumerate(prompts):
        for block, values in Pass(chat, prompt.text).heads.items():
            torch.testing.assert_close(found[block][row], values[-1], atol=1e-5, rtol=1e-4)


def test_every_pair_gives_once_and_never_to_itself() -> None:
    chat = tiny_chat()
    for count, seed in ((2, 0), (3, 0), (12, 0), (13, 5)):
        found = other_rows(chat, words_pairs(count), seed)
        assert not (found == np.arange(count)).any() and sorted(found) == list(range(count))
    pairs = words_pairs(12)
    lengths = [len(token_ids(chat, pair.sensitive.text)) for pair in pairs]
    found = other_rows(chat, pairs, 0)
    # At least two pairs of each length and topic, so that nobody needs another's.
    kinds = Counter((length, pair.topic) for length, pair in zip(lengths, pairs, strict=True))
    assert len(kinds) == 4 and min(kinds.values()) >= 2
    for row, other in enumerate(found):
        assert lengths[row] == lengths[other] and pairs[row].topic == pairs[int(other)].topic
    turned = other_rows(chat, words_pairs(30), 0), other_rows(chat, words_pairs(30), 1)
    assert (turned[0] != turned[1]).any()


def test_a_donor_is_of_another_text_and_of_the_same_language_where_there_is_one() -> None:
    chat, pairs = tiny_chat(), list(words_pairs(10))
    for row in (1, 4):
        pairs[row] = replace(pairs[row], sensitive=pairs[7].sensitive)
    german = {0, 1, 2, 3}
    mixed = PairSet([replace(pair, language="de" if row in german else "en") for row, pair in enumerate(pairs)])
    found = other_rows(chat, mixed, 0)
    for row, other in enumerate(found):
        assert mixed[row].sensitive.text != mixed[int(other)].sensitive.text
        assert (row in german) == (int(other) in german)
    with pytest.raises(UndertowError, match="at least 2 pairs"):
        other_rows(chat, words_pairs(1), 0)


def test_too_few_pairs_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, pairs = tiny_chat(), words_pairs(20)
    monkeypatch.setattr(chat, "generate", lambda *given, **options: pytest.fail("it ran"))
    with pytest.raises(UndertowError, match="15 pairs are too few: give at least 16"):
        prepare(chat, pairs[: 2 * LEAST_PAIRS - 1])
    with pytest.raises(UndertowError, match="16 are to choose on and 4 to report on"):
        prepare(chat, pairs, halves=(pairs[: 21 - LEAST_HALF], pairs[21 - LEAST_HALF :]))
    # All but three share one control and stay together, so that no split is possible.
    linked = PairSet([replace(pair, control=pairs[0].control) if row < 17 else pair for row, pair in enumerate(pairs)])
    with pytest.raises(UndertowError, match="share no text"):
        prepare(chat, linked)


def test_an_unknown_readout_and_a_model_without_heads_are_refused() -> None:
    pairs = words_pairs(10)
    halves = (pairs[:5], pairs[5:])
    with pytest.raises(UndertowError, match="no readout 'magic'"):
        prepare(tiny_chat(), pairs, readout="magic", halves=halves, **STATED)
    chat = SimpleNamespace(anatomy=SimpleNamespace(projections=[None, None]))
    with pytest.raises(UndertowError, match="No head of this model can be read"):
        prepare(chat, pairs, halves=halves)  # type: ignore[arg-type]
