"""Ground truth: circuits built by hand, found by our rule, by attribution ranking and by ablation ranking.

The rule runs exactly as on any other model and is told nothing. The two rankings are told how many gates and how many
amplifiers there are: of that many top heads the earliest are called gates, the others amplifiers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import Estimate, clopper_pearson, proportion
from undertow.progress import progress_bar
from undertow.studies.routing.circuit import Measured, circuit_of_choose, ratio_of_means
from undertow.studies.routing.context import LEAST_PAIRS, Context, prepare
from undertow.studies.routing.readings import Array, Head
from undertow.studies.routing.result import BuiltScores, Scores

if TYPE_CHECKING:
    from undertow.organism.built import Spec

METHODS = ("screening", "attribution", "ablation")
PAIRS = 30
PERMUTATIONS = 4_000
REPLY_TOKENS = 6
DRAWN = (
    "half of the builds have 1 gate, the others 2 to 4; 2 to 4 amplifiers; 4 to 12 distractors; a gap of 4 to 8 nats; "
    "builds without a gate refuse directly or not at all, in turns"
)


def draw_spec(seed: int, *, gate: bool) -> Spec:
    """What build number `seed` is made of; the same seed gives the same build."""
    from undertow.organism.built import Spec

    generator = random.Random(f"{seed}:{gate}")
    return Spec(
        seed=seed,
        gates=generator.choice((1, 1, 1, 2, 3, 4)),
        amplifiers=generator.randint(2, 4),
        distractors=generator.randint(4, 12),
        gap=generator.uniform(4.0, 8.0),
        policy="gate" if gate else ("direct", "none")[seed % 2],
    )


def measure_built(
    builds: int = 50, *, seed: int = 0, pairs: int = PAIRS, workers: int | None = None, progress: bool = True
) -> BuiltScores:
    """Build so many circuits with a gate and as many without, search each, and count.

    Args:
        builds: builds of each kind.
        seed: of the first build; the others follow.
        pairs: pairs that each search is given.
        workers: processes; one a processor when left out. The result does not depend on it.
        progress: whether a bar is shown.

    Raises:
        UndertowError: fewer than 2 builds.
    """
    if builds < 2:
        raise UndertowError(f"{builds} builds give no rate: ask for at least 2.")
    begun = time.perf_counter()
    wanted = [(seed + number, gate) for gate in (True, False) for number in range(builds)]
    rows: list[Mapping[str, Any]] = []
    with progress_bar(len(wanted), "Built circuits", enabled=progress) as advance:
        for row in _each(wanted, pairs, workers):
            rows.append(row)
            advance(1)
    rows.sort(key=lambda row: (not row["gate"], row["seed"]))
    with_gate = [row for row in rows if row["gate"]]
    by_gates: dict[int, tuple[int, int, int]] = {}
    for row in with_gate:
        count = len(row["truth"]["gates"])
        there, found, all_of_them = by_gates.get(count, (0, 0, 0))
        hits = len(_heads(row["screening"]["gates"]) & _heads(row["truth"]["gates"]))
        by_gates[count] = (there + 1, found + hits, all_of_them + count)
    return BuiltScores(
        tuple(score(method, rows, seed) for method in METHODS),
        builds,
        builds,
        pairs,
        dict(sorted(by_gates.items())),
        DRAWN,
        tuple(rows),
        time.perf_counter() - begun,
    )


def _each(wanted: Sequence[tuple[int, bool]], pairs: int, workers: int | None) -> Iterator[Mapping[str, Any]]:
    from joblib import Parallel, cpu_count, delayed, parallel_config

    workers = workers or cpu_count()
    if workers <= 1 or len(wanted) < 8:
        for one, gate in wanted:
            yield search_build(one, gate, pairs)
        return
    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=workers, return_as="generator_unordered")(
            delayed(search_build)(one, gate, pairs) for one, gate in wanted
        )


def search_build(seed: int, gate: bool, pairs: int = PAIRS) -> Mapping[str, Any]:
    """Build one circuit and search it: seed, truth, what each method names, and how the build behaves. Plain JSON."""
    from undertow.organism.built import build, built_pairs

    spec = draw_spec(seed, gate=gate)
    built = build(spec)
    drawn = built_pairs(spec, pairs + LEAST_PAIRS, seed)
    context = prepare(
        built.chat(),
        drawn,
        halves=(drawn[:pairs], drawn[pairs:]),
        seed=seed,
        permutations=PERMUTATIONS,
        reply_tokens=REPLY_TOKENS,
        # Small models spend more on calls than on numbers, so many branches go together.
        branches=2048,
        refusal_tokens=("Sorry",),
        answer_tokens=("Sure",),
    )
    measured, gates, amplifiers = circuit_of_choose(context)
    truth = built.circuit
    counts = (len(truth.gates), len(truth.amplifiers))
    ranked = {
        "attribution": np.abs(measured.attribution["choose"].mean(0)),
        "ablation": np.abs(mean_ablation(context, measured).mean(0)),
    }
    choose = context.choose
    return {
        "seed": seed,
        "gate": gate,
        "spec": spec.to_dict(),
        "truth": {"gates": _plain(truth.gates), "amplifiers": _plain(truth.amplifiers)},
        "screening": {"gates": _plain(gates), "amplifiers": _plain(amplifiers)},
        **{name: _by_rank(measured.heads, scores, *counts) for name, scores in ranked.items()},
        "refused": {
            "sensitive": float(choose.sensitive.refused.mean()),
            "control": float(choose.control.refused.mean()),
        },
    }


def mean_ablation(context: Context, measured: Measured) -> Array:
    """(n, H) fall of the readout on sensitive choose prompts when a head is set to its mean over all choose prompts."""
    from undertow.model import Replace

    half = context.choose
    branches: list[list[Replace]] = [[]]
    for block, head in measured.heads:
        values = [half.heads[side][block][:, head] for side in ("sensitive", "control")]
        mean = (values[0].mean(0) + values[1].mean(0)) / 2
        branches.append([Replace(mean, head=(block, head), span="t_post")])
    found = context.read(half, "sensitive", branches)
    return np.asarray(found[:, :1] - found[:, 1:])


def score(method: str, rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Scores:
    """One method's row of the table, from the rows of all builds."""
    with_gate = [row for row in rows if row["gate"]]
    without = [row for row in rows if not row["gate"]]

    def pooled(role: str, over: str) -> Estimate:
        hits = [len(_heads(row[method][role]) & _heads(row["truth"][role])) for row in with_gate]
        total = [len(_heads(row[method if over == "found" else "truth"][role])) for row in with_gate]
        found = ratio_of_means(np.array(hits, dtype=float), np.array(total, dtype=float), seed)
        if found.value not in (0.0, 1.0):
            return found
        # All builds alike resample to themselves; the share of builds without a miss bounds it all the same.
        counted = sum(count > 0 for count in total)
        return Estimate(found.value, *clopper_pearson(round(found.value * counted), counted), found.n)

    named = sum(bool(row[method]["gates"]) for row in without)
    return Scores(
        method,
        method != "screening",
        pooled("gates", "truth"),
        pooled("gates", "found"),
        pooled("amplifiers", "truth"),
        pooled("amplifiers", "found"),
        proportion(named, len(without)) if method == "screening" and without else None,
    )


def _by_rank(heads: Sequence[Head], scores: Array, gates: int, amplifiers: int) -> dict[str, list[list[int]]]:
    top = sorted(heads[place] for place in np.argsort(-scores, kind="stable")[: gates + amplifiers])
    return {"gates": _plain(top[:gates]), "amplifiers": _plain(top[gates:])}


def _plain(heads: Sequence[Head]) -> list[list[int]]:
    return [list(head) for head in heads]


def _heads(values: Sequence[Sequence[int]]) -> set[Head]:
    return {(int(block), int(head)) for block, head in values}
