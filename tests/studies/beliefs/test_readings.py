from __future__ import annotations

from undertow.studies.beliefs import readings, result


def test_the_four_kinds_are_all_pairs_of_truth_and_behaviour() -> None:
    assert {(harmful, refused) for _, harmful, refused in readings.FOUR_KINDS} == {
        (truth, refused) for truth in (True, False) for refused in (True, False)
    }
    for name, harmful, refused in readings.FOUR_KINDS:
        assert name == f"{'refused' if refused else 'accepted'} {'harmful' if harmful else 'harmless'}"


def test_results_offer_the_parts_that_are_read() -> None:
    for name in ("Agreement", "Band", "BeliefMap", "Directions", "Separation", "Sorting"):
        assert getattr(result, name) is getattr(readings, name)
