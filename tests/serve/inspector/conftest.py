from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.serve.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.serve.inspector.browsing import Visit


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; while it is open no other event loop runs on this thread, so it is closed early."""
    from tests.serve.inspector.browsing import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Visit]:
    """The page of a server that allows every policy."""
    from tests.serve.inspector.browsing import visiting

    with visiting(browser, served.url) as opened:
        yield opened
