"""The demo: a Latent Guard fitted on a chat model, judged on held-out prompts of every kind, against its rivals."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.studies.demo.result import DemoResult as DemoResult
    from undertow.studies.demo.run import measure_demo as measure_demo
    from undertow.studies.demo.run import run_demo as run_demo

_HOMES = {"DemoResult": "result", "measure_demo": "run", "run_demo": "run"}

__all__ = ["DemoResult", "measure_demo", "run_demo"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
