"""Batches of like length under a token budget that shrinks when memory runs out, and is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from undertow.errors import ModelError


@dataclass
class TokenBudget:
    """How many tokens, padding included, one forward pass may hold.

    Attributes:
        tokens: the present limit.
        shrunk: whether memory ever ran out under a larger one.
    """

    tokens: int
    shrunk: bool = False

    def shrink(self, used: int) -> None:
        """Halve the budget below what was just used.

        Raises:
            ModelError: not even one prompt of this length fits.
        """
        self.tokens = max(1, min(self.tokens, used) // 2)
        self.shrunk = True


def default_budget(device: torch.device) -> TokenBudget:
    """A budget that keeps the device busy without holding much."""
    return TokenBudget(16_384 if device.type != "cpu" else 4_096)


def plan(lengths: Sequence[int], tokens: int, extra: int = 0, *, alike: bool = False) -> list[list[int]]:
    """Group indices into batches of like length.

    Args:
        lengths: tokens of every prompt.
        tokens: most tokens a batch, padding included; a longer prompt gets a batch of its own.
        extra: tokens that every row will grow by (generation).
        alike: keep only prompts of equal length together, for models that cannot be padded.

    Returns:
        Lists of indices; every index occurs once, longest batches first so that a lack of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches:
            longest = lengths[batches[-1][0]] + extra
            fits = (len(batches[-1]) + 1) * longest <= tokens
            if fits and not (alike and lengths[batches[-1][0]] != lengths[index]):
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def run_batches(
    lengths: Sequence[int],
    budget: TokenBudget,
    step: Callable[[list[int]], None],
    *,
    extra: int = 0,
    alike: bool = False,
) -> Iterator[int]:
    """Run a step on every batch, splitting further when memory runs out.

    Args:
        lengths: tokens of every prompt.
        budget: shared and shrunk in place.
        step: called with the indices of one batch; must be repeatable.
        extra: see `plan`.
        alike: see `plan`.

    Yields:
        How many prompts have just been finished.

    Raises:
        ModelError: a single prompt does not fit in memory.
    """
    waiting = plan(lengths, budget.tokens, extra, alike=alike)
    while waiting:
        batch = waiting.pop(0)
        try:
            step(batch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise ModelError(
                    f"One prompt of {lengths[batch[0]]} tokens does not fit in memory: use a smaller model, "
                    "fewer states or a larger device."
                ) from None
            _release_memory()
            budget.shrink(len(batch) * (lengths[batch[0]] + extra))
            remaining = [index for group in [batch, *waiting] for index in group]
            groups = plan([lengths[index] for index in remaining], budget.tokens, extra, alike=alike)
            waiting = [[remaining[position] for position in group] for group in groups]
            continue
        yield len(batch)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
