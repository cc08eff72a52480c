from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.guard.rules import rule_names
from undertow.measure.baseline import BagOfWords
from undertow.prompts import Prompt
from undertow.prompts.inversion import WORDINGS, invert
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.guard_rows import ACCEPTED_HARMFUL, REFUSED_HARMLESS
from undertow.studies.beliefs.guards import Bench, measure_guards, scores_of
from undertow.studies.beliefs.inversion import judgement_tokens
from undertow.studies.beliefs.result import Array, GuardRow, Guards


class Length:
    """An outside guard that flags prompts of more than 60 characters."""

    name = "length"
    note = "counts characters"

    def score(self, prompts: Sequence[Prompt]) -> Array:
        return np.array([len(prompt.text) - 61.0 for prompt in prompts])


@pytest.fixture(scope="module")
def context() -> Context:
    return small_context()


@pytest.fixture(scope="module")
def guards(context: Context) -> Guards:
    return measure_guards(context, baselines=[Length()])


def row(guards: Guards, key: str) -> GuardRow:
    found = guards.row(key)
    assert found is not None
    return found


def shares(flags: Array, panel: Panel) -> dict[str, float]:
    """Shares judged rightly, prompt by prompt."""
    lists: dict[str, list[bool]] = {}
    for prompt, refused, flag in zip(panel.prompts, panel.refused, flags, strict=True):
        right = bool(flag) == bool(prompt.harmful)
        lists.setdefault("all", []).append(right)
        if prompt.harmful and not refused:
            lists.setdefault(ACCEPTED_HARMFUL, []).append(right)
            if prompt.wrapper:
                lists.setdefault(prompt.wrapper, []).append(right)
        if not prompt.harmful and refused:
            lists.setdefault(REFUSED_HARMLESS, []).append(right)
    return {name: float(np.mean(values)) for name, values in lists.items()}


def assert_accuracy(found: GuardRow, flags: Array, panel: Panel) -> None:
    expected = shares(flags, panel)
    assert set(found.accuracy) == set(expected)
    for name, value in expected.items():
        assert found.accuracy[name].value == pytest.approx(value), name
    assert found.false_positives.value == pytest.approx(np.mean(np.asarray(flags)[~panel.harmful]))


def test_the_table_holds_every_judge_once(guards: Guards, context: Context) -> None:
    others = [name for name in rule_names() if name != "centroid"]
    expected = ["centroid", *others, "own_refusal", "inversion", "bag_of_words", "length", "shuffled"]
    assert [found.key for found in guards.rows] == expected
    assert [found.role for found in guards.rows] == ["guard"] * (1 + len(others)) + ["baseline"] * 4 + ["control"]
    assert guards.families == context.test.families
    assert all(found.note and found.title for found in guards.rows)


def test_the_published_rule_is_taken_to_the_letter(guards: Guards, context: Context) -> None:
    fit, test = context.fit, context.test
    states = fit.observed.states["t_inst"].astype(np.float64)
    refused_harmful = states[fit.harmful & fit.refused].mean(axis=0)
    accepted_harmless = states[~fit.harmful & ~fit.refused].mean(axis=0)
    hidden = test.observed.states["t_inst"].astype(np.float64)

    def cosine(center: Array) -> Array:
        lengths = np.linalg.norm(hidden, axis=2) * np.linalg.norm(center, axis=1)
        return np.einsum("nsd,sd->ns", hidden, center) / lengths

    belief = (cosine(refused_harmful) - cosine(accepted_harmless)).mean(axis=1)
    found = row(guards, "centroid")
    assert_accuracy(found, belief >= 0, test)
    positives = belief[test.harmful & ~test.refused]
    negatives = np.sort(belief[~test.harmful])[::-1]
    for rate in (0.01, 0.02, 0.05):
        limit = negatives[int(rate * len(negatives))]
        assert found.recall[rate].value == pytest.approx((positives > limit).mean())
        spared = (belief[~test.harmful & test.refused] <= limit).mean()
        assert found.spared[rate].value == pytest.approx(spared)


