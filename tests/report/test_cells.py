from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.report.beliefs.made import full_result
from undertow.measure.statistics import Estimate
from undertow.report.cells import (
    bars_of,
    curve_of,
    finite,
    listed,
    number_cell,
    reasons,
    share_cell,
    share_text,
    titled,
)
from undertow.studies.beliefs.result import Band

HALF = Estimate(0.5, 0.25, 0.75, 8)
ODD = Estimate(0.5, float("nan"), 0.75, 8)


def test_what_was_not_measured_is_a_dash_and_no_bar() -> None:
    assert finite(HALF) is HALF and finite(ODD) is None and finite(None) is None
    assert share_cell(None).text == number_cell(ODD).text == share_text(None) == "\u2013"
    bars = bars_of([("a", HALF, "g", True), ("b", None, "g", True), ("c", ODD, "g", True)])
    assert [(bar.name, bar.value, bar.low, bar.high, bar.n, bar.emphasis) for bar in bars] == [
        ("a", 0.5, 0.25, 0.75, 8, True)
    ]


def test_numbers_come_with_their_intervals() -> None:
    assert (share_cell(HALF).text, share_cell(HALF).note) == ("50.0\u202f%", "25.0 to 75.0\u202f%")
    assert (number_cell(HALF).text, number_cell(HALF).note) == ("0.500", "0.250 to 0.750")


def test_bands_become_curves_that_say_their_n() -> None:
    band = Band("harmful", 12, np.array([0.1]), np.array([0.0]), np.array([0.2]), True)
    curve = curve_of(band)
    assert curve.name == "harmful (12)" and curve.control and curve_of(band, "other").name == "other"


def test_reasons_are_those_of_the_part_and_of_what_belongs_to_it() -> None:
    skipped = {"attacks": "a", "attacks.finetuning": "b", "attacksome": "c", "guards": "d"}
    assert reasons(replace(full_result(), skipped=skipped), "attacks") == "a\n\nb"


def test_words() -> None:
    assert titled("role_play") == "Role play" and titled("") == ""
    assert [listed(one) for one in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
