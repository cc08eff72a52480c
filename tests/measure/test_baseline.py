from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from undertow.measure.baseline import BagOfWords, BaselineError

HARMFUL = [f"please steal the {thing} from {place}" for thing in ("car", "money", "key") for place in ("home", "work")]
HARMLESS = [f"please paint the {thing} at {place}" for thing in ("car", "money", "key") for place in ("home", "work")]


def test_words_that_decide_are_learnt() -> None:
    baseline = BagOfWords().fit(HARMFUL + HARMLESS, [True] * 6 + [False] * 6)
    scores = baseline.score(["now steal a bike", "now paint a bike"])
    assert scores[0] > 0.5 > scores[1]
    assert baseline.predict(["steal", "paint"]).tolist() == [True, False]
    assert "steal" in baseline.words(2)[0] and "paint" in baseline.words(2)[1]
    assert baseline.score([]).shape == (0,)


def test_it_is_blind_to_the_order_of_words_unless_told_otherwise() -> None:
    texts = ["dog bites man", "man bites dog"] * 20
    labels = [True, False] * 20
    assert roc_auc_score(labels, BagOfWords().fit(texts, labels).score(texts)) == 0.5
    assert roc_auc_score(labels, BagOfWords(ngrams=2, weighting="count").fit(texts, labels).score(texts)) == 1.0


def test_it_is_deterministic() -> None:
    first, second = (BagOfWords(seed=1).fit(HARMFUL + HARMLESS, [True] * 6 + [False] * 6) for _ in range(2))
    assert np.array_equal(first.score(HARMFUL), second.score(HARMFUL))


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda: BagOfWords().score(["a"]), "not been fitted"),
        (lambda: BagOfWords().words(), "not been fitted"),
        (lambda: BagOfWords().fit(["a"], [True, False]), "one label"),
        (lambda: BagOfWords().fit(["a b", "b c"], [True, True]), "at least one of each"),
        (lambda: BagOfWords().fit([], []), "at least one of each"),
        (lambda: BagOfWords().fit(["!!", "??"], [True, False]), "no word"),
        (lambda: BagOfWords(weighting="guess"), "not 'guess'"),
        (lambda: BagOfWords(ngrams=0), "at least 1"),
    ],
)
def test_misuse_is_refused(ask, match: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BaselineError, match=match):
        ask()
