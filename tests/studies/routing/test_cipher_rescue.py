from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.routed import small_context
from tests.studies.routing.test_ciphers import GATES, backwards, forms, log_odds, measured, replies, texts_of, z
from undertow.measure.judge import SubstringJudge
from undertow.measure.statistics import Estimate, clopper_pearson
from undertow.studies.routing.cipher_rescue import injections, measure_rescue, random_heads
from undertow.studies.routing.readings import Head

BAND: tuple[Head, ...] = ((3, 0), (5, 0), (5, 3))


def test_every_injection_stands_in_its_row() -> None:
    assert [row.injected for row in measured().rescue] == [
        "nothing",
        "gate, plain sensitive",
        "gate, plain control",
        "random heads, plain sensitive",
        "random vector",
        "band, plain sensitive",
    ]
    nothing = measured().rescue[0]
    assert nothing.readout == Estimate(0.0, 0.0, 0.0, 16)
    assert nothing.refused == measured().readings[1].refused


@pytest.mark.parametrize(
    ("name", "heads", "side"),
    [
        ("gate, plain sensitive", GATES, "sensitive"),
        ("gate, plain control", GATES, "control"),
        ("band, plain sensitive", BAND, "sensitive"),
    ],
)
def test_rescue_equals_hooks_on_the_last_token_of_every_pass(name: str, heads: tuple[Head, ...], side: str) -> None:
    found = next(row for row in measured().rescue if row.injected == name)
    ciphered = texts_of("sensitive", backwards)
    given = {head: z(texts_of(side), head) for head in heads}
    refused = sum(SubstringJudge().refused(replies(ciphered, given)))
    assert found.refused == Estimate(refused / 16, *clopper_pearson(refused, 16), 16)
    changes = log_odds(ciphered, given) - log_odds(ciphered)
    assert found.readout.value == pytest.approx(changes.mean(), abs=1e-3)
    assert found.readout.low < changes.mean() < found.readout.high


class Recorder(SubstringJudge):
    """Keeps what it was given to judge."""

    def refused(self, replies: Sequence[str]) -> list[bool]:
        judged.append(list(replies))
        return super().refused(replies)


judged: list[list[str]] = []


def test_replies_are_generated_with_the_injection_at_every_token() -> None:
    context, ciphered = small_context(), forms().ciphered_report
    judged.clear()
    measure_rescue(replace(context, judge=Recorder()), context.report, ciphered, BAND, (), context.readout)
    for place, side in enumerate(("sensitive", "control")):
        given = {head: z(texts_of(side), head) for head in BAND}
        wanted = replies(texts_of("sensitive", backwards), given)
        assert [text.strip() for text in judged[place]] == [text.strip() for text in wanted]
    random = next(one for one in injections(context, context.report, BAND, ()) if one.name.startswith("random heads"))
    rows, values = random.parts[1]
    texts = [texts_of("sensitive", backwards)[row] for row in rows]
    wanted = replies(texts, {head: z(texts_of("sensitive"), head)[rows] for head in values})
    assert [text.strip() for text in judged[3]] == [text.strip() for text in wanted]


def test_the_gate_rescues_more_than_its_controls() -> None:
    rows = {row.injected: row for row in measured().rescue}
    gate = rows["gate, plain sensitive"].readout
    for control in ("gate, plain control", "random heads, plain sensitive", "random vector"):
        assert gate.low > rows[control].readout.high
    assert rows["gate, plain sensitive"].refused.value > rows["gate, plain control"].refused.value


def test_random_heads_share_the_prompts_between_them() -> None:
    context = small_context()
    random = next(one for one in injections(context, context.report, GATES, ()) if one.name.startswith("random heads"))
    assert sorted(np.concatenate([rows for rows, _ in random.parts])) == list(range(16))
    assert len(random.parts) == 4
    for _, values in random.parts:
        assert [block for block, _ in values] == [3, 5] and not set(values) & set(GATES)
        for head, given in values.items():
            assert all(map(torch.equal, given, context.report.donors("sensitive", head)))


def test_random_vectors_have_the_gates_norm_and_no_common_direction() -> None:
    context = small_context()
    random = next(one for one in injections(context, context.report, GATES, ()) if one.name == "random vector")
    ((rows, values),) = random.parts
    assert list(rows) == list(range(16)) and tuple(values) == GATES
    for head, given in values.items():
        norms = [vector.norm() for vector in context.report.donors("sensitive", head)]
        assert torch.stack(given).norm(dim=1) == pytest.approx(torch.stack(norms))
        cosine = torch.nn.functional.cosine_similarity(given[0], given[1], dim=0)
        assert abs(float(cosine)) < 0.9


def test_random_heads_come_from_the_same_or_the_nearest_blocks() -> None:
    context = small_context()
    heads = ((3, 0), (3, 1), (5, 0))
    for drawn in random_heads(context, heads, (), 20):
        assert [block for block, _ in drawn] == [3, 3, 5]
        assert len({*drawn}) == 3 and not {*drawn} & {*heads}
    full = tuple((3, head) for head in range(4))
    for drawn in random_heads(context, full, ((2, 0),), 20):
        assert {block for block, _ in drawn} <= {2, 4} and (2, 0) not in drawn
    assert len(set(random_heads(context, heads, (), 20))) > 3
    assert random_heads(context, context.heads[:13], (), 4) == []


def test_without_other_heads_the_row_is_left_out() -> None:
    context = small_context()
    names = [one.name for one in injections(context, context.report, context.heads[:13], ())]
    assert names == ["gate, plain sensitive", "gate, plain control", "random vector"]
