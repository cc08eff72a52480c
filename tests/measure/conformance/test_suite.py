from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.builders import tiny_chat
from undertow.errors import UndertowError
from undertow.measure.conformance import CHECKS, Check, NotApplicable, Trial, conformance
from undertow.model import ChatModel


def outcome(chat: ChatModel, name: str) -> Check:
    return next(check for check in conformance(chat, progress=False) if check.name == name)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_every_check_passes_in_float32_with_a_figure_within_its_tolerance(kind: str) -> None:
    checks = conformance(tiny_chat(kind), progress=False)
    assert [check.name for check in checks] == list(CHECKS)
    assert {check.status for check in checks} == {"passed"}
    for check in checks:
        assert check.figure is not None and check.tolerance is not None and check.figure <= check.tolerance <= 1e-5
        assert check.detail.endswith(".")
    assert {check.name for check in checks if check.tolerance == 0} == {"positions", "identity edit"}


def test_low_precision_passes_with_a_wider_tolerance() -> None:
    chat = tiny_chat("llama")
    chat = ChatModel(chat.model.to(torch.bfloat16), chat.tokenizer)
    checks = conformance(chat, progress=False)
    assert {check.status for check in checks} == {"passed"}
    assert max(check.figure or 0.0 for check in checks) > 1e-5


def test_a_model_without_readable_heads_is_checked_without_them() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.projections = [None] * chat.layers
    chat.anatomy.heads = chat.anatomy.head_sizes = [0] * chat.layers
    found = {check.name: check for check in conformance(chat, progress=False)}
    assert found["heads"].status == "not applicable" and found["heads"].figure is None
    assert found["replay"].status == "passed" and "3 states edited" in found["replay"].detail
    assert {check.status for name, check in found.items() if name != "heads"} == {"passed"}


@pytest.mark.parametrize("error", [RuntimeError, UndertowError, IndexError])
def test_a_check_that_raises_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def broken(trial: Trial) -> Any:
        raise error("the mask\nhas no shape")

    monkeypatch.setitem(CHECKS, "replay", broken)
    check = outcome(tiny_chat("llama"), "replay")
    assert (check.status, check.figure) == ("failed", None)
    assert check.detail == "It could not be carried out: the mask has no shape"


@pytest.mark.parametrize(("figure", "status"), [(1e-5, "passed"), (1.1e-5, "failed"), (float("nan"), "failed")])
def test_a_figure_passes_up_to_its_tolerance_and_never_when_it_is_no_number(
    monkeypatch: pytest.MonkeyPatch, figure: float, status: str
) -> None:
    monkeypatch.setitem(CHECKS, "replay", lambda trial: (figure, "Measured."))
    check = outcome(tiny_chat("llama"), "replay")
    assert (check.status, check.detail) == (status, "Measured.")


def test_what_a_model_lacks_is_named_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(trial: Trial) -> Any:
        raise NotApplicable("It has none.")

    monkeypatch.setitem(CHECKS, "replay", lacking)
    check = outcome(tiny_chat("llama"), "replay")
    assert check.to_dict() == {
        "name": "replay",
        "status": "not applicable",
        "figure": None,
        "tolerance": None,
        "detail": "It has none.",
    }
