"""Scoring prompts with vLLM, through a guard that was exported as a stock sequence classifier."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from undertow.errors import GuardError, PositionError, UndertowError
from undertow.guard.export.classifier import read_record
from undertow.guard.rows import score_row
from undertow.guard.verdict import quadrant_of
from undertow.prompts import Prompt

CHUNK_ROWS = 512
"""Rows that are handed to vLLM at a time, which batches them as it sees fit."""

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""Environment that vLLM is started with where the variables are not set already."""

_END_SECONDS = 30.0

_MISSING = "Scoring with vLLM needs vllm: install it beside undertow, in an environment of its own."


class VllmScorer:
    """Scores chunks of prompts for `undertow.guard.scan` with an offline vLLM engine.

    Rows hold no belief of refusal, since the exported classifier reads none. Scores equal those of the guard in the
    export's folder up to float noise; which prompts share a batch is vLLM's to decide, so the last digits may differ
    from run to run.

    The engine starts with the first chunk that has a prompt, and ends with `close`, with the `with` block, or where the
    scorer is let go of; scoring again starts it again.

    Args:
        path: folder that `undertow export --to sequence-classifier` wrote.
        options: for `vllm.LLM`, such as tensor_parallel_size, max_model_len or gpu_memory_utilization.

    Raises:
        GuardError: the folder is not such an export.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        from transformers import AutoTokenizer

        from undertow.model.positions import Renderer

        self.path = Path(path)
        self.record = read_record(self.path)
        self._options = options
        config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        self.dtype = str(options.get("dtype") or config.get("dtype") or config.get("torch_dtype") or "auto")
        self._slope, self._threshold = float(self.record["slope"]), float(self.record["score_threshold"])
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path)
        except Exception as error:
            raise GuardError(f"The tokenizer in {self.path} cannot be loaded; export the guard again.") from error
        limit = options.get("max_model_len") or config.get("max_position_embeddings") or config.get("n_positions")
        self.context = limit if isinstance(limit, int) else None
        self.renderer = Renderer(tokenizer, context=self.context)
        self._ending: weakref.finalize[Any, VllmScorer] | None = None

    def __enter__(self) -> VllmScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the engine with its processes and threads, where it runs."""
        if self._ending is not None:
            self._ending()
            self._ending = None
            del self._engine

    @property
    def fingerprint(self) -> str:
        """Hash of the exported guard, of vLLM's version, of the type it computes in, and of what is too long for it.

        How many devices share the work, and how much of their memory, changes no more than float noise.
        """
        parts = {
            "engine": "vllm",
            "version": _version(),
            "guard": self.record["guard"],
            "dtype": self.dtype,
            "context": self.context,
            "quantization": self._options.get("quantization"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the chat model that the export was cut from."""
        return str(self.record["model"])

    @property
    def chunk_rows(self) -> int:
        """Rows that are handed over at a time."""
        return CHUNK_ROWS

    @property
    def has_refusal(self) -> bool:
        """False: the classifier has no belief of refusal."""
        return False

    def require(self) -> None:
        """Raises UndertowError where vLLM is not installed: before a scan begins, which would note its version."""
        if "vllm" not in sys.modules and find_spec("vllm") is None:
            raise UndertowError(_MISSING)

    @cached_property
    def _engine(self) -> Any:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError:
            raise UndertowError(_MISSING) from None
        # Graphs are compiled for decoding, and nothing is decoded here.
        settings = {"enforce_eager": True, **_share(), **self._options, "dtype": self.dtype}
        before = set(threading.enumerate())
        try:
            engine = LLM(model=str(self.path), runner="pooling", convert="classify", **settings)
        except Exception as error:
            raise UndertowError(f"vLLM cannot load {self.path}: {_line(error)}.") from error
        self._ending = weakref.finalize(self, _end, engine, set(threading.enumerate()) - before)
        return engine

    def log_odds(self, rows: list[list[int]]) -> list[float]:
        """Log-odds of "harmful" for prompts given as token ids, in order.

        Raises:
            UndertowError: vLLM is not installed, cannot load the export, or fails.
        """
        engine = self._engine
        from vllm import PoolingParams

        asked = [{"prompt_token_ids": row} for row in rows]
        try:
            outputs = engine.classify(asked, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
        except Exception as error:
            raise UndertowError(f"vLLM failed while scoring: {_line(error)}.") from error
        logits = [output.outputs.probs for output in outputs]
        return [float(pair[1]) - float(pair[0]) for pair in logits]

    def score_chunk(self, prompts: list[Prompt], first_row: int, include_prompts: bool = False) -> list[dict[str, Any]]:
        """Rows of one aligned chunk, in order.

        Args:
            prompts: the prompts.
            first_row: number of the first prompt within the source.
            include_prompts: whether the text is written too.
        """
        errors: dict[int, str] = {}
        ids: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            try:
                ids[index] = [int(token) for token in self.renderer.render(prompt).ids]
            except PositionError as error:
                errors[index] = str(error)
        found = dict(zip(ids, self.log_odds(list(ids.values())) if ids else [], strict=True))
        rows = []
        for index, prompt in enumerate(prompts):
            odds = found.get(index)
            scores = None
            if odds is not None and math.isfinite(odds):
                scores = self._scores(odds)
            elif odds is not None:
                errors[index] = "The model gives states that are not finite for this prompt."
            rows.append(score_row(first_row + index, prompt, include_prompts, scores, errors.get(index)))
        return rows

    def _scores(self, odds: float) -> dict[str, Any]:
        flagged = odds / self._slope >= self._threshold
        probability = 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))
        return {
            "harmful": probability,
            "harmfulness": odds / self._slope,
            "refusal": None,
            "flagged": flagged,
            "quadrant": quadrant_of(flagged, None),
        }


def _end(engine: Any, threads: Iterable[threading.Thread]) -> None:
    """End an engine and wait for its threads.

    Left to itself, vLLM tells its threads to end when the interpreter does, and the interpreter does not wait for them:
    a process that has done all its work may then be aborted.
    """
    until = time.monotonic() + _END_SECONDS
    core = getattr(getattr(engine, "llm_engine", None), "engine_core", None)
    if core is not None:
        try:
            # Its own patience is five seconds, after which it kills the process that holds the model.
            core.shutdown(timeout=_END_SECONDS)
        except TypeError:
            # Earlier versions take no time.
            core.shutdown()
    for thread in threads:
        # A scorer in a cycle is collected wherever the collector runs, be it in one of these threads.
        if thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _share() -> dict[str, float]:
    """Of the machine's memory, where there is no GPU: vLLM's own share is meant for one, and others need theirs."""
    import torch

    return {} if torch.cuda.is_available() else {"gpu_memory_utilization": 0.3}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"
