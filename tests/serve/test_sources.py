from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from undertow.serve.settings import ServeSettings
from undertow.serve.sources import Flag, SettingsError, is_loopback, read_settings, to_toml

GUARD = {"guard": Flag("GUARD", "folder")}


def written(folder: Path, text: str) -> Path:
    path = folder / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_go_before_the_environment_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    config = written(
        tmp_path, 'guard = "filed"\nport = 1\nhost = "localhost"\nname = "n"\n[limits]\nrows = 3\nseconds = 5'
    )
    environment = {"UNDERTOW_SERVE_PORT": "2", "UNDERTOW_SERVE_HOST": "127.0.0.2", "UNDERTOW_SERVE_LIMITS_ROWS": "4"}
    flags = {"port": Flag("--port", 3), "name": Flag("--name", None)}
    read = read_settings(flags, environment, config)
    settings = read.settings
    assert (settings.port, settings.host, settings.name, settings.guard) == (3, "127.0.0.2", "n", "filed")
    assert (settings.limits.rows, settings.limits.seconds, settings.limits.waiting) == (4, 5.0, 256)
    wanted = {
        "port": "--port",
        "host": "environment UNDERTOW_SERVE_HOST",
        "name": str(config),
        "limits.rows": "environment UNDERTOW_SERVE_LIMITS_ROWS",
        "limits.waiting": "default",
    }
    assert {name: read.sources[name] for name in wanted} == wanted


def test_without_any_source_everything_is_the_default() -> None:
    assert read_settings(GUARD, {}).settings == ServeSettings(guard="folder")


