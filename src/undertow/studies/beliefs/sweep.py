"""Part 5: how often the model refuses while a direction is added at one state (figure 4).

Source: Zhao et al. (arXiv 2507.11878) and its release: the direction is added at the input of one block, at every token
of the prompt, in the prompt's forward pass only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, proportion
from undertow.model import Add
from undertow.progress import progress_bar
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import BARE, Context, Panel, evenly
from undertow.studies.beliefs.directions import harmfulness_direction, refusal_direction
from undertow.studies.beliefs.inversion import swept_states
from undertow.studies.beliefs.result import Array, Sweep

if TYPE_CHECKING:
    import torch

    from undertow.measure.direction import Direction

COEFFICIENTS = (0.5, 1.0, 2.0, 4.0)
RANDOM_DIRECTIONS = 8
DEVELOPMENT = 12
LEAST = 4
LEAST_TOKENS = 8
_SAME = 0.99
_CLASSES = {"harmless": False, "harmful": True}


def measure_sweep(context: Context) -> Sweep:
    """Steer bare harmless prompts that the model answers and bare harmful ones that it refuses.

    The control takes turns with 8 random directions, one a prompt, each at every state as long as the longer of the two
    directions. The best state and coefficient of a direction are those that change most of some fit prompts, toward
    refusal where they are harmless and away from it where they are harmful; among equals the smaller coefficient, then
    the state where all coefficients together change most.

    Raises:
        UndertowError: there are fewer than 4 such prompts of a class in either half.
    """
    trials = {name: _as_it_should(context.fit, name, min(DEVELOPMENT, context.most)) for name in _CLASSES}
    listed = {name: _as_it_should(context.test, name, context.most) for name in _CLASSES}
    states, directions = swept_states(context.chat.layers), sweep_directions(context)
    tokens = enough_tokens(context)
    cells = len(states) * len(directions) * len(COEFFICIENTS)
    rows = sum(len(prompts) for half in (trials, listed) for prompts in half.values())
    refused: dict[str, dict[str, list[list[Estimate]]]] = {}
    best: dict[str, dict[str, tuple[int, float]]] = {}
    with progress_bar(cells * rows, "Steering", enabled=context.progress) as advance:
        for name, harmful in _CLASSES.items():
            tried, counted = (
                steered_refusals(context, half[name], states, directions, tokens, advance) for half in (trials, listed)
            )
            best[name] = {title: _best(hits.mean(axis=-1), states, harmful) for title, hits in tried.items()}
            refused[name] = {title: [[_share(cell) for cell in line] for line in counted[title]] for title in counted}
    unsteered = {name: context.chat.generate(listed[name], tokens, progress=False) for name in _CLASSES}
    return Sweep(
        states=states,
        coefficients=COEFFICIENTS,
        refused=refused,
        baseline={name: _share(np.array(context.judge.refused(replies))) for name, replies in unsteered.items()},
        best=best,
        n={name: len(prompts) for name, prompts in listed.items()},
        tried=min(map(len, trials.values())),
    )


def sweep_directions(context: Context) -> dict[str, list[Direction]]:
    """What is added: title -> directions that the prompts take in turn."""
    from undertow.measure.direction import Direction

    harmfulness, refusal = harmfulness_direction(context.fit), refusal_direction(context.fit)
    factors = [max(refusal.norm(state) / max(harmfulness.norm(state), 1e-12), 1.0) for state in harmfulness.states]
    longest = Direction(
        harmfulness.values * harmfulness.values.new_tensor(factors)[:, None], harmfulness.states, kind="longest"
    )
    return {
        "harmfulness": [harmfulness],
        "refusal": [refusal],
        "reversed harmfulness": [-harmfulness],
        "reversed refusal": [-refusal],
        "random": [longest.random_like(context.seed + number) for number in range(RANDOM_DIRECTIONS)],
    }


def steered_refusals(
    context: Context,
    prompts: Sequence[Prompt],
    states: Sequence[int],
    directions: Mapping[str, Sequence[Direction]],
    tokens: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> dict[str, Array]:
    """Title of a direction -> (states, coefficients, n) of bool: which prompts are refused while it is added.

    All directions and coefficients of one state share one call, each row of it with a vector of its own.
    """
    shape = (len(directions), len(COEFFICIENTS), len(prompts))
    found = []
    for state in states:
        vectors: list[torch.Tensor] = []
        for taken in directions.values():
            values = [direction[state] for direction in taken]
            vectors += [c * values[row % len(values)] for c in COEFFICIENTS for row in range(len(prompts))]
        repeated = list(prompts) * (shape[0] * shape[1])
        with context.chat.edit(Add(vectors, state=state, span="prompt")):
            replies = context.chat.generate(repeated, tokens, progress=False)
        found.append(np.array(context.judge.refused(replies), dtype=bool).reshape(shape))
        advance(len(repeated))
    return dict(zip(directions, np.stack(found, axis=1), strict=True))


def enough_tokens(context: Context) -> int:
    """Tokens of a reply that show whether it refuses: as few as give 99 % of the fit replies the verdict they have."""
    tokenizer, observed = context.chat.tokenizer, context.fit.observed
    encoded = [tokenizer.encode(reply, add_special_tokens=False) for reply in observed.replies]
    for tokens in range(LEAST_TOKENS, context.reply_tokens, 4):
        openings = [tokenizer.decode(ids[:tokens], skip_special_tokens=True) for ids in encoded]
        if np.mean(np.array(context.judge.refused(openings)) == observed.refused) >= _SAME:
            return tokens
    return context.reply_tokens


def _as_it_should(panel: Panel, name: str, most: int) -> list[Prompt]:
    """Bare prompts of a class that the model treats as it should."""
    rows = panel.rows(harmful=_CLASSES[name], refused=_CLASSES[name], family=BARE)
    if len(rows) < LEAST:
        wanted = "refuses" if _CLASSES[name] else "answers"
        raise UndertowError(
            f"The steering sweep needs {LEAST} bare {name} prompts in each half that the model {wanted}, and one half "
            f"has {len(rows)}: give more prompts."
        )
    return [panel.prompts[row] for row in evenly(rows, most)]


def _best(shares: Array, states: Sequence[int], harmful: bool) -> tuple[int, float]:
    """State and coefficient with the most refusals of harmless prompts, the fewest of harmful ones."""
    gains = -shares if harmful else shares
    state, coefficient = min(
        np.ndindex(*gains.shape), key=lambda cell: (-gains[cell], COEFFICIENTS[cell[1]], -gains[cell[0]].mean())
    )
    return states[state], COEFFICIENTS[coefficient]


def _share(refused: Array) -> Estimate:
    return proportion(int(refused.sum()), len(refused))
