"""One thread a process: tiny models gain nothing from more, and timings of parallel runs stay sane."""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
