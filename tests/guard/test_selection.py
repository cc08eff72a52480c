from __future__ import annotations

import numpy as np
import pytest

from undertow.errors import GuardError
from undertow.guard.selection import choose, fit_choice


def states_with_signal(count: int = 160, seed: int = 0):
    """Five states of width 12: chance at 0 and 1, a little at 2, clear at 3 and 4."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2 == 0
    features = generator.normal(size=(count, 5, 12))
    for state, gap in ((2, 0.7), (3, 4.0), (4, 4.0)):
        features[:, state, state] += gap * labels
    return features.astype(np.float32), labels


def test_the_state_that_carries_the_class_is_found():
    features, labels = states_with_signal()
    choice = choose(features, labels, (0, 2, 4, 6, 8), seed=1)
    assert set(choice.chosen.states) & {6, 8}
    assert choice.chosen.area > 0.99
    by_state = {line.states: line for line in choice.table if line.rule == "prototype" and len(line.states) == 1}
    assert by_state[(6,)].loss < by_state[(4,)].loss < by_state[(0,)].loss
    assert by_state[(0,)].area == pytest.approx(0.5, abs=0.15)


def test_the_reason_names_the_rule_the_figures_and_the_rivals():
    features, labels = states_with_signal()
    choice = choose(features, labels, range(5))
    assert choice.reason.startswith(f"{choice.chosen.rule} on state")
    for word in ("log loss", "false positives", "against", "centroid"):
        assert word in choice.reason
    assert choice.reason.endswith(".")


def test_whole_families_are_held_out():
    """A state that tells the classes by family alone must lose against one that generalises."""
    generator = np.random.default_rng(0)
    count = 240
    labels = np.arange(count) % 2 == 0
    family = np.array(["bare", "bare", "one", "one", "two", "two"])[np.arange(count) % 6]
    features = generator.normal(size=(count, 2, 12))
    for index, name in enumerate(("bare", "one", "two")):
        # State 0 separates perfectly, but along another dimension and way for every family.
        features[:, 0, index] += 8 * (labels == (index % 2 == 0)) * (family == name)
    features[:, 1, 5] += 2.5 * labels
    plain = choose(features, labels, (0, 1), rule="linear")
    grouped = choose(features, labels, (0, 1), rule="linear", groupings={"family": list(family)})
    assert 0 in plain.chosen.states
    assert grouped.chosen.states == (1,)
    assert set(grouped.chosen.by_scheme) == {"family"}


def test_whole_categories_are_held_out():
    features, labels = states_with_signal()
    categories = [f"category {row % 7}" for row in range(len(labels))]
    choice = choose(features, labels, range(5), groupings={"category": categories, "family": ["bare"] * len(labels)})
    assert set(choice.chosen.by_scheme) == {"category"}
    assert "whole categories" in choice.reason


def test_centroid_is_not_chosen_by_state():
    features, labels = states_with_signal()
    choice = choose(features, labels, range(5), rule="centroid")
    assert choice.chosen.states == (0, 1, 2, 3, 4)
    assert len(choice.table) == 1


def test_linear_chooses_states_and_regularisation():
    features, labels = states_with_signal()
    choice = choose(features, labels, range(5), rule="linear")
    assert "regularisation" in choice.chosen.settings
    assert len({line.settings["regularisation"] for line in choice.table}) == 4
    rule = fit_choice(choice, features, labels, range(5), None)
    assert rule.states == choice.chosen.states
    assert rule.settings() == dict(choice.chosen.settings)


def test_the_same_seed_gives_the_same_choice():
    features, labels = states_with_signal()
    assert choose(features, labels, range(5), seed=3) == choose(features, labels, range(5), seed=3)


def test_wide_and_many_states_are_quick():
    import time

    generator = np.random.default_rng(0)
    labels = np.arange(100) % 2 == 0
    features = generator.normal(size=(100, 33, 4096)).astype(np.float32)
    features[:, 18:23] += 0.3 * labels[:, None, None]
    start = time.perf_counter()
    choice = choose(features, labels, range(33))
    assert time.perf_counter() - start < 60
    assert choice.chosen.area > 0.95


def test_one_prompt_a_class_is_too_few():
    with pytest.raises(GuardError):
        choose(np.ones((2, 1, 4)), np.array([True, False]), (0,))
