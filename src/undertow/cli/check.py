"""`undertow check`: what of a model is covered, proven by arithmetic, and where its positions lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from undertow.cli.output import figure, literal, print_json, show, visible

if TYPE_CHECKING:
    from rich.table import Table

    from undertow.model import ChatModel, Rendered

app = typer.Typer(add_completion=False)

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


@app.command()
def check(
    model: ModelArgument,
    show_positions: Annotated[
        str | None,
        typer.Option("--show-positions", metavar="TEXT", help="Show this prompt's tokens with the positions marked."),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message before that prompt.")] = None,
    thinking: ThinkingOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Say what of a model is covered and what is not, and prove it: exit code 1 where a check fails.

    With --show-positions the checks are left out and one prompt's tokens are shown instead.
    """
    if system is not None and show_positions is None:
        raise typer.BadParameter("it goes with --show-positions", param_hint="--system")
    chat = open_model(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, thinking=thinking
    )
    if show_positions is not None:
        _positions(chat, show_positions, system, json)
        return
    from undertow.measure.conformance import conformance

    checks = conformance(chat, seed=seed)
    failed = any(one.status == "failed" for one in checks)
    if json:
        print_json(
            {
                "model": chat.name,
                "dtype": str(chat.dtype).removeprefix("torch."),
                "device": str(chat.device),
                "fingerprint": chat.identity.fingerprint,
                "coverage": _coverage(chat),
                "notes": _notes(chat),
                "checks": [one.to_dict() for one in checks],
                "passed": not failed,
            }
        )
    else:
        _show_coverage(chat)
        _show_checks(chat, checks)
    if failed:
        raise typer.Exit(1)


def _coverage(chat: ChatModel) -> dict[str, Any]:
    anatomy = chat.anatomy
    return {
        "architecture": type(chat.model).__name__,
        "model_type": chat.model.config.model_type,
        "blocks": chat.layers,
        "states": chat.layers + 1,
        "width": chat.width,
        "context": chat.context,
        "attention_blocks": sum(part is not None for part in anatomy.attentions),
        "mlp_blocks": sum(part is not None for part in anatomy.mlps),
        "head_blocks": sum(heads > 0 for heads in anatomy.heads),
        "additive_blocks": sum(part is not None for part in anatomy.additive),
        "heads": anatomy.heads,
        "head_sizes": anatomy.head_sizes,
        "final_norm": anatomy.final_norm is not None,
        "unembedding": anatomy.unembedding is not None,
        "thinking_switch": _has_thinking_switch(chat),
        "replay": chat.replay_method,
    }


def _notes(chat: ChatModel) -> list[str]:
    return [*chat.anatomy.notes, *chat.decoding_for(0).notes()]


def _has_thinking_switch(chat: ChatModel) -> bool:
    from undertow.errors import UndertowError
    from undertow.model.positions import Renderer

    try:
        Renderer(chat.tokenizer, thinking=True)
    except UndertowError:
        return False
    return True


def _show_coverage(chat: ChatModel) -> None:
    from rich.table import Table

    anatomy, found = chat.anatomy, _coverage(chat)
    table = Table(title=literal(f"{chat.name} ({found['architecture']})"), title_justify="left")
    for heading in ("part", "found", "what can be read and written there"):
        table.add_column(heading)
    blocks, layers = chat.anatomy.blocks, chat.layers
    context = "no stated limit" if chat.context is None else f"{chat.context} tokens"
    table.add_row("blocks", f"{layers} x {type(blocks[0]).__name__}", f"states 0 to {layers}, width {chat.width}")
    for name, parts in (("attention", anatomy.attentions), ("MLP", anatomy.mlps)):
        kinds = sorted({type(part).__name__ for part in parts if part is not None})
        count = sum(part is not None for part in parts)
        table.add_row(name, f"{count} of {layers}: {', '.join(kinds) or 'none'}", f"output of {count} blocks")
    sizes = sorted({(heads, size) for heads, size in zip(anatomy.heads, anatomy.head_sizes, strict=True) if heads})
    shapes = ", ".join(f"{heads} of size {size}" for heads, size in sizes) or "none"
    table.add_row("heads", f"{found['head_blocks']} of {layers}: {shapes}", literal("each head's slice z[l, h]"))
    sums = found["additive_blocks"]
    table.add_row("sums", f"{sums} of {layers}", "what each part adds to the stream, for direct logit attribution")
    table.add_row("final norm", _kind(anatomy.final_norm), f"state {layers} is taken before it")
    table.add_row("unembedding", _kind(anatomy.unembedding), "logits at chosen tokens only")
    switch = "yes" if found["thinking_switch"] else "no"
    table.add_row("chat template", f"thinking switch: {switch}", f"prompts of up to {context}")
    table.add_row("replay", found["replay"], "edits of the last tokens, in one pass")
    show(table)
    for note in _notes(chat):
        show(literal(f"Not covered: {note}.", "yellow"))
    if not _notes(chat):
        show("Everything that Undertow reads or writes was found.")


def _kind(module: Any) -> str:
    return "none" if module is None else type(module).__name__


def _show_checks(chat: ChatModel, checks: list[Any]) -> None:
    from rich.table import Table

    dtype = str(chat.anatomy.dtype).removeprefix("torch.")
    table = Table(title=f"Checks in {dtype} on {chat.device} (largest relative difference)", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("allowed", justify="right", no_wrap=True)
    table.add_column("what was compared")
    for one in checks:
        table.add_row(
            one.name,
            literal(one.status, _STYLES[one.status]),
            figure(one.figure),
            figure(one.tolerance),
            literal(one.detail),
        )
    show(table)


def _positions(chat: ChatModel, text: str, system: str | None, json: bool) -> None:
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    rendered = chat.render(messages)
    rows = [
        {
            "index": index,
            "from_end": index - len(rendered),
            "id": token,
            "text": rendered.text[slice(*rendered.offsets[index])],
            "span": _span(rendered, index),
            "mark": _mark(rendered, index),
        }
        for index, token in enumerate(rendered.ids)
    ]
    if json:
        print_json(
            {
                "model": chat.name,
                "text": rendered.text,
                "t_inst": rendered.t_inst,
                "t_post": rendered.t_post,
                "instruction": [rendered.instruction.start, rendered.instruction.stop],
                "tail": [rendered.tail.start, rendered.tail.stop],
                "tokens": rows,
            }
        )
        return
    show(_positions_table(chat, rendered, rows))


def _span(rendered: Rendered, index: int) -> str:
    if index in rendered.instruction:
        return "instruction"
    return "tail" if index in rendered.tail else "before"


def _mark(rendered: Rendered, index: int) -> str:
    return "t_inst" if index == rendered.t_inst else "t_post" if index == rendered.t_post else ""


def _positions_table(chat: ChatModel, rendered: Rendered, rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    title = f"{chat.name}: {len(rendered)} tokens, t_inst = {rendered.t_inst}, t_post = {rendered.t_post}"
    table = Table(title=literal(title), title_justify="left")
    for heading, side in (("index", "right"), ("from end", "right"), ("id", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for heading in ("token", "span", "position"):
        table.add_column(heading)
    styles = {"before": "dim", "instruction": "cyan", "tail": "magenta"}
    for row in rows:
        style = styles[row["span"]]
        shown = visible(repr(row["text"])[1:-1])
        table.add_row(
            str(row["index"]),
            str(row["from_end"]),
            str(row["id"]),
            literal(f"|{shown}|", style),
            literal("" if row["span"] == "before" else row["span"], style),
            literal(f"<-- {row['mark']}" if row["mark"] else "", "bold"),
        )
    return table
