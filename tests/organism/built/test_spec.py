"""Specs that cannot be built are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from undertow.errors import UndertowError
from undertow.organism.built import Spec, build

BAD: list[tuple[dict[str, Any], str]] = [
    ({"policy": "maybe"}, "gate, direct, none"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"gates": 0}, "1 to 4 gates"),
    ({"gates": 5}, "1 to 4 gates"),
    ({"gates": 4, "heads": 2, "amplifiers": 2}, "do not fit"),
    ({"amplifiers": 0}, "amplifiers"),
    ({"amplifiers": 9}, "amplifiers"),
    ({"distractors": -1}, "distractors"),
    ({"distractors": 33}, "distractors"),
    ({"blocks": 3}, "at least 4 blocks"),
    ({"heads": 1}, "2 heads"),
    ({"head_size": 16}, "head size"),
    ({"width": 81}, "multiple"),
    ({"width": 48}, "width of at least"),
    ({"neurons": 4}, "neurons"),
    ({"noise": -0.1}, "noise"),
    ({"noise": float("nan")}, "noise"),
    ({"gap": 0}, "gap"),
]


@pytest.mark.parametrize(("values", "says"), BAD, ids=lambda value: str(value))
def test_bad_numbers(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UndertowError, match=says) as caught:
        Spec(**values)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        Spec(blocks=4, heads=4, gates=4, amplifiers=4, distractors=8),
        Spec(blocks=12, heads=2, gates=2, amplifiers=2, distractors=12, head_size=64, width=96),
        Spec(distractors=32, neurons=32, gates=4, amplifiers=8),
        Spec(distractors=0, policy="none"),
        Spec(amplifiers=8, policy="direct"),
    ],
)
def test_the_ends_of_every_range_can_be_built(spec: Spec) -> None:
    circuit = build(spec).circuit
    gated = spec.policy == "gate"
    assert len(circuit.gates) == (spec.gates if gated else 0)
    assert len(circuit.amplifiers) == (spec.amplifiers if gated else 0)
    assert len(circuit.direct) == (spec.amplifiers if spec.policy == "direct" else 0)
    assert sum(map(len, circuit.distractors.values())) == spec.distractors
    assert Spec(**spec.to_dict()) == spec
