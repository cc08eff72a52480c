"""The gradient-based suffix search: a sentence, a figure and two tables within the part on jailbreaks."""

from __future__ import annotations

from undertow.report.cells import bars_of, number_cell, number_text, share_cell, share_text
from undertow.report.figures import Figure
from undertow.report.intervals import interval_dots
from undertow.report.tables import Table, truncated, written
from undertow.studies.beliefs.suffix_search import CONDITIONS, SuffixSearch

_TITLES = {"bare": "Bare", "random": "A random suffix (control)", "searched": "The suffix found"}


def suffix_text(found: SuffixSearch) -> str:
    """What was searched, with what, and what came out."""
    return (
        f"A gradient-based search ({found.library} {found.version}, {found.steps} rounds of {found.width} candidates, "
        f"suffixes of {found.tokens} tokens) looked for text behind {len(found.trials)} requests that makes the reply "
        f"open with the model's own `{found.target}`, in {found.seconds:.0f} s. Refused: "
        + ", ".join(f"{_titled(name).lower()} {share_text(found.refused.get(name))}" for name in CONDITIONS)
        + f". Against a random suffix of the same length it changes the belief of refusal by "
        f"{number_text(found.refusal_shift.get('random'))} and the belief of harmfulness by "
        f"{number_text(found.harmfulness_shift.get('random'))}; with the suffixes found "
        f"{share_text(found.believed_answered)} are believed harmful and yet answered. The library's own loss and "
        f"that of the rendered prompt differ by at most {written(found.disagreement)} nats."
    )


def suffix_figure(found: SuffixSearch) -> list[Figure]:
    """Shifts of both beliefs, against the bare request and against a random suffix."""
    bars = bars_of(
        (f"against {'the bare request' if base == 'bare' else 'a random suffix'}", shifts.get(base), belief, True)
        for base in ("bare", "random")
        for belief, shifts in (("harmfulness", found.harmfulness_shift), ("refusal", found.refusal_shift))
    )
    if not bars:
        return []
    return [
        interval_dots("suffix-shifts", bars, axis="change of the belief by a found suffix", share=False, reference=0.0)
    ]


def suffix_tables(found: SuffixSearch, show_prompts: bool) -> list[Table]:
    """Every condition; then every prompt, folded."""
    conditions = Table(
        ("Condition", "Refused", "Belief of harmfulness", "Belief of refusal"),
        tuple(
            (
                _titled(name),
                share_cell(found.refused.get(name)),
                number_cell(found.harmfulness.get(name)),
                number_cell(found.refusal.get(name)),
            )
            for name in CONDITIONS
        ),
        numeric=(1, 2, 3),
        caption="The suffix search.",
    )
    trials = Table(
        ("Request", *(f"Loss: {_titled(name).lower()}" for name in CONDITIONS), "Refused with it"),
        tuple(
            (
                truncated(trial.prompt.text, show=show_prompts),
                *(written(trial.loss.get(name)) for name in CONDITIONS),
                trial.refused.get(CONDITIONS[-1]),
            )
            for trial in found.trials
        ),
        numeric=tuple(range(1, 1 + len(CONDITIONS))),
        caption="Mean cross-entropy of the opening sought, in nats, for every request.",
        folded=True,
    )
    return [conditions, trials]


def _titled(name: str) -> str:
    return _TITLES.get(name, name[:1].upper() + name[1:])
