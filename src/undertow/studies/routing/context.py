"""What every part of the study works on: the model, the pairs in two halves, and what the model did with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from undertow.errors import UndertowError
from undertow.measure.judge import RefusalJudge, SubstringJudge
from undertow.measure.observed import Observed, observe_replies
from undertow.model import Replace
from undertow.prompts.pairs import PairSet
from undertow.studies.routing.readings import Array, Head
from undertow.studies.routing.readouts import ControlLoss, LogOdds, Projection, Readout, openings_of

if TYPE_CHECKING:
    from undertow.measure.judge import FirstTokenJudge
    from undertow.model import ChatModel
    from undertow.prompts import Prompt

SIDES = ("sensitive", "control")
LEAST_PAIRS = 8
LEAST_HALF = 5
"""Of fewer pairs no sign-flip test reaches 5 %: their signs fall in fewer than 20 ways."""


@dataclass(frozen=True)
class Half:
    """Pairs with what the model did with both sides.

    Attributes:
        pairs: n pairs.
        sensitive, control: replies, refusals and states of both sides.
        heads: side -> block -> (n, heads, head size) float32: head outputs at t_post.
        others: (n,) row of another pair whose prompt serves as a donor of the same class, of the same language and of
            the same length and topic where there is one.
    """

    pairs: PairSet
    sensitive: Observed
    control: Observed
    heads: dict[str, dict[int, Tensor]] = field(repr=False)
    others: Array = field(repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def side(self, name: str) -> Observed:
        """Sensitive or control."""
        return self.sensitive if name == "sensitive" else self.control

    def prompts(self, side: str) -> list[Prompt]:
        """The n prompts of one side."""
        return self.side(side).prompts

    def donors(self, side: str, head: Head, rows: Array | Sequence[int] | None = None) -> list[Tensor]:
        """One head's output at t_post on the prompts of a side: what `Replace` takes, a tensor a prompt.

        Args:
            side: whose prompts give.
            head: (block, head).
            rows: which pair gives to each recipient; each to itself when left out.
        """
        values = self.heads[side][head[0]][:, head[1]]
        return list(values if rows is None else values[torch.as_tensor(np.asarray(rows))])

    def swap(self, side: str, heads: Sequence[Head], rows: Array | Sequence[int] | None = None) -> list[Replace]:
        """The edits that put a side's head outputs at t_post in the place of whatever is there."""
        return [Replace(self.donors(side, head, rows), head=head, span="t_post") for head in heads]


@dataclass(frozen=True)
class Context:
    """Everything that a part is given.

    Attributes:
        chat: the model.
        choose: pairs that directions come from and on which anything is chosen.
        report: pairs that figures are made of; they share no text with `choose`.
        judge: the study's judge of refusals.
        openings: first tokens of refusals and answers.
        openings_source: where they come from, in words.
        readout: the study's readout.
        seed: of everything random.
        reply_tokens: tokens of a judged reply.
        branches: most branches of replay in one pass; bounds memory.
        permutations: sign flips of a test.
        memory: exchanges that were run already, so that no part runs them again.
    """

    chat: ChatModel
    choose: Half
    report: Half
    judge: RefusalJudge
    openings: FirstTokenJudge
    openings_source: str
    readout: Readout
    seed: int = 0
    reply_tokens: int = 16
    branches: int = 512
    permutations: int = 10_000
    memory: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """All heads that can be read, in order."""
        anatomy = self.chat.anatomy
        return tuple(
            (block, head)
            for block in range(self.chat.layers)
            if anatomy.projections[block] is not None
            for head in range(anatomy.heads[block])
        )

    def half(self, name: str) -> Half:
        """ "choose" or "report"."""
        return self.choose if name == "choose" else self.report

    def read(
        self,
        half: Half,
        side: str,
        branches: Sequence[Sequence[Replace]],
        *,
        last: int = 1,
        readout: Readout | None = None,
    ) -> Array:
        """(n, R) readout of one side's prompts under each branch."""
        chosen = readout or self.readout
        return chosen.branches(
            self.chat, half.prompts(side), half.prompts("control"), branches, last=last, budget=self.branches
        )


