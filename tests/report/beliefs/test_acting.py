from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.report.beliefs.made import STEERED, full_result
from undertow.measure.statistics import Estimate
from undertow.report.beliefs.acting import inversion_section, release_section, steering_section
from undertow.report.html import Section


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_every_cell_of_the_sweep_is_in_the_figure() -> None:
    result = full_result()
    assert result.sweep is not None
    panels = _data(steering_section(result))["steering-sweep"]["panels"]
    assert len(panels) == 2 * len(STEERED)
    panel = next(one for one in panels if (one["row"], one["column"]) == ("Reversed refusal", "Harmful prompts"))
    grid = result.sweep.refused["harmful"]["reversed refusal"]
    assert panel["values"] == [[one.value for one in row] for row in grid]
    assert panel["high"] == [[one.high for one in row] for row in grid]
    assert panel["mark"] == {"state": 3, "coefficient": 2.0}


def test_what_is_read_off_the_ring_is_what_was_counted_there() -> None:
    result = full_result()
    assert result.sweep is not None
    bars = _data(steering_section(result))["steering-best"]["bars"]
    shown = {(bar["name"], bar["group"]): bar["value"] for bar in bars}
    assert shown["refusal", "harmless prompts"] == result.sweep.at_best("harmless", "refusal").value
    assert shown["not steered", "harmful prompts"] == result.sweep.baseline["harmful"].value


def test_the_dissociation_is_drawn_and_said_with_its_control() -> None:
    section = inversion_section(full_result())
    data = _data(section)
    tracks = {track["name"].split(" ")[0]: track for track in data["dissociation"]["tracks"]}
    assert set(tracks) == {"harmfulness", "refusal", "random"}
    assert tracks["harmfulness"]["along"] == pytest.approx(np.linspace(0, 1.2, 5))
    assert data["dissociation"]["level"] == 0.4 and tracks["refusal"]["marked"] == 1.0
    assert "0.700 (0.650 to 0.750)" in section.text and "clear of zero" in section.text
    assert "\u22120.020 (\u22120.070 to 0.030)" in section.control


def test_the_dissociation_is_said_in_log_odds() -> None:
    section = inversion_section(full_result())
    data = _data(section)["dissociation"]
    assert "log-odds" in data["across"] and "log-odds" in data["along"] and "P(" not in data["across"] + data["along"]
    assert "nats of log-odds" in section.text and "by 0.400" in section.text and "nats" in section.control
    assert "P(refusal)" not in section.text + section.how_to_read + (section.tables[0].caption or "")


def test_a_direction_compared_while_subtracted_is_ringed_where_it_stands() -> None:
    """Effects are odd: at minus one the path lies opposite to where it lies at one."""
    result = full_result()
    assert result.inversion is not None and result.inversion.dissociation is not None
    first, second, random = result.inversion.dissociation.paths
    back = replace(result.inversion.dissociation, paths=(first, replace(second, matched=-1.0), random), level=-0.2)
    section = inversion_section(replace(result, inversion=replace(result.inversion, dissociation=back)))
    figure = next(one for one in section.figures if one.name == "dissociation")
    track = figure.data["tracks"][1]
    assert track["strengths"] == [-1.0, *second.coefficients] and track["marked"] == -1.0
    assert track["across"] == pytest.approx([-second.refusal[2], *second.refusal])
    assert track["along"] == pytest.approx([-second.judgement[2], *second.judgement])


def test_an_interval_that_holds_zero_is_said_to() -> None:
    result = full_result()
    assert result.inversion is not None and result.inversion.dissociation is not None
    weak = replace(result.inversion.dissociation, value=Estimate(0.02, -0.1, 0.14, 48))
    section = inversion_section(replace(result, inversion=replace(result.inversion, dissociation=weak)))
    assert "not clear of zero" in section.text


def test_every_grid_is_in_one_of_four_views() -> None:
    result = full_result()
    assert result.inversion is not None
    figure = next(one for one in inversion_section(result).figures if one.name == "inversion")
    assert len(figure.views) == 4 and all(len(traces) == 3 * len(STEERED) for traces in figure.views.values())
    panel = next(
        one
        for one in figure.data["panels"]
        if one["row"] == "Refusal"
        and one["column"] == "P(No)"
        and one["view"].startswith("Harmful prompts, added to the w")
    )
    grid = result.inversion.grid("harmful", "prompt", "refusal")
    assert np.array(panel["values"]) == pytest.approx(grid.no)
    assert np.array(panel["low"]) == pytest.approx(grid.low["no"])


def test_without_a_dissociation_the_rest_is_shown_and_the_reason_said() -> None:
    result = full_result()
    assert result.inversion is not None
    section = inversion_section(replace(result, inversion=replace(result.inversion, dissociation=None)))
    assert "is not computed" in section.text
    assert set(_data(section)) == {"inversion", "inversion-wordings"}


def test_releasing_shows_gain_price_and_control() -> None:
    section = release_section(full_result())
    bars = {(bar["name"], bar["group"]): bar["value"] for bar in _data(section)["over-refusal"]["bars"]}
    assert bars["Refused harmless, answered under release", "the guard's direction"] == pytest.approx(86 / 96)
    assert bars["Refused harmful, answered under release", "a random direction"] == 0.0
    assert "5.4 over-refused ones" in section.text


def test_nothing_let_through_is_said_and_missing_shares_are_left_out() -> None:
    result = full_result()
    assert result.over_refusal is not None
    none = replace(result.over_refusal, exchange=None, let_through=None, let_through_control=None)
    section = release_section(replace(result, over_refusal=none))
    assert "No harmful request is let through." in section.text
    assert len(_data(section)["over-refusal"]["bars"]) == 2
