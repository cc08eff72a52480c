"""Reading the residual stream and head outputs: gathered inside the hook, never all tokens of all layers (rule 3)."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undertow.errors import ArrayError, NotFiniteError, PositionError
from undertow.model.anatomy import Anatomy
from undertow.model.hooks import Site, Visit
from undertow.model.identity import ModelIdentity
from undertow.model.positions import Rendered, Renderer
from undertow.prompts import Prompt

Position = str | int
_RENDERED_AT_ONCE = 64


class StopForward(Exception):
    """Ends a forward pass once nothing deeper is read."""


@dataclass
class Activations:
    """States read at chosen positions.

    Attributes:
        values: (n, states, positions, d_model), in the model's dtype, on the CPU.
        prompts: the n prompts, in the order given.
        states: which states the second axis holds; state l is the input of block l, state L the last block's output
            before the final norm.
        positions: names (or absolute indices) along the third axis.
        identity: the model read.
        heads: (n, blocks, heads, positions, head size) where asked for, else None.
        head_blocks: which blocks the heads' second axis holds.
    """

    values: Tensor
    prompts: list[Prompt]
    states: tuple[int, ...]
    positions: tuple[Position, ...]
    identity: ModelIdentity
    heads: Tensor | None = None
    head_blocks: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, position: Position, state: int | None = None) -> Tensor:
        """The states at one position.

        Args:
            position: one of ``positions``.
            state: one of ``states``, or None for all.

        Returns:
            (n, states, d_model), or (n, d_model) for one state.

        Raises:
            PositionError: this position or state was not captured.
        """
        if position not in self.positions:
            raise PositionError(f"Position {position!r} was not captured: these hold {list(self.positions)}.")
        chosen = self.values[:, :, self.positions.index(position)]
        if state is None:
            return chosen
        if state not in self.states:
            raise PositionError(f"State {state} was not captured: these hold {list(self.states)}.")
        return chosen[:, self.states.index(state)]

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file with JSON metadata, in one step."""
        from safetensors.torch import save_file

        path = Path(path)
        metadata = {
            "format": "undertow.activations.1",
            "states": list(self.states),
            "positions": list(self.positions),
            "identity": self.identity.to_dict(),
            "head_blocks": list(self.head_blocks),
            "prompts": [asdict(prompt) for prompt in self.prompts],
        }
        tensors = {"values": self.values.contiguous()}
        if self.heads is not None:
            tensors["heads"] = self.heads.contiguous()
        temporary = path.with_name(path.name + ".partial")
        save_file(tensors, temporary, metadata={"undertow": json.dumps(metadata)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Activations:
        """Read what `save` wrote.

        Raises:
            ArrayError: the file is missing or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})["undertow"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                values=tensors["values"],
                prompts=[Prompt(**entry) for entry in metadata["prompts"]],
                states=tuple(metadata["states"]),
                positions=tuple(metadata["positions"]),
                identity=ModelIdentity.from_dict(metadata["identity"]),
                heads=tensors.get("heads"),
                head_blocks=tuple(metadata["head_blocks"]),
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ArrayError(f"{path} does not hold activations that Undertow saved.") from error


class Gatherer:
    """Hook functions that copy the wanted tokens of the wanted sites out of one forward pass.

    Args:
        anatomy: the model's parts.
        states: states to read.
        head_blocks: blocks whose heads to read.
        stop: whether to end the pass after the deepest site.
    """

    def __init__(
        self, anatomy: Anatomy, states: Sequence[int], head_blocks: Sequence[int] = (), *, stop: bool = True
    ) -> None:
        self.anatomy = anatomy
        self.states = tuple(states)
        self.head_blocks = tuple(head_blocks)
        self.stop = stop
        self._columns: Sequence[Sequence[int]] | None = None
        self._flat: dict[torch.device, Tensor] = {}
        self._taken: dict[Site, Tensor] = {}
        # A block's heads come after its input state and before the next one.
        reached = [(state, 0, ("state", state)) for state in self.states]
        reached += [(block, 1, ("heads", block)) for block in self.head_blocks]
        self._deepest = max(reached)[2] if reached else None

    def aim(self, columns: Sequence[Sequence[int]]) -> None:
        """Say which columns of the coming pass to take.

        Args:
            columns: (batch, positions) column indices, none negative.
        """
        self._columns = columns
        self._flat, self._taken = {}, {}

    def visits(self) -> list[tuple[Site, Visit]]:
        """The hook functions, one a site."""
        sites: list[Site] = [("state", state) for state in self.states]
        sites += [("heads", block) for block in self.head_blocks]
        return [(site, self._visit(site)) for site in sites]

    def state_values(self) -> Tensor:
        """(batch, states, positions, d_model) of the last pass, on the CPU.

        Raises:
            NotFiniteError: some are not finite.
        """
        return _finite(self.raw_state_values())

    def raw_state_values(self) -> Tensor:
        """The same without a look at whether they are finite."""
        return torch.stack([self._taken["state", state].cpu() for state in self.states], dim=1)

    def head_values(self) -> Tensor:
        """(batch, blocks, heads, positions, head size) of the last pass, on the CPU."""
        parts = []
        for block in self.head_blocks:
            flat = self._taken["heads", block].cpu()
            split = flat.reshape(*flat.shape[:-1], self.anatomy.heads[block], -1)
            parts.append(split.permute(0, 2, 1, 3))
        return _finite(torch.stack(parts, dim=1))

    def _visit(self, site: Site) -> Visit:
        def visit(hidden: Tensor) -> None:
            if self._columns is None or site in self._taken:
                return
            rows, width, size = hidden.shape
            if hidden.device not in self._flat:
                self._flat[hidden.device] = _flat(self._columns, width).to(hidden.device)
            flat = self._flat[hidden.device]
            if rows == 1:
                self._taken[site] = hidden.index_select(1, flat)
            else:
                self._taken[site] = hidden.reshape(-1, size).index_select(0, flat).view(rows, len(flat) // rows, size)
            if self.stop and site == self._deepest:
                raise StopForward

        return visit


def _flat(columns: Sequence[Sequence[int]], width: int) -> Tensor:
    """Where (batch, positions) columns lie among the tokens of all rows.

    Raises:
        PositionError: a column lies outside a row, and so within another.
    """
    flat = []
    for row, chosen in enumerate(columns):
        for column in chosen:
            if not 0 <= column < width:
                raise PositionError(f"Column {column} lies outside a batch of {width} columns.")
            flat.append(row * width + column)
    return torch.tensor(flat, dtype=torch.long)


def _finite(values: Tensor) -> Tensor:
    # A finite sum has finite terms, and is the quicker look; one that is not may itself be out of range.
    if not math.isfinite(values.sum(dtype=torch.float32).item()) and not bool(torch.isfinite(values).all()):
        raise NotFiniteError(
            f"The model's states are not all finite in {values.dtype}: load it in bfloat16 or float32, "
            "and check that no edit is out of all proportion."
        )
    return values


def render_lean(renderer: Renderer, prompts: Sequence[Prompt]) -> list[Rendered]:
    """Render without keeping text and offsets, so that many prompts weigh little beside what is read from them.

    Returns:
        One `Rendered` a prompt, in order, whose ids are four bytes each and whose text and offsets are empty.

    Raises:
        PositionError: a prompt's positions cannot be told.
    """
    found: list[Rendered] = []
    for begin in range(0, len(prompts), _RENDERED_AT_ONCE):
        for item in renderer.render_many(prompts[begin : begin + _RENDERED_AT_ONCE]):
            ids: Any = array("i", item.ids)
            found.append(replace(item, ids=ids, text="", offsets=[]))
    return found


def position_columns(rendered: Rendered, positions: Sequence[Position]) -> list[int]:
    """Absolute indices of single-token positions in one prompt.

    Raises:
        PositionError: a span of several tokens is named, or an index lies outside the prompt.
    """
    found = []
    for position in positions:
        if isinstance(position, str):
            span = rendered.span(position)
            if len(span) != 1:
                raise PositionError(f"Position {position!r} spans {len(span)} tokens: capture takes single tokens.")
            found.append(span[0])
        elif 0 <= position < len(rendered):
            found.append(position)
        else:
            raise PositionError(f"Token index {position} lies outside a prompt of {len(rendered)} tokens.")
    return found
