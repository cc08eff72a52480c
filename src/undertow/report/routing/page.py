"""The report of the routing study."""

from __future__ import annotations

from undertow.report.html import Report, Section
from undertow.report.routing.acting import ablation_section, modulation_section
from undertow.report.routing.ciphers import ciphers_section
from undertow.report.routing.circuit import bands_section, circuit_section
from undertow.report.routing.comparing import built_section, comparison_section
from undertow.report.routing.screening import pairs_section, screening_section
from undertow.report.routing.summary import claims_table, headlines, summary
from undertow.report.routing.timing import commitment_section
from undertow.report.terms import TERMS
from undertow.studies.routing.claims import FOREMOST
from undertow.studies.routing.result import RoutingResult

_TERMS: dict[str, str] = {
    **{name: TERMS[name] for name in ("t_inst", "t_post", "State l") if name in TERMS},
    "Head 3.0": "Head 0 of block 3, both counted from 0. A head's output is what it writes before the block's output "
    "projection.",
    "Interchange": "A head's output on one prompt is exchanged for the one on another prompt, all else left to run.",
    "Necessity, sufficiency": "What an interchange takes from a sensitive prompt, and what it gives to a control.",
    "Direct attribution": "What a part writes towards the logits itself, without what later parts make of it.",
    "Gate": "A head that is necessary and sufficient, and acts through later parts.",
    "Amplifier": "A later head whose attribution falls when the gates are knocked out.",
    "Baseline": "The readout of the sensitive prompts minus that of their controls: all there is to route.",
    "Family-wise p": "The chance that any head of all those tested reaches such an effect where there is none.",
    "Choose and report pairs": "Two halves without a pair in common: choices and tests on one, figures on the other.",
    "Verdict": "Reproduced or not, by the rule that stands beneath it.",
}


def routing_page(result: RoutingResult, *, show_prompts: bool = False) -> Report:
    """The report of one run: a summary, the findings with their rules, then the parts in order.

    Args:
        result: what was measured; parts that were not say why.
        show_prompts: whether sensitive prompts are shown whole; by default they are truncated.

    Raises:
        ReportError: plotly is missing.
    """
    claims = claims_table(result)
    first = [Section(title="What the paper claims", tables=claims)] if claims else []
    seed = result.run.get("seed")
    return Report(
        title="Where a refusal is routed",
        subtitle=f"Routing study of {result.identity.name}, {result.pairs.report:,} report pairs"
        + ("" if seed is None else f", seed {seed}"),
        summary=summary(result),
        headlines=headlines(result),
        findings=result.findings,
        foremost=FOREMOST,
        rules=dict(result.rules),
        sections=[
            *first,
            pairs_section(result, show_prompts),
            screening_section(result),
            circuit_section(result),
            bands_section(result),
            ablation_section(result),
            modulation_section(result),
            commitment_section(result),
            ciphers_section(result),
            comparison_section(result),
            built_section(result),
            _limits(result),
        ],
        terms=_TERMS,
        run={
            key.replace("_", " "): value
            for key, value in result.run.items()
            if isinstance(value, str | int | float | None)
        },
    )


def _limits(result: RoutingResult) -> Section:
    return Section(
        title="What this does not show",
        text="Gates are named by a rule with stated thresholds, on these pairs, at the position stated; other pairs, "
        "readouts or positions may name others. Attribution is exact in logits, but a head's part in a later head's "
        "attention is not in it. Replies are judged by their opening. Figures hold for this model, this chat template "
        "and this thinking mode." + "".join(f"\n\n{note}" for note in result.notes),
    )
