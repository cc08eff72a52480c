from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import undertow as ut
from tests.builders import byte_level_tokenizer, tiny_chat, tiny_model
from tests.model.suite import QUESTIONS, everything_passes
from undertow.errors import CoverageError, ModelError
from undertow.model import ChatModel
from undertow.model.variants import check_variant

TARGETS = ["q_proj", "o_proj", "down_proj"]


def lora(seed: int = 1, model: Any = None, **settings: Any) -> Any:
    base = tiny_model("llama") if model is None else model
    torch.manual_seed(seed)
    given: dict[str, Any] = {"r": 4, "target_modules": TARGETS, "task_type": "CAUSAL_LM", "init_lora_weights": False}
    return peft.get_peft_model(base, peft.LoraConfig(**{**given, **settings})).eval()


def opened(model: Any) -> ChatModel:
    return ChatModel(model, byte_level_tokenizer())


ADAPTERS: dict[str, Any] = {
    "LoRA": lora,
    "DoRA": lambda: lora(use_dora=True),
    "rank-stabilised LoRA of all linear layers": lambda: lora(use_rslora=True, target_modules="all-linear"),
    "modules to save": lambda: lora(modules_to_save=["lm_head", "embed_tokens"]),
    "merged in place": lambda: _merged(),
    "merged and unloaded": lambda: lora().merge_and_unload(),
    "half precision": lambda: lora(model=tiny_model("llama").bfloat16()),
    "IA3": lambda: peft.get_peft_model(
        tiny_model("llama"),
        peft.IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    ),
    # GPT-2 has learned positions, which a wrapper that hides the model's signature would lose under left padding.
    "absolute positions": lambda: lora(
        model=tiny_model("gpt2"), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
    ),
}


def _merged() -> Any:
    model = lora()
    model.merge_adapter()
    return model


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_adapters_pass_every_check(name: str) -> None:
    assert everything_passes(ADAPTERS[name]())


def test_an_adapter_added_by_transformers_itself() -> None:
    model = tiny_model("llama")
    model.add_adapter(peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    assert everything_passes(model)
    assert opened(model).identity.differences(tiny_chat("llama").identity) == ["weights"]


def test_adapters_in_force_make_another_model_and_switched_off_the_base() -> None:
    base = tiny_chat("llama")
    model = lora()
    chat = opened(model)
    adapted = chat.identity
    assert adapted.differences(base.identity) == ["weights"] == base.identity.differences(adapted)
    states = chat.capture(QUESTIONS, progress=False)
    plain = base.capture(QUESTIONS, progress=False)
    assert not torch.allclose(states.values, plain.values, atol=1e-2)
    with model.disable_adapter():
        assert everything_passes(chat)
        off = chat.capture(QUESTIONS, progress=False)
        assert torch.equal(off.values, plain.values)
        assert off.identity.differences(base.identity) == []
    assert chat.identity == adapted == states.identity
    merged = opened(lora().merge_and_unload())
    assert merged.identity.differences(base.identity) == ["weights"]
    assert opened(_merged()).identity.differences(merged.identity) == []


def test_which_adapter_and_how_strong_it_is_belong_to_the_identity() -> None:
    first, again = opened(lora(seed=1)).identity, opened(lora(seed=1)).identity
    assert first.differences(again) == []
    assert opened(lora(seed=2)).identity.differences(first) == ["weights"]
    assert opened(lora(seed=1, lora_alpha=16)).identity.differences(first) == ["weights"]
    assert opened(lora(modules_to_save=["lm_head"])).identity.differences(first) == ["weights"]
    model = lora(seed=1)
    torch.manual_seed(7)
    model.add_adapter(
        "second", peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM")
    )
    chat = opened(model)
    assert chat.identity.differences(first) == []
    model.set_adapter("second")
    assert chat.identity.differences(first) == ["weights"]


def test_an_adapter_folder_is_loaded_onto_its_base(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    wrapped = lora(model=AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    wrapped.save_pretrained(tmp_path / "adapter")
    byte_level_tokenizer().save_pretrained(tmp_path / "adapter")
    chat = ut.load(tmp_path / "adapter")
    assert everything_passes(chat)
    assert torch.equal(
        chat.capture(QUESTIONS, progress=False).values, opened(wrapped).capture(QUESTIONS, progress=False).values
    )
    assert chat.identity.differences(opened(wrapped).identity) == []


def tuned(**settings: Any) -> dict[str, Any]:
    return {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4, **settings}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (peft.PromptTuningConfig(**tuned()), "prompt_tuning, whose virtual tokens shift every position"),
        (peft.PrefixTuningConfig(**tuned()), "prefix_tuning, whose virtual tokens shift every position"),
        (peft.PromptEncoderConfig(**tuned()), "p_tuning, whose virtual tokens shift every position"),
        (
            peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2),
            "adaption_prompt, which runs each output projection a second time",
        ),
    ],
)
def test_adapters_that_would_shift_positions_are_refused_by_name(config: Any, reason: str) -> None:
    with pytest.raises(CoverageError, match=f"'default' is {reason}") as caught:
        opened(peft.get_peft_model(tiny_model("llama"), config))
    assert "\n" not in str(caught.value)


def test_adapters_that_wait_for_their_tokens_are_refused() -> None:
    model = lora(alora_invocation_tokens=[5, 6])
    with pytest.raises(CoverageError, match="invocation tokens"):
        check_variant(model)


def test_an_adapter_with_virtual_tokens_is_refused_as_a_folder_too(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, peft.PromptTuningConfig(**tuned())).save_pretrained(tmp_path / "adapter")
    byte_level_tokenizer().save_pretrained(tmp_path / "adapter")
    with pytest.raises((CoverageError, ModelError)):
        ut.load(tmp_path / "adapter")
