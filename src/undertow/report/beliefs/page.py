"""The report of the beliefs study."""

from __future__ import annotations

from undertow.report.beliefs.acting import inversion_section, release_section, steering_section
from undertow.report.beliefs.attacking import attacks_section
from undertow.report.beliefs.guarding import guards_section, jailbreaks_section
from undertow.report.beliefs.knowing import directions_section, map_section, separation_section, sorting_section
from undertow.report.beliefs.summary import headlines, summary
from undertow.report.html import Report, Section
from undertow.report.terms import TERMS
from undertow.studies.beliefs.claims import FOREMOST
from undertow.studies.beliefs.result import BeliefsResult

_TERMS = {
    **TERMS,
    "Fit and test prompts": "Two halves that share no request. Everything is fitted and chosen on the first, every "
    "figure is made of the second.",
    "Centroid": "The mean state of a cluster of prompts, at one state and position.",
    "Direction": "A difference of two centroids, which can be added to a model's states or removed from its weights.",
    "Control": "The same measurement where nothing should come out: a random direction, shuffled labels, a harmless "
    "change.",
    "Verdict": "Reproduced or not, by the rule that stands beneath it, which looks at the 95 % interval alone.",
}


def beliefs_page(result: BeliefsResult, *, show_prompts: bool = False) -> Report:
    """The report of one run: a summary, the findings with their rules, then the ten parts in order.

    Args:
        result: what was measured; parts that were not say why.
        show_prompts: whether harmful prompts are shown whole; by default they are truncated.

    Raises:
        ReportError: plotly is missing.
    """
    sections = [
        sorting_section(result),
        separation_section(result),
        map_section(result, show_prompts),
        directions_section(result),
        steering_section(result),
        inversion_section(result),
        jailbreaks_section(result, show_prompts),
        guards_section(result),
        attacks_section(result),
        release_section(result),
        _limits(result),
    ]
    count = sum(result.sorting.counts.values())
    seed = result.run.get("seed")
    return Report(
        title="Harm known, harm refused",
        subtitle=f"Beliefs study of {result.identity.name}, {count:,} test prompts"
        + ("" if seed is None else f", seed {seed}"),
        summary=summary(result),
        headlines=headlines(result),
        findings=result.findings,
        foremost=FOREMOST,
        rules=dict(result.rules),
        sections=sections,
        terms=_TERMS,
        run={
            key.replace("_", " "): value
            for key, value in result.run.items()
            if isinstance(value, str | int | float | None)
        },
    )


def _limits(result: BeliefsResult) -> Section:
    return Section(
        title="What this does not show",
        text="Beliefs are read along directions that separate labelled prompts, so they are as good as the labels and "
        "the prompts: other kinds of harm, languages and wrappers need prompts of their own. A reply is judged by its "
        "opening alone; what an answer would be worth to its asker is not measured. Figures hold for this model, this "
        "chat template and this thinking mode." + "".join(f"\n\n{note}" for note in result.notes),
    )
