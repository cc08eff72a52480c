"""Choosing rule, states and settings by cross-validation that holds out categories and wrapper families."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from undertow.errors import GuardError
from undertow.guard.calibration import fit_platt, recall_at_rate
from undertow.guard.rules.base import Array, Rule, normalised_weights, rule_named, rule_names

BARE = "bare"
"""Name of the group of prompts that carry neither a wrapper nor a style; it is never held out as a whole."""

_SELECTION_ROWS = 2000
_SELECTION_DIMENSIONS = 256
_SELECTION_STATES = 40
_STATES_REFINED = 3
_FOLDS = 5
_TIE = 0.02
_LEAST_TIE = 0.002
_NEAR_CHANCE = 0.6

Split = tuple[Array, Array]


@dataclass(frozen=True)
class Candidate:
    """One line of the table of cross-validated figures.

    Attributes:
        rule: name of the rule.
        states: the model states it reads.
        settings: its settings, such as the regularisation.
        loss: balanced log loss of held-out scores after a two-parameter (Platt) fit, averaged over the ways of holding
            out; lower is better.
        area: area under the ROC curve of the pooled held-out scores, averaged likewise.
        recall: share of the positive class found at the wanted false-positive rate, averaged likewise.
        by_scheme: the recall for every way of holding out.
    """

    rule: str
    states: tuple[int, ...]
    settings: Mapping[str, Any]
    loss: float
    area: float
    recall: float
    by_scheme: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {
            "states": list(self.states),
            "settings": dict(self.settings),
            "by_scheme": dict(self.by_scheme),
        }


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, why, and the whole table."""

    chosen: Candidate
    reason: str
    table: tuple[Candidate, ...]


