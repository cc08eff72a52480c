"""Directions and what tokens carry along them."""

from __future__ import annotations

import torch

from undertow.organism.built.features import CONSTANT, CUE, Features, draw_features, embeddings, unembeddings
from undertow.organism.built.spec import Spec
from undertow.organism.built.words import TOPICS, vocabulary

WORDS = {word: index for index, word in enumerate(vocabulary())}


def made(tags: int = 3) -> tuple[Features, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    features = draw_features(Spec(), tags, generator)
    return features, embeddings(features, generator), unembeddings(features, generator)


def test_features_are_an_orthonormal_basis_of_the_stream() -> None:
    features, _, _ = made()
    single = [features.constant, features.salient, features.detection, features.routing, features.refusal, features.cue]
    rows = torch.cat(
        [torch.stack(single), features.topics, features.tags, torch.stack(list(features.next.values())), features.rest]
    )
    assert rows.shape == (80, 80) and torch.allclose(rows @ rows.T, torch.eye(80), atol=1e-5)


def test_words_carry_what_they_should() -> None:
    features, table, _ = made()
    along = table @ features.detection
    for topic, direction in zip(TOPICS, features.topics, strict=True):
        sensitive, harmless = ([WORDS[w] for w in words] for words in (topic.sensitive, topic.harmless))
        assert 0.85 <= along[sensitive].min() < along[sensitive].max() <= 1.15
        assert along[harmless].abs().max() <= 0.06
        assert (table[sensitive + harmless] @ direction).min() > 0.75
        assert (table[sensitive + harmless] @ features.salient).min() > 0.95
    others = [
        index
        for word, index in WORDS.items()
        if not any(word in (*t.sensitive, *t.harmless, *t.places) for t in TOPICS)
    ]
    assert along[others].abs().max() < 1e-4 and (table[others] @ features.salient).abs().max() < 1e-4
    assert torch.allclose(table @ features.constant, torch.full((len(WORDS),), CONSTANT), atol=1e-3)
    assert (table @ features.cue).argmax() == WORDS["\n"] and abs(float((table @ features.cue).max()) - CUE) < 1e-4


def test_the_unembedding_reads_refusal_and_neither_detection_nor_routing() -> None:
    features, _, table = made()
    difference = table[WORDS["Sorry"]] - table[WORDS["Sure"]]
    assert abs(float(difference @ features.refusal) - 4) < 1e-4
    for direction in (features.detection, features.routing, features.constant):
        assert (table @ direction).abs().max() < 1e-5


def test_every_word_of_a_reply_calls_for_the_next() -> None:
    _, table, readout = made()
    for here, there in (("Sorry", ","), (",", "I"), ("I", "cannot"), ("cannot", "help"), ("help", "."), ("Sure", ".")):
        assert int((readout @ table[WORDS[here]]).argmax()) == WORDS[there]
    assert int((readout @ table[WORDS["."]]).argmax()) == WORDS["<|im_end|>"]
