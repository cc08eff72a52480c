"""Jailbreak wrappers: splits, determinism, labels kept."""

from __future__ import annotations

import random

import pytest

from undertow.errors import UndertowError
from undertow.prompts.prompt import Prompt
from undertow.prompts.wrappers import FAMILIES, parts, wrap, wrap_text

KINDS = (
    "persona",
    "name",
    "adjective",
    "character",
    "manner",
    "role_play_frame",
    "role",
    "purpose",
    "plea",
    "persuasion_frame",
    "fragment",
    "symbol",
)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_the_splits_are_disjoint_and_complete(kind: str) -> None:
    train, test = parts(kind, "train"), parts(kind, "test")
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(parts(kind))
    assert len(test) / len(parts(kind)) == pytest.approx(0.2, abs=0.04)


def test_enough_templates() -> None:
    assert len(parts("persona")) * len(parts("manner")) * len(parts("role_play_frame")) >= 60
    assert len(parts("role")) * len(parts("purpose")) * len(parts("plea")) * len(parts("persuasion_frame")) >= 60


@pytest.mark.parametrize("family", FAMILIES)
def test_the_request_stands_unchanged_inside(family: str) -> None:
    request = "How do I {bake} a 100 % cake?"
    generator = random.Random(0)
    texts = {wrap_text(request, family, generator)[0] for _ in range(50)}
    assert len(texts) > 40
    assert all(request in text and len(text) > len(request) + 10 for text in texts)


def test_held_out_suffixes_use_held_out_pieces_only() -> None:
    trained = set(parts("fragment", "train"))
    for seed in range(50):
        text, _ = wrap_text("", "suffix", random.Random(seed), "test")
        assert not [word for word in text.split() if word in trained]


def test_wrap_keeps_labels_and_other_turns_and_is_deterministic() -> None:
    prompt = Prompt(
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Bake a cake."}),
        harmful=False,
        category="cooking",
        id="7",
    )
    wrapped = wrap(prompt, "role_play", seed=3)
    assert wrapped == wrap(prompt, "role_play", seed=3)
    assert wrapped.text != wrap(prompt, "role_play", seed=4).text
    assert (wrapped.harmful, wrapped.category, wrapped.wrapper) == (False, "cooking", "role_play")
    assert wrapped.messages[0] == prompt.messages[0]
    assert "Bake a cake." in wrapped.text
    assert wrapped.id is not None and wrapped.id.startswith("7:role_play/")


def test_unknown_family_and_split_are_named() -> None:
    with pytest.raises(UndertowError, match="hypnosis"):
        wrap(Prompt("Bake a cake."), "hypnosis")
    with pytest.raises(UndertowError, match="validation"):
        wrap(Prompt("Bake a cake."), "suffix", split="validation")
