"""The study's screening and circuit on random models of five architectures, unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import builders
from undertow.prompts.pairs import Pair, PairSet
from undertow.prompts.prompt import Prompt
from undertow.studies.routing.circuit import measure_circuit
from undertow.studies.routing.context import Context, prepare
from undertow.studies.routing.plan import plan
from undertow.studies.routing.screening import measure_screening
from undertow.studies.routing.sizes import ModelShape

OWN: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "phi3": {"num_key_value_heads": 2},
}
KINDS = ("qwen3", "gemma3_text", "mistral", "phi3", "gpt2")
WORDS = ("table", "alarm", "garden", "bank", "school", "history", "neighbour", "wooden")


def pairs() -> PairSet:
    return PairSet(
        Pair(
            Prompt(f"Tell me how to {verb} the {word}.", harmful=True),
            Prompt(f"Tell me how to {verb} a {word}.", harmful=False),
            topic=verb,
            id=f"{verb} {word}",
        )
        for verb in ("disable", "build")
        for word in WORDS
    )


@pytest.fixture(scope="module", params=KINDS)
def context(request: pytest.FixtureRequest) -> Context:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "SHAPES", builders.SHAPES | OWN)
        chat = builders.tiny_chat(request.param)
    return prepare(
        chat, pairs(), refusal_tokens=["No"], answer_tokens=["Yes"], reply_tokens=3, branches=7, permutations=200
    )


def test_all_heads_are_screened_and_a_circuit_is_named_or_not(context: Context) -> None:
    found = measure_screening(context)
    assert len(found.necessity.heads) == 12 and found.method in ("tree", "expanded", "loop")
    for effects in (found.necessity, found.sufficiency):
        assert np.isfinite(effects.each).all() and effects.each.shape == (8, 12)
        assert ((effects.p > 0) & (effects.p <= 1)).all()
    # One head of one pair by an edit and a whole pass.
    half, head = context.report, (1, 2)
    with context.chat.edit(*half.swap("control", [head])):
        edited = context.openings.scores(context.chat.logits(half.prompts("sensitive")))
    plain = context.openings.scores(context.chat.logits(half.prompts("sensitive")))
    expected = (plain - edited).numpy()
    np.testing.assert_allclose(found.necessity.each[:, found.necessity.heads.index(head)], expected, atol=2e-5)
    circuit = measure_circuit(context)
    assert circuit.heads == 12 and circuit.residue < 1e-4 and set(circuit.gates) <= set(context.heads)


def test_the_tail_is_screened_too(context: Context) -> None:
    found = measure_screening(context, "tail", heads=[(0, 1), (2, 3)])
    assert found.position == "tail" and np.isfinite(found.necessity.each).all()


def test_the_plan_knows_the_shape(context: Context) -> None:
    shape = ModelShape.of(context.chat)
    assert (shape.layers, shape.heads, shape.head, shape.width) == (3, 4, 16, 64)
    assert plan(shape, 16, mean_tokens=20).seconds > 0
