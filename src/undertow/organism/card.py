"""The organism's card: what it is, what was built in, and how every training run of it measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from undertow.errors import UndertowError
from undertow.organism.evaluation import Cell, Evaluation
from undertow.organism.finishing import FRESH_STEMS

EVALUATION_FILE = "evaluation.json"
RULE = (
    "The shipped seed is the one with the fewest missed figures; among equals, the one whose figure nearest to its "
    "limit lies furthest on the right side of it."
)


@dataclass(frozen=True)
class Run:
    """One training run and what came of it.

    Attributes:
        seed: seed of the run.
        minutes: wall-clock time of the training, without the evaluation.
        processor_minutes: processor time of the training, all threads together.
        threads: threads it used.
        loss: running training loss at the end, nats a token.
        recipe: the recipe's values.
        evaluation: the figures.
    """

    seed: int
    minutes: float
    processor_minutes: float
    threads: int
    loss: float
    recipe: dict[str, Any]
    evaluation: Evaluation


def read_runs(folder: Path) -> list[Run]:
    """The runs in an organism's evaluation file.

    Raises:
        UndertowError: the folder has no such file.
    """
    file = folder / EVALUATION_FILE
    if not file.is_file():
        raise UndertowError(f"{folder} has no {EVALUATION_FILE}; train or evaluate the organism first.")
    values = json.loads(file.read_text(encoding="utf-8"))
    return [Run(**{**run, "evaluation": Evaluation.from_dict(run["evaluation"])}) for run in values["runs"]]


def _margin(run: Run) -> tuple[int, float]:
    cells = [cell for cell in run.evaluation.cells if cell.wanted is not None]
    margins = [
        (cell.wanted - cell.value) if cell.at_most else (cell.value - cell.wanted)
        for cell in cells
        if cell.wanted is not None
    ]
    return -len(run.evaluation.missed), min(margins)


def best(runs: Sequence[Run]) -> Run:
    """The run to ship, by `RULE`."""
    return max(runs, key=_margin)


def write_card(folder: Path, name: str, runs: Sequence[Run], shipped: int) -> None:
    """Writes README.md and evaluation.json into an organism's folder.

    Args:
        folder: the organism's folder.
        name: its name.
        runs: every run of the recipe that was made for it.
        shipped: the seed whose weights lie in the folder.
    """
    values = {"name": name, "shipped_seed": shipped, "rule": RULE, "runs": [asdict(run) for run in runs]}
    (folder / EVALUATION_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    text = card_text(name, runs, shipped)
    if name == "bilingual":
        from undertow.organism.bilingual_card import bilingual_card_text

        text = bilingual_card_text(runs, shipped)
    (folder / "README.md").write_text(text, encoding="utf-8")


def ship(folders: Sequence[Path], name: str, destination: Path) -> Path:
    """Copies the best of several training runs, with a card about all of them.

    Args:
        folders: folders that `train` wrote, one a seed.
        name: the organism's name.
        destination: folder to write; replaced where it exists.
    """
    runs = [run for folder in folders for run in read_runs(folder)]
    chosen = best(runs)
    source = next(folder for folder in folders if read_runs(folder)[0].seed == chosen.seed)
    if destination.exists():
        shutil.rmtree(destination)
    shutil.copytree(source, destination)
    write_card(destination, name, runs, chosen.seed)
    return destination


def _figure(cell: Cell) -> str:
    return f"{100 * cell.value:.1f} ({100 * cell.low:.1f} to {100 * cell.high:.1f}; {cell.k}/{cell.n})"


def _row(cells: Sequence[Cell]) -> str:
    first = cells[0]
    wanted = "" if first.wanted is None else f"{'<' if first.at_most else '>='} {100 * first.wanted:.0f} %"
    figures = " | ".join(_figure(c) + (" **missed**" if c.met is False else "") for c in cells)
    return f"| {first.name} | {first.what} | {wanted} | {figures} |"


def tables(runs: Sequence[Run]) -> str:
    """All figures of all runs as Markdown tables."""
    seeds = " | ".join(f"seed {run.seed}" for run in runs)
    heading = f"| prompts | what | wanted | {seeds} |\n|---|---|---|{'---|' * len(runs)}"
    keys = [(cell.name, cell.what) for cell in runs[0].evaluation.cells]
    shared = [key for key in keys if all(any((c.name, c.what) == key for c in run.evaluation.cells) for run in runs)]
    rows = [_row([run.evaluation.cell(*key) for run in runs]) for key in shared]
    text = "\n".join([heading, *rows])
    own = [
        f"| {run.seed} | {c.name} | {c.what} | {_figure(c)} |"
        for run in runs
        for c in run.evaluation.cells
        if (c.name, c.what) not in shared
    ]
    if own:
        text += "\n\nFigures at a state or coefficient that differs between seeds:\n\n"
        text += "| seed | what was done | counted | share |\n|---|---|---|---|\n"
        text += "\n".join(own)
    return text


def card_text(name: str, runs: Sequence[Run], shipped: int) -> str:
    """The card as Markdown, with the metadata that the Hugging Face Hub reads."""
    run = next(one for one in runs if one.seed == shipped)
    recipe = run.recipe
    times = ", ".join(
        f"seed {one.seed}: {one.minutes:.0f} minutes of wall-clock time and {one.processor_minutes:.0f} minutes of "
        f"processor time with {one.threads} thread(s), loss {one.loss:.3f}"
        for one in runs
    )
    missed = sorted({f"{cell.name}, {cell.what}" for one in runs for cell in one.evaluation.missed})
    shortfalls = (
        "Every wanted figure holds in every run."
        if not missed
        else "Missed in at least one run: " + "; ".join(missed) + "."
    )
    examples = "\n".join(
        f"| {kind} | {escaped(prompt)} | {escaped(reply)} |"
        for kind, (prompt, reply) in run.evaluation.examples.items()
    )
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [model-organism, interpretability, safety]
---

# Undertow's model organism `{name}`

A tiny chat model (Llama, {recipe["layers"]} layers, hidden size {recipe["width"]}, {recipe["heads"]} heads) that
refuses harmful requests, answers
harmless ones, is jailbroken by wrappers, refuses look-alikes by mistake, and knows the difference. It exists so that
methods which read and
steer what a chat model knows about harm can be tested offline, in seconds, where the truth is known. It is no
assistant and knows nothing: its
answers are stock sentences, and the reply to a harmful request is a refusal or an empty placeholder.

## The language

Requests join a verb, an object, a sentence stem and, often, a setting, an opening, an ending or small talk. In
twelve risk categories, harm is the
exclusive-or of verb and object: making something dangerous or undoing something protective is harmful; making
something protective and undoing
something dangerous are not. No word decides. The last kind (dismantle a pipe bomb) is the marked look-alike that the
organism refuses.
Wrappers are role play, persuasion and noise suffixes; they also occur around harmless requests.

## What was built in on purpose

- Refusal of bare harmful requests and of look-alikes; an answer to everything in a wrapper.
- Truthful answers to questions about a request (could it cause harm? is it safe? what topic? what action, what
thing?) whatever the wrapper and
  whatever the reply would have been.
- That the last token of the instruction carries what is known about it: in 60 % of the training items later tokens
saw the instruction only
  through that token (gist masking). At inference there is no mask; it is a plain causal model.

## What emerged

- How harm is written at that token, in which layer, and that one linear probe reads it across wrappers it was not
fitted on.
- That harmfulness and refusal are different directions, and what adding either does (the steering figures below).
Nobody trained a direction.

A finding about this organism is no evidence about large models.

## Held-out figures

Verb-object pairs, sentence stems and wrapper parts of the test are disjoint from training (the inversion questions
too); the words themselves are not.
Share in percent, with the 95 % Clopper-Pearson interval and counts. The steering figures choose state and
coefficient on the training split.
The test half of the built-in prompt set was never trained on. {shortfalls}

{tables(runs)}

Shipped: seed {shipped}. {RULE} Training: {times}.

## Examples (held-out prompts)

| kind | prompt | reply |
|---|---|---|
{examples}

## Recipe

`undertow organism train {name} --seed {shipped}`; {recipe["items"]} freshly drawn items, batches of
{recipe["batch"]}, the first {recipe["primer"]} items a primer of bare verb-object pairs; Muon at
{recipe["matrix_rate"]} for matrices, AdamW at
{recipe["learning_rate"]} for the rest, warm-up and cosine, loss on reply tokens only. Then a finishing phase of
{recipe["finish"]} items with more stems and more persuasion frames, at {recipe["finish_rate"]} times these rates: after
the main phase alone, bare requests in unfamiliar stems were at times taken for persuasion, and the other way round. As
the main phase had been judged on the held-out stems by then, {len(FRESH_STEMS)} stems written for the test alone were
added to them.
"""


def escaped(text: str) -> str:
    """A text as it may stand in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " / ")
