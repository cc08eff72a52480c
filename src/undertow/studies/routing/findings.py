"""The study's findings: each claim with its value, interval, n, control, reference and computed verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from undertow.measure.finding import Claim
from undertow.measure.judging import Judging
from undertow.measure.statistics import Estimate, difference_of_proportions
from undertow.studies.routing.circuit import LEAST_BASELINE
from undertow.studies.routing.claims import FOREMOST, REFERENCES, STUDY
from undertow.studies.routing.readings import Head
from undertow.studies.routing.result import DoseCurve, RoutingResult

BUILT_GATES = 0.95
BUILT_AMPLIFIERS = 0.9
BUILT_FALSE = 0.05
EARLY = 2 / 3
UNCHANGED = -0.1
EXACT = 1e-4
ROUNDED = 0.05
CHANCE = 0.5
LEAST_REFUSED = 0.5


def findings_of(result: RoutingResult) -> RoutingResult:
    """The result with its findings and the rules of their verdicts; parts that were skipped leave none."""
    judging = Judging(STUDY, REFERENCES)
    for part in (_circuit, _bands, _ablation, _modulation, _commitment, _ciphers, _comparison, _built):
        part(result, judging)
    return replace(result, findings=judging.ordered(FOREMOST), rules=judging.rules)


def routed(result: RoutingResult) -> tuple[bool, str]:
    """Whether the model parts the two sides at all, and what to say where it does not: then no claim is judged."""
    screening, refused = result.screenings[0], result.pairs.refused["sensitive"].value
    apart = "nats" not in screening.readout or screening.baseline.value >= LEAST_BASELINE
    if apart and refused >= LEAST_REFUSED and screening.baseline.value > 0:
        return True, ""
    return False, " Not judged, since the model hardly parts the two sides."


def plain(value: float, n: int) -> Estimate:
    """A number without an interval, judged by its value."""
    return Estimate(value, math.nan, math.nan, n)


def _name(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def _circuit(result: RoutingResult, judging: Judging) -> None:
    circuit, screening = result.circuit, result.screenings[0]
    n = result.pairs.report
    routes, idle = routed(result)
    judging.add(
        "gates",
        f"Heads that the stated rule calls gates, of {circuit.heads} screened (count); the chance that any is named "
        f"where there is none is at most 5 %.{idle}",
        plain(len(circuit.gates), n),
        Claim(above=0, on="value") if routes else None,
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
        words = f"Head {_name(row.head)}, the one of largest necessity on the choose pairs"
        rule = Claim(above=0.0) if routes else None
        judging.add(
            "top_head.necessity",
            f"{words}: share of the refusal log-odds between the sides that goes when it is given the control's output "
            f"at t_post. Control: a donor of its own class.{idle}",
            row.necessity_share,
            rule,
            row.necessity_control,
        )
        judging.add(
            "top_head.sufficiency",
            f"{words}: share of the refusal log-odds between the sides that comes when a control is given the "
            f"sensitive prompt's output there. Control: a donor of its own class.{idle}",
            row.sufficiency_share,
            rule,
            row.sufficiency_control,
        )
        judging.add(
            "top_head.indirect",
            f"{words}: share of its necessity that its own attribution does not explain; most of it means that it acts "
            f"through later parts.{idle}",
            row.indirect_share,
            Claim(above=0.5) if routes else None,
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
        Claim(below=ROUNDED if result.run.get("dtype") in ("bfloat16", "float16") else EXACT, on="value"),
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
    routes, idle = routed(result)
    judging.add(
        "band.gain",
        f"Joint necessity of the {len(steps)} heads of the band over that of its best head. Control: random heads of "
        f"the same blocks.{idle}",
        last.gain,
        Claim(above=1.0) if routes else None,
        last.random / single.value if single.value else None,
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
    if single is None:
        return
    routes, idle = routed(result)
    judging.add(
        "ablation.single_head_change",
        f"Change of the share of sensitive prompts refused when head {_name(single[1][0])} is zeroed ({single[0]}); "
        f"fewer than 10 points lost counts as no change.{idle}",
        _less(single[2], result.pairs.refused["sensitive"]),
        Claim(above=UNCHANGED) if routes else None,
    )


def _modulation(result: RoutingResult, judging: Judging) -> None:
    modulation = result.modulation
    if modulation is None:
        return
    curves = {(one.prompts, one.direction, one.group): one for one in modulation.curves}
    routes, idle = routed(result)
    for prompts, name, words in (
        ("sensitive", "attenuation", "subtracted from sensitive prompts: refusals lost"),
        ("control", "amplification", "added to controls: refusals gained"),
    ):
        found, random = curves.get((prompts, "detection", "all")), curves.get((prompts, "random", "all"))
        if found is None or random is None:
            continue
        place = dose_within(found.doses, modulation.detection.value)
        judging.add(
            f"modulation.{name}",
            f"Detection signal of state {modulation.state} {words} at dose {found.doses[place]:g}, the largest tried "
            f"that does not exceed what parts the sides ({modulation.detection.value:.2f} residual norms), against a "
            f"random direction (difference of shares). Control: the random direction's change.{idle}",
            _difference(found, random, place, prompts == "sensitive"),
            Claim(above=0.0) if routes else None,
            float(random.refusal[0] - random.refusal[place]) * (1 if prompts == "sensitive" else -1),
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


def dose_within(doses: Sequence[float], most: float) -> int:
    """Place of the largest dose that is not above `most`; the first above 0 where none is."""
    return max([1, *(place for place, dose in enumerate(doses) if dose <= most)])


def _difference(found: DoseCurve, random: DoseCurve, place: int, fewer: bool) -> Estimate:
    """Difference of the shares refused at one dose; the same prompts, so that Newcombe's interval is too wide."""
    shares = [Estimate(float(one.refusal[place]), 0.0, 1.0, one.n) for one in (found, random)]
    return _less(*(reversed(shares) if fewer else shares))


