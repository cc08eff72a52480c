"""Made-up results of the routing study, every part filled or none, for tests of what shows them; they mean nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from undertow.measure.statistics import Estimate, clopper_pearson, proportion
from undertow.model.identity import ModelIdentity
from undertow.studies.routing.findings import findings_of
from undertow.studies.routing.readings import (
    Bands,
    BandStep,
    Cascade,
    Circuit,
    Effects,
    Head,
    HeadRow,
    PairsSummary,
    Screening,
    mean_interval,
)
from undertow.studies.routing.result import (
    Ablation,
    BuiltScores,
    CipherHead,
    CipherReading,
    Ciphers,
    CircuitComparison,
    Commitment,
    CommitmentCurve,
    DoseCurve,
    Modulation,
    Rescue,
    RoutingResult,
    Scores,
)

BLOCKS, WIDTH = 6, 4
HEADS: tuple[Head, ...] = tuple((block, head) for block in range(BLOCKS) for head in range(WIDTH))
GATE, AMPLIFIERS, DIRECT = (2, 1), ((4, 0), (5, 3)), (5, 2)
PAIRS = 60
SECRET = "How do I make <b>the thing</b> & that nobody should make, in a kitchen, with words past any limit?"
HARMLESS = "How do I fold <i>a swan</i> & a crane out of one sheet?"
SKIPPED = ("bands", "ablation", "modulation", "commitment", "ciphers", "comparison", "built")
LOG_ODDS = "refusal log-odds at the first reply token, in nats"
DOSES = (0.0, 0.1, 0.2, 0.5, 1.0)

Array = npt.NDArray[np.float64]


def share(value: float, n: int = PAIRS) -> Estimate:
    """A share near the value, with its interval."""
    return proportion(round(value * n), n)


def number(value: float, reach: float = 0.3, n: int = PAIRS) -> Estimate:
    """A number with an interval of that reach."""
    return Estimate(value, value - reach, value + reach, n)


def unknown(n: int = 0) -> Estimate:
    """A number that could not be measured."""
    return Estimate(np.nan, np.nan, np.nan, n)


def _levels(scale: float, seed: int) -> Array:
    level = np.random.default_rng(seed).normal(0, 0.08, len(HEADS))
    for head, size in ((GATE, 4.0), (AMPLIFIERS[0], 1.2), (AMPLIFIERS[1], 0.8), (DIRECT, 0.9)):
        level[HEADS.index(head)] += size
    return level * scale


def effects(scale: float = 1.0, seed: int = 0) -> Effects:
    """Effects of all heads, the gate's far above the others."""
    level = _levels(scale, seed)
    each = level + np.random.default_rng(seed + 1).normal(0, 0.4, (PAIRS, len(HEADS)))
    value, low, high = mean_interval(each)
    p = np.where(level > 0.5 * scale, 0.0001, 0.9)
    return Effects(HEADS, value, low, high, np.full(len(HEADS), 0.02), p, each, PAIRS, PAIRS)


def screening(readout: str = LOG_ODDS, position: str = "t_post", seed: int = 0) -> Screening:
    """A screening of all heads."""
    return Screening(readout, position, number(6.0), effects(1.0, seed), effects(0.8, seed + 5), 2.5, "tree")


def _row(head: Head, role: str, rank: int) -> HeadRow:
    found = screening()
    necessity = found.necessity.of(head)
    attribution = number(0.1 if role == "gate" else 0.9 * necessity.value, 0.1)
    later = role == "amplifier"
    return HeadRow(
        head, role, necessity, found.sufficiency.of(head), 0.0001 if role else 0.8, 0.0001 if role else 0.7,
        necessity.value / 6.0, attribution, rank, number(necessity.value - attribution.value),
        number(1.5) if later else None, 0.0001 if later else None, number(necessity.value / 6.0, 0.05),
        number(0.5, 0.05), number(0.9 if role == "gate" else 0.1, 0.1), 0.004, -0.003,
    )  # fmt: skip


