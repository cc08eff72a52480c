from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from benchmarks.shrink import shrunk_model
from tests.builders import PROMPTS, byte_level_tokenizer, tiny_chat, tiny_model
from undertow.errors import CoverageError
from undertow.measure.attribution import LogitAttribution, LogitParts
from undertow.model import Add, ChatModel, Edit, Replace, Scale

TOKENS = [7, 3, 250]
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {},
    "gemma3_text": {},
    "olmo2": {},
    "gpt2": {},
    "gpt_neox": {},
    "granite": {"residual_multiplier": 0.3, "logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "falcon": {"bias": True},
    "cohere": {"logit_scale": 0.25},
    "opt": {},
    "mixtral": {},
    "qwen3": {},
}


@lru_cache(maxsize=16)
def chat_of(kind: str) -> ChatModel:
    return ChatModel(shrunk_model(kind, **SETTINGS.get(kind, {})), byte_level_tokenizer())


def plain_logits(chat: ChatModel, prompt: str) -> Tensor:
    with torch.no_grad():
        return chat.model(input_ids=torch.tensor([chat.render(prompt).ids])).logits[0, -1]


def seen(chat: ChatModel, module: nn.Module, *, entered: bool) -> Tensor:
    """What one module is given or returns at t_post of the first prompt, by a plain hook."""
    found: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        values = arguments[0] if entered else output
        found.append((values[0] if isinstance(values, tuple) else values)[0, -1])

    handle = module.register_forward_hook(keep)
    plain_logits(chat, PROMPTS[0])
    handle.remove()
    return found[0]


def kinds(found: LogitParts) -> set[str]:
    return {part.kind for part in found.parts}


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_parts_sum_to_the_logits_of_the_model_called_directly(kind: str) -> None:
    chat = chat_of(kind)
    found = LogitAttribution(chat)(PROMPTS[:3])
    own = torch.stack([plain_logits(chat, prompt) for prompt in PROMPTS[:3]])
    total = found.values.sum(1)
    if found.capped:
        cap = chat.model.config.final_logit_softcapping
        total = cap * torch.tanh(total / cap)
    assert found.capped == (kind == "gemma2")
    torch.testing.assert_close(total, own, atol=1e-4 * float(own.abs().max()), rtol=0)
    assert found.residue < 1e-5
    assert {"embedding", "head", "mlp", "bias"} <= kinds(found)
    assert len(found.heads()) == chat.layers * 4
    assert min(float(part.abs().max()) for part in found.heads().values()) > 0


def root_mean_square(state: Tensor, epsilon: float) -> Tensor:
    return (state.pow(2).mean() + epsilon).sqrt()


