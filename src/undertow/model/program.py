"""Edits made ready for one call: which rows and columns of each forward pass they touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undertow.errors import EditError
from undertow.model.anatomy import Anatomy
from undertow.model.edit import Edit, transform
from undertow.model.hooks import Site, Visit, check_site
from undertow.model.positions import Rendered


@dataclass(frozen=True)
class Frame:
    """Where the columns of one forward pass lie in each prompt.

    Attributes:
        prompts: index of each row's prompt within the call.
        starts: absolute token index of each row's first column; negative under left padding.
        ends: absolute index after each row's last real token in this pass.
        width: number of columns.
    """

    prompts: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]
    width: int


@dataclass
class Operation:
    """One edit, or many of a kind, on one site of one forward pass.

    Attributes:
        kind: see `transform`.
        rows, columns: (m) indices, or None where every token is touched alike.
        heads: (m) head of each touched token, one head for all, or None where the site has no heads.
        value: (m, d), (d) or None.
        coefficient: a number, or (m, 1).
    """

    kind: str
    rows: Tensor | None
    columns: Tensor | None
    heads: Tensor | int | None
    value: Tensor | None
    coefficient: Tensor | float

    def on(self, device: torch.device) -> Operation:
        """The same operation with its tensors on a device."""

        def move(part: Any) -> Any:
            return part.to(device) if isinstance(part, Tensor) else part

        return replace(
            self,
            rows=move(self.rows),
            columns=move(self.columns),
            heads=move(self.heads),
            value=move(self.value),
            coefficient=move(self.coefficient),
        )


def apply_operations(operations: Sequence[Operation], hidden: Tensor, head_size: int | None) -> Tensor:
    """Carry out operations on the tensor at a site.

    Args:
        operations: in order; on the tensor's device.
        hidden: (batch, tokens, width); left as it is.
        head_size: width of one head where the site is a head, else None.

    Returns:
        A new tensor of the same shape and dtype.
    """
    shape = hidden.shape
    if head_size is not None:
        hidden = hidden.reshape(*shape[:-1], -1, head_size)
    owned = False
    for operation in operations:
        whole = operation.rows is None and operation.heads is None
        if whole:
            hidden = transform(operation.kind, hidden, operation.value, operation.coefficient).contiguous()
            owned = True
            continue
        if not owned:
            hidden, owned = hidden.clone(), True
        where: tuple[Tensor | int | slice, ...]
        if operation.rows is None:
            assert operation.heads is not None
            where = (slice(None), slice(None), operation.heads)
        elif operation.heads is None:
            assert operation.columns is not None
            where = (operation.rows, operation.columns)
        else:
            assert operation.columns is not None
            where = (operation.rows, operation.columns, operation.heads)
        hidden[where] = transform(operation.kind, hidden[where], operation.value, operation.coefficient)
    return hidden.reshape(shape)


@dataclass(frozen=True)
class _Bound:
    edit: Edit
    prompts: frozenset[int] | None


class Program:
    """The edits of one call on its prompts; `look_at` prepares them for each forward pass.

    Args:
        anatomy: the model's parts.
        edits: applied in order.
        rendered: the call's prompts, by the numbers that frames name them with.

    Raises:
        EditError: a site, a width or a span's length does not fit.
    """

    def __init__(
        self, anatomy: Anatomy, edits: Sequence[Edit], rendered: Sequence[Rendered] | Mapping[int, Rendered]
    ) -> None:
        self.anatomy = anatomy
        self.rendered = rendered
        self._bound = [_Bound(edit, None) for edit in edits]
        self._operations: dict[Site, list[Operation]] = {}
        self._placed: dict[tuple[Site, torch.device], list[Operation]] = {}
        self._seen: Frame | None = None
        for edit in edits:
            check_edit(anatomy, edit, len(rendered))

    def copy(self) -> Program:
        """The same edits, to which more may be added without touching these."""
        twin = Program(self.anatomy, (), self.rendered)
        twin._bound = list(self._bound)
        return twin

    def add(self, edits: Sequence[Edit], prompt: int) -> None:
        """Add edits for one prompt only, from the next forward pass on."""
        for edit in edits:
            check_edit(self.anatomy, edit, len(self.rendered))
            self._bound.append(_Bound(edit, frozenset([prompt])))
        self._seen = None

    def drop(self, prompt: int) -> None:
        """Forget the edits of one prompt."""
        kept = [bound for bound in self._bound if bound.prompts != frozenset([prompt])]
        if len(kept) < len(self._bound):
            self._bound, self._seen = kept, None

    @property
    def sites(self) -> list[Site]:
        """Every site that some edit touches, in order of first mention."""
        return list(dict.fromkeys(bound.edit.site for bound in self._bound))

    def look_at(self, frame: Frame) -> None:
        """Prepare the operations of the coming forward pass."""
        if not self._bound:
            return
        if self._same_decoding(frame):
            return
        self._operations, self._placed = {}, {}
        for bound in self._bound:
            operation = self._compile(bound, frame)
            if operation is not None:
                self._operations.setdefault(bound.edit.site, []).append(operation)
        self._seen = frame

    def visits(self) -> list[tuple[Site, Visit]]:
        """The hook functions that carry the prepared operations out, one a site."""
        return [(site, self._visit(site)) for site in self.sites]

    def _visit(self, site: Site) -> Visit:
        head_size = self.anatomy.head_sizes[site[1]] if site[0] == "heads" else None

        def visit(hidden: Tensor) -> Tensor | None:
            if site not in self._operations:
                return None
            key = (site, hidden.device)
            if key not in self._placed:
                self._placed[key] = [operation.on(hidden.device) for operation in self._operations[site]]
            return apply_operations(self._placed[key], hidden, head_size)

        return visit

    def _same_decoding(self, frame: Frame) -> bool:
        """Whether this pass is one more decoding step of the same rows, where named spans cover the same columns."""
        seen = self._seen
        if seen is None or frame.width != 1 or seen.width != 1 or list(frame.prompts) != list(seen.prompts):
            return False
        if any(not isinstance(bound.edit.span, str) for bound in self._bound):
            return False
        return all(
            start >= len(self.rendered[prompt]) and before >= len(self.rendered[prompt])
            for prompt, start, before in zip(frame.prompts, frame.starts, seen.starts, strict=True)
        )

    def _compile(self, bound: _Bound, frame: Frame) -> Operation | None:
        edit = bound.edit
        rows: list[int] = []
        columns: list[int] = []
        values: list[Tensor | None] = []
        real = 0
        shared = not isinstance(edit.value, list)
        common = edit.value_for(0) if shared else None
        per_token = not shared or (common is not None and common.dim() == 2)
        for row, (prompt, start, end) in enumerate(zip(frame.prompts, frame.starts, frame.ends, strict=True)):
            first = max(start, 0)
            real += end - first
            if bound.prompts is not None and prompt not in bound.prompts:
                continue
            inside, generated_from = edit.covers(self.rendered[prompt], prompt)
            touched = _within(inside, first, end)
            if generated_from is not None:
                touched.extend(range(max(generated_from, first), end))
            if not touched:
                continue
            rows.extend([row] * len(touched))
            columns.extend(index - start for index in touched)
            if per_token:
                value = common if shared else edit.value_for(prompt)
                values.extend(_values_at(edit, value, inside, touched))
        if not rows:
            return None
        stacked = _stack(values) if per_token else common
        if not per_token and len(rows) == real:
            return Operation(edit.kind, None, None, edit.head_index, stacked, edit.coefficient)
        return Operation(
            edit.kind,
            torch.tensor(rows),
            torch.tensor(columns),
            edit.head_index,
            stacked,
            edit.coefficient,
        )


def _within(indices: Sequence[int], first: int, end: int) -> list[int]:
    if isinstance(indices, range):
        return list(range(max(indices.start, first), min(indices.stop, end)))
    return [index for index in indices if first <= index < end]


def _values_at(edit: Edit, value: Tensor | None, inside: Sequence[int], touched: list[int]) -> list[Tensor | None]:
    if value is None or value.dim() == 1:
        return [value] * len(touched)
    if edit.span in ("generated", "all"):
        raise EditError(f"A value a token needs a span of known length, not {edit.span!r}.")
    if len(value) != len(inside):
        raise EditError(f"The edit's value has {len(value)} tokens and its span has {len(inside)}.")
    place = {index: order for order, index in enumerate(inside)}
    return [value[place[index]] for index in touched]


def _stack(values: list[Tensor | None]) -> Tensor | None:
    present = [value for value in values if value is not None]
    if not present:
        return None
    if all(value is present[0] for value in present):
        return present[0]
    return torch.stack(present)


def check_edit(anatomy: Anatomy, edit: Edit, prompts: int) -> None:
    """Refuse an edit whose site or width does not fit the model.

    Raises:
        EditError: no such block or head, wrong width, non-finite values, or fewer values than prompts.
        CoverageError: the block has no such part.
    """
    check_site(anatomy, edit.site)
    width = anatomy.width
    if edit.head is not None:
        block, head = edit.head
        if not 0 <= head < anatomy.heads[block]:
            raise EditError(f"There is no head {head} in block {block}: it has heads 0 to {anatomy.heads[block] - 1}.")
        width = anatomy.head_sizes[block]
    if isinstance(edit.value, list) and len(edit.value) < prompts:
        raise EditError(f"The edit holds values for {len(edit.value)} prompts and the call has {prompts}.")
    if edit.spans is not None and edit.spans < prompts:
        raise EditError(f"The edit holds spans for {edit.spans} prompts and the call has {prompts}.")
    values = range(len(edit.value)) if isinstance(edit.value, list) else range(1)
    for index in values:
        value = edit.value_for(index)
        if value is None:
            continue
        if value.dim() not in (1, 2) or value.shape[-1] != width:
            raise EditError(
                f"The edit's value has shape {tuple(value.shape)} and its site takes vectors of width {width}."
            )
        if not torch.isfinite(value).all():
            raise EditError("The edit's value holds numbers that are not finite.")
