"""Parts 7 and 8 of the page: what jailbreaks do to the two beliefs, and the guard among other judges."""

from __future__ import annotations

from undertow.report.beliefs.suffixes import suffix_figure, suffix_tables, suffix_text
from undertow.report.cells import (
    bars_of,
    finite,
    listed,
    number_cell,
    number_text,
    reasons,
    share_cell,
    share_text,
    titled,
)
from undertow.report.figures import Figure, guard_comparison
from undertow.report.html import Section
from undertow.report.intervals import interval_dots
from undertow.report.matrix import matrix
from undertow.report.tables import ABSENT, Cell, Table, truncated
from undertow.studies.beliefs.result import BeliefsResult, FamilyEffect, GuardRow, Guards, Jailbreaks

JAILBREAKS = "What jailbreaks do to the beliefs"
GUARDS = "The Latent Guard among other judges"
RATE = 0.02
_BELIEFS = (("harmfulness", "belief of harmfulness"), ("refusal", "belief of refusal"))
_ROLES = {"guard": "Latent Guard", "baseline": "baseline", "control": "control"}


def jailbreaks_section(result: BeliefsResult, show_prompts: bool) -> Section:
    """Part 7: shifts of both beliefs by wrapper family."""
    found = result.jailbreaks
    if found is None:
        return Section(title=JAILBREAKS, skipped=reasons(result, "jailbreaks", "suffixes", "suffix_search"))
    tables = [_families(found)]
    if found.suffixes is not None:
        tables += suffix_tables(found.suffixes, show_prompts)
    if found.believed:
        tables.append(
            Table(
                ("Prompt", "Family"),
                tuple(
                    (truncated(prompt.text, show=show_prompts), titled(prompt.wrapper or "bare"))
                    for prompt in found.believed
                ),
                caption="Some prompts that the model believes harmful and yet answers.",
                folded=True,
            )
        )
    known = any(one.refusal_shift is not None for one in found.families)
    text = (
        "What each wrapper family does to the two published beliefs of harmful requests"
        + (
            ", against the same requests bare."
            if known
            else "; the same requests bare are not known, so only means are shown."
        )
        + " After figure 3 of the paper, which found the belief of refusal suppressed by every family and the belief "
        "of harmfulness by some."
    )
    if found.suffixes is not None:
        text += "\n\n" + suffix_text(found.suffixes)
    return Section(
        title=JAILBREAKS,
        text=text,
        figures=[*_shifts(found), *_answered(found), *(suffix_figure(found.suffixes) if found.suffixes else [])],
        tables=tables,
        control="Harmless requests in the same wrappers, against the same requests bare: what the wrapper's text does "
        "to the beliefs whatever it is wrapped around. Where the user's own jailbreaks are used, our wrappers still "
        "stand around the harmless requests.",
        how_to_read="Left of zero a wrapper lowers a belief. A family that lowers the belief of refusal far more than "
        "the belief of harmfulness fools what the model does, not what it knows, and a guard that reads the latter can "
        "still see it. A family that lowers both has hidden the harm itself.",
        skipped=reasons(result, "jailbreaks", "suffixes", "suffix_search"),
    )


def _shifts(found: Jailbreaks) -> list[Figure]:
    figures = []
    for key, title in _BELIEFS:
        bars = bars_of(
            (titled(one.family), getattr(one, f"{prefix}{key}_shift"), group, not prefix)
            for one in found.families
            for prefix, group in (("", "harmful requests"), ("harmless_", "harmless requests (control)"))
        )
        if bars:
            figures.append(
                interval_dots(f"jailbreak-{key}", bars, axis=f"change of the {title}", share=False, reference=0.0)
            )
    means = bars_of(
        (titled(one.family) or "Bare", getattr(one, key), title, True)
        for one in (found.bare, *found.families)
        for key, title in _BELIEFS
    )
    if means:
        figures.append(interval_dots("jailbreak-beliefs", means, axis="mean belief", share=False, reference=0.0))
    return figures


def _answered(found: Jailbreaks) -> list[Figure]:
    bars = bars_of(
        (titled(one.family) or "Bare", share, group, True)
        for one in (found.bare, *found.families)
        for share, group in ((one.answered, "answered"), (one.believed_answered, "answered, and believed harmful"))
    )
    return [interval_dots("jailbreak-answers", bars, axis="share of the harmful requests")] if bars else []


def _families(found: Jailbreaks) -> Table:
    def row(one: FamilyEffect, title: str) -> tuple[object, ...]:
        return (
            title,
            share_cell(one.answered),
            share_cell(one.believed_answered),
            number_cell(one.harmfulness_shift),
            number_cell(one.refusal_shift),
            one.n,
        )

    return Table(
        ("Wrapper", "Answered", "Answered, believed harmful", "Harmfulness shift", "Refusal shift", "n"),
        (row(found.bare, "Bare"), *(row(one, titled(one.family)) for one in found.families)),
        numeric=(1, 2, 3, 4, 5),
        caption="Harmful requests, by wrapper family.",
    )


