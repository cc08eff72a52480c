from __future__ import annotations

import copy

from tests.builders import CHATML, byte_level_tokenizer, tiny_chat, tiny_model, wrap
from undertow.model import ChatModel, ModelIdentity


def test_identity_names_what_differs() -> None:
    base = tiny_chat("llama").identity
    assert tiny_chat("llama").identity.differences(base) == []
    assert tiny_chat("llama", seed=1).identity.differences(base) == ["weights"]
    assert "architecture" in tiny_chat("llama", layers=2).identity.differences(base)
    other = wrap(byte_level_tokenizer()._tokenizer, CHATML + " ")
    assert ChatModel(tiny_model("llama"), other).identity.differences(base) == ["chat template"]
    thinking = wrap(byte_level_tokenizer()._tokenizer, CHATML + "{% if enable_thinking %}<think>{% endif %}")
    differs = ChatModel(tiny_model("llama"), thinking, thinking=True).identity.differences(base)
    assert differs == ["chat template", "thinking mode"]
    larger = copy.deepcopy(byte_level_tokenizer())
    larger.add_tokens(["zzzz"])
    assert ChatModel(tiny_model("llama"), larger).identity.differences(base) == ["tokenizer"]


def test_identity_survives_a_change_of_dtype() -> None:
    model = tiny_model("llama").bfloat16()
    low = ChatModel(copy.deepcopy(model), byte_level_tokenizer()).identity
    high = ChatModel(model.float(), byte_level_tokenizer()).identity
    assert low.differences(high) == []


def test_round_trip_and_fingerprint() -> None:
    identity = tiny_chat("llama").identity
    again = ModelIdentity.from_dict({**identity.to_dict(), "unknown": 1})
    assert again == identity and again.fingerprint == identity.fingerprint
    renamed = ModelIdentity.from_dict({**identity.to_dict(), "name": "elsewhere"})
    assert renamed.fingerprint == identity.fingerprint and renamed.differences(identity) == []


def test_revisions_are_compared_only_where_both_are_known() -> None:
    identity = tiny_chat("llama").identity
    one, two = (ModelIdentity.from_dict({**identity.to_dict(), "revision": name}) for name in ("a", "b"))
    assert one.differences(two) == ["revision"]
    assert one.differences(identity) == []
