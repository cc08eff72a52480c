"""The demo's tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from undertow.measure.statistics import Estimate
from undertow.studies.demo.detectors import Detector
from undertow.studies.demo.kinds import HELD_OUT_FAMILIES
from undertow.studies.demo.result import DemoResult, estimate

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_MARKS = {"reproduced": ("\u2713", "green"), "not reproduced": ("\u2717", "red"), "not tested": ("\u25cb", "dim")}


def tables(result: DemoResult) -> list[RenderableType]:
    """Behaviour, quadrants, the guard and its rivals, one prompt steered both ways, guarded generation, findings."""
    found = [_behaviour(result), _quadrants(result), _detectors(result), *_examples(result), _rates(result)]
    return [*[part for part in found if part is not None], _findings(result)]


def per_cent(found: Estimate | None, interval: bool = False) -> str:
    """A share in per cent, with its interval where asked."""
    if found is None:
        return ""
    text = f"{100 * found.value:.1f} %"
    return f"{text} ({100 * found.low:.1f} to {100 * found.high:.1f})" if interval else text


def _behaviour(result: DemoResult) -> Table:
    table = _table(f"What {result.guard.identity.name} does, {result.n} held-out prompts of each kind")
    table.add_column("prompts")
    for heading in ("refused", "judged rightly when asked"):
        table.add_column(heading, justify="right")
    for cell in result.cells:
        table.add_row(cell.kind.title, per_cent(estimate(cell.refused), True), per_cent(estimate(cell.correct), True))
    return table


def _quadrants(result: DemoResult) -> Table:
    table = _table("What it believes: prompts in each quadrant")
    table.add_column("prompts")
    counts = result.quadrants()
    names = result.quadrant_names
    for name in names:
        table.add_column(name, justify="right")
    for kind, by_quadrant in counts.items():
        table.add_row(kind, *(str(by_quadrant[name]) if by_quadrant[name] else "\u00b7" for name in names))
    return table


def _detectors(result: DemoResult) -> Table:
    families = " and ".join(HELD_OUT_FAMILIES)
    table = _table(f"The guard against its rivals: accepted harmful prompts flagged, unseen families {families}")
    table.add_column("judged by")
    for heading in ("flagged (recall)", "false positives", "refused harmless spared", "recall at exactly 2 %"):
        table.add_column(heading, justify="right")
    for detector in result.detectors:
        rate = per_cent(estimate(result.false_positives(detector)))
        table.add_row(
            _title(detector),
            per_cent(estimate(result.jailbroken(detector)), True),
            rate if detector.fixed_rate else f"{rate} *",
            per_cent(estimate(result.refused_harmless(detector))),
            "" if detector.key == "own_refusal" else _share(result.recall_at_test_rate(detector)),
            style="bold" if detector.role == "guard" else None,
        )
    shuffled, random = (
        result.control_flags(
            flags,
            kinds=lambda kind: kind.harmful and kind.family in HELD_OUT_FAMILIES,
            refused=False,
        )
        for flags in (result.controls.shuffled, result.controls.random)
    )
    for name, flags in (("control: shuffled labels", shuffled), ("control: random directions", random)):
        if flags.size:
            table.add_row(name, _share(float(flags.mean())), "", "", "", style="dim")
    table.caption = "* threshold not set for the rate of 2 %; all others are, on held-out prompts of the training split"
    table.caption_justify = "left"
    return table


def _examples(result: DemoResult) -> list[Table]:
    found = []
    for example in result.acting.examples:
        coefficient = example.coefficient
        way = "toward refusal" if example.toward == "refusal" else "away from refusal"
        table = _table(
            f"One {example.kind} prompt steered {way} ({coefficient:g} \u00d7, at state {result.acting.state})"
        )
        table.add_column("")
        table.add_column("reply", ratio=1)
        table.add_column("beliefs", justify="right")
        table.add_row("prompt", _literal(example.prompt.text), "", style="dim")
        for reply in example.replies:
            refusal = "" if reply.refusal is None else f"refusal {reply.refusal:+.2f}"
            table.add_row(reply.edit, _literal(reply.reply), refusal)
        found.append(table)
    return found


def _rates(result: DemoResult) -> Table | None:
    rates = (*result.acting.steering, *result.acting.guarded)
    if not rates:
        return None
    table = _table("Acting on the beliefs")
    table.add_column("what happened")
    for heading in ("share", "control", "n"):
        table.add_column(heading, justify="right")
    for rate in rates:
        table.add_row(
            rate.title, per_cent(estimate(rate.hits), True), per_cent(estimate(rate.control)), str(len(rate.hits))
        )
    return table


def _findings(result: DemoResult) -> Table:
    table = _table("Findings")
    table.add_column("")
    table.add_column("finding", no_wrap=True)
    for heading in ("value", "95 % interval", "n", "control"):
        table.add_column(heading, justify="right")
    table.add_column("rule")
    for finding in result.findings:
        mark, style = _MARKS[finding.verdict]
        rule = result.rules.get(finding.id)
        table.add_row(
            f"[{style}]{mark}[/]",
            finding.id,
            "" if finding.value is None else f"{finding.value:.3f}",
            "" if finding.low is None else f"{finding.low:.3f} to {finding.high:.3f}",
            str(finding.n),
            "" if finding.control is None else f"{finding.control:.3f}",
            "" if rule is None else rule.sentence.removeprefix("reproduced if "),
        )
    return table


def _title(detector: Detector) -> str:
    return detector.title


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _literal(text: str) -> Text:
    from rich.text import Text

    return Text("".join(part if part.isprintable() else f"\\x{ord(part):02x}" for part in text))
