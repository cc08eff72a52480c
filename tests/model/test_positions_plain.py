"""Prompts whose positions cannot be told, and what a renderer keeps from one prompt to the next."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import CHATML, byte_level_tokenizer, wrap
from undertow.errors import ContextError, PositionError
from undertow.model.positions import Renderer
from undertow.prompts import Prompt

PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% for part in m['content'] %}{{ part['text'] }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)
SHOUTED = "{% for m in messages %}USER: {{ m['content'] | upper }}\nASSISTANT:{% endfor %}"
ROLES = [("user", "Hi there"), ("assistant", "Hello."), ("user", "Why?")]


def renderer(template: str = CHATML, **options: Any) -> Renderer:
    return Renderer(wrap(byte_level_tokenizer().backend_tokenizer, template), **options)


def conversation(*roles: tuple[str, str]) -> Prompt:
    return Prompt(tuple({"role": role, "content": content} for role, content in roles))


def in_chatml(*roles: tuple[str, str]) -> str:
    turns = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in roles)
    return turns + "<|im_start|>assistant\n"


def calls_of(tool: Renderer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The conversations that the template is given from here on."""
    given: list[Any] = []
    apply = tool.tokenizer.apply_chat_template

    def counted(messages: Any, **options: Any) -> Any:
        given.append(messages)
        return apply(messages, **options)

    monkeypatch.setattr(tool.tokenizer, "apply_chat_template", counted)
    return given


@pytest.mark.parametrize("template", [CHATML, PARTS])
@pytest.mark.parametrize("roles", [ROLES[:1], ROLES, [("system", "Be brief."), *ROLES]])
def test_a_fresh_renderer_gives_every_message(template: str, roles: list[tuple[str, str]]) -> None:
    found = renderer(template).render_plain(conversation(*roles))
    assert found.text == in_chatml(*roles)
    assert found.ids == byte_level_tokenizer().encode(in_chatml(*roles), add_special_tokens=False)


def test_a_template_that_rewrites_is_followed() -> None:
    tool = renderer(SHOUTED)
    with pytest.raises(PositionError, match="drops or rewrites"):
        tool.render(Prompt("Hi"))
    assert tool.render_plain(Prompt("Hi")).text == "USER: HI\nASSISTANT:"


def test_a_context_holds_for_it_too_and_nothing_is_no_prompt() -> None:
    size = len(renderer().render_plain(Prompt("Hi")))
    assert len(renderer(context=size).render_plain(Prompt("Hi"))) == size
    with pytest.raises(ContextError) as caught:
        renderer(context=size - 1).render_plain(Prompt("Hi"))
    assert caught.value.tokens == size
    with pytest.raises(PositionError, match="makes nothing of this conversation"):
        renderer("{{ '' }}").render_plain(Prompt("Hi"))


def test_trying_parts_shows_in_no_other_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may render while a template is tried with parts; here it does so in the midst of it."""
    tool, meanwhile = renderer(SHOUTED), []
    apply = tool.tokenizer.apply_chat_template

    def interrupted(messages: Any, **options: Any) -> Any:
        if not meanwhile and not isinstance(messages[-1]["content"], str):
            meanwhile.append("")
            meanwhile.append(tool.render_plain(Prompt("Hi")).text)
        return apply(messages, **options)

    monkeypatch.setattr(tool.tokenizer, "apply_chat_template", interrupted)
    with pytest.raises(PositionError, match="drops or rewrites"):
        tool.render(Prompt("Yo"))
    assert meanwhile == ["", "USER: HI\nASSISTANT:"]


def test_long_requests_without_a_history_share_what_stands_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = renderer()
    given = calls_of(tool, monkeypatch)
    for number in range(5):
        tool.render(Prompt(f"{number} long " * 4000))
    assert len(given) == 1 + 5


def test_long_histories_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = renderer()
    given = calls_of(tool, monkeypatch)
    for length, calls in ((10, 3), (20_000, 4)):
        given.clear()
        for question in ("Why?", "How?"):
            tool.render(conversation(("user", "x" * length), ("assistant", "Yes."), ("user", question)))
        assert len(given) == calls
