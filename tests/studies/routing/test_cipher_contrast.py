from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.routed import small_context
from tests.studies.routing.test_ciphers import backwards, forms, last_tokens, measured, texts_of
from undertow.errors import CoverageError
from undertow.studies.routing import cipher_contrast
from undertow.studies.routing.cipher_contrast import measure_contrast
from undertow.studies.routing.context import SIDES
from undertow.studies.routing.readings import Array


def attribution(texts: list[str]) -> Array:
    """(n, H) of every head to the log-odds, by the weights: both sides of this model's openings have one token."""
    context = small_context()
    model, anatomy = context.chat.model, context.chat.anatomy
    refusing, answering = context.openings.refusal_tokens, context.openings.answer_tokens
    assert answering is not None and len(refusing) == len(answering) == 1
    slices, states = last_tokens(texts)
    found = []
    with torch.no_grad():
        along = (model.lm_head.weight[refusing[0]] - model.lm_head.weight[answering[0]]) * model.model.norm.weight
        scales = (states.pow(2).mean(1) + model.config.rms_norm_eps).sqrt()
        for block, head in context.heads:
            size = anatomy.head_sizes[block]
            part = slice(head * size, (head + 1) * size)
            weight = model.model.layers[block].self_attn.o_proj.weight[:, part]
            found.append((slices[block][:, part] @ weight.T @ along / scales).numpy())
    return np.stack(found, axis=1)


def test_contrast_equals_attribution_by_the_weights() -> None:
    falls = {side: attribution(texts_of(side)) - attribution(texts_of(side, backwards)) for side in SIDES}
    each = falls["sensitive"] - falls["control"]
    assert measured().contrast == pytest.approx(np.mean(each, axis=0), abs=1e-4)
    assert measured().contrast_heads == small_context().heads


def test_p_comes_from_the_choose_pairs_and_sees_both_signs() -> None:
    context, found = small_context(), forms()
    p = measured().contrast_p
    assert p[int(np.argmax(np.abs(measured().contrast)))] == pytest.approx(1 / 501)
    # The other way around every sign turns, and the test sees the same.
    swapped, turned, _ = measure_contrast(
        context, (found.ciphered_choose, found.choose), (found.ciphered_report, found.report)
    )
    assert np.array_equal(turned, p) and np.allclose(swapped, -measured().contrast)
    # Nothing differs between a form and itself: the choose pairs alone decide.
    _, none, _ = measure_contrast(context, (found.choose, found.choose), (found.report, found.ciphered_report))
    assert (none == 1.0).all()


def test_a_model_without_attribution_gets_no_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(context: Any) -> None:
        raise CoverageError("no sum")

    monkeypatch.setattr(cipher_contrast, "Attributor", refuse)
    found = forms()
    values, p, heads = measure_contrast(
        replace(small_context()), (found.choose, found.ciphered_choose), (found.report, found.ciphered_report)
    )
    assert values.shape == p.shape == (0,) and heads == ()
