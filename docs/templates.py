"""Write the table of template shapes into its page: ``python -m docs.templates docs/templates.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.model.templates import SHAPES, Shape
from tests.model.templates.shape import QUESTION
from tests.model.templates.tokenizers import words, wrap
from undertow.errors import PositionError
from undertow.model.positions import Renderer
from undertow.prompts import Prompt

START, END = "<!-- shapes -->", "<!-- end of shapes -->"


def table() -> str:
    """The shapes as a Markdown table: name, style, what follows the instruction, what becomes of it."""
    lines = ["| shape | style | tail after the instruction | positions |", "|---|---|---|---|"]
    lines.extend(_row(shape) for shape in SHAPES)
    return "\n".join(lines)


def _row(shape: Shape) -> str:
    try:
        found = Renderer(wrap(words(), shape.template)).render(Prompt(QUESTION))
    except PositionError as refusal:
        return f"| `{shape.name}` | {shape.style} | | refused: {refusal} |"
    tail = found.text[found.offsets[found.t_inst][1] :]
    shown = tail.replace("\n", "\\n").replace("|", "\\|").replace(" ", "\u2423")
    return f"| `{shape.name}` | {shape.style} | {f'`{shown}`' if shown else 'nothing'} | found |"


def main() -> None:
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    start, end = text.index(START) + len(START), text.index(END)
    page.write_text(f"{text[:start]}\n{table()}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
