"""`undertow steer`: one prompt, one direction, replies side by side."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undertow.cli.guards import ForceOption, open_guard
from undertow.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelArgument,
    RevisionOption,
    SeedOption,
    ThinkingOption,
    TrustOption,
    open_model,
)
from undertow.cli.output import literal, print_json, show
from undertow.errors import EditError, GuardError, UndertowError

if TYPE_CHECKING:
    from undertow.guard import LatentGuard, Verdict
    from undertow.measure import Direction
    from undertow.model import ChatModel

app = typer.Typer(add_completion=False)


class Kind(StrEnum):
    """Which of a guard's directions to steer along."""

    harmfulness = "harmfulness"
    refusal = "refusal"


@dataclass(frozen=True)
class Plan:
    """A direction and where to add how much of it.

    Attributes:
        direction: holds the one state that is steered.
        state: that state.
        coefficient: multiplies the direction; negative where it is reversed.
        span: as in `undertow.Add`.
        source: where the direction comes from, in words.
    """

    direction: Direction
    state: int
    coefficient: float
    span: str | list[int]
    source: str


@app.command()
def steer(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The request.", show_default=False)],
    direction: Annotated[
        Path | None, typer.Option("--direction", metavar="FILE", help="A direction saved as safetensors.")
    ] = None,
    guard: Annotated[
        str | None, typer.Option("--guard", metavar="GUARD", help="A guard: its direction, and both beliefs.")
    ] = None,
    kind: Annotated[Kind, typer.Option("--kind", help="Which direction of the guard.")] = Kind.refusal,
    state: Annotated[
        int | None, typer.Option("--state", min=0, help="State to steer at; by default the guard's own choice.")
    ] = None,
    coefficient: Annotated[
        float | None, typer.Option("--coefficient", help="How much of it; by default the guard's own choice, else 1.")
    ] = None,
    span: Annotated[
        str | None,
        typer.Option(
            "--span",
            help="instruction, tail, t_inst, t_post, prompt, generated, all, or token indices such as 3,4,5; by "
            "default the instruction for a direction read at t_inst, the tail for one read at t_post.",
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Steer the other way.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="System message before the prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens of a reply.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    force: ForceOption = False,
    thinking: ThinkingOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Reply unsteered, steered, and steered along a random direction of equal norm, which is the control.

    With --guard, both beliefs are read in each of the three.
    """
    if direction is None and guard is None:
        raise UndertowError("Say what to steer along: --direction FILE, or --guard GUARD with --kind.")
    loaded = None if direction is None else _load_direction(direction)
    options: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "thinking": thinking,
    }
    opened = None if guard is None else open_guard(guard, model, force=force, **options)
    chat = open_model(model, **options) if opened is None else opened.model
    if loaded is not None:
        plan = _plan_from_file(loaded, chat, state, coefficient, force, str(direction))
    else:
        assert opened is not None
        plan = _plan_from_guard(opened, kind, state, coefficient, reverse)
    sign = -1.0 if reverse else 1.0
    plan = Plan(plan.direction, plan.state, sign * plan.coefficient, _span(span) or plan.span, plan.source)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    rows = _replies(chat, opened, plan, messages, max_new_tokens, temperature, seed)
    about = {
        "model": chat.name,
        "prompt": prompt,
        "source": plan.source,
        "kind": plan.direction.kind,
        "state": plan.state,
        "coefficient": plan.coefficient,
        "span": plan.span,
        "norm": plan.direction.norm(plan.state),
        "seed": seed,
        "warnings": [] if opened is None else list(opened.mismatches),
    }
    if json:
        print_json(about | {"replies": rows})
    else:
        _show(about, rows)


def _load_direction(path: Path) -> Direction:
    from undertow.measure import Direction

    return Direction.load(path)


def _span(text: str | None) -> str | list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    return [int(part) for part in parts] if all(part.isdecimal() for part in parts) else text


def _plan_from_file(
    direction: Direction, chat: ChatModel, state: int | None, coefficient: float | None, force: bool, source: str
) -> Plan:
    if direction.fingerprint not in (None, chat.identity.fingerprint) and not force:
        raise EditError(f"The direction in {source} was read from another model than {chat.name}; use it, or --force.")
    if state is None:
        if len(direction.states) > 1:
            raise EditError(f"The direction in {source} has {len(direction.states)} states; choose one with --state.")
        state = direction.states[0]
    span = "tail" if direction.position == "t_post" else "instruction"
    return Plan(direction.at([state]), state, 1.0 if coefficient is None else coefficient, span, source)


def _plan_from_guard(
    guard: LatentGuard, kind: Kind, state: int | None, coefficient: float | None, reverse: bool
) -> Plan:
    import torch

    from undertow.measure import Direction

    if kind is Kind.harmfulness:
        states = guard.harmfulness.rule.states
        state = states[len(states) // 2] if state is None else state
        vector, source = harmfulness_vector(guard, state)
        span, chosen = "instruction", 1.0
    else:
        steering = guard.steering
        if steering is None:
            raise GuardError("The guard holds no refusal direction; give one with --direction FILE.")
        if state not in (None, steering.state):
            raise GuardError(f"The guard's refusal direction belongs to state {steering.state}, not to state {state}.")
        state, vector, source = steering.state, torch.from_numpy(steering.direction), "the guard's steering"
        span, chosen = "tail", (steering.release if reverse else steering.refuse).coefficient
    position = "t_inst" if kind is Kind.harmfulness else "t_post"
    direction = Direction(vector[None], (state,), kind.value, position, fingerprint=guard.identity.fingerprint)
    return Plan(direction, state, chosen if coefficient is None else coefficient, span, source)


def harmfulness_vector(guard: LatentGuard, state: int) -> tuple[Any, str]:
    """The direction from harmless to harmful that a guard's rule reads at a state.

    For `centroid` it is the difference of the two centroids (arXiv 2507.11878, section 3). A probe has a normal but no
    length of its own: it is made so long that adding it once moves the guard's probability of harm from 5 % to 95 %.

    Returns:
        A float32 tensor (d_model), and where it comes from in words.

    Raises:
        GuardError: the rule reads no such state, or its probabilities do not depend on the score.
    """
    import math

    import torch

    belief = guard.harmfulness
    if state not in belief.rule.states:
        states = ", ".join(map(str, belief.rule.states))
        raise GuardError(f"The guard reads harmfulness at state {states}, so it has no direction at state {state}.")
    row, tensors = belief.rule.states.index(state), belief.rule.tensors()
    if "centroid_positive" in tensors:
        difference = tensors["centroid_positive"][row] - tensors["centroid_negative"][row]
        return torch.from_numpy(difference), "the difference of the guard's centroids"
    # The weight of `normed` stands on the normed state, which nothing can be added to.
    if not {"center", "weight"} <= set(tensors) or belief.curve.slope <= 0:
        raise GuardError(f"No direction can be taken from the guard's rule {belief.rule.name!r}.")
    weight = torch.from_numpy(tensors["weight"][row]).double()
    wanted = 2 * math.log(0.95 / 0.05) / belief.curve.slope
    return (weight / weight.square().sum() * wanted).float(), f"the guard's {belief.rule.name} rule"


def _replies(
    chat: ChatModel,
    guard: LatentGuard | None,
    plan: Plan,
    messages: list[dict[str, str]],
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[dict[str, Any]]:
    from undertow.measure.judge import SubstringJudge
    from undertow.model import Add

    edits: dict[str, list[Add]] = {"unsteered": []}
    for name, direction in (("steered", plan.direction), ("random direction", plan.direction.random_like(seed))):
        edits[name] = [Add(direction, plan.coefficient, state=plan.state, span=plan.span)]
    judge, rows = SubstringJudge(), []
    for name, chosen in edits.items():
        with chat.edit(*chosen):
            [reply] = chat.generate([messages], max_new_tokens, temperature=temperature, seed=seed)
            verdict: Verdict | None = None if guard is None else guard(messages)
        row: dict[str, Any] = {"name": name, "reply": reply, "refused": judge.refused([reply])[0]}
        if verdict is not None:
            row |= {
                "harmful": verdict.harmful,
                "harmfulness": verdict.harmfulness,
                "refusal": verdict.refusal,
                "quadrant": verdict.quadrant,
            }
        rows.append(row)
    return rows


def _show(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    what = f"{about['kind']} direction from {about['source']}, norm {about['norm']:.3g}"
    where = f"{about['coefficient']:+g} times at state {about['state']}, span {about['span']}"
    show(literal(f"{about['model']}: {what}; added {where}."), literal(f"> {about['prompt']}", "bold"))
    table = Table(show_lines=True)
    table.add_column("")
    table.add_column("reply", ratio=1)
    table.add_column("judged")
    beliefs = "quadrant" in rows[0]
    if beliefs:
        table.add_column("harmful", justify="right")
        table.add_column("refusal", justify="right")
        table.add_column("quadrant")
    for row in rows:
        cells = [row["name"], literal(row["reply"]), "refused" if row["refused"] else "answered"]
        if beliefs:
            refusal = "" if row["refusal"] is None else f"{row['refusal']:+.2f}"
            cells += [f"{row['harmful']:.2f}", refusal, row["quadrant"]]
        table.add_row(*cells)
    show(table)
    for warning in about["warnings"]:
        show(literal(warning, "yellow"))