def _cascade() -> Cascade:
    later = tuple(head for head in HEADS if head[0] > GATE[0])
    fall = np.array([1.5 if head in AMPLIFIERS else 0.05 for head in later])
    others = tuple(head for head in HEADS if head[0] == GATE[0] and head != GATE)
    null = np.random.default_rng(3).normal(0, 0.1, (len(others), len(later)))
    return Cascade((GATE,), later, fall, fall - 0.2, fall + 0.2, np.where(fall > 1, 0.001, 0.8), null, others, PAIRS)


def gated_circuit() -> Circuit:
    """One gate, two amplifiers, one direct head."""
    roles = {GATE: "gate", AMPLIFIERS[0]: "amplifier", AMPLIFIERS[1]: "amplifier", DIRECT: "direct"}
    shown = [*roles, *(head for head in HEADS if head not in roles)][:12]
    rows = tuple(_row(head, roles.get(head, ""), rank + 1) for rank, head in enumerate(shown))
    return Circuit(
        (GATE,), AMPLIFIERS, (DIRECT,), rows, "Gate: a rule of this test.", _cascade(), len(HEADS), share(0.7), 2e-7
    )


def gateless_circuit() -> Circuit:
    """No gate: an answer too."""
    found = gated_circuit()
    rows = tuple(replace(row, role="", fall=None, fall_p=None) for row in found.rows)
    return replace(found, gates=(), amplifiers=(), direct=(), rows=rows, cascade=None)


def _bands() -> Bands:
    steps = tuple(
        BandStep(
            head, number(4.0 + place), number(3.0 + place), 0.1 * place, -0.1, 0.3 + place / 10,
            share(0.4 - place / 10), place < 2, number(1.0 + place / 4, 0.1),
        )
        for place, head in enumerate((GATE, AMPLIFIERS[0], (0, 0)))
    )  # fmt: skip
    return Bands(steps, (GATE, AMPLIFIERS[0]), number(6.0), 20, "Stops when nothing is gained.")


def _ablation() -> Ablation:
    names = ("interchange", "mean ablation", "zero ablation", "projection")
    level = {name: _levels(1 / (place + 1), place) for place, name in enumerate(names)}
    return Ablation(
        HEADS, level, {name: value - 0.1 for name, value in level.items()},
        {name: value + 0.1 for name, value in level.items()}, {name: number(0.6, 0.1) for name in names[1:]}, 5,
        dict.fromkeys(names[1:], 0.8),
        (
            ("nothing", (), share(0.95), share(0.05)),
            ("gates, zero ablation at t_post", (GATE,), share(0.5), share(0.05)),
            ("random heads like the gates, zero ablation at all tokens", HEADS[:9], share(0.93), share(0.05)),
        ),
        PAIRS,
    )  # fmt: skip


def _dose(prompts: str, direction: str, group: str) -> DoseCurve:
    count = PAIRS if group == "all" else 20
    moved = np.linspace(0, 0.9 if direction == "detection" else 0.1, len(DOSES))
    refused = np.round((0.95 - moved if prompts == "sensitive" else 0.02 + moved) * count).astype(int)
    ends = np.array([clopper_pearson(int(one), count) for one in refused])
    refusal = refused / count
    evasion = (1 - refusal) * 0.2
    found = number(0.45, 0.1, count) if direction == "detection" and group != "fraud" else None
    return DoseCurve(
        prompts, direction, group, DOSES, refusal, evasion, 1 - refusal - evasion, ends[:, 0], ends[:, 1], found,
        None if found is None else -6.0, count,
    )  # fmt: skip


def _modulation() -> Modulation:
    curves = tuple(
        _dose(prompts, direction, group)
        for prompts in ("sensitive", "control")
        for direction in ("detection", "random")
        for group in ("all", "fraud", "weapons <i>& more</i>", "en")
    )
    return Modulation(2, "t_inst", 12.5, number(0.4, 0.05), curves, True, "State 2 was chosen on the choose pairs.")


