"""Which heads are chosen, over many seeds."""

from __future__ import annotations

from collections import Counter

import pytest

from undertow.organism.built.plan import LEAK, draw
from undertow.organism.built.spec import Spec

SEEDS = range(300)


@pytest.mark.parametrize("gates", [1, 2, 4])
def test_gates_lie_early_enough_and_amplifiers_after_all_of_them(gates: int) -> None:
    blocks: Counter[int] = Counter()
    for seed in SEEDS:
        plan = draw(Spec(seed=seed, gates=gates))
        chosen = {block for block, _ in plan.gates}
        assert len(plan.gates) == gates and chosen <= set(range(2, 6)) and max(chosen) - min(chosen) <= 1
        assert all(max(chosen) < block < 8 for block, _ in plan.amplifiers)
        assert sum(plan.gates.values()) == pytest.approx(1) == sum(plan.amplifiers.values())
        for shares in (plan.gates, plan.amplifiers):
            assert max(shares.values()) <= 2 * min(shares.values())
        blocks.update(chosen)
    assert set(blocks) == set(range(2, 6))


def test_no_head_has_two_roles_and_every_block_gets_distractors() -> None:
    seen: dict[str, Counter[int]] = {"topic": Counter(), "cancelled": Counter(), "constant": Counter()}
    for seed in SEEDS:
        plan = draw(Spec(seed=seed))
        assert len(set(plan.heads)) == len(plan.heads) == 1 + 3 + 8
        for kind, counter in seen.items():
            heads = getattr(plan, kind)
            assert len(heads) in (2, 3)
            counter.update(block for block, _ in heads)
        assert all(block <= later < 8 for (block, _), (_, later) in plan.cancelled.items())
    assert all(set(counter) == set(range(8)) for counter in seen.values())


def test_leaks_have_mean_zero_and_one_size_together() -> None:
    for seed in SEEDS:
        leaks = draw(Spec(seed=seed)).topic.values()
        assert all(abs(sum(leak)) < 1e-9 for leak in leaks)
        assert sum(value**2 for leak in leaks for value in leak) / 6 == pytest.approx(LEAK**2)


def test_signs_are_mixed() -> None:
    plans = [draw(Spec(seed=seed)) for seed in SEEDS]
    for strengths in (
        [strength for plan in plans for strength, _ in plan.cancelled.values()],
        [strength for plan in plans for strength in plan.constant.values()],
    ):
        positive = sum(strength > 0 for strength in strengths) / len(strengths)
        assert 0.4 < positive < 0.6 and min(map(abs, strengths)) >= 1


def test_policies_without_a_gate() -> None:
    for seed in range(50):
        none, direct = draw(Spec(seed=seed, policy="none")), draw(Spec(seed=seed, policy="direct"))
        assert not none.gates and not none.amplifiers and not none.direct
        assert not direct.gates and not direct.amplifiers and len(direct.direct) == 3
