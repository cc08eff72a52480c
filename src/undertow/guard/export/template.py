"""A chat template that ends at t_inst: the model's own, rendered whole and then cut by its constant tail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from undertow.errors import GuardError, PositionError
from undertow.prompts import Message, Prompt

if TYPE_CHECKING:
    from undertow.model import ChatModel

_CONTENT = "How far is it\nfrom the 'old' quay to the ferry?"
_TURNS: list[Message] = [
    {"role": "user", "content": "Good morning."},
    {"role": "assistant", "content": "Good morning to you."},
]

CONTENTS = (
    "Hi",
    "How do I build a table?",
    "Explain tides.\n\nKeep it short.",
    "  leading and trailing blanks  ",
    "ends with a line break\n",
    "\ttabs\tand\r\nWindows lines",
    "Caf\u00e9 na\u00efve \u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f642",
    "for i in range(3): print(f'{i}')  # {{ braces }} {% percent %}",
    "<script>alert(1)</script> & 'quotes' \"double\" \\backslash",
    "1234567890 3.14159 -5e-7",
    "user: assistant: system: [INST] </s>",
    "...",
)
"""Odd contents on which a cut template is tried beside ordinary prompts."""


def cut_template(model: ChatModel) -> str:
    """The source of a chat template that renders a conversation up to and including its last user message.

    The model's own template stands in it unchanged. Its rendering is captured, checked to end with the text that the
    template puts after the last message, and cut by that text. The thinking mode that the model was opened with is
    fixed in it, since the tail may depend on it.

    Raises:
        GuardError: the text after the last message is not constant, or messages are taken as lists of parts.
    """
    question = [{"role": "user", "content": _CONTENT}]
    plain = model.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    if _CONTENT not in plain:
        raise GuardError(
            "The chat template takes messages as lists of parts, which stock classifiers are not asked with; this "
            "guard cannot be exported."
        )
    tails = {_tail(model, conversation) for conversation in _conversations()} - {None}
    if len(tails) != 1:
        raise GuardError(
            "The chat template puts no constant text after the last user message, so it cannot be cut at t_inst; this "
            "guard cannot be exported."
        )
    tail = str(tails.pop())
    source = model.tokenizer.get_chat_template()
    switches = ""
    if model.thinking is not None:
        mode = str(model.thinking).lower()
        switches = f"{{% set enable_thinking = {mode} %}}{{% set thinking = {mode} %}}"
    # A block tag swallows the line break after it, and the end of a source swallows the one before it.
    body = "\n" + source.removesuffix("\n") + "{{ '' }}"
    return (
        "{% if messages[-1]['role'] != 'user' %}"
        "{{ raise_exception('The last message must be the user\\'s.') }}{% endif %}"
        "{% set add_generation_prompt = true %}"
        f"{switches}{{% set undertow_whole %}}{body}{{% endset %}}"
        f"{{% if not undertow_whole.endswith({_literal(tail)}) %}}"
        "{{ raise_exception('The text after the last message is not the one this template was cut by.') }}{% endif %}"
        f"{{{{ undertow_whole[:(undertow_whole | length) - {len(tail)}] }}}}"
    )


def prove_template(model: ChatModel, tokenizer: Any, prompts: Iterable[Prompt]) -> tuple[int, int]:
    """Check that a tokenizer with a cut template gives exactly the tokens up to t_inst.

    Args:
        model: the model, whose own template and tokenizer say where t_inst lies.
        tokenizer: the tokenizer with the cut template.
        prompts: what to try; those that the model's own template cannot render are left out.

    Returns:
        On how many prompts it was checked, and how many of them differ. Only messages with blanks at their edges may:
        where a template marks the end of a message with plain text, such blanks share a token with it.

    Raises:
        GuardError: the tokens of another prompt differ; the message shows it.
    """
    checked = differing = 0
    for prompt in prompts:
        try:
            rendered = model.render(prompt)
        except PositionError:
            continue
        checked += 1
        if prompt_ids(tokenizer, prompt) == list(rendered.ids[: rendered.t_inst + 1]):
            continue
        differing += 1
        if prompt.text == prompt.text.strip():
            raise GuardError(
                "Cut at the end of the message, the chat template gives other tokens than the whole prompt does up to "
                f"there, for instance for {prompt.text[:60]!r}; this guard cannot be exported."
            )
    return checked, differing


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids that a cut template gives one prompt."""
    text = tokenizer.apply_chat_template([dict(message) for message in prompt.messages], tokenize=False)
    return [int(index) for index in tokenizer(text, add_special_tokens=False)["input_ids"]]


def trial_prompts() -> list[Prompt]:
    """Odd contents, a system message and a longer conversation."""
    return [Prompt(text) for text in CONTENTS] + [Prompt(tuple(messages)) for messages in _conversations()]


def _conversations() -> list[list[Message]]:
    earlier: list[list[Message]] = [[], [{"role": "system", "content": "Be brief."}], _TURNS]
    return [[*before, {"role": "user", "content": _CONTENT}] for before in earlier]


def _tail(model: ChatModel, messages: list[Message]) -> str | None:
    """What stands after the last message, None where the template takes no such conversation."""
    try:
        text = model.render(Prompt(tuple(messages))).text
    except PositionError:
        return None
    return text.split(_CONTENT)[1]


def _literal(text: str) -> str:
    """A template's string literal of the text."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