def test_every_kind_of_value_can_come_from_the_environment() -> None:
    environment = {
        "UNDERTOW_API_KEY": "sesame",
        "UNDERTOW_SERVE_FORCE": "true",
        "UNDERTOW_SERVE_THINKING": "false",
        "UNDERTOW_SERVE_POLICY_ALLOWED": "flag, steer",
        "UNDERTOW_SERVE_LOG_AUDIT": "audit.jsonl",
        "UNDERTOW_SERVE_LIMITS_WRITE_SECONDS": "2.5",
        "SOMETHING_ELSE": "1",
    }
    settings = read_settings(GUARD, environment).settings
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "sesame"
    assert settings.force is True and settings.thinking is False
    assert settings.policy.allowed == ("flag", "steer")
    assert settings.log.audit == Path("audit.jsonl")
    assert settings.limits.write_seconds == 2.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "no setting prot, found in {}; did you mean port."),
        ("[limits]\nrow = 1", "no setting limits.row, found in {}; did you mean limits.rows."),
        ("[lmits]\nrows = 1", "no setting lmits, found in {}"),
        ("limits = 3", "limits in {} must be a table"),
        ('port = "8000"', "port in {} is wrong"),
        ("port = 1.5", "port in {} is wrong"),
        ("port = true", "port in {} is wrong"),
        ("port = 70000", "port in {} is wrong"),
        ("port = 2026-01-01", "port in {} is wrong"),
        ("[limits]\nrows = 0", "limits.rows in {} is wrong"),
        ("[limits]\nseconds = inf", "limits.seconds in {} is wrong"),
        ("[limits]\nseconds = nan", "limits.seconds in {} is wrong"),
        ('[policy]\non_harmful = "ignore"', "policy.on_harmful in {} is wrong"),
        ('[policy]\nallowed = ["shout"]', "policy.allowed in {} is wrong"),
        ('[policy]\nallowed = "flag"', "policy.allowed in {} is wrong"),
        ('[log]\naudit = ""', "log.audit in {} is wrong"),
        ('api_key = ""', "api_key in {} is wrong"),
        ('api_key = "two words"', "api_key in {} is wrong"),
        ("port = ", "{} is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    config = written(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        read_settings(GUARD, {}, config)
    message = str(refused.value)
    assert said.format(config) in message
    assert message.endswith(".") and "\n" not in message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(GUARD, {}, tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_settings(GUARD, {}, tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"UNDERTOW_SERVE_LIMITS_ROW": "1"}, "did you mean UNDERTOW_SERVE_LIMITS_ROWS"),
        ({"UNDERTOW_SERVE_PORT": "tcp://10.0.0.1:80"}, "port in environment variable UNDERTOW_SERVE_PORT is wrong"),
        ({"UNDERTOW_SERVE_FORCE": "perhaps"}, "force in environment variable UNDERTOW_SERVE_FORCE is wrong"),
        ({"UNDERTOW_SERVE_LIMITS_SECONDS": "inf"}, "must be finite"),
        ({"UNDERTOW_API_KEY": ""}, "UNDERTOW_API_KEY is empty"),
        ({"UNDERTOW_API_KEY": "a", "UNDERTOW_SERVE_API_KEY": "a"}, "both set"),
        ({"UNDERTOW_SERVE_NAME": "\udc80"}, "not UTF-8"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(GUARD, environment)
    assert said in str(refused.value)


def test_a_wrong_flag_is_refused_by_name_and_the_key_is_never_repeated() -> None:
    with pytest.raises(SettingsError, match=r"policy\.on_harmful in --on-harmful is wrong"):
        read_settings(GUARD | {"policy.on_harmful": Flag("--on-harmful", "keep")}, {})
    with pytest.raises(SettingsError) as refused:
        read_settings(GUARD | {"api_key": Flag("--api-key", "open sesame")}, {})
    assert "sesame" not in str(refused.value)


def test_a_server_without_a_guard_is_refused() -> None:
    with pytest.raises(SettingsError, match="No guard is named"):
        read_settings({}, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.1.2.3", "example.org"])
def test_other_machines_need_a_key(host: str) -> None:
    assert not is_loopback(host)
    flags = GUARD | {"host": Flag("--host", host)}
    with pytest.raises(SettingsError, match="UNDERTOW_API_KEY"):
        read_settings(flags, {})
    assert read_settings(flags, {"UNDERTOW_API_KEY": "sesame"}).settings.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert read_settings(GUARD | {"host": Flag("--host", host)}, {}).settings.api_key is None


def test_limits_that_contradict_each_other_are_refused() -> None:
    environment = {"UNDERTOW_SERVE_LIMITS_REPLY_TOKENS": "10"}
    with pytest.raises(SettingsError, match=r"reply_tokens_default \(512, default\) is more than"):
        read_settings(GUARD, environment)
    environment = {"UNDERTOW_SERVE_LIMITS_JUDGING": "10", "UNDERTOW_SERVE_LIMITS_INPUTS": "11"}
    with pytest.raises(SettingsError, match=r"judging \(10, environment .*JUDGING\) is less than limits.inputs \(11, "):
        read_settings(GUARD, environment)
    environment["UNDERTOW_SERVE_LIMITS_INPUTS"] = "10"
    assert read_settings(GUARD, environment).settings.limits.inputs == 10


AWKWARD: dict[str, Any] = {
    "guard": 'C:\\guards "x"\ty',
    "name": "naïve 😀 \x7f \x01 # not a comment",
    "port": 0,
    "force": True,
    "thinking": False,
    "policy.allowed": ["flag", "release"],
    "policy.refusal_text": "No.\nNever = ever",
    "limits.seconds": 1e-5,
    "limits.write_seconds": 1e20,
    "limits.rows": 7,
    "log.audit": Path("a b/audit.jsonl"),
    "log.level": "debug",
}


def test_the_printed_settings_read_back_to_the_same(tmp_path: Path) -> None:
    sourced = read_settings({name: Flag(f"--{name}", value) for name, value in AWKWARD.items()}, {})
    config = written(tmp_path, to_toml(sourced))
    again = read_settings({}, {}, config)
    assert again.settings == sourced.settings
    plain = tomllib.loads(config.read_text(encoding="utf-8"))
    assert plain["name"] == AWKWARD["name"] and plain["limits"]["rows"] == 7
    assert to_toml(again).count(str(config)) == sum(
        line.partition(" ")[0].isidentifier() and " = " in line for line in config.read_text("utf-8").splitlines()
    )


def test_the_printed_settings_name_sources_and_hide_the_key(tmp_path: Path) -> None:
    text = to_toml(read_settings(GUARD | {"port": Flag("--port", 9)}, {"UNDERTOW_API_KEY": "sesame"}))
    assert "sesame" not in text
    lines = text.splitlines()
    assert "port = 9  # --port" in lines
    assert 'guard = "folder"  # GUARD' in lines
    assert "rows = 32  # default" in lines
    assert '# api_key = "********"  # environment UNDERTOW_API_KEY; not printed' in lines
    assert "# device is not set" in lines
    assert read_settings({}, {"UNDERTOW_API_KEY": "sesame"}, written(tmp_path, text)).settings.api_key is not None
