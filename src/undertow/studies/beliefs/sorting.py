"""Part 1: replies judged by several judges, prompts sorted into the four kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from undertow.measure.classifier_judge import cohens_kappa
from undertow.measure.judge import RefusalJudge, SubstringJudge, is_unfinished
from undertow.studies.beliefs.context import Context
from undertow.studies.beliefs.result import FOUR_KINDS, Agreement, Array, Sorting, estimate_of


def measure_sorting(context: Context, judges: Sequence[RefusalJudge] = ()) -> Sorting:
    """Share refused of every group of test prompts, the four kinds, and how far the judges agree.

    Compared are the study's judge, the published substring list, the first token of the reply (where this model's
    refusals have first tokens of their own; reasoning is never judged), and any others given.

    Args:
        context: prompts with replies.
        judges: further judges of the same replies.
    """
    test = context.test
    replies = test.observed.replies
    verdicts: dict[str, Array] = {context.judge.name: test.refused}
    for judge in (SubstringJudge(), *judges):
        if judge.name not in verdicts:
            verdicts[judge.name] = np.array(judge.refused(replies), dtype=bool)
    if context.openings is not None:
        verdicts[context.openings.name] = np.array(context.openings.refused(context.chat.logits(test.prompts)))
    groups = np.array(test.groups, dtype=object)
    refused, harmful = {}, {}
    for title in dict.fromkeys(test.groups):
        rows = np.flatnonzero(groups == title)
        share = estimate_of(test.refused[rows])
        assert share is not None
        refused[title], harmful[title] = share, bool(test.harmful[rows[0]])
    return Sorting(
        refused,
        harmful,
        {name: len(test.kind(name)) for name, _, _ in FOUR_KINDS},
        context.judge.name,
        tuple(_agreement(first, second, verdicts) for first, second in combinations(verdicts, 2)),
        sum(is_unfinished(reply) for reply in replies),
    )


def _agreement(first: str, second: str, verdicts: dict[str, Array]) -> Agreement:
    share = estimate_of(verdicts[first] == verdicts[second])
    assert share is not None
    both = np.concatenate([verdicts[first], verdicts[second]])
    kappa = None if both.all() or not both.any() else cohens_kappa(verdicts[first].tolist(), verdicts[second].tolist())
    return Agreement(first, second, share, kappa)