@pytest.mark.parametrize("head", [(0, 0), (1, 3)])
def test_a_llama_heads_part_is_that_worked_out_by_hand(head: tuple[int, int]) -> None:
    chat = chat_of("llama")
    block, index = head
    model, part = chat.model, slice(16 * index, 16 * index + 16)
    layer = model.model.layers[block]
    written = layer.self_attn.o_proj.weight[:, part] @ seen(chat, layer.self_attn.o_proj, entered=True)[part]
    last = seen(chat, model.model.layers[-1], entered=False)
    normed = written / root_mean_square(last, model.config.rms_norm_eps) * model.model.norm.weight
    wanted = (model.lm_head.weight[TOKENS] @ normed).detach()
    found = LogitAttribution(chat)(PROMPTS[:2], TOKENS)
    torch.testing.assert_close(found.heads()[head][0], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", [(0, 2), (2, 1)])
def test_a_gemma_2_heads_part_goes_through_the_post_norm_and_is_taken_before_the_soft_cap(
    head: tuple[int, int],
) -> None:
    chat = chat_of("gemma2")
    block, index = head
    model, part = chat.model, slice(16 * index, 16 * index + 16)
    epsilon, layer = model.config.rms_norm_eps, model.model.layers[block]
    written = layer.self_attn.o_proj.weight[:, part] @ seen(chat, layer.self_attn.o_proj, entered=True)[part]
    whole = seen(chat, layer.self_attn, entered=False)
    posted = written / root_mean_square(whole, epsilon) * (1 + layer.post_attention_layernorm.weight)
    last = seen(chat, model.model.layers[-1], entered=False)
    normed = posted / root_mean_square(last, epsilon) * (1 + model.model.norm.weight)
    wanted = (model.lm_head.weight[TOKENS] @ normed).detach()
    found = LogitAttribution(chat)(PROMPTS[:2], TOKENS)
    torch.testing.assert_close(found.heads()[head][0], wanted, atol=1e-5, rtol=1e-4)


def test_the_mlp_and_the_embedding_are_parts_worked_out_by_hand() -> None:
    chat = chat_of("llama")
    model = chat.model
    scale = model.model.norm.weight / root_mean_square(
        seen(chat, model.model.layers[-1], entered=False), model.config.rms_norm_eps
    )
    found = LogitAttribution(chat)(PROMPTS[0], TOKENS)
    names = {part.name: found.values[0, index] for index, part in enumerate(found.parts)}
    rows = model.lm_head.weight[TOKENS]
    mlp = seen(chat, model.model.layers[1].mlp, entered=False)
    torch.testing.assert_close(names["MLP 1"], (rows @ (mlp * scale)).detach(), atol=1e-5, rtol=1e-4)
    embedding = model.model.embed_tokens.weight[chat.render(PROMPTS[0]).ids[-1]]
    torch.testing.assert_close(names["embedding"], (rows @ (embedding * scale)).detach(), atol=1e-5, rtol=1e-4)
    assert float(names["final bias"].abs().max()) < 1e-6


def test_biases_are_parts_of_their_own() -> None:
    chat = chat_of("gpt2")
    model = chat.model
    norm, rows = model.transformer.ln_f, model.lm_head.weight[TOKENS]
    last = seen(chat, model.transformer.h[-1], entered=False)
    spread = (last.var(unbiased=False) + norm.eps).sqrt()
    found = LogitAttribution(chat)(PROMPTS[0], TOKENS)
    names = {part.name: found.values[0, index] for index, part in enumerate(found.parts)}
    bias = model.transformer.h[1].attn.c_proj.bias
    wanted = rows @ ((bias - bias.mean()) / spread * norm.weight)
    assert float(wanted.abs().max()) > 1e-3
    torch.testing.assert_close(names["attention bias 1"], wanted.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(names["final bias"], (rows @ norm.bias).detach(), atol=1e-5, rtol=1e-4)


def test_a_bias_of_the_unembedding_belongs_to_the_final_bias() -> None:
    chat = ChatModel(shrunk_model("gptj"), byte_level_tokenizer())
    head, norm = chat.model.lm_head, chat.model.transformer.ln_f
    found = LogitAttribution(chat)(PROMPTS[0], TOKENS)
    wanted = (head.weight[TOKENS] @ norm.bias + head.bias[TOKENS]).detach()
    torch.testing.assert_close(found.values[0, -1], wanted, atol=1e-5, rtol=1e-4)
    assert found.parts[-1].name == "final bias" and found.residue < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_head_that_is_ablated_adds_nothing_and_the_rest_still_sums(kind: str) -> None:
    chat = chat_of(kind)
    attribution = LogitAttribution(chat)
    before = attribution(PROMPTS[:2], TOKENS).heads()[1, 2]
    with chat.edit(Scale(0.0, head=(1, 2), span="t_post")):
        found = attribution(PROMPTS[:2], TOKENS)
        edited = chat.logits(PROMPTS[:2])
    assert float(found.heads()[1, 2].abs().max()) == 0 and float(before.abs().min()) > 0
    assert found.residue < 1e-5
    if not found.capped:
        # Differences of log-probabilities are differences of logits.
        total = found.values.sum(1)
        torch.testing.assert_close(total.diff(dim=1), edited[:, TOKENS].diff(dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize(
    "edit",
    [
        Add(torch.ones(64), 3.0, state=0),
        Add(torch.ones(64), 3.0, state=1),
        Add(torch.arange(64.0) - 32, state=3),
        Scale(0.0, attention=1),
        Add(torch.ones(64), mlp=2),
        Replace(torch.ones(16), head=(0, 1)),
    ],
    ids=lambda edit: f"{edit.kind} {edit.site}",
)
def test_parts_sum_to_the_edited_logits_whatever_is_edited(kind: str, edit: Edit) -> None:
    chat = chat_of(kind)
    attribution = LogitAttribution(chat)
    plain = attribution(PROMPTS[:2], TOKENS)
    with chat.edit(edit):
        found = attribution(PROMPTS[:2], TOKENS)
        edited = chat.logits(PROMPTS[:2])[:, TOKENS]
    assert found.residue < 1e-5
    assert not torch.allclose(found.logits, plain.logits, atol=1e-3)
    total = found.values.sum(1)
    if found.capped:
        total = 30 * torch.tanh(total / 30)
    torch.testing.assert_close(total.diff(dim=1), edited.diff(dim=1), atol=1e-4, rtol=1e-4)
    assert ("edit" in kinds(found)) == (edit.site in {("state", 1), ("state", 3), ("attention", 1)})


def test_an_edit_of_a_state_is_a_part_of_its_own() -> None:
    chat = chat_of("llama")
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0))
    with chat.edit(Add(vector, state=2)):
        found = LogitAttribution(chat)(PROMPTS[0], TOKENS)
        last = chat.capture(PROMPTS[0], [3], ["t_post"], progress=False).values[0, 0, 0]
    norm = chat.model.model.norm
    scaled = vector / root_mean_square(last, chat.model.config.rms_norm_eps) * norm.weight
    [index] = [index for index, part in enumerate(found.parts) if part.kind == "edit"]
    assert found.parts[index].block == 1
    wanted = (chat.model.lm_head.weight[TOKENS] @ scaled).detach()
    torch.testing.assert_close(found.values[0, index], wanted, atol=1e-4, rtol=1e-4)


class Fading(LlamaDecoderLayer):
    """A block that halves everything it passes on."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return super().forward(*arguments, **keywords) / 2


def test_what_blocks_carry_over_is_counted_at_its_remaining_share() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.__class__ = Fading
    chat = ChatModel(model, byte_level_tokenizer())
    assert [sums.carry if sums else None for sums in chat.anatomy.additive] == pytest.approx([0.5] * 3, abs=1e-5)
    found = LogitAttribution(chat)(PROMPTS[0], TOKENS)
    assert found.residue < 1e-5
    scale = model.model.norm.weight / root_mean_square(
        seen(chat, model.model.layers[-1], entered=False), model.config.rms_norm_eps
    )
    for block, share in enumerate((1 / 8, 1 / 4, 1 / 2)):
        mlp = seen(chat, model.model.layers[block].mlp, entered=False)
        index = [part.name for part in found.parts].index(f"MLP {block}")
        wanted = (model.lm_head.weight[TOKENS] @ (share * mlp * scale)).detach()
        torch.testing.assert_close(found.values[0, index], wanted, atol=1e-5, rtol=1e-3)


def test_chosen_tokens_are_those_of_the_whole_vocabulary() -> None:
    attribution = LogitAttribution(chat_of("opt"))
    whole, some = attribution(PROMPTS[:2]), attribution(PROMPTS[:2], TOKENS)
    torch.testing.assert_close(some.values, whole.values[..., TOKENS], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(some.logits, whole.logits[..., TOKENS], atol=1e-6, rtol=1e-5)
    assert some.tokens == tuple(TOKENS) and whole.values.shape[2] == 512


def test_a_block_that_does_more_than_add_is_one_part() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.additive[1] = None
    found = LogitAttribution(chat)(PROMPTS[:2])
    assert [part.name for part in found.parts if part.block == 1] == ["block 1"] and found.residue < 1e-5


class OtherHead(nn.Linear):
    """An unembedding whose weight may not be read as it stands, such as a quantised one."""


def test_an_unembedding_of_another_class_is_asked_and_not_read() -> None:
    model = tiny_model("llama")
    wanted = LogitAttribution(ChatModel(model, byte_level_tokenizer()))(PROMPTS[:2], TOKENS)
    model.lm_head.__class__ = OtherHead
    found = LogitAttribution(ChatModel(model, byte_level_tokenizer()))(PROMPTS[:2], TOKENS)
    torch.testing.assert_close(found.values, wanted.values, atol=1e-5, rtol=1e-4)


def test_low_precision_sums_to_its_rounding() -> None:
    chat = ChatModel(tiny_model("llama").bfloat16(), byte_level_tokenizer())
    found = LogitAttribution(chat)(PROMPTS[:2])
    assert found.values.dtype == torch.float32 and 0 < found.residue < 3e-2


def test_models_without_a_sum_are_refused() -> None:
    with pytest.raises(CoverageError, match="no sum of parts"):
        LogitAttribution(ChatModel(shrunk_model("bert"), byte_level_tokenizer()))
    chat = tiny_chat("llama")
    chat.anatomy.unembedding = None
    with pytest.raises(CoverageError, match="no unembedding"):
        LogitAttribution(chat)


def test_more_than_a_norm_before_the_unembedding_is_refused() -> None:
    chat = tiny_chat("llama")
    chat.anatomy.final_norm = None
    with pytest.raises(CoverageError, match="more than a norm"):
        LogitAttribution(chat)


def test_logits_that_are_no_rising_function_of_the_unembeddings_output_are_refused() -> None:
    chat = tiny_chat("llama")
    plain = chat.model.forward

    def folded(**keywords: Any) -> Any:
        output = plain(**keywords)
        output.logits = output.logits.abs()
        return output

    chat.model.forward = folded
    with pytest.raises(CoverageError, match="no rising function"):
        LogitAttribution(chat)
