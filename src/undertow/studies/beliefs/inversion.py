"""Part 6: reply inversion under steering, for every state, coefficient, span and direction (figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import PositionError, UndertowError
from undertow.measure.statistics import Estimate
from undertow.model import Add
from undertow.prompts import Prompt
from undertow.prompts.inversion import NO, WORDINGS, YES, invert
from undertow.studies.beliefs.context import BARE, Context, evenly
from undertow.studies.beliefs.directions import harmfulness_direction, refusal_direction
from undertow.studies.beliefs.result import Array, Inversion, InversionGrid, estimate_of

if TYPE_CHECKING:
    from undertow.measure.direction import Direction
    from undertow.model import ChatModel

COEFFICIENTS = (0.0, 1.0, 2.0, 4.0)
SPANS = ("instruction", "prompt")
MOST_STATES = 12
RESAMPLES = 1000
LEAST = 6


@dataclass(frozen=True)
class Tokens:
    """First tokens that open the three replies that matter.

    Attributes:
        yes, no: of "Certainly" and of "No", with and without a space before, capital or not.
        refusal: of this model's own refusals; empty where they are not known.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]
    refusal: tuple[int, ...]


def answer_tokens(context: Context) -> Tokens | None:
    """The first tokens of this model's answers to the question; None where they do not tell the answers apart."""
    found = judgement_tokens(context.chat.tokenizer)
    if found is None:
        return None
    return Tokens(*found, () if context.openings is None else context.openings.refusal_tokens)


def judgement_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """First tokens of "Certainly" and of "No"; None where a token would open both or either has none."""

    def opening(word: str) -> set[int]:
        spelt = tokenizer.encode(word, add_special_tokens=False)
        others = [tokenizer.encode(text, add_special_tokens=False) for text in (" " + word, word.lower())]
        # A spelling in more tokens than the plain one begins with a fragment that says nothing.
        return {int(ids[0]) for ids in [spelt, *others] if 0 < len(ids) <= len(spelt)}

    yes, no = opening(YES), opening(NO)
    shared = yes & no
    if not yes - shared or not no - shared:
        return None
    return tuple(sorted(yes - shared)), tuple(sorted(no - shared))


def asked(chat: ChatModel, prompts: Sequence[Prompt], wording: str = WORDINGS[0]) -> Array | None:
    """The model asked outright: log-odds of "Certainly" against "No" behind each prompt, (n,), in nats.

    None where no first token tells the two answers apart.
    """
    tokens = judgement_tokens(chat.tokenizer)
    if tokens is None:
        return None
    found = chat.logits([invert(prompt, wording) for prompt in prompts]).double()
    odds = found[:, list(tokens[0])].logsumexp(1) - found[:, list(tokens[1])].logsumexp(1)
    return np.asarray(odds.numpy())


def request_span(chat: ChatModel, prompt: Prompt, wording: str) -> range:
    """Tokens of the request within its inverted prompt: the instruction without the question behind it.

    The line break between the two counts with the request, whose last token it may share. A token that holds
    characters of both belongs to neither.

    Raises:
        PositionError: the question is not to be found in the rendered prompt.
    """
    rendered = chat.render(prompt)
    # The template may end the message with characters of its own, but the question is the last thing written in it.
    begin = rendered.text.rfind(wording)
    start = rendered.instruction.start
    if begin < 0 or begin < rendered.offsets[start][0]:
        raise PositionError(
            "The chat template rewrites the question of reply inversion, so the request cannot be told from it."
        )
    inside = [index for index in rendered.instruction if rendered.offsets[index][1] <= begin]
    if not inside:
        raise PositionError("No token of the request stands before the question of reply inversion.")
    return range(start, inside[-1] + 1)


def first_tokens(chat: ChatModel, prompts: Sequence[Prompt], tokens: Tokens, edits: Sequence[Add] = ()) -> Array:
    """(3, n) probabilities that the reply's first token opens "Certainly", "No" or a refusal, under edits."""
    with chat.edit(*edits):
        found = chat.logits(list(prompts)).exp()
    return np.stack([found[:, list(ids)].sum(1).double().numpy() for ids in (tokens.yes, tokens.no, tokens.refusal)])


def swept_states(layers: int, most: int = MOST_STATES) -> tuple[int, ...]:
    """States to steer at: the inputs of all blocks, or of so many spread evenly."""
    if layers <= most:
        return tuple(range(layers))
    return tuple(sorted({round(place) for place in np.linspace(0, layers - 1, most)}))


