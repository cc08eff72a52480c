from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tests.builders import CORPUS, PROMPTS, byte_level_tokenizer, tiny_chat
from undertow.errors import PositionError
from undertow.model.positions import Renderer
from undertow.model.rendered import Rendered
from undertow.prompts import Prompt

HEAD, FOOT = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
QUESTIONS = [*PROMPTS, *CORPUS[:3], "a", "Hi! " * 30 + "Why?"]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(byte_level_tokenizer())


def pieces(text: str) -> tuple[list[int], list[int], list[int]]:
    """Token ids before, of and after a question, each piece encoded by itself; special tokens part them."""
    tokenizer = byte_level_tokenizer()
    before, inside, after = (tokenizer.encode(part, add_special_tokens=False) for part in (HEAD, text, FOOT))
    return before, inside, after


@pytest.mark.parametrize("text", QUESTIONS)
def test_every_span_holds_the_tokens_that_stand_there(renderer: Renderer, text: str) -> None:
    before, inside, after = pieces(text)
    rendered = renderer.render(Prompt(text))
    assert rendered.ids == before + inside + after and len(rendered) == len(before + inside + after)
    wanted = {
        "instruction": inside,
        "tail": after,
        "t_inst": inside[-1:],
        "t_post": after[-1:],
        "prompt": before + inside + after,
    }
    for name, ids in wanted.items():
        assert [rendered.ids[index] for index in rendered.span(name)] == ids, name
    assert (rendered.t_inst, rendered.t_post) == (len(before) + len(inside) - 1, len(rendered.ids) - 1)
    assert rendered.span("instruction").start == len(before) and rendered.span("tail").start == rendered.t_inst + 1


@pytest.mark.parametrize("text", QUESTIONS)
def test_offsets_cut_the_rendered_text_into_its_tokens(renderer: Renderer, text: str) -> None:
    rendered = renderer.render(Prompt(text))
    assert rendered.text == HEAD + text + FOOT and len(rendered.offsets) == len(rendered)
    assert "".join(rendered.text[first:last] for first, last in rendered.offsets) == rendered.text
    for token, (first, last) in zip(rendered.ids, rendered.offsets, strict=True):
        assert byte_level_tokenizer().decode([token]) == rendered.text[first:last]
    spanned = [rendered.offsets[index] for index in rendered.span("instruction")]
    assert rendered.text[spanned[0][0] : spanned[-1][1]] == text


def test_earlier_messages_lie_before_the_instruction(renderer: Renderer) -> None:
    roles = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Hi")]
    rendered = renderer.render(Prompt(tuple({"role": role, "content": content} for role, content in roles)))
    earlier = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in roles[:-1]) + HEAD
    before = byte_level_tokenizer().encode(earlier, add_special_tokens=False)
    _, inside, after = pieces("Hi")
    assert rendered.ids == before + inside + after
    assert rendered.span("instruction") == range(len(before), len(before) + len(inside))
    assert rendered.span("prompt") == range(len(before) + len(inside) + len(after))


@pytest.mark.parametrize("name", ["", "T_inst", "generated", "all", "system", "t_inst "])
def test_another_name_is_refused_with_those_that_exist(renderer: Renderer, name: str) -> None:
    with pytest.raises(PositionError, match=r"use one of instruction, tail, t_inst, t_post, prompt\."):
        renderer.render(Prompt("Hi")).span(name)


def test_a_prompt_whose_positions_cannot_be_told_ends_in_an_empty_tail(renderer: Renderer) -> None:
    rendered = renderer.render_plain(Prompt("Hi"))
    assert rendered.ids == renderer.render(Prompt("Hi")).ids
    assert len(rendered.span("instruction")) == len(rendered.span("tail")) == 0
    assert list(rendered.span("t_inst")) == list(rendered.span("t_post")) == [len(rendered.ids) - 1]


def test_it_cannot_be_changed_and_its_text_stays_out_of_messages(renderer: Renderer) -> None:
    rendered = renderer.render(Prompt("Please explain the smoke alarm"))
    with pytest.raises(FrozenInstanceError):
        rendered.t_inst = 0  # type: ignore[misc]
    assert "smoke" not in repr(rendered) and "offsets" not in repr(rendered)
    assert rendered == tiny_chat().render("Please explain the smoke alarm") and isinstance(rendered, Rendered)
