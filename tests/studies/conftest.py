from __future__ import annotations

from pathlib import Path

import pytest

from tests.demonstrated import demonstrated
from undertow.studies.demo import DemoResult


@pytest.fixture(scope="session")
def result() -> DemoResult:
    """A small run of the demo."""
    return demonstrated()[0]


@pytest.fixture(scope="session")
def folder() -> Path:
    """What that run has written."""
    return demonstrated()[1]
