"""The scorer with plain transformers in place of vLLM; one slow test runs vLLM itself where it is installed."""

from __future__ import annotations

import gc
import json
import multiprocessing
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.builders import PROMPTS, tiny_chat
from tests.guard.export.made import SLOPE, random_guard
from undertow.engines.vllm import VllmScorer, _end
from undertow.errors import GuardError, UndertowError
from undertow.guard import LatentGuard
from undertow.guard.export import export_classifier
from undertow.guard.rows import Scorer, score_chunk
from undertow.prompts import Prompt


@pytest.fixture(scope="module")
def guard() -> LatentGuard:
    return random_guard(tiny_chat("llama"))


@pytest.fixture(scope="module")
def export(guard: LatentGuard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_classifier(guard, tmp_path_factory.mktemp("export") / "out", progress=False).path


def stand_in(export: Path) -> Any:
    """Log-odds of token ids by plain transformers, one prompt at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()

    def log_odds(rows: list[list[int]]) -> list[float]:
        with torch.no_grad():
            logits = [model(input_ids=torch.tensor([row])).logits[0].double() for row in rows]
        return [float(pair[1] - pair[0]) for pair in logits]

    return log_odds


def test_rows_are_the_guards_without_a_belief_of_refusal(
    guard: LatentGuard, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = VllmScorer(export)
    monkeypatch.setattr(scorer, "log_odds", stand_in(export))
    prompts = [Prompt(text, id=f"p{number}") for number, text in enumerate([*PROMPTS, " padded  ", "ends\n"])]
    prompts.insert(2, Prompt("   "))
    prompts.append(Prompt("long " * 600))
    rows = scorer.score_chunk(prompts, 128, include_prompts=True)
    wanted = score_chunk(guard, prompts, 128, include_prompts=True)
    assert isinstance(scorer, Scorer) and not scorer.has_refusal
    for found, own in zip(rows, wanted, strict=True):
        assert list(found) == list(own)
        assert (found["row"], found["id"], found["prompt"]) == (own["row"], own["id"], own["prompt"])
        assert (found["error"] is None) == (own["error"] is None)
        assert (found["flagged"], found["quadrant"], found["refusal"]) == (own["flagged"], own["quadrant"], None)
        if own["harmful"] is not None:
            assert found["harmful"] == pytest.approx(own["harmful"], abs=1e-5)
            assert found["harmfulness"] == pytest.approx(own["harmfulness"], abs=1e-4)
    assert [number for number, row in enumerate(rows) if row["error"]] == [2, len(prompts) - 1]


def test_states_that_are_not_finite_are_no_verdict(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = VllmScorer(export)
    monkeypatch.setattr(scorer, "log_odds", lambda rows: [float("nan")] + [900.0] * (len(rows) - 2) + [-900.0])
    rows = scorer.score_chunk([Prompt(text) for text in PROMPTS], 0)
    assert rows[0]["harmful"] is None and "not finite" in rows[0]["error"]
    assert (rows[1]["harmful"], rows[-1]["harmful"]) == (1.0, 0.0)


def test_the_fingerprint_follows_the_guard_and_what_changes_rows(
    guard: LatentGuard, export: Path, tmp_path: Path
) -> None:
    other = export_classifier(random_guard(guard.model, seed=1), tmp_path / "out", progress=False).path
    prints = {
        VllmScorer(export).fingerprint,
        VllmScorer(other).fingerprint,
        VllmScorer(export, dtype="half").fingerprint,
        VllmScorer(export, max_model_len=16).fingerprint,
        VllmScorer(export, quantization="fp8").fingerprint,
    }
    assert len(prints) == 5
    assert VllmScorer(export, tensor_parallel_size=2, gpu_memory_utilization=0.5).fingerprint in prints
    assert VllmScorer(export).fingerprint in prints
    assert VllmScorer(export).model_fingerprint == guard.model.identity.fingerprint


def test_a_failure_of_the_engine_is_one_sentence(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def classify(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("the worker\n died")

    scorer = VllmScorer(export)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(PoolingParams=dict, LLM=lambda **options: Broken()))
    with pytest.raises(UndertowError, match=r"^vLLM failed while scoring: the worker died\.$"):
        scorer.score_chunk([Prompt("Hi")], 0)


def test_the_engine_is_asked_for_the_exports_own_type_and_for_raw_logits(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Engine:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def classify(self, prompts: Any, *, pooling_params: Any, use_tqdm: bool) -> Any:
            asked.update(pooling_params)
            return [SimpleNamespace(outputs=SimpleNamespace(probs=[0.5, 2.5])) for _ in prompts]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(PoolingParams=dict, LLM=Engine))
    row = VllmScorer(export, tensor_parallel_size=2).score_chunk([Prompt("Hi")], 0)[0]
    assert asked["runner"] == "pooling" and asked["convert"] == "classify" and asked["dtype"] == "float32"
    assert asked["model"] == str(export) and asked["tensor_parallel_size"] == 2 and asked["use_activation"] is False
    assert row["harmfulness"] == pytest.approx(2 / SLOPE) and row["harmful"] == pytest.approx(1 / (1 + np.exp(-2)))


class Threaded:
    """An engine with a thread that ends when its core is shut down, as vLLM's do."""

    started: ClassVar[list[Threaded]] = []

    def __init__(self, **options: Any) -> None:
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.shutdown))
        self.ends, self.ended = threading.Event(), 0
        self.thread = threading.Thread(target=self.ends.wait, daemon=True)
        self.thread.start()
        self.started.append(self)

    def shutdown(self, timeout: float) -> None:
        self.ended += 1
        self.ends.set()

    def classify(self, prompts: Any, **options: Any) -> Any:
        return [SimpleNamespace(outputs=SimpleNamespace(probs=[0.0, 0.0])) for _ in prompts]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Threaded]:
    monkeypatch.setattr(Threaded, "started", [])
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(PoolingParams=dict, LLM=Threaded))
    return Threaded.started


