"""`undertow serve`: a guarded chat server with OpenAI's protocol, moderations and an inspector page."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from undertow.cli.options import RevisionOption, quiet
from undertow.errors import UndertowError

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    guard: Annotated[
        str | None, typer.Argument(metavar="GUARD", help="Folder of a guard, or its Hub id.", show_default=False)
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 by default, which needs no key.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port; 8000 by default, 0 takes a free one.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            help="Key that clients must send. Other users of the machine can read a command line: prefer the "
            "environment variable UNDERTOW_API_KEY.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model to serve; by default the guard's own.")] = None,
    force: Annotated[
        bool | None, typer.Option("--force/--no-force", help="Accept another model than the guard's own.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name that clients call the model by; its own by default.")
    ] = None,
    on_harmful: Annotated[
        str | None, typer.Option("--on-harmful", help="refuse (the default), flag or steer (toward refusal).")
    ] = None,
    on_over_refusal: Annotated[
        str | None, typer.Option("--on-over-refusal", help="keep (the default) or release (steer away from refusal).")
    ] = None,
    on_unjudged: Annotated[
        str | None, typer.Option("--on-unjudged", help="refuse (the default) or answer, where the guard cannot judge.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="What a request may choose for itself: flag, steer, release; repeatable."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option("--audit", metavar="FILE", help="Write a JSON line a verdict, without texts.")
    ] = None,
    log_prompts: Annotated[
        bool | None, typer.Option("--log-prompts/--no-log-prompts", help="Write the conversations there too.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info (the default), warning or error.")
    ] = None,
    inspector: Annotated[
        bool | None, typer.Option("--inspector/--no-inspector", help="Serve the inspector page; by default yes.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file of settings; the environment and flags override it."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings as TOML, each with where it is from, and end.")
    ] = False,
    thinking: Annotated[
        bool | None,
        typer.Option("--thinking/--no-thinking", help="Thinking mode to render prompts in; by default the guard's."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, or auto; by default the GPU if any.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="auto (the checkpoint's; the default), float32, bfloat16 or float16."),
    ] = None,
    revision: RevisionOption = None,
    trust_remote_code: Annotated[
        bool | None,
        typer.Option("--trust-remote-code/--no-trust-remote-code", help="Let code from the checkpoint run."),
    ] = None,
) -> None:
    """Serve a guarded model: chat, moderations and an inspector page.

    Settings are read from --config, then the environment (UNDERTOW_SERVE_PORT, UNDERTOW_SERVE_LIMITS_ROWS, ...), then
    flags; the later one counts. SIGTERM lets open requests finish.
    """
    from undertow.serve.sources import Flag, read_settings, to_toml

    flags = {
        "guard": Flag("GUARD", guard),
        "host": Flag("--host", host),
        "port": Flag("--port", port),
        "api_key": Flag("--api-key", api_key),
        "model": Flag("--model", model),
        "force": Flag("--force", force),
        "name": Flag("--name", name),
        "policy.on_harmful": Flag("--on-harmful", on_harmful),
        "policy.on_over_refusal": Flag("--on-over-refusal", on_over_refusal),
        "policy.on_unjudged": Flag("--on-unjudged", on_unjudged),
        "policy.allowed": Flag("--allow", allow or None),
        "log.audit": Flag("--audit", audit),
        "log.prompts": Flag("--log-prompts", log_prompts),
        "log.level": Flag("--log-level", log_level),
        "inspector": Flag("--inspector", inspector),
        "thinking": Flag("--thinking", thinking),
        "device": Flag("--device", device),
        "dtype": Flag("--dtype", dtype),
        "revision": Flag("--revision", revision),
        "trust_remote_code": Flag("--trust-remote-code", trust_remote_code),
    }
    sourced = read_settings(flags, os.environ, config)
    if print_config:
        typer.echo(to_toml(sourced), nl=False)
        return
    _require_packages()
    quiet()
    from undertow.serve.server import run

    run(sourced.settings)


def _require_packages() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client")):
        raise UndertowError("Serving needs FastAPI: install undertow[serve].")
