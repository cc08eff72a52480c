"""The truth as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.organism.built.plain import organism
from undertow.errors import UndertowError
from undertow.organism.built import Circuit


@pytest.mark.parametrize("policy", ["gate", "direct", "none"])
def test_round_trip(policy: str, tmp_path: Path) -> None:
    circuit = organism(1, policy).circuit
    assert Circuit.from_dict(json.loads(json.dumps(circuit.to_dict()))) == circuit
    assert circuit.write(tmp_path) == tmp_path / "circuit.json"
    assert Circuit.read(tmp_path) == circuit


def test_causal_heads_and_the_state_before_their_first_reader() -> None:
    gated, direct = organism().circuit, organism(1, "direct").circuit
    assert gated.causal == (*gated.gates, *gated.amplifiers) and gated.state == min(gated.gates)[0]
    assert direct.causal == direct.direct and direct.state == min(direct.direct)[0]
    assert organism(1, "none").circuit.causal == ()


def test_what_is_no_circuit_is_refused(tmp_path: Path) -> None:
    values = organism().circuit.to_dict()
    for broken in ({}, {**values, "gates": 3}, {**values, "state": "x"}, {**values, "distractors": []}):
        with pytest.raises(UndertowError, match="no circuit"):
            Circuit.from_dict(broken)
    (tmp_path / "circuit.json").write_text("{")
    with pytest.raises(UndertowError, match=r"no circuit\.json"):
        Circuit.read(tmp_path)
    (tmp_path / "circuit.json").write_text("[]")
    with pytest.raises(UndertowError, match="no circuit"):
        Circuit.read(tmp_path)
