from __future__ import annotations

import json

from undertow.guard import LatentGuard
from undertow.serve.jobs import Full, Judgement, TooLong


def test_a_verdict_on_the_wire_is_the_guards_verdict(guard: LatentGuard) -> None:
    verdict = guard("attack0 the thing1")
    wire = Judgement(verdict, "flagged", None, 9).to_wire(guard.threshold)
    assert {name: wire[name] for name in ("harmful", "harmfulness", "refusal", "flagged", "quadrant")} == {
        name: getattr(verdict, name) for name in ("harmful", "harmfulness", "refusal", "flagged", "quadrant")
    }
    assert wire["judged"] is True and wire["threshold"] == guard.threshold
    json.dumps(wire, allow_nan=False)


def test_what_was_not_judged_fails_closed_on_the_wire() -> None:
    assert Judgement(None, "refused", "not_finite").to_wire(0.0)["flagged"] is True
    assert Judgement(None, "none", "not_finite").to_wire(0.0)["flagged"] is False
    assert Judgement(None, "refused", "too_long").to_wire(0.0)["reason"] == "too_long"


def test_errors_say_what_to_do() -> None:
    assert Full(3).retry_after == 3 and "later" in str(Full(3))
    assert "9000 tokens" in str(TooLong(9000, 100)) and "at most 100" in str(TooLong(None, 100))
