"""Undertow reads, tests, steers and repairs what a chat model knows about harm underneath what it says.

The public names load on first use, so that ``import undertow`` and ``undertow --help`` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "undertow.model",
    "ChatModel": "undertow.model",
    "Activations": "undertow.model",
    "Rendered": "undertow.model",
    "Add": "undertow.model",
    "ProjectOut": "undertow.model",
    "Replace": "undertow.model",
    "Scale": "undertow.model",
    "register_anatomy": "undertow.model",
    "Prompt": "undertow.prompts",
    "PromptSet": "undertow.prompts",
    "Direction": "undertow.measure",
    "Finding": "undertow.measure",
    "LogitAttribution": "undertow.measure",
    "LatentGuard": "undertow.guard",
    "Verdict": "undertow.guard",
    "UndertowError": "undertow.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from undertow.errors import UndertowError as UndertowError
    from undertow.guard import LatentGuard as LatentGuard
    from undertow.guard import Verdict as Verdict
    from undertow.measure import Direction as Direction
    from undertow.measure import Finding as Finding
    from undertow.measure import LogitAttribution as LogitAttribution
    from undertow.model import (
        Activations as Activations,
    )
    from undertow.model import (
        Add as Add,
    )
    from undertow.model import (
        ChatModel as ChatModel,
    )
    from undertow.model import (
        ProjectOut as ProjectOut,
    )
    from undertow.model import (
        Rendered as Rendered,
    )
    from undertow.model import (
        Replace as Replace,
    )
    from undertow.model import (
        Scale as Scale,
    )
    from undertow.model import (
        load as load,
    )
    from undertow.model import (
        register_anatomy as register_anatomy,
    )
    from undertow.prompts import Prompt as Prompt
    from undertow.prompts import PromptSet as PromptSet


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'undertow' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
