"""The truth about a built organism: which head does what, and along which directions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undertow.errors import UndertowError

CIRCUIT_FILE = "circuit.json"
Head = tuple[int, int]
"""A head as (block, head), both from 0."""


@dataclass(frozen=True)
class Circuit:
    """What was built, for a search to be scored against.

    Attributes:
        policy: ``gate``, ``direct`` or ``none``; see `undertow.organism.built.Spec`.
        gates: heads that route detection from the request's words to the last prompt token.
        amplifiers: heads that turn the routing signal into a refusal.
        direct: under the policy ``direct``: heads that read detection and write the refusal themselves.
        distractors: heads without a part in the decision, by kind. ``topic`` heads carry topics, and a leak into the
            logits that is zero in the mean over topics. ``cancelled`` heads write detection along the refusal, and a
            later MLP takes exactly that out again. ``constant`` heads write the same along the refusal at all times.
        cancelled_by: block of the MLP that cancels each cancelled head, in their order.
        shares: what each gate, amplifier and direct head is of the sum of its kind, by ``"block.head"``.
        detection: unit direction of the detection signal in the residual stream, on the request's words.
        routing: unit direction of the routing signal, at the last prompt token.
        refusal: unit direction that the unembedding reads as refusal minus answer.
        state: deepest state at which detection on the words still reaches every reader: the input of the first
            block that reads it.
    """

    policy: str
    gates: tuple[Head, ...]
    amplifiers: tuple[Head, ...]
    direct: tuple[Head, ...]
    distractors: dict[str, tuple[Head, ...]]
    cancelled_by: tuple[int, ...]
    shares: dict[str, float]
    detection: list[float] = field(repr=False)
    routing: list[float] = field(repr=False)
    refusal: list[float] = field(repr=False)
    state: int

    @property
    def causal(self) -> tuple[Head, ...]:
        """Every head with a part in the decision."""
        return (*self.gates, *self.amplifiers, *self.direct)

    def to_dict(self) -> dict[str, Any]:
        """The circuit as JSON holds it."""
        return {
            "policy": self.policy,
            "gates": [list(head) for head in self.gates],
            "amplifiers": [list(head) for head in self.amplifiers],
            "direct": [list(head) for head in self.direct],
            "distractors": {kind: [list(head) for head in heads] for kind, heads in self.distractors.items()},
            "cancelled_by": list(self.cancelled_by),
            "shares": dict(self.shares),
            "detection": list(self.detection),
            "routing": list(self.routing),
            "refusal": list(self.refusal),
            "state": self.state,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Circuit:
        """The circuit that `to_dict` wrote.

        Raises:
            UndertowError: the values are those of no circuit.
        """
        try:
            return cls(
                policy=str(values["policy"]),
                gates=_heads(values["gates"]),
                amplifiers=_heads(values["amplifiers"]),
                direct=_heads(values["direct"]),
                distractors={str(kind): _heads(heads) for kind, heads in values["distractors"].items()},
                cancelled_by=tuple(int(block) for block in values["cancelled_by"]),
                shares={str(name): float(share) for name, share in values["shares"].items()},
                detection=[float(number) for number in values["detection"]],
                routing=[float(number) for number in values["routing"]],
                refusal=[float(number) for number in values["refusal"]],
                state=int(values["state"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UndertowError(
                f"These values describe no circuit ({type(error).__name__}: {error}); build the organism again."
            ) from error

    def write(self, folder: str | Path) -> Path:
        """Writes circuit.json into a folder and returns its path."""
        file = Path(folder) / CIRCUIT_FILE
        file.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return file

    @classmethod
    def read(cls, folder: str | Path) -> Circuit:
        """The circuit in a built organism's folder.

        Raises:
            UndertowError: the folder holds no circuit that can be read.
        """
        file = Path(folder) / CIRCUIT_FILE
        try:
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UndertowError(f"{folder} holds no {CIRCUIT_FILE} that can be read; build the organism again.") from (
                error
            )


def _heads(values: Sequence[Sequence[int]]) -> tuple[Head, ...]:
    return tuple((int(block), int(head)) for block, head in values)
