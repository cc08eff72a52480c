from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.measure.judge import SubstringJudge
from undertow.measure.observed import POSITIONS, Observed, observe_replies
from undertow.prompts import Prompt


class LongReplies:
    """A judge of no sense that is easy to check."""

    name = "long"

    def refused(self, replies: Sequence[str]) -> list[bool]:
        return [len(reply) % 2 == 0 for reply in replies]


@pytest.fixture
def observed() -> Observed:
    generator = np.random.default_rng(0)
    return Observed(
        [Prompt(f"request {row}") for row in range(7)],
        [f"reply {row}" for row in range(7)],
        np.array([True, False, False, True, True, False, True]),
        {name: generator.normal(size=(7, 3, 4)).astype(np.float32) for name in POSITIONS},
    )


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (slice(2, 5), [2, 3, 4]),
        (slice(None, None, 3), [0, 3, 6]),
        (slice(5, 5), []),
        ([6, 0, 6], [6, 0, 6]),
        (np.array([4, 1]), [4, 1]),
        (np.array([-1]), [6]),
        (np.array([], dtype=int), []),
    ],
)
def test_a_part_keeps_everything_of_its_rows(observed: Observed, rows: object, wanted: list[int]) -> None:
    part = observed.part(rows)  # type: ignore[arg-type]
    assert [prompt.text for prompt in part.prompts] == [f"request {row}" for row in wanted]
    assert part.replies == [f"reply {row}" for row in wanted]
    assert part.refused.tolist() == [bool(observed.refused[row]) for row in wanted]
    assert set(part.states) == set(POSITIONS)
    for name in POSITIONS:
        assert part.states[name].shape == (len(wanted), 3, 4)
        for place, row in enumerate(wanted):
            np.testing.assert_array_equal(part.states[name][place], observed.states[name][row])


def test_replies_and_states_are_those_of_two_separate_runs() -> None:
    """Generation and capture apart, and the very states of transformers without padding."""
    chat = tiny_chat()
    prompts = [Prompt(text) for text in PROMPTS]
    found = observe_replies(chat, prompts, reply_tokens=5, judge=LongReplies(), progress=False)
    assert found.prompts == prompts
    assert found.replies == chat.generate(PROMPTS, 5, progress=False)
    assert found.replies != chat.generate(PROMPTS, 4, progress=False)
    assert found.refused.dtype == bool
    assert found.refused.tolist() == [len(reply) % 2 == 0 for reply in found.replies]
    captured = chat.capture(PROMPTS, positions=POSITIONS, progress=False)
    for name in POSITIONS:
        assert found.states[name].shape == (len(PROMPTS), chat.layers + 1, chat.width)
        assert found.states[name].dtype == np.float32
        np.testing.assert_allclose(found.states[name], captured.at(name).numpy(), atol=1e-4)
    for row, prompt in enumerate(prompts):
        text = chat.tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        encoded = chat.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            hidden = chat.model(**encoded, output_hidden_states=True).hidden_states
        for state in range(chat.layers):
            np.testing.assert_allclose(found.states["t_post"][row, state], hidden[state][0, -1].numpy(), atol=1e-4)
    assert not np.allclose(found.states["t_inst"], found.states["t_post"], atol=1e-2)


def test_the_published_list_judges_unless_another_judge_is_given() -> None:
    chat = tiny_chat("gpt2")
    found = observe_replies(chat, [Prompt(text) for text in PROMPTS], reply_tokens=3, progress=False)
    assert found.refused.tolist() == SubstringJudge().refused(found.replies)
    assert all(chat.tokenizer(reply)["input_ids"] for reply in found.replies if reply)
