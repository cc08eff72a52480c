from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.builders import PROMPTS, tiny_chat, tiny_model
from tests.guard.export.made import SLOPE, random_guard, states_by_transformers
from tests.guard.taught import fit_prompts, many
from tests.model.templates import tokenizers as splitters
from undertow.errors import GuardError
from undertow.guard import Curve, LatentGuard
from undertow.guard.export import classifier as module
from undertow.guard.export import export_classifier
from undertow.guard.export.classifier import read_record
from undertow.model import ChatModel
from undertow.prompts import PromptSet

SHAPES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "LlamaForSequenceClassification", {}),
    ("llama", "LlamaForSequenceClassification", {"tie_word_embeddings": True}),
    ("qwen3", "Qwen3ForSequenceClassification", {}),
    ("gemma2", "Gemma2ForSequenceClassification", {}),
    ("gpt2", "GPT2ForSequenceClassification", {}),
    ("gpt_neox", "GPTNeoXForSequenceClassification", {}),
    ("mistral", "MistralForSequenceClassification", {}),
]


def by_hand(rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """The norm written out."""
    if settings["norm"] == "layer":
        rows = rows - rows.mean(1, keepdims=True)
    return rows / np.sqrt((rows**2).mean(1, keepdims=True) + settings["epsilon"])


def stock_logits(folder: Path, prompts: list[str]) -> np.ndarray:
    """Both logits, by nothing but transformers, one prompt at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            rows.append(model(**inputs).logits[0].double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("kind", "name", "overrides"), SHAPES, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("state", [1, 2, 3])
def test_the_logit_is_the_guards_score(
    kind: str, name: str, overrides: dict[str, Any], state: int, tmp_path: Path
) -> None:
    chat = tiny_chat(kind, **overrides)
    guard = random_guard(chat, state)
    export = export_classifier(guard, tmp_path / "out", progress=False)
    assert export.architecture == name and export.blocks == state and export.agreement is None
    logits = stock_logits(export.path, PROMPTS)
    scores = guard.score(PROMPTS)
    np.testing.assert_array_equal(logits[:, 0], 0)
    np.testing.assert_allclose(logits[:, 1] / SLOPE, scores, atol=2e-5)
    assert np.ptp(scores) > 0.1
    probabilities = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(probabilities, [verdict.harmful for verdict in guard(PROMPTS)], atol=1e-5)
    if state < chat.layers:
        rule = guard.harmfulness.rule
        ids = [list(chat.render(text).ids[: chat.render(text).t_inst + 1]) for text in PROMPTS]
        normed = by_hand(states_by_transformers(chat, ids, state).double().numpy(), rule.settings())
        np.testing.assert_allclose(logits[:, 1] / SLOPE, normed @ rule.tensors()["weight"][0], atol=2e-5)


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    chat = tiny_chat("llama")
    guard = random_guard(chat)
    export = export_classifier(guard, tmp_path / "out", progress=False)
    config = json.loads((export.path / "config.json").read_text())
    assert config["num_hidden_layers"] == 2 and config["id2label"] == {"0": "harmless", "1": "harmful"}
    assert sorted(path.name for path in export.path.iterdir() if path.suffix == ".safetensors") == ["model.safetensors"]
    record = read_record(export.path)
    assert record["guard"] == guard.fingerprint and record["model"] == chat.identity.fingerprint
    assert record["probability_threshold"] == pytest.approx(1 / (1 + np.exp(-SLOPE * guard.threshold)))
    assert export.threshold == record["probability_threshold"]
    saved = LatentGuard.from_pretrained(export.path / "guard", model=chat)
    assert saved.fingerprint == guard.fingerprint
    card = (export.path / "README.md").read_text()
    for words in ("--runner pooling --convert classify", f"Flag from {export.threshold:.6f}", "guard/README.md"):
        assert words in card
    assert export.checked >= 64 and export.largest_difference < 1e-5
    assert json.dumps(export.to_dict())


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    guard = random_guard(tiny_chat("llama"))
    capfd.readouterr()
    export_classifier(guard, tmp_path / "out", progress=False)
    assert capfd.readouterr() == ("", "")


def test_bfloat16_stays_bfloat16_with_a_precise_head(tmp_path: Path) -> None:
    chat = ChatModel(tiny_chat("llama").model.bfloat16(), tiny_chat().tokenizer, name="half")
    guard = random_guard(chat)
    export = export_classifier(guard, tmp_path / "out", progress=False)
    from safetensors.torch import load_file

    weights = load_file(export.path / "model.safetensors")
    assert weights["score.weight"].dtype == torch.float32
    assert {value.dtype for name, value in weights.items() if name != "score.weight"} == {torch.bfloat16}
    np.testing.assert_allclose(stock_logits(export.path, PROMPTS)[:, 1] / SLOPE, guard.score(PROMPTS), atol=0.1)


def test_prompts_that_are_not_needed_are_said_to_be_unused(tmp_path: Path) -> None:
    guard = random_guard(tiny_chat("llama"))
    export = export_classifier(guard, tmp_path / "out", ["a"], ["b"], progress=False)
    assert export.guard is guard and any("not used" in note for note in export.notes)
    assert not export_classifier(guard, tmp_path / "plain", progress=False).notes


@pytest.fixture(scope="module")
def linear(chat: ChatModel) -> LatentGuard:
    return LatentGuard.fit(chat, *fit_prompts(), rule="linear", refusal_rule=None, steering=False, progress=False)


def test_another_rule_needs_prompts(linear: LatentGuard, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"rule 'linear' reads the state before the norm.*--harmful and --harmless"):
        export_classifier(linear, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_head_is_fitted_for_another_rule(linear: LatentGuard, tmp_path: Path) -> None:
    export = export_classifier(linear, tmp_path / "out", *fit_prompts(), progress=False)
    agreement = export.agreement
    assert agreement is not None and agreement.prompts == 120
    assert agreement.alike + agreement.only_first + agreement.only_second == agreement.prompts
    assert agreement.low < agreement.alike / agreement.prompts <= agreement.high
    if len(linear.harmfulness.rule.states) == 1:
        assert export.guard.harmfulness.rule.states == linear.harmfulness.rule.states
    fresh = [*many("harmful", 40, 9), *many("harmless", 40, 9)]
    flagged = stock_logits(export.path, [prompt.text for prompt in fresh])[:, 1]
    flagged = 1 / (1 + np.exp(-flagged)) >= export.threshold
    assert flagged[:40].sum() >= 36 and flagged[40:].sum() <= 6
    assert [verdict.flagged for verdict in export.guard(fresh)] == flagged.tolist()


def test_an_export_is_replaced_only_when_asked_and_nothing_else_ever(tmp_path: Path) -> None:
    chat = tiny_chat("llama")
    first, second = random_guard(chat, seed=0), random_guard(chat, seed=1)
    export_classifier(first, tmp_path / "out", progress=False)
    with pytest.raises(GuardError, match="exists already"):
        export_classifier(second, tmp_path / "out", progress=False)
    assert read_record(tmp_path / "out")["guard"] == first.fingerprint
    export_classifier(second, tmp_path / "out", overwrite=True, progress=False)
    assert read_record(tmp_path / "out")["guard"] == second.fingerprint
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(GuardError, match="not a classifier that Undertow exported"):
        export_classifier(first, tmp_path / "other", overwrite=True, progress=False)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_that_does_not_agree_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = module.build_classifier

    def wrong(*arguments: Any) -> Any:
        classifier = build(*arguments)
        with torch.no_grad():
            classifier.score.weight[1] *= 1.05
        return classifier

    monkeypatch.setattr(module, "build_classifier", wrong)
    with pytest.raises(GuardError, match="does not agree with the guard"):
        export_classifier(random_guard(tiny_chat("llama")), tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_the_model_cannot_take_are_left_out_of_the_check(tmp_path: Path) -> None:
    chat = tiny_chat("llama")
    middle = int(np.median([len(chat.render(prompt)) for prompt in PromptSet.builtin()]))
    short = random_guard(tiny_chat("llama", max_position_embeddings=middle))
    checked = export_classifier(short, tmp_path / "short", progress=False).checked
    assert 20 < checked < export_classifier(random_guard(chat), tmp_path / "out", progress=False).checked


def test_blanks_that_share_a_token_with_the_mark_of_the_end_are_counted_and_told(tmp_path: Path) -> None:
    template = "{% for m in messages %}user\n\n{{ m['content'] }}\n\n{% endfor %}assistant\n\n"
    tokenizer = splitters.wrap(splitters.byte_level(), template)
    chat = ChatModel(tiny_model("llama", vocab_size=600), tokenizer, name="plain")
    export = export_classifier(random_guard(chat), tmp_path / "out", progress=False)
    assert export.differing_edges >= 1 and export.largest_difference < 1e-5
    assert [note for note in export.notes if f"{export.differing_edges} of the trial messages" in note]
    assert "strip messages before sending them" in (export.path / "README.md").read_text()


def test_a_full_disk_leaves_nothing_and_is_one_sentence(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    guard = random_guard(tiny_chat("llama"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(GuardError, match=r"^The classifier cannot be written to .*out: [^.]*\.$"):
            export_classifier(guard, tmp_path / "out", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "curve", [Curve(0.8, 0.1), Curve(knots=((0.0, 0.1), (1.0, 0.9))), Curve()], ids=["intercept", "isotonic", "flat"]
)
def test_a_probability_that_no_classifier_can_hold_is_refused(curve: Curve, tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="not a logistic curve through 0"):
        export_classifier(random_guard(tiny_chat("llama"), curve=curve), tmp_path / "out", progress=False)


def test_isotonic_guards_get_a_logistic_head_and_a_note(linear: LatentGuard, tmp_path: Path) -> None:
    values = linear.calibration | {"method": "isotonic"}
    guard = LatentGuard(linear.model, linear.identity, linear.harmfulness, None, calibration=values)
    export = export_classifier(guard, tmp_path / "out", *fit_prompts(), progress=False)
    assert any("isotonic curve was replaced" in note for note in export.notes)


def test_a_folder_that_is_no_export_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match="not a classifier that Undertow exported"):
        read_record(tmp_path)
    export_classifier(random_guard(tiny_chat("llama")), tmp_path / "out", progress=False)
    config = tmp_path / "out" / "config.json"
    values = json.loads(config.read_text())
    for change, words in (({"schema": 99}, "newer version"), ({"slope": -1.0}, "lacks or garbles")):
        config.write_text(json.dumps(values | {"undertow": values["undertow"] | change}))
        with pytest.raises(GuardError, match=words):
            read_record(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
