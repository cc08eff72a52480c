"""The command line: one file a command, each thin, each imported only when it is asked for."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `undertow`; ends the process with the command's exit code."""
    try:
        from undertow.cli.app import app

        app(prog_name="undertow")
    except KeyboardInterrupt:
        # While the frame itself is still being imported, nothing else can catch this.
        print("undertow: Interrupted.", file=sys.stderr)
        sys.exit(130)
