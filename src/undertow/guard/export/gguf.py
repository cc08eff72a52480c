"""A guard's directions as a control vector in the file format that llama.cpp and repeng read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard

_ARCHITECTURE = "controlvector"


@dataclass(frozen=True)
class ControlVectorExport:
    """What was written.

    Attributes:
        path: the file.
        direction: "refusal" or "harmfulness".
        tensors: name of each tensor -> the state it is added to.
        coefficient: how many class distances strength 1 adds in all.
        notes: what should be known, in sentences.
    """

    path: Path
    direction: str
    tensors: dict[str, int]
    coefficient: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "direction": self.direction,
            "tensors": self.tensors,
            "coefficient": self.coefficient,
            "notes": list(self.notes),
        }


def export_control_vector(
    guard: LatentGuard,
    path: str | Path,
    direction: Literal["refusal", "harmfulness"] = "refusal",
    *,
    states: Sequence[int] | None = None,
    overwrite: bool = False,
) -> ControlVectorExport:
    """Write a control vector.

    The tensor `direction.N` is added to the output of block N (from 0), which is state N + 1 here. Its readers know no
    `direction.0`, so the states are 2 to L. Strength 1 adds what the guard adds when it steers toward refusal: its
    coefficient times the difference of the two means, shared among the states where several are asked for. The guard
    adds it to the template tokens after the request alone, these readers to every token, so the same strength does
    more there.

    Args:
        guard: the guard.
        path: file to write, ending in .gguf.
        direction: "refusal" (refused minus answered, at t_post) or "harmfulness" (harmful minus harmless, at t_inst).
        states: where to add it; the state that the guard steers at when left out.
        overwrite: whether an earlier file may be replaced.

    Raises:
        GuardError: gguf is not installed, the guard has no such direction, a state cannot be reached, or the file
            cannot be written.
    """
    target = Path(path).expanduser().absolute()
    if target.suffix.lower() != ".gguf":
        raise GuardError(f"A control vector ends in .gguf, and {target.name} does not.")
    if target.is_dir():
        raise GuardError(f"{target} is a folder; name a file for the control vector.")
    if target.exists() and not overwrite:
        raise GuardError(f"{target} exists already; name another output or use overwrite.")
    chosen = _states(guard, states)
    coefficient = 1.0 if guard.steering is None else float(guard.steering.refuse.coefficient)
    vectors = {state: _vector(guard, direction, state) * (coefficient / len(chosen)) for state in chosen}
    tensors = {f"direction.{state - 1}": state for state in chosen}
    about = (
        f"Strength 1 adds {coefficient:g} times the difference of the two means of {direction}"
        + (f", shared among {len(chosen)} states" if len(chosen) > 1 else "")
        + ("" if guard.steering is None else ", the coefficient with which the guard steers toward refusal")
        + "; the guard adds to the template tokens after the request alone, readers of this file to every token"
    )
    _write(target, guard, direction, {name: vectors[state] for name, state in tensors.items()}, f"{about}.")
    notes = [*guard.mismatches, f"{about}."]
    if guard.steering is None:
        notes.append("The guard has no steering strength of its own, so strength 1 is one class distance, untried.")
    return ControlVectorExport(target, direction, tensors, coefficient, tuple(notes))


def _states(guard: LatentGuard, states: Sequence[int] | None) -> list[int]:
    if states is None:
        if guard.steering is None:
            raise GuardError(
                "The guard has no steering direction, so there is no state to take: name it with --states."
            )
        states = [guard.steering.state]
    layers = guard.model.layers
    chosen = sorted({int(state) for state in states})
    if not chosen or chosen[0] < 2 or chosen[-1] > layers:
        wrong = "none" if not chosen else str(chosen[0] if chosen[0] < 2 else chosen[-1])
        raise GuardError(
            f"A control vector reaches the states 2 to {layers} of this model, not {wrong}: llama.cpp adds nothing "
            "after the first block; name others with --states."
        )
    return chosen


def _vector(guard: LatentGuard, direction: str, state: int) -> Array:
    """The difference of the two means (d,) float32, as the guard steers with it where it does."""
    steering, directions = guard.steering, guard.directions
    if direction not in ("refusal", "harmfulness"):
        raise GuardError(f"A control vector is of 'refusal' or 'harmfulness', not {direction!r}.")
    if direction == "refusal" and steering is not None and state == steering.state:
        vector = steering.direction
    elif directions is None:
        raise GuardError(
            f"This guard keeps no {direction} direction at state {state}; fit it again with this version of Undertow."
        )
    else:
        vector = directions.difference("refusal" if direction == "refusal" else "harmfulness", state)
    vector = np.asarray(vector, dtype=np.float32)
    if not np.isfinite(vector).all() or not vector.any():
        raise GuardError(f"The guard's {direction} direction at state {state} is zero or not finite.")
    return vector


def _write(target: Path, guard: LatentGuard, direction: str, tensors: dict[str, Array], about: str) -> None:
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise GuardError("Writing a control vector needs gguf: install undertow[export].") from None
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", str(guard.model.model.config.model_type))
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(tensors))
        writer.add_name(f"{direction} of {guard.identity.name}")
        writer.add_description(about)
        writer.add_string("undertow.guard", guard.fingerprint)
        writer.add_string("undertow.model", guard.identity.fingerprint)
        for name, vector in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(vector))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, target)
    except OSError as error:
        raise GuardError(f"The control vector cannot be written to {target}: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
