from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.builders import PROMPTS, tiny_chat
from tests.measure.classifiers import save_chat, save_classifier
from undertow.errors import ModelError, PositionError
from undertow.measure.moderator import (
    GenerativeModerator,
    Moderator,
    ModeratorError,
    TextClassificationModerator,
    moderator_named,
)
from undertow.measure.text_classifier import TextClassifier
from undertow.prompts import Prompt, as_prompts


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat(tmp_path_factory.mktemp("guard"), steps=40)


def plain_odds(folder: Path, text: str, lead: str) -> float:
    """Log-odds of "unsafe" against "safe" behind the lead, by transformers alone."""
    tokenizer: Any
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    message = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True) + lead
    with torch.no_grad():
        logits = model.eval()(torch.tensor([tokenizer(written, add_special_tokens=False)["input_ids"]])).logits[0, -1]
    unsafe, safe = (
        {
            tokenizer.encode(word, add_special_tokens=False)[0],
            next(
                token
                for token in tokenizer.encode(" " + word, add_special_tokens=False)
                if tokenizer.decode([token]).strip()
            ),
        }
        for word in ("unsafe", "safe")
    )
    return float(logits[list(unsafe)].double().logsumexp(0) - logits[list(safe)].double().logsumexp(0))


def test_a_guard_model_is_read_at_its_verdict(taught: Path) -> None:
    guard = moderator_named(f"llama-guard:{taught}")
    assert isinstance(guard, GenerativeModerator) and isinstance(guard, Moderator)
    assert guard.chat.tokenizer.decode(list(guard.lead)) == "\n"
    prompts = as_prompts(PROMPTS)
    found = guard.score(prompts)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [plain_odds(taught, text, "\n") for text in PROMPTS], atol=1e-4)
    assert guard.score([]).shape == (0,)
    replies = guard.chat.generate(["Hello.", "The smoke alarm?"], 8, progress=False)
    assert [reply.strip() for reply in replies] == ["safe", "unsafe"]
    assert [bool(score >= 0) for score in guard.score(as_prompts(["Hello.", "The smoke alarm?"]))] == [False, True]


def test_a_verdict_without_a_lead_is_read_at_the_prompts_end(tmp_path: Path) -> None:
    guard = GenerativeModerator.load(str(save_chat(tmp_path, steps=40, lead="")))
    assert guard.lead == ()
    found = guard.score(as_prompts(PROMPTS[:2]))
    np.testing.assert_allclose(found, [plain_odds(tmp_path, text, "") for text in PROMPTS[:2]], atol=1e-4)


def test_other_verdicts_can_be_named(tmp_path: Path) -> None:
    folder = save_chat(tmp_path, steps=40, words=("Yes", "No"))
    chat = GenerativeModerator.load(str(folder)).chat
    guard = GenerativeModerator(chat, harmful="Yes", harmless="No")
    assert [bool(score >= 0) for score in guard.score(as_prompts(["Hello.", "The smoke alarm?"]))] == [False, True]
    with pytest.raises(ModeratorError, match="does not open"):
        GenerativeModerator(chat).check()


def test_a_chat_model_that_is_no_guard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModeratorError, match="does not open its reply with 'unsafe' or 'safe'"):
        moderator_named(f"llama-guard:{save_chat(tmp_path)}")
    with pytest.raises(ModeratorError, match="No first token tells"):
        GenerativeModerator(tiny_chat(), harmful="safest", harmless="safe").check()


def test_a_prompt_that_does_not_fit_is_refused(taught: Path) -> None:
    guard = GenerativeModerator.load(str(taught))
    with pytest.raises(PositionError, match="reads at most 512"):
        guard.score([Prompt("a bank. " * 400)])
    assert guard.lead
    # The prompt alone just fits; with the lead it does not.
    spare = 512 - len(guard.chat.render(Prompt("a")).ids)
    full = Prompt("a" + "7" * spare)
    assert len(guard.chat.render(full).ids) == 512
    with pytest.raises(PositionError, match="longer than the context"):
        guard.score([full])


def test_a_text_classifier_moderates_the_last_user_message(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, ["benign", "INJECTION"])
    guard = moderator_named(f"classifier:{folder}")
    assert isinstance(guard, TextClassificationModerator) and isinstance(guard, Moderator)
    assert guard.name == f"classifier:{folder}#INJECTION" and "64 tokens" in guard.note
    talk = Prompt(({"role": "system", "content": "Be kind."}, {"role": "user", "content": PROMPTS[0]}))
    expected = TextClassifier.load(str(folder), device="cpu").scores([PROMPTS[0], PROMPTS[1]])
    np.testing.assert_allclose(guard.score([talk, Prompt(PROMPTS[1])]), expected, atol=1e-5)
    other = moderator_named(f"classifier:{folder}#benign")
    np.testing.assert_allclose(other.score([Prompt(PROMPTS[0])]), -expected[:1], atol=1e-4)
    with pytest.raises(ModelError, match="no label 'worse'"):
        moderator_named(f"classifier:{folder}#worse")


@pytest.mark.parametrize("text", ["", "llama-guard", "llama-guard:", "classifier:", "classifier:#a", "words:x"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ModeratorError, match="llama-guard:ID, classifier:ID"):
        moderator_named(text)
