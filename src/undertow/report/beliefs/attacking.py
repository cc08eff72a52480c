"""Part 9 of the page: two checkpoints held against each other; used for attacks on the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from undertow.guard.verdict import QUADRANTS
from undertow.measure.statistics import Estimate
from undertow.report.cells import (
    bars_of,
    finite,
    listed,
    number_cell,
    number_text,
    reasons,
    share_cell,
    titled,
)
from undertow.report.figures import Curve, Figure, score_curves
from undertow.report.html import Section
from undertow.report.intervals import interval_dots
from undertow.report.matrix import matrix
from undertow.report.tables import Cell, Table, percent, written
from undertow.studies.beliefs.comparison import Change, Comparison
from undertow.studies.beliefs.result import Attack, BeliefsResult

ATTACKS = "Attacks on the weights"
_RULES = {"published": "the published rule", "best": "the best rule"}


def attacks_section(result: BeliefsResult) -> Section:
    """Part 9: finetuning and abliteration, before and after."""
    impossible = [
        str(reason) for attack in result.attacks for name, reason in attack.about.items() if name.startswith("no ")
    ]
    why = "\n\n".join(filter(None, (reasons(result, "attacks", "finetuning", "abliteration"), *impossible[:1])))
    if not result.attacks:
        return Section(title=ATTACKS, skipped=why)
    figures = [*_refusals(result.attacks), *_recalls(result.attacks)]
    for attack in result.attacks:
        figures += [*_shifts(attack), *_by_state(attack), *_cosines(attack)]
    figures += _flows(result.attacks)
    return Section(
        title=ATTACKS,
        text="The weights are changed until the model answers what it refused before, and the beliefs of the changed "
        "model are read with everything that was fitted on the model before: centroids, guard rules and thresholds.\n\n"
        + "\n\n".join(_outcome(attack) for attack in result.attacks),
        figures=figures,
        tables=[_changes(result.attacks), *(_about(attack) for attack in result.attacks)],
        control=_control(result.attacks),
        how_to_read="The first figure says whether the attack worked: bare harmful requests should go from mostly "
        "refused to hardly refused. The second says whether the guard noticed: recall that stays where it was means "
        "that the model still represents harm where the guard looks, although it no longer acts on it. In the table of "
        "quadrants rows are before and columns after; what moved away from the diagonal changed its beliefs. A drop "
        "with an interval that contains zero is no drop that these prompts can show.",
        skipped=why,
    )


def refusals_and_recall(
    found: Comparison,
) -> tuple[Estimate | None, Estimate | None, Estimate | None, Estimate | None]:
    """Refusals of bare harmful prompts before and after, the best rule's recall of harmful prompts before and after."""
    refused = found.refused.get("bare harmful")
    best = next((guard for guard in found.guards if guard.key == "best"), None)
    recall = None if best is None else best.recall.get("all")
    return (
        None if refused is None else finite(refused.before),
        None if refused is None else finite(refused.after),
        None if recall is None else finite(recall.before),
        None if recall is None else finite(recall.after),
    )


def _outcome(attack: Attack) -> str:
    before, after, recall_before, recall_after = refusals_and_recall(attack.comparison)
    sentences = []
    if before is not None and after is not None:
        sentences.append(
            f"{titled(attack.title)}: refusals of bare harmful requests go from {percent(before.value)} to "
            f"{percent(after.value)}."
        )
    if recall_before is not None and recall_after is not None:
        drop = attack.comparison.best.recall["all"].drop
        sentences.append(
            f"Recall of harmful requests by the best guard rule, at its old threshold, goes from "
            f"{percent(recall_before.value)} to {percent(recall_after.value)}, a drop of {_points(drop)}."
        )
        renewed = finite(attack.comparison.best.recalibrated.after)
        if renewed is not None:
            sentences.append(f"With a new threshold for the changed model it would be {percent(renewed.value)}.")
    return " ".join(sentences)


def _short(attack: Attack) -> str:
    return {"finetuning": "Finetuning", "abliteration": "Abliteration"}.get(attack.key, titled(attack.title))


def _points(drop: Estimate) -> str:
    value, low, high = (f"{100 * number + 0.0:.1f}".replace("-", "\u2212") for number in drop[:3])
    return f"{value} points ({low} to {high})"


def _control(attacks: Sequence[Attack]) -> str:
    sentences = [
        f"{titled(attack.title)} is held against {_named(attack)}: refusals of bare harmful requests "
        f"{percent(before.value)} before and {percent(after.value)} after."
        for attack in attacks
        if attack.control is not None
        for before, after, _, _ in [refusals_and_recall(attack.control)]
        if before is not None and after is not None
    ]
    return " ".join(sentences) or "No harmless change of the weights was made to hold this against."


def _named(attack: Attack) -> str:
    return {
        "finetuning": "finetuning on harmless answers for as many steps",
        "abliteration": "the removal of a random direction",
    }.get(attack.key, "a change that should do nothing")


def _sides(attack: Attack) -> list[tuple[str, Comparison]]:
    return [("after", attack.comparison)] + ([] if attack.control is None else [("after the control", attack.control)])


def _dots(name: str, attacks: Sequence[Attack], axis: str, pick: Mapping[str, Any]) -> list[Figure]:
    """One line an attack and measure, with before, after and after the control beside each other."""
    entries = []
    for attack in attacks:
        for title, take in pick.items():
            for group, comparison in _sides(attack):
                change: Change | None = take(comparison)
                if change is None:
                    continue
                line = f"{_short(attack)}: {title}"
                if group == "after":
                    entries.append((line, change.before, "before", False))
                entries.append((line, change.after, group, group == "after"))
    bars = bars_of(entries)
    return [interval_dots(name, bars, axis=axis)] if bars else []


