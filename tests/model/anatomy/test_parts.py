from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from undertow.errors import CoverageError
from undertow.model.anatomy import HINTS, AnatomyHint, first_tensor, hidden_input, register_anatomy, with_first_tensor

HIDDEN, OTHER, NEW = torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 3), 2.0)
Named = namedtuple("Named", ["hidden", "weights"])


def test_a_declaration_is_kept_under_its_model_type() -> None:
    before = dict(HINTS)
    try:
        register_anatomy("new", blocks="a.b", projection="out", final_norm="a.norm")
        assert before | {"new": AnatomyHint(blocks="a.b", projection="out", final_norm="a.norm")} == HINTS
    finally:
        del HINTS["new"]
    assert before == HINTS


@pytest.mark.parametrize("output", [HIDDEN, (HIDDEN, None), [HIDDEN, OTHER], Named(HIDDEN, OTHER)])
def test_the_first_tensor_of_an_output_is_found_and_replaced_in_kind(output: Any) -> None:
    assert first_tensor(output) is HIDDEN
    changed = with_first_tensor(output, NEW)
    assert type(changed) is type(output) and first_tensor(changed) is NEW
    if isinstance(output, (tuple, list)):
        assert len(changed) == len(output) and output[0] is HIDDEN
        assert all(one is other for one, other in zip(changed[1:], output[1:], strict=True))


@pytest.mark.parametrize("output", [None, (), (None, HIDDEN), {"hidden": HIDDEN}, BaseModelOutput(HIDDEN)])
def test_outputs_without_a_leading_tensor_are_refused(output: Any) -> None:
    with pytest.raises(CoverageError, match=type(output).__name__):
        first_tensor(output)


def test_the_hidden_input_is_the_first_argument_or_the_one_named_so() -> None:
    assert hidden_input((HIDDEN, OTHER), {}) is HIDDEN
    assert hidden_input((), {"hidden_states": HIDDEN, "mask": OTHER}) is HIDDEN
    assert hidden_input((None,), {"hidden_states": HIDDEN}) is HIDDEN
    with pytest.raises(CoverageError, match="without hidden states"):
        hidden_input((), {"x": HIDDEN})
