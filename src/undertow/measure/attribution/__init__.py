"""Exact attribution of logits to the parts of a model."""

from undertow.measure.attribution.logits import LogitAttribution, LogitParts, Part
from undertow.measure.attribution.norm import FrozenNorm

__all__ = ["FrozenNorm", "LogitAttribution", "LogitParts", "Part"]
