"""How fast something has lately been, so that no step of the engine takes longer than it should."""

from __future__ import annotations

_WEIGHT = 0.2
_AT_FIRST = 512


class Pace:
    """A moving estimate of tokens a second.

    Example:
        >>> pace = Pace()
        >>> pace.note(1000, 0.5)
        >>> pace.tokens_within(0.1)
        200
    """

    def __init__(self) -> None:
        self._rate: float | None = None

    def note(self, tokens: int, seconds: float) -> None:
        """Say how long some tokens have taken."""
        rate = tokens / max(seconds, 1e-6)
        self._rate = rate if self._rate is None else self._rate + _WEIGHT * (rate - self._rate)

    def tokens_within(self, seconds: float) -> int:
        """Tokens that likely take so long; a modest number where nothing is known yet."""
        return _AT_FIRST if self._rate is None else max(1, int(self._rate * seconds))
