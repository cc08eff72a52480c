"""The study's findings: each claim with its value, interval, n, control, reference and computed verdict."""

from __future__ import annotations

import math
from dataclasses import replace

from undertow.measure.finding import Claim
from undertow.measure.judging import Judging
from undertow.measure.statistics import Estimate, difference_of_proportions
from undertow.studies.routing.claims import FOREMOST, REFERENCES, STUDY
from undertow.studies.routing.readings import Head
from undertow.studies.routing.result import DoseCurve, RoutingResult

BUILT_GATES = 0.95
BUILT_AMPLIFIERS = 0.9
BUILT_FALSE = 0.05
EARLY = 2 / 3
UNCHANGED = 0.9
EXACT = 1e-4
CHANCE = 0.5


def findings_of(result: RoutingResult) -> RoutingResult:
    """The result with its findings and the rules of their verdicts; parts that were skipped leave none."""
    judging = Judging(STUDY, REFERENCES)
    for part in (_circuit, _bands, _ablation, _modulation, _commitment, _ciphers, _comparison, _built):
        part(result, judging)
    return replace(result, findings=judging.ordered(FOREMOST), rules=judging.rules)


def scaled(found: Estimate, factor: float) -> Estimate:
    """The estimate times a number."""
    low, high = sorted((found.low * factor, found.high * factor))
    return Estimate(found.value * factor, low, high, found.n)


def plain(value: float, n: int) -> Estimate:
    """A number without an interval, judged by its value."""
    return Estimate(value, math.nan, math.nan, n)


