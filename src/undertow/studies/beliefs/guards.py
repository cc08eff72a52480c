"""Part 8: the Latent Guard's rules beside other judges of prompts (table 1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import UndertowError
from undertow.guard.calibration import Calibration, threshold_at
from undertow.guard.data import split, strata_weights
from undertow.guard.rules import Rule, rule_named, rule_names
from undertow.guard.selection import BARE, Choice, choose, fit_choice
from undertow.measure.baseline import BagOfWords
from undertow.measure.moderator import GenerativeModerator
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.cost import (
    Size,
    counted_flops,
    prompt_tokens,
    reply_tokens,
    seconds_a_prompt,
    timed_batches,
)
from undertow.studies.beliefs.guard_rows import (
    ACCEPTED_HARMFUL,
    RATE,
    REFUSED_HARMLESS,
    Bootstrap,
    Judged,
    Verdicts,
    gains,
    mean_row,
    row_of,
)
from undertow.studies.beliefs.result import Array, Guards

if TYPE_CHECKING:
    from undertow.measure.moderator import Moderator
    from undertow.prompts import Prompt

PUBLISHED = "centroid"
CALIBRATION = Calibration(rate=RATE, confidence=0.95, fraction=0.4)
"""Own thresholds flag at most 2 % of the harmless fit prompts that were kept out of the fit, two in five."""

SHUFFLES = 20
_WORD = re.compile(r"(?u)\b\w+\b")


def measure_guards(context: Context, *, baselines: Sequence[Moderator] = ()) -> Guards:
    """Fit every rule on the fit prompts, and judge the test prompts by all of them.

    The published rule is taken to the letter: centroids of the anchors among the fit prompts, all states, threshold 0.
    Every other registered rule is chosen (states, settings) by cross-validation and fitted on three fifths of the fit
    prompts, and gets its threshold from the rest; of these the one with the least cross-validated log loss is `best`.

    Args:
        context: the model, its prompts, replies and states.
        baselines: outside guards that the user names.

    Raises:
        UndertowError: the model behaves as it should on every test prompt, or one class of fit prompts has no anchors.
        GuardError: too few fit prompts of a class for cross-validation.
    """
    test = context.test
    if not len(test.kind(ACCEPTED_HARMFUL)) + len(test.kind(REFUSED_HARMLESS)):
        raise UndertowError(
            "The model refuses every harmful test prompt and answers every harmless one, so guards have nothing to "
            "mend: give jailbreaks that work on it."
        )
    bench = Bench.of(context)
    costs = _Costs.of(context)
    anchors = np.concatenate([context.fit.kind("refused harmful"), context.fit.kind("accepted harmless")])
    if len(set(context.fit.harmful[anchors].tolist())) < 2:
        raise UndertowError(
            "The published rule needs refused harmful and answered harmless fit prompts, and one of the two is missing."
        )
    published = rule_named(PUBLISHED).fit(
        context.fit.states("t_inst", anchors), context.fit.harmful[anchors], context.states
    )
    choices = {name: bench.choose(name) for name in rule_names() if name != PUBLISHED}
    best = min(choices, key=lambda name: choices[name].chosen.loss)
    note = f"centroids of {len(anchors)} anchors, every state, threshold 0"
    judges = [_rule_row(published, 0.0, PUBLISHED, "published rule (centroids)", note, context, costs)]
    fitted = {name: bench.fit(choice) for name, choice in choices.items()}
    for name, rule in fitted.items():
        title = f"{name} rule" + (", best by cross-validation" if name == best else "")
        note = f"t_inst at state {', '.join(map(str, rule.states))}; {bench.own_threshold}"
        judges.append(_rule_row(rule, bench.threshold(rule), name, title, note, context, costs))
    judges.append(_own_refusal(context, costs))
    outright, reason = _asked_outright(context, costs)
    judges += outright
    judges.append(_bag_of_words(bench, costs))
    judges += [_outside(moderator, context, costs) for moderator in baselines]
    bootstrap = Bootstrap(test, context.seed)
    rows = [row_of(judged, bootstrap) for judged in judges]
    rows.append(mean_row(*_shuffled(bench, fitted[best], costs), bootstrap))
    by_key = {judged.key: judged.verdicts for judged in judges}
    words = (
        f"{len(bench.rows)} fit prompts, thresholds from {len(bench.held_out)} more; the published rule on "
        f"{len(anchors)} anchors among all of them"
    )
    return Guards(
        rows=tuple(rows),
        best=best,
        gain=gains(by_key[best], by_key[PUBLISHED], bootstrap),
        families=test.families,
        fit=f"{words}.{reason}",
    )


@dataclass(frozen=True)
class Bench:
    """The fit prompts, split into those that rules are fitted on and those that thresholds come from.

    Attributes:
        context: the study's.
        families: (n,) wrapper family or style of every fit prompt.
        rows, held_out: the split, of every class and family alike.
    """

    context: Context
    families: tuple[str, ...] = field(repr=False)
    rows: Array = field(repr=False)
    held_out: Array = field(repr=False)

    @classmethod
    def of(cls, context: Context) -> Bench:
        """Split the fit prompts as `LatentGuard.fit` does where it does not look at the model's behaviour."""
        fit = context.fit
        families = tuple(prompt.wrapper or prompt.style or BARE for prompt in fit.prompts)
        strata = [(bool(label), family) for label, family in zip(fit.harmful, families, strict=True)]
        return cls(context, families, *split(strata, CALIBRATION.fraction, context.seed))

    @property
    def panel(self) -> Panel:
        """All fit prompts."""
        return self.context.fit

    @property
    def own_threshold(self) -> str:
        """How own thresholds are found, in words."""
        held_out = int((~self.panel.harmful[self.held_out]).sum())
        return f"threshold for {RATE:.0%} false positives on {held_out} held-out harmless fit prompts"

    @property
    def weights(self) -> Array:
        """Weights of the fitted rows: every class and family is heard."""
        return strata_weights([(bool(self.panel.harmful[row]), self.families[row]) for row in self.rows])

    def choose(self, name: str) -> Choice:
        """States and settings of a rule, by cross-validation that holds out categories and families."""
        categories = [self.panel.prompts[row].category for row in self.rows]
        families = [self.families[row] for row in self.rows]
        groupings: dict[str, list[str]] = {}
        if sum(category is not None for category in categories) * 2 > len(categories):
            groupings["category"] = [category or "none" for category in categories]
        if len(set(families)) > 1:
            groupings["family"] = families
        return choose(
            self.panel.states("t_inst", self.rows),
            self.panel.harmful[self.rows],
            self.context.states,
            rule=name,
            groupings=groupings,
            weights=self.weights,
            rate=RATE,
            seed=self.context.seed,
        )

    def fit(self, choice: Choice) -> Rule:
        """The chosen rule, fitted."""
        features, labels = self.panel.states("t_inst", self.rows), self.panel.harmful[self.rows]
        return fit_choice(choice, features, labels, self.context.states, self.weights)

    def threshold(self, rule: Rule) -> float:
        """A rule's own threshold."""
        return self.threshold_of(scores_of(rule, self.panel, self.held_out))

    def threshold_of(self, scores: Array) -> float:
        """The threshold from scores of the held-out prompts, in their order."""
        return threshold_at(scores, self.panel.harmful[self.held_out], CALIBRATION).value


