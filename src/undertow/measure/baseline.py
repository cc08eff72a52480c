"""The baseline that sees words only: bag-of-words logistic regression (scikit-learn)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from undertow.errors import UndertowError


class BaselineError(UndertowError):
    """A baseline is fitted on too little, or asked before it is fitted."""


class BagOfWords:
    """Logistic regression on the words of a prompt, whatever their order; blind to anything compositional.

    Args:
        ngrams: Longest run of words counted as one feature; 1 is the bag of words.
        weighting: "tfidf" or "count".
        regularisation: Inverse strength C of the L2 penalty.
        seed: Seed of the solver.
    """

    name = "bag-of-words"

    def __init__(
        self, *, ngrams: int = 1, weighting: str = "tfidf", regularisation: float = 1.0, seed: int = 0
    ) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        if weighting not in ("tfidf", "count"):
            raise BaselineError(f"Words are weighted by 'tfidf' or 'count', not '{weighting}'.")
        if ngrams < 1:
            raise BaselineError(f"The longest run of words must be at least 1, not {ngrams}.")
        kind = TfidfVectorizer if weighting == "tfidf" else CountVectorizer
        words = kind(lowercase=True, ngram_range=(1, ngrams), token_pattern=r"(?u)\b\w+\b")
        regression = LogisticRegression(C=regularisation, class_weight="balanced", max_iter=1000, random_state=seed)
        self._pipeline = make_pipeline(words, regression)
        self._fitted = False

    def fit(self, texts: Sequence[str], harmful: Sequence[bool]) -> BagOfWords:
        """Fit on labelled texts and return self.

        Raises:
            BaselineError: If the lists differ in length, one of the kinds is missing, or no text holds a word.
        """
        labels = np.asarray(harmful, dtype=bool)
        if len(texts) != labels.size:
            raise BaselineError(f"The baseline got {len(texts)} texts and {labels.size} labels: give one label a text.")
        if labels.size == 0 or labels.all() or not labels.any():
            raise BaselineError("The baseline needs harmful and harmless texts, at least one of each.")
        try:
            self._pipeline.fit(list(texts), labels)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            raise BaselineError("The baseline found no word in any of the texts.") from None
        self._fitted = True
        return self

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of being harmful, (n,), float64.

        Raises:
            BaselineError: If it has not been fitted.
        """
        if not self._fitted:
            raise BaselineError("The baseline has not been fitted yet: call fit(texts, harmful) first.")
        return self._pipeline.predict_proba(list(texts))[:, 1] if len(texts) else np.zeros(0)

    def predict(self, texts: Sequence[str], threshold: float = 0.5) -> np.ndarray:
        """Return whether each text's probability is at or above the threshold, (n,), bool.

        Raises:
            BaselineError: If it has not been fitted.
        """
        return self.score(texts) >= threshold

    def words(self, count: int = 10) -> tuple[list[str], list[str]]:
        """Return the words that speak most for harmful and most for harmless.

        Raises:
            BaselineError: If it has not been fitted.
        """
        if not self._fitted:
            raise BaselineError("The baseline has not been fitted yet: call fit(texts, harmful) first.")
        names = self._pipeline[0].get_feature_names_out()
        order = np.argsort(self._pipeline[1].coef_[0])
        return [str(names[i]) for i in order[::-1][:count]], [str(names[i]) for i in order[:count]]
