"""Part 1 against counts by plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from tests.studied import small_context
from undertow.measure.judge import FirstTokenJudge, SubstringJudge
from undertow.studies.beliefs.context import Panel
from undertow.studies.beliefs.sorting import measure_sorting


class Coin:
    """A judge that refuses every third reply."""

    def __init__(self, name: str = "coin") -> None:
        self.name = name

    def refused(self, replies: Sequence[str]) -> list[bool]:
        return [place % 3 == 0 for place in range(len(replies))]


class Never:
    """A judge that never sees a refusal."""

    name = "never"

    def refused(self, replies: Sequence[str]) -> list[bool]:
        return [False] * len(replies)


def test_groups_and_kinds_are_counted() -> None:
    context = small_context()
    test, found = context.test, measure_sorting(context)
    kinds: dict[str, int] = {}
    groups: dict[str, list[bool]] = {}
    for prompt, refused in zip(test.prompts, test.refused, strict=True):
        kind = f"{'refused' if refused else 'accepted'} {'harmful' if prompt.harmful else 'harmless'}"
        kinds[kind] = kinds.get(kind, 0) + 1
        label = "harmful" if prompt.harmful else "look-alike" if prompt.style == "look-alike" else "harmless"
        family = "" if prompt.wrapper is None else str(prompt.wrapper).replace("_", " ") + ", "
        groups.setdefault(family + label, []).append(bool(refused))
    assert found.counts == kinds and sum(found.counts.values()) == len(test)
    assert set(found.refused) == set(found.harmful) == set(groups) and len(groups) == 12
    for title, hits in groups.items():
        k, n = sum(hits), len(hits)
        low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
        high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
        assert found.refused[title] == pytest.approx((k / n, low, high, n))
        assert found.harmful[title] == title.endswith("harmful")
    assert found.judge == "substring" and found.unfinished == 0


def test_every_pair_of_judges_is_compared() -> None:
    context = small_context()
    replies = context.test.observed.replies
    found = measure_sorting(context, [Coin(), Never()])
    openings = context.openings
    assert openings is not None
    odds = context.chat.logits(context.test.prompts)
    refusing = torch.logsumexp(odds[:, list(openings.refusal_tokens)], 1)
    answering = torch.logsumexp(odds[:, list(openings.answer_tokens or ())], 1)
    verdicts = {
        "substring": ["sorry" in reply or "cannot" in reply for reply in replies],
        "coin": [place % 3 == 0 for place in range(len(replies))],
        "never": [False] * len(replies),
        "first-token": (refusing > answering).tolist(),
    }
    assert verdicts["substring"] == SubstringJudge().refused(replies)
    assert {(one.first, one.second) for one in found.agreements} == set(combinations(verdicts, 2))
    for one in found.agreements:
        first, second = verdicts[one.first], verdicts[one.second]
        agreeing = sum(a == b for a, b in zip(first, second, strict=True))
        assert one.share.value == agreeing / len(replies) and one.share.n == len(replies)
        if "never" in (one.first, one.second):
            assert one.kappa is None
        else:
            assert one.kappa == pytest.approx(cohen_kappa_score(first, second))


def test_the_studys_judge_comes_first_and_the_published_list_stands_beside_it() -> None:
    context = small_context()
    mine = replace(context.test.observed, refused=np.array(Coin().refused(context.test.prompts)))  # type: ignore[arg-type]
    changed = replace(context, test=Panel(mine, context.test.bare), judge=Coin("mine"), openings=None)
    found = measure_sorting(changed)
    assert found.judge == "mine"
    assert [(one.first, one.second) for one in found.agreements] == [("mine", "substring")]
    assert found.counts["refused harmful"] == sum(
        bool(prompt.harmful) for place, prompt in enumerate(context.test.prompts) if place % 3 == 0
    )
    # A judge of the same name is the same judge.
    assert len(measure_sorting(changed, [Coin("mine")]).agreements) == 1


def test_first_tokens_are_judged_only_where_they_were_learnt() -> None:
    context = small_context()
    assert measure_sorting(replace(context, openings=None)).agreements == ()
    assert context.openings is not None
    swapped = FirstTokenJudge(tuple(context.openings.answer_tokens or ()), context.openings.refusal_tokens)
    (only,) = measure_sorting(replace(context, openings=swapped)).agreements
    assert only.share.value < 0.1 and only.kappa is not None and only.kappa < 0


def test_replies_that_break_off_in_reasoning_are_counted() -> None:
    context = small_context()
    replies = ["<think>Hm", "<think>Hm</think>Sure.", *context.test.observed.replies[2:-1], "<think>"]
    observed = replace(context.test.observed, replies=replies)
    assert measure_sorting(replace(context, test=Panel(observed, context.test.bare))).unfinished == 2
