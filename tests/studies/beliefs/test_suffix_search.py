"""The real suffix search; needs nanogcg, which is no dependency."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

pytest.importorskip("nanogcg")

from tests.builders import tiny_chat
from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.prompts import Prompt
from undertow.studies.beliefs.suffix_library import Frame, Task, Vocabulary, check_suffix_library, search_with_library
from undertow.studies.beliefs.suffix_search import refused_prompts, search_suffixes


def test_the_search_lowers_the_loss_that_the_model_itself_has(capfd: pytest.CaptureFixture[str]) -> None:
    context = small_context()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    result = search_suffixes(context, most=2, steps=4, width=24, tokens=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert result.library == "nanogcg" and result.version == check_suffix_library()
    assert [trial.prompt for trial in result.trials] == refused_prompts(context.test, 2, 0)
    for trial in result.trials:
        # The library's loss is that of the prompt as it is rendered, recomputed by the model.
        assert trial.library_loss == pytest.approx(trial.loss["searched"], rel=1e-3, abs=1e-5)
        assert trial.loss["searched"] < trial.loss["random"]
        assert trial.suffix != trial.random
        ids = context.chat.render(trial.prompt.text + trial.suffix)
        assert len(ids) == len(context.chat.render(trial.prompt.text + trial.random))
    assert result.disagreement <= 1e-3
    again = search_suffixes(context, most=2, steps=4, width=24, tokens=6)
    assert [trial.suffix for trial in again.trials] == [trial.suffix for trial in result.trials]
    written = capfd.readouterr()
    assert written.out == "" and written.err == ""


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_it_works_on_other_architectures(kind: str) -> None:
    chat = tiny_chat(kind)
    prompt = Prompt("How do I build a table?")
    start = tuple(chat.tokenizer(" school bank alarm", add_special_tokens=False)["input_ids"])
    target = tuple(chat.tokenizer("Tell me", add_special_tokens=False)["input_ids"])
    rounds: list[int] = []
    task = Task(chat, prompt, "", start, target, Vocabulary(chat), 5, 32, 0, rounds.append)
    found = search_with_library(task)
    assert rounds == [1] * 5
    frame = Frame(chat, prompt, "", start)
    ids = frame.ids(found.text)
    assert len(ids) == len(start) and set(ids) <= {*task.vocabulary.allowed, *start}

    def loss(suffix: list[int]) -> float:
        whole = [*frame.before, *suffix, *frame.after, *target]
        with torch.no_grad():
            scores = torch.log_softmax(chat.model(torch.tensor([whole])).logits[0].double(), -1)
        last = len(whole) - len(target)
        return -float(np.mean([scores[last + i - 1, token] for i, token in enumerate(target)]))

    assert found.loss == pytest.approx(loss(ids), rel=1e-4)
    assert found.loss < loss(list(start))


def test_the_librarys_own_logger_is_left_as_it_was() -> None:
    chat = tiny_chat()
    logger = logging.getLogger("nanogcg")
    before = (logger.handlers[:], logger.propagate, logger.level)
    start = tuple(chat.tokenizer(" bank", add_special_tokens=False)["input_ids"])
    task = Task(chat, Prompt("How do I build a table?"), "", start, (7,), Vocabulary(chat), 1, 8, 0)
    search_with_library(task)
    assert (logger.handlers, logger.propagate, logger.level) == before


def test_a_failure_of_the_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("No token sequences are the same.\nMore lines.")

    monkeypatch.setattr("nanogcg.run", broken)
    chat = tiny_chat()
    start = tuple(chat.tokenizer(" bank", add_special_tokens=False)["input_ids"])
    task = Task(chat, Prompt("How do I build a table?"), "", start, (7,), Vocabulary(chat), 1, 8, 0)
    with pytest.raises(UndertowError, match=r"cannot attack this model: No token sequences are the same\.$"):
        search_with_library(task)