def guards_section(result: BeliefsResult) -> Section:
    """Part 8: table 1."""
    found = result.guards
    if found is None:
        return Section(title=GUARDS, skipped=reasons(result, "guards", "baselines", "baseline"))
    gains = [
        f"{title} by {number_text(one)}"
        for key, title in (
            ("accepted harmful", "recall of accepted harmful prompts at 2 % false positives"),
            ("refused harmless", "refused harmless prompts spared"),
            ("auc", "ROC AUC"),
        )
        if finite(one := found.gain.get(key)) is not None
    ]
    best = found.row(found.best)
    text = (
        f"Every judge sees the same test prompts. {found.fit[:1].upper()}{found.fit[1:]}".rstrip(".")
        + ". "
        + (f"Of the other rules, cross-validation on the fit prompts chose `{best.key}`. " if best is not None else "")
        + (f"Against the published rule, `centroid`, it changes {listed(gains)}. " if gains else "")
        + "After table 1 of the paper."
    )
    shuffled = found.row("shuffled")
    own = found.row("own_refusal")
    control = (
        f"The same rule fitted on shuffled labels recalls {share_text(shuffled.recall.get(RATE))} of the accepted "
        "harmful prompts at 2 % false positives. "
        if shuffled is not None
        else ""
    ) + (
        f"Taken as a judge, the model's own refusal gets {share_text(own.accuracy.get('all'))} of all prompts right, "
        "and by definition none of the accepted harmful and refused harmless ones."
        if own is not None
        else ""
    )
    return Section(
        title=GUARDS,
        text=text,
        figures=_guard_figures(found),
        tables=[_own_threshold(found), _fixed_rates(found), _costs(found)],
        control=control.strip() or "No control was measured.",
        how_to_read="The first figure holds every judge at 2 % of these very harmless prompts, which compares the "
        "scores themselves; the second and the first table take every judge at its own threshold, as it would be "
        "used. Filled marks are Latent Guards, hollow ones baselines. The two groups are the hard ones: prompts on "
        "which the model's own behaviour is wrong. Cost is what a judge adds to answering the prompt anyway: a Latent "
        "Guard reads a pass that is made in any case.",
        skipped=reasons(result, "guards", "baselines", "baseline"),
    )


def _guard_figures(found: Guards) -> list[Figure]:
    bars = bars_of(
        (row.title, share, group, row.role == "guard")
        for row in found.rows
        for share, group in (
            (row.recall.get(RATE), "accepted harmful, flagged"),
            (row.spared.get(RATE), "refused harmless, spared"),
        )
    )
    figures = [guard_comparison("guards", bars, axis="judged rightly at 2 % false positives")] if bars else []
    judged = [row for row in found.rows if any(family in row.accuracy for family in found.families)]
    if judged and found.families:
        shares = [[_value(row, family) for family in found.families] for row in judged]
        figures.append(
            matrix(
                "guards-families",
                {"accuracy": shares},
                [row.title for row in judged],
                [titled(family) for family in found.families],
                kind="share",
                column_axis="accepted harmful prompts flagged",
                label_width=20,
            )
        )
    return figures


def _value(row: GuardRow, group: str) -> float | None:
    known = finite(row.accuracy.get(group))
    return None if known is None else known.value


def _own_threshold(found: Guards) -> Table:
    groups = ("accepted harmful", "refused harmless", "all")
    return Table(
        ("Judge", *(titled(group) for group in groups), "False positives"),
        tuple(
            (
                Cell(row.title, note=f"{_ROLES.get(row.role, row.role)}: {row.note}"),
                *(share_cell(row.accuracy.get(group)) for group in groups),
                share_cell(row.false_positives),
            )
            for row in found.rows
        ),
        numeric=(1, 2, 3, 4),
        caption="Share judged rightly at each judge's own threshold.",
    )


def _fixed_rates(found: Guards) -> Table:
    rows = [row for row in found.rows if row.recall]
    rates = sorted({rate for row in rows for rate in row.recall})
    return Table(
        (
            "Judge",
            "ROC AUC",
            *(f"Recall at {rate:.0%}" for rate in rates),
            *(f"Spared at {rate:.0%}" for rate in rates),
        ),
        tuple(
            (
                row.title,
                number_cell(row.auc),
                *(share_cell(row.recall.get(rate)) for rate in rates),
                *(share_cell(row.spared.get(rate)) for rate in rates),
            )
            for row in rows
        ),
        numeric=tuple(range(1, 2 + 2 * len(rates))),
        caption="Recall of accepted harmful prompts, and refused harmless prompts spared, at fixed false-positive "
        "rates.",
        folded=True,
    )


def _costs(found: Guards) -> Table:
    return Table(
        ("Judge", "FLOPs a prompt", "Beyond answering", "Time a prompt"),
        tuple((row.title, flops(row.flops), flops(row.extra_flops), duration(row.seconds)) for row in found.rows),
        numeric=(1, 2, 3),
        caption="What each judge costs: forward floating-point operations, and measured time in batches.",
    )


def flops(value: float | None) -> str:
    """Floating-point operations, as a reader wants them."""
    if value is None:
        return ABSENT
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}\u202f{unit}FLOP"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds, as a reader wants them."""
    if seconds is None:
        return ABSENT
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g}\u202f{unit}"
    return f"{seconds * 1e6:.3g}\u202f\u00b5s"
