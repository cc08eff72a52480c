"""A study's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import tiny_chat
from undertow.errors import UndertowError
from undertow.measure.finding import FindingError, judged_finding
from undertow.measure.study_files import FINDINGS, REPORT, about_model, study_folder, write_study


class Page:
    def html(self) -> str:
        return "<p>high water</p>"

    def figure_data(self) -> dict[str, Any]:
        return {"level": [1, 2]}


def finding(name: str = "tides.ebb") -> Any:
    return judged_finding(None, id=name, study="tides", claim="It falls.", value=1.0, low=0.5, high=1.5, n=3)


def test_report_and_findings_are_written(tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "a" / "b", overwrite=False)
    assert not folder.exists()
    write_study(folder, Page(), findings=[finding()], rules={}, run={"seed": 1})
    assert (folder / REPORT).read_text(encoding="utf-8") == "<p>high water</p>"
    content = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))
    assert content["findings"][0]["id"] == "tides.ebb" and content["figures"] == {"level": [1, 2]}
    assert content["run"] == {"seed": 1}


def test_without_a_page_only_findings_are_written(tmp_path: Path) -> None:
    write_study(tmp_path, None, findings=[finding()], rules={}, run={})
    assert [file.name for file in tmp_path.iterdir()] == [FINDINGS]


def test_findings_that_contradict_each_other_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(FindingError):
        write_study(tmp_path, Page(), findings=[finding(), finding()], rules={}, run={})
    assert not (tmp_path / FINDINGS).exists()


@pytest.mark.parametrize("name", [FINDINGS, REPORT])
def test_a_study_is_overwritten_only_when_asked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old", encoding="utf-8")
    with pytest.raises(UndertowError, match="exists already"):
        study_folder(tmp_path, overwrite=False)
    assert study_folder(tmp_path, overwrite=True) == tmp_path
    with pytest.raises(UndertowError, match="exists already"):
        study_folder(tmp_path / name, overwrite=True)


def test_the_model_and_the_versions_are_told() -> None:
    chat = tiny_chat("llama")
    about = about_model(chat)
    assert about["fingerprint"] == chat.identity.fingerprint and about["torch"] == torch.__version__
    assert about["dtype"] == "float32" and about["model"] == "tiny-llama"
    json.dumps(about)
