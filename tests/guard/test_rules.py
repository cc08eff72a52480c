from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from undertow.errors import GuardError
from undertow.guard.rules import CentroidRule, LinearRule, PrototypeRule, Rule, register_rule, rule_named, rule_names
from undertow.guard.rules.base import normalised_weights
from undertow.guard.rules.prototype import ledoit_wolf


def clusters(count: int, states: int, width: int, seed: int = 0, gap: float = 1.0):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % 2 == 0)
    scale = np.exp(generator.normal(size=(states, width)))
    features = generator.normal(size=(count, states, width)) * scale + 3 * generator.normal(size=(states, width))
    features += gap * labels[:, None, None] * generator.normal(size=(states, width)) * scale
    return features.astype(np.float32), labels


def test_centroid_is_the_published_formula_written_out():
    features, labels = clusters(40, 5, 24)
    rule = CentroidRule.fit(features[:30], labels[:30], range(5))
    for row in range(30, 40):
        total = 0.0
        for state in range(5):
            h = features[row, state].astype(float)
            a = features[:30, state][labels[:30]].mean(0, dtype=float)
            b = features[:30, state][~labels[:30]].mean(0, dtype=float)
            total += h @ a / np.sqrt(h @ h) / np.sqrt(a @ a) - h @ b / np.sqrt(h @ h) / np.sqrt(b @ b)
        assert rule.score(features[row : row + 1])[0] == pytest.approx(total / 5, abs=1e-6)


def test_centroid_ignores_weights():
    features, labels = clusters(30, 3, 8)
    plain = CentroidRule.fit(features, labels, range(3))
    weighted = CentroidRule.fit(features, labels, range(3), weights=np.linspace(1, 9, 30))
    np.testing.assert_array_equal(plain.score(features), weighted.score(features))


@pytest.mark.parametrize(("count", "width"), [(300, 12), (40, 90)])
def test_ledoit_wolf_equals_sklearn_in_both_shapes(count, width):
    rows = np.random.default_rng(1).normal(size=(count, width)) * np.linspace(0.1, 4, width)
    rows -= rows.mean(0)
    shrinkage, variance = ledoit_wolf(rows, width)
    assert shrinkage == pytest.approx(ledoit_wolf_shrinkage(rows, assume_centered=True), rel=1e-9)
    assert variance == pytest.approx(np.trace(rows.T @ rows / count) / width)


def test_ledoit_wolf_after_a_rotation_into_fewer_dimensions():
    rows = np.random.default_rng(2).normal(size=(30, 100))
    rows -= rows.mean(0)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    assert ledoit_wolf(left * values, 100)[0] == pytest.approx(ledoit_wolf(rows, 100)[0], rel=1e-9)


@pytest.mark.parametrize(("count", "width"), [(200, 10), (30, 80)])
def test_prototype_is_the_mahalanobis_difference(count, width):
    features, labels = clusters(count, 2, width)
    rule = PrototypeRule.fit(features, labels, (3, 5))
    weights = normalised_weights(labels, None)
    expected = np.zeros(count)
    for state in range(2):
        block = features[:, state].astype(float)
        mean = np.average(block, axis=0, weights=weights)
        deviation = np.sqrt(np.average((block - mean) ** 2, axis=0, weights=weights))
        rows = (block - mean) / deviation
        means = {side: rows[labels == side].mean(0) for side in (True, False)}
        residuals = np.where(labels[:, None], rows - means[True], rows - means[False])
        covariance = LedoitWolf(assume_centered=True).fit(residuals).covariance_
        inverse = np.linalg.inv(covariance)
        distances = {side: np.einsum("nd,de,ne->n", rows - mean, inverse, rows - mean) for side, mean in means.items()}
        expected += (distances[False] - distances[True]) / 2 / 2
    np.testing.assert_allclose(rule.score(features), expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("count", "width"), [(120, 15), (40, 300), (300, 270)])
def test_linear_equals_sklearn_on_standardised_features(count, width):
    features, labels = clusters(count, 1, width)
    rule = LinearRule.fit(features, labels, (4,), regularisation=0.1)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, tol=1e-8))
    pipeline.fit(features[:, 0].astype(float), labels)
    np.testing.assert_allclose(rule.score(features), pipeline.decision_function(features[:, 0]), rtol=1e-3, atol=1e-3)


