from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from undertow.measure.finding import (
    Claim,
    Finding,
    FindingError,
    judge_claim,
    judged_finding,
    read_findings,
    read_findings_file,
    write_findings,
)

KEYS = ["id", "study", "claim", "value", "low", "high", "n", "control", "reference", "verdict"]


def make(id: str = "guard.recall", **changes: object) -> Finding:
    content = {
        "id": id,
        "study": "demo",
        "claim": "The guard recalls jailbreaks.",
        "value": 0.97,
        "low": 0.95,
        "high": 0.99,
        "n": 300,
    }
    content |= {"rule": Claim(above=0.9), "control": 0.1, "reference": (0.546, "Zhao et al., table 1")} | changes
    return judged_finding(content.pop("rule"), **content)  # type: ignore[arg-type]


def test_the_file_has_exactly_the_promised_keys(tmp_path: Path) -> None:
    path = write_findings(tmp_path / "deep" / "findings.json", [make()])
    written = json.loads(path.read_text())
    assert written.keys() == {"schema", "findings"} and written["schema"] == 1
    (entry,) = written["findings"]
    assert list(entry) == KEYS
    assert entry["reference"] == {"value": 0.546, "source": "Zhao et al., table 1"}
    assert entry["verdict"] == "reproduced"
    assert os.listdir(path.parent) == ["findings.json"]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    findings = [make(), make("organism.refused", value=None, low=None, high=None, n=0, reference=None, control=None)]
    path = write_findings(
        tmp_path / "f.json",
        findings,
        rules={"guard.recall": Claim(above=0.9)},
        figures={"map": [1, 2]},
        run={"seed": 0},
    )
    assert read_findings(path) == findings
    everything = read_findings_file(path)
    assert everything.rules == {"guard.recall": "reproduced if the whole 95 % interval lies above 0.9"}
    assert everything.figures == {"map": [1, 2]} and everything.run == {"seed": 0}


@pytest.mark.parametrize(
    ("low", "high", "bounds", "verdict"),
    [
        (0.91, 0.99, {"above": 0.9}, "reproduced"),
        (0.90, 0.99, {"above": 0.9}, "not reproduced"),
        (0.90, 0.99, {"above": 0.9, "inclusive": True}, "reproduced"),
        (0.85, 0.99, {"above": 0.9}, "not reproduced"),
        (0.01, 0.04, {"below": 0.05}, "reproduced"),
        (0.01, 0.06, {"below": 0.05}, "not reproduced"),
        (-0.1, 0.1, {"above": -0.2, "below": 0.2}, "reproduced"),
        (-0.1, 0.3, {"above": -0.2, "below": 0.2}, "not reproduced"),
        (None, None, {"above": 0.0}, "not tested"),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, bounds: dict, verdict: str) -> None:
    assert judge_claim(0.95, low, high, **bounds) == verdict


def test_a_claim_on_the_value_ignores_the_interval() -> None:
    assert judge_claim(0.97, 0.90, 0.99, above=0.95, on="value") == "reproduced"
    assert judge_claim(0.97, None, None, above=0.95, on="value") == "reproduced"
    assert judge_claim(None, 0.9, 1.0, above=0.0, on="value") == "not tested"
    assert Claim(above=0.95, below=1, inclusive=True, on="value").sentence == (
        "reproduced if the value lies above or at 0.95 and below or at 1"
    )
    with pytest.raises(FindingError, match="bound"):
        Claim()


def test_no_rule_means_not_tested() -> None:
    assert make(rule=None).verdict == "not tested"


@pytest.mark.parametrize(
    "changes",
    [
        {"low": 0.99, "high": 0.95},
        {"low": None},
        {"value": float("nan")},
        {"n": -1},
        {"id": ""},
        {"control": float("inf")},
    ],
)
def test_contradictions_are_refused_in_one_sentence(changes: dict) -> None:
    with pytest.raises(FindingError) as refusal:
        make(**changes)
    assert "\n" not in str(refusal.value)


def test_a_verdict_without_a_value_is_refused() -> None:
    with pytest.raises(ValidationError, match="not tested"):
        Finding(id="a", study="b", claim="c", value=None, low=None, high=None, n=0, verdict="reproduced")
    with pytest.raises(ValidationError):
        Finding(id="a", study="b", claim="c", value=1, low=None, high=None, n=0, verdict="fine")  # type: ignore[arg-type]


def test_nothing_half_written_replaces_a_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_findings(tmp_path / "findings.json", [make()])
    before = path.read_bytes()
    with pytest.raises(FindingError, match="share the id"):
        write_findings(path, [make(), make()])
    with pytest.raises(FindingError, match="JSON"):
        write_findings(path, [make()], figures={"a": float("nan")})
    with pytest.raises(FindingError, match="JSON"):
        write_findings(path, [make()], figures={"a": object()})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_findings(path, [make("other")])
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["findings.json"]


@pytest.mark.parametrize(
    "content", ["", "words", "[]", '{"schema": 2, "findings": []}', '{"schema": 1, "findings": [{"id": "a"}]}']
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "findings.json"
    path.write_text(content)
    with pytest.raises(FindingError) as refusal:
        read_findings(path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(FindingError, match="cannot be read"):
        read_findings(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.1, 0.1, "reproduced"),
        (0.0, 0.1, "reproduced"),
        (-0.1, 0.0, "reproduced"),
        (0.01, 0.1, "not reproduced"),
        (-0.1, -0.01, "not reproduced"),
        (None, None, "not tested"),
        (float("nan"), 0.1, "not tested"),
        (-0.1, float("inf"), "not tested"),
    ],
)
def test_a_control_reproduces_where_its_interval_holds_the_number(
    low: float | None, high: float | None, verdict: str
) -> None:
    """Its ends count, and the value itself does not matter."""
    assert Claim(contains=0.0).verdict(5.0, low, high) == verdict


def test_the_number_held_may_be_any_and_is_said(tmp_path: Path) -> None:
    rule = Claim(contains=0.5)
    assert rule.verdict(0.6, 0.4, 0.7) == "reproduced" and rule.verdict(0.1, -0.1, 0.3) == "not reproduced"
    assert rule.verdict(None, 0.4, 0.6) == "not tested"
    assert rule.sentence == "reproduced if the 95 % interval contains 0.5"
    path = write_findings(tmp_path / "f.json", [make(rule=rule)], rules={"guard.recall": rule})
    assert read_findings(path)[0].verdict == "not reproduced"
    assert read_findings_file(path).rules == {"guard.recall": "reproduced if the 95 % interval contains 0.5"}


@pytest.mark.parametrize("other", [{"above": 0.0}, {"below": 0.0}, {"on": "value"}, {"above": -1.0, "below": 1.0}])
def test_holding_a_number_stands_alone(other: dict) -> None:
    with pytest.raises(FindingError, match="no other bound"):
        Claim(contains=0.0, **other)
