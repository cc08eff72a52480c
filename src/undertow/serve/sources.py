"""A server's settings put together from a TOML file, the environment and flags, each value with where it is from."""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from undertow.serve.jobs import ServeError
from undertow.serve.settings import ServeSettings

PREFIX = "UNDERTOW_SERVE_"
KEY_VARIABLE = "UNDERTOW_API_KEY"
DEFAULT = "default"


class SettingsError(ServeError):
    """A setting is unknown, has a wrong type or value, or does not go together with another."""


@dataclass(frozen=True)
class Flag:
    """A value from the command line.

    Attributes:
        name: of the flag as typed, such as "--port".
        value: as parsed; None where the flag was not given.
    """

    name: str
    value: Any


@dataclass(frozen=True)
class Sourced:
    """Settings and where each is from.

    Attributes:
        settings: the merged settings.
        sources: dotted name of every setting -> "default", the file, the environment variable or the flag.
    """

    settings: ServeSettings
    sources: Mapping[str, str]


def read_settings(flags: Mapping[str, Flag], environment: Mapping[str, str], config: Path | None = None) -> Sourced:
    """Merge what a server is told: flags before the environment before the file before the defaults.

    Args:
        flags: dotted name of a setting ("port", "log.audit") -> its flag.
        environment: variables; those that begin with UNDERTOW_SERVE_ are settings (UNDERTOW_SERVE_LIMITS_ROWS is
            `limits.rows`, several values have commas between them), and UNDERTOW_API_KEY is `api_key`.
        config: a TOML file whose tables are those of `ServeSettings`.

    Raises:
        SettingsError: a setting is unknown, has a wrong type or value, no guard is named, or the server would listen
            to other machines without a key. The message names the setting and where it is from.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(_fields(), DEFAULT)
    layers = ([] if config is None else [_from_file(config)]) + [_from_environment(environment), _from_flags(flags)]
    for layer in layers:
        for name, value, source in layer:
            values[name], sources[name] = value, source
    if "guard" not in values:
        raise SettingsError("No guard is named; give its folder or Hub id: undertow serve GUARD.")
    settings = ServeSettings.model_validate(_nested(values))
    _check_together(settings, sources)
    return Sourced(settings, sources)


def to_toml(sourced: Sourced) -> str:
    """The settings as a TOML file that reads back to the same, with the source of each in a comment.

    The key is never written: its line is a comment, and it has to be given again.
    """
    values = _flat(sourced.settings)
    lines: list[str] = []
    table = ""
    for name, value in sorted(values.items(), key=lambda item: "." in item[0]):
        here, _, key = name.rpartition(".")
        if here != table:
            table = here
            lines += ["", f"[{table}]"]
        source = sourced.sources[name]
        if value is None:
            lines.append(f"# {key} is not set")
        elif isinstance(value, SecretStr):
            lines.append(f'# {key} = "********"  # {_comment(source)}; not printed')
        else:
            lines.append(f"{key} = {_toml(value)}  # {_comment(source)}")
    return "\n".join(lines) + "\n"


def is_loopback(host: str) -> bool:
    """Whether only the machine itself can reach a server on this host, which may be an address such as "[::1]", too."""
    try:
        return ipaddress.ip_address(without_brackets(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def without_brackets(host: str) -> str:
    """An IPv6 address as the system takes it, where it is written as in an address of the web."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_together(settings: ServeSettings, sources: Mapping[str, str]) -> None:
    limits = settings.limits
    if limits.reply_tokens_default > limits.reply_tokens:
        raise SettingsError(
            f"limits.reply_tokens_default ({limits.reply_tokens_default}, {sources['limits.reply_tokens_default']}) is "
            f"more than limits.reply_tokens ({limits.reply_tokens}, {sources['limits.reply_tokens']}); lower the one "
            "or raise the other."
        )
    if limits.judging < limits.inputs:
        raise SettingsError(
            f"limits.judging ({limits.judging}, {sources['limits.judging']}) is less than limits.inputs "
            f"({limits.inputs}, {sources['limits.inputs']}), so that a request of so many texts would never find room; "
            "raise the one or lower the other."
        )
    if settings.api_key is None and not is_loopback(settings.host):
        raise SettingsError(
            f"On {settings.host} other machines can reach the server, so it needs a key: set {KEY_VARIABLE}, or "
            "listen on 127.0.0.1."
        )


