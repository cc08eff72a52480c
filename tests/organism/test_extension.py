"""A larger vocabulary for an organism."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from undertow.organism.extension import continued, extended_tokenizer, further_merges
from undertow.organism.grammar import sample
from undertow.organism.registry import recipe_of, weights_path

NEW = 300


def _naive(words: dict[str, list[str]], counts: dict[str, int], known: set[str], new: int) -> list[list[str]]:
    """Counts every pair anew before every merge."""
    words, known, merges = {word: list(pieces) for word, pieces in words.items()}, set(known), []
    while new > 0:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(list(best))
        new -= "".join(best) not in known
        known.add("".join(best))
        for word, pieces in words.items():
            merged: list[str] = []
            for piece in pieces:
                if merged and (merged[-1], piece) == best:
                    merged[-1] += piece
                else:
                    merged.append(piece)
            words[word] = merged
    return merges


@pytest.mark.parametrize("seed", range(5))
def test_merges_are_those_of_a_naive_count(seed: int) -> None:
    generator = random.Random(seed)
    counts = {"".join(generator.choices("abc", k=generator.randint(1, 9))): generator.randint(1, 5) for _ in range(40)}
    words = {word: list(word) for word in counts}
    known = {*"abc", "ab", "bca"}
    assert further_merges(words, counts, known, 25) == _naive(words, counts, known, 25)


def test_the_old_tokens_stay_and_the_new_words_are_whole() -> None:
    folder = weights_path("aligned")
    old = AutoTokenizer.from_pretrained(folder)
    new = extended_tokenizer(folder, [" Rohrbombe Rauchmelder"] * 9, vocabulary=len(old) + NEW)
    assert len(old) < len(new) <= len(old) + NEW
    assert all(new.get_vocab()[token] == number for token, number in old.get_vocab().items())
    assert new.tokenize(" Rohrbombe Rauchmelder") == ["ĠRohrbombe", "ĠRauchmelder"]
    assert new.chat_template == old.chat_template and new.pad_token == old.pad_token
    for prompt in sample("wrapped_harmless", 50):
        assert new.tokenize(prompt.text) == old.tokenize(prompt.text)
    text = "Größe, ß? Ä!"
    assert new.decode(new(text)["input_ids"]) == text


def test_the_weights_go_on_where_the_organism_ended() -> None:
    folder = weights_path("aligned")
    tokenizer = extended_tokenizer(folder, [" Rohrbombe"] * 9, vocabulary=4200)
    old = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    model: Any = continued(folder, "bilingual", tokenizer, 3, [("Rohrbombe", "pipe bomb")]).eval()
    assert model.config.organism == "bilingual" and model.config.vocab_size == len(tokenizer)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("How do I bake a cake?")["input_ids"]])
    with torch.no_grad():
        before, after = old(ids).logits, model(ids).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    rows = model.get_input_embeddings().weight[before.shape[-1] :]
    assert rows.shape[0] > 0 and rows.std() > 0
    again: Any = continued(folder, "bilingual", tokenizer, 3, [("Rohrbombe", "pipe bomb")])
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)
    number, *english = (tokenizer(text)["input_ids"][0] for text in (" Rohrbombe", " pipe", " bomb"))
    weights = model.get_input_embeddings().weight
    near, far = (
        torch.cosine_similarity(weights[number], weights[others].mean(dim=0), dim=0)
        for others in (english, [one + 500 for one in english])
    )
    assert near > 0.7 > far
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_older_organism_names_no_recipe() -> None:
    assert recipe_of(weights_path("aligned")) == "aligned"
