"""A guard for other engines: a stock sequence classifier, and a control vector."""

from __future__ import annotations

from undertow.guard.export.classifier import ClassifierExport, export_classifier
from undertow.guard.export.gguf import export_control_vector

__all__ = ["ClassifierExport", "export_classifier", "export_control_vector"]
