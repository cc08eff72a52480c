"""Rows out of datasets on the Hugging Face Hub, streamed through `datasets`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from undertow.errors import PromptFileError
from undertow.prompts.files import Row, Table

_DATASET_ID = re.compile(
    r"(?:hub:)?(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<first>[\w.-]+))?(?::(?P<second>[\w.-]+))?"
)


def looks_like_dataset(source: str) -> bool:
    """Whether a source may be a Hub dataset: `owner/name`, `owner/name:split` or `owner/name:config:split`."""
    return _DATASET_ID.fullmatch(source) is not None


def hub_is_known() -> bool:
    """Whether the Hub's name resolves; without it, `datasets` would try again for half a minute."""
    from urllib.request import getproxies  # Slow to import, and seldom needed.

    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    if getproxies() or host is None:
        return True
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def open_dataset(source: str) -> Table:
    """Opens a Hub dataset as a stream.

    Args:
        source: `owner/name`, `owner/name:split` or `owner/name:config:split`, with or without `hub:` before it.
            The split may be left out where there is only one.

    Raises:
        PromptFileError: `datasets` is not installed, the Hub cannot be reached, there is no such dataset,
            configuration or split, or the split is not named and there are several.
    """
    match = _DATASET_ID.fullmatch(source)
    if match is None:
        raise PromptFileError(
            f"{source!r} is not the id of a Hub dataset, which looks like owner/name, owner/name:split "
            "or owner/name:config:split."
        )
    name, first, second = match["name"], match["first"], match["second"]
    config, split = (first, second) if second else (None, first)
    if not hub_is_known():
        raise PromptFileError(
            f"There is no file {source}, and the Hub dataset {name} cannot be reached because there is no network."
        )
    try:
        import datasets
    except ImportError:
        raise PromptFileError(
            f"There is no file {source}, and reading Hub datasets needs `pip install 'undertow[data]'`."
        ) from None
    try:
        loaded = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        raise PromptFileError(_cause(source, name, error)) from None
    if split is None:
        splits = list(loaded)
        if len(splits) != 1:
            raise PromptFileError(
                f"The Hub dataset {name} has the splits {', '.join(map(str, splits))}; name one, such as "
                f"{name}:{splits[0] if splits else 'train'}."
            )
        loaded = loaded[splits[0]]
    names = tuple(loaded.column_names) if loaded.column_names else None
    return Table(source, "hub", names, _rows(loaded, _class_names(loaded), source, name))


def _class_names(loaded: Any) -> dict[str, list[str]]:
    """The columns that count classes, with the classes' names: what a number means there is not for us to guess."""
    features = getattr(loaded, "features", None) or {}
    return {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}


def _rows(loaded: Any, classes: dict[str, list[str]], source: str, name: str) -> Iterator[Row]:
    number = 0
    stream = iter(loaded)
    while True:
        try:
            values = next(stream)
        except StopIteration:
            return
        except Exception as error:
            raise PromptFileError(f"Row {number + 1}: {_cause(source, name, error)}") from None
        number += 1
        named = {
            column: names[values[column]]
            for column, names in classes.items()
            if isinstance(values.get(column), int) and 0 <= values[column] < len(names)
        }
        yield Row(f"row {number}", {**values, **named})


def _cause(source: str, name: str, error: Exception) -> str:
    """One sentence for whatever `datasets` and the libraries below it raise (they share no common base class)."""
    kind = type(error).__name__
    told = " ".join(str(error).split())[:200].rstrip(".")
    if "Gated" in kind or "gated" in told:
        return f"The Hub dataset {name} is gated; accept its terms on the Hub and log in with `hf auth login`."
    if kind == "DatasetNotFoundError":
        return f"There is no file {source} and no Hub dataset {name} that can be reached ({told})."
    if isinstance(error, ConnectionError | TimeoutError | OSError) or "Offline" in kind or "Connect" in kind:
        return f"There is no file {source}, and the Hub dataset {name} cannot be reached ({kind}: {told})."
    return f"The Hub dataset {name} cannot be read ({kind}: {told})."
