"""Forty chat-template shapes with the tokens expected of each, written by hand."""

from __future__ import annotations

from tests.model.templates.delimited import DELIMITED
from tests.model.templates.refused import REFUSED
from tests.model.templates.shape import Case, Shape
from tests.model.templates.thinking import THINKING
from tests.model.templates.written import WRITTEN

ACCEPTED = [*DELIMITED, *THINKING, *WRITTEN]
SHAPES = [*ACCEPTED, *REFUSED]

__all__ = ["ACCEPTED", "REFUSED", "SHAPES", "Case", "Shape"]
