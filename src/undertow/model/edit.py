"""Edits of the residual stream, of heads and of block outputs, as data (design rule 4).

An edit says what to do, at which site and on which tokens. Tokens are absolute indices of each prompt, so padding,
batching and a KV cache cannot shift them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from undertow.errors import EditError
from undertow.model.positions import Rendered

NAMED_SPANS = ("instruction", "tail", "t_inst", "t_post", "prompt", "generated", "all")

Span = str | Sequence[int] | Sequence[Sequence[int]]
SiteKey = tuple[str, int]


class Where(TypedDict, total=False):
    """Keywords that place an edit; see `Edit`."""

    state: int
    head: tuple[int, int]
    attention: int
    mlp: int
    span: Span


@dataclass(frozen=True, eq=False)
class Edit:
    """What all edits share: one site and one span. Use `Add`, `ProjectOut`, `Replace` or `Scale`.

    Attributes:
        state: residual stream at the input of block ``state``; L is the last block's output before the final norm.
        head: (block, head): one head's slice of the attention output projection's input, width head size.
        attention: the attention module's output in this block.
        mlp: the MLP's output in this block.
        span: ``instruction``, ``tail``, ``t_inst``, ``t_post``, ``prompt``, ``generated``, ``all``, or absolute token
            indices (indices past the prompt are generated tokens); a list of such lists or ranges holds one a prompt.
    """

    value: Any
    coefficient: float
    state: int | None = None
    head: tuple[int, int] | None = None
    attention: int | None = None
    mlp: int | None = None
    span: Span = "all"

    kind = ""

    def __post_init__(self) -> None:
        named = [name for name in ("state", "head", "attention", "mlp") if getattr(self, name) is not None]
        if len(named) != 1:
            raise EditError(
                f"{type(self).__name__} names {len(named)} sites: give exactly one of state, head, attention or mlp."
            )
        if isinstance(self.span, str):
            if self.span not in NAMED_SPANS:
                raise EditError(f"Unknown span {self.span!r}: use one of {', '.join(NAMED_SPANS)} or token indices.")
        elif any(
            not isinstance(index, int) or index < 0
            for part in self.span
            for index in ([part] if isinstance(part, int) else part)
        ):
            raise EditError("Explicit positions are absolute token indices from 0: negative ones are ambiguous.")

    @property
    def site(self) -> SiteKey:
        """The hook point: ``("state", l)``, ``("heads", l)``, ``("attention", l)`` or ``("mlp", l)``."""
        if self.state is not None:
            return ("state", self.state)
        if self.head is not None:
            return ("heads", self.head[0])
        if self.attention is not None:
            return ("attention", self.attention)
        assert self.mlp is not None
        return ("mlp", self.mlp)

    @property
    def head_index(self) -> int | None:
        """The head within its block, or None for the other sites."""
        return None if self.head is None else self.head[1]

    @property
    def spans(self) -> int | None:
        """For how many prompts the edit holds a span of their own; None where one span serves all."""
        own = not isinstance(self.span, str) and len(self.span) > 0 and not isinstance(self.span[0], int)
        return len(self.span) if own else None

    def value_for(self, prompt: int) -> Any:
        """The value for one prompt of the call: a list holds one a prompt, anything else serves all."""
        value = self.value
        if isinstance(value, list):
            if prompt >= len(value):
                raise EditError(f"The edit holds values for {len(value)} prompts and prompt {prompt} was asked for.")
            value = value[prompt]
        if value is None or isinstance(value, Tensor):
            return value
        if hasattr(value, "states") and hasattr(value, "__getitem__"):
            if self.state is None:
                raise EditError("A Direction holds a vector a state: give the edit a state, or a plain tensor.")
            return value[self.state]
        return torch.as_tensor(value)

    def covers(self, rendered: Rendered, prompt: int = 0) -> tuple[list[int] | range, int | None]:
        """Which tokens of a prompt the edit touches.

        Args:
            rendered: the prompt.
            prompt: its number within the call, for spans that hold one a prompt.

        Returns:
            Absolute indices below the prompt's length, and the first generated index from which every token is
            touched (None where none is).
        """
        length = len(rendered.ids)
        if isinstance(self.span, str):
            if self.span == "generated":
                return range(0), length
            if self.span == "all":
                return range(length), length
            return rendered.span(self.span), None
        return list(self.span if self.spans is None else self.span[prompt]), None  # type: ignore[arg-type]


class Add(Edit):
    """Add ``coefficient * vector`` (steering, arXiv 2507.11878 section 3).

    Args:
        vector: (d) for every token, (span, d) for a span of that length, a list with one of these a prompt, or a
            `Direction`, of which the state's vector is taken. Not normalised.
        coefficient: dimensionless multiplier; 0 and 1 are what they say.
        where: one of state, head, attention, mlp, and span; see `Edit`.

    Raises:
        EditError: no site or two sites, or an unknown span.
    """

    kind = "add"

    def __init__(self, vector: Any, coefficient: float = 1.0, **where: Unpack[Where]) -> None:
        super().__init__(vector, float(coefficient), **where)


class ProjectOut(Edit):
    """Remove the component along a vector: ``h - coefficient * (h . u) u`` with u the unit vector, in float32.

    Args:
        vector: as in `Add`; its length does not matter.
        coefficient: 1 removes the component, 0 leaves it, 2 mirrors it.
        where: one of state, head, attention, mlp, and span; see `Edit`.

    Raises:
        EditError: no site or two sites, or an unknown span.
    """

    kind = "project_out"

    def __init__(self, vector: Any, coefficient: float = 1.0, **where: Unpack[Where]) -> None:
        super().__init__(vector, float(coefficient), **where)


class Replace(Edit):
    """Put a value in the place of what is there (interchange intervention, arXiv 2604.04385).

    Args:
        value: (d) for every token, (span, d), or a list with one of these a prompt (the donors).
        where: one of state, head, attention, mlp, and span; see `Edit`.

    Raises:
        EditError: no site or two sites, or an unknown span.
    """

    kind = "replace"

    def __init__(self, value: Any, **where: Unpack[Where]) -> None:
        super().__init__(value, 1.0, **where)


class Scale(Edit):
    """Multiply by a factor, whole or along one direction: ``h + (factor - 1) (h . u) u``.

    Args:
        factor: 0 ablates, 1 changes nothing.
        along: a vector as in `Add`, or None to scale everything.
        where: one of state, head, attention, mlp, and span; see `Edit`.

    Raises:
        EditError: no site or two sites, or an unknown span.
    """

    kind = "scale"

    def __init__(self, factor: float, *, along: Any = None, **where: Unpack[Where]) -> None:
        super().__init__(along, float(factor), **where)


def transform(kind: str, hidden: Tensor, value: Tensor | None, coefficient: Tensor | float) -> Tensor:
    """One edit's arithmetic on gathered vectors.

    Args:
        kind: ``add``, ``project_out``, ``replace`` or ``scale``.
        hidden: (..., d), in the layer's dtype.
        value: broadcastable to ``hidden``, on its device; None for a plain scale.
        coefficient: a number, or a tensor broadcastable over the leading dimensions with a trailing 1.

    Returns:
        The edited vectors, same shape and dtype. Projections are computed in float32.
    """
    if kind == "add":
        assert value is not None
        return hidden + (value.float() * coefficient).to(hidden.dtype)
    if kind == "replace":
        assert value is not None
        return value.to(hidden.dtype).expand_as(hidden)
    if value is None:
        if isinstance(coefficient, Tensor):
            coefficient = coefficient.to(hidden.dtype)
        return hidden * coefficient
    wide = value.float()
    unit = wide / wide.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    along = (hidden.float() * unit).sum(-1, keepdim=True)
    amount = -coefficient if kind == "project_out" else coefficient - 1.0
    return hidden + (amount * along * unit).to(hidden.dtype)
