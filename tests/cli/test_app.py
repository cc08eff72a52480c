from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import pytest
import typer

from tests.cli.conftest import Run
from undertow import __version__
from undertow.cli.app import COMMANDS

HEAVY = ("torch", "transformers", "sklearn", "numpy", "rich", "pydantic")

PRESENT = [name for name, entry in COMMANDS.items() if find_spec(entry.module) is not None]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_command(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    for name, entry in COMMANDS.items():
        assert any(line.split()[:1] == [name] and entry.summary in line for line in outcome.out.splitlines())


def test_no_command_prints_the_help(run: Run) -> None:
    assert run().out == run("--help").out


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version").out == f"undertow {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom undertow.cli import main\nsys.argv = ['undertow', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert python("-c", script).stdout.splitlines()[-1] == "[]"


def test_help_is_there_at_once() -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert python("-m", "undertow", "--help").returncode == 0
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3


@pytest.mark.parametrize("name", PRESENT)
def test_help_of_a_command_comes_without_torch(name: str) -> None:
    script = (
        f"import sys\nfrom undertow.cli import main\nsys.argv = ['undertow', {name!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\nassert 'torch' not in sys.modules"
    )
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


@pytest.mark.parametrize("name", PRESENT)
def test_every_module_has_an_app_and_json(name: str, run: Run) -> None:
    assert isinstance(import_module(COMMANDS[name].module).app, typer.Typer)
    if name not in ("organism", "serve", "study"):
        assert "--json" in run(name, "--help").out


def test_a_real_process_says_one_sentence_and_ends_with_2() -> None:
    done = python("-m", "undertow", "check", "organism:mildred")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("undertow: There is no built-in organism 'mildred'") and done.stderr.count("\n") == 1


def test_an_interrupt_ends_with_130_and_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("undertow.cli.check.open_model", interrupt)
    outcome = run("check", "any")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "undertow: Interrupted.\n")


def test_an_error_of_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **keywords: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("undertow.cli.check.open_model", broken)
    with pytest.raises(ZeroDivisionError):
        run("check", "any")
