from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.serve.served import settings_with
from undertow.prompts import Prompt
from undertow.serve.failures import Failure
from undertow.serve.jobs import Judgement
from undertow.serve.service import Service, deadline


@pytest.fixture
def service(guard) -> Service:
    return Service(None, guard, settings_with())  # type: ignore[arg-type]


def test_the_name_is_the_models_own_unless_given(service, guard, monkeypatch):
    assert service.name == "taught"
    assert replace(service, settings=settings_with(name="other")).name == "other"
    monkeypatch.setattr(guard.model, "name", "/some/where/models/small")
    assert service.name == "small"
    monkeypatch.setattr(guard.model, "name", "Family/Model-8B")
    assert service.name == "Family/Model-8B"


def test_no_other_model_is_served(service):
    service.check_model("taught")
    service.check_model(None)
    for name in ("", "Taught", "taught2", "\ud800"):
        with pytest.raises(Failure) as found:
            service.check_model(name)
        assert found.value.status == 404


def test_headers_carry_the_verdict(service, guard):
    verdict = replace(guard("attack1 the thing1"), warnings=("Ein Wörtchen\nmehr.",))
    headers = service.headers(Judgement(verdict, "refused", None, 5))
    assert headers["x-undertow-action"] == "refused"
    line = headers["x-undertow-verdict"]
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == Judgement(verdict, "refused", None, 5).to_wire(guard.threshold)


def test_numbers_that_json_has_not_are_null(service, guard):
    verdict = replace(guard("attack1 the thing1"), harmfulness=math.inf, refusal=math.nan)
    wire = service.wire(Judgement(verdict, "none"))
    assert wire["harmfulness"] is wire["refusal"] is None
    assert wire["harmful"] == verdict.harmful


def test_verdicts_are_noted_once(service):
    noted: list[object] = []
    metrics = SimpleNamespace(verdict=noted.append)
    audit = SimpleNamespace(record=lambda *values, index, steered_by_hand: noted.append((values, index)))
    request = SimpleNamespace(state=SimpleNamespace(request_id="req-1"))
    prompt, judgement = Prompt("hello"), Judgement(None, "refused", "too_long")
    whole = replace(service, metrics=metrics, audit=audit)
    whole.note(request, "/route", prompt, judgement, None, 3)
    assert noted == [judgement, (("req-1", "/route", prompt, judgement, None), 3)]
    whole.note(request, "/route", prompt, Judgement(None, "none"), None)
    assert len(noted) == 2
    service.note(request, "/route", prompt, judgement, None)


def test_a_deadline_counts_from_the_requests_arrival():
    request = SimpleNamespace(state=SimpleNamespace(arrived=time.perf_counter() - 7.0))
    assert deadline(request, 10.0) - time.monotonic() == pytest.approx(3.0, abs=0.5)
