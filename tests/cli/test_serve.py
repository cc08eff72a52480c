from __future__ import annotations

import importlib.util
import os
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.cli.conftest import Run
from undertow.serve.jobs import ServeError
from undertow.serve.settings import ServeSettings


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("UNDERTOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """What the server was started with; nothing listens."""
    started: list[ServeSettings] = []
    server = ModuleType("undertow.serve.server")
    server.run = started.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "undertow.serve.server", server)
    return started


def test_flags_reach_the_server(run: Run, served: list[ServeSettings]) -> None:
    outcome = run(
        "serve", "folder", "--host", "::1", "--port", 0, "--api-key", "sesame", "--model", "other", "--force",
        "--name", "n", "--on-harmful", "steer", "--on-over-refusal", "release", "--on-unjudged", "answer",
        "--allow", "flag", "--allow", "steer", "--audit", "a.jsonl", "--log-prompts", "--log-level", "error",
        "--no-inspector", "--no-thinking", "--device", "cpu", "--dtype", "float32", "--revision", "r",
        "--trust-remote-code",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    wanted: dict[str, Any] = {
        "guard": "folder", "host": "::1", "port": 0, "api_key": "sesame", "model": "other", "force": True, "name": "n",
        "inspector": False, "thinking": False, "device": "cpu", "dtype": "float32", "revision": "r",
        "trust_remote_code": True,
        "policy": {
            "on_harmful": "steer", "on_over_refusal": "release", "on_unjudged": "answer", "allowed": ["flag", "steer"],
        },
        "log": {"audit": "a.jsonl", "prompts": True, "level": "error"},
    }  # fmt: skip
    assert served == [ServeSettings.model_validate(wanted)]


def test_no_flags_are_the_defaults(run: Run, served: list[ServeSettings]) -> None:
    assert run("serve", "folder").code == 0
    assert served == [ServeSettings(guard="folder")]


def test_a_file_and_the_environment_are_read(
    run: Run, served: list[ServeSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serve.toml").write_text('guard = "filed"\nport = 1\n[limits]\nrows = 2')
    monkeypatch.setenv("UNDERTOW_SERVE_PORT", "3")
    assert run("serve", "--config", tmp_path / "serve.toml").code == 0
    assert [(settings.guard, settings.port, settings.limits.rows) for settings in served] == [("filed", 3, 2)]


def test_the_printed_settings_start_the_same_server(run: Run, served: list[ServeSettings], tmp_path: Path) -> None:
    flags = ("--port", 9, "--allow", "flag", "--on-harmful", "flag", "--audit", tmp_path / "audit.jsonl")
    printed = run("serve", "folder", *flags, "--print-config")
    assert printed.code == 0 and served == []
    assert tomllib.loads(printed.out)["policy"]["on_harmful"] == "flag"
    (tmp_path / "serve.toml").write_text(printed.out)
    assert run("serve", "folder", *flags).code == run("serve", "--config", tmp_path / "serve.toml").code == 0
    assert served[0] == served[1]


def test_printing_needs_no_further_package_and_shows_no_key(
    run: Run, monkeypatch: pytest.MonkeyPatch, served: list[ServeSettings]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = run("serve", "folder", "--api-key", "sesame", "--print-config")
    assert outcome.code == 0 and "sesame" not in outcome.out + outcome.err
    assert "--api-key; not printed" in outcome.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "No guard is named"),
        (("folder", "--host", "0.0.0.0"), "set UNDERTOW_API_KEY"),
        (("folder", "--on-harmful", "shout"), "policy.on_harmful in --on-harmful is wrong"),
        (("folder", "--port", "70000"), "port in --port is wrong"),
        (("folder", "--config", "missing.toml"), "cannot be read"),
        (("folder", "--prot", "1"), "No such option"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    run: Run, served: list[ServeSettings], flags: tuple[str, ...], said: str
) -> None:
    outcome = run("serve", *flags)
    assert outcome.code == 2 and served == []
    assert said in outcome.err and outcome.err.count("\n") == 1
    assert outcome.err.startswith("undertow: ") and outcome.out == ""


def test_a_server_that_cannot_start_ends_with_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_server(settings: ServeSettings) -> None:
        raise ServeError("Port 8000 is taken; name another with --port.")

    server = ModuleType("undertow.serve.server")
    server.run = run_server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "undertow.serve.server", server)
    outcome = run("serve", "folder")
    assert (outcome.code, outcome.err) == (2, "undertow: Port 8000 is taken; name another with --port.\n")


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_missing_packages_are_said(
    run: Run, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    outcome = run("serve", "folder")
    assert (outcome.code, outcome.err) == (2, "undertow: Serving needs FastAPI: install undertow[serve].\n")
    assert served == []


def test_the_help_prefers_the_environment_for_the_key(run: Run) -> None:
    outcome = run("serve", "--help")
    assert outcome.code == 0 and "UNDERTOW_API_KEY" in outcome.out
