from __future__ import annotations

from dataclasses import replace

from tests.routed_result import bare_result, full_result
from undertow.report.routing.summary import claims_table, headlines, summary


def test_it_says_model_circuit_doses_truth_and_verdicts() -> None:
    text = summary(full_result())
    for part in (
        "some/model-8B was read on 60 pairs for choosing and 60 others",
        "it refuses 95.0\u202f% of the sensitive prompts, 5.0\u202f% of the controls",
        "Head 2.1 is a gate",
        "its own attribution is 0.100 (0.000 to 0.200)",
        "The band found greedily: heads 2.1 and 4.0",
        "60.0\u202f% of the detection signal is gone, and necessity falls by 80.0\u202f%",
        "finds 97.8\u202f% of the gates with a precision of 93.3\u202f% in 50 built models",
    ):
        assert part in text, part
    judged = [one for one in full_result().findings if one.verdict != "not tested"]
    kept = sum(one.verdict == "reproduced" for one in judged)
    assert f"Of {len(judged)} findings that a rule judges, {kept} were reproduced" in text


def test_without_a_gate_the_baseline_is_told_and_what_is_missing_named() -> None:
    text = summary(bare_result())
    assert "No gate was found among 24 heads. The refusal log-odds at the first reply token parts" in text
    assert "Not measured, in whole or in part: bands, ablation" in text and "a screening" in text


def test_headlines_take_their_tone_from_verdicts() -> None:
    result = full_result()
    found = {one.label: (one.value, one.tone) for one in headlines(result)}
    assert found["gate"] == ("1", "good") and found["amplifiers"] == ("2", "good")
    assert found["of built gates are found"] == ("97.8\u202f%", "good")
    assert {one.tone for one in headlines(replace(result, findings=()))} == {""}
    assert [one.value for one in headlines(bare_result())] == ["0", "0"]


def test_every_claim_has_a_verdict_or_says_that_it_was_not_measured() -> None:
    (table,) = claims_table(full_result())
    assert len(table.rows) == 9 and not any("not measured" in row[-1].text for row in table.rows)
    (bare,) = claims_table(bare_result())
    assert sum("not measured" in row[-1].text for row in bare.rows) == 6
    assert claims_table(replace(bare_result(), findings=())) == []