def prepare(
    chat: ChatModel,
    pairs: PairSet,
    *,
    readout: str = "log-odds",
    judge: RefusalJudge | None = None,
    refusal_tokens: Sequence[str] = (),
    answer_tokens: Sequence[str] = (),
    seed: int = 0,
    reply_tokens: int = 16,
    branches: int = 512,
    permutations: int = 10_000,
    halves: tuple[PairSet, PairSet] | None = None,
) -> Context:
    """Split the pairs, generate replies, and read states and heads of both sides.

    Args:
        chat: the model.
        pairs: matched pairs, at least 16.
        readout: "log-odds", "control-loss" or "projection" (state L on the difference of means there of a third
            of the choose pairs, which are left out of tests).
        judge: tells refusals from answers; the published substring list when left out.
        refusal_tokens, answer_tokens: openings for the log-odds, see `openings_of`.
        seed: of the split and of everything random later.
        reply_tokens: tokens of a judged reply.
        branches: most branches of replay in one pass.
        permutations: sign flips of a test.
        halves: the split, where it is given.

    Raises:
        UndertowError: too few pairs, no head can be read, an unknown readout, or no token tells refusals from answers.
    """
    if not any(part is not None for part in chat.anatomy.projections):
        raise UndertowError("No head of this model can be read, so there is nothing to screen.")
    if halves is None and len(pairs) < 2 * LEAST_PAIRS:
        raise UndertowError(
            f"{len(pairs)} pairs are too few: give at least {2 * LEAST_PAIRS}, half to choose on and half to report on."
        )
    judging = judge or SubstringJudge()
    first, second = halves or pairs.split(0.5, seed)
    if min(len(first), len(second)) < LEAST_HALF:
        raise UndertowError(
            f"Of the pairs {len(first)} are to choose on and {len(second)} to report on: give at least {LEAST_HALF} of "
            "each, or more pairs that share no text."
        )
    choose, report = (_half(chat, part, judging, reply_tokens, seed) for part in (first, second))
    openings, source = openings_of(
        chat.tokenizer,
        [*choose.sensitive.replies, *choose.control.replies],
        [*choose.sensitive.refused, *choose.control.refused],
        controls=choose.control.replies,
        refusal_tokens=refusal_tokens,
        answer_tokens=answer_tokens,
    )
    return Context(
        chat,
        choose,
        report,
        judging,
        openings,
        source,
        readout_named(readout, chat, choose, report, openings),
        seed,
        reply_tokens,
        branches,
        permutations,
    )


def readout_named(name: str, chat: ChatModel, choose: Half, report: Half, openings: FirstTokenJudge) -> Readout:
    """The readout of that name; see `prepare`.

    Raises:
        UndertowError: there is none.
    """
    if name == "log-odds":
        return LogOdds(openings)
    if name == "control-loss":
        return ControlLoss.of(chat, [*choose.prompts("control"), *report.prompts("control")])
    if name == "projection":
        from undertow.measure.direction import difference_of_means

        # Pairs that a direction comes from lie along it by construction: they are no evidence of effects on it.
        held, _ = choose.pairs.split(1 / 3)
        texts = frozenset(prompt.text for prompt in (*held.sensitive, *held.controls))
        rows = [row for row, prompt in enumerate(choose.pairs.sensitive) if prompt.text in texts]
        sides = [torch.from_numpy(choose.side(side).states["t_post"][rows]) for side in SIDES]
        direction = difference_of_means(
            sides[0], sides[1], kind="refusal", position="t_post", states=tuple(range(chat.layers + 1))
        )
        return Projection(direction, chat.layers, texts)
    raise UndertowError(f"There is no readout {name!r}: use log-odds, control-loss or projection.")


def _half(chat: ChatModel, pairs: PairSet, judge: RefusalJudge, reply_tokens: int, seed: int) -> Half:
    seen = observe_replies(
        chat, [*pairs.sensitive, *pairs.controls], reply_tokens=reply_tokens, judge=judge, progress=False
    )
    count = len(pairs)
    both = {"sensitive": seen.part(slice(0, count)), "control": seen.part(slice(count, 2 * count))}
    heads = {side: head_outputs(chat, one.prompts) for side, one in both.items()}
    return Half(pairs, both["sensitive"], both["control"], heads, other_rows(chat, pairs, seed))


def head_outputs(chat: ChatModel, prompts: Sequence[Prompt], position: str = "t_post") -> dict[int, Tensor]:
    """Block -> (n, heads, head size) float32 at one position, of every block whose heads can be read."""
    anatomy = chat.anatomy
    blocks = [block for block, part in enumerate(anatomy.projections) if part is not None]
    shapes: dict[tuple[int, int], list[int]] = {}
    for block in blocks:
        shapes.setdefault((anatomy.heads[block], anatomy.head_sizes[block]), []).append(block)
    found: dict[int, Tensor] = {}
    for members in shapes.values():
        values = chat.capture(list(prompts), states=[], positions=[position], heads=members, progress=False).heads
        assert values is not None
        found |= {block: values[:, place, :, 0].float() for place, block in enumerate(members)}
    return dict(sorted(found.items()))


def other_rows(chat: ChatModel, pairs: PairSet, seed: int) -> Array:
    """(n,) another pair for each: of its language, and of its length and topic where possible, drawn by the seed.

    Every pair gives once: one donor for many recipients would make their effects dependent, and tests too sure. A pair
    that shares a text is taken only where there is no other.

    Raises:
        UndertowError: fewer than 2 pairs.
    """
    from scipy.optimize import linear_sum_assignment

    count = len(pairs)
    if count < 2:
        raise UndertowError("A donor of the same class is another pair's prompt: give at least 2 pairs.")
    lengths = np.array([len(chat.render(pair.sensitive)) for pair in pairs])
    texts = [{pair.sensitive.text, pair.control.text} for pair in pairs]
    topics, languages = (np.array([str(getattr(pair, name)) for pair in pairs]) for name in ("topic", "language"))
    # In tokens; what must not be outweighs any sum of what should not.
    distance = np.abs(lengths[:, None] - lengths) + 0.5 * (topics[:, None] != topics)
    distance += 0.01 * np.random.default_rng(seed).random((count, count))
    unit = 1.0 + count * distance.max()
    distance += unit * (languages[:, None] != languages)
    distance += unit * (count + 1) * np.array([[bool(one & other) for other in texts] for one in texts])
    np.fill_diagonal(distance, unit * (count + 2) ** 2)
    return np.asarray(linear_sum_assignment(distance)[1])
