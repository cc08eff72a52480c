"""Shapes of plain text, of parts, with words after the question, and with odd ends."""

from __future__ import annotations

from tests.model.templates.shape import ASKED, QUESTION, Case, Shape, said

WRITTEN = [
    Shape(
        name="plain-line",
        style="USER: and ASSISTANT: on one line, trimmed",
        template=r"""{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}
{%- set messages = messages[1:] %}{% endif %}
{%- for m in messages %}
{{- 'USER: ' + m.content | trim + ' ' if m.role == 'user' else 'ASSISTANT: ' + m.content + eos_token }}
{%- endfor %}{{ 'ASSISTANT:' }}""",
        before="USER: ",
        after=" ASSISTANT:",
        instruction=(" How", *ASKED[1:]),
        tail=(" ASSISTANT", ":"),
        trims=True,
        cases=(
            Case(
                about="the mark inside the question",
                conversation=said("system: Be brief.", "user: Is ASSISTANT: it?"),
                text="Be brief. USER: Is ASSISTANT: it? ASSISTANT:",
                instruction=(" Is", " ASSISTANT", ":", " it", "?"),
                tail=(" ASSISTANT", ":"),
            ),
        ),
    ),
    Shape(
        name="plain-paragraphs",
        style="Human: and Assistant: in paragraphs",
        template=r"""{% for m in messages %}{{ {'user': 'Human', 'assistant': 'Assistant', 'system': 'Note'}[m.role] }}
{{- ': ' + m.content + '\n\n' }}{% endfor %}{{ 'Assistant:' }}""",
        before="Human: ",
        after="\n\nAssistant:",
        instruction=(" How", *ASKED[1:]),
        tail=("\n", "\n", "Assistant", ":"),
        cases=(
            Case(
                about="line breaks at the end share tokens with the template's",
                conversation=said("user: mend it\n\n"),
                text="Human: mend it\n\n\n\nAssistant:",
                instruction=(" mend", " it", "\n\n\n"),
                tail=("\n", "Assistant", ":"),
            ),
        ),
    ),
    Shape(
        name="headings",
        style="### headings",
        template=r"""{% for m in messages -%}
{% if m.role == 'user' %}{{ '### Request:\n' + m.content + '\n\n' }}{% elif m.role == 'assistant' -%}
{{ '### Answer:\n' + m.content + '\n\n' }}{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}
{{- '### Answer:\n' }}""",
        before="### Request:\n",
        after="\n\n### Answer:\n",
        tail=("\n", "\n", "###", " Answer", ":", "\n"),
        cases=(
            Case(
                about="two turns",
                conversation=said("system: Be brief.", "user: Why?", "assistant: Because.", "user: Why?"),
                text="Be brief.\n\n### Request:\nWhy?\n\n### Answer:\nBecause.\n\n### Request:\nWhy?\n\n### Answer:\n",
                instruction=("Why", "?"),
                tail=("\n", "\n", "###", " Answer", ":", "\n"),
            ),
        ),
    ),
    Shape(
        name="parts",
        style="content as a list of parts only",
        template=r"""{% for m in messages %}{{ '<turn>' + m.role + '\n' }}{% for part in m.content %}
{% if part.type == 'image' %}{{ '<picture>' }}{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{{ '</turn>\n' }}{% endfor %}{{ '<turn>helper\n' }}""",
        before="<turn>user\n",
        after="</turn>\n<turn>helper\n",
        tail=("</turn>", "\n", "<turn>", "helper", "\n"),
        cases=(
            Case(
                about="system text and two turns as parts",
                conversation=said("system: Be brief.", "user: Why?", "assistant: Because.", "user: Why?"),
                text="<turn>system\nBe brief.</turn>\n<turn>user\nWhy?</turn>\n<turn>assistant\nBecause.</turn>\n"
                "<turn>user\nWhy?</turn>\n<turn>helper\n",
                instruction=("Why", "?"),
                tail=("</turn>", "\n", "<turn>", "helper", "\n"),
            ),
        ),
    ),
    Shape(
        name="parts-or-text",
        style="content as parts or as text, through a macro",
        template=r"""{% macro words(content) %}{% if content is string %}{{ content }}{% else %}
{%- for part in content %}{{ part['text'] if part['type'] == 'text' else '<picture>' }}{% endfor %}
{%- endif %}{% endmacro %}
{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>' + words(m.content) + '<|over|>' }}{% endfor %}
{{ '<|head|>assistant<|/head|>' }}""",
        before="<|head|>user<|/head|>",
        after="<|over|><|head|>assistant<|/head|>",
        tail=("<|over|>", "<|head|>", "assistant", "<|/head|>"),
    ),
    Shape(
        name="reminder",
        style="a reminder after the question, inside the turn",
        template=r"""{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}
{%- if loop.last %}{{ '\n\n(Answer in one language.)' }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}
{{- '<|im_start|>assistant\n' }}""",
        before="<|im_start|>user\n",
        after="\n\n(Answer in one language.)<|im_end|>\n<|im_start|>assistant\n",
        tail=(
            *("\n", "\n", "(", "Answer", " in", " one", " language", ".)"),
            *("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"),
        ),
        cases=(
            Case(
                about="only the last question is followed by the reminder",
                conversation=said("user: Why?", "assistant: Because.", "user: Why?"),
                text="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n<|im_start|>user\nWhy?"
                "\n\n(Answer in one language.)<|im_end|>\n<|im_start|>assistant\n",
                instruction=("Why", "?"),
                tail=(
                    *("\n", "\n", "(", "Answer", " in", " one", " language", ".)"),
                    *("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"),
                ),
            ),
        ),
    ),
    Shape(
        name="tagged-last",
        style="the last question between tags of plain text",
        template=r"""{% set at = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}
{% set at.last = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}{% if loop.index0 == at.last %}
{{- '<turn>user\n<question>' + m.content + '</question></turn>\n' }}
{%- else %}{{ '<turn>' + m.role + '\n' + m.content + '</turn>\n' }}{% endif %}{% endfor %}
{{- '<turn>helper\n' }}""",
        before="<turn>user\n<question>",
        after="</question></turn>\n<turn>helper\n",
        instruction=(*ASKED[:-1], "?</"),
        tail=("question", ">", "</turn>", "\n", "<turn>", "helper", "\n"),
        cases=(
            Case(
                about="a word's end does not merge with the tag",
                conversation=said("user: Why?", "assistant: Because.", "user: mend it"),
                text="<turn>user\nWhy?</turn>\n<turn>assistant\nBecause.</turn>\n"
                "<turn>user\n<question>mend it</question></turn>\n<turn>helper\n",
                instruction=("mend", " it"),
                tail=("</", "question", ">", "</turn>", "\n", "<turn>", "helper", "\n"),
            ),
        ),
    ),
    Shape(
        name="bare",
        style="nothing after the question: t_post is t_inst",
        template="{% for m in messages %}{{ bos_token + m.content }}{% endfor %}",
        before="<s>",
        after="",
        tail=(),
    ),
    Shape(
        name="blank-ends",
        style="blank lines and spaces at the very end",
        template=r"""{% for m in messages %}{{ 'Q> ' ~ m.content ~ '\n\n\n' }}{% endfor %}{{ 'A>  ' }}""",
        before="Q> ",
        after="\n\n\nA>  ",
        instruction=(" How", *ASKED[1:]),
        tail=("\n\n", "\n", "A", ">", "  "),
        cases=(
            Case(
                about="two turns",
                conversation=said("user: Why?", "assistant: Because.", "user: " + QUESTION),
                text="Q> Why?\n\n\nQ> Because.\n\n\nQ> " + QUESTION + "\n\n\nA>  ",
                instruction=(" How", *ASKED[1:]),
                tail=("\n\n", "\n", "A", ">", "  "),
            ),
        ),
    ),
]