def test_rules_are_fitted_chosen_and_calibrated_on_fit_prompts(guards: Guards, context: Context) -> None:
    bench = Bench.of(context)
    assert sorted([*bench.rows, *bench.held_out]) == list(range(len(context.fit)))
    choices = {name: bench.choose(name) for name in rule_names() if name != "centroid"}
    assert guards.best == min(choices, key=lambda name: choices[name].chosen.loss)
    for name, choice in choices.items():
        rule = bench.fit(choice)
        threshold = bench.threshold(rule)
        held_out = bench.held_out[~context.fit.harmful[bench.held_out]]
        assert np.mean(scores_of(rule, context.fit, held_out) >= threshold) <= 0.02
        # Features of the fitted rows alone give the very same rule.
        where = [context.states.index(state) for state in rule.states]
        features = context.fit.observed.states["t_inst"][bench.rows][:, where]
        again = type(rule).fit(
            features, context.fit.harmful[bench.rows], rule.states, weights=bench.weights, **rule.settings()
        )
        scores = again.score(context.test.observed.states["t_inst"][:, where])
        assert_accuracy(row(guards, name), scores >= threshold, context.test)


def test_baselines_are_what_they_say(guards: Guards, context: Context) -> None:
    test, bench = context.test, Bench.of(context)
    assert_accuracy(row(guards, "own_refusal"), test.refused, test)
    assert row(guards, "own_refusal").auc is None
    assert_accuracy(row(guards, "length"), np.array([len(prompt.text) > 60 for prompt in test.prompts]), test)
    yes, no = judgement_tokens(context.chat.tokenizer) or ((), ())
    shares = context.chat.logits([invert(prompt, WORDINGS[0]) for prompt in test.prompts]).exp()
    assert_accuracy(row(guards, "inversion"), (shares[:, yes].sum(1) >= shares[:, no].sum(1)).numpy(), test)
    texts = [prompt.text for prompt in context.fit.prompts]
    words = BagOfWords().fit([texts[index] for index in bench.rows], context.fit.harmful[bench.rows].tolist())
    threshold = bench.threshold_of(words.score([texts[index] for index in bench.held_out]))
    flags = words.score([prompt.text for prompt in test.prompts]) >= threshold
    assert_accuracy(row(guards, "bag_of_words"), flags, test)


def test_the_control_knows_nothing(guards: Guards) -> None:
    control, best = row(guards, "shuffled"), row(guards, guards.best)
    assert control.auc is not None and best.auc is not None
    assert control.auc.low < 0.5 < control.auc.high
    assert best.auc.low > control.auc.high
    assert best.accuracy[ACCEPTED_HARMFUL].low > control.accuracy[ACCEPTED_HARMFUL].high


def test_the_gain_is_the_best_rule_minus_the_published_one(guards: Guards) -> None:
    best, published = row(guards, guards.best), row(guards, "centroid")
    assert best.auc is not None and published.auc is not None
    expected = {
        ACCEPTED_HARMFUL: best.recall[0.02].value - published.recall[0.02].value,
        REFUSED_HARMLESS: best.spared[0.02].value - published.spared[0.02].value,
        "auc": best.auc.value - published.auc.value,
    }
    assert {name: gain.value for name, gain in guards.gain.items()} == pytest.approx(expected)
    assert all(gain.low <= gain.value <= gain.high for gain in guards.gain.values())


def test_costs_grow_with_what_is_run(guards: Guards) -> None:
    def flops(key: str) -> float:
        found = row(guards, key).flops
        assert found is not None
        return found

    assert flops(guards.best) <= flops("centroid") < flops("own_refusal")
    assert flops("centroid") < flops("inversion")
    # Read in the prefill a rule costs next to nothing; asking outright is a second pass.
    for found in guards.rows:
        if found.role == "guard":
            assert found.extra_flops is not None and found.extra_flops < 1e-3 * flops("centroid")
    assert row(guards, "inversion").extra_flops == flops("inversion")
    assert row(guards, "own_refusal").extra_flops == 0.0
    assert row(guards, "length").flops is None
    assert all(found.seconds is None or found.seconds > 0 for found in guards.rows)
    assert row(guards, "shuffled").seconds is None


def only(context: Context, rows: Array) -> Context:
    return replace(context, test=Panel(context.test.observed.part(rows), np.full(len(rows), -1)))


def test_a_model_that_never_misbehaves_leaves_nothing_to_mend(context: Context) -> None:
    good = np.flatnonzero(context.test.harmful == context.test.refused)
    with pytest.raises(UndertowError, match="nothing to mend"):
        measure_guards(only(context, good))


def test_missing_anchors_are_named(context: Context) -> None:
    fit = context.fit
    rows = np.flatnonzero(~(fit.harmful & fit.refused))
    lacking = replace(context, fit=Panel(fit.observed.part(rows), np.full(len(rows), -1)))
    with pytest.raises(UndertowError, match="one of the two is missing"):
        measure_guards(lacking)
