"""Shapes that do more to the content than trim it, and are refused."""

from __future__ import annotations

from tests.model.templates.shape import Shape

_REWRITES = "drops or rewrites the user's message"

REFUSED = [
    Shape(
        name="upper-case",
        style="content in capitals",
        template="{% for m in messages %}<turn>{{ m.content | upper }}</turn>{% endfor %}<turn>",
        refused=_REWRITES,
    ),
    Shape(
        name="json-quoted",
        style="content quoted as JSON",
        template='{% for m in messages %}{"{{ m.role }}": {{ m.content | tojson }}}{% endfor %}',
        refused=_REWRITES,
    ),
    Shape(
        name="html-escaped",
        style="content escaped for HTML",
        template="{% for m in messages %}<turn>{{ m.content | e }}</turn>{% endfor %}<turn>",
        refused=_REWRITES,
    ),
    Shape(
        name="repeated",
        style="content said twice",
        template="{% for m in messages %}<turn>{{ m.content }}\nAgain: {{ m.content }}</turn>{% endfor %}<turn>",
        refused="repeats the user's message 2 times",
    ),
    Shape(
        name="dropped",
        style="content left out",
        template="{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}<turn>",
        refused=_REWRITES,
    ),
    Shape(
        name="truncated",
        style="content cut at a number of characters",
        template="{% for m in messages %}<turn>{{ m.content[:24] }}</turn>{% endfor %}<turn>",
        refused=_REWRITES,
    ),
    Shape(
        name="blanks-collapsed",
        style="every run of blanks in the content made one space",
        template="{% for m in messages %}<turn>{{ m.content.split() | join(' ') }}</turn>{% endfor %}<turn>",
        refused=_REWRITES,
    ),
]
