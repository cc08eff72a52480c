"""Many edits on the last tokens of a prompt in one pass over a tree of branches (design rule 5).

An edit confined to the last k tokens leaves every earlier token untouched in every layer. The prompt is therefore
read once up to there, and R edits become R branches of k tokens in ONE sequence: same position ids, a mask in which
each branch sees the shared prefix and itself, its own edit. No cache is copied.

Where a model takes no such mask, its branches become rows over an expanded cache; where it has no cache, full
passes. Which one is used is decided by arithmetic at the prompt's own length, and recorded in `Replayer.method`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from undertow.errors import EditError, UndertowError
from undertow.model.capture import StopForward
from undertow.model.decoding import stated_window
from undertow.model.edit import Add, Edit
from undertow.model.hooks import Site, Visit, attached
from undertow.model.positions import Rendered
from undertow.model.program import Operation, apply_operations, check_edit
from undertow.progress import progress_bar

if TYPE_CHECKING:
    from undertow.model.chat import ChatModel

Branch = Sequence[Edit]
Group = Sequence[tuple[int, Rendered]]
"""Prompts of one length, each with its number within the call."""
DEFAULT_BRANCH_BUDGET = 512
METHODS = ("tree", "expanded", "loop")
_TOLERANCE = 2e-4
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, UndertowError)


@dataclass(frozen=True)
class Reading:
    """What is read of every branch.

    Attributes:
        columns: of so many tokens at the end the logits are read.
        states: instead of logits, these states at the last token; the pass ends after the deepest.
    """

    columns: int = 1
    states: tuple[int, ...] = ()


class Replayer:
    """Replays branches on one model.

    Args:
        chat: the model.

    Attributes:
        method: ``tree``, ``expanded`` or ``loop``: what served the longest prompt of the last call.
    """

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        self.method: str | None = None
        self._exact: dict[str, int] = {}
        self._joint: dict[int, bool] = {}
        self._fails: dict[str, int] = {}

    def run(
        self,
        rendered: Sequence[Rendered],
        branches: Sequence[Branch],
        *,
        last: int,
        branch_budget: int,
        method: str | None,
        progress: bool,
        reading: Reading = Reading(),
        take: Callable[[Tensor, int], Tensor] = lambda read, prompt: read,
    ) -> Tensor:
        """See `ChatModel.replay`; `take` is given what was read of some branches, and the prompt's number.

        What is read has the shape (branches, columns, vocabulary) or (branches, states, d_model), float32, CPU.
        """
        if last < 1 or branch_budget < 1:
            raise EditError("Replay needs last >= 1 and branch_budget >= 1.")
        if method is not None and method not in METHODS:
            raise EditError(f"Unknown replay method {method!r}: use one of {', '.join(METHODS)}.")
        if not branches:
            raise EditError("Replay needs at least one branch; an empty branch is the unedited prompt.")
        for edit in dict.fromkeys(edit for branch in branches for edit in branch):
            check_edit(self.chat.anatomy, edit, len(rendered))
        # The longest prompt first, so that one trial serves the whole set.
        self.method = self.method_for(max(len(item) for item in rendered)) if rendered else None
        taken: list[list[Tensor]] = [[] for _ in rendered]
        with progress_bar(len(rendered) * len(branches), "Replaying", enabled=progress) as advance:
            for group in self._groups(rendered, len(branches), last, branch_budget):
                length = len(group[0][1])
                if last > length:
                    raise EditError(f"Replay of the last {last} tokens of a prompt that has {length}.")
                exact = self.method_for(length)
                chosen = method or exact
                if METHODS.index(chosen) < METHODS.index(exact):
                    raise EditError(
                        f"Replay by {chosen!r} would be wrong on this model for a prompt of {length} tokens: "
                        f"use {exact!r} or leave the method out."
                    )
                joint = chosen == "tree" and len(group) > 1 and self._takes_several(length)
                for part in [group] if joint else [[one] for one in group]:
                    budget = max(1, branch_budget // len(part))
                    if chosen == "tree":
                        budget = int(min(budget, self._most_branches(length - last, last)))
                    for read in self._branches(part, branches, last, budget, chosen, advance, reading):
                        for (prompt, _), values in zip(part, read, strict=True):
                            taken[prompt].append(take(values, prompt).cpu())
        return torch.stack([torch.cat(parts) for parts in taken]) if taken else torch.empty(0)

    def _groups(self, rendered: Sequence[Rendered], branches: int, last: int, budget: int) -> list[Group]:
        """Prompts of one length together, as many as their branches have room for in one pass."""
        by_length: dict[int, list[tuple[int, Rendered]]] = {}
        for prompt, item in enumerate(rendered):
            by_length.setdefault(len(item), []).append((prompt, item))
        size = max(1, budget // branches)
        return [
            members[begin : begin + size]
            for _, members in sorted(by_length.items(), reverse=True)
            for begin in range(0, len(members), size)
        ]

    def _branches(
        self,
        group: Group,
        branches: Sequence[Branch],
        last: int,
        budget: int,
        method: str,
        advance: Callable[[int], None],
        reading: Reading = Reading(),
    ) -> Iterator[Tensor]:
        """Parts (prompts, some branches, ...), float32, on the device; several prompts for the tree alone."""
        run = {"tree": self._tree, "expanded": self._expanded, "loop": self._loop}[method]
        prefix = self._prefix([item.ids[: len(item) - last] for _, item in group], method)
        for begin in range(0, len(branches), budget):
            chunk = branches[begin : begin + budget]
            yield run(group, chunk, last, prefix, reading).float()
            advance(len(chunk) * len(group))

    def _prefix(self, ids: list[list[int]], method: str) -> Any:
        if not ids[0] or method == "loop":
            return None
        from transformers import DynamicCache

        forward = self.chat.forward
        given = ("past_key_values", DynamicCache()) if method == "tree" else None
        tensor, _ = forward.pad_right(ids)
        ends = torch.full((len(ids), 1), len(ids[0]) - 1)
        _, cache = forward(tensor, cache=given, use_cache=True, columns=ends)
        return cache

    def _read(
        self, operations: dict[Site, list[Operation]], reading: Reading, columns: Tensor, **inputs: Any
    ) -> Tensor:
        """(rows, columns, vocabulary), or (rows, columns, states, d_model) where states are read."""
        chat, found = self.chat, {}

        def visit_for(state: int) -> Visit:
            def visit(hidden: Tensor) -> None:
                places = columns.to(hidden.device)
                found[state] = hidden[torch.arange(len(places), device=hidden.device).unsqueeze(1), places].float()
                if state == max(reading.states):
                    raise StopForward

            return visit

        visits = _visits(chat, operations) + [(("state", state), visit_for(state)) for state in reading.states]
        logits = None
        with attached(chat.anatomy, visits), suppress(StopForward):
            logits, _ = chat.forward(**inputs, columns=columns)
        if not reading.states:
            assert logits is not None
            return logits
        return torch.stack([found[state].cpu() for state in reading.states], dim=2)

    def _tree(self, group: Group, branches: Sequence[Branch], last: int, prefix: Any, reading: Reading) -> Tensor:
        device = self.chat.forward.device
        size, count, start = len(group), len(branches), len(group[0][1]) - last
        ids = torch.tensor([item.ids[start:] for _, item in group], device=device).repeat(1, count)
        positions = torch.arange(start, start + last, device=device).repeat(count).expand(size, -1)
        operations = _gather(group, branches, start, lambda row, branch, offset: (row, branch * last + offset))
        before = [(layer.keys, layer.values) for layer in prefix[1].layers] if prefix is not None else []
        ends = torch.arange(last - reading.columns, last)
        columns = ((torch.arange(count) * last).unsqueeze(1) + ends).reshape(1, -1).expand(size, -1)
        read = self._read(
            operations,
            reading,
            columns,
            ids=ids,
            mask=_tree_mask(count, last, start, self.chat.dtype, device).expand(size, -1, -1, -1),
            position_ids=positions,
            cache=prefix,
            use_cache=prefix is not None,
        )
        # The cache grew by concatenation, so the prefix's own tensors are untouched and simply put back.
        for layer, (keys, values) in zip(prefix[1].layers if prefix is not None else [], before, strict=True):
            layer.keys, layer.values = keys, values
        return read if reading.states else read.unflatten(1, (count, reading.columns))

    def _expanded(self, group: Group, branches: Sequence[Branch], last: int, prefix: Any, reading: Reading) -> Tensor:
        forward, item = self.chat.forward, group[0][1]
        start, count = len(item) - last, len(branches)
        cache = None
        if prefix is not None:
            grown = copy.deepcopy(prefix[1])
            grown.batch_repeat_interleave(count)
            cache = (prefix[0], grown)
        read = self._read(
            _gather(group, branches, start, lambda _, branch, offset: (branch, offset)),
            reading,
            torch.arange(last - reading.columns, last).expand(count, -1),
            ids=torch.tensor([item.ids[start:]] * count, device=forward.device),
            position_ids=torch.arange(start, len(item), device=forward.device).expand(count, -1),
            cache=cache,
            use_cache=cache is not None,
        )
        return (read[:, 0] if reading.states else read).unsqueeze(0)

    def _loop(self, group: Group, branches: Sequence[Branch], last: int, prefix: Any, reading: Reading) -> Tensor:
        item = group[0][1]
        start = len(item) - last
        ids, _ = self.chat.forward.pad_right([item.ids])
        columns = torch.arange(len(item) - reading.columns, len(item)).unsqueeze(0)
        parts = []
        for branch in branches:
            operations = _gather(group, [branch], start, lambda _, __, offset: (0, start + offset))
            read = self._read(operations, reading, columns, ids=ids)
            parts.append(read[:, 0] if reading.states else read)
        return torch.cat(parts).unsqueeze(0)

    def _takes_several(self, length: int) -> bool:
        """Whether trees of several prompts in one batch equal those of one, tried at this length."""
        key = _rounded(length)
        if key not in self._joint:
            group, branches, last = self._trial(length, 2)
            alone = torch.cat(
                [torch.cat([*self._branches([one], branches, last, 3, "tree", lambda _: None)], 1) for one in group]
            )
            try:
                together = torch.cat([*self._branches(group, branches, last, 3, "tree", lambda _: None)], 1)
            except _ERRORS:
                self._joint[key] = False
            else:
                self._joint[key] = self._agree(together, alone)
        return self._joint[key]

    def _most_branches(self, start: int, last: int) -> float:
        """How many branches a tree may hold without outgrowing the context or a window.

        Some architectures mask by a token's place in the sequence, whatever its position id and the mask given.
        """
        limit = min(stated_window(self.chat.model), math.inf if self.chat.context is None else self.chat.context)
        return max(1, (limit - start) // last)

    def method_for(self, length: int) -> str:
        """The fastest method that is exact for prompts of so many tokens, tried on a random prompt of that length.

        Architectures with sliding windows, chunks or their own masks take a tree of branches only up to some length,
        so an answer holds up to the length it was found at, and is found again beyond.
        """
        self.chat.decoding_for(length)
        for method in METHODS[:2]:
            if length >= self._fails.get(method, length + 1):
                continue
            if length <= self._exact.get(method, 0):
                return method
            # Lengths are tried in powers of two, so that a set of prompts costs a few trials.
            tried = min(_rounded(length), self._fails.get(method, _rounded(length) + 1) - 1)
            if self.chat.context is not None:
                tried = max(length, min(tried, self.chat.context))
            if self._equals_loop(method, tried) or (tried > length and self._equals_loop(method, tried := length)):
                self._exact[method] = max(tried, self._exact.get(method, 0))
                return method
            self._fails[method] = min(length, self._fails.get(method, length))
        return "loop"

    def _equals_loop(self, method: str, length: int) -> bool:
        """Whether branches on a random prompt of so many tokens equal the loop's."""
        if method == "tree" and length >= stated_window(self.chat.model):
            return False
        group, branches, last = self._trial(length, 1)
        wanted = torch.cat([*self._branches(group, branches, last, 3, "loop", lambda _: None)], 1)
        try:
            found = torch.cat([*self._branches(group, branches, last, 3, method, lambda _: None)], 1)
        except _ERRORS:
            return False
        return self._agree(found, wanted)

    def _trial(self, length: int, prompts: int) -> tuple[Group, list[Branch], int]:
        """Random prompts of so many tokens, branches that edit their last tokens, and how many those are."""
        generator = torch.Generator().manual_seed(length)
        vocabulary = self.chat.model.get_input_embeddings().weight.shape[0]
        drawn = torch.randint(min(10, vocabulary - 1), vocabulary, (prompts, length), generator=generator).tolist()
        last = min(2, length)
        group = [
            (row, Rendered(ids, range(1), range(1, length), 0, length - 1, "", [])) for row, ids in enumerate(drawn)
        ]
        state = min(1, self.chat.layers)
        span = list(range(length - last, length))
        vectors = torch.randn(2, self.chat.width, generator=generator)
        return group, [[], *([Add(vector, state=state, span=span)] for vector in vectors)], last

    def _agree(self, found: Tensor, wanted: Tensor) -> bool:
        tolerance = _TOLERANCE if self.chat.dtype in (torch.float32, torch.float64) else 0.1
        scale = wanted.std().clamp_min(1e-6)
        return found.shape == wanted.shape and bool((found - wanted).abs().max() / scale < tolerance)


