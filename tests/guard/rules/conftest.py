from __future__ import annotations

import pytest

from tests.guard.taught import fit_prompts as made
from undertow.prompts import Prompt


@pytest.fixture(scope="session")
def fit_prompts() -> tuple[list[Prompt], list[Prompt]]:
    """Harmful and harmless prompts for the small taught model."""
    return made()
