"""A scan on a Ray of its own, to be run as a script and killed.

Arguments: the folder of `Ground`, the output, the file in which chunks are noted, seconds a chunk.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from tests.engines.openers import open_plain, open_watched
from undertow.engines.ray import scan_with_ray


def main(folder: str, output: str, log: str, seconds: str) -> None:
    torch.set_num_threads(1)
    scan_with_ray(
        open_plain(folder),
        Path(folder) / "prompts.jsonl",
        output,
        open_guard=partial(open_watched, folder, log, float(seconds)),
        workers=2,
        progress=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
