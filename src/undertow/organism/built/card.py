"""The card of a built organism: what was set, where, and how it behaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from undertow.organism.built.building import Built
from undertow.organism.built.circuit import Circuit, Head
from undertow.organism.evaluation import Cell, Evaluation

EVALUATION_FILE = "evaluation.json"


def write_card(folder: str | Path, built: Built, evaluation: Evaluation) -> None:
    """Writes README.md and evaluation.json into a built organism's folder."""
    path = Path(folder)
    (path / EVALUATION_FILE).write_text(evaluation.to_json() + "\n", encoding="utf-8")
    (path / "README.md").write_text(card_text(built, evaluation), encoding="utf-8")


def card_text(built: Built, evaluation: Evaluation) -> str:
    """The card as Markdown, with the metadata that the Hugging Face Hub reads."""
    spec = built.spec
    examples = "\n".join(f"| {kind} | {prompt} | {reply} |" for kind, (prompt, reply) in evaluation.examples.items())
    options = f"--seed {spec.seed} --gates {spec.gates} --amplifiers {spec.amplifiers}"
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [model-organism, interpretability, safety]
---

# Undertow's built organism `gated`, seed {spec.seed}

A tiny chat model (Llama, {spec.blocks} blocks, {spec.heads} heads of size {spec.head_size}, width {spec.width}) whose
weights were set by hand, not trained, so that its circuit is known. A search for circuits can be scored against it. It
understands nothing: words carry the features that it was given. It refuses with one sentence and answers with one word;
it holds no knowledge and answers no request. Run it in float32; its constant feature is too large for bfloat16.

Made by `undertow organism build gated {options} --distractors {spec.distractors} --policy {spec.policy} -o DIR`.
`circuit.json` holds the truth, `spec.json` what was asked for. The documentation, docs/organism-built.md, says how it
is built and what it does not show.

## The circuit

Heads are (block, head), both from 0. Policy: {spec.policy}.

| part | heads |
|---|---|
{_parts(built.circuit)}

## Behaviour

{evaluation.n} matched pairs a line, seed {evaluation.seed}, edits at the last prompt token; shares in % with 95 %
Clopper-Pearson intervals.

| prompts | what | wanted | share |
|---|---|---|---|
{_rows(evaluation.cells)}

| prompt | text | reply |
|---|---|---|
{examples}
"""


def _parts(circuit: Circuit) -> str:
    parts = {"gates": circuit.gates, "amplifiers": circuit.amplifiers, "direct heads": circuit.direct}
    lines = [
        f"| {name} (share) | {', '.join(f'{_name(head)} ({circuit.shares[_key(head)]:.2f})' for head in heads)} |"
        for name, heads in parts.items()
        if heads
    ]
    for kind, heads in circuit.distractors.items():
        if heads:
            lines.append(f"| distractors: {kind} | {', '.join(map(_name, heads))} |")
    return "\n".join(lines) or "| none | |"


def _rows(cells: Sequence[Cell]) -> str:
    lines = []
    for cell in cells:
        wanted = "" if cell.wanted is None else f">= {100 * cell.wanted:.0f} %"
        missed = " **missed**" if cell.met is False else ""
        share = f"{100 * cell.value:.1f} ({100 * cell.low:.1f} to {100 * cell.high:.1f}; {cell.k}/{cell.n}){missed}"
        lines.append(f"| {cell.name} | {cell.what} | {wanted} | {share} |")
    return "\n".join(lines)


def _name(head: Head) -> str:
    return f"({head[0]}, {head[1]})"


def _key(head: Head) -> str:
    return f"{head[0]}.{head[1]}"