def _name(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def _circuit(result: RoutingResult, judging: Judging) -> None:
    circuit, screening = result.circuit, result.screenings[0]
    n = result.pairs.report
    judging.add(
        "gates",
        f"Heads that the stated rule calls gates, of {circuit.heads} screened, family-wise 5 % (count). Control: gates "
        "expected by chance, at most.",
        plain(len(circuit.gates), n),
        Claim(above=0, on="value"),
        0.05,
    )
    judging.add(
        "amplifiers",
        "Later heads whose attribution falls when the gates are knocked out (count).",
        plain(len(circuit.amplifiers), n) if circuit.gates else None,
        Claim(above=0, on="value"),
        n=n,
    )
    for side, words in (("sensitive", "sensitive prompts"), ("control", "controls")):
        judging.add(
            f"refused.{side}", f"Share of the {words} that the model refuses.", result.pairs.refused[side], None
        )
    judging.add(
        "baseline",
        f"{screening.readout}: sensitive minus control.",
        screening.baseline,
        None,
    )
    if circuit.rows:
        row = circuit.rows[0]
        factor = 1 / screening.baseline.value if screening.baseline.value else math.nan
        place = screening.necessity.heads.index(row.head)
        words = f"Head {_name(row.head)}, the one of largest necessity on the choose pairs"
        judging.add(
            "top_head.necessity",
            f"{words}: share of the baseline that goes when it is given the control's output at t_post. Control: a "
            "donor of its own class.",
            scaled(screening.necessity.of(row.head), factor),
            Claim(above=0.0),
            float(screening.necessity.control[place]) * factor,
        )
        judging.add(
            "top_head.sufficiency",
            f"{words}: share of the baseline that comes when a control is given the sensitive prompt's output there. "
            "Control: a donor of its own class.",
            scaled(screening.sufficiency.of(row.head), factor),
            Claim(above=0.0),
            float(screening.sufficiency.control[place]) * factor,
        )
        own = row.necessity.value
        judging.add(
            "top_head.indirect",
            f"{words}: share of its necessity that its own attribution does not explain; most of it means that it acts "
            "through later parts.",
            scaled(row.indirect, 1 / own) if own else None,
            Claim(above=0.5),
        )
    judging.add(
        "attribution.heads",
        "Share of the attributed difference between the sides that heads carry; MLPs carry the rest.",
        circuit.attention_share,
        None,
    )
    judging.add(
        "attribution.residue",
        "Largest difference between the sum of the attributed parts and the logits, relative to the largest logit.",
        plain(circuit.residue, n),
        Claim(below=EXACT, on="value"),
    )


def _bands(result: RoutingResult, judging: Judging) -> None:
    bands = result.bands
    if bands is None:
        return
    steps = [step for step in bands.steps if step.chosen]
    if len(steps) < 2:
        judging.add("band.gain", "Joint necessity of the band over that of its best head.", None, Claim(above=1.0))
        return
    single, last = steps[0].necessity, steps[-1]
    judging.add(
        "band.gain",
        f"Joint necessity of the {len(steps)} heads of the band over that of its best head. Control: random heads of "
        "the same blocks.",
        scaled(last.necessity, 1 / single.value),
        Claim(above=1.0),
        last.random / single.value,
    )
    judging.add(
        "band.refused",
        "Share of the sensitive prompts still refused when the whole band is given the control's outputs at t_post. "
        "Control: share refused without intervention.",
        last.refused,
        None,
        result.pairs.refused["sensitive"].value,
    )


def _ablation(result: RoutingResult, judging: Judging) -> None:
    ablation = result.ablation
    if ablation is None:
        return
    for name, found in ablation.rank_correlation.items():
        judging.add(
            f"ablation.{name.replace(' ', '_')}.rank_correlation",
            f"Rank correlation over heads of {name} with interchange.",
            found,
            None,
        )
    single = next(
        (row for row in ablation.behaviour if len(row[1]) == 1 and "zero" in row[0] and "random" not in row[0]), None
    )
    if single is not None:
        judging.add(
            "ablation.single_head_refused",
            f"Share of the sensitive prompts still refused after {single[0]} of head {_name(single[1][0])}. Control: "
            "without intervention.",
            single[2],
            Claim(above=UNCHANGED),
            result.pairs.refused["sensitive"].value,
        )


def _modulation(result: RoutingResult, judging: Judging) -> None:
    modulation = result.modulation
    if modulation is None:
        return
    curves = {(one.prompts, one.direction, one.group): one for one in modulation.curves}
    for prompts, name, words in (
        ("sensitive", "attenuation", "subtracted from sensitive prompts: refusals lost"),
        ("control", "amplification", "added to controls: refusals gained"),
    ):
        found, random = curves.get((prompts, "detection", "all")), curves.get((prompts, "random", "all"))
        if found is None or random is None:
            continue
        judging.add(
            f"modulation.{name}",
            f"Detection signal {words} at dose {found.doses[-1]:g} against a random direction (difference of shares). "
            "Control: the random direction's change.",
            _difference(found, random, prompts == "sensitive"),
            Claim(above=0.0),
            float(random.refusal[0] - random.refusal[-1]) * (1 if prompts == "sensitive" else -1),
        )
    for curve in modulation.curves:
        if curve.prompts != "sensitive" or curve.direction != "detection":
            continue
        if curve.group != "all" and curve.group not in result.pairs.languages:
            continue
        judging.add(
            f"modulation.threshold.{curve.group}",
            f"Dose at which half of the sensitive prompts ({curve.group}) are no longer refused, in residual norms.",
            curve.threshold,
            None,
        )


def _difference(found: DoseCurve, random: DoseCurve, fewer: bool) -> Estimate:
    """Difference of the shares refused at the largest dose, Newcombe's interval."""
    counts = [round(float(one.refusal[-1]) * one.n) for one in (found, random)]
    first, second = (
        ((counts[1], random.n), (counts[0], found.n)) if fewer else ((counts[0], found.n), (counts[1], random.n))
    )
    return difference_of_proportions(*first, *second)


def _commitment(result: RoutingResult, judging: Judging) -> None:
    commitment = result.commitment
    if commitment is None:
        return
    layers = max((len(curve.flipped) - 1 for curve in commitment.curves), default=0)
    first, last = commitment.first.get("answer"), commitment.last.get("answer")
    judging.add(
        "commitment.first",
        "First state from which the control's state at t_post makes the model answer (share of the depth).",
        plain(first / layers, commitment.n) if first is not None and layers else None,
        None,
        n=commitment.n,
    )
    judging.add(
        "commitment.last",
        "Last state at which exchanging the tokens before t_post still flips half of the replies (share of the depth).",
        plain(last / layers, commitment.n) if last is not None and layers else None,
        Claim(below=EARLY, inclusive=True, on="value"),
        n=commitment.n,
    )


def _ciphers(result: RoutingResult, judging: Judging) -> None:
    ciphers = result.ciphers
    if ciphers is None:
        return
    by_condition = {one.condition: one for one in ciphers.readings}
    read, plain_read = by_condition.get("cipher"), by_condition.get("plain")
    if read is not None:
        judging.add(
            "cipher.read",
            "Share of the ciphered prompts whose harm the model tells right when asked. Control: plain prompts.",
            read.judged,
            Claim(above=CHANCE),
            None if plain_read is None else plain_read.judged.value,
        )
        judging.add(
            "cipher.refused",
            "Share of the ciphered sensitive prompts that are refused. Control: plain.",
            read.refused,
            None,
            None if plain_read is None else plain_read.refused.value,
        )
    # Of a cipher that the model does not read, an effect says nothing about routing.
    reads = read is not None and read.judged.low > CHANCE
    unread = "" if reads else " Not judged, since the model does not read the cipher."
    judging.add(
        "cipher.detection_drop",
        f"Share of the detection signal at t_inst that is gone under the cipher, at its plain peak.{unread}",
        ciphers.drop,
        Claim(above=0.0) if reads else None,
    )
    published = None
    if ciphers.heads:
        bare = sum(one.plain.value for one in ciphers.heads)
        published = 1 - sum(one.published.value for one in ciphers.heads) / bare if bare else None
    judging.add(
        "cipher.collapse",
        "1 - necessity under the cipher over plain necessity, with donors in the same form. Control: the published "
        f"donor, a plain control.{unread}",
        ciphers.collapse,
        Claim(above=0.5) if reads else None,
        published,
    )
    rescue = {one.injected: one for one in ciphers.rescue}
    nothing, gate = rescue.get("nothing"), rescue.get("gate, plain sensitive")
    if nothing is not None and gate is not None:
        random = rescue.get("random heads, plain sensitive")
        judging.add(
            "cipher.rescue",
            "Refusals of ciphered sensitive prompts that come with the plain gate activation (difference of shares). "
            f"Control: random heads.{unread}",
            _more(gate.refused, nothing.refused),
            Claim(above=0.0) if reads else None,
            None if random is None else random.refused.value - nothing.refused.value,
        )


def _more(first: Estimate, second: Estimate) -> Estimate:
    return difference_of_proportions(round(first.value * first.n), first.n, round(second.value * second.n), second.n)


def _comparison(result: RoutingResult, judging: Judging) -> None:
    comparison = result.comparison
    if comparison is None:
        return
    one, other = comparison.models
    judging.add(
        "comparison.jaccard",
        f"Overlap (Jaccard) of the {comparison.top} heads of largest necessity in {one} and {other}. Control: chance.",
        comparison.jaccard,
        Claim(above=comparison.chance),
        comparison.chance,
    )
    judging.add(
        "comparison.correlation",
        f"Rank correlation over heads of necessity in {one} and {other}.",
        comparison.correlation,
        Claim(above=0.0),
    )


def _built(result: RoutingResult, judging: Judging) -> None:
    built = result.built
    if built is None:
        return
    scores = {one.method: one for one in built.scores}
    ours, ranked = scores["screening"], scores.get("attribution")
    roles = (
        ("gate_recall", "Share of the built gates that are named", BUILT_GATES),
        ("gate_precision", "Share of the named gates that were built", BUILT_GATES),
        ("amplifier_recall", "Share of the built amplifiers that are named", BUILT_AMPLIFIERS),
        ("amplifier_precision", "Share of the named amplifiers that were built", BUILT_AMPLIFIERS),
    )
    for role, words, least in roles:
        judging.add(
            f"built.{role}",
            f"{words}, over {built.builds} builds. Control: ranking by attribution, told how many there are.",
            getattr(ours, role),
            Claim(above=least, inclusive=True, on="value"),
            None if ranked is None else getattr(ranked, role).value,
        )
    if ours.false_gate is not None:
        judging.add(
            "built.false_gate_rate",
            f"Share of the {built.without_gate} builds without a gate in which one is named.",
            ours.false_gate,
            Claim(below=BUILT_FALSE, inclusive=True, on="value"),
        )
    for method, words_of in (("attribution", "|attribution|"), ("ablation", "mean ablation")):
        if method not in scores:
            continue
        for role, words, _ in roles:
            judging.add(
                f"built.{method}.{role}",
                f"{words}, by ranking heads by {words_of} and telling it how many gates and amplifiers there are.",
                getattr(scores[method], role),
                None,
            )
