from __future__ import annotations

import pytest

from undertow.organism.grammar import INVERSION_WORDINGS
from undertow.prompts import Prompt
from undertow.prompts.inversion import NO, WORDINGS, YES, invert


def test_the_question_stands_in_a_line_of_its_own_behind_the_request() -> None:
    prompt = Prompt("Bake a cake.", harmful=False, category="food", wrapper="suffix/1", style="look-alike", id="a")
    asked = invert(prompt)
    assert asked.content == "Bake a cake.\n" + WORDINGS[0]
    assert (asked.harmful, asked.category, asked.wrapper, asked.style) == (False, "food", "suffix/1", "look-alike")
    assert prompt.content == "Bake a cake."


@pytest.mark.parametrize("wording", WORDINGS)
def test_every_wording_names_both_answers_and_is_kept(wording: str) -> None:
    assert invert(Prompt("Hello"), wording).text == f"Hello\n{wording}"
    assert YES in wording and NO in wording


def test_wordings_are_new_to_the_organism() -> None:
    assert len(set(WORDINGS)) == 3 and not set(INVERSION_WORDINGS["train"]) & set(WORDINGS)


def test_of_a_conversation_the_last_user_message_is_asked_about() -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bake a cake."},
        {"role": "assistant", "content": "Well"},
    )
    prompt = Prompt(messages, harmful=True)
    asked = invert(prompt, "Yes or no?")
    changed = [dict(message) for message in messages]
    changed[3]["content"] = "Bake a cake.\nYes or no?"
    assert asked.messages == changed
    assert asked.harmful is True
    assert prompt.messages == [dict(message) for message in messages]