@pytest.mark.parametrize("takes_a_time", [True, False])
def test_the_engine_and_its_threads_end_with_the_scorer(
    export: Path, started: list[Threaded], monkeypatch: pytest.MonkeyPatch, takes_a_time: bool
) -> None:
    if not takes_a_time:
        timed = Threaded.shutdown
        monkeypatch.setattr(Threaded, "shutdown", lambda self: timed(self, 0))
    with VllmScorer(export) as scorer:
        for _ in range(2):
            scorer.score_chunk([Prompt("Hi")], 0)
        assert len(started) == 1 and started[0].thread.is_alive()
    assert started[0].ended == 1 and not started[0].thread.is_alive()
    scorer.close()
    assert started[0].ended == 1
    scorer.score_chunk([Prompt("Hi")], 0)
    assert len(started) == 2 and started[1].thread.is_alive()
    del scorer
    gc.collect()
    assert started[1].ended == 1 and not started[1].thread.is_alive()


def test_a_scorer_that_is_collected_in_a_thread_of_the_engine_does_not_wait_for_it() -> None:
    ended = []
    engine = SimpleNamespace(
        llm_engine=SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda timeout: ended.append(timeout)))
    )
    caught: list[BaseException] = []

    def collect() -> None:
        try:
            _end(engine, [threading.current_thread()])
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and not caught and len(ended) == 1


def test_a_scorer_that_never_scored_has_nothing_to_end(export: Path, started: list[Threaded]) -> None:
    with VllmScorer(export):
        pass
    assert not started


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(GuardError, match="not a classifier that Undertow exported"):
        VllmScorer(tmp_path)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_one_sentence_says_so(export: Path) -> None:
    with pytest.raises(UndertowError, match="Scoring with vLLM needs vllm"):
        VllmScorer(export).score_chunk([Prompt("Hi")], 0)


@pytest.mark.engine
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_itself_gives_the_guards_probabilities(tmp_path: Path) -> None:
    # Its kernels for processors know no heads of 16.
    guard = random_guard(tiny_chat("llama", num_attention_heads=2, num_key_value_heads=1))
    export = export_classifier(guard, tmp_path / "out", progress=False).path
    prompts = [Prompt(f"{text} {number}") for number in range(20) for text in PROMPTS]
    before = set(threading.enumerate())
    with VllmScorer(export) as scorer:
        rows = scorer.score_chunk(prompts, 0)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if thread.daemon and thread not in before]
    wanted = [verdict.harmful for verdict in guard(prompts)]
    np.testing.assert_allclose([row["harmful"] for row in rows], wanted, atol=1e-4)
