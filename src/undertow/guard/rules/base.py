"""What every decision rule of a guard has in common, and the registry of rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from undertow.errors import GuardError

if TYPE_CHECKING:
    from undertow.model import ChatModel

Array = npt.NDArray[Any]
RuleClass = TypeVar("RuleClass", bound="type[Rule]")

_BLOCK_VALUES = 1 << 19

_REGISTRY: dict[str, type[Rule]] = {}


class Rule(ABC):
    """A map from the states of one prompt to one number, positive meaning the class named first (harmful, refused).

    A rule is fitted once and then immutable. It knows the model states it reads (`states`), so that a forward pass
    need not go deeper, and it is written out as named float32 arrays and a few JSON values.

    Attributes:
        name: the word by which the rule is asked for.
        reads_every_state: true for rules defined over all states of the model (`centroid`); such a rule is not tried
            state by state.
        grid: the settings that `auto` tries by cross-validation, each a keyword set for `fit`.
        in_auto: whether `auto` and the studies try the rule.
        single_state: true for rules that read one state and no average over several.
        least_state: the shallowest state that it may be fitted on.
        has_intercept: false for rules whose score 0 stands for even odds; their probability curve has no intercept.
    """

    name: ClassVar[str]
    reads_every_state: ClassVar[bool] = False
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    in_auto: ClassVar[bool] = True
    single_state: ClassVar[bool] = False
    least_state: ClassVar[int] = 0
    has_intercept: ClassVar[bool] = True

    def __init__(self, states: Sequence[int]) -> None:
        self.states: tuple[int, ...] = tuple(int(state) for state in states)

    @classmethod
    def settings_for(cls, model: ChatModel) -> dict[str, Any]:
        """Settings of `fit` that are read off the model; none for most rules."""
        return {}

    @classmethod
    def view(cls, features: Array, **settings: Any) -> Array:
        """What the rule makes of states (n, S, d) before anything else, under `settings_for` a model."""
        return features

    @classmethod
    @abstractmethod
    def fit(
        cls,
        features: Array,
        labels: Array,
        states: Sequence[int],
        *,
        weights: Array | None = None,
        standardise: bool = True,
        dimension: int | None = None,
        **settings: Any,
    ) -> Rule:
        """Fit the rule.

        Args:
            features: (n, S, d), residual-stream states at one position.
            labels: (n,) of bool.
            states: the S state numbers of the model that `features` holds, in order.
            weights: (n,) relative weights of the rows; equal when left out.
            standardise: scale every dimension to unit deviation first; off when the caller has already done so.
            dimension: the width before a lossless or near-lossless rotation into fewer dimensions; d when left out.
            settings: what the rule itself takes.
        """

    @abstractmethod
    def score_block(self, features: Array) -> Array:
        """Scores (n,) float64 of a block of at most a few hundred rows; `features` is (n, len(self.states), d)
        float64."""

    @abstractmethod
    def tensors(self) -> dict[str, Array]:
        """The fitted parameters as named float32 arrays, each with the states as its first axis."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Array], states: Sequence[int], settings: Mapping[str, Any]) -> Rule:
        """The inverse of `tensors` and `settings`. Raises GuardError where arrays are missing, misshapen or not
        finite."""

    def settings(self) -> dict[str, Any]:
        """The JSON values that belong to the rule beside its arrays."""
        return {}

    @property
    def width(self) -> int:
        """The model width d that the rule was fitted on."""
        return int(next(iter(array for array in self.tensors().values() if array.ndim == 2)).shape[1])

    def score(self, features: Array) -> Array:
        """Score states.

        Args:
            features: (n, len(self.states), d), any float type; the states are those of `self.states`, in order.

        Returns:
            (n,) float64; a few matrix products a block of rows, accumulated in float64.

        Raises:
            GuardError: the shape does not fit.
        """
        expected = (len(self.states), self.width)
        if features.ndim != 3 or features.shape[1:] != expected:
            raise GuardError(
                f"The rule '{self.name}' reads {expected[0]} states of width {expected[1]}, but was given an array of "
                f"shape {tuple(features.shape)}; capture the states named in guard.states on the model the guard was "
                "fitted on."
            )
        # Blocks that stay within a processor's cache: one pass over a large array would be several times slower.
        rows = max(1, _BLOCK_VALUES // (expected[0] * expected[1]))
        if 0 < len(features) <= rows:
            return np.asarray(self.score_block(np.asarray(features, dtype=np.float64)), dtype=np.float64)
        scores = np.empty(len(features), dtype=np.float64)
        for start in range(0, len(features), rows):
            block = np.asarray(features[start : start + rows], dtype=np.float64)
            scores[start : start + rows] = self.score_block(block)
        return scores


def register_rule(rule: RuleClass) -> RuleClass:
    """Class decorator: make a rule known by its `name`, to `LatentGuard.fit(rule=...)`, to `auto` and to saved
    guards."""
    _REGISTRY[rule.name] = rule
    return rule


def rule_names() -> tuple[str, ...]:
    """The names of the registered rules that `auto` tries, in the order of registration."""
    return tuple(name for name, rule in _REGISTRY.items() if rule.in_auto)


def rule_named(name: str) -> type[Rule]:
    """The rule class of that name. Raises GuardError, listing the names that exist."""
    if name not in _REGISTRY:
        raise GuardError(f"There is no guard rule '{name}'; the rules are auto, {', '.join(_REGISTRY)}.")
    return _REGISTRY[name]


def checked_tensors(
    rule: str, tensors: Mapping[str, Array], states: Sequence[int], names_and_axes: Mapping[str, int]
) -> dict[str, Array]:
    """Arrays of a saved rule after checks of presence, axes, number of states, common width and finiteness.

    Args:
        names_and_axes: name -> number of axes (2 for (S, d), 1 for (S,)).

    Raises:
        GuardError: in one sentence, whatever does not hold.
    """
    checked: dict[str, Array] = {}
    widths: set[int] = set()
    for name, axes in names_and_axes.items():
        if name not in tensors:
            raise GuardError(
                f"The guard's array '{name}' of the rule '{rule}' is missing; fit and save the guard again."
            )
        array = np.asarray(tensors[name], dtype=np.float32)
        if array.ndim != axes or array.shape[0] != len(states):
            raise GuardError(
                f"The guard's array '{name}' has the shape {tuple(array.shape)}, which does not fit the {len(states)} "
                f"states of its rule '{rule}'; fit and save the guard again."
            )
        if not np.isfinite(array).all():
            raise GuardError(
                f"The guard's array '{name}' holds values that are not finite; fit and save the guard again."
            )
        if axes == 2:
            widths.add(array.shape[1])
        checked[name] = array
    if len(widths) > 1:
        raise GuardError(
            f"The arrays of the guard's rule '{rule}' disagree on the model width; fit and save the guard again."
        )
    return checked


def normalised_weights(labels: Array, weights: Array | None) -> Array:
    """Row weights (n,) float64 in which each of the two classes weighs n / 2 in all."""
    labels = np.asarray(labels, dtype=bool)
    raw = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    balanced = np.empty(len(labels))
    for side in (True, False):
        members = labels == side
        if not members.any():
            raise GuardError("A rule needs rows of both classes to be fitted.")
        balanced[members] = raw[members] / raw[members].sum() * (len(labels) / 2)
    return balanced