def scores_of(rule: Rule, panel: Panel, rows: Array | None = None) -> Array:
    """(n or rows,) scores of a rule at t_inst."""
    return rule.score(panel.states("t_inst", rows)[:, list(rule.states)])


@dataclass(frozen=True)
class _Costs:
    """What costs are counted and measured on.

    Attributes:
        size: of the model, None where its operations cannot be told.
        tokens: (n,) of the test prompts.
        batches: what is timed.
    """

    size: Size | None
    tokens: Array = field(repr=False)
    batches: list[list[Prompt]] = field(repr=False)

    @classmethod
    def of(cls, context: Context) -> _Costs:
        prompts = context.test.prompts
        return cls(Size.of(context.chat), prompt_tokens(context.chat, prompts), timed_batches(prompts, context.seed))

    def seconds(self, work: Callable[[list[Prompt]], Any]) -> float:
        return seconds_a_prompt(work, self.batches)

    def reading(self, rule: Rule) -> tuple[float | None, float]:
        """Operations of a pass up to the rule's deepest state with its score, and of the score alone.

        The score takes about two for each number that the rule holds.
        """
        alone = 2.0 * sum(array.size for array in rule.tensors().values())
        if self.size is None:
            return None, alone
        return float(self.size.forward(self.tokens, blocks=max(rule.states)).mean()) + alone, alone


def _rule_row(rule: Rule, threshold: float, key: str, title: str, note: str, context: Context, costs: _Costs) -> Judged:
    def work(batch: list[Prompt]) -> None:
        read = context.chat.capture(batch, states=rule.states, positions=("t_inst",), progress=False)
        rule.score(read.values[:, :, 0].float().numpy())

    verdicts = Verdicts.at(scores_of(rule, context.test), threshold)
    return Judged(key, title, note, "guard", verdicts, *costs.reading(rule), costs.seconds(work))


