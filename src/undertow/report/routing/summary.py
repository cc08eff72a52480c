"""The first minute of the page: which heads route, how sure that is, what did not hold."""

from __future__ import annotations

from undertow.measure.finding import Finding
from undertow.measure.statistics import Estimate
from undertow.report.html import Headline
from undertow.report.routing.acting import crossed
from undertow.report.routing.ciphers import unread
from undertow.report.routing.circuit import circuit_sentence
from undertow.report.routing.common import finite, head_name, heads_named, listed, measure_of, number_text, share_text
from undertow.report.tables import Cell, Table, interval, percent, percent_interval, written
from undertow.studies.routing.claims import CLAIMS, STUDY
from undertow.studies.routing.result import RoutingResult

PARTS = {
    "screening": "a screening",
    "bands": "bands",
    "ablation": "ablation",
    "modulation": "modulation",
    "commitment": "early commitment",
    "ciphers": "ciphers",
    "comparison": "a second model",
    "built": "built circuits",
}
_TONES = {"reproduced": "good", "not reproduced": "bad"}
_MARKS = {"reproduced": "\u2713", "not reproduced": "\u2717", "not tested": "\u25cb"}


def summary(result: RoutingResult) -> str:
    """A few paragraphs for a reader who reads nothing else."""
    parts = [_model(result), _circuit(result), _acting(result), _truth(result), _verdicts(result)]
    return "\n\n".join(part for part in parts if part)


def _model(result: RoutingResult) -> str:
    pairs = result.pairs
    refused = ", ".join(
        f"{share_text(found)} of the {'sensitive prompts' if side == 'sensitive' else 'controls'}"
        for side, found in pairs.refused.items()
    )
    return (
        f"{result.identity.name} was read on {pairs.choose} pairs for choosing and {pairs.report} others for every "
        f"figure." + (f" Without intervention it refuses {refused}." if refused else "")
    )


def _circuit(result: RoutingResult) -> str:
    sentences = [circuit_sentence(result.circuit)]
    first = result.screenings[0] if result.screenings else None
    # Attribution and roles are in logits; the screening may be read otherwise.
    for row in result.circuit.notable:
        if row.role == "gate" and first is not None:
            sentences.append(
                f"Exchanging head {head_name(row.head)} alone takes away {number_text(row.necessity)} nats, "
                f"{percent(row.share)} of what parts the two sides; its own attribution is "
                f"{number_text(row.attribution)}, rank {row.attribution_rank} of {result.circuit.heads}."
            )
    if not result.circuit.gates and first is not None:
        measure, unit = measure_of(first.readout)
        sentences.append(f"The {measure} parts the two sides by {number_text(first.baseline)} {unit}.")
    if result.bands is not None and result.bands.band:
        sentences.append(f"The band found greedily: {heads_named(result.bands.band)}.")
    return " ".join(sentences)


def _acting(result: RoutingResult) -> str:
    sentences = []
    if result.modulation is not None:
        sentences.append(crossed(result.modulation))
    if result.ciphers is not None and finite(result.ciphers.collapse) is not None:
        sentences.append(
            f"Under the cipher {share_text(result.ciphers.drop)} of the detection signal is gone, and necessity falls "
            f"by {share_text(result.ciphers.collapse)}."
        )
        sentences.append(unread(result.ciphers))
    return " ".join(filter(None, sentences))


def _truth(result: RoutingResult) -> str:
    built = result.built
    ours = None if built is None else next((one for one in built.scores if one.method == "screening"), None)
    if built is None or ours is None:
        return ""
    false = f" and names one in {share_text(ours.false_gate)} of those without" if ours.false_gate is not None else ""
    return (
        f"Where the circuit is known, the rule finds {share_text(ours.gate_recall)} of the gates with a precision of "
        f"{share_text(ours.gate_precision)} in {built.builds} built models{false}."
    )


def _verdicts(result: RoutingResult) -> str:
    verdicts = [one.verdict for one in result.findings]
    judged = len(verdicts) - verdicts.count("not tested")
    sentences = []
    if judged:
        sentences.append(f"Of {judged} findings that a rule judges, {verdicts.count('reproduced')} were reproduced.")
    # A part counts once, although its screenings are named one by one.
    skipped = list(dict.fromkeys(name.split(",")[0] for name in result.skipped))
    if skipped:
        names = listed(PARTS.get(name, name.replace("_", " ")) for name in skipped)
        sentences.append(f"Not measured, in whole or in part: {names}; the reason stands in each part.")
    return " ".join(sentences)


def headlines(result: RoutingResult) -> list[Headline]:
    """The few numbers that carry the summary; tones are verdicts of findings."""
    circuit = result.circuit
    found = [
        Headline(
            str(len(circuit.gates)),
            "gate" if len(circuit.gates) == 1 else "gates",
            f"of {circuit.heads} heads, n = {result.pairs.report} pairs",
            _tone(result, "gates"),
        ),
        Headline(
            str(len(circuit.amplifiers)),
            "amplifier" if len(circuit.amplifiers) == 1 else "amplifiers",
            "later heads that fall with the gates" if circuit.gates else "none without a gate",
            _tone(result, "amplifiers"),
        ),
    ]
    ciphers = result.ciphers
    if ciphers is not None and (known := finite(ciphers.collapse)) is not None:
        found.append(_share(result, known, "of necessity is gone under the cipher", "cipher.collapse"))
    ours = None if result.built is None else next((one for one in result.built.scores if not one.knows_count), None)
    if ours is not None and (known := finite(ours.gate_recall)) is not None:
        found.append(_share(result, known, "of built gates are found", "built.gate_recall"))
    return found


def claims_table(result: RoutingResult) -> list[Table]:
    """What the paper claims, each with what came out; empty where nothing was judged."""
    known = {one.id: one for one in result.findings}
    rows = [(claim, known.get(f"{STUDY}.{name}")) for claim, name in CLAIMS]
    if not any(one for _, one in rows):
        return []
    return [
        Table(
            ("The paper claims", "Measured", "n", "Verdict"),
            tuple((claim, _value(one), one.n if one else None, _verdict(one)) for claim, one in rows),
            numeric=(1, 2),
            caption="The paper's claims, each with the finding that bears on it most directly. What was not measured "
            "is not judged.",
        )
    ]


def _value(one: Finding | None) -> Cell:
    if one is None or one.value is None:
        return Cell("\u2013")
    return Cell(written(one.value), note="" if one.low is None else interval(one.low, one.high))


def _verdict(one: Finding | None) -> Cell:
    if one is None:
        return Cell("\u25cb not measured", tone="open")
    return Cell(f"{_MARKS[one.verdict]} {one.verdict}", tone=_TONES.get(one.verdict, "open"), note=one.id)


def _share(result: RoutingResult, found: Estimate, label: str, finding: str) -> Headline:
    note = f"{percent_interval(found.low, found.high)}, n = {found.n}"
    return Headline(percent(found.value), label, note, _tone(result, finding))


def _tone(result: RoutingResult, name: str) -> str:
    return next((_TONES.get(one.verdict, "") for one in result.findings if one.id == f"{STUDY}.{name}"), "")
