"""The frame of the command line: the table of commands, and how failures end.

Exit codes: 0 done; 1 done, and the answer is no (a check failed); 2 the input is wrong, said in one sentence on
standard error; 130 interrupted.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from undertow import __version__
from undertow.cli.failures import interrupted, report


class Entry(NamedTuple):
    """A command: the module whose `app` it is, and its line in `undertow --help`."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "demo": Entry("undertow.cli.demo", "Everything on the built-in organism, with a report."),
    "check": Entry("undertow.cli.check", "What of a model is covered, proven by arithmetic."),
    "fit": Entry("undertow.cli.fit", "Fit and calibrate a Latent Guard on a chat model."),
    "scan": Entry("undertow.cli.scan", "Score a corpus of prompts with a guard; resumable."),
    "serve": Entry("undertow.cli.serve", "Guarded chat and moderations over HTTP, and an inspector page."),
    "export": Entry("undertow.cli.export", "Turn a guard into a classifier for vLLM, or a control vector."),
    "steer": Entry("undertow.cli.steer", "One prompt, one direction, replies side by side."),
    "compare": Entry("undertow.cli.compare", "What finetuning did to the beliefs; gates a release."),
    "study": Entry("undertow.cli.study", "Run a published study on a model: beliefs, routing."),
    "import": Entry("undertow.cli.import_arrays", "Turn published .pt arrays into safetensors."),
    "score-states": Entry("undertow.cli.score_states", "The published rule on states, without any model."),
    "organism": Entry("undertow.cli.organism", "List, train or evaluate the built-in model organisms."),
}
"""Every command; add one here and give its module an `app`. Modules are imported only when their command runs."""


class LazyGroup(TyperGroup):
    """A group that imports a command's module when that command is invoked, and turns errors into sentences."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = get_command(import_module(entry.module).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise typer.Exit(interrupted()) from None

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            code = super().main(*arguments, **options | {"standalone_mode": False})
        except (typer.Abort, KeyboardInterrupt):
            code = interrupted()
        except Exception as error:
            code = report(error)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"undertow {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def undertow(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Read, test and steer what a chat model knows about harm underneath what it says."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
