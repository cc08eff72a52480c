"""Continuous batching: replies join the batch after their prefill and leave it when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from undertow.model.capture import Gatherer
from undertow.model.edit import Edit
from undertow.model.hooks import attached
from undertow.model.positions import Rendered
from undertow.model.program import Program
from undertow.model.rows import Rows, advance, keep, merge, plain_layers

if TYPE_CHECKING:
    from undertow.model.chat import ChatModel

Chooser = Callable[[Tensor], Tensor]


@dataclass
class Joining:
    """A prefilled prompt that is about to be decoded.

    Attributes:
        rendered: the prompt.
        chooser: from logits (1, vocabulary) to a token id (1); None takes the likeliest.
        edits: that go on holding for its generated tokens.
    """

    rendered: Rendered
    chooser: Chooser | None = None
    edits: Sequence[Edit] = ()


@dataclass
class _Group:
    rows: Rows
    alive: list[bool]
    positions: bool
    mergeable: bool


class RollingBatch:
    """Replies of many prompts, decoded together a token at a time.

    Rows whose caches hold every token in order are merged into one batch, padded on the left; others (sliding windows,
    recurrent states, models that cannot be padded) go on in the groups that they were prefilled in, and are computed
    until the last of their group ends.

    Args:
        chat: the model. No other thread may use it meanwhile.
    """

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        self._prompts: dict[int, Joining] = {}
        self._rendered: dict[int, Rendered] = {}
        self._program = Program(chat.anatomy, (), self._rendered)
        self._groups: list[_Group] = []

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def keys(self) -> list[int]:
        """The replies in the batch."""
        return list(self._prompts)

    def join(self, rows: Rows, keys: Sequence[int], joining: Sequence[Joining], *, longest: int) -> None:
        """Take a prefilled batch in.

        Args:
            rows: what `Generator.begin` gave; its own program is no longer used.
            keys: a number for every row, unlike any in the batch.
            joining: one a row.
            longest: most tokens, prompt included, that any of these will have.
        """
        decoding = self.chat.decoding_for(longest)
        rows.prompts, rows.program, rows.tokens = list(keys), self._program, []
        mergeable = decoding.left_padding and plain_layers(rows.cache) is not None
        fresh = _Group(rows, [True] * len(keys), decoding.positions, mergeable)
        for group in self._groups:
            if mergeable and group.mergeable and group.positions == fresh.positions:
                merged = merge(group.rows, rows)
                if merged is not None:
                    group.rows, group.alive = merged, [True] * len(merged.prompts)
                    break
        else:
            self._groups.append(fresh)
        for key, member in zip(keys, joining, strict=True):
            self._prompts[key] = member
            self._rendered[key] = member.rendered
            self._program.add(member.edits, key)

    def choose(self) -> dict[int, int]:
        """The next token id of every reply, from the logits at hand; nothing is run.

        A reply whose chooser fails is missing.
        """
        found: dict[int, int] = {}
        for group in self._groups:
            likeliest = group.rows.logits.argmax(-1).tolist()
            for row, key in enumerate(group.rows.prompts):
                if not group.alive[row]:
                    continue
                chooser = self._prompts[key].chooser
                if chooser is None:
                    found[key] = likeliest[row]
                    continue
                # One reply's odd settings must not end the others.
                with suppress(RuntimeError, ValueError):
                    found[key] = int(chooser(group.rows.logits[row : row + 1]).item())
        return found

    def leave(self, keys: Iterable[int]) -> None:
        """Drop replies; their slots are free at once."""
        gone = {key for key in keys if key in self._prompts}
        if not gone:
            return
        for key in gone:
            self._program.drop(key)
            del self._prompts[key]
        groups = []
        for group in self._groups:
            staying = [row for row, key in enumerate(group.rows.prompts) if group.alive[row] and key not in gone]
            if not staying:
                continue
            if len(staying) < len(group.rows.prompts):
                kept = keep(group.rows, staying) if group.mergeable else None
                if kept is not None:
                    group.rows, group.alive = kept, [True] * len(staying)
                else:
                    _bury(group, staying)
            groups.append(group)
        self._groups = groups
        present = {key for group in groups for key in group.rows.prompts}
        for key in [key for key in self._rendered if key not in present]:
            del self._rendered[key]

    def advance(self, tokens: dict[int, int], watched: Sequence[int] = ()) -> tuple[list[int], dict[int, Tensor]]:
        """Read the chosen tokens of all replies.

        Args:
            tokens: one for every reply in the batch, as `choose` gave them.
            watched: states to read at these tokens.

        Returns:
            Replies whose logits are no longer numbers, which the caller must drop; and for every reply its states
            (len(watched), d) on the CPU where any are watched.
        """
        broken: list[int] = []
        seen: dict[int, Tensor] = {}
        for group in self._groups:
            rows = group.rows
            pad = self.chat.forward.pad
            chosen = [tokens[key] if alive else pad for key, alive in zip(rows.prompts, group.alive, strict=True)]
            gatherer = None
            visits: list[Any] = list(self._program.visits())
            if watched:
                gatherer = Gatherer(self.chat.anatomy, watched, stop=False)
                column = 0 if rows.cache is not None else rows.width
                gatherer.aim([[column]] * len(chosen))
                visits += gatherer.visits()
            self.chat.forward.takes_positions = group.positions
            with attached(self.chat.anatomy, visits):
                advance(self.chat.forward, rows, torch.tensor(chosen), refuse_nan=False)
            bad = (~rows.logits.amax(-1).isfinite()).tolist()
            states = gatherer.raw_state_values()[:, :, 0] if gatherer is not None else None
            for row, key in enumerate(rows.prompts):
                if group.alive[row]:
                    if bad[row]:
                        broken.append(key)
                    if states is not None:
                        seen[key] = states[row]
        return broken, seen

    def clear(self) -> list[int]:
        """Drop everything, as after a failure; the replies that were dropped."""
        keys = self.keys
        self._groups = []
        self._prompts.clear()
        self._rendered.clear()
        self._program = Program(self.chat.anatomy, (), self._rendered)
        return keys


def _bury(group: _Group, staying: Sequence[int]) -> None:
    """Rows that ended go on being computed, counting from position 0 so that they never outgrow the context."""
    for row in range(len(group.alive)):
        if group.alive[row] and row not in staying:
            group.alive[row] = False
            group.rows.starts[row] = -group.rows.width
