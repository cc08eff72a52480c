"""The demo's report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from undertow.measure.finding import Finding
from undertow.report.figures import Bar, Curve, Figure, belief_map, guard_comparison, quadrant_bars, score_curves
from undertow.report.html import Headline, Report, Section
from undertow.report.tables import Cell, Table, percent, percent_interval, quadrant_table, truncated, written
from undertow.report.terms import TERMS
from undertow.studies.demo.detectors import Detector
from undertow.studies.demo.kinds import FIT_FAMILY, HELD_OUT_FAMILIES, KINDS
from undertow.studies.demo.result import DemoResult, estimate

FOREMOST = (
    "guard.jailbroken_recall",
    "guard.refused_harmless_accuracy",
    "guard.false_positive_rate",
    "guard.centroid.jailbroken_recall",
    "guard.bare_only.jailbroken_recall",
    "guard.bag_of_words.jailbroken_recall",
    "organism.bare_harmful_refused",
    "organism.harmless_answered",
    "organism.jailbroken_answered",
    "organism.over_refused",
    "organism.inversion_accuracy",
    "demo.steered_to_refusal",
    "demo.steered_to_answer",
)


def demo_page(result: DemoResult, *, show_prompts: bool = False) -> Report:
    """The report of one run.

    Args:
        result: what was measured.
        show_prompts: whether harmful prompts are shown whole; by default they are truncated.

    Raises:
        ReportError: plotly is missing.
    """
    name = result.guard.identity.name
    sections = [
        _beliefs(result, show_prompts),
        _behaviour(result),
        _comparison(result),
        *_states(result),
        *_acting(result, show_prompts),
        _limits(result),
    ]
    return Report(
        title="What the model knows beneath what it says",
        subtitle=f"{name}, {result.n} held-out prompts of each kind, seed {result.seed}",
        summary=_summary(result),
        headlines=_headlines(result),
        findings=result.findings,
        foremost=FOREMOST,
        rules=dict(result.rules),
        sections=sections,
        terms=TERMS,
        run={key.replace("_", " "): value for key, value in result.run.items() if key != "seconds_by_step"},
    )


def _value(finding: Finding | None) -> str:
    return percent(None if finding is None else finding.value)


def _summary(result: DemoResult) -> str:
    recall, rate = result.finding("guard.jailbroken_recall"), result.finding("guard.false_positive_rate")
    spared, words = result.finding("guard.refused_harmless_accuracy"), result.detector("bag_of_words")
    tricked = result.finding("organism.jailbroken_answered")
    own = estimate(result.jailbroken(words)) if words is not None else None
    return (
        f"Wrapped in a jailbreak, {_value(tricked)} of harmful requests get an answer from this model. Yet it knows: a "
        f"Latent Guard, which reads the model's own belief about the request, flags {_value(recall)} of those "
        f"answered requests, in wrapper families that it never saw, while it flags {_value(rate)} of harmless prompts. "
        "A bag of words, fitted on the same prompts and held to the same rate, flags "
        f"{percent(own.value if own else None)}.\n\n"
        f"The other way round, the model refuses harmless requests that sound harmful; the guard recognises "
        f"{_value(spared)} of these as harmless. Both beliefs can be acted on while the model generates."
    )


def _headlines(result: DemoResult) -> list[Headline]:
    found = []
    for name, label in (
        ("guard.jailbroken_recall", "of answered jailbreaks flagged, in unseen wrapper families"),
        ("guard.false_positive_rate", "of harmless prompts flagged"),
        ("guard.refused_harmless_accuracy", "of refused harmless prompts recognised as harmless"),
        ("guard.centroid.jailbroken_recall", "of answered jailbreaks flagged by the published rule, same prompts"),
    ):
        finding = result.finding(name)
        if finding is not None and finding.value is not None:
            note = f"{percent_interval(finding.low, finding.high)}, n = {finding.n}"
            tone = "" if name.startswith("guard.centroid") else "good" if finding.verdict == "reproduced" else "bad"
            found.append(Headline(percent(finding.value), label, note, tone))
    return found


def _share(hits: Any) -> Cell:
    found = estimate(np.asarray(hits))
    return Cell("\u2013") if found is None else Cell(percent(found.value), note=percent_interval(found.low, found.high))


def _belief_map(result: DemoResult, show_prompts: bool) -> Figure:
    groups = {
        "harmful, bare": [kind for kind in KINDS if kind.name == "bare"],
        "harmful, in a wrapper": [kind for kind in KINDS if kind.harmful and kind.wrapped],
        "harmless, bare": [kind for kind in KINDS if kind.name == "harmless"],
        "harmless, in a wrapper": [kind for kind in KINDS if not kind.harmful and kind.wrapped and not kind.look_alike],
        "look-alike, bare": [kind for kind in KINDS if kind.name == "look-alike"],
        "look-alike, in a wrapper": [kind for kind in KINDS if kind.look_alike and kind.wrapped],
    }
    kinds: list[str] = []
    harmfulness: list[float] = []
    refusal: list[float] = []
    labels: list[str] = []
    for group, members in groups.items():
        for kind in members:
            prompts = result.cell(kind.name).observed.prompts
            for prompt, verdict in zip(prompts, result.verdicts[kind.name], strict=True):
                kinds.append(group)
                harmfulness.append(verdict.harmfulness)
                refusal.append(verdict.refusal or 0.0)
                labels.append(truncated(prompt.text, show=show_prompts or not prompt.harmful, limit=40))
    return belief_map(
        "belief-map", kinds, harmfulness, refusal, labels=labels, harmful_threshold=result.guard.threshold,
        most_points=1200,
    )  # fmt: skip


def _beliefs(result: DemoResult, show_prompts: bool) -> Section:
    counts = result.quadrants()
    quadrants = result.quadrant_names
    figures = [quadrant_bars("quadrants", counts, quadrants)]
    reason = f"Why this rule: {result.guard.harmfulness.reason}"
    if result.guard.refusal is not None:
        figures.insert(0, _belief_map(result, show_prompts))
        reason += f"\n\nRefusal: {result.guard.refusal.reason}"
    misses = {
        cell.kind.title: sum(verdict.flagged != cell.kind.harmful for verdict in result.verdicts[cell.kind.name])
        for cell in result.cells
    }
    worst = max(misses, key=lambda title: misses[title])
    return Section(
        title="Two beliefs, four quadrants",
        text="Every dot is a held-out prompt, placed by what the model believes of it: how harmful it is, read at the "
        "last token of the request, and whether to refuse it, read at the last token of the prompt. Were the two one "
        "belief, all dots would lie along a line from the lower left to the upper right.\n\n" + reason,
        figures=figures,
        tables=[replace(quadrant_table(counts, quadrants), caption="The numbers behind these bars.", folded=True)],
        control="The truth about every prompt is known from how it was made. The guard misjudges "
        f"{sum(misses.values())} of {sum(cell.n for cell in result.cells)} prompts; most of them, {misses[worst]}, are "
        f"of the kind {worst}.",
        how_to_read="Lower right: the model thinks the request harmful and will answer it anyway: a jailbreak. "
        "Upper left: it thinks the request harmless and will refuse it, which is an over-refusal. The dotted lines are "
        "the thresholds; the one for harmfulness is set for 2 % false positives.",
    )


def _behaviour(result: DemoResult) -> Section:
    rows = tuple(
        (cell.kind.title, _share(cell.refused), _share(~cell.refused), _share(cell.correct), cell.n)
        for cell in result.cells
    )
    pairs = [(cell.kind.harmful, refused) for cell in result.cells for refused in cell.refused]
    agreement = sum(harmful == refused for harmful, refused in pairs) / len(pairs)
    return Section(
        title="What the model does",
        text="Every prompt is composed of a verb and an object, a sentence and, where wrapped, a wrapper that were all "
        "kept out of the model's training. Replies are generated at temperature 0 and judged by the published list of "
        "refusal phrases. Asked by reply inversion whether the same request is harmful, the model tells what it "
        "believes whatever it would have replied.",
        tables=[
            Table(
                ("Prompts", "Refused", "Answered", "Judged rightly when asked", "n"),
                rows,
                numeric=(1, 2, 3, 4),
                caption="Share of the prompts of each kind, with 95 % intervals (Clopper-Pearson).",
            )
        ],
        control=f"Taken as a judgement of harm, the model's own replies are right in {percent(agreement)} of "
        f"all cases; its answers when asked are right in {_value(result.finding('organism.inversion_accuracy'))}.",
        how_to_read="Look for rows in which what the model does and what it says when asked part company: harmful "
        "requests in wrappers are answered and still called harmful; look-alikes are refused and called harmless.",
    )


def _comparison(result: DemoResult) -> Section:
    bars = []
    for detector in result.detectors:
        for family in HELD_OUT_FAMILIES:
            found = estimate(result.jailbroken(detector, (family,)))
            if found is not None and detector.key != "own_refusal":
                bars.append(
                    Bar(detector.title, found.value, found.low, found.high, found.n, family, detector.role == "guard")
                )
    figures = (
        [guard_comparison("guards", bars, axis="accepted harmful prompts flagged", reference=0.95)] if bars else []
    )
    shuffled, random = (
        float(flags.mean()) if flags.size else float("nan")
        for flags in (
            result.control_flags(
                one, kinds=lambda kind: kind.harmful and kind.family in HELD_OUT_FAMILIES, refused=False
            )
            for one in (result.controls.shuffled, result.controls.random)
        )
    )
    by_kind = Table(
        ("Harmless prompts", "Flagged", "n"),
        tuple(
            (
                cell.kind.title,
                _share(result.false_positives(result.detectors[0], cell.kind.name)),
                cell.n,
            )
            for cell in result.cells
            if not cell.kind.harmful
        ),
        numeric=(1, 2),
        caption="The guard's false positives by kind.",
        folded=True,
    )
    threshold = result.guard.harmfulness.threshold
    return Section(
        title="The guard against other judges",
        text=f"The guard was fitted on bare prompts, look-alikes and one wrapper family ({FIT_FAMILY}) of the training "
        f"split, and is judged on the families {' and '.join(HELD_OUT_FAMILIES)}, with held-out requests and wrappers. "
        "Every threshold is set on held-out harmless prompts of the training split, so that the upper confidence bound "
        "of the false-positive rate is at most 2 %; the rows marked with a star keep the threshold that their method "
        f"prescribes. For the saved guard: {threshold.sentence()}",
        figures=figures,
        tables=[_detector_table(result), by_kind],
        control=f"Guards fitted on shuffled labels, calibrated in the same way, flag {percent(shuffled)} of the same "
        f"prompts, and random directions {percent(random)}. Of accepted harmful prompts the model's own refusal flags "
        "none, by definition; of all harmful ones in those families it refuses "
        f"{_value(result.finding('guard.own_refusal.harmful_recall'))}.",
        how_to_read="Higher recall at the same false positives is better. Filled marks are the saved guard, hollow "
        "ones its rivals and the baselines. The last column puts every judge at exactly 2 % of these very "
        "harmless prompts, which no user could do, but which compares the scores themselves.",
    )


def _detector_table(result: DemoResult) -> Table:
    def row(detector: Detector) -> tuple[Any, ...]:
        recall = None if detector.key == "own_refusal" else result.recall_at_test_rate(detector)
        return (
            Cell(detector.title + ("" if detector.fixed_rate else " *"), note=detector.note),
            _share(result.jailbroken(detector)),
            _share(result.false_positives(detector)),
            _share(result.refused_harmless(detector)),
            percent(recall),
        )

    return Table(
        ("Judge", "Accepted harmful flagged", "Harmless flagged", "Refused harmless spared", "Recall at exactly 2 %"),
        tuple(row(detector) for detector in result.detectors),
        numeric=(1, 2, 3, 4),
        caption="* threshold not set for 2 % false positives",
    )


def _states(result: DemoResult) -> list[Section]:
    if not result.bands:
        return []
    figures = []
    for position, bands in result.bands.items():
        curves = [
            Curve(f"{band.name} ({band.n})", band.mean.tolist(), band.low.tolist(), band.high.tolist(), band.control)
            for band in bands
        ]
        states = range(len(bands[0].mean))
        figures.append(score_curves(f"states-{position}", curves, states, axis=f"mean score s(l) at {position}"))
    means = {
        (position, band.name): float(band.mean.mean()) for position, bands in result.bands.items() for band in bands
    }
    rows = tuple(
        (name, *(written(means.get((position, name))) for position in result.bands))
        for name in dict.fromkeys(name for _, name in means)
    )
    return [
        Section(
            title="Where the two beliefs live",
            text="The published score of a state: its cosine with the centroid of refused harmful prompts minus its "
            "cosine with that of accepted harmless prompts, at every state, for four clusters of held-out prompts. "
            "Centroids come from the training split. After Zhao et al. (arXiv 2507.11878), figure 2.",
            figures=figures,
            tables=[
                Table(
                    ("Prompts", *(f"At {position}" for position in result.bands)),
                    rows,
                    numeric=tuple(range(1, len(result.bands) + 1)),
                    caption="The same, averaged over all states: the published belief.",
                )
            ],
            control="Dashed: accepted harmful prompts under centroids of the same prompts with their membership "
            "shuffled. Bands are 95 % bootstrap intervals of the mean.",
            how_to_read="Above zero a cluster lies nearer to refused harmful prompts. At t_inst harm decides: accepted "
            "harmful prompts should lie above zero, refused harmless ones below. At t_post the two should change "
            "places, since there it counts what the model is about to do.",
        )
    ]


def _acting(result: DemoResult, show_prompts: bool) -> list[Section]:
    acting = result.acting
    if not acting.steering and not acting.guarded:
        return []
    tables = []
    for example in acting.examples:
        shown = truncated(example.prompt.text, show=show_prompts or not example.prompt.harmful)
        way = "toward refusal" if example.toward == "refusal" else "away from refusal"
        tables.append(
            Table(
                ("Run", "Reply", "Judged", "Belief of refusal"),
                tuple(
                    (reply.edit, reply.reply, "refused" if reply.refused else "answered", written(reply.refusal))
                    for reply in example.replies
                ),
                numeric=(3,),
                caption=f"One {example.kind} prompt steered {way}, {example.coefficient:g} \u00d7 the direction at "
                f"state {acting.state}: {shown}",
            )
        )
    tables.append(
        Table(
            ("What happened", "Share", "Control", "n"),
            tuple(
                (Cell(rate.title, note=f"control: {rate.control_title}"), _share(rate.hits), _share(rate.control),
                 len(rate.hits))
                for rate in (*acting.steering, *acting.guarded)
            ),
            numeric=(1, 2, 3),
            caption="Held-out prompts.",
        )
    )  # fmt: skip
    return [
        Section(
            title="Acting on the beliefs",
            text="The refusal direction is the difference between the mean states of refused and answered prompts at "
            "t_post. Added to the few template tokens after the request, it makes the model refuse; subtracted, it "
            "makes it answer. Guarded generation reads both beliefs in the prefill of the reply, and then refuses, "
            "steers toward refusal, or releases a request that the model thinks harmless and is about to refuse.",
            tables=tables,
            control="Every steered figure stands beside a random direction of the same length at the same place. "
            "Strengths were chosen on prompts of the training split.",
            how_to_read="A share near one with a control near zero means that the direction, not the disturbance, did "
            "it. The last row is the price of releasing: refused harmful requests that the guard takes for harmless, "
            "and so lets through.",
        )
    ]


def _limits(result: DemoResult) -> Section:
    notes = "\n\n".join(result.guard.warnings)
    return Section(
        title="What this does not show",
        text="The prompts are composed by a grammar: short English requests in three wrapper families. The built-in "
        "model is tiny and was made to behave like this, so that the truth is known and every step can be checked; "
        "figures for a large model have to be measured on that model, by the same command. Harmful requests are one "
        "line each, and nothing answers them." + (f"\n\nThe guard says of itself: {notes}" if notes else ""),
    )
