from __future__ import annotations

import errno
import os

import pytest
import typer

from tests.cli.conftest import Run
from undertow.cli.failures import sentence
from undertow.errors import GuardError, UndertowError


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UndertowError("It is wrong: mend it."), "It is wrong: mend it."),
        (GuardError("Two\nlines  are one"), "Two lines are one."),
        (FileNotFoundError(errno.ENOENT, "x", "/a/b"), "There is no file or folder /a/b."),
        (PermissionError(errno.EACCES, "x", "/a/b"), "There is no permission to use /a/b."),
        (IsADirectoryError(errno.EISDIR, "x", "/a/b"), "/a/b is a folder, and a file was expected."),
        (NotADirectoryError(errno.ENOTDIR, "x", "/a/b"), "/a/b lies within a file, and a folder was expected."),
        (OSError(errno.ENOSPC, "x", "/a/b"), "The disk is full, so /a/b could not be written."),
        (OSError(errno.EIO, os.strerror(errno.EIO), "/a/b"), "/a/b cannot be used: Input/output error."),
        (ConnectionError("no way out"), "no way out."),
        (OutOfMemoryError(), "Memory ran out: use a smaller model, --dtype bfloat16 or another --device."),
        (typer.BadParameter("it is odd", param_hint="--n"), "Invalid value for --n: it is odd."),
        (typer.BadParameter("Value error, it is odd", param_hint="--n"), "Invalid value for --n: it is odd."),
        (ValueError("a bug"), None),
    ],
)
def test_the_sentence_of_an_error(error: Exception, expected: str | None) -> None:
    assert sentence(error) == expected


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "x", "/locked"),
        OSError(errno.ENOSPC, "x", "/full"),
        IsADirectoryError(errno.EISDIR, "x", "/folder"),
    ],
)
def test_trouble_with_the_disk_ends_with_2(error: OSError, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise error

    monkeypatch.setattr("undertow.cli.check.open_model", fail)
    outcome = run("check", "any")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert str(error.filename) in outcome.err
