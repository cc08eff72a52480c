"""Findings gathered with their rules."""

from __future__ import annotations

import math

from undertow.measure.finding import Claim
from undertow.measure.judging import Judging
from undertow.measure.statistics import Estimate


def judging() -> Judging:
    return Judging("tides", {"ebb": (0.5, "a table")})


def test_a_finding_carries_value_rule_control_and_reference() -> None:
    one = judging()
    one.add("ebb", "It falls.", Estimate(0.7, 0.6, 0.8, 40), Claim(above=0.5), Estimate(0.1, 0.0, 0.2, 9))
    one.add("flood", "It rises.", Estimate(0.4, 0.3, 0.6, 40), Claim(above=0.5), 0.2)
    ebb, flood = one.findings
    assert (ebb.id, ebb.study, ebb.value, ebb.low, ebb.high, ebb.n) == ("tides.ebb", "tides", 0.7, 0.6, 0.8, 40)
    assert (ebb.verdict, ebb.control) == ("reproduced", 0.1) and ebb.reference is not None
    assert (flood.verdict, flood.control, flood.reference) == ("not reproduced", 0.2, None)
    assert set(one.rules) == {"tides.ebb", "tides.flood"}


def test_what_was_not_measured_is_not_tested() -> None:
    one = judging()
    one.add("none", "Nothing.", None, Claim(above=0), n=7)
    one.add("nan", "Nothing.", Estimate(math.nan, 0.0, 1.0, 5), Claim(above=0))
    one.add("half", "Nothing.", Estimate(1.0, math.nan, 1.0, 5), Claim(above=0))
    one.add("unruled", "Something.", Estimate(1.0, 0.9, 1.1, 5), Claim(above=math.nan), math.nan)
    assert [found.verdict for found in one.findings] == ["not tested"] * 4
    assert [found.value for found in one.findings] == [None, None, None, 1.0]
    assert [found.n for found in one.findings] == [7, 0, 0, 5] and one.findings[3].control is None
    assert set(one.rules) == {"tides.none", "tides.nan", "tides.half"}


def test_a_number_without_an_interval_is_judged_only_by_its_value() -> None:
    one = judging()
    count = Estimate(3.0, math.nan, math.nan, 60)
    one.add("count", "Some.", count, Claim(above=0, on="value"))
    one.add("interval", "Some.", count, Claim(above=0))
    assert [found.verdict for found in one.findings] == ["reproduced", "not tested"]
    assert one.findings[0].low is None and one.findings[0].value == 3.0


def test_twins_are_numbered_and_the_foremost_come_first() -> None:
    one = judging()
    for name in ("b", "a", "b", "b", "c"):
        one.add(name, "It is.", None, None)
    assert [found.id for found in one.findings] == ["tides.b", "tides.a", "tides.b.2", "tides.b.3", "tides.c"]
    order = [found.id for found in one.ordered(["tides.c", "tides.b.2"])]
    assert order == ["tides.c", "tides.b.2", "tides.b", "tides.a", "tides.b.3"]