def test_several_states_average_their_logits():
    features, labels = clusters(80, 3, 6)
    together = LinearRule.fit(features, labels, (0, 1, 2)).score(features)
    alone = [LinearRule.fit(features[:, [s]], labels, (s,)).score(features[:, [s]]) for s in range(3)]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-9)


@pytest.mark.parametrize("name", ["centroid", "prototype", "linear"])
def test_arrays_round_trip_bit_for_bit(name):
    features, labels = clusters(60, 3, 9)
    rule = rule_named(name).fit(features, labels, (1, 2, 4))
    again = rule_named(name).from_tensors(rule.tensors(), rule.states, rule.settings())
    assert again.states == (1, 2, 4)
    assert all(array.dtype == np.float32 for array in rule.tensors().values())
    np.testing.assert_array_equal(rule.score(features), again.score(features))


@pytest.mark.parametrize("name", ["centroid", "prototype", "linear"])
def test_a_score_does_not_depend_on_what_stands_beside_it(name):
    features, labels = clusters(700, 2, 16)
    rule = rule_named(name).fit(features, labels, (0, 1))
    together = rule.score(features)
    alone = np.concatenate([rule.score(features[row : row + 1]) for row in range(0, 700, 50)])
    np.testing.assert_allclose(together[::50], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["prototype", "linear"])
def test_rules_are_not_fooled_by_the_scale_of_a_dimension(name):
    """A massive-activation dimension changes nothing, as features are standardised."""
    features, labels = clusters(100, 1, 12)
    huge = features.copy()
    huge[:, :, 3] *= 4096
    plain = rule_named(name).fit(features, labels, (0,)).score(features)
    scaled = rule_named(name).fit(huge, labels, (0,)).score(huge)
    np.testing.assert_allclose(plain, scaled, rtol=1e-3, atol=1e-3 * np.abs(plain).max())


@pytest.mark.parametrize("name", ["prototype", "linear"])
def test_constant_dimensions_and_more_dimensions_than_rows_stay_finite(name):
    features, labels = clusters(20, 1, 500)
    features[:, :, :100] = 7.0
    scores = rule_named(name).fit(features, labels, (0,)).score(features)
    assert np.isfinite(scores).all()
    assert ((scores > np.median(scores)) == labels).mean() > 0.9


@pytest.mark.parametrize("rule", [PrototypeRule, LinearRule])
def test_a_wide_state_is_fast(rule):
    features, labels = clusters(100, 1, 4096)
    start = time.perf_counter()
    rule.fit(features, labels, (0,))
    assert time.perf_counter() - start < 2


def test_a_wrong_shape_is_refused():
    features, labels = clusters(30, 2, 8)
    rule = PrototypeRule.fit(features, labels, (0, 1))
    with pytest.raises(GuardError, match="reads 2 states of width 8"):
        rule.score(features[:, :1])


@pytest.mark.parametrize("damage", ["missing", "axes", "states", "nan", "widths"])
def test_damaged_arrays_are_refused(damage):
    features, labels = clusters(30, 2, 8)
    tensors = PrototypeRule.fit(features, labels, (0, 1)).tensors()
    if damage == "missing":
        del tensors["bias"]
    elif damage == "axes":
        tensors["weight"] = tensors["weight"][0]
    elif damage == "states":
        tensors["weight"] = tensors["weight"][:1]
    elif damage == "nan":
        tensors["center"] = tensors["center"] * np.nan
    else:
        tensors["weight"] = tensors["weight"][:, :5]
    with pytest.raises(GuardError):
        PrototypeRule.from_tensors(tensors, (0, 1), {})


def test_an_unknown_rule_names_those_that_exist():
    with pytest.raises(GuardError, match="centroid"):
        rule_named("guesswork")


def test_a_rule_can_be_registered():
    @register_rule
    class Norm(CentroidRule):
        name = "norm-of-test"

    try:
        assert "norm-of-test" in rule_names()
        assert issubclass(rule_named("norm-of-test"), Rule)
    finally:
        from undertow.guard.rules import base

        del base._REGISTRY["norm-of-test"]