@dataclass(frozen=True)
class Asked:
    """Prompts with the question behind them, the wordings taking turns.

    Attributes:
        bare: the n prompts.
        inverted: with the question.
        spans: name of a span -> what `Add` takes for the inverted prompts.
    """

    bare: list[Prompt]
    inverted: list[Prompt]
    spans: Mapping[str, Any]

    @classmethod
    def of(cls, chat: ChatModel, prompts: Sequence[Prompt]) -> Asked:
        """Raises PositionError where the request cannot be told from the question."""
        wordings = [WORDINGS[number % len(WORDINGS)] for number in range(len(prompts))]
        inverted = [invert(prompt, wording) for prompt, wording in zip(prompts, wordings, strict=True)]
        spans = [request_span(chat, prompt, wording) for prompt, wording in zip(inverted, wordings, strict=True)]
        return cls(list(prompts), inverted, {"instruction": spans, "prompt": "prompt"})


def steering_directions(context: Context) -> dict[str, Direction]:
    """The two directions of the fit prompts, their reverses, and a random one with the norm of harmfulness."""
    harmfulness, refusal = harmfulness_direction(context.fit), refusal_direction(context.fit)
    return {
        "harmfulness": harmfulness,
        "refusal": refusal,
        "reversed harmfulness": -harmfulness,
        "reversed refusal": -refusal,
        "random": harmfulness.random_like(context.seed),
    }


def measure_inversion(context: Context) -> Inversion:
    """Ask about harmless prompts that the model answers and harmful ones that it refuses, and steer.

    Raises:
        UndertowError: no first token tells the answers apart, or there are too few such prompts.
        PositionError: the chat template rewrites the question.
    """
    from undertow.studies.beliefs.dissociation import measure_dissociation

    chat, tokens = context.chat, answer_tokens(context)
    if tokens is None:
        raise UndertowError(f"No first token of this tokenizer tells {YES} from {NO}, so the answers cannot be read.")
    n = max(context.most // 2 - context.most // 2 % len(WORDINGS), LEAST)
    chosen = {
        "harmless": context.test.rows(harmful=False, refused=False, family=BARE),
        "harmful": context.test.rows(harmful=True, refused=True, family=BARE),
    }
    chosen = {name: evenly(rows, n) for name, rows in chosen.items()}
    for name, rows in chosen.items():
        if len(rows) < LEAST:
            raise UndertowError(
                f"Reply inversion needs {LEAST} bare {name} prompts that the model treats rightly, not {len(rows)}."
            )
    by_wording = {wording: _unsteered(context, wording, tokens) for wording in WORDINGS}
    states, directions = swept_states(chat.layers), steering_directions(context)
    grids = []
    for name, rows in chosen.items():
        questions = Asked.of(chat, [context.test.prompts[row] for row in rows])
        plain = first_tokens(chat, questions.inverted, tokens)
        for span in SPANS:
            for title, direction in directions.items():
                grids.append(_grid(context, questions, tokens, plain, states, (name, span, title), direction))
    return Inversion(
        states,
        COEFFICIENTS,
        WORDINGS,
        by_wording,
        tuple(grids),
        measure_dissociation(context, tokens),
        min(len(rows) for rows in chosen.values()),
    )


def _unsteered(context: Context, wording: str, tokens: Tokens) -> dict[str, Estimate]:
    """Share of all bare test prompts of each class that are judged rightly, whatever the model would reply."""
    found = {}
    for name, harmful in (("harmless", False), ("harmful", True)):
        rows = context.test.rows(harmful=harmful, family=BARE)
        listed = [invert(context.test.prompts[row], wording) for row in rows]
        yes, no, _ = first_tokens(context.chat, listed, tokens)
        share = estimate_of((yes > no) == harmful)
        assert share is not None
        found[name] = share
    return found


def _grid(
    context: Context,
    questions: Asked,
    tokens: Tokens,
    plain: Array,
    states: Sequence[int],
    names: tuple[str, str, str],
    direction: Direction,
) -> InversionGrid:
    """One direction added at every state, every number of times, on one span."""
    values = np.empty((3, len(states), len(COEFFICIENTS), plain.shape[1]))
    for row, state in enumerate(states):
        for column, coefficient in enumerate(COEFFICIENTS):
            if coefficient == 0.0:
                values[:, row, column] = plain
                continue
            edit = Add(direction, coefficient, state=state, span=questions.spans[names[1]])
            values[:, row, column] = first_tokens(context.chat, questions.inverted, tokens, [edit])
    generator = np.random.default_rng(context.seed)
    n = values.shape[-1]
    weights = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    low, high = np.quantile(values @ weights.T, [0.025, 0.975], axis=-1)
    ends = ("certainly", "no", "refusal")
    certainly, no, refusal = values.mean(axis=-1)
    return InversionGrid(
        *names, certainly, no, refusal, dict(zip(ends, low, strict=True)), dict(zip(ends, high, strict=True))
    )
