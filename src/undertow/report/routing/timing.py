"""Part 8 of the page: from which state on the decision is fixed."""

from __future__ import annotations

from collections.abc import Mapping

from undertow.report.figures import Figure
from undertow.report.html import Section
from undertow.report.routing.common import missing, reasons
from undertow.report.routing.plots import Line, lines
from undertow.report.tables import Table
from undertow.studies.routing.result import Commitment, CommitmentCurve, RoutingResult

COMMITMENT = "When the decision is fixed"
_TOWARD = {"answer": "Sensitive prompts, given the control's states", "refusal": "Controls, given the sensitive states"}


def commitment_section(result: RoutingResult) -> Section:
    """Part 8: whole states exchanged, position by position."""
    found = result.commitment
    if found is None:
        return Section(title=COMMITMENT, skipped=missing(result, "commitment"))
    return Section(
        title=COMMITMENT,
        text="The whole state at one position was exchanged for that of the other side of the pair, at one state after "
        f"the other, and the reply was judged. Only pairs that the model tells apart count ({found.n}). "
        + _outcome(found),
        figures=_curves(found),
        tables=[_table(found)] if found.first or found.last else [],
        control="Grey: a donor of the recipient's own class at the same position and state, which should flip nothing.",
        how_to_read="At t_post the curve is low before the decision has arrived there and high after. At earlier "
        "tokens it is the other way round: high as long as the request can still be changed, low once t_post has read "
        "it. Where the two cross, the decision moves; after the earlier tokens' curve has fallen below one half, "
        "nothing that happens there matters any more.",
        skipped=reasons(result, "commitment"),
    )


def _outcome(found: Commitment) -> str:
    sentences = []
    for toward, words in (("answer", "an answer"), ("refusal", "a refusal")):
        first, last = found.first.get(toward), found.last.get(toward)
        sentences.append(
            f"Toward {words}: "
            + (
                f"from state {first} on the exchange of t_post flips half of the replies"
                if first is not None
                else "no exchange of t_post flips half of the replies"
            )
            + (
                f", and the last state at which earlier tokens still do is {last}."
                if last is not None
                else ", and earlier tokens do so at no state."
            )
        )
    return " ".join(sentences)


def _name(curve: CommitmentCurve) -> str:
    return f"{curve.position} ({curve.n})" if curve.donor == "pair" else f"{curve.position}, same class ({curve.n})"


def _curves(found: Commitment) -> list[Figure]:
    if not found.curves:
        return []
    flipped, readout = [], []
    for curve in found.curves:
        view = _TOWARD.get(curve.toward, curve.toward)
        states = list(range(len(curve.flipped)))
        control = curve.donor != "pair"
        flipped.append(Line(_name(curve), states, curve.flipped, curve.low, curve.high, control, view))
        readout.append(Line(_name(curve), states, curve.readout, control=control, view=view))
    return [
        lines(
            "commitment",
            "Share of replies that flip when the state at a position is exchanged, state by state; n pairs in "
            "brackets. Shaded: 95 % intervals (Clopper-Pearson). Grey: same-class donor.",
            flipped,
            across="state l",
            along="share flipped",
            share=True,
            levels=[0.5],
        ),
        lines(
            "commitment-readout",
            "Mean change of the readout under the same exchanges, as a share of the baseline; n pairs in brackets, no "
            "interval. Grey: same-class donor.",
            readout,
            across="state l",
            along="change of the readout, share",
            levels=[0.0],
        ),
    ]


def _table(found: Commitment) -> Table:
    def state(values: Mapping[str, int | None], key: str) -> int | str:
        known = values.get(key)
        return "none" if known is None else known

    keys = list(dict.fromkeys([*found.first, *found.last]))
    return Table(
        ("Toward", "First state at which t_post flips half", "Last at which earlier tokens do", "n"),
        tuple((key, state(found.first, key), state(found.last, key), found.n) for key in keys),
        numeric=(1, 2, 3),
        caption="When the decision is fixed.",
    )
