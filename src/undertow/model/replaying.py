"""What a chat model offers of replay: many edits on the last tokens, read as logits, as texts' losses or as states."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from undertow.errors import EditError
from undertow.model.hooks import check_site
from undertow.model.replay import DEFAULT_BRANCH_BUDGET, Branch, Reading, Replayer
from undertow.prompts import as_prompts

if TYPE_CHECKING:
    from undertow.model.anatomy import Anatomy
    from undertow.model.edit import Edit
    from undertow.model.positions import Rendered, Renderer

_SHORT = 8


class Replaying:
    """The methods of `ChatModel` that replay; it has no life of its own."""

    anatomy: Anatomy
    renderer: Renderer
    _edits: list[Edit]
    _replayer: Replayer

    def replay(
        self,
        prompts: Any,
        branches: Sequence[Branch],
        *,
        last: int = 1,
        tokens: Sequence[int] | None = None,
        branch_budget: int = DEFAULT_BRANCH_BUDGET,
        method: str | None = None,
        progress: bool = True,
    ) -> Tensor:
        """First-reply log-probabilities under each of many edits on the last tokens, in about one pass a prompt.

        Args:
            prompts: whatever `as_prompts` accepts.
            branches: R lists of edits, each confined to the last ``last`` tokens; ``[]`` is the unedited prompt. An
                edit's value may be a list with one tensor a prompt.
            last: how many tokens at the prompt's end are run again.
            tokens: vocabulary indices to keep; None keeps all.
            branch_budget: most branches in one pass; bounds memory.
            method: ``tree``, ``expanded`` or ``loop``; None takes the fastest that is exact on this model.
            progress: whether to show a bar.

        Returns:
            (n, R, tokens or vocabulary), float32, CPU, in nats.

        Raises:
            EditError: a branch reaches before the last tokens, or replay is used inside `edit`.
        """
        chosen = slice(None) if tokens is None else list(tokens)
        return self._replay(
            self._rendered(prompts),
            branches,
            last=last,
            branch_budget=branch_budget,
            method=method,
            progress=progress,
            take=lambda read, prompt: torch.log_softmax(read[:, 0], -1)[:, chosen],
        )

    def replay_losses(
        self,
        prompts: Any,
        continuations: Sequence[Sequence[int]],
        branches: Sequence[Branch],
        *,
        last: int = 1,
        branch_budget: int = DEFAULT_BRANCH_BUDGET,
        progress: bool = True,
    ) -> Tensor:
        """How unlikely a given reply becomes under each of many edits on the last prompt tokens.

        Args:
            prompts: n prompts, whatever `as_prompts` accepts.
            continuations: token ids of one reply a prompt, teacher-forced; at least one token each.
            branches: R lists of edits, each confined to the prompt's last ``last`` tokens.
            last: how many prompt tokens are run again.
            branch_budget: most tokens in one pass; bounds memory.
            progress: whether to show a bar.

        Returns:
            (n, R), float32: mean negative log-likelihood of the continuation, in nats a token.

        Raises:
            EditError: a continuation is missing or empty, a branch reaches too far, or replay is used inside `edit`.
        """
        rendered = self._rendered(prompts)
        if len(continuations) != len(rendered) or not all(len(ids) for ids in continuations):
            raise EditError(f"{len(rendered)} prompts need {len(rendered)} continuations of at least one token each.")
        results: list[Tensor | None] = [None] * len(rendered)
        for size in sorted({len(ids) for ids in continuations}):
            rows = [row for row, ids in enumerate(continuations) if len(ids) == size]
            longer = [replace(rendered[row], ids=[*rendered[row].ids, *continuations[row][:-1]]) for row in rows]
            wanted = torch.tensor([list(continuations[row]) for row in rows])

            def losses(read: Tensor, prompt: int, wanted: Tensor = wanted) -> Tensor:
                scores = torch.log_softmax(read, -1)
                own = wanted[prompt].to(scores.device).view(1, -1, 1).expand(len(scores), -1, 1)
                return -scores.gather(2, own)[..., 0].mean(1)

            found = self._replay(
                longer,
                [[_for_rows(edit, rows) for edit in branch] for branch in branches],
                last=last + size - 1,
                branch_budget=max(1, branch_budget // (last + size - 1)),
                method=None,
                progress=progress,
                reading=Reading(columns=size),
                take=losses,
            )
            for row, values in zip(rows, found, strict=True):
                results[row] = values
        return torch.stack([row for row in results if row is not None]) if results else torch.empty(0, len(branches))

    def replay_states(
        self,
        prompts: Any,
        branches: Sequence[Branch],
        states: Sequence[int],
        *,
        last: int = 1,
        branch_budget: int = DEFAULT_BRANCH_BUDGET,
        progress: bool = True,
    ) -> Tensor:
        """States at the last prompt token under each of many edits; the pass ends after the deepest state.

        Args:
            prompts: n prompts, whatever `as_prompts` accepts.
            branches: R lists of edits, each confined to the last ``last`` tokens.
            states: which of 0..L; a state is read after the edits at it.
            last: how many tokens at the prompt's end are run again.
            branch_budget: most branches in one pass; bounds memory.
            progress: whether to show a bar.

        Returns:
            (n, R, states, d_model), float32, CPU.

        Raises:
            EditError: there is no such state, a branch reaches before the last tokens, or replay is used inside `edit`.
        """
        for state in states:
            check_site(self.anatomy, ("state", state))
        if not states:
            raise EditError("Name at least one state to read.")
        return self._replay(
            self._rendered(prompts),
            branches,
            last=last,
            branch_budget=branch_budget,
            method=None,
            progress=progress,
            reading=Reading(states=tuple(states)),
        )

    @property
    def replay_method(self) -> str:
        """How this model replays branches of short prompts: ``tree``, ``expanded`` or ``loop``."""
        return self._replayer.method or self._replayer.method_for(_SHORT)

    def _rendered(self, prompts: Any) -> list[Rendered]:
        if self._edits:
            raise EditError("Replay takes its edits as branches: call it outside model.edit.")
        return self.renderer.render_many(as_prompts(prompts))

    def _replay(self, rendered: Sequence[Rendered], branches: Sequence[Branch], **options: Any) -> Tensor:
        return self._replayer.run(rendered, branches, **options)


def _for_rows(edit: Edit, rows: Sequence[int]) -> Edit:
    """The edit for some of the prompts: values and spans that it holds one a prompt are picked."""
    own = copy(edit)
    if isinstance(edit.value, list):
        object.__setattr__(own, "value", [edit.value[row] for row in rows])
    if edit.spans is not None:
        object.__setattr__(own, "span", [edit.span[row] for row in rows])
    return own
