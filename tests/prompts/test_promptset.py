from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from undertow.errors import PromptFileError, UndertowError
from undertow.prompts import Prompt, PromptSet


def labelled(count: int = 40) -> PromptSet:
    """Prompts of two labels and two categories; a quarter is harmful."""
    return PromptSet(
        [Prompt(f"prompt {n}", harmful=n % 4 == 0, category="ab"[n % 8 == 0], id=str(n)) for n in range(count)]
    )


def test_it_is_a_sequence() -> None:
    prompts = labelled()
    assert len(prompts) == 40 and prompts[3].text == "prompt 3" and prompts[-1].text == "prompt 39"
    assert isinstance(prompts[2:4], PromptSet) and prompts[2:4].texts == ["prompt 2", "prompt 3"]
    assert Prompt("prompt 3", False, "a", id="3") in prompts
    assert (prompts[:2] + prompts[2:]) == prompts


def test_filters_keep_order_and_say_so() -> None:
    prompts = labelled()
    assert [prompt.id for prompt in prompts.harmful()] == [str(n) for n in range(0, 40, 4)]
    assert len(prompts.harmless()) == 30
    assert prompts.where(lambda prompt: prompt.category == "b").harmful().provenance.steps == (
        "where <lambda>",
        "harmful",
    )
    unknown = PromptSet(["a"])
    assert len(unknown.harmful()) == len(unknown.harmless()) == 0


def test_provenance_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Goal,target,harmful,label\na,Sure,1,yes\n")
    provenance = PromptSet.read(path).provenance
    assert (provenance.source, provenance.format) == (str(path), "csv")
    assert provenance.columns == {"prompt": "Goal", "labels": "harmful, label"}
    assert provenance.unread == ("target",)


def test_hash_follows_content_and_not_the_file(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "label": 1}, {"prompt": "ü", "label": 0}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text("id,prompt,is_harmful\nx,a,true\ny,ü,false\n", encoding="utf-8")
    first, second = PromptSet.read(tmp_path / "a.jsonl"), PromptSet.read(tmp_path / "a.csv")
    assert first.sha256 == second.sha256 and len(first.sha256) == 64
    assert first.sha256 == PromptSet([Prompt([{"role": "user", "content": "a"}], True), Prompt("ü", False)]).sha256
    others = [first[:1], first[::-1], PromptSet([Prompt("a", False), Prompt("ü", False)]), PromptSet(["a", "ü"])]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 5


@pytest.mark.parametrize("fraction", [0.5, 0.3, 0.9])
def test_split_is_stratified_disjoint_and_repeatable(fraction: float) -> None:
    prompts = labelled(400)
    first, second = prompts.split(fraction, seed=3)
    assert sorted(first.texts + second.texts) == sorted(prompts.texts)
    assert abs(len(first) - fraction * 400) <= 1
    assert abs(len(first.harmful()) - fraction * 100) <= 1
    counts = Counter((prompt.harmful, prompt.category) for prompt in first)
    whole = Counter((prompt.harmful, prompt.category) for prompt in prompts)
    assert all(abs(counts[key] - fraction * whole[key]) <= 1 for key in whole)
    assert [int(prompt.id or 0) for prompt in first] == sorted(int(prompt.id or 0) for prompt in first)
    assert prompts.split(fraction, seed=3) == (first, second)
    assert prompts.split(fraction, seed=4)[0] != first


def test_split_keeps_equal_prompts_together() -> None:
    prompts = PromptSet([Prompt(f"prompt {n % 10}", harmful=True) for n in range(40)])
    first, second = prompts.split(0.5, seed=0)
    assert len(first) == len(second) == 20
    assert not set(first.texts) & set(second.texts)


def test_split_refuses_what_is_no_fraction() -> None:
    for fraction in (0.0, 1.0, -1.0, 5.0, float("nan")):
        with pytest.raises(UndertowError, match="between 0 and 1"):
            labelled().split(fraction)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, name: str) -> None:
    rows = [("same", 1), ("other", 0), ("same", 1), (" same ", 0)]
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("prompt,label\n" + "".join(f"{prompt},{label}\n" for prompt, label in rows))
        lines = ("line 5", "line 2")
    else:
        path.write_text("".join(json.dumps({"prompt": prompt, "label": label}) + "\n" for prompt, label in rows))
        lines = ("line 4", "line 1")
    with pytest.raises(PromptFileError) as error:
        PromptSet.read(path)
    now, then = lines
    assert str(error.value) == (
        f"{path}, {now}: the prompt is called harmless here and harmful on {then}; keep one of the two."
    )


def test_duplicates_with_one_label_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,label\nsame,1\nsame,1\nsame,\n")
    assert len(PromptSet.read(path)) == 3


def test_reading_looks_at_all_rows_for_its_columns(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "category": "safe"} for n in range(300)] + [{"prompt": "x", "category": "fraud"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = PromptSet.read(path)
    assert prompts[0].harmful is None and prompts[300].category == "fraud"


def test_unknown_split_of_the_builtin_set_is_refused() -> None:
    with pytest.raises(UndertowError, match="no split 'validation'"):
        PromptSet.builtin("validation")
