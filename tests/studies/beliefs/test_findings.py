"""Findings of a made-up result whose parts are chosen so that each claim holds, and then so that it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.report.beliefs.made import bare_result, comparison, full_result, share
from undertow.guard.verdict import QUADRANTS
from undertow.measure.finding import Finding, write_findings
from undertow.measure.statistics import Estimate
from undertow.studies.beliefs.claims import CLAIMS as PAPER_CLAIMS
from undertow.studies.beliefs.claims import FOREMOST, REFERENCES
from undertow.studies.beliefs.findings import complement, findings_of
from undertow.studies.beliefs.result import Band, BeliefsResult


def number(value: float, n: int = 96) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05, n)


def base() -> BeliefsResult:
    return replace(full_result(), findings=(), rules={})


def judged(result: BeliefsResult, name: str) -> Finding:
    found = findings_of(result).finding(f"beliefs.{name}")
    assert found is not None, name
    return found


def with_sides(position: str, kind: str, value: float) -> BeliefsResult:
    result = base()
    assert result.separation is not None
    sides = {
        place: {one: share(value) if (place, one) == (position, kind) else found for one, found in kinds.items()}
        for place, kinds in result.separation.sides.items()
    }
    control = {"t_inst": share(0.25), "t_post": share(0.75)}
    return replace(result, separation=replace(result.separation, sides=sides, control=control))


def with_cosine(value: float) -> BeliefsResult:
    result = base()
    assert result.directions is not None
    mean = np.full(7, value)
    cosine = Band("cosine", 96, mean, mean - 0.05, mean + 0.05)
    return replace(result, directions=replace(result.directions, cosine=cosine))


def with_spread(value: float) -> BeliefsResult:
    result = base()
    assert result.directions is not None
    spread = {"harmfulness": number(value), "refusal": number(0.7)}
    return replace(result, directions=replace(result.directions, category_spread=spread))


def with_refusals(prompts: str, direction: str, value: float, random: float = 0.5) -> BeliefsResult:
    """Cells of one direction and of random ones at the state and coefficient chosen for that direction."""
    result = base()
    assert result.sweep is not None
    refused: dict[str, dict[str, Any]] = {
        name: {title: [list(row) for row in grid] for title, grid in titles.items()}
        for name, titles in result.sweep.refused.items()
    }
    best: dict[str, dict[str, tuple[int, float]]] = {name: dict(titles) for name, titles in result.sweep.best.items()}
    best[prompts][direction], best[prompts]["random"] = (5, 1.0), (2, 4.0)
    refused[prompts][direction][5][0] = share(value)
    refused[prompts]["random"][5][0] = share(random)
    refused[prompts]["random"][2][2] = share(0.99)
    return replace(result, sweep=replace(result.sweep, refused=refused, best=best))


def with_dissociation(**changes: Estimate) -> BeliefsResult:
    result = base()
    assert result.inversion is not None and result.inversion.dissociation is not None
    found = replace(result.inversion.dissociation, **changes)  # type: ignore[arg-type]
    return replace(result, inversion=replace(result.inversion, dissociation=found))


def with_family(**changes: Estimate) -> BeliefsResult:
    result = base()
    assert result.jailbreaks is not None
    first, *others = result.jailbreaks.families
    families = (replace(first, **changes), *others)  # type: ignore[arg-type]
    return replace(result, jailbreaks=replace(result.jailbreaks, families=families))


def with_suffixes(searched: float) -> BeliefsResult:
    result = base()
    assert result.jailbreaks is not None and result.jailbreaks.suffixes is not None
    refused = {"bare": share(0.99), "random": share(0.8), "searched": share(searched)}
    return replace(
        result, jailbreaks=replace(result.jailbreaks, suffixes=replace(result.jailbreaks.suffixes, refused=refused))
    )


def with_accuracy(key: str, group: str, value: float) -> BeliefsResult:
    result = base()
    assert result.guards is not None
    rows = tuple(
        replace(row, accuracy={**row.accuracy, group: share(value)}) if row.key == key else row
        for row in result.guards.rows
    )
    return replace(result, guards=replace(result.guards, rows=rows))


def with_quadrants(value: float) -> BeliefsResult:
    """Of 40 wrapped harmful prompts so many are believed harmful and about to be answered; all bare ones are."""
    result = base()
    assert result.belief_map is not None
    groups = [title for title, harmful in result.sorting.harmful.items() if harmful and ", " in title]
    counts: dict[str, dict[str, int]] = {
        title: {QUADRANTS[1]: round(40 * value) if title == groups[0] else 0} for title in result.sorting.harmful
    }
    counts[groups[0]][QUADRANTS[2]] = 40 - round(40 * value)
    counts["harmful"] = {QUADRANTS[1]: 500}
    counts["role play, harmless"] = {QUADRANTS[1]: 3, QUADRANTS[2]: 27}
    return replace(result, belief_map=replace(result.belief_map, quadrants=counts))


def with_gain(value: float) -> BeliefsResult:
    result = base()
    assert result.guards is not None
    return replace(result, guards=replace(result.guards, gain={"accepted harmful": number(value)}))


def attacked(bare_after: float = 0.02, recall_after: float = 0.95, shift: tuple[str, float] = ("", 0.0)) -> Any:
    found = comparison(bare_after, recall_after)
    shifts = tuple(
        replace(one, shift=number(shift[1])) if (one.belief, one.kind) == (shift[0], "refused harmful") else one
        for one in found.shifts
    )
    result = base()
    first, second = result.attacks
    return replace(result, attacks=(replace(first, comparison=replace(found, shifts=shifts)), second))


def with_drop(drop: float) -> BeliefsResult:
    """The whole fall in recall of the best guard; its interval reaches past every bound."""
    result = attacked()
    first, second = result.attacks
    guards = tuple(
        replace(one, recall={**one.recall, "all": replace(one.recall["all"], drop=Estimate(drop, -1.0, 1.0, 96))})
        for one in first.comparison.guards
    )
    first = replace(first, comparison=replace(first.comparison, guards=guards))
    return replace(result, attacks=(first, second))


def with_release(value: float) -> BeliefsResult:
    result = base()
    assert result.over_refusal is not None
    return replace(
        result, over_refusal=replace(result.over_refusal, released=share(value), released_control=share(0.5))
    )


CLAIMS: list[tuple[str, BeliefsResult, BeliefsResult]] = [
    ("separation.t_inst.accepted_harmful", with_sides("t_inst", "accepted harmful", 0.7),
     with_sides("t_inst", "accepted harmful", 0.55)),
    ("separation.t_inst.refused_harmless", with_sides("t_inst", "refused harmless", 0.3),
     with_sides("t_inst", "refused harmless", 0.45)),
    ("separation.t_post.accepted_harmful", with_sides("t_post", "accepted harmful", 0.3),
     with_sides("t_post", "accepted harmful", 0.7)),
    ("separation.t_post.refused_harmless", with_sides("t_post", "refused harmless", 0.7),
     with_sides("t_post", "refused harmless", 0.3)),
    ("directions.distinct", with_cosine(0.8), with_cosine(0.87)),
    ("directions.category_variation", with_spread(0.55), with_spread(0.65)),
    ("steering.refusal", with_refusals("harmless", "refusal", 0.9), with_refusals("harmless", "refusal", 0.65)),
    ("steering.harmfulness", with_refusals("harmless", "harmfulness", 0.9),
     with_refusals("harmless", "harmfulness", 0.5)),
    ("steering.reversed_refusal", with_refusals("harmful", "reversed refusal", 0.1),
     with_refusals("harmful", "reversed refusal", 0.4)),
    ("double_dissociation", with_dissociation(value=number(0.06)), with_dissociation(value=number(0.04))),
    ("double_dissociation.random", with_dissociation(control=number(-0.04)), with_dissociation(control=number(0.06))),
    ("jailbreaks.role_play.refusal", with_family(refusal=number(-0.1)), with_family(refusal=number(0.02))),
    ("jailbreaks.role_play.harmfulness", with_family(harmfulness=number(0.1)), with_family(harmfulness=number(0.02))),
    ("jailbreaks.believed_answered", with_quadrants(0.7), with_quadrants(0.6)),
    ("guard.linear.refused_harmless", with_accuracy("linear", "refused harmless", 0.65),
     with_accuracy("linear", "refused harmless", 0.55)),
    ("jailbreaks.gcg.refused", with_suffixes(0.3), with_suffixes(0.75)),
    ("guard.centroid.beats_own_refusal", with_accuracy("own_refusal", "all", 0.2),
     with_accuracy("own_refusal", "all", 0.45)),
    ("guard.linear.beats_own_refusal", with_accuracy("linear", "all", 0.3), with_accuracy("linear", "all", 0.15)),
    ("guard.centroid.persuasion", with_accuracy("shuffled", "persuasion", 0.4),
     with_accuracy("shuffled", "persuasion", 0.55)),
    ("guard.linear.accepted_harmful", with_accuracy("shuffled", "accepted harmful", 0.5),
     with_accuracy("shuffled", "accepted harmful", 0.94)),
    ("guard.gain.accepted_harmful", with_gain(0.06), with_gain(0.04)),
    ("finetuning.refused", attacked(bare_after=0.09), attacked(bare_after=0.11)),
    ("finetuning.recall_drop", with_drop(0.05), with_drop(0.051)),
    ("finetuning.harmfulness_kept", attacked(shift=("harmfulness", 0.03)), attacked(shift=("harmfulness", 0.01))),
    ("finetuning.refusal_shift", attacked(shift=("refusal", -0.06)), attacked(shift=("refusal", -0.04))),
    ("over_refusal.released", with_release(0.9), with_release(0.65)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "holds", "fails"), CLAIMS, ids=[name for name, _, _ in CLAIMS])
def test_each_claim_holds_and_fails_by_its_rule(name: str, holds: BeliefsResult, fails: BeliefsResult) -> None:
    for result, verdict in ((holds, "reproduced"), (fails, "not reproduced")):
        whole = findings_of(result)
        found = judged(result, name)
        assert found.verdict == verdict, (found, whole.rules[found.id].sentence)
        assert whole.rules[found.id].verdict(found.value, found.low, found.high) == verdict


def test_every_rule_has_a_finding_and_every_verdict_its_rule() -> None:
    result = findings_of(base())
    ids = [finding.id for finding in result.findings]
    assert len(set(ids)) == len(ids) and set(result.rules) <= set(ids)
    judged_by_name = {name for name, _, _ in CLAIMS}
    for finding in result.findings:
        rule = result.rules.get(finding.id)
        assert finding.study == "beliefs" and finding.id.startswith("beliefs.") and finding.claim.endswith(".")
        if rule is None:
            assert finding.verdict == "not tested"
        else:
            assert finding.verdict == rule.verdict(finding.value, finding.low, finding.high)
    kinds = {"guard", "separation", "jailbreaks", "finetuning", "abliteration"}
    assert {name.split(".")[1] for name in result.rules} - kinds <= {name.split(".")[0] for name in judged_by_name}


def values(found: Finding) -> tuple[float | None, float | None, float | None, int]:
    return found.value, found.low, found.high, found.n


def test_values_intervals_and_controls_come_from_the_parts() -> None:
    result = with_sides("t_inst", "refused harmless", 0.25)
    found = judged(result, "separation.t_inst.refused_harmless")
    assert values(found) == pytest.approx((0.75, 1 - share(0.25).high, 1 - share(0.25).low, 96))
    assert found.control == pytest.approx(0.75)
    assert judged(result, "separation.t_inst.accepted_harmful").control == pytest.approx(0.25)
    assert judged(result, "separation.t_post.accepted_harmful").control == pytest.approx(0.25)
    assert judged(result, "separation.t_post.refused_harmless").control == pytest.approx(0.75)

    steered = with_refusals("harmful", "reversed refusal", 0.1, random=0.75)
    found = judged(steered, "steering.reversed_refusal")
    assert values(found) == tuple(share(0.1)) and found.control == share(0.75).value
    assert findings_of(steered).rules[found.id].below == share(0.75).low
    found = judged(with_refusals("harmless", "refusal", 0.9), "steering.random")
    assert found.value == share(0.99).value and found.control == share(0.05).value and found.verdict == "not tested"

    found = judged(with_dissociation(value=number(0.7, 48), control=number(-0.02, 48)), "double_dissociation")
    assert values(found) == pytest.approx((0.7, 0.65, 0.75, 48)) and found.control == pytest.approx(-0.02)
    assert judged(with_cosine(0.8), "directions.distinct").control == 0.9
    found = judged(attacked(), "finetuning.refused")
    assert values(found) == tuple(share(0.02)) and found.control == share(0.97).value
    assert judged(base(), "abliteration.refused").control is None
    # The belief was 0.3 before: a shift of -0.03 leaves nine tenths.
    found = judged(attacked(shift=("harmfulness", -0.03)), "finetuning.harmfulness_kept")
    assert found.value == pytest.approx(0.9) and found.low == pytest.approx(0.22 / 0.3)
    assert found.control == pytest.approx(0.2 / 0.3)
    found = judged(with_quadrants(0.7), "jailbreaks.believed_answered")
    assert values(found) == tuple(share(0.7, 40)) and found.control == pytest.approx(0.1)
    own = with_accuracy("own_refusal", "refused harmless", 0.25)
    assert judged(own, "guard.centroid.refused_harmless").control == share(0.25).value
    assert judged(base(), "judges.substring.classifier").value == share(0.9, 800).value


def test_the_eight_claims_stand_first() -> None:
    whole = [finding.id for finding in findings_of(base()).findings]
    known = [name for name in FOREMOST if name in whole]
    assert whole[: len(known)] == known and len(PAPER_CLAIMS) == 8
    assert {f"beliefs.{name}" for _, name in PAPER_CLAIMS} <= set(known)


def test_published_figures_stand_beside_ours() -> None:
    whole = findings_of(base())
    shown = {one.id.removeprefix("beliefs."): one.reference for one in whole.findings if one.reference is not None}
    assert set(shown) == set(REFERENCES)
    reference = shown["guard.centroid.persuasion"]
    assert reference is not None and reference.value == 0.416 and "table 1" in reference.source


def test_parts_that_were_not_measured_leave_no_findings() -> None:
    assert findings_of(bare_result()).findings == () and findings_of(bare_result()).rules == {}
    parts = {
        "separation": "separation.", "directions": "directions.", "sweep": "steering.",
        "inversion": "double_dissociation", "jailbreaks": "jailbreaks.", "guards": "guard.",
        "over_refusal": "over_refusal.",
    }  # fmt: skip
    whole = {finding.id for finding in findings_of(base()).findings}
    for part, prefix in parts.items():
        nothing: dict[str, Any] = {part: None}
        without = {finding.id for finding in findings_of(replace(base(), **nothing)).findings}
        assert whole - without == {name for name in whole if name.startswith(f"beliefs.{prefix}")} != set()
    without = {finding.id for finding in findings_of(replace(base(), attacks=())).findings}
    gone = {name for name in whole if name.startswith(("beliefs.finetuning", "beliefs.abliteration"))}
    assert whole - without == gone and len(gone) == 8


def test_pieces_that_are_missing_within_a_part() -> None:
    result = base()
    assert result.inversion and result.guards and result.over_refusal and result.directions and result.jailbreaks
    silent = replace(result, inversion=replace(result.inversion, dissociation=None))
    assert findings_of(silent).finding("beliefs.double_dissociation") is None
    rows = tuple(row for row in result.guards.rows if row.key not in ("own_refusal", "shuffled"))
    alone = findings_of(replace(result, guards=replace(result.guards, rows=rows)))
    assert alone.finding("beliefs.guard.centroid.beats_own_refusal") is None
    found = alone.finding("beliefs.guard.centroid.persuasion")
    assert found is not None and found.verdict == "not tested" and found.id not in alone.rules
    none = replace(result.over_refusal, released=None, released_control=None)
    found = judged(replace(result, over_refusal=none), "over_refusal.released")
    assert values(found) == (None, None, None, 0) and found.verdict == "not tested"
    spread = {"harmfulness": number(0.5)}
    found = judged(
        replace(result, directions=replace(result.directions, category_spread=spread)), "directions.category_variation"
    )
    assert found.verdict == "not tested" and found.value == 0.5
    plain = findings_of(replace(result, jailbreaks=replace(result.jailbreaks, suffixes=None)))
    assert plain.finding("beliefs.jailbreaks.gcg.refused") is None
    first, second = result.attacks
    before = tuple(replace(one, before=-0.1) for one in first.comparison.shifts)
    never = replace(first, comparison=replace(first.comparison, shifts=before))
    found_ids = {finding.id for finding in findings_of(replace(result, attacks=(never, second))).findings}
    assert "beliefs.finetuning.harmfulness_kept" not in found_ids and "beliefs.finetuning.refusal_shift" in found_ids


def test_numbers_that_are_none_cost_a_verdict_and_not_the_study() -> None:
    """A ceiling or an interval that is not defined leaves its finding untested."""
    result = with_cosine(0.5)
    assert result.directions is not None
    blank = replace(result, directions=replace(result.directions, ceiling=np.full(7, np.nan)))
    found = judged(blank, "directions.distinct")
    assert found.verdict == "not tested" and found.control is None and found.value == 0.5
    assert found.id not in findings_of(blank).rules
    found = judged(with_dissociation(value=Estimate(1.0, float("nan"), 2.0, 5)), "double_dissociation")
    assert values(found) == (None, None, None, 0) and found.verdict == "not tested"
    found = judged(with_dissociation(control=number(float("nan"))), "double_dissociation")
    assert found.control is None and found.verdict == "reproduced"


def test_families_that_read_alike_keep_ids_of_their_own(tmp_path: Any) -> None:
    result = base()
    assert result.guards is not None
    rows = tuple(
        replace(row, accuracy={**row.accuracy, "two words": share(0.5), "two_words": share(0.6)})
        for row in result.guards.rows
    )
    whole = findings_of(replace(result, guards=replace(result.guards, rows=rows)))
    found = [finding for finding in whole.findings if ".centroid.two_words" in finding.id]
    assert [one.value for one in found] == [share(0.5).value, share(0.6).value]
    assert {one.id for one in found} <= set(whole.rules)
    write_findings(tmp_path / "findings.json", whole.findings, rules=whole.rules)


def test_the_share_of_the_others() -> None:
    assert complement(None) is None
    found = complement(Estimate(0.2, 0.1, 0.4, 50))
    assert found == pytest.approx((0.8, 0.6, 0.9, 50))


def test_the_result_itself_is_left_alone() -> None:
    result = base()
    whole = findings_of(result)
    assert result.findings == () and result.rules == {} and whole.sorting is result.sorting
    assert isinstance(whole.rules, Mapping)
