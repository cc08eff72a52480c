"""Running the beliefs study and writing what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import UndertowError
from undertow.measure.study_files import about_model, study_folder, write_study
from undertow.progress import progress_bar
from undertow.studies.beliefs.result import BeliefsResult

if TYPE_CHECKING:
    from undertow.measure.judge import RefusalJudge
    from undertow.measure.moderator import Moderator
    from undertow.studies.beliefs.context import Context
    from undertow.studies.beliefs.material import Material

DEFAULT_MODEL = "organism:aligned"


def run_beliefs(
    model: Any = DEFAULT_MODEL,
    output: str | Path = "beliefs",
    *,
    harmful: Any = None,
    harmless: Any = None,
    jailbreaks: Any = None,
    judge: RefusalJudge | str | None = None,
    baselines: Sequence[Moderator | str] = (),
    gcg: int = 0,
    seed: int = 0,
    most: int = 200,
    reply_tokens: int = 16,
    overwrite: bool = False,
    progress: bool = True,
    page: Callable[[BeliefsResult], Any] | None = None,
) -> BeliefsResult:
    """Run the study and write `findings.json` and `report.html` into a folder, once everything is measured.

    Args:
        model: a name for `undertow.load`, or a loaded `ChatModel`.
        output: the folder.
        harmful, harmless, jailbreaks: prompts, see `Material.gather`; the built-in ones when left out.
        judge: the judge of refusals, or its name (`substring`, `classifier:ID`, `endpoint:URL#MODEL`).
        baselines: outside guards to compare with, or their names (`llama-guard:ID`, `classifier:ID`).
        gcg: for how many prompts adversarial suffixes are searched by gradient; 0 for none.
        seed: of splits, wrappers, controls and resampling.
        most: most bare prompts of each class in each half.
        reply_tokens: tokens of a judged reply.
        overwrite: whether the two files may be replaced where they exist.
        progress: whether a bar is shown on standard error.
        page: makes the report, such as `undertow.report.beliefs.page.beliefs_page`.

    Raises:
        UndertowError: the output exists, or the prompts or the model do not allow the study.
    """
    target = study_folder(output, overwrite=overwrite)
    started = time.perf_counter()
    result = measure_beliefs(
        model,
        harmful=harmful,
        harmless=harmless,
        jailbreaks=jailbreaks,
        judge=judge,
        baselines=baselines,
        gcg=gcg,
        seed=seed,
        most=most,
        reply_tokens=reply_tokens,
        progress=progress,
    )
    result = replace(result, run={**result.run, "seconds": round(time.perf_counter() - started, 1)})
    write_study(
        target,
        None if page is None else page(result),
        findings=result.findings,
        rules=result.rules,
        run=dict(result.run) | {"skipped": dict(result.skipped), "notes": list(result.notes)},
    )
    return result


def measure_beliefs(
    model: Any = DEFAULT_MODEL,
    *,
    harmful: Any = None,
    harmless: Any = None,
    jailbreaks: Any = None,
    judge: RefusalJudge | str | None = None,
    baselines: Sequence[Moderator | str] = (),
    gcg: int = 0,
    seed: int = 0,
    most: int = 200,
    reply_tokens: int = 16,
    progress: bool = True,
) -> BeliefsResult:
    """Measure all ten parts and write nothing; a part that is impossible is named in `skipped` with its reason.

    Args and errors as for `run_beliefs`.
    """
    from undertow.measure.classifier_judge import judge_named
    from undertow.measure.moderator import moderator_named
    from undertow.model import ChatModel, load
    from undertow.prompts.wrapping import STUDY_FAMILIES, wrap_any
    from undertow.studies.beliefs.material import Material, prepare

    clock: dict[str, float] = {}
    begun = time.perf_counter()
    # Everything that can be refused is refused before the model is run.
    if gcg:
        from undertow.studies.beliefs.suffix_library import check_suffix_library

        check_suffix_library()
    chosen = judge_named(judge) if isinstance(judge, str) else judge
    outside = [moderator_named(one) if isinstance(one, str) else one for one in baselines]
    material = Material.gather(
        harmful, harmless, jailbreaks, families=STUDY_FAMILIES, most=most, wrapper=wrap_any, seed=seed
    )
    chat = model if isinstance(model, ChatModel) else load(model)
    parts = _parts(outside, gcg)
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    with progress_bar(len(parts) + 1, "Beliefs study", enabled=progress) as advance:
        context = prepare(chat, material, judge=chosen, seed=seed, reply_tokens=reply_tokens, progress=False)
        clock["replies and states"] = time.perf_counter() - begun
        advance(1)
        for name, measure in parts.items():
            begun = time.perf_counter()
            try:
                found[name] = measure(context)
            except UndertowError as error:
                skipped[name] = str(error)
            clock[name] = time.perf_counter() - begun
            advance(1)
    from undertow.studies.beliefs.findings import findings_of

    if "sorting" not in found:
        raise UndertowError(skipped["sorting"])
    return findings_of(
        BeliefsResult(
            identity=chat.identity,
            **found,
            skipped=skipped,
            notes=_notes(context),
            run=_about(context, material, clock),
        )
    )


def _parts(outside: Sequence[Moderator], gcg: int) -> dict[str, Callable[[Context], Any]]:
    """Name of each part's field in the result -> what measures it, in the order of the report."""
    from undertow.studies.beliefs.attacks import measure_attacks
    from undertow.studies.beliefs.directions import measure_directions
    from undertow.studies.beliefs.guards import measure_guards
    from undertow.studies.beliefs.inversion import measure_inversion
    from undertow.studies.beliefs.jailbreaks import measure_jailbreaks
    from undertow.studies.beliefs.over_refusal import measure_over_refusal
    from undertow.studies.beliefs.separation import measure_belief_map, measure_separation
    from undertow.studies.beliefs.sorting import measure_sorting
    from undertow.studies.beliefs.sweep import measure_sweep

    def jailbreaks(context: Context) -> Any:
        from undertow.studies.beliefs.suffix_search import search_suffixes

        return measure_jailbreaks(context, suffixes=search_suffixes(context, most=gcg) if gcg else None)

    return {
        "sorting": measure_sorting,
        "separation": measure_separation,
        "belief_map": measure_belief_map,
        "directions": measure_directions,
        "sweep": measure_sweep,
        "inversion": measure_inversion,
        "jailbreaks": jailbreaks,
        "guards": lambda context: measure_guards(context, baselines=outside),
        "attacks": measure_attacks,
        "over_refusal": measure_over_refusal,
    }


def _notes(context: Context) -> tuple[str, ...]:
    found = []
    if context.openings is None:
        found.append(
            "No first token tells this model's refusals from its answers, so P(refusal) and the double dissociation "
            "were not measured."
        )
    for name, rows in (
        ("harmful prompts that the model answers", context.test.kind("accepted harmful")),
        ("harmless prompts that the model refuses", context.test.kind("refused harmless")),
    ):
        if len(rows) < 30:
            found.append(f"There are only {len(rows)} {name} among the test prompts: their figures are rough.")
    return tuple(found)


def _about(context: Context, material: Material, clock: dict[str, float]) -> dict[str, Any]:
    return about_model(context.chat) | {
        "prompts": material.source,
        "fit_prompts": len(context.fit),
        "test_prompts": len(context.test),
        "judge": context.judge.name,
        "seed": context.seed,
        "seconds_by_part": {name: round(seconds, 1) for name, seconds in clock.items()},
    }
