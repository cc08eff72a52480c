from __future__ import annotations

import pytest
import torch

import undertow as ut
from tests.builders import PROMPTS, byte_level_tokenizer, tiny_chat, tiny_model
from undertow.errors import ModelError
from undertow.model import ChatModel


def saved(folder: str) -> str:
    tiny_model("llama").save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def test_logits_equal_plain_transformers_in_any_batch() -> None:
    chat = tiny_chat("llama")
    found = chat.logits(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            own = chat.model(input_ids=torch.tensor([chat.render(prompt).ids])).logits[0, -1]
        torch.testing.assert_close(found[index], torch.log_softmax(own, -1), atol=1e-5, rtol=1e-5)


def test_load_reads_a_folder(tmp_path: object) -> None:
    chat = ut.load(saved(f"{tmp_path}/m"), dtype="float32")
    wanted = ChatModel(tiny_model("llama"), byte_level_tokenizer())
    torch.testing.assert_close(chat.logits(PROMPTS), wanted.logits(PROMPTS), atol=1e-5, rtol=1e-5)
    assert chat.identity.fingerprint == wanted.identity.fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_can_be_read_and_edited(dtype: torch.dtype) -> None:
    chat = ChatModel(tiny_model("llama").to(dtype), byte_level_tokenizer())
    found = chat.capture(PROMPTS, progress=False)
    assert found.values.dtype == dtype and torch.isfinite(found.values.float()).all()
    plain = chat.logits(PROMPTS)
    with chat.edit(ut.Add(torch.zeros(chat.width), state=1), ut.Scale(1.0, head=(0, 0))):
        assert torch.equal(chat.logits(PROMPTS), plain)


def test_peft_wrapped_models_are_opened() -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(target_modules=["q_proj", "o_proj"], r=2, init_lora_weights=False)
    chat = ChatModel(peft.get_peft_model(tiny_model("llama"), adapter), byte_level_tokenizer())
    assert chat.anatomy.heads == [4, 4, 4]
    found = chat.capture(PROMPTS[:1], progress=False).values
    with torch.no_grad():
        own = chat.model(input_ids=torch.tensor([chat.render(PROMPTS[0]).ids]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(found[0, 2, 1], own[2][0, -1], atol=1e-5, rtol=1e-5)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="causal language model"):
        ChatModel("a string", byte_level_tokenizer())