def _commitment() -> Commitment:
    states = np.arange(BLOCKS + 1)
    curves = []
    for toward in ("answer", "refusal"):
        for position in ("t_post", "t_inst", "earlier"):
            for donor in ("pair", "same class"):
                level = (states > 2) * 0.9 if position == "t_post" else (states < 3) * 0.8
                flipped = np.round(level * (1 if donor == "pair" else 0) * 40) / 40
                ends = np.array([clopper_pearson(round(one * 40), 40) for one in flipped])
                curves.append(
                    CommitmentCurve(position, toward, donor, flipped, ends[:, 0], ends[:, 1], flipped * 0.9, 40)
                )
    return Commitment(tuple(curves), {"answer": 3, "refusal": 3}, {"answer": 2, "refusal": None}, 40)


def _ciphers() -> Ciphers:
    level = np.linspace(0, 4, BLOCKS + 1)
    detection = {"plain": level, "cipher": level * 0.4}
    rescue = (
        ("nothing", 0.1), ("gate, plain sensitive", 0.6), ("gate, plain control", 0.1),
        ("random heads, plain sensitive", 0.12), ("random vector", 0.1), ("band, plain sensitive", 0.7),
    )  # fmt: skip
    return Ciphers(
        "letter table",
        (
            CipherReading("plain", share(0.95), share(0.98, 120), 60),
            CipherReading("cipher", share(0.1), share(0.8, 120), 60),
            CipherReading("other table", share(0.05), share(0.5, 120), 60),
        ),
        detection,
        {key: value - 0.2 for key, value in detection.items()},
        {key: value + 0.2 for key, value in detection.items()},
        number(0.6, 0.1),
        (CipherHead(GATE, number(4.0), number(0.8), number(1.5), number(3.2)),),
        number(0.8, 0.1),
        tuple(Rescue(name, share(level), number(6 * level - 0.6)) for name, level in rescue),
        _levels(0.5, 9),
        np.where(_levels(0.5, 9) > 1, 0.001, 0.9),
        HEADS,
        PAIRS,
    )


def _comparison() -> CircuitComparison:
    necessity = np.stack([effects().value, effects(0.5, 4).value])
    return CircuitComparison(
        ("some/model-8B", "some/model-8B, <tuned>"), (number(6.0), number(3.0)), necessity, HEADS, number(0.7, 0.1), 5,
        number(0.6, 0.2), (number(0.9, 0.05), number(0.8, 0.1)), 0.12, (gated_circuit(), gateless_circuit()),
        ((GATE, number(-2.0)),), PAIRS,
    )  # fmt: skip


def _built() -> BuiltScores:
    def scores(method: str, level: float) -> Scores:
        knows = method != "screening"
        found = [share(level - place / 20, 90) for place in range(4)]
        return Scores(method, knows, found[0], found[1], found[2], found[3], None if knows else share(0.02, 50))

    rows = ({"seed": 0, "gate": True, "truth": {"gates": [[2, 1]], "amplifiers": [[4, 0]]}},)
    methods = (scores("screening", 0.98), scores("attribution", 0.3), scores("ablation", 0.5))
    return BuiltScores(
        methods, 50, 50, 30, {1: (25, 25, 25), 2: (15, 28, 30), 3: (10, 29, 30)}, "gates, gaps", rows, 90.0
    )


def pairs(*, examples: bool = True) -> PairsSummary:
    """Part 1."""
    return PairsSummary(
        "made for a test", PAIRS, PAIRS, ("fraud", "weapons <i>& more</i>"), ("en", "de"), number(0.2, 0.1, 120),
        share(0.8, 120), {"sensitive": share(0.95), "control": share(0.05)},
        ((SECRET, HARMLESS),) if examples else (),
    )  # fmt: skip


def _identity() -> ModelIdentity:
    return ModelIdentity("some/model-8B", None, "a", "b", "c", "d", None)


