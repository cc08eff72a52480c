"""The study's findings: which number, which rule, which verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.routed_result import bare_result, full_result, hollow_result
from undertow.measure.finding import Finding
from undertow.measure.statistics import Estimate
from undertow.studies.routing.claims import CLAIMS, FOREMOST, REFERENCES, STUDY
from undertow.studies.routing.findings import dose_within, findings_of
from undertow.studies.routing.result import CipherReading, RoutingResult, Scores


def found(result: RoutingResult) -> dict[str, Finding]:
    return {one.id.removeprefix(f"{STUDY}."): one for one in findings_of(result).findings}


def test_every_claim_and_every_reference_has_its_finding() -> None:
    names = found(full_result())
    assert {name for _, name in CLAIMS} <= set(names)
    assert {name.removeprefix(f"{STUDY}.") for name in FOREMOST} <= set(names)
    assert set(REFERENCES) <= set(names)
    assert all(names[name].reference is not None for name in REFERENCES)


def test_the_foremost_stand_first_in_their_order() -> None:
    order = [one.id for one in findings_of(full_result()).findings]
    assert order[: len(FOREMOST)] == list(FOREMOST)


def test_findings_carry_the_parts_own_numbers() -> None:
    result = full_result()
    names = found(result)
    assert names["gates"].value == len(result.circuit.gates) > 0
    assert names["amplifiers"].value == len(result.circuit.amplifiers)
    top = result.circuit.rows[0]
    assert top.necessity_share is not None and top.indirect_share is not None
    assert names["top_head.necessity"].value == top.necessity_share.value
    assert names["top_head.necessity"].control == top.necessity_control
    assert names["top_head.indirect"].low == top.indirect_share.low
    assert result.bands is not None
    assert names["band.gain"].value == [step for step in result.bands.steps if step.chosen][-1].gain.value  # type: ignore[union-attr]
    assert result.ciphers is not None and names["cipher.collapse"].value == pytest.approx(result.ciphers.collapse.value)
    assert result.comparison is not None
    assert names["comparison.jaccard"].control == pytest.approx(result.comparison.chance)
    assert result.built is not None
    ours = next(one for one in result.built.scores if one.method == "screening")
    ranked = next(one for one in result.built.scores if one.method == "attribution")
    assert names["built.gate_recall"].value == pytest.approx(ours.gate_recall.value)
    assert names["built.gate_recall"].control == pytest.approx(ranked.gate_recall.value)
    assert names["built.attribution.amplifier_precision"].value == pytest.approx(ranked.amplifier_precision.value)


def test_without_a_gate_the_count_is_not_reproduced_and_amplifiers_are_not_tested() -> None:
    names = found(bare_result())
    assert names["gates"].value == 0 and names["gates"].verdict == "not reproduced"
    assert names["amplifiers"].value is None and names["amplifiers"].verdict == "not tested"


def test_parts_that_were_left_out_leave_no_finding_and_nothing_breaks_on_missing_numbers() -> None:
    names = found(bare_result())
    result = bare_result()
    for part, prefix in (("ciphers", "cipher."), ("comparison", "comparison."), ("built", "built.")):
        assert (getattr(result, part) is None) is not any(name.startswith(prefix) for name in names)
    for one in findings_of(hollow_result()).findings:
        assert one.value is None or one.value == one.value


JUDGED = ("gates", "top_head.necessity", "top_head.indirect", "band.gain", "modulation.attenuation")


@pytest.mark.parametrize("part", ["baseline", "refused"])
def test_where_the_model_hardly_parts_the_sides_nothing_is_judged(part: str) -> None:
    result = full_result()
    low = Estimate(0.05, 0.0, 0.2, 20)
    if part == "baseline":
        first = replace(result.screenings[0], baseline=low)
        idle = replace(result, screenings=(first, *result.screenings[1:]))
    else:
        idle = replace(result, pairs=replace(result.pairs, refused={**result.pairs.refused, "sensitive": low}))
    names, before = found(idle), found(result)
    for name in JUDGED:
        assert names[name].verdict == "not tested" and "hardly parts" in names[name].claim
        assert before[name].verdict != "not tested" and "hardly parts" not in before[name].claim


def test_zeroing_one_head_is_judged_by_the_change_and_not_by_the_level() -> None:
    result = full_result()
    assert result.ablation is not None

    def changed(kept: int, bare: int) -> Finding:
        assert result.ablation is not None
        share = Estimate(kept / 200, 0.0, 1.0, 200)
        row = ("gates, zero ablation at t_post", result.circuit.gates, share, share)
        refused = {**result.pairs.refused, "sensitive": Estimate(bare / 200, 0.0, 1.0, 200)}
        given = replace(result, ablation=replace(result.ablation, behaviour=(row,)))
        return found(replace(given, pairs=replace(result.pairs, refused=refused)))["ablation.single_head_change"]

    same, fewer = changed(150, 150), changed(100, 150)
    assert (same.value, same.verdict) == (0.0, "reproduced")
    assert fewer.value == pytest.approx(-0.25) and fewer.verdict == "not reproduced" and fewer.n == 200


def test_the_signal_is_judged_at_a_dose_that_does_not_reverse_it() -> None:
    assert dose_within((0, 0.1, 0.5, 1.0), 0.6) == 2
    assert dose_within((0, 0.1, 0.5, 1.0), 5.0) == 3
    assert dose_within((0, 0.1, 0.5, 1.0), 0.01) == 1
    result = full_result()
    assert result.modulation is not None
    modulation = result.modulation
    curve, random = (
        next(one for one in modulation.curves if (one.prompts, one.direction, one.group) == ("sensitive", kind, "all"))
        for kind in ("detection", "random")
    )
    place = dose_within(curve.doses, modulation.detection.value)
    value = found(result)["modulation.attenuation"].value
    assert value == pytest.approx(random.refusal[place] - curve.refusal[place], abs=1 / curve.n)


def test_without_a_gate_ciphers_are_measured_and_not_judged() -> None:
    result = full_result()
    gateless = replace(result, circuit=bare_result().circuit)
    assert gateless.circuit.gates == ()
    for name in ("cipher.collapse", "cipher.rescue"):
        with_gate, without = found(result)[name], found(gateless)[name]
        assert without.value == with_gate.value and without.verdict == "not tested" != with_gate.verdict
        assert "No gate was found" in without.claim


def score(method: str, *, gates: float = 1.0, amplifiers: float = 1.0, false: float = 0.0) -> Scores:
    def at(value: float) -> Estimate:
        return Estimate(value, value, value, 50)

    return Scores(method, method != "screening", at(gates), at(gates), at(amplifiers), at(amplifiers), at(false))


@pytest.mark.parametrize(
    ("given", "name", "verdict"),
    [
        ({"gates": 0.95}, "built.gate_recall", "reproduced"),
        ({"gates": 0.949}, "built.gate_precision", "not reproduced"),
        ({"amplifiers": 0.9}, "built.amplifier_recall", "reproduced"),
        ({"amplifiers": 0.89}, "built.amplifier_precision", "not reproduced"),
        ({"false": 0.05}, "built.false_gate_rate", "reproduced"),
        ({"false": 0.06}, "built.false_gate_rate", "not reproduced"),
    ],
)
def test_ground_truth_is_judged_at_the_promised_figures(given: dict[str, Any], name: str, verdict: str) -> None:
    result = full_result()
    assert result.built is not None
    built = replace(result.built, scores=(score("screening", **given), score("attribution")))
    assert found(replace(result, built=built))[name].verdict == verdict


def read_as(result: RoutingResult, share: float, n: int = 80) -> RoutingResult:
    assert result.ciphers is not None
    judged = Estimate(share, share - 0.1, share + 0.1, n)
    readings = tuple(
        replace(one, judged=judged) if one.condition == "cipher" else one for one in result.ciphers.readings
    )
    assert any(isinstance(one, CipherReading) and one.condition == "cipher" for one in readings)
    return replace(result, ciphers=replace(result.ciphers, readings=readings))


def test_an_unread_cipher_says_nothing_about_routing() -> None:
    read, unread = (found(read_as(full_result(), share)) for share in (0.8, 0.55))
    for name in ("cipher.collapse", "cipher.rescue", "cipher.detection_drop"):
        assert read[name].verdict != "not tested" and "does not read" not in read[name].claim
        assert unread[name].verdict == "not tested" and "does not read" in unread[name].claim
        assert unread[name].value == read[name].value


def test_notable_heads_are_those_with_a_role_or_a_large_figure() -> None:
    circuit = full_result().circuit
    many = tuple(
        replace(circuit.rows[-1], head=(90, place), role="", attribution_rank=100 + place) for place in range(40)
    )
    last = replace(circuit.rows[-1], head=(91, 0), role="amplifier", attribution_rank=999)
    steep = replace(circuit.rows[-1], head=(92, 0), role="", attribution_rank=2)
    longer = replace(circuit, rows=(*many, last, steep))
    assert [row.head for row in longer.notable] == [*((90, place) for place in range(16)), (91, 0), (92, 0)]
