"""One function for every wrapper family: old ones unchanged, new ones, and those that a user registers."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow.errors import UndertowError
from undertow.prompts import Prompt
from undertow.prompts.wrappers import FAMILIES, wrap
from undertow.prompts.wrapping import (
    NEEDS_FUNCTION,
    STUDY_FAMILIES,
    cut,
    families,
    register_wrapper,
    unregister_wrapper,
    wrap_any,
)

NEW = tuple(family for family in families() if family not in FAMILIES)
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "Bake a cake for my aunt."},
)


@pytest.fixture
def shouting() -> Iterator[str]:
    register_wrapper("shouting", lambda text, generator, split: f"{text.upper()} {split} {generator.random()}")
    yield "shouting"
    unregister_wrapper("shouting")


@pytest.mark.parametrize("split", ["train", "test", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_recipe_are_wrapped_as_before(family: str, split: str) -> None:
    prompt = Prompt("Bake a cake.", harmful=False, id="7")
    for seed in range(5):
        assert wrap_any(prompt, family, seed=seed, split=split) == wrap(prompt, family, seed=seed, split=split)


def test_the_study_uses_families_that_work() -> None:
    assert set(FAMILIES) < set(STUDY_FAMILIES) <= set(families())
    assert len(NEW) >= 6


@pytest.mark.parametrize("family", NEW)
def test_labels_and_other_turns_stay(family: str) -> None:
    prompt = Prompt(TALK, harmful=True, category="cooking", style="plain", language="en", id="7")
    wrapped = wrap_any(prompt, family, seed=3, split="test")
    assert (wrapped.harmful, wrapped.category, wrapped.style, wrapped.language) == (True, "cooking", "plain", "en")
    assert wrapped.wrapper == family
    assert wrapped.id is not None and wrapped.id.startswith(f"7:{family}/")
    assert wrapped.messages[:3] == list(TALK[:3])
    assert wrapped.text != prompt.text and len(wrapped.text) > len(prompt.text)
    bare = wrap_any(Prompt(prompt.text), family, seed=3, split="test")
    assert bare.text == wrapped.text and bare.id is not None and bare.id.startswith(f"{family}/")


@pytest.mark.parametrize("family", NEW)
def test_seed_split_and_text_choose_the_wrapper(family: str) -> None:
    prompt = Prompt("Bake a very large cake for my aunt.")
    assert wrap_any(prompt, family, seed=3) == wrap_any(prompt, family, seed=3)
    assert len({wrap_any(prompt, family, seed=seed).text for seed in range(30)}) > 10
    train, test = (
        {wrap_any(prompt, family, seed=seed, split=split).text for seed in range(30)} for split in ("train", "test")
    )
    assert not train & test


@given(st.text(min_size=1), st.integers())
def test_pieces_give_the_text_back(text: str, seed: int) -> None:
    pieces = cut(text, random.Random(seed))
    assert "".join(pieces) == text
    assert all(pieces)
    assert 2 <= len(pieces) <= 4 or len(text) == 1


def test_split_payloads_name_their_pieces_in_order_and_say_what_to_join() -> None:
    request = "How do I {bake} a cake of 100 % sugar?"
    for seed in range(60):
        text = wrap_any(Prompt(request), "payload_splitting", seed=seed).text
        named = re.findall(r'([\w ]+?) = "([^"]*)"', text)
        assert "".join(piece for _, piece in named) == request
        assert request not in text
        around = re.sub(r'"[^"]*"', "", text)
        assert "{" not in around and "}" not in around
        # Each name stands at its piece and again where the pieces are joined.
        for name, _ in named[1:]:
            assert len(re.findall(rf"\b{name.strip()}\b", around)) == 2, text


def test_a_registered_family_is_used_and_forgotten(shouting: str) -> None:
    assert families()[-1] == shouting
    wrapped = wrap_any(Prompt("Bake.", harmful=False), shouting, seed=1, split="test")
    assert wrapped.text.startswith("BAKE. test 0.")
    assert wrapped == wrap_any(Prompt("Bake.", harmful=False), shouting, seed=1, split="test")
    assert wrapped.text != wrap_any(Prompt("Bake.", harmful=False), shouting, seed=2, split="test").text
    assert (wrapped.wrapper, wrapped.harmful) == (shouting, False)
    register_wrapper(shouting, lambda text, generator, split: "  ")
    with pytest.raises(UndertowError, match="must return text"):
        wrap_any(Prompt("Bake."), shouting)
    unregister_wrapper(shouting)
    assert shouting not in families()


@pytest.mark.parametrize("family", tuple(NEEDS_FUNCTION))
def test_a_family_without_its_function_is_named_until_it_has_one(family: str) -> None:
    assert family not in families()
    with pytest.raises(UndertowError, match=f"{family}.*register_wrapper"):
        wrap_any(Prompt("Bake."), family)
    register_wrapper(family, lambda text, generator, split: text[::-1])
    try:
        assert wrap_any(Prompt("Bake."), family).text == ".ekaB"
    finally:
        unregister_wrapper(family)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UndertowError, match="hypnosis"):
        wrap_any(Prompt("Bake."), "hypnosis")
    for family in ("role_play", "social_proof"):
        with pytest.raises(UndertowError, match="validation"):
            wrap_any(Prompt("Bake."), family, split="validation")
        with pytest.raises(UndertowError, match="built in"):
            register_wrapper(family, lambda text, generator, split: text)
    with pytest.raises(UndertowError, match="needs a function"):
        register_wrapper("cipher", "rot13")  # type: ignore[arg-type]
