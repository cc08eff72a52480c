from __future__ import annotations

import io
import json

from rich.console import Console

from undertow.studies.routing.plan import plan
from undertow.studies.routing.plan_table import duration, plain_plan, plan_tables, quantity
from undertow.studies.routing.sizes import SHAPES


def test_numbers_read_well() -> None:
    assert [quantity(number, "B") for number in (0, 950, 12_345, 1.5e9, 2e13)] == [
        "0 B", "950 B", "12.3 kB", "1.5 GB", "20 TB",
    ]  # fmt: skip
    assert quantity(1234.0) == "1.23 k"
    assert [duration(seconds) for seconds in (3.21, 119, 180, 7_200, 200_000, float("inf"))] == [
        "3.2 s", "119.0 s", "3.0 min", "2.0 h", "2.3 d", "",
    ]  # fmt: skip


def test_the_table_holds_the_plans_numbers() -> None:
    plans = [plan(shape, 120, mean_tokens=50) for shape in SHAPES]
    screen = Console(width=160, file=io.StringIO())
    for table in plan_tables(plans):
        screen.print(table)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for found in plans:
        assert quantity(found.flop, "FLOP") in text and quantity(found.memory.peak, "B") in text
        assert found.speed.source in " ".join(text.split())
        for part in found.parts:
            assert part.name in text and quantity(part.tokens) in text
    assert len(text.splitlines()) < 50


def test_plain_values_are_json() -> None:
    found = plan(SHAPES[0], 120, mean_tokens=50)
    plain = json.loads(json.dumps(plain_plan(found), allow_nan=False))
    assert plain["model"] == "8B" and plain["tokens"] == found.tokens and plain["memory"]["peak"] == found.memory.peak
    assert [part["name"] for part in plain["parts"]] == [part.name for part in found.parts]
