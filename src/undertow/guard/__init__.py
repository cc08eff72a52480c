"""The Latent Guard: rules, calibration, artefact, guarded generation, corpus scoring."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.guard.belief import Belief
    from undertow.guard.calibration import Calibration, Curve, Threshold
    from undertow.guard.generation import GuardedReply
    from undertow.guard.guard import LatentGuard
    from undertow.guard.rules import Rule, register_rule, rule_named, rule_names
    from undertow.guard.scan import ScanResult
    from undertow.guard.steering import Steering
    from undertow.guard.verdict import QUADRANTS, Quadrant, Verdict

_HOMES = {
    "Belief": "belief",
    "Calibration": "calibration",
    "Curve": "calibration",
    "GuardedReply": "generation",
    "LatentGuard": "guard",
    "QUADRANTS": "verdict",
    "Quadrant": "verdict",
    "Rule": "rules",
    "ScanResult": "scan",
    "Steering": "steering",
    "Threshold": "calibration",
    "Verdict": "verdict",
    "register_rule": "rules",
    "rule_named": "rules",
    "rule_names": "rules",
}

__all__ = [
    "QUADRANTS",
    "Belief",
    "Calibration",
    "Curve",
    "GuardedReply",
    "LatentGuard",
    "Quadrant",
    "Rule",
    "ScanResult",
    "Steering",
    "Threshold",
    "Verdict",
    "register_rule",
    "rule_named",
    "rule_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
