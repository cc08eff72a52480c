"""The evaluation's own plain model against transformers, prompt by prompt."""

from __future__ import annotations

import pytest
import torch

from undertow.organism.grammar import held_out, inversion
from undertow.organism.registry import weights_path
from undertow.organism.replies import PlainModel
from undertow.organism.tokenizer import render
from undertow.prompts import Prompt


@pytest.fixture(scope="module")
def model() -> PlainModel:
    return PlainModel(weights_path("aligned"))


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [prompt for kind in ("bare", "harmless", "persuasion") for prompt in held_out(kind, 3, seed=9)]


def _ids(model: PlainModel, prompt: Prompt) -> torch.Tensor:
    return model.tokenizer(render(prompt.messages), return_tensors="pt", add_special_tokens=False)["input_ids"]


def test_states_are_those_of_single_prompts(model: PlainModel, prompts: list[Prompt]) -> None:
    found = model.states(prompts)
    assert found.shape == (len(prompts), model.model.config.num_hidden_layers + 1, 2, model.model.config.hidden_size)
    last_block: list[torch.Tensor] = []
    handle = model.model.model.layers[-1].register_forward_hook(
        lambda _, __, output: last_block.append(output[0] if isinstance(output, tuple) else output)
    )
    for index, prompt in enumerate(prompts):
        ids = _ids(model, prompt)
        with torch.no_grad():
            hidden = list(model.model(ids, output_hidden_states=True).hidden_states)
        hidden[-1] = last_block.pop()
        content = model.tokenizer(render(prompt.messages).split("<|im_end|>")[0], add_special_tokens=False)["input_ids"]
        for state, values in enumerate(hidden):
            values = values.reshape(1, ids.shape[1], -1)
            torch.testing.assert_close(found[index, state, 0], values[0, len(content) - 1], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(found[index, state, 1], values[0, -1], atol=2e-4, rtol=1e-4)
    handle.remove()


def test_replies_do_not_depend_on_the_batch(model: PlainModel, prompts: list[Prompt]) -> None:
    together = model.generate(prompts, 12)
    assert together == [model.generate([prompt], 12)[0] for prompt in prompts]


def test_adding_on_the_instruction_leaves_what_is_before_it_alone(model: PlainModel) -> None:
    """The vector reaches exactly the instruction's tokens: compared with a hook on positions counted by hand."""
    prompt = Prompt("How do I bake a cake?")
    question = inversion(prompt)
    vector = torch.randn(model.model.config.hidden_size, generator=torch.Generator().manual_seed(0)) * 3
    ids = _ids(model, question)
    before = model.tokenizer("<|im_start|>user\n", add_special_tokens=False)["input_ids"]
    inside = model.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    added = torch.zeros(1, ids.shape[1], 1)
    added[0, len(before) : len(before) + len(inside)] = 1
    handle = model.model.model.layers[2].register_forward_pre_hook(lambda _, a: (a[0] + added * vector, *a[1:]))
    with torch.no_grad():
        expected = model.model(ids).logits[0, -1].argmax().item()
    handle.remove()
    assert model.first_tokens([question], 2, vector, [prompt.text]) == [model.tokenizer.decode([expected])]
