from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from tests.routed_result import bare_result, full_result, hollow_result
from undertow.studies.routing.result import RoutingResult
from undertow.studies.routing.tables import LINES, summary_tables


def _printed(result: RoutingResult, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False)
    for part in summary_tables(result):
        console.print(part)
    return stream.getvalue()


def test_one_screen_says_circuit_truth_and_findings() -> None:
    result = full_result()
    text = _printed(result)
    gate = result.circuit.rows[0]
    for part in (
        "1 gate (2.1), 2 amplifiers (4.0, 5.3), 1 direct head (5.2); 24 heads",
        f"{gate.necessity.value:.2f} [{gate.necessity.low:.2f}, {gate.necessity.high:.2f}]",
        "50 with a gate, 50 without", "97.8 %", "attribution *", "always", "routing.built.gate_recall",
        "one grammar",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part


def test_it_fits_the_screen_however_much_was_found() -> None:
    for width in (80, 100):
        lines = _printed(full_result(), width).splitlines()
        assert len(lines) <= LINES + 2 and max(map(len, lines)) <= width
        assert any("more in findings.json" in line for line in lines)


def test_without_a_gate_it_says_so_and_marks_nothing() -> None:
    text = _printed(bare_result())
    assert "no gate found; 24 heads" in text
    assert (
        "Not measured: bands; ablation; modulation; commitment; ciphers; comparison; built; screening, tail."
        in " ".join(text.split())
    )
    assert "amplifier" not in text.replace("routing.amplifiers", "") and "attribution *" not in text


def test_numbers_that_are_none_are_left_blank() -> None:
    assert "nan" not in _printed(hollow_result())


def test_names_are_no_markup() -> None:
    odd = replace(full_result(), identity=replace(full_result().identity, name="[red]odd[/red]"))
    assert "[red]odd[/red]" in _printed(odd)


def test_judged_findings_come_first() -> None:
    result = bare_result()
    text = _printed(replace(result, findings=tuple(reversed(result.findings))))
    assert text.index("routing.gates") < text.index("routing.baseline")
