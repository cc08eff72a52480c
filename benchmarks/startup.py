"""How long `undertow --help` takes, in a fresh process each time, beside Python that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from common import finish, parser, timed

BOUND = 0.3


def run(command: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(command, capture_output=True, check=True)


def main() -> None:
    flags = parser(__doc__)
    flags.set_defaults(repeats=11)
    arguments = flags.parse_args()
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "undertow --help": [str(Path(sys.executable).with_name("undertow")), "--help"],
    }
    rows = []
    for name, command in commands.items():
        run(command)
        seconds = [timed(partial(run, command)) for _ in range(arguments.repeats)]
        middle = statistics.median(seconds)
        rows.append({"name": name, "median": middle, "low": min(seconds), "high": max(seconds)})
        print(f"{name:<18} {middle:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}; bound {BOUND})")
    finish(arguments, {"benchmark": "startup", "bound": BOUND, "rows": rows})


if __name__ == "__main__":
    main()