def _rounded(length: int) -> int:
    return max(8, 1 << (length - 1).bit_length())


def _tree_mask(count: int, last: int, start: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 1, R k, prefix + R k): each branch sees the prefix and itself up to each token."""
    within = torch.ones(last, last, dtype=torch.bool, device=device).tril()
    branch = torch.block_diag(*[within] * count) if last > 1 else torch.eye(count, dtype=torch.bool, device=device)
    seen = torch.cat([torch.ones(count * last, start, dtype=torch.bool, device=device), branch.bool()], dim=1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
    return mask[None, None]


def _gather(
    group: Group,
    branches: Sequence[Branch],
    start: int,
    place: Callable[[int, int, int], tuple[int, int]],
) -> dict[Site, list[Operation]]:
    """All branches' edits, grouped so that each site needs one indexed operation a kind of edit."""
    groups: dict[tuple[Site, int, str, bool], list[tuple[int, int, int | None, Tensor | None, float]]] = {}
    for row, number in product(range(len(group)), range(len(branches))):
        (prompt, item), branch = group[row], branches[number]
        order: dict[Site, int] = {}
        for edit in branch:
            inside, generated_from = edit.covers(item, prompt)
            indices = list(inside)
            if generated_from is not None:
                indices = [index for index in indices if index < len(item)]
            if any(not start <= index < len(item) for index in indices):
                raise EditError(
                    f"A branch edits token {min(indices)}, and replay re-runs tokens {start} to {len(item) - 1}: "
                    f"raise last to {len(item) - min(indices)}."
                )
            value = edit.value_for(prompt)
            if value is not None and value.dim() == 2 and len(value) != len(indices):
                raise EditError(f"The edit's value has {len(value)} tokens and its span has {len(indices)}.")
            rank = order.get(edit.site, 0)
            order[edit.site] = rank + 1
            key = (edit.site, rank, edit.kind, value is None)
            for place_in_span, index in enumerate(indices):
                line, column = place(row, number, index - start)
                vector = value if value is None or value.dim() == 1 else value[place_in_span]
                groups.setdefault(key, []).append((line, column, edit.head_index, vector, edit.coefficient))
    operations: dict[Site, list[Operation]] = {}
    for (site, _, kind, bare), entries in sorted(groups.items(), key=lambda pair: pair[0][:3]):
        rows, columns, heads, vectors, coefficients = zip(*entries, strict=True)
        operations.setdefault(site, []).append(
            Operation(
                kind,
                torch.tensor(rows),
                torch.tensor(columns),
                None if heads[0] is None else torch.tensor(heads),
                None if bare else torch.stack([vector for vector in vectors if vector is not None]),
                torch.tensor(coefficients).unsqueeze(1),
            )
        )
    return operations


def _visits(chat: ChatModel, operations: dict[Site, list[Operation]]) -> list[tuple[Site, Visit]]:
    def visit_for(site: Site) -> Visit:
        head_size = chat.anatomy.head_sizes[site[1]] if site[0] == "heads" else None

        def visit(hidden: Tensor) -> Tensor:
            placed = [operation.on(hidden.device) for operation in operations[site]]
            return apply_operations(placed, hidden, head_size)

        return visit

    return [(site, visit_for(site)) for site in operations]
