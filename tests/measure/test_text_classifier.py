from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.builders import PROMPTS, byte_level_tokenizer, tiny_model
from tests.measure.classifiers import save_classifier
from undertow.errors import ModelError
from undertow.measure.text_classifier import HARM_LABELS, REFUSAL_LABELS, TextClassifier, chosen_label


def plain_logits(folder: Path, text: str, limit: int = 10_000) -> torch.Tensor:
    """Logits of one text alone, by transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"][:limit]
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0].double()


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
def test_scores_are_the_log_odds_of_the_label_in_any_batch(tmp_path: Path, kind: str) -> None:
    folder = save_classifier(tmp_path, ["fine", "unsafe", "odd"], kind=kind)
    classifier = TextClassifier.load(str(folder), device="cpu")
    assert classifier.label == "unsafe"
    found = classifier.scores(PROMPTS)
    for text, score in zip(PROMPTS, found, strict=True):
        share = plain_logits(folder, text).softmax(-1)[1]
        assert score == pytest.approx(float(torch.log(share / (1 - share))), abs=1e-4)
    assert np.std(found) > 1e-3
    assert classifier.scores([]).shape == (0,)


def test_a_model_without_a_padding_token_reads_texts_one_by_one(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["safe", "unsafe"], kind="llama", pad=False)
    found = TextClassifier.load(str(folder), device="cpu").scores(PROMPTS)
    for text, score in zip(PROMPTS, found, strict=True):
        logits = plain_logits(folder, text)
        assert score == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)


def test_labels_that_do_not_exclude_one_another_are_read_alone(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["insult", "toxic"], problem_type="multi_label_classification")
    found = TextClassifier.load(str(folder), device="cpu").scores(PROMPTS[:1])
    assert found[0] == pytest.approx(float(plain_logits(folder, PROMPTS[0])[1]), abs=1e-4)


@pytest.mark.parametrize(("kind", "longest"), [("bert", 64), ("roberta", 63)])
def test_long_texts_are_cut_at_the_models_limit(tmp_path: Path, kind: str, longest: int) -> None:
    folder = save_classifier(tmp_path, ["safe", "unsafe"], kind=kind)
    classifier = TextClassifier.load(str(folder), device="cpu")
    long = " ".join(PROMPTS * 6)
    assert classifier.longest == longest
    assert classifier.too_long([PROMPTS[0], long]) == 1
    logits = plain_logits(folder, long, longest)
    assert classifier.scores([long])[0] == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "wanted", "usual", "index"),
    [
        (["SAFE", "UNSAFE"], None, HARM_LABELS, 1),
        (["Rejection", "normal"], None, REFUSAL_LABELS, 0),
        (["LABEL_0", "LABEL_1"], "label_1", HARM_LABELS, 1),
        (["safe", "in jection", "unsafe"], "in-jection", HARM_LABELS, 1),
    ],
)
def test_a_label_is_chosen_by_name_or_guessed(
    labels: list[str], wanted: str | None, usual: tuple[str, ...], index: int
) -> None:
    assert chosen_label(labels, wanted, usual, "x") == index


@pytest.mark.parametrize(
    ("labels", "wanted", "message"),
    [
        (["LABEL_0", "LABEL_1"], None, "LABEL_0, LABEL_1, and none of them"),
        (["toxic", "unsafe", "fine"], None, "toxic, unsafe, fine, and several"),
        (["not_unsafe", "other"], None, "none of them"),
        (["safe", "unsafe"], "harm", "no label 'harm'"),
    ],
)
def test_an_uncertain_label_is_refused_with_the_names(labels: list[str], wanted: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        chosen_label(labels, wanted, HARM_LABELS, "x")


def test_what_is_no_trained_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        TextClassifier.load(str(tmp_path / "nothing"))
    tiny_model("llama").save_pretrained(tmp_path / "plain")
    byte_level_tokenizer().save_pretrained(tmp_path / "plain")
    with pytest.raises(ModelError, match="would be random"):
        TextClassifier.load(str(tmp_path / "plain"), device="cpu")
    folder = save_classifier(tmp_path / "number", ["unsafe"], problem_type="regression")
    with pytest.raises(ModelError, match="predicts a number"):
        TextClassifier.load(str(folder), device="cpu")


def test_scores_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    classifier = TextClassifier.load(str(save_classifier(tmp_path, ["safe", "unsafe"])), device="cpu")
    with torch.no_grad():
        classifier.model.classifier.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not numbers"):
        classifier.scores(PROMPTS)
