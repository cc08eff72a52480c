"""Running the routing study and writing what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import UndertowError
from undertow.measure.study_files import about_model, study_folder, write_study
from undertow.progress import progress_bar
from undertow.studies.routing.preparing import (
    Prepared,
    Settings,
    batches_of,
    context_of,
    plan_of,
    plan_of_shape,
    prepare_run,
    second_contexts,
)
from undertow.studies.routing.result import RoutingResult

if TYPE_CHECKING:
    from undertow.measure.judge import RefusalJudge
    from undertow.studies.routing.context import Context
    from undertow.studies.routing.plan import Plan
    from undertow.studies.routing.readings import Circuit

DEFAULT_MODEL = "organism:bilingual"
FEW = 30
CIPHERED_LANGUAGES = {"organism:bilingual": ("en",)}
LEAST_REFUSED, MOST_REFUSED = 0.5, 0.2

Found = Mapping[str, Any]
Measure = Callable[["Context", Found], Any]


def run_routing(
    model: Any = DEFAULT_MODEL,
    output: str | Path = "routing",
    *,
    overwrite: bool = False,
    progress: bool = True,
    page: Callable[[RoutingResult], Any] | None = None,
    announce: Callable[[Plan], None] | None = None,
    **settings: Any,
) -> RoutingResult:
    """Run the study and write `findings.json` and `report.html` into a folder, once everything is measured.

    Args:
        model: a name for `undertow.load`, or a loaded `ChatModel`.
        output: the folder.
        overwrite: whether the two files may be replaced where they exist.
        progress: whether a bar is shown on standard error.
        page: makes the report, such as `undertow.report.routing.page.routing_page`.
        announce: see `measure_routing`.
        settings: what else `measure_routing` takes.

    Raises:
        UndertowError: the output exists, or the pairs or the model do not allow the study.
    """
    target = study_folder(output, overwrite=overwrite)
    started = time.perf_counter()
    result = measure_routing(model, progress=progress, announce=announce, **settings)
    result = replace(result, run={**result.run, "seconds": round(time.perf_counter() - started, 1)})
    write_study(
        target,
        None if page is None else page(result),
        findings=result.findings,
        rules=result.rules,
        run=dict(result.run) | {"skipped": dict(result.skipped), "notes": list(result.notes)},
    )
    return result


def measure_routing(
    model: Any = DEFAULT_MODEL,
    *,
    pairs: Any = None,
    pairs_most: int | None = None,
    readout: str = "log-odds",
    refusal_tokens: Sequence[str] = (),
    answer_tokens: Sequence[str] = (),
    judge: RefusalJudge | str | None = None,
    cipher: Any = "default",
    compare_with: Any = None,
    builds: int | None = None,
    seed: int = 0,
    reply_tokens: int = 16,
    branches: int | None = None,
    memory: float | None = None,
    permutations: int = 10_000,
    progress: bool = True,
    announce: Callable[[Plan], None] | None = None,
) -> RoutingResult:
    """Measure every part and write nothing; a part that is impossible is named in `skipped` with its reason.

    Args:
        model: a name for `undertow.load`, or a loaded `ChatModel`.
        pairs: a `PairSet` or a file; a built-in organism's own pairs when left out.
        pairs_most: most pairs; drawn at random where there are more.
        readout: "log-odds", "control-loss" or "projection".
        refusal_tokens, answer_tokens: openings for the log-odds, both or neither; the model's own when left out.
        judge: the judge of refusals, or its name.
        cipher: see `material.cipher_of`.
        compare_with: a second model, or its name; for `organism:bilingual` its ancestor when left out.
        builds: how many built circuits are screened; 50 for organisms and 0 for other models when left out.
        seed: of the split, the controls and the resampling.
        reply_tokens: tokens of a judged reply.
        branches: most branches of replay in one pass.
        memory: bytes; chooses the branches and the size of batches instead, see `plan.budgets_for`.
        permutations: sign flips of a test.
        progress: whether a bar is shown on standard error.
        announce: called with the plan before anything is run, where the model has more than 1e9 parameters.

    Raises:
        UndertowError: the pairs or the model do not allow the study, or its screening or circuit is impossible.
    """
    asked = Settings(
        pairs, pairs_most, readout, tuple(refusal_tokens), tuple(answer_tokens), judge, cipher, compare_with, builds,
        seed, reply_tokens, branches, memory, permutations,
    )  # fmt: skip
    from torch import OutOfMemoryError

    from undertow.measure.attribution import LogitAttribution

    begun = time.perf_counter()
    ready = prepare_run(model, asked)
    # What the circuit needs is refused before anything is measured.
    LogitAttribution(ready.chat)
    chosen, skipped = parts(ready)
    if announce is not None and is_large(ready):
        announce(plan_of(ready, ["prepare", *chosen]))
    clock: dict[str, float] = {}
    found: dict[str, Any] = {}
    with progress_bar(len(chosen) + 1, "Routing study", enabled=progress) as advance, batches_of(ready):
        context = context_of(ready)
        clock["replies and states"] = time.perf_counter() - begun
        advance(1)
        for name, measure in chosen.items():
            begun = time.perf_counter()
            try:
                found[name] = measure(context, found)
            except UndertowError as error:
                if name in ("pairs", "screening", "circuit"):
                    raise
                skipped[name] = str(error)
            except OutOfMemoryError:
                if name in ("pairs", "screening", "circuit"):
                    raise UndertowError(f"The device ran out of memory in {name!r}: lower --branches.") from None
                skipped[name] = "The device ran out of memory: lower --branches or --memory."
            clock[name] = time.perf_counter() - begun
            advance(1)
    from undertow.studies.routing.findings import findings_of

    screenings = tuple(found.pop(name) for name in list(found) if name.startswith("screening"))
    return findings_of(
        RoutingResult(
            identity=context.chat.identity,
            screenings=screenings,
            **found,
            skipped=skipped,
            notes=notes(context, found["circuit"]),
            run=about(context, ready, clock),
        )
    )


def plan_routing(model: Any = DEFAULT_MODEL, *, flops: float | None = None, **settings: Any) -> list[Plan]:
    """What the study would cost: on this model here, and on models of 8B and 72B; nothing is measured.

    Args:
        model: a name for `undertow.load`, or a loaded `ChatModel`.
        flops: operations a second to reckon with; by default measured with a few passes, and assumed for 8B and 72B.
        settings: what `measure_routing` takes.

    Raises:
        UndertowError: see `measure_routing`.
    """
    from undertow.studies.routing.sizes import SHAPES

    ready = prepare_run(model, Settings(**settings))
    chosen = ["prepare", *parts(ready)[0]]
    others = [plan_of_shape(ready, shape, chosen, flops=flops) for shape in SHAPES]
    return [plan_of(ready, chosen, flops=flops), *others]


def is_large(ready: Prepared) -> bool:
    """Whether the model is so large that its cost is to be shown before it is run."""
    from undertow.studies.routing.plan import LARGE
    from undertow.studies.routing.sizes import ModelShape

    return ModelShape.of(ready.chat).parameters > LARGE


def parts(ready: Prepared) -> tuple[dict[str, Measure], dict[str, str]]:
    """Name of each part -> what measures it, in order, given what was found before; and why others are left out."""
    from undertow.studies.routing.ablation import measure_ablation
    from undertow.studies.routing.bands import measure_bands
    from undertow.studies.routing.circuit import measure_circuit
    from undertow.studies.routing.commitment import measure_commitment
    from undertow.studies.routing.context import readout_named
    from undertow.studies.routing.material import summarise_pairs
    from undertow.studies.routing.modulation import measure_modulation
    from undertow.studies.routing.readouts import READOUTS
    from undertow.studies.routing.screening import measure_screening, notable_heads

    def with_readout(name: str) -> Measure:
        def measure(context: Context, found: Found) -> Any:
            other = readout_named(name, context.chat, context.choose, context.report, context.openings)
            return measure_screening(context, readout=other)

        return measure

    chosen: dict[str, Measure] = {
        "pairs": lambda context, found: summarise_pairs(context),
        "screening": lambda context, found: measure_screening(context),
        "screening, tail": lambda context, found: measure_screening(context, "tail"),
    }
    chosen |= {f"screening, {name}": with_readout(name) for name in READOUTS if name != ready.settings.readout}
    chosen |= {
        "circuit": lambda context, found: measure_circuit(context),
        "screening, full span": lambda context, found: measure_screening(
            context, "full span", heads=notable_heads(context, found["circuit"])
        ),
        "bands": lambda context, found: measure_bands(context, found["screening"]),
        "ablation": lambda context, found: measure_ablation(
            context, found["screening"], found["circuit"], found.get("bands")
        ),
        "modulation": lambda context, found: measure_modulation(context, found["circuit"]),
        "commitment": lambda context, found: measure_commitment(context),
    }
    skipped = {}
    if ready.cipher is not None:
        chosen["ciphers"] = _ciphers(*ready.cipher)
    else:
        skipped["ciphers"] = "No cipher was asked for: give --cipher default or a JSON file with a table."
    if ready.second is not None:
        chosen["comparison"] = _comparison(ready)
    else:
        skipped["comparison"] = "There is no second model: name one with --compare-with."
    if ready.builds:
        chosen["built"] = _built(ready)
    else:
        skipped["built"] = "No built circuits were asked for: give their number with --builds."
    return chosen, skipped


def _ciphers(cipher: Any, name: str) -> Measure:
    def measure(context: Context, found: Found) -> Any:
        from undertow.studies.routing.ciphers import measure_ciphers

        return measure_ciphers(
            context,
            found["circuit"],
            found.get("bands"),
            cipher,
            name=name,
            languages=CIPHERED_LANGUAGES.get(context.chat.name),
        )

    return measure


def _comparison(ready: Prepared) -> Measure:
    def measure(context: Context, found: Found) -> Any:
        from undertow.studies.routing.circuit import measure_circuit
        from undertow.studies.routing.comparison import compare_circuits
        from undertow.studies.routing.screening import measure_screening

        assert ready.second is not None
        first, second = second_contexts(ready, ready.second, context)
        sides = [
            (one, found["screening"], found["circuit"])
            if one is context
            else (one, measure_screening(one), measure_circuit(one))
            for one in (first, second)
        ]
        return compare_circuits(sides[0], sides[1])

    return measure


def _built(ready: Prepared) -> Measure:
    def measure(context: Context, found: Found) -> Any:
        from undertow.studies.routing.built import measure_built

        return measure_built(builds=ready.builds, seed=ready.settings.seed, progress=False)

    return measure


def notes(context: Context, circuit: Circuit | None) -> tuple[str, ...]:
    """What limits the figures, a sentence each."""
    found = []
    report = context.report
    if context.chat.thinking:
        found.append("Prompts are rendered with thinking on, so the first reply token opens the reasoning.")
    if context.openings_source.startswith("published"):
        found.append("The model's replies do not tell refusals from answers, so the log-odds use published openings.")
    refused = {side: float(report.side(side).refused.mean()) for side in ("sensitive", "control")}
    if refused["sensitive"] < LEAST_REFUSED:
        found.append(f"Only {refused['sensitive']:.0%} of the sensitive report prompts are refused.")
    if refused["control"] > MOST_REFUSED:
        found.append(f"{refused['control']:.0%} of the control report prompts are refused.")
    if len(report) < FEW:
        found.append(f"There are only {len(report)} report pairs: all figures are rough.")
    if context.chat.replay_method != "tree":
        found.append(
            f"This model takes no tree of branches, so replay ran by {context.chat.replay_method!r} and took longer."
        )
    if circuit is not None and not circuit.gates:
        found.append(
            "No gate was found, so what rests on gates was measured on the heads of largest necessity or left out."
        )
    return tuple(found)


def about(context: Context, ready: Prepared, clock: Mapping[str, float]) -> dict[str, Any]:
    """Metadata of the run."""
    return about_model(context.chat) | {
        "pairs": ready.pairs.source,
        "choose_pairs": len(context.choose),
        "report_pairs": len(context.report),
        "readout": context.readout.name,
        "openings": context.openings_source,
        "judge": context.judge.name,
        "cipher": None if ready.cipher is None else ready.cipher[1],
        "compared_with": None if ready.second is None else ready.second.name,
        "builds": ready.builds,
        "seed": context.seed,
        "permutations": context.permutations,
        "branches": context.branches,
        "memory": ready.settings.memory,
        "replay": context.chat.replay_method,
        "seconds_by_part": {name: round(seconds, 1) for name, seconds in clock.items()},
    }