def _less(first: Estimate, second: Estimate) -> Estimate:
    """first - second, of shares of the same prompts; Newcombe's interval, for independent ones, is rather wide."""
    counts = [round(one.value * one.n) for one in (first, second)]
    return difference_of_proportions(counts[0], first.n, counts[1], second.n)._replace(n=min(first.n, second.n))


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
    behind = [one for one in commitment.curves if one.toward == "answer" and one.donor == "pair"]
    used = next((one for name in ("earlier", "t_inst") for one in behind if one.position == name), None)
    tokens = "t_inst" if used is not None and used.position == "t_inst" else "the tokens before t_post"
    judging.add(
        "commitment.last",
        f"Last state at which exchanging {tokens} still flips half of the replies (share of the depth).",
        plain(last / layers, used.n) if last is not None and layers and used is not None else None,
        Claim(below=EARLY, inclusive=True, on="value"),
        n=0 if used is None else used.n,
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
    names = ", ".join(_name(one.head) for one in ciphers.heads)
    gated = bool(result.circuit.gates)
    # The claims are about gates; what stands in for them is measured and not judged.
    whose = f"Gates {names}" if gated else f"No gate was found; heads of largest necessity ({names}), not judged"
    judged = reads and gated
    published = None
    if ciphers.heads:
        bare = sum(one.plain.value for one in ciphers.heads)
        published = 1 - sum(one.published.value for one in ciphers.heads) / bare if bare else None
    judging.add(
        "cipher.collapse",
        f"{whose}: 1 - necessity under the cipher over plain necessity, with donors in the same form. Control: the "
        f"published donor, a plain control.{unread}",
        ciphers.collapse,
        Claim(above=0.5) if judged else None,
        published,
    )
    rescue = {one.injected: one for one in ciphers.rescue}
    nothing, gate = rescue.get("nothing"), rescue.get("gate, plain sensitive")
    if nothing is not None and gate is not None:
        random = rescue.get("random heads, plain sensitive")
        judging.add(
            "cipher.rescue",
            f"{whose}: refusals of ciphered sensitive prompts that come with their plain activation (difference of "
            f"shares). Control: random heads.{unread}",
            _less(gate.refused, nothing.refused),
            Claim(above=0.0) if judged else None,
            None if random is None else random.refused.value - nothing.refused.value,
        )


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