def choose(
    features: Array,
    labels: Array,
    states: Sequence[int],
    *,
    rule: str = "auto",
    groupings: Mapping[str, Sequence[str]] | None = None,
    weights: Array | None = None,
    rate: float = 0.02,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Choice:
    """Pick rule, states and settings by held-out figures.

    Ways of holding out: `category` (stratified folds of whole categories), `family` (one wrapper family or style at a
    time, always with a share of the bare prompts beside it), and plain stratified folds where neither is known. Every
    candidate is judged by the log loss of the pooled held-out scores, because recall and ROC area saturate long before
    the margin does; within 2 % (and 0.002 nats) of the best the candidate with the shallowest deepest state wins, as
    the forward pass then stops earlier.

    For speed the choice (not the final fit) is made on at most 2,000 rows, 40 states and, state by state, the leading
    256 principal components of the standardised features, found without labels; up to 256 rows or dimensions nothing
    is lost by it. Rules with a grid of settings are tried on all of it at the three best states only.

    Args:
        features: (n, S, d).
        labels: (n,) of bool.
        states: the S state numbers.
        rule: a rule's name, or "auto" for all registered ones that take part in it.
        groupings: "category" and / or "family" -> a group's name for each row; the family `BARE` is never held out as
            a whole.
        weights: (n,) relative row weights.
        rate: false-positive rate at which recall is tabled.
        given: settings of the rule that are not chosen, from `Rule.settings_for`.

    Raises:
        GuardError: an unknown rule, or too few rows of a class to hold any out.
    """
    names = rule_names() if rule == "auto" else (rule,)
    for name in names:
        rule_named(name)
    labels = np.asarray(labels, dtype=bool)
    rows = _selection_rows(labels, seed)
    labels, features = labels[rows], features[rows] if len(rows) < len(features) else features
    given = dict(given or {})
    if rule != "auto":
        features = rule_named(rule).view(features, **given)
    row_weights = normalised_weights(labels, None if weights is None else weights[rows])
    groups = {key: np.asarray(values, dtype=object)[rows] for key, values in (groupings or {}).items()}
    schemes = _schemes(labels, groups, seed)
    judge = _Judge(labels, row_weights, schemes, rate)
    table: list[Candidate] = []
    for name in names:
        if rule_named(name).reads_every_state:
            table.append(judge.whole(rule_named(name), features, states))
    by_state = [name for name in names if not rule_named(name).reads_every_state]
    if by_state:
        table.extend(_try_states(by_state, features, states, judge, seed, advance or (lambda amount: None)))
    best = min(table, key=lambda candidate: candidate.loss)
    # Near perfection a few thousandths of a nat say nothing; near chance every one counts.
    slack = max(_TIE * best.loss, _LEAST_TIE) if best.loss < _NEAR_CHANCE else 0.0
    tied = [candidate for candidate in table if candidate.loss <= best.loss + slack]
    chosen = min(tied, key=lambda candidate: (max(candidate.states), len(candidate.states), candidate.loss))
    chosen = replace(chosen, settings={**given, **chosen.settings})
    return Choice(
        chosen, _reason(chosen, table, tuple(schemes), rate, rule), tuple(sorted(table, key=lambda line: line.loss))
    )


def _try_states(
    names: Sequence[str],
    features: Array,
    states: Sequence[int],
    judge: _Judge,
    seed: int,
    advance: Callable[[int], None],
) -> list[Candidate]:
    least = max(rule_named(name).least_state for name in names)
    indices = [index for index in _spread(len(states), _SELECTION_STATES) if states[index] >= least]
    screening = "prototype" if "prototype" in names else names[0]
    reduced: dict[int, Array] = {}
    screened: dict[int, Candidate] = {}
    for index in indices:
        reduced[index] = _reduce(features[:, index], judge.weights, seed)
        screened[index] = judge.reduced(
            rule_named(screening), reduced, [index], states, rule_named(screening).grid[-1], features.shape[2]
        )
        advance(1)
    ranked = sorted(indices, key=lambda index: screened[index].loss)
    refined = ranked[:_STATES_REFINED]
    table: list[Candidate] = []
    for name in names:
        rule = rule_named(name)
        if name == screening and len(rule.grid) == 1:
            table.extend(screened.values())
        for settings in rule.grid:
            if not (name == screening and len(rule.grid) == 1):
                table.extend(
                    judge.reduced(rule, reduced, [index], states, settings, features.shape[2]) for index in refined
                )
            if len(refined) > 1 and not rule.single_state:
                table.append(judge.reduced(rule, reduced, sorted(refined), states, settings, features.shape[2]))
    return table


class _Judge:
    """Held-out figures of a candidate under every way of holding out."""

    def __init__(self, labels: Array, weights: Array, schemes: Mapping[str, list[Split]], rate: float) -> None:
        self.labels, self.weights, self.schemes, self.rate = labels, weights, schemes, rate

    def whole(self, rule: type[Rule], features: Array, states: Sequence[int]) -> Candidate:
        """Over all states and the full width."""

        def held_out(train: Array, test: Array) -> Array:
            return rule.fit(features[train], self.labels[train], states, weights=self.weights[train]).score(
                features[test]
            )

        return self._candidate(rule.name, tuple(states), {}, held_out)

    def reduced(
        self,
        rule: type[Rule],
        reduced: Mapping[int, Array],
        indices: Sequence[int],
        states: Sequence[int],
        settings: Mapping[str, Any],
        dimension: int,
    ) -> Candidate:
        """At some states, in the space of their leading principal components."""

        def held_out(train: Array, test: Array) -> Array:
            scores = np.zeros(len(test))
            for index in indices:
                block = reduced[index][:, None, :]
                fitted = rule.fit(
                    block[train],
                    self.labels[train],
                    [states[index]],
                    weights=self.weights[train],
                    standardise=False,
                    dimension=dimension,
                    **settings,
                )
                scores += fitted.score(block[test]) / len(indices)
            return scores

        return self._candidate(rule.name, tuple(states[index] for index in indices), settings, held_out)

    def _candidate(
        self, name: str, states: tuple[int, ...], settings: Mapping[str, Any], held_out: Callable[[Array, Array], Array]
    ) -> Candidate:
        from sklearn.metrics import log_loss, roc_auc_score

        losses, areas, recalls = [], [], {}
        for scheme, splits in self.schemes.items():
            scores = np.full(len(self.labels), np.nan)
            for train, test in splits:
                scores[test] = held_out(train, test)
            judged = np.flatnonzero(np.isfinite(scores))
            labels, weights = self.labels[judged], normalised_weights(self.labels[judged], self.weights[judged])
            probabilities = fit_platt(scores[judged], labels, weights).probability(scores[judged])
            losses.append(
                log_loss(labels, np.clip(probabilities, 1e-7, 1 - 1e-7), sample_weight=weights, labels=[False, True])
            )
            areas.append(roc_auc_score(labels, scores[judged], sample_weight=weights))
            recalls[scheme] = recall_at_rate(scores[judged], labels, self.rate)
        return Candidate(
            name,
            states,
            dict(settings),
            float(np.mean(losses)),
            float(np.mean(areas)),
            float(np.mean(list(recalls.values()))),
            recalls,
        )


def _schemes(labels: Array, groups: Mapping[str, Array], seed: int) -> dict[str, list[Split]]:
    found: dict[str, list[Split]] = {}
    if "category" in groups:
        splits = list(_category_splits(labels, groups["category"], seed))
        if _usable(labels, splits):
            found["category"] = splits
    if "family" in groups:
        splits = list(_family_splits(labels, groups["family"], seed))
        if _usable(labels, splits):
            found["family"] = splits
    if not found:
        from sklearn.model_selection import StratifiedKFold

        folds = min(_FOLDS, int(labels.sum()), int((~labels).sum()))
        if folds < 2:
            raise GuardError("Choosing a rule needs at least two prompts of each class; add prompts.")
        found["plain"] = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    return found


def _category_splits(labels: Array, categories: Array, seed: int) -> Iterator[Split]:
    from sklearn.model_selection import StratifiedGroupKFold

    distinct = len(set(categories))
    if distinct < 3:
        return
    codes = np.unique(categories.astype(str), return_inverse=True)[1]
    folds = min(_FOLDS, distinct, int(labels.sum()), int((~labels).sum()))
    if folds < 2:
        return
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, codes):
        if labels[train].any() and not labels[train].all():
            yield train, test


