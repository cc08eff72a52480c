"""Shapes whose turns stand between special tokens: ChatML, [INST], header ids, turns, full-width marks."""

from __future__ import annotations

from tests.model.templates.shape import ASKED, QUESTION, TODAY, Case, Shape, said

_CHATML_TAIL = ("<|im_end|>", "\n", "<|im_start|>", "assistant", "\n")
_CHATML_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
_HEAD_TAIL = ("<|over|>", "<|head|>", "assistant", "<|/head|>", "\n\n")
_HEAD_AFTER = "<|over|><|head|>assistant<|/head|>\n\n"
_TURN_TAIL = ("</turn>", "\n", "<turn>", "helper", "\n")
_TURN_AFTER = "</turn>\n<turn>helper\n"
_SPACED = (" How", *ASKED[1:])

DELIMITED = [
    Shape(
        name="chatml",
        style="ChatML, no system text of its own",
        template=r"""{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
        before="<|im_start|>user\n",
        after=_CHATML_AFTER,
        tail=_CHATML_TAIL,
        cases=(
            Case(
                about="the same words in two turns",
                conversation=said("system: Be brief.", "user: Why?", "assistant: Because.", "user: Why?"),
                text="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
                "<|im_start|>assistant\nBecause.<|im_end|>\n<|im_start|>user\nWhy?" + _CHATML_AFTER,
                instruction=("Why", "?"),
                tail=_CHATML_TAIL,
            ),
            Case(
                about="blanks at both ends stay",
                conversation=said("user:  mend it \n"),
                text="<|im_start|>user\n mend it \n" + _CHATML_AFTER,
                instruction=(" mend", " it", " \n"),
                tail=_CHATML_TAIL,
            ),
        ),
    ),
    Shape(
        name="chatml-default-system",
        style="ChatML with a system text of its own",
        template=r"""{% if messages[0].role != 'system' %}
{{- '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}
{% for m in messages %}{{ '<|im_start|>%s\n%s<|im_end|>\n' % (m.role, m.content) }}{% endfor %}
{{ '<|im_start|>assistant\n' if add_generation_prompt }}""",
        before="<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\n",
        after=_CHATML_AFTER,
        tail=_CHATML_TAIL,
        cases=(
            Case(
                about="a system message replaces the template's own",
                conversation=said("system: Be brief.", "user: Why?"),
                text="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?" + _CHATML_AFTER,
                instruction=("Why", "?"),
                tail=_CHATML_TAIL,
            ),
        ),
    ),
    Shape(
        name="chatml-bos",
        style="ChatML after bos_token, nothing after the last role name",
        template=r"""{{ bos_token }}{% for m in messages %}
{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}""",
        before="<s><|im_start|>user\n",
        after="<|im_end|><|im_start|>assistant",
        tail=("<|im_end|>", "<|im_start|>", "assistant"),
    ),
    Shape(
        name="chatml-generation-tags",
        style="ChatML with the reply between generation tags",
        template=r"""{% for m in messages %}{% if m.role == 'assistant' %}
{{ '<|im_start|>assistant\n' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' -}}
{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
        before="<|im_start|>user\n",
        after=_CHATML_AFTER,
        tail=_CHATML_TAIL,
        cases=(
            Case(
                about="a reply in the history",
                conversation=said("user: Why?", "assistant: Because.", "user: So?"),
                text="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n"
                "<|im_start|>user\nSo?" + _CHATML_AFTER,
                instruction=("So", "?"),
                tail=_CHATML_TAIL,
            ),
        ),
    ),
    Shape(
        name="inst-spaced",
        style="[INST], trimmed, spaces inside the marks",
        template=r"""{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{{ '[INST] ' + m.content | trim + ' [/INST]' }}{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}
{% endfor %}""",
        before="<s>[INST] ",
        after=" [/INST]",
        instruction=_SPACED,
        tail=(" ", "[/INST]"),
        trims=True,
        cases=(
            Case(
                about="blanks at both ends are dropped",
                conversation=said("user:  mend it \n"),
                text="<s>[INST] mend it [/INST]",
                instruction=(" mend", " it"),
                tail=(" ", "[/INST]"),
            ),
        ),
    ),
    Shape(
        name="inst-tight",
        style="[INST] without spaces",
        template=r"""{{ bos_token }}{% for m in messages %}
{{- '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + eos_token }}{% endfor %}""",
        before="<s>[INST]",
        after="[/INST]",
        tail=("[/INST]",),
        cases=(
            Case(
                about="two turns",
                conversation=said("user: Why?", "assistant: Because.", "user: So?"),
                text="<s>[INST]Why?[/INST]Because.</s>[INST]So?[/INST]",
                instruction=("So", "?"),
                tail=("[/INST]",),
            ),
        ),
    ),
    Shape(
        name="inst-folded-system",
        style="[INST], system text folded into the first user turn",
        template=r"""{% set extra = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{{ bos_token }}{% for m in messages if m.role != 'system' %}
{% if m.role == 'user' %}{{ '[INST] ' + (extra if loop.first else '') + m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}""",
        before="<s>[INST] ",
        after=" [/INST]",
        instruction=_SPACED,
        tail=(" ", "[/INST]"),
        cases=(
            Case(
                about="the system text is not part of the instruction",
                conversation=said("system: Be brief.", "user: Why?"),
                text="<s>[INST] Be brief.\n\nWhy? [/INST]",
                instruction=("Why", "?"),
                tail=(" ", "[/INST]"),
            ),
        ),
    ),
    Shape(
        name="inst-rules",
        style="[INST], system text between marks of its own inside the turn",
        template=r"""{{ bos_token }}{% set rules = namespace(text='') %}
{% if messages[0].role == 'system' %}
{%- set rules.text = '<<RULES>>\n' + messages[0].content | trim + '\n<</RULES>>\n\n' %}{% endif %}
{% for m in messages %}{% if m.role == 'user' %}
{{ '[INST] ' + rules.text + m.content | trim + ' [/INST]' }}{% set rules.text = '' %}
{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}""",
        before="<s>[INST] ",
        after=" [/INST]",
        instruction=_SPACED,
        tail=(" ", "[/INST]"),
        trims=True,
        cases=(
            Case(
                about="rules first, then the second turn",
                conversation=said("system: Be brief.", "user: Why?", "assistant: Because.", "user:  Why?"),
                text="<s>[INST] <<RULES>>\nBe brief.\n<</RULES>>\n\nWhy? [/INST] Because. </s>[INST] Why? [/INST]",
                instruction=(" Why", "?"),
                tail=(" ", "[/INST]"),
            ),
        ),
    ),
    Shape(
        name="header",
        style="role in a header of its own, trimmed",
        template=r"""{{ bos_token }}{% for m in messages %}
{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|over|>' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}""",
        before="<s><|head|>user<|/head|>\n\n",
        after=_HEAD_AFTER,
        tail=_HEAD_TAIL,
        trims=True,
    ),
    Shape(
        name="header-dated",
        style="header, a date string in a system text of its own",
        template=r"""{% if date_string is not defined %}{% set date_string = '26 Jul 2031' %}{% endif %}
{{ '<|head|>system<|/head|>\n\nToday is ' + date_string + '.\n' -}}
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}
{{ '<|over|>' -}}
{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content + '<|over|>' }}{% endfor %}
{{ '<|head|>assistant<|/head|>\n\n' if add_generation_prompt else '' }}""",
        before="<|head|>system<|/head|>\n\nToday is 26 Jul 2031.\n<|over|><|head|>user<|/head|>\n\n",
        after=_HEAD_AFTER,
        tail=_HEAD_TAIL,
        cases=(
            Case(
                about="a system text joins the date",
                conversation=said("system: Be brief.", "user: Why?"),
                text="<|head|>system<|/head|>\n\nToday is 26 Jul 2031.\nBe brief.<|over|><|head|>user<|/head|>\n\nWhy?"
                + _HEAD_AFTER,
                instruction=("Why", "?"),
                tail=_HEAD_TAIL,
            ),
        ),
    ),
    Shape(
        name="tools-clock",
        style="tools and today's date by the clock",
        template=r"""{{ '<|head|>system<|/head|>\n\nIt is ' + strftime_now('%A, %d %b %Y') + '.' -}}
{% if tools %}{{ '\nTools: ' + tools | tojson }}{% endif %}{{ '<|over|>' }}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|head|>tool<|/head|>\n\n' + m.content | tojson + '<|over|>' }}
{%- elif m.tool_calls %}{{ '<|head|>assistant<|/head|>\n\n' + m.tool_calls | tojson + '<|over|>' }}
{%- else %}{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content + '<|over|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}""",
        before=f"<|head|>system<|/head|>\n\nIt is {TODAY}.<|over|><|head|>user<|/head|>\n\n",
        after=_HEAD_AFTER,
        tail=_HEAD_TAIL,
    ),
    Shape(
        name="turns-no-system",
        style="turns, trimmed, no system role",
        template=r"""{{ bos_token }}{% if messages[0].role == 'system' %}
{{ raise_exception('This model takes no system message') }}{% endif %}{% for m in messages %}
{{ '<turn>' + ('helper' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '</turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<turn>helper\n' }}{% endif %}""",
        before="<s><turn>user\n",
        after=_TURN_AFTER,
        tail=_TURN_TAIL,
        trims=True,
    ),
    Shape(
        name="turns-folded-system",
        style="turns, system text folded into the user's",
        template=r"""{{ bos_token }}
{%- set names = {'user': 'user', 'assistant': 'helper'} -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] | trim + '\n\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}{%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {{ '<turn>' + names[turn['role']] + '\n' + (prefix if loop.first else '') }}
    {{- turn['content'] }}{{ '</turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>helper\n' }}{%- endif -%}""",
        before="<s><turn>user\n",
        after=_TURN_AFTER,
        tail=_TURN_TAIL,
        cases=(
            Case(
                about="the system text opens the user's turn",
                conversation=said("system: Be brief.", "user: Why?"),
                text="<s><turn>user\nBe brief.\n\nWhy?" + _TURN_AFTER,
                instruction=("Why", "?"),
                tail=_TURN_TAIL,
            ),
        ),
    ),
    Shape(
        name="full-width",
        style="full-width special tokens, system text bare in front",
        template="{{ '<\uff5cbegin\u2581of\u2581talk\uff5c>' }}{% for m in messages %}{% if m.role == 'system' %}"
        "{{ m.content }}{% elif m.role == 'user' %}{{ '<\uff5cPerson\uff5c>' + m.content }}{% else %}"
        "{{ '<\uff5cHelper\uff5c>' + m.content + '<\uff5cend\u2581of\u2581reply\uff5c>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<\uff5cHelper\uff5c>' }}{% endif %}",
        before="<\uff5cbegin\u2581of\u2581talk\uff5c><\uff5cPerson\uff5c>",
        after="<\uff5cHelper\uff5c>",
        tail=("<\uff5cHelper\uff5c>",),
        cases=(
            Case(
                about="system text and two turns",
                conversation=said("system: Be brief.", "user: Why?", "assistant: Because.", "user: " + QUESTION),
                text="<\uff5cbegin\u2581of\u2581talk\uff5c>Be brief.<\uff5cPerson\uff5c>Why?"
                "<\uff5cHelper\uff5c>Because."
                "<\uff5cend\u2581of\u2581reply\uff5c><\uff5cPerson\uff5c>" + QUESTION + "<\uff5cHelper\uff5c>",
                instruction=ASKED,
                tail=("<\uff5cHelper\uff5c>",),
            ),
        ),
    ),
]
