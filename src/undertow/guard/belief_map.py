"""Where held-out fit prompts lie on the plane of the two beliefs: numbers only, no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undertow.errors import GuardError
from undertow.guard.rules.base import Array

MOST_POINTS = 400
"""Most points that a guard keeps."""


@dataclass(frozen=True, eq=False)
class BeliefMap:
    """Scores of prompts that the guard was not fitted on, with what is known of them.

    Attributes:
        harmfulness: (n,) scores, in the units of the guard's rule.
        refusal: (n,) beliefs of refusal, positive where the model is about to refuse; None for guards without.
        harmful: (n,) of bool, the prompts' labels.
        refused: (n,) of bool, whether the model refused them when asked.
    """

    harmfulness: Array = field(repr=False)
    refusal: Array | None = field(repr=False)
    harmful: Array = field(repr=False)
    refused: Array = field(repr=False)

    def __len__(self) -> int:
        return len(self.harmfulness)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "harmfulness": [round(float(score), 4) for score in self.harmfulness],
            "refusal": None if self.refusal is None else [round(float(belief), 4) for belief in self.refusal],
            "harmful": [bool(value) for value in self.harmful],
            "refused": [bool(value) for value in self.refused],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BeliefMap:
        """The inverse of `to_dict`.

        Raises:
            GuardError: the values are no lists of one length, or a number is not finite.
            KeyError, TypeError, ValueError: a value is missing or of the wrong kind.
        """
        refusal = None if values["refusal"] is None else np.asarray(values["refusal"], dtype=np.float64)
        found = cls(
            np.asarray(values["harmfulness"], dtype=np.float64),
            refusal,
            np.asarray(values["harmful"], dtype=bool),
            np.asarray(values["refused"], dtype=bool),
        )
        columns = [found.harmfulness, found.harmful, found.refused, *([] if refusal is None else [refusal])]
        even = {column.shape for column in columns} == {(found.harmfulness.size,)}
        if not even or not np.isfinite(np.array(columns, dtype=float)).all():
            raise GuardError("The guard's belief map is damaged; fit and save the guard again.")
        return found
