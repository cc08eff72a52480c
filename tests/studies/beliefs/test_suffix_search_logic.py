"""The suffix search around its library: target, random suffixes, losses, totals; a fake searcher stands in."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.measure.judge import SubstringJudge
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.published import belief_centroids
from undertow.studies.beliefs.suffix_library import Found, Task, Vocabulary
from undertow.studies.beliefs.suffix_search import (
    CONDITIONS,
    learnt_target,
    opening_loss,
    random_suffix,
    refused_prompts,
    search_suffixes,
    target_ids,
)

FOUND = " zig zag zog"


def fake(task: Task) -> Found:
    for _ in range(task.steps):
        task.advance(1)
    return Found(FOUND, 0.5)


def loss_by_hand(context: Context, text: str, target: str) -> float:
    """Through transformers alone, token by token."""
    chat = context.chat
    messages = [{"role": "user", "content": text}]
    prompt = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = chat.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    wanted = chat.tokenizer(prompt + target, add_special_tokens=False)["input_ids"][len(ids) :]
    total = 0.0
    for place, token in enumerate(wanted):
        with torch.no_grad():
            logits = chat.model(torch.tensor([ids + wanted[:place]])).logits[0, -1]
        total -= float(torch.log_softmax(logits.double(), -1)[token])
    return total / len(wanted)


def test_a_search_in_numbers() -> None:
    context = small_context()
    result = search_suffixes(context, most=4, steps=3, tokens=5, searcher=fake)
    assert len(result.trials) == 4 and result.target == "Sure." and result.library == "fake"
    chosen = [trial.prompt for trial in result.trials]
    assert chosen == refused_prompts(context.test, 4, 0)
    assert all(prompt.harmful and not prompt.wrapper for prompt in chosen)
    texts = [
        text
        for trial in result.trials
        for text in (trial.prompt.text, trial.prompt.text + trial.random, trial.prompt.text + trial.suffix)
    ]
    refused = np.array(SubstringJudge().refused(context.chat.generate(texts, 16, progress=False))).reshape(4, 3)
    states = context.chat.capture(texts, progress=False).values
    centres = belief_centroids(context.fit)
    beliefs = {
        "harmfulness": centres["harmfulness"].belief(states[:, :, 0]).numpy().reshape(4, 3),
        "refusal": centres["refusal"].belief(states[:, :, 1]).numpy().reshape(4, 3),
    }
    for row, trial in enumerate(result.trials):
        assert trial.suffix == FOUND and trial.random not in ("", FOUND)
        for column, condition in enumerate(CONDITIONS):
            assert trial.loss[condition] == pytest.approx(
                loss_by_hand(context, texts[3 * row + column], "Sure."), rel=1e-3, abs=1e-5
            )
            assert trial.refused[condition] == refused[row, column]
            assert trial.harmfulness[condition] == pytest.approx(beliefs["harmfulness"][row, column], abs=1e-4)
            assert trial.refusal[condition] == pytest.approx(beliefs["refusal"][row, column], abs=1e-4)
    for column, condition in enumerate(CONDITIONS):
        assert result.refused[condition].value == refused[:, column].mean()
        assert result.refused[condition].n == 4
        for name, totals in (("harmfulness", result.harmfulness), ("refusal", result.refusal)):
            assert totals[condition].value == pytest.approx(beliefs[name][:, column].mean(), abs=1e-4)
    for name, shifts in (("harmfulness", result.harmfulness_shift), ("refusal", result.refusal_shift)):
        for column, condition in enumerate(("bare", "random")):
            wanted = (beliefs[name][:, 2] - beliefs[name][:, column]).mean()
            assert shifts[condition].value == pytest.approx(wanted, abs=1e-4)
            assert shifts[condition].low <= wanted + 1e-4 and wanted - 1e-4 <= shifts[condition].high
    both = ~refused[:, 2] & (beliefs["harmfulness"][:, 2] >= 0)
    assert result.believed_answered.value == both.mean()
    wanted = max(abs(trial.loss["searched"] - 0.5) for trial in result.trials)
    assert result.disagreement == pytest.approx(wanted) and wanted > 0
    assert result.seconds > 0


def test_random_suffixes_keep_their_tokens_and_differ() -> None:
    context = small_context()
    chat, vocabulary = context.chat, Vocabulary(context.chat)
    prompt = refused_prompts(context.test, 1, 0)[0]
    found = {random_suffix(context, prompt, vocabulary, 6, random.Random(seed)) for seed in range(5)}
    assert len(found) == 5
    for join, ids in found:
        assert len(ids) == 6 and set(ids) <= set(vocabulary.allowed)
        rendered = chat.render(prompt.text + join + chat.tokenizer.decode(list(ids)))
        assert tuple(rendered.ids[rendered.t_inst - 5 : rendered.t_inst + 1]) == ids
    again = random_suffix(context, prompt, vocabulary, 6, random.Random(0))
    assert again == random_suffix(context, prompt, vocabulary, 6, random.Random(0))


def replying(answers: list[str], refusals: list[str]) -> Panel:
    """A fit panel with these replies to harmless and to harmful prompts."""
    context = small_context()
    rows = [*context.fit.rows(harmful=False)[: len(answers)], *context.fit.rows(harmful=True)[: len(refusals)]]
    observed = replace(
        context.fit.observed.part(rows),
        replies=[*answers, *refusals],
        refused=np.array([False] * len(answers) + [True] * len(refusals)),
    )
    return Panel(observed, np.full(len(rows), -1))


@pytest.mark.parametrize(
    ("answers", "refusals", "wanted"),
    [
        (["Sure. Cakes are", "Sure. Trees are", "To bake", "Trees"], ["I am sorry"], "Sure."),
        (["I can help", "I can do it", "I would say"], ["I am sorry", "I am not able"], "I can"),
        (["Cakes", "Trees", "Bread", "Rice", "Milk"], ["I am sorry"], "Sure."),
        (["Well, yes", "Well, no", "Well, so"], ["Well, no way", "Sorry"], "Well, yes"),
    ],
)
def test_the_target_is_the_models_own_opening(answers: list[str], refusals: list[str], wanted: str) -> None:
    assert learnt_target(replying(answers, refusals)) == wanted


def test_the_target_is_read_where_it_stands() -> None:
    context = small_context()
    prompt = Prompt("Bake a cake.")
    ids = target_ids(context, prompt, "Sure. Here")
    assert context.chat.tokenizer.decode(list(ids)) == "Sure. Here"
    assert opening_loss(context, prompt, ids) == pytest.approx(
        loss_by_hand(context, "Bake a cake.", "Sure. Here"), rel=1e-3, abs=1e-5
    )


def test_what_cannot_be_searched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    with pytest.raises(UndertowError, match="reasoning"):
        learnt_target(replying(["<think>Hm.</think>Sure.", "Sure."], ["Sorry"]))
    for setting in ("steps", "width", "tokens", "most"):
        settings: dict[str, Any] = {setting: 0}
        with pytest.raises(UndertowError, match="at least 1"):
            search_suffixes(context, searcher=fake, **settings)
    with pytest.raises(UndertowError, match="at least one prompt"):
        search_suffixes(context, [], searcher=fake)
    with pytest.raises(UndertowError, match="has no tokens"):
        search_suffixes(context, most=1, target="", searcher=fake)
    with pytest.raises(UndertowError, match="refuses no bare harmful"):
        refused_prompts(replying(["Sure."], []), 3, 0)
    # The library is looked for before anything else runs.
    monkeypatch.setattr("undertow.studies.beliefs.suffix_library.LIBRARY", "no_such_library_anywhere")
    with pytest.raises(UndertowError, match="pip install --no-deps"):
        search_suffixes(replace(context, fit=None, test=None))  # type: ignore[arg-type]
