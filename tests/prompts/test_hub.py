from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from undertow.errors import PromptFileError
from undertow.prompts import PromptSet, hub, iterate_prompts


class ClassNames:
    """Stands in for `datasets.ClassLabel`."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Stream:
    """Stands in for `datasets.IterableDataset`."""

    def __init__(
        self, rows: list[dict[str, Any]], features: dict[str, Any] | None = None, breaks: bool = False
    ) -> None:
        self.rows, self.features, self.breaks = rows, features, breaks
        self.column_names = list(rows[0]) if rows else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.rows
        if self.breaks:
            raise ConnectionError("lost")


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A `datasets` module whose `load_dataset` the test sets."""
    module = types.ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(hub, "hub_is_known", lambda: True)
    return module


ROWS = [{"prompt": "a", "label": 0}, {"prompt": "b", "label": 1}]


@pytest.mark.parametrize(
    ("source", "config", "split"),
    [
        ("owner/name", None, None),
        ("hub:owner/name:test", None, "test"),
        ("owner/na.me-1:small:test", "small", "test"),
    ],
)
def test_ids_name_configuration_and_split(datasets: Any, source: str, config: str | None, split: str | None) -> None:
    calls = []

    def load_dataset(name: str, config: str | None, *, split: str | None, streaming: bool) -> Any:
        calls.append((name, config, split, streaming))
        return Stream(ROWS) if split else {"train": Stream(ROWS)}

    datasets.load_dataset = load_dataset
    prompts = PromptSet.read(source)
    assert calls == [(source.removeprefix("hub:").split(":")[0], config, split, True)]
    assert [(prompt.text, prompt.harmful, prompt.id) for prompt in prompts] == [("a", False, "1"), ("b", True, "2")]
    assert prompts.provenance.format == "hub"


def test_class_numbers_are_read_by_their_names(datasets: Any) -> None:
    datasets.load_dataset = lambda *_, **__: Stream(ROWS, {"label": ClassNames(["harmful", "harmless"])})
    assert [prompt.harmful for prompt in iterate_prompts("owner/name:train")] == [True, False]


def test_several_splits_must_be_settled(datasets: Any) -> None:
    datasets.load_dataset = lambda *_, **__: {"train": Stream(ROWS), "test": Stream(ROWS)}
    with pytest.raises(PromptFileError, match="splits train, test; name one, such as owner/name:train"):
        PromptSet.read("owner/name")


class DatasetNotFoundError(FileNotFoundError):
    pass


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub."), "no Hub dataset owner/name"),
        (DatasetNotFoundError("Dataset 'owner/name' is a gated dataset on the Hub."), "gated"),
        (ConnectionError("no route\nto host"), "cannot be reached"),
        (ValueError("Unknown split 'x'"), "cannot be read (ValueError: Unknown split 'x')"),
    ],
)
def test_what_the_library_raises_becomes_one_sentence(datasets: Any, raised: Exception, named: str) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise raised

    datasets.load_dataset = load_dataset
    with pytest.raises(PromptFileError) as error:
        PromptSet.read("owner/name")
    assert named in str(error.value) and "\n" not in str(error.value)


def test_a_stream_that_breaks_names_the_row(datasets: Any) -> None:
    datasets.load_dataset = lambda *_, **__: Stream(ROWS, breaks=True)
    with pytest.raises(PromptFileError, match=r"Row 3.*cannot be reached"):
        PromptSet.read("owner/name:train")


def test_missing_library_is_one_sentence(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PromptFileError, match=r"There is no file owner/name, .*pip install"):
        PromptSet.read("owner/name")


def test_without_network_it_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(PromptFileError, match=r"There is no file owner/name, .*no network"):
        PromptSet.read("owner/name")


def test_a_file_of_that_name_wins(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("a\n")
    assert PromptSet.read("owner/name", format="text").texts == ["a"]


def test_a_wrong_id_is_refused() -> None:
    with pytest.raises(PromptFileError, match="'no id at all' is not the id"):
        PromptSet.read("no id at all", format="hub")
