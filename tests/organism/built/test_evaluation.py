"""Counting what a built organism does."""

from __future__ import annotations

import pytest

from tests.organism.built.plain import Plain, organism, texts
from undertow.organism.built import built_pairs
from undertow.organism.built.evaluation import evaluate_built


@pytest.mark.parametrize("policy", ["gate", "direct"])
def test_counts_agree_with_plain_log_odds(policy: str) -> None:
    built = organism(1, policy)
    evaluation = evaluate_built(built, n=24, seed=8)
    plain, pairs = Plain(built), built_pairs(built.spec, 24, 8)
    sensitive, control = texts(pairs.sensitive), texts(pairs.controls)
    heads = built.circuit.gates or built.circuit.direct
    word = "gates" if policy == "gate" else "direct heads"
    assert evaluation.cell("sensitive", "refused").k == int((plain.odds(sensitive) > 0).sum())
    assert evaluation.cell("control", "answered").k == int((plain.odds(control) < 0).sum())
    zeroed = int((plain.silenced(sensitive, heads) < 0).sum())
    assert evaluation.cell(f"sensitive, {word} zeroed", "answered").k == zeroed
    swapped = int((plain.interchanged(sensitive, control, heads) < 0).sum())
    assert evaluation.cell(f"sensitive, {word} of the control", "answered").k == swapped
    back = int((plain.interchanged(control, sensitive, heads) > 0).sum())
    assert evaluation.cell(f"control, {word} of the sensitive", "refused").k == back
    counted = [(int((plain.odds(sensitive) > 0).sum()), 0.95), (int((plain.odds(control) < 0).sum()), 0.95)]
    counted += [(zeroed, 0.8), (swapped, 0.8), (back, 0.8)]
    assert len(evaluation.missed) == sum(k / 24 < wanted for k, wanted in counted)
    assert evaluation.model == "built:1"


def test_nothing_is_wanted_without_a_policy() -> None:
    evaluation = evaluate_built(organism(3, "none"), n=12)
    assert all(cell.wanted is None for cell in evaluation.cells)
    assert evaluation.cell("sensitive", "refused").k == 0 and evaluation.cell("control", "answered").k == 12
