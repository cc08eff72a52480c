from __future__ import annotations

import logging

from undertow.errors import GuardError
from undertow.serve.logs import log_error


def test_the_log_tells_where_but_not_what_was_asked(caplog):
    def fails() -> None:
        raise ValueError("swordfish")

    with caplog.at_level(logging.ERROR, "undertow.serve"):
        logging.getLogger("undertow.serve").propagate = True
        try:
            fails()
        except ValueError as error:
            log_error(error)
    assert "ValueError" in caplog.text
    assert "in fails" in caplog.text
    assert "swordfish" not in caplog.text.replace('raise ValueError("swordfish")', "")


def test_a_sentence_of_ours_is_told(caplog):
    log_error(GuardError("The guard has no direction."), "A step failed")
    assert "A step failed with GuardError: The guard has no direction." in caplog.text
