from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.builders import PROMPTS, tiny_chat
from undertow.errors import CoverageError
from undertow.model import ChatModel
from undertow.studies.beliefs.abliteration import Surgery, abliterate, abliterated

WIDTH = 64


def direction(seed: int = 1) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * 7


def along(values: Any, vector: torch.Tensor) -> float:
    """The largest share of a row that lies along a direction, in numpy."""
    rows = np.asarray(values, dtype=np.float64).reshape(-1, WIDTH)
    unit = vector.double().numpy() / np.linalg.norm(vector.double().numpy())
    return float((np.abs(rows @ unit) / np.linalg.norm(rows, axis=1)).max())


def weights(chat: ChatModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in chat.model.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "mlp_bias": True, "attention_bias": True}),
        ("qwen3", {}),
        ("gpt2", {}),
        ("gemma2", {}),
        ("gpt_neox", {}),
    ],
)
def test_no_block_writes_along_the_direction_any_more(kind: str, options: dict[str, Any]) -> None:
    chat, vector = tiny_chat(kind, **options), direction()
    before = weights(chat)
    original = chat.capture(PROMPTS, positions=("t_inst", "t_post"), progress=False).values
    with abliterated(chat, vector) as attacked:
        states = attacked.capture(PROMPTS, progress=False).values
        other = along(states, direction(2))
        # transformers' own states, up to the one that it puts through the final norm.
        ids = torch.tensor([chat.render(PROMPTS[1]).ids])
        published = attacked.model(ids, output_hidden_states=True).hidden_states[:-1]
    assert along(original, vector) > 0.1 and other > 0.1
    for state in range(chat.layers + 1):
        assert along(states[:, state], vector) < 1e-5
    for one, following in pairwise(published):
        assert along((following - one).detach(), vector) < 1e-4
    after = weights(chat)
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(chat.capture(PROMPTS, positions=("t_inst", "t_post"), progress=False).values, original)


def test_llama_matrices_are_the_textbook_projection() -> None:
    chat, vector = tiny_chat("llama", attention_bias=True), direction()
    attacked = abliterate(chat, vector)
    unit = (vector / vector.norm()).double()
    project = torch.eye(WIDTH, dtype=torch.float64) - torch.outer(unit, unit)
    old, new = chat.model.model, attacked.model.model
    writing = [name for name in weights(chat) if "o_proj" in name or "down_proj" in name]
    assert len(writing) == 9
    for name in writing:
        wanted = project @ chat.model.state_dict()[name].double()
        torch.testing.assert_close(attacked.model.state_dict()[name].double(), wanted, atol=1e-6, rtol=1e-5)
    wanted = old.embed_tokens.weight.double() @ project
    torch.testing.assert_close(new.embed_tokens.weight.double(), wanted, atol=1e-6, rtol=1e-5)
    untouched = [name for name in weights(chat) if name not in writing and "embed_tokens" not in name]
    assert all(torch.equal(chat.model.state_dict()[name], attacked.model.state_dict()[name]) for name in untouched)
    assert attacked.identity.weights_hash != chat.identity.weights_hash


def test_tied_embeddings_are_untied_and_the_unembedding_stays(tmp_path: Path) -> None:
    chat = tiny_chat("llama", tie_word_embeddings=True)
    original = chat.model.lm_head.weight.detach().clone()
    attacked = abliterate(chat, direction())
    assert chat.model.lm_head.weight is chat.model.model.embed_tokens.weight
    assert torch.equal(attacked.model.lm_head.weight, original)
    assert not torch.equal(attacked.model.model.embed_tokens.weight, original)
    attacked.model.save_pretrained(tmp_path)
    again = ChatModel(AutoModelForCausalLM.from_pretrained(tmp_path), chat.tokenizer)
    assert torch.equal(again.logits(PROMPTS), attacked.logits(PROMPTS))


def test_every_removal_starts_from_the_original_weights() -> None:
    chat = tiny_chat("qwen3", tie_word_embeddings=True)
    surgery = Surgery(chat)
    assert surgery.untied
    surgery.remove(direction(1))
    surgery.remove(direction(2))
    twice = weights(chat)
    surgery.restore()
    assert chat.model.lm_head.weight is chat.model.model.embed_tokens.weight and chat.model.config.tie_word_embeddings
    once = abliterate(chat, direction(2))
    assert all(torch.equal(value, twice[name]) for name, value in weights(once).items())


def test_what_cannot_be_done_is_refused_by_name() -> None:
    from transformers import AutoConfig

    from tests.builders import byte_level_tokenizer

    config = AutoConfig.for_model(
        "mixtral", vocab_size=420, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=96, num_local_experts=4, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    experts = ChatModel(AutoModelForCausalLM.from_config(config).eval(), byte_level_tokenizer())
    with pytest.raises(CoverageError, match=r"block 0 is not the output of one matrix .*mixture of experts"):
        Surgery(experts)
    chat = tiny_chat("llama")
    before = weights(chat)
    for wrong in (torch.zeros(WIDTH), torch.ones(3), torch.full((WIDTH,), float("nan"))):
        with pytest.raises(CoverageError, match="64 finite numbers"), abliterated(chat, wrong):
            pass
    assert all(torch.equal(value, before[name]) for name, value in weights(chat).items())
