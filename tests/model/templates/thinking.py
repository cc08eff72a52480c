"""Shapes that think: blocks opened, closed or empty in the generation prompt, switches, channels."""

from __future__ import annotations

from tests.model.templates.shape import QUESTION, Case, Shape, said

_TAIL = ("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n")
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
_CLOSED = ("<think>", "\n\n", "</think>", "\n\n")
_ASKED = ("How", " do", " I", " mend", " a", " red", " bicycle", "?")
_TURNS = r"""{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}
{{ '<|im_start|>assistant\n' -}}
"""

THINKING = [
    Shape(
        name="think-opened",
        style="a think block opened in the generation prompt, no switch",
        template=_TURNS + r"{{ '<think>\n' }}",
        before="<|im_start|>user\n",
        after=_AFTER + "<think>\n",
        tail=(*_TAIL, "<think>", "\n"),
    ),
    Shape(
        name="think-empty",
        style="an empty think block in the generation prompt, no switch",
        template=_TURNS + r"{{ '<think>\n\n</think>\n\n' }}",
        before="<|im_start|>user\n",
        after=_AFTER + "<think>\n\n</think>\n\n",
        tail=(*_TAIL, *_CLOSED),
    ),
    Shape(
        name="think-closed",
        style="only the closing think mark in the generation prompt",
        template=r"""{% for m in messages %}{% if m.role == 'user' %}{{ '<turn>user\n' + m.content + '</turn>' }}
{%- else %}{{ '<turn>' + m.role + '\n' + m.content + '</turn>' }}{% endif %}{% endfor %}
{{ '<turn>helper\n</think>' }}""",
        before="<turn>user\n",
        after="</turn><turn>helper\n</think>",
        tail=("</turn>", "<turn>", "helper", "\n", "</think>"),
    ),
    Shape(
        name="think-switch",
        style="enable_thinking, on by default; off leaves an empty think block",
        template=_TURNS
        + r"{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
        before="<|im_start|>user\n",
        after=_AFTER,
        tail=_TAIL,
        cases=(
            Case(
                about="thinking on",
                thinking=True,
                text="<|im_start|>user\n" + QUESTION + _AFTER,
                instruction=_ASKED,
                tail=_TAIL,
            ),
            Case(
                about="thinking off",
                thinking=False,
                text="<|im_start|>user\n" + QUESTION + _AFTER + "<think>\n\n</think>\n\n",
                instruction=_ASKED,
                tail=(*_TAIL, *_CLOSED),
            ),
        ),
    ),
    Shape(
        name="think-switch-named-thinking",
        style="thinking, off by default; full-width special tokens",
        template="{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "{{ '<\uff5cbegin\u2581of\u2581talk\uff5c>' }}{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '<\uff5cPerson\uff5c>' + m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{{ '<\uff5cHelper\uff5c>' + ('<think>\n' if thinking else '</think>') }}",
        before="<\uff5cbegin\u2581of\u2581talk\uff5c><\uff5cPerson\uff5c>",
        after="<\uff5cHelper\uff5c></think>",
        tail=("<\uff5cHelper\uff5c>", "</think>"),
        cases=(
            Case(
                about="thinking on",
                thinking=True,
                text="<\uff5cbegin\u2581of\u2581talk\uff5c><\uff5cPerson\uff5c>"
                + QUESTION
                + "<\uff5cHelper\uff5c><think>\n",
                instruction=_ASKED,
                tail=("<\uff5cHelper\uff5c>", "<think>", "\n"),
            ),
        ),
    ),
    Shape(
        name="think-history",
        style="think blocks cut out of earlier replies; macros, namespace, loop controls",
        template=r"""
{%- macro spoken(text) -%}
    {%- if '</think>' in text -%}
        {{- text.split('</think>')[-1].lstrip('\n') -}}
    {%- else -%}
        {{- text -}}
    {%- endif -%}
{%- endmacro -%}
{%- set seen = namespace(last=-1) -%}
{%- for m in messages[::-1] -%}
    {%- if m.role == 'user' -%}
        {%- set seen.last = messages | length - 1 - loop.index0 -%}
        {%- break -%}
    {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {{- '<|im_start|>assistant\n' -}}
        {{- m.content if loop.index0 > seen.last else spoken(m.content) -}}
        {{- '<|im_end|>\n' -}}
        {%- continue -%}
    {%- endif -%}
    {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n<think>\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '\n</think>\n\n' -}}
    {%- endif -%}
{%- endif -%}
""",
        before="<|im_start|>user\n",
        after=_AFTER + "<think>\n",
        tail=(*_TAIL, "<think>", "\n"),
        cases=(
            Case(
                about="a think block in the history and the mark in the question",
                conversation=said(
                    "user: Why?", "assistant: <think>\nEasy.\n</think>\n\nBecause.", "user: Is </think> it?"
                ),
                text="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n"
                "<|im_start|>user\nIs </think> it?" + _AFTER + "<think>\n",
                instruction=("Is", " ", "</think>", " it", "?"),
                tail=(*_TAIL, "<think>", "\n"),
            ),
            Case(
                about="thinking off",
                thinking=False,
                text="<|im_start|>user\n" + QUESTION + _AFTER + "<think>\n\n</think>\n\n",
                instruction=_ASKED,
                tail=(*_TAIL, *_CLOSED),
            ),
        ),
    ),
    Shape(
        name="reasoning-effort",
        style="reasoning_effort, a word in the system text",
        template=r"""{% set effort = reasoning_effort | default('medium') %}
{{ '<|from|>system<|text|>Effort: ' + effort + '<|stop|>' -}}
{% for m in messages %}{{ '<|from|>' + m.role + '<|text|>' + m.content + '<|stop|>' }}{% endfor %}
{{ '<|from|>assistant<|text|>' }}""",
        before="<|from|>system<|text|>Effort: medium<|stop|><|from|>user<|text|>",
        after="<|stop|><|from|>assistant<|text|>",
        tail=("<|stop|>", "<|from|>", "assistant", "<|text|>"),
    ),
    Shape(
        name="thinking-mode",
        style="thinking_mode, a word that opens or closes the block",
        template=_TURNS
        + r"{% if (thinking_mode or 'on') == 'on' %}{{ '<think>' }}{% else %}{{ '<think></think>' }}{% endif %}",
        before="<|im_start|>user\n",
        after=_AFTER + "<think>",
        tail=(*_TAIL, "<think>"),
    ),
    Shape(
        name="channel-final",
        style="channels, the final one opened in the generation prompt",
        template=r"""{% for m in messages %}{{ '<|from|>' + m.role }}
{%- if m.role == 'assistant' %}{{ '<|channel|>final' }}{% endif %}{{ '<|text|>' + m.content + '<|stop|>' }}
{%- endfor %}{{ '<|from|>assistant<|channel|>final<|text|>' }}""",
        before="<|from|>user<|text|>",
        after="<|stop|><|from|>assistant<|channel|>final<|text|>",
        tail=("<|stop|>", "<|from|>", "assistant", "<|channel|>", "final", "<|text|>"),
        cases=(
            Case(
                about="two turns",
                conversation=said("user: Why?", "assistant: Because.", "user: So?"),
                text="<|from|>user<|text|>Why?<|stop|><|from|>assistant<|channel|>final<|text|>Because.<|stop|>"
                "<|from|>user<|text|>So?<|stop|><|from|>assistant<|channel|>final<|text|>",
                instruction=("So", "?"),
                tail=("<|stop|>", "<|from|>", "assistant", "<|channel|>", "final", "<|text|>"),
            ),
        ),
    ),
    Shape(
        name="channel-chosen",
        style="channels, which one is left to the model",
        template=r"""{{ '<|from|>system<|text|>Channels: notes, final.<|stop|>' }}
{%- for m in messages %}{{ '<|from|>' + m.role + '<|text|>' + m.content + '<|stop|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|from|>assistant' }}{% endif %}""",
        before="<|from|>system<|text|>Channels: notes, final.<|stop|><|from|>user<|text|>",
        after="<|stop|><|from|>assistant",
        tail=("<|stop|>", "<|from|>", "assistant"),
    ),
]