@cache
def _fields() -> dict[str, FieldInfo]:
    """Dotted name -> field of every setting that is not itself a table."""
    return dict(_walk(ServeSettings, ""))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _tables() -> set[str]:
    return {name.rpartition(".")[0] for name in _fields() if "." in name}


def _flat(settings: BaseModel) -> dict[str, Any]:
    values = {}
    for name in _fields():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = value
    return values


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[key] = value
    return nested


def _from_file(config: Path) -> list[tuple[str, Any, str]]:
    try:
        content = tomllib.loads(config.read_bytes().decode("utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings in {config} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{config} is not UTF-8 text; TOML has to be.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config} is not TOML: {error}.") from None
    return list(_of_table(content, "", str(config)))


def _of_table(table: Mapping[str, Any], prefix: str, source: str) -> Iterator[tuple[str, Any, str]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name in _tables():
            if not isinstance(value, dict):
                raise SettingsError(f"{name} in {source} must be a table, written as [{name}].")
            yield from _of_table(value, f"{name}.", source)
            continue
        if name not in _fields():
            raise SettingsError(f"There is no setting {name}, found in {source}{_meant(name, _fields())}.")
        yield name, _checked(name, value, source, strict=True), source


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    names = {PREFIX + name.replace(".", "_").upper(): name for name in _fields()}
    if KEY_VARIABLE in environment and f"{PREFIX}API_KEY" in environment:
        raise SettingsError(f"{KEY_VARIABLE} and {PREFIX}API_KEY are both set; unset one of them.")
    found = []
    for variable, text in environment.items():
        if variable != KEY_VARIABLE and not variable.startswith(PREFIX):
            continue
        name = "api_key" if variable == KEY_VARIABLE else names.get(variable)
        if name is None:
            raise SettingsError(
                f"There is no setting for the environment variable {variable}{_meant(variable, names)}."
            )
        if not text.strip():
            raise SettingsError(f"The environment variable {variable} is empty; give it a value or unset it.")
        value: Any = text
        if get_origin(_fields()[name].annotation) is tuple:
            value = [part.strip() for part in text.split(",")]
        found.append((name, _checked(name, value, f"environment variable {variable}"), f"environment {variable}"))
    return found


def _from_flags(flags: Mapping[str, Flag]) -> list[tuple[str, Any, str]]:
    return [
        (name, _checked(name, flag.value, flag.name), flag.name)
        for name, flag in flags.items()
        if flag.value is not None
    ]


def _checked(name: str, value: Any, source: str, *, strict: bool = False) -> Any:
    """The value as its field wants it.

    Args:
        name: dotted name of the setting.
        value: as found.
        source: where, for the message.
        strict: whether the value must have the right type already, as in a file, or may be text that says it.
    """
    field = _fields()[name]
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    try:
        if strict:
            # Through JSON, where a list stands for a tuple and text for a path, yet "8000" is no number.
            checked = adapter.validate_json(json.dumps(value), strict=True)
        else:
            checked = adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]["msg"]
        raise SettingsError(f"{name} in {source} is wrong: {first[:1].lower()}{first[1:]}.") from None
    except TypeError:
        raise SettingsError(f"{name} in {source} is wrong: a date or time is not what it takes.") from None
    _check_value(name, checked, source)
    return checked


def _check_value(name: str, value: Any, source: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} in {source} is wrong: it must be finite.")
    if isinstance(value, SecretStr):
        key = value.get_secret_value()
        if not (key and key.isascii() and key.isprintable() and " " not in key):
            raise SettingsError(f"{name} in {source} is wrong: a key has visible ASCII characters only.")
    if isinstance(value, str | Path):
        text = str(value)
        if not text or (isinstance(value, Path) and not value.name):
            raise SettingsError(f"{name} in {source} is wrong: it is empty.")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SettingsError(f"{name} in {source} is wrong: it is not UTF-8 text.")


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}" if close else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _comment(source: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in source)