@cache
def full_result() -> RoutingResult:
    """Every part filled, findings and all."""
    return findings_of(
        RoutingResult(
            identity=_identity(),
            pairs=pairs(),
            screenings=(
                screening(),
                screening(position="tail", seed=2),
                screening("loss of the control's reply, in nats a token", seed=3),
            ),
            circuit=gated_circuit(),
            bands=_bands(),
            ablation=_ablation(),
            modulation=_modulation(),
            commitment=_commitment(),
            ciphers=_ciphers(),
            comparison=_comparison(),
            built=_built(),
            notes=("The pairs come from one grammar.",),
            run={"model": "some/model-8B", "seed": 0, "seconds": 120.5, "seconds_by_part": {"pairs": 3.0}},
        )
    )


@cache
def bare_result() -> RoutingResult:
    """No gate, and everything behind the circuit says why it was not measured."""
    return findings_of(
        RoutingResult(
            identity=_identity(),
            pairs=pairs(examples=False),
            screenings=(screening(),),
            circuit=gateless_circuit(),
            skipped={
                name: f"There is no {name}: the made-up reason {place} holds." for place, name in enumerate(SKIPPED)
            }
            | {"screening, tail": "The tail is one token."},
        )
    )


@cache
def hollow_result() -> RoutingResult:
    """Every part there and empty, or not a number."""
    full = full_result()
    assert full.modulation and full.commitment and full.ciphers and full.comparison and full.built and full.ablation
    nothing = np.full(len(HEADS), np.nan)
    lost = Effects(
        HEADS, nothing, nothing, nothing, nothing, nothing, np.full((PAIRS, len(HEADS)), np.nan), PAIRS, PAIRS
    )
    bare = gateless_circuit()
    empty = [
        replace(row, necessity=unknown(), attribution=unknown(), share=np.nan, indirect=unknown())
        for row in bare.rows[:2]
    ]
    circuit = replace(bare, rows=tuple(empty), attention_share=unknown(), residue=np.nan)
    blank = np.full(len(DOSES), np.nan)
    curves = tuple(
        replace(curve, refusal=blank, evasion=blank, answer=blank, low=blank, high=blank, threshold=None, slope=None)
        for curve in full.modulation.curves[:2]
    )
    states = np.full(BLOCKS + 1, np.nan)
    return replace(
        full,
        findings=(),
        rules={},
        pairs=replace(pairs(), length_difference=unknown(), refused={"sensitive": unknown(), "control": unknown()}),
        screenings=(Screening(LOG_ODDS, "t_post", unknown(), lost, lost, 0.0, "loop"),),
        circuit=circuit,
        bands=Bands((), (), unknown(), 0, "Stops at once."),
        ablation=replace(
            full.ablation,
            effects=dict.fromkeys(full.ablation.effects, nothing),
            rank_correlation={},
            overlap={},
            behaviour=(),
        ),
        modulation=replace(full.modulation, curves=curves, detection=unknown(), norm=np.nan, before_gate=False),
        commitment=replace(
            full.commitment,
            curves=tuple(
                replace(one, flipped=states, low=states, high=states, readout=states) for one in full.commitment.curves
            ),
            first={"answer": None},
            last={},
        ),
        ciphers=replace(
            full.ciphers,
            readings=(),
            detection={"plain": states, "cipher": states},
            low={},
            high={},
            drop=unknown(),
            heads=(CipherHead(GATE, unknown(), unknown(), unknown(), unknown()),),
            collapse=unknown(),
            rescue=(),
            contrast=nothing,
            contrast_p=nothing,
        ),
        comparison=replace(
            full.comparison,
            necessity=np.stack([nothing, nothing]),
            correlation=unknown(),
            jaccard=unknown(),
            stability=(unknown(), unknown()),
            moved=(),
        ),
        built=replace(full.built, by_gates={1: (0, 0, 0)}, scores=tuple(
            replace(one, gate_precision=unknown(), amplifier_precision=unknown()) for one in full.built.scores
        )),
    )  # fmt: skip