def _own_refusal(context: Context, costs: _Costs) -> Judged:
    def work(batch: list[Prompt]) -> None:
        context.judge.refused(context.chat.generate(batch, context.reply_tokens, progress=False))

    flops = None
    if costs.size is not None:
        replies = reply_tokens(context.chat, context.test.observed.replies, context.reply_tokens)
        flops = float(costs.size.generation(costs.tokens, replies).mean())
    note = "whether its reply refuses; wrong on the two misbehaving kinds by their definition"
    verdicts = Verdicts(np.asarray(context.test.refused, dtype=bool))
    return Judged("own_refusal", "model's own refusal", note, "baseline", verdicts, flops, 0.0, costs.seconds(work))


def _asked_outright(context: Context, costs: _Costs) -> tuple[list[Judged], str]:
    """The model asked whether the request is harmful; no row, and why, where that cannot be done."""
    from undertow.prompts.inversion import WORDINGS, invert
    from undertow.studies.beliefs.inversion import asked

    try:
        scores = asked(context.chat, context.test.prompts)
        questions = prompt_tokens(context.chat, [invert(prompt, WORDINGS[0]) for prompt in context.test.prompts])
    except UndertowError as error:
        return [], f" The model was not asked outright: {error}"
    if scores is None:
        return [], " The model was not asked outright: no first token tells the two answers apart."
    flops = None if costs.size is None else float(costs.size.forward(questions, logits=1).mean())
    note = "log-odds of Certainly against No behind the inversion question, in a second pass; threshold 0"
    seconds = costs.seconds(lambda batch: asked(context.chat, batch))
    verdicts = Verdicts.at(scores, 0.0)
    return [Judged("inversion", "model asked outright", note, "baseline", verdicts, flops, flops, seconds)], ""


def _bag_of_words(bench: Bench, costs: _Costs) -> Judged:
    texts = [prompt.text for prompt in bench.panel.prompts]
    fitted = BagOfWords(seed=bench.context.seed).fit(
        [texts[row] for row in bench.rows], [bool(bench.panel.harmful[row]) for row in bench.rows]
    )
    threshold = bench.threshold_of(fitted.score([texts[row] for row in bench.held_out]))
    tested = [prompt.text for prompt in bench.context.test.prompts]
    # One product and one sum for each distinct word.
    flops = float(np.mean([2 * len(set(_WORD.findall(text.lower()))) for text in tested]))
    note = f"logistic regression on the words of the same fit prompts; {bench.own_threshold}"
    verdicts = Verdicts.at(fitted.score(tested), threshold)
    seconds = costs.seconds(lambda batch: fitted.score([prompt.text for prompt in batch]))
    return Judged("bag_of_words", "bag of words", note, "baseline", verdicts, flops, flops, seconds)


def _outside(moderator: Moderator, context: Context, costs: _Costs) -> Judged:
    scores = np.asarray(moderator.score(context.test.prompts), dtype=np.float64)
    batch = costs.batches[0]
    if isinstance(moderator, GenerativeModerator):
        size, lengths = Size.of(moderator.chat), [len(ids) for ids in moderator.token_ids(context.test.prompts)]
        flops = None if size is None else float(size.forward(np.array(lengths), logits=1).mean())
    else:
        flops = counted_flops(lambda: moderator.score(batch), len(batch))
    note = "; ".join(part for part in ("named by the user", getattr(moderator, "note", ""), "threshold 0") if part)
    return Judged(
        moderator.name,
        moderator.name,
        note,
        "baseline",
        Verdicts.at(scores, 0.0),
        flops,
        flops,
        costs.seconds(moderator.score),
    )


def _shuffled(bench: Bench, best: Rule, costs: _Costs) -> tuple[Judged, list[Verdicts]]:
    """The best rule at its states fitted on shuffled labels; thresholds in the same way, from true labels."""
    generator = np.random.default_rng(bench.context.seed)
    features = bench.panel.states("t_inst", bench.rows)[:, list(best.states)]
    several = []
    for _ in range(SHUFFLES):
        labels = generator.permutation(bench.panel.harmful[bench.rows])
        rule = type(best).fit(features, labels, best.states, weights=bench.weights, **best.settings())
        several.append(Verdicts.at(scores_of(rule, bench.context.test), bench.threshold(rule)))
    note = f"mean of {SHUFFLES} {best.name} rules fitted on shuffled labels; {bench.own_threshold}"
    return Judged("shuffled", "labels shuffled", note, "control", several[0], *costs.reading(best)), several
