from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.cli.conftest import Ground, Run
from undertow import load
from undertow.guard import LatentGuard
from undertow.prompts import PromptSet


@pytest.fixture(scope="session")
def normed(ground: Ground, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard of the rule `normed`, fitted on the command line."""
    path = tmp_path_factory.mktemp("normed") / "guard"
    fitted = run(
        "fit", ground.model, "--harmful", ground.harmful, "--harmless", ground.harmless, "-o", path,
        "--rule", "normed", "--false-positive-rate", "0.05", "--json",
    )  # fmt: skip
    assert fitted.code == 0 and fitted.json["rule"] == "normed", fitted.err
    return path


def probabilities(folder: Path, texts: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_tensors="pt", return_dict=True)
        with torch.no_grad():
            found.append(float(model(**ids).logits.double().softmax(-1)[0, 1]))
    return found


def test_fit_normed_then_export_needs_no_prompts(ground: Ground, normed: Path, run: Run, tmp_path: Path) -> None:
    outcome = run("export", normed, "--to", "sequence-classifier", "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert found["architecture"] == "LlamaForSequenceClassification" and found["agreement"] is None
    texts = PromptSet.read(ground.both).texts[::20]
    guard = LatentGuard.from_pretrained(normed, model=load(ground.model))
    assert found["fingerprint"] == guard.fingerprint
    given = probabilities(tmp_path / "out", texts)
    assert given == pytest.approx([verdict.harmful for verdict in guard(texts)], abs=1e-5)
    flagged = np.array(given) >= found["threshold"]
    assert flagged.tolist() == [verdict.flagged for verdict in guard(texts)]


def test_another_rule_without_prompts_is_one_sentence(ground: Ground, run: Run, tmp_path: Path) -> None:
    outcome = run("export", ground.guard, "--to", "sequence-classifier", "-o", tmp_path / "out")
    assert outcome.code == 2 and outcome.out == "" and not (tmp_path / "out").exists()
    assert len(outcome.err.strip().splitlines()) == 1 and "--harmful and --harmless" in outcome.err


def test_another_rule_with_prompts_shows_how_far_it_agrees(ground: Ground, run: Run, tmp_path: Path) -> None:
    outcome = run(
        "export", ground.guard, "--to", "sequence-classifier", "-o", tmp_path / "out", "--harmful", ground.harmful,
        "--harmless", ground.harmless,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    for words in ("LlamaForSequenceClassification", "agreement", "prompts held out from its fit", "Saved in"):
        assert words in outcome.out
    record = json.loads((tmp_path / "out" / "config.json").read_text())["undertow"]
    assert record["guard"] != LatentGuard.from_pretrained(ground.guard, model=load(ground.model)).fingerprint


def test_a_control_vector_of_the_harmfulness_direction(ground: Ground, run: Run, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "v.gguf"
    arguments = ("export", ground.guard, "--to", "gguf", "-o", path, "--direction", "harmfulness", "--states", "2,3")
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["tensors"] == {"direction.1": 2, "direction.2": 3}
    assert sorted(tensor.name for tensor in gguf.GGUFReader(path).tensors) == ["direction.1", "direction.2"]
    assert run(*arguments).code == 2
    again = run(*arguments, "--overwrite")
    assert again.code == 0 and "Saved direction.1, direction.2" in again.out


def test_outputs_and_prompts_are_looked_at_before_the_model_is_loaded(
    ground: Ground, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertow.cli.export.open_guard", lambda *_, **__: pytest.fail("too late"))
    (tmp_path / "v.gguf").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    files = ("--harmful", ground.harmful, "--harmless", tmp_path / "missing.csv")
    for flags, words in (
        (("--to", "gguf", "-o", tmp_path / "v.gguf"), "add --overwrite"),
        (("--to", "sequence-classifier", "-o", tmp_path / "out"), "add --overwrite"),
        (("--to", "sequence-classifier", "-o", tmp_path / "new", *files), "missing.csv"),
    ):
        outcome = run("export", ground.guard, *flags)
        assert outcome.code == 2 and words in outcome.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--to", "onnx"), "--to': 'onnx' is not one of"),
        (("--to", "sequence-classifier", "--states", "2"), "--states is for control vectors"),
        (("--to", "sequence-classifier", "--harmful", "x.csv"), "--harmful and --harmless go together"),
        (("--to", "sequence-classifier", "--harmful", "x", "--harmless", "y", "--builtin"), "in one way"),
        (("--to", "sequence-classifier", "--builtin", "--prompt-column", "x"), "column flags are for files"),
        (("--to", "sequence-classifier", "--direction", "refusal"), "--direction is for control vectors"),
        (("--to", "gguf", "--builtin"), "a control vector needs none"),
        (("--to", "gguf", "--prompt-column", "x"), "a control vector needs none"),
        (("--to", "gguf", "--states", "two"), "takes numbers with commas"),
        (("--to", "gguf"), "ends in .gguf"),
    ],
)
def test_bad_flags_are_one_sentence(
    flags: tuple[str, ...], words: str, ground: Ground, run: Run, tmp_path: Path
) -> None:
    outcome = run("export", ground.guard, "-o", tmp_path / "out", *flags)
    assert outcome.code == 2 and words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1 and list(tmp_path.iterdir()) == []
