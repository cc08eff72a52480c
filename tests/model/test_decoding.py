from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmarks.shrink import shrunk_model
from tests.builders import PROMPTS, byte_level_tokenizer, tiny_chat
from undertow.model import Add, ChatModel
from undertow.model.decoding import Decoding, find_decoding, stated_window


def shrunk_chat(kind: str, **settings: Any) -> ChatModel:
    return ChatModel(shrunk_model(kind, **settings), byte_level_tokenizer())


def recomputed(chat: ChatModel, prompt: str, count: int) -> str:
    """The greedy reply of the model called directly on the whole sequence at every step, without cache or padding."""
    ids = list(chat.render(prompt).ids)
    length = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(chat.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in chat.stop_ids:
            return chat.tokenizer.decode(ids[length:-1], skip_special_tokens=True)
    return chat.tokenizer.decode(ids[length:], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_ordinary_models_bear_everything(kind: str) -> None:
    chat = tiny_chat(kind)
    assert find_decoding(chat) == Decoding(positions=True, cache=True, left_padding=True)
    assert find_decoding(chat).notes() == [] and chat.forward.takes_positions


@pytest.mark.parametrize(
    ("kind", "noise", "wanted"),
    [
        ("llama", 0.05, Decoding(True, True, True)),
        ("bart", 0.2, Decoding(False, True, False)),
        ("roberta", 0.05, Decoding(False, True, False)),
        ("mamba", 0.2, Decoding(False, True, False)),
    ],
)
def test_what_does_not_hold_is_not_used_and_replies_equal_recomputation(
    kind: str, noise: float, wanted: Decoding
) -> None:
    chat = shrunk_chat(kind, noise=noise)
    assert chat.decoding_for(40) == wanted
    assert chat.forward.takes_positions == wanted.positions
    replies = chat.generate(PROMPTS, 6, progress=False)
    assert replies == [recomputed(chat, prompt, 6) for prompt in PROMPTS]
    assert len(set(replies)) > 1


def test_models_that_cannot_be_padded_read_prompts_of_equal_length_together() -> None:
    chat = shrunk_chat("bart")
    prompts = [PROMPTS[0], "Hi", PROMPTS[0], "Tell me about the bank."]
    lengths = [len(chat.render(prompt)) for prompt in prompts]
    chat.decoding_for(max(lengths) + 2)
    shapes: list[tuple[int, ...]] = []
    handle = chat.model.register_forward_pre_hook(
        lambda module, arguments, keywords: shapes.append(tuple(keywords["input_ids"].shape)), with_kwargs=True
    )
    chat.generate(prompts, 1, progress=False)
    handle.remove()
    assert sorted(shapes) == sorted({(lengths.count(length), length) for length in lengths})


def break_cache(chat: ChatModel) -> None:
    """Let the model forget the first cached token."""
    plain = chat.model.forward

    def forgetful(*arguments: Any, **keywords: Any) -> Any:
        cache = keywords.get("past_key_values")
        if cache is not None:
            for layer in cache.layers:
                if layer.keys is not None and layer.keys.numel():
                    layer.keys[:, :, 0], layer.values[:, :, 0] = 0, 0
        return plain(*arguments, **keywords)

    chat.model.forward = forgetful


def test_a_cache_that_is_wrong_is_found_and_not_used() -> None:
    chat = tiny_chat("llama")
    wanted = [recomputed(chat, prompt, 6) for prompt in PROMPTS]
    broken = tiny_chat("llama")
    break_cache(broken)
    decoding = broken.decoding_for(40)
    assert decoding == Decoding(True, False, True) and "every token is generated without" in decoding.notes()[0]
    assert broken.generate(PROMPTS, 6, progress=False) == wanted
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 3
    with broken.edit(Add(vector, state=1)), chat.edit(Add(vector, state=1)):
        assert broken.generate(PROMPTS, 6, progress=False) == chat.generate(PROMPTS, 6, progress=False)


def test_padding_that_leaks_is_found_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    wanted = [recomputed(chat, prompt, 6) for prompt in PROMPTS]
    right = chat.forward.pad_left
    monkeypatch.setattr(chat.forward, "pad_left", lambda rows: (right(rows)[0], None))
    decoding = chat.decoding_for(40)
    assert decoding == Decoding(True, True, False) and "only prompts of equal length" in decoding.notes()[0]
    assert chat.generate(PROMPTS, 6, progress=False) == wanted


def test_positions_that_are_counted_otherwise_are_not_passed() -> None:
    chat = tiny_chat("llama")
    plain = chat.model.forward

    def counted_from_two(*arguments: Any, position_ids: Any = None, **keywords: Any) -> Any:
        if position_ids is not None:
            position_ids = 2 * position_ids
        return plain(*arguments, position_ids=position_ids, **keywords)

    chat.model.forward = counted_from_two
    assert not find_decoding(chat).positions


def test_a_trial_that_raises_counts_as_failed() -> None:
    chat = tiny_chat("llama")
    plain = chat.model.forward

    def uncached(*arguments: Any, **keywords: Any) -> Any:
        if keywords.get("past_key_values") is not None:
            raise ValueError("no cache here")
        return plain(*arguments, **keywords)

    chat.model.forward = uncached
    assert find_decoding(chat) == Decoding(True, False, True)


def test_the_shortest_stated_window_is_read_off_the_configuration() -> None:
    assert stated_window(tiny_chat("llama").model) == math.inf
    assert stated_window(tiny_chat("mistral", sliding_window=24).model) == 24
    assert stated_window(shrunk_model("gpt_neo", window_size=20)) == 20
    assert stated_window(shrunk_model("qwen2", max_window_layers=2, sliding_window=None)) == math.inf


def test_one_trial_serves_until_a_window_is_outgrown_and_stays_within_the_context() -> None:
    chat = tiny_chat("mistral", sliding_window=40, max_position_embeddings=100)
    seen: list[int] = []
    handle = chat.model.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )

    def longest(length: int) -> int:
        seen.clear()
        chat.decoding_for(length)
        return max(seen, default=0)

    assert [longest(length) for length in (5, 36, 37, 60, 64, 90)] == [16, 0, 67, 0, 0, 100]
    handle.remove()


def test_a_cache_that_breaks_past_the_window_is_found_there() -> None:
    chat = tiny_chat("mistral", sliding_window=32)
    plain = chat.model.forward

    def late(*arguments: Any, **keywords: Any) -> Any:
        output = plain(*arguments, **keywords)
        cache = keywords.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 34:
            output.logits = output.logits.flip(-1)
        return output

    chat.model.forward = late
    assert chat.decoding_for(20).cache and not chat.decoding_for(60).cache
    long = "Tell me about the history of the neighbour's bank, and about the garden."
    assert chat.generate(long, 5, progress=False) == [recomputed(chat, long, 5)]
