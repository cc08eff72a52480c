"""The server's log: where something failed, and no text of a prompt or reply."""

from __future__ import annotations

import logging
import traceback

from undertow.errors import UndertowError

LOG = logging.getLogger("undertow.serve")


def log_error(error: BaseException, what: str = "A request failed") -> None:
    """Log where an error arose; its message stays out, as it may quote a prompt or a reply. Ours are sentences without
    one.

    Args:
        error: as it was caught.
        what: the beginning of the line.
    """
    where = "".join(traceback.format_tb(error.__traceback__))
    told = f": {error}" if isinstance(error, UndertowError) else ""
    LOG.error("%s with %s%s\n%s", what, type(error).__name__, told, where)