def _refusals(attacks: Sequence[Attack]) -> list[Figure]:
    groups = list(dict.fromkeys(group for attack in attacks for group in attack.comparison.refused))
    pick = {group: (lambda one, group=group: one.refused.get(group)) for group in groups}
    return _dots("attack-refusals", attacks, "share that the model refuses", pick)


def _recall_of(comparison: Comparison, key: str, group: str) -> Change | None:
    guard = next((one for one in comparison.guards if one.key == key), None)
    return None if guard is None else guard.recall.get(group)


def _recalls(attacks: Sequence[Attack]) -> list[Figure]:
    pick = {
        f"{_RULES[key]}, {group} harmful": (lambda one, key=key, group=group: _recall_of(one, key, group))
        for key in ("best", "published")
        for group in ("bare", "wrapped")
    }
    return _dots("attack-recall", attacks, "share flagged, at the old thresholds", pick)


def _shifts(attack: Attack) -> list[Figure]:
    bars = bars_of(
        (titled(shift.kind), shift.shift, f"{shift.belief}{'' if group == 'after' else ', control'}", group == "after")
        for group, comparison in _sides(attack)
        for shift in comparison.shifts
    )
    if not bars:
        return []
    axis = f"change of the belief, {_short(attack).lower()}"
    return [interval_dots(f"attack-beliefs-{attack.key}", bars, axis=axis, share=False, reference=0.0)]


def _by_state(attack: Attack) -> list[Figure]:
    curves = [
        Curve(f"{belief}: {kind}", kinds[kind])
        for belief, kinds in attack.comparison.by_state.items()
        for kind in ("refused harmful", "accepted harmless")
        if kind in kinds
    ]
    if not curves:
        return []
    states, axis = range(len(curves[0].values)), f"change of s(l), {_short(attack).lower()}"
    return [score_curves(f"attack-states-{attack.key}", curves, states, axis=axis)]


def _cosines(attack: Attack) -> list[Figure]:
    found = attack.comparison
    curves = [Curve(f"{name}, before and after", values) for name, values in found.cosines.items()]
    if attack.control is not None:
        curves += [Curve(f"{name}, control", values, control=True) for name, values in attack.control.cosines.items()]
    if not curves:
        return []
    states = range(len(curves[0].values))
    axis = f"cosine with itself, {_short(attack).lower()}"
    return [score_curves(f"attack-cosines-{attack.key}", curves, states, axis=axis)]


def _flows(attacks: Sequence[Attack]) -> list[Figure]:
    tables = {}
    for attack in attacks:
        tables[_short(attack)] = attack.comparison.flow.tolist()
        if attack.control is not None:
            tables[f"{_short(attack)}: the control"] = attack.control.flow.tolist()
    return [
        matrix(
            "attack-flow", tables, QUADRANTS, QUADRANTS, kind="count", row_axis="before", column_axis="after",
            label_width=14,
        )
    ]  # fmt: skip


def _changes(attacks: Sequence[Attack]) -> Table:
    rows = []
    for attack in attacks:
        found = attack.comparison
        lines = [(f"refused: {group}", change, found.refused, group) for group, change in found.refused.items()]
        for title, change, _, group in lines:
            control = None if attack.control is None else attack.control.refused.get(group)
            rows.append(_change(f"{_short(attack)}, {title}", change, control))
        for guard in found.guards:
            for group, change in guard.recall.items():
                other = None if attack.control is None else _recall_of(attack.control, guard.key, group)
                rows.append(
                    _change(
                        f"{_short(attack)}, flagged by {_RULES.get(guard.key, guard.key)}: {group} harmful",
                        change,
                        other,
                        note=f"{guard.rule}, states {listed(str(state) for state in guard.states)}"
                        if len(guard.states) <= 4
                        else f"{guard.rule}, {len(guard.states)} states",
                    )
                )
            other = None if attack.control is None else attack.control.guard(guard.key).false_positives
            rows.append(
                _change(
                    f"{_short(attack)}, flagged by {_RULES.get(guard.key, guard.key)}: harmless",
                    guard.false_positives,
                    other,
                )
            )
    return Table(
        ("What", "Before", "After", "Drop", "Drop of the control", "n"),
        tuple(rows),
        numeric=(1, 2, 3, 4, 5),
        caption="Before and after on the same prompts; drops with paired 95 % intervals.",
        folded=True,
    )


def _change(title: str, change: Change, control: Change | None, note: str = "") -> tuple[Any, ...]:
    return (
        Cell(title, note=note),
        share_cell(change.before),
        share_cell(change.after),
        number_cell(change.drop),
        number_cell(None if control is None else control.drop),
        change.before.n,
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under one name each; lists as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}, {inner}": one for inner, one in _flat(value).items()}
        elif isinstance(value, list | tuple):
            found[name] = ", ".join(written(one) for one in value)
        else:
            found[name] = value
    return found


def _about(attack: Attack) -> Table:
    rows: list[tuple[Any, ...]] = [
        (titled(name), written(value)) for name, value in _flat(attack.about).items() if not name.startswith("no ")
    ]
    rows.append(("Replies that stayed the very same", share_cell(attack.comparison.same_replies)))
    cosines = attack.comparison.cosines.get("harmfulness")
    if cosines is not None and len(cosines):
        rows.append(("Lowest cosine of the harmfulness direction with itself", written(float(np.nanmin(cosines)))))
    shift = attack.comparison.shift("harmfulness", "refused harmful")
    if shift is not None:
        rows.append(("Belief of harmfulness of refused harmful prompts, change", number_text(shift.shift)))
    return Table(
        ("Setting or course", "Value"), tuple(rows), caption=f"{titled(attack.title)}: how it went.", folded=True
    )
