"""Part 4: the two directions of every state, their cosine, and how far that cosine can be trusted.

Source: Zhao et al. (arXiv 2507.11878), section on harmfulness and refusal directions; attenuation: Spearman (1904).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate
from undertow.studies.beliefs.context import BARE
from undertow.studies.beliefs.reliability import (
    Cells,
    Products,
    around,
    ceiling,
    cosines,
    half_weights,
    lengths,
    resampled,
    weights,
)
from undertow.studies.beliefs.result import Array, Band, Directions

if TYPE_CHECKING:
    from undertow.measure.direction import Direction
    from undertow.studies.beliefs.context import Context, Panel

LEAST = 4
"""Fewest prompts on each side of a difference of means."""

LEAST_OF_CATEGORY = 8
"""Fewest refused harmful prompts of a category that gets a direction of its own."""

RESAMPLES = 500
SPLITS = 200
RANDOM_DIRECTIONS = 400
CATEGORY_RESAMPLES = 400
CATEGORY_SPLITS = 200
_FOLDS = 4
_AT_ONCE = 50

KINDS = ("harmfulness", "refusal")
POSITIONS = {"harmfulness": "t_inst", "refusal": "t_post"}


def harmfulness_direction(panel: Panel, rows: Any = None) -> Direction:
    """Mean of refused harmful minus mean of accepted harmless prompts at t_inst, states 0..L, not normalised.

    Wrapper families weigh alike: the differences are taken within each family (bare prompts are one) that holds at
    least 4 of both, and averaged, so that the wrapper is no part of the direction. Where no family holds both, all
    prompts are taken together, as in the release.

    Args:
        panel: the prompts.
        rows: row indices to take it from; all when left out.

    Raises:
        UndertowError: there is no refused harmful or no accepted harmless prompt.
    """
    return _direction(panel, "harmfulness", rows)


def refusal_direction(panel: Panel, rows: Any = None) -> Direction:
    """Mean of refused minus mean of accepted prompts at t_post, states 0..L, not normalised.

    Harmful and harmless prompts weigh alike: the differences are taken within each of the two classes that holds at
    least 4 refused and 4 accepted prompts, and averaged, so that harm itself is no part of the direction. Where
    neither holds both, all prompts are taken together, as in the release.

    Args:
        panel: the prompts.
        rows: row indices to take it from; all when left out.

    Raises:
        UndertowError: nothing is refused, or nothing accepted.
    """
    return _direction(panel, "refusal", rows)


def contrast(panel: Panel, kind: str, rows: Any = None) -> Cells:
    """The cells that a direction is made of, as row indices of the panel.

    Args:
        panel: the prompts.
        kind: "harmfulness" or "refusal".
        rows: row indices to take them from; all when left out.

    Raises:
        UndertowError: a side is empty.
    """
    mask = np.ones(len(panel), dtype=bool)
    if rows is not None:
        mask[:] = False
        mask[rows] = True
    if kind == "harmfulness":
        on, off = mask & panel.harmful & panel.refused, mask & ~panel.harmful & ~panel.refused
        parts = [panel.family == name for name in (BARE, *panel.families)]
        sides = "refused harmful and accepted harmless"
    else:
        on, off = mask & panel.refused, mask & ~panel.refused
        parts = [panel.harmful, ~panel.harmful]
        sides = "refused and accepted"
    if not on.any() or not off.any():
        raise UndertowError(
            f"A direction of {kind} needs {sides} prompts, and there are {on.sum()} and {off.sum()}: add prompts "
            "of the missing kind."
        )
    cells = [(np.flatnonzero(on & part), np.flatnonzero(off & part)) for part in parts]
    kept = [cell for cell in cells if min(map(len, cell)) >= LEAST]
    return kept or [(np.flatnonzero(on), np.flatnonzero(off))]


def measure_directions(context: Context) -> Directions:
    """Compare the directions of the fit prompts, whole and by category.

    Intervals are bootstrapped over prompts within their kind (harmful, refused, family); a request and its wrapped form
    count as two prompts. Reliability is the cosine of the same direction from two random halves as it is, NOT stepped
    up to all prompts (Spearman and Brown). The ceiling is stepped up, since it bounds a cosine of directions from all
    prompts. Categories are compared at the state where the two sides of the worse separated direction lie farthest
    apart in cross-validation, in standard deviations within a side.

    The direction of a category sets its refused harmful prompts against all accepted harmless ones, and its refused
    prompts, harmless ones included, against its accepted ones. As all categories share the accepted harmless prompts,
    some of the likeness of their harmfulness directions comes from there.

    Raises:
        UndertowError: there are fewer than 4 refused harmful, accepted harmless, refused or accepted fit prompts.
    """
    panel = context.fit
    cells = {kind: contrast(panel, kind) for kind in KINDS}
    for kind in KINDS:
        fewest = min(len(side) for sides in cells[kind] for side in sides)
        if fewest < LEAST:
            raise UndertowError(
                f"Directions need {LEAST} fit prompts on each side, and that of {kind} has {fewest}: give more prompts."
            )
    generator = np.random.default_rng(context.seed)
    strata = [*zip(panel.harmful.tolist(), panel.refused.tolist(), panel.family.tolist(), strict=True)]
    whole = {kind: weights(cells[kind], np.ones((1, len(panel)))) for kind in KINDS}
    drawn = resampled(strata, RESAMPLES, generator)
    again = {kind: weights(cells[kind], drawn) for kind in KINDS}
    halves = {kind: half_weights(cells[kind], strata, SPLITS, generator) for kind in KINDS}
    folds = _folds(strata, generator)
    found: dict[str, list[Any]] = {}
    for state in context.states:
        products = _products(panel, state)
        for name, values in _at_state(whole, again, halves, folds, cells, products).items():
            found.setdefault(name, []).append(values)
    stacked = {name: np.array(values) for name, values in found.items()}
    state = int(np.argmax(np.minimum(*(stacked[f"{kind} distance"] for kind in KINDS))))
    low, high = around(stacked["cosine"], stacked["resamples"].T)
    reliability = {kind: stacked[f"{kind} halves"] for kind in KINDS}
    return Directions(
        cosine=Band(
            "harmfulness and refusal",
            int(np.any([w != 0 for w in whole.values()], axis=0).sum()),
            stacked["cosine"],
            low,
            high,
        ),
        random=_random(panel, context.states, generator),
        norms={kind: stacked[f"{kind} norm"] for kind in KINDS},
        reliability={
            kind: Band(
                kind,
                int(np.count_nonzero(whole[kind])),
                values.mean(axis=1),
                *np.quantile(values, [0.025, 0.975], axis=1),
            )
            for kind, values in reliability.items()
        },
        ceiling=ceiling(*(values.mean(axis=1) for values in reliability.values())),
        state=state,
        **_by_category(panel, _products(panel, state), generator),
    )


def _direction(panel: Panel, kind: str, rows: Any) -> Direction:
    import torch

    from undertow.measure.direction import Direction

    cells = contrast(panel, kind, rows)
    [chosen] = weights(cells, np.ones((1, len(panel))))
    used = np.flatnonzero(chosen)
    states = panel.states(POSITIONS[kind], used)
    values = np.stack([chosen[used] @ states[:, state].astype(np.float64) for state in range(states.shape[1])])
    return Direction(
        torch.from_numpy(values.astype(np.float32)),
        tuple(range(len(values))),
        kind=kind,
        position=POSITIONS[kind],
        n=len(used),
    )


def _products(panel: Panel, state: int) -> Products:
    first, second = (panel.states(POSITIONS[kind])[:, state] for kind in KINDS)
    return Products.of(first, second)


def _at_state(
    whole: Mapping[str, Array],
    again: Mapping[str, Array],
    halves: Mapping[str, tuple[Array, Array]],
    folds: Array,
    cells: Mapping[str, Cells],
    products: Products,
) -> dict[str, Any]:
    """Everything that is measured at one state."""
    found = {
        "cosine": cosines(whole["harmfulness"], whole["refusal"], products, (0, 1))[0],
        "resamples": cosines(again["harmfulness"], again["refusal"], products, (0, 1)),
    }
    for position, kind in enumerate(KINDS):
        found[f"{kind} norm"] = lengths(whole[kind], products, position)[0] / products.scales[position]
        found[f"{kind} halves"] = cosines(*halves[kind], products, (position, position))
        long = found[f"{kind} norm"] > 0
        found[f"{kind} distance"] = _distance(cells[kind], folds, products.within(position)) if long else 0.0
    return found


def _folds(strata: Sequence[Any], generator: np.random.Generator) -> Array:
    """(n,) number of the fold of each prompt, even within its stratum."""
    folds = np.zeros(len(strata), dtype=int)
    for stratum in dict.fromkeys(strata):
        rows = generator.permutation([row for row, other in enumerate(strata) if other == stratum])
        folds[rows] = (np.arange(len(rows)) + generator.integers(_FOLDS)) % _FOLDS
    return folds


def _distance(cells: Cells, folds: Array, gram: Array) -> float:
    """How far apart the two sides lie along the direction of the other folds, in standard deviations within a side."""
    gaps, spreads = [], []
    for fold in range(_FOLDS):
        rest = (folds != fold)[None].astype(float)
        if any(not rest[0, side].any() for sides in cells for side in sides):
            continue
        along = (weights(cells, rest) @ gram)[0]
        for sides in cells:
            up, down = (along[side[folds[side] == fold]] for side in sides)
            if min(len(up), len(down)) < 2:
                continue
            gaps.append(up.mean() - down.mean())
            spreads.append(np.sqrt((up.var(ddof=1) + down.var(ddof=1)) / 2))
    return float(np.mean(gaps) / np.mean(spreads)) if gaps and np.mean(spreads) > 0 else 0.0


def _random(panel: Panel, states: Sequence[int], generator: np.random.Generator) -> Band:
    """Cosines of harmfulness with random directions."""
    direction = harmfulness_direction(panel).values.numpy().astype(np.float64)
    found = []
    for state in states:
        noise = generator.standard_normal((RANDOM_DIRECTIONS, direction.shape[1]))
        length = np.linalg.norm(direction[state])
        found.append(noise @ direction[state] / (np.linalg.norm(noise, axis=1) * length) if length else noise[:, 0] * 0)
    values = np.array(found)
    low, high = np.quantile(values, [0.025, 0.975], axis=1)
    return Band("harmfulness and a random direction", RANDOM_DIRECTIONS, values.mean(axis=1), low, high, control=True)


def _by_category(panel: Panel, products: Products, generator: np.random.Generator) -> dict[str, Any]:
    """The fields of `Directions` about categories, at one state."""
    of_each = category_cells(panel)
    names = tuple(of_each["harmfulness"])
    categories = [prompt.category for prompt in panel.prompts]
    strata = [*zip(panel.harmful.tolist(), panel.refused.tolist(), panel.family.tolist(), categories, strict=True)]
    drawn = resampled(strata, CATEGORY_RESAMPLES, generator)
    found: dict[str, dict[str, Any]] = {"category_cosines": {}, "category_reliability": {}, "category_spread": {}}
    for kind, by_name in of_each.items():
        position = KINDS.index(kind)
        gram = products.within(position)
        table = _cosine_tables([*by_name.values()], np.ones((1, len(panel))), gram)[0]
        found["category_cosines"][kind] = table
        found["category_reliability"][kind] = np.array(
            [
                cosines(*half_weights(cells, strata, CATEGORY_SPLITS, generator), products, (position, position)).mean()
                for cells in by_name.values()
            ]
        )
        if len(names) >= 2:
            pairs = np.triu_indices(len(names), 1)
            spread = float(table[pairs].mean())
            tables = [
                _cosine_tables([*by_name.values()], drawn[begin : begin + _AT_ONCE], gram)
                for begin in range(0, CATEGORY_RESAMPLES, _AT_ONCE)
            ]
            low, high = around(spread, np.concatenate(tables)[:, pairs[0], pairs[1]].mean(axis=1))
            used = {int(row) for cells in by_name.values() for sides in cells for side in sides for row in side}
            found["category_spread"][kind] = Estimate(spread, float(low), float(high), len(used))
    return {"categories": names, **found}


def category_cells(panel: Panel) -> dict[str, dict[str, Cells]]:
    """Kind of direction -> category -> its cells, for the categories with at least 8 refused harmful prompts.

    Refusal is there only if at least half of these categories, and two of them, hold 4 refused and 4 accepted prompts;
    the others are then left out of both kinds, so that the same categories are compared.
    """
    found: dict[str, dict[str, Cells]] = {kind: {} for kind in KINDS}
    categories = np.array([prompt.category or "" for prompt in panel.prompts], dtype=object)
    for name in sorted({str(category) for category in categories if category}):
        own = categories == name
        if (own & panel.harmful & panel.refused).sum() >= LEAST_OF_CATEGORY:
            found["harmfulness"][name] = contrast(panel, "harmfulness", np.flatnonzero(own | ~panel.harmful))
        if min((own & panel.refused).sum(), (own & ~panel.refused).sum()) >= LEAST:
            found["refusal"][name] = contrast(panel, "refusal", np.flatnonzero(own))
    shared = [name for name in found["harmfulness"] if name in found["refusal"]]
    if len(shared) < max(2, len(found["harmfulness"]) / 2):
        return {"harmfulness": found["harmfulness"]}
    return {kind: {name: found[kind][name] for name in shared} for kind in KINDS}


def _cosine_tables(of_each: Sequence[Cells], counts: Array, gram: Array) -> Array:
    """(draws, C, C) cosines of the directions of C categories, from how often each prompt was drawn, (draws, n)."""
    if not of_each:
        return np.zeros((len(counts), 0, 0))
    stacked = np.stack([weights(cells, counts) for cells in of_each], axis=1)
    images = np.empty_like(stacked)
    for place, cells in enumerate(of_each):
        rows = np.unique(np.concatenate([side for sides in cells for side in sides]))
        images[:, place] = stacked[:, place, rows] @ gram[rows]
    inner = images @ stacked.transpose(0, 2, 1)
    length = np.sqrt(np.maximum(np.einsum("bcc->bc", inner), 0.0))
    scale = length[:, :, None] * length[:, None, :]
    return np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0)
