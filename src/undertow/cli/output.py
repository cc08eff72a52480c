"""What commands print: JSON for machines, tables for people, both on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_PLAIN_WIDTH = 120


def print_json(value: Any) -> None:
    """Print plain values as JSON; numbers that JSON lacks become null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


def console() -> Console:
    """A console on standard output; as wide as the terminal, or a fixed width where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print renderables one below the other."""
    screen = console()
    for part in parts:
        screen.print(part)


def literal(text: str, style: str = "") -> Text:
    """Text of a model or a file as it is: no markup is read in it, and control characters are shown, not sent."""
    from rich.text import Text

    return Text(visible(text), style=style)


def visible(text: str) -> str:
    """The text with control characters spelled out, line breaks kept."""
    return "".join(part if part.isprintable() or part == "\n" else f"\\x{ord(part):02x}" for part in text)


def figure(value: float | None) -> str:
    """A measured difference, short."""
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.1e}"


def share(value: float | None) -> str:
    """A share as a percentage, empty where there is none."""
    return "" if value is None else f"{value:.1%}"