def _family_splits(labels: Array, families: Array, seed: int) -> Iterator[Split]:
    """Each family is held out once, together with an equal share of the bare prompts, so that both classes are
    judged."""
    generator = np.random.default_rng(seed)
    distinct = sorted({str(family) for family in families} - {BARE})
    if not distinct or not (families == BARE).any():
        return
    folds = max(2, len(distinct))
    fold_of = np.empty(len(labels), dtype=int)
    for side in (True, False):
        bare = generator.permutation(np.flatnonzero((families == BARE) & (labels == side)))
        fold_of[bare] = np.arange(len(bare)) % folds
    for number, family in enumerate(distinct):
        fold_of[families == family] = number
    for fold in range(folds):
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        if len(test) and labels[train].sum() >= 2 and (~labels[train]).sum() >= 2:
            yield train, test


def _usable(labels: Array, splits: Sequence[Split]) -> bool:
    if len(splits) < 2:
        return False
    judged = labels[np.concatenate([test for _, test in splits])]
    return bool(judged.any() and not judged.all())


def _selection_rows(labels: Array, seed: int) -> Array:
    if len(labels) <= _SELECTION_ROWS:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    kept = []
    for side in (True, False):
        members = np.flatnonzero(labels == side)
        wanted = max(2, round(_SELECTION_ROWS * len(members) / len(labels)))
        kept.append(generator.permutation(members)[:wanted])
    return np.sort(np.concatenate(kept))


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return sorted({round(position) for position in np.linspace(0, count - 1, most)})


def _reduce(block: Array, weights: Array, seed: int) -> Array:
    """Standardised rows (n, d) rotated into at most 256 leading principal components."""
    from sklearn.decomposition import PCA

    from undertow.guard.rules.affine import moments

    rows = np.asarray(block, dtype=np.float64)
    mean, deviation = moments(rows, weights)
    rows = ((rows - mean) / deviation).astype(np.float32)
    if rows.shape[1] <= _SELECTION_DIMENSIONS:
        return rows
    components = min(_SELECTION_DIMENSIONS, rows.shape[0] - 1)
    solver = "randomized" if components < min(rows.shape) // 2 else "full"
    return np.asarray(PCA(components, svd_solver=solver, iterated_power=2, random_state=seed).fit_transform(rows))


def _reason(chosen: Candidate, table: Sequence[Candidate], schemes: Sequence[str], rate: float, rule: str) -> str:
    ways = {"category": "whole categories", "family": "whole wrapper families and styles", "plain": "random fifths"}
    where = (
        "all states" if rule_named(chosen.rule).reads_every_state else "states " + ", ".join(map(str, chosen.states))
    )
    if len(chosen.states) == 1 and where != "all states":
        where = where.replace("states", "state")
    how = " and ".join(ways[scheme] for scheme in schemes)
    if len(table) == 1:
        start = f"{chosen.rule} on {where} was asked for"
    elif rule == "auto":
        start = f"{chosen.rule} on {where} was chosen among {len(table)} candidates"
    else:
        start = f"{chosen.rule} was asked for, and {where} chosen among {len(table)} candidates"
    sentence = (
        f"{start}: with {how} held out it has log loss {chosen.loss:.3f} and finds {chosen.recall:.1%} at {rate:.1%} "
        "false positives"
    )
    rivals = [line for line in table if line.rule != chosen.rule]
    if rivals:
        best = {
            name: min((line for line in rivals if line.rule == name), key=lambda line: line.loss)
            for name in {line.rule for line in rivals}
        }
        parts = (f"{line.recall:.1%} (log loss {line.loss:.3f}) for {name}" for name, line in sorted(best.items()))
        sentence += ", against " + " and ".join(parts)
    return sentence + "."


def fit_choice(choice: Choice, features: Array, labels: Array, states: Sequence[int], weights: Array | None) -> Rule:
    """Fit the chosen rule at full width on its states, from features (n, S, d) at `states`."""
    where = [list(states).index(state) for state in choice.chosen.states]
    selected = features if where == list(range(features.shape[1])) else features[:, where]
    return rule_named(choice.chosen.rule).fit(
        selected, labels, choice.chosen.states, weights=weights, **dict(choice.chosen.settings)
    )
