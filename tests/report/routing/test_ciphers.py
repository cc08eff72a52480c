from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.routed_result import HEADS, full_result, gateless_circuit, share
from undertow.report.html import Section
from undertow.report.routing.ciphers import ciphers_section, unread


def _data(section: Section) -> dict[str, Any]:
    return {figure.name: figure.data for figure in section.figures}


def test_readings_detection_necessity_rescue_and_contrast_are_the_results() -> None:
    result = full_result()
    found = result.ciphers
    assert found is not None
    data = _data(ciphers_section(result))
    assert list(data) == [
        "cipher-readings", "cipher-detection", "cipher-necessity", "cipher-rescue", "cipher-contrast",
    ]  # fmt: skip
    readings = {(bar["name"].lower(), bar["group"]): bar["value"] for bar in data["cipher-readings"]["bars"]}
    for one in found.readings:
        assert readings[one.condition, "sensitive prompts refused"] == one.refused.value
        assert readings[one.condition, "harm told right when asked"] == one.judged.value
    for line, key in zip(data["cipher-detection"]["lines"], ("plain", "cipher"), strict=True):
        assert line["y"] == pytest.approx(found.detection[key])
        assert line["low"] == pytest.approx(found.low[key]) and line["high"] == pytest.approx(found.high[key])
    head = found.heads[0]
    bars = [(bar["value"], bar["low"], bar["high"], bar["n"]) for bar in data["cipher-necessity"]["bars"]]
    assert bars == [tuple(head.plain), tuple(head.cipher), tuple(head.published)]
    rescue = {bar["name"].lower(): (bar["value"], bar["low"]) for bar in data["cipher-rescue"]["bars"]}
    assert rescue == {one.injected: (one.refused.value, one.refused.low) for one in found.rescue}
    contrast = data["cipher-contrast"]
    assert contrast["panels"][0]["values"] == pytest.approx(found.contrast)
    significant = [list(head) for head, p in zip(HEADS, found.contrast_p, strict=True) if p <= 0.05]
    assert contrast["marks"] == {"significant": significant}


def test_tables_hold_every_injection_and_head() -> None:
    result = full_result()
    assert result.ciphers is not None
    readings, heads, rescue, contrast = ciphers_section(result).tables
    assert len(readings.rows) == 3 and len(heads.rows) == 1
    assert [row[0].lower() for row in rescue.rows] == [one.injected for one in result.ciphers.rescue]
    assert contrast.rows[0][0] == "2.1"


def test_without_a_gate_it_says_whose_necessity_is_shown() -> None:
    result = replace(full_result(), circuit=gateless_circuit())
    text = ciphers_section(result).text
    assert "as there is no gate" in text and "they mean head 2.1" in text
    assert "as there is no gate" not in ciphers_section(full_result()).text


def test_a_cipher_that_may_not_be_read_is_a_warning() -> None:
    result = full_result()
    found = result.ciphers
    assert found is not None and unread(found) == ""
    readings = tuple(
        replace(one, judged=share(0.5, 120)) if one.condition == "cipher" else one for one in found.readings
    )
    guessed = replace(found, readings=readings)
    assert "50.0\u202f% of the ciphered requests' harm right" in unread(guessed)
    assert "says nothing about routing" in ciphers_section(replace(result, ciphers=guessed)).text
    assert unread(replace(found, readings=())) == ""
