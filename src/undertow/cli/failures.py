"""Errors as one sentence on standard error, with the exit code that goes with each."""

from __future__ import annotations

import errno
import os
import re
import sys

import typer

from undertow.errors import UndertowError

BAD_INPUT = 2
INTERRUPTED = 130

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for wrong flags; it has no public name in every version that is supported."""


def report(error: Exception) -> int:
    """Print what a user must know of an error and return the exit code; errors that are ours to mend are raised again.

    Args:
        error: whatever a command raised.
    """
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone, as in `undertow ... | head`; nothing is left to be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    text = sentence(error)
    if text is None:
        raise error
    _say(text)
    return BAD_INPUT


def interrupted() -> int:
    """Print that the user has interrupted the command and return the exit code."""
    _say("Interrupted.")
    return INTERRUPTED


def sentence(error: Exception) -> str | None:
    """One line for an error that the user can mend, None for any other."""
    if isinstance(error, UsageError):
        return _usage(error)
    if isinstance(error, UndertowError):
        text = str(error)
    elif isinstance(error, OSError):
        text = _of_file(error)
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = "Memory ran out: use a smaller model, --dtype bfloat16 or another --device"
    else:
        return None
    return _one_line(text)


def _usage(error: Exception) -> str:
    text = _one_line(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    # What newer versions of typer check a value with puts the name of its own error first.
    text = text.replace(": Value error, ", ": ", 1)
    # Typer adds its suggestions as sentences of their own.
    text = re.sub(r"[.!?] ([A-Z])", lambda found: f"; {found[1].lower()}", text)
    context = getattr(error, "ctx", None)
    return f"{text}; see {context.command_path} --help." if context is not None else f"{text}."


def _of_file(error: OSError) -> str:
    name = error.filename if isinstance(error.filename, str) else None
    if error.errno is None or name is None:
        return str(error) or type(error).__name__
    known = {
        errno.ENOENT: f"There is no file or folder {name}",
        errno.EACCES: f"There is no permission to use {name}",
        errno.EPERM: f"There is no permission to use {name}",
        errno.EISDIR: f"{name} is a folder, and a file was expected",
        errno.ENOTDIR: f"{name} lies within a file, and a folder was expected",
        errno.EEXIST: f"{name} exists already",
        errno.ENOSPC: f"The disk is full, so {name} could not be written",
        errno.EROFS: f"{name} lies on a disk that cannot be written to",
        errno.ENAMETOOLONG: f"The name {name[:60]}... is too long for a file",
    }
    return known.get(error.errno, f"{name} cannot be used: {error.strerror}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _say(text: str) -> None:
    print(f"undertow: {text}", file=sys.stderr)
