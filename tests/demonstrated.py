"""One small run of the demo on the built-in organism, shared by the tests of everything that shows it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from undertow.report.demo import demo_page
from undertow.studies.demo import DemoResult, run_demo

N = 24


@lru_cache(maxsize=1)
def demonstrated() -> tuple[DemoResult, Path]:
    """The result, and the folder that it was written to."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    parent = tempfile.mkdtemp(prefix="undertow-demo-")
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = Path(parent) / "demo"
    try:
        return run_demo("organism:aligned", folder, n=N, progress=False, page=demo_page), folder
    finally:
        torch.set_num_threads(before)
