"""Positions for forty chat-template shapes, against tokens written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime as real_datetime
from pathlib import Path
from runpy import run_path

import pytest
from transformers.utils import chat_template_utils

from tests.model.templates import ACCEPTED, REFUSED, SHAPES, Case, Shape
from tests.model.templates.shape import QUESTION, TODAY_PARTS
from tests.model.templates.tokenizers import words, wrap
from undertow.errors import ModelError, PositionError
from undertow.model.positions import Rendered, Renderer
from undertow.prompts import Prompt

DOCS = Path(__file__).resolve().parents[2] / "docs"
CASES = [(shape, case) for shape in ACCEPTED for case in shape.cases]


@pytest.fixture(scope="module", autouse=True)
def one_day() -> Iterator[None]:
    """Templates that ask for the date get a fixed one."""

    class Clock(real_datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls(*TODAY_PARTS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Clock)
        yield


def renderer(shape: Shape, thinking: bool | None = None) -> Renderer:
    return Renderer(wrap(words(), shape.template), thinking=thinking)


def seen(tool: Renderer, ids: list[int]) -> tuple[str, ...]:
    """Tokens as a person reads them."""
    tokens = tool.tokenizer.convert_ids_to_tokens(ids)
    return tuple(token.replace("\u0120", " ").replace("\u010a", "\n") for token in tokens)


def assert_marked(tool: Renderer, found: Rendered, instruction: tuple[str, ...], tail: tuple[str, ...]) -> None:
    assert seen(tool, found.ids[found.t_inst + 1 :]) == tail
    assert seen(tool, [found.ids[found.t_inst]]) == instruction[-1:]
    assert seen(tool, found.ids[found.instruction.start : found.instruction.stop]) == instruction
    assert list(found.tail) == list(range(found.instruction.stop, len(found.ids)))
    assert (found.t_inst, found.t_post) == (found.instruction[-1], len(found.ids) - 1)


def test_there_are_forty_shapes() -> None:
    assert (len(SHAPES), len({shape.name for shape in SHAPES}), len({shape.template for shape in SHAPES})) == (40,) * 3


@pytest.mark.parametrize("shape", ACCEPTED, ids=lambda shape: shape.name)
def test_one_question(shape: Shape) -> None:
    tool = renderer(shape)
    found = tool.render(Prompt(QUESTION))
    assert found.text == shape.before + QUESTION + shape.after
    assert_marked(tool, found, shape.instruction, shape.tail)
    assert tool.tokenizer.decode([found.ids[index] for index in found.instruction]) == "".join(shape.instruction)


@pytest.mark.parametrize(("shape", "case"), CASES, ids=[f"{shape.name}: {case.about}" for shape, case in CASES])
def test_conversations_and_thinking_modes(shape: Shape, case: Case) -> None:
    tool = renderer(shape, case.thinking)
    found = tool.render(Prompt(case.conversation))
    assert found.text == case.text
    assert_marked(tool, found, case.instruction, case.tail)


@pytest.mark.parametrize("shape", ACCEPTED, ids=lambda shape: shape.name)
def test_the_tokens_are_those_of_the_templates_own_tokenisation(shape: Shape) -> None:
    tool = renderer(shape)
    content: object = [{"type": "text", "text": QUESTION}] if shape.name == "parts" else QUESTION
    own = tool.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert tool.render(Prompt(QUESTION)).ids == own["input_ids"]


@pytest.mark.parametrize("shape", REFUSED, ids=lambda shape: shape.name)
def test_templates_that_change_the_content_are_refused(shape: Shape) -> None:
    tool = renderer(shape)
    for content in (QUESTION, "mend"):
        with pytest.raises(PositionError, match=shape.refused) as caught:
            tool.render(Prompt(content))
        assert "\n" not in str(caught.value)


def test_a_system_message_where_the_template_takes_none() -> None:
    tool = renderer(next(shape for shape in SHAPES if shape.name == "turns-no-system"))
    conversation = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
    with pytest.raises(PositionError, match="refuses this conversation: This model takes no system message"):
        tool.render(Prompt(conversation))


def test_parts_that_would_be_printed_as_they_are() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% else %}{{ m.content }}{% endif %}<|stop|>{% endfor %}"
    )
    tool = Renderer(wrap(words(), template))
    assert tool.render(Prompt(QUESTION)).text == QUESTION + "<|stop|>"
    with pytest.raises(PositionError, match="leave out the system message"):
        tool.render(Prompt(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})))


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_where_the_template_has_no_such_switch(thinking: bool) -> None:
    named = {"reasoning-effort": "reasoning_effort", "thinking-mode": "thinking_mode"}
    switched = {"think-switch", "think-switch-named-thinking", "think-history"}
    for shape in ACCEPTED:
        if shape.name in switched:
            assert renderer(shape, thinking).thinking is thinking
            continue
        with pytest.raises(ModelError, match="leave thinking unset") as caught:
            renderer(shape, thinking)
        sentence = str(caught.value)
        if shape.name in named:
            assert f"it reads {named[shape.name]}, left at the template's own default" in sentence
        else:
            assert "has no thinking switch: leave" in sentence


def test_two_switches_are_both_named_and_a_broken_template_names_none() -> None:
    both = "{{ reasoning_effort }}{{ thinking_budget }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ModelError, match="it reads reasoning_effort and thinking_budget, left"):
        Renderer(wrap(words(), both), thinking=True)
    own = "{% set thinking_style = 1 %}{% for m in messages %}{{ m.content }}{% endfor %}{{ thinking_style }}"
    with pytest.raises(ModelError, match="no thinking switch: leave"):
        Renderer(wrap(words(), own), thinking=True)


def test_the_page_lists_every_shape() -> None:
    script = run_path(str(DOCS / "templates.py"))
    start, end = script["START"], script["END"]
    page = (DOCS / "templates.md").read_text(encoding="utf-8")
    shown = page[page.index(start) + len(start) : page.index(end)].strip()
    assert shown == script["table"](), "written by python -m docs.templates docs/templates.md"
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [shape.name for shape in SHAPES]
    assert sum("| found |" in row for row in rows) == len(ACCEPTED)
