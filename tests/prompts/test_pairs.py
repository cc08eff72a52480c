"""Tests of matched pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from undertow.errors import PromptFileError
from undertow.prompts import Pair, PairSet, Prompt


def pair(sensitive: str, control: str, topic: str | None = None, language: str = "en") -> Pair:
    return Pair(Prompt(sensitive, harmful=True), Prompt(control, harmful=False), topic, language)


def test_reads_csv_and_jsonl_alike(tmp_path: Path) -> None:
    rows = [
        {"sensitive": "Break the lock, now", "control": "Paint the lock, now", "topic": "locks", "language": "en"},
        {"sensitive": "Zerstöre das Schloss", "control": "Male das Schloss", "topic": "locks", "language": "de"},
    ]
    jsonl = tmp_path / "pairs.jsonl"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    csv = tmp_path / "pairs.csv"
    lines = ["Sensitive,Control,topic,language"] + [
        f'"{r["sensitive"]}","{r["control"]}",{r["topic"]},{r["language"]}' for r in rows
    ]
    csv.write_text("\n".join(lines) + "\n", encoding="utf-8")
    one, two = PairSet.read(jsonl), PairSet.read(csv)
    assert [p.sensitive.text for p in one] == [r["sensitive"] for r in rows] == [p.sensitive.text for p in two]
    assert [p.control.text for p in one] == [r["control"] for r in rows] == [p.control.text for p in two]
    assert one.languages == ("en", "de") and one.topics == ("locks",)
    assert all(p.sensitive.harmful is True and p.control.harmful is False for p in one)
    assert [p.sensitive.language for p in two] == ["en", "de"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sensitive,other\na,b\n", "'control'"),
        ("sensitive,control\na,\n", "empty"),
        ("sensitive,control\na, a\n", "same text"),
        ("sensitive,control\na,b\na,b\n", "the same pair stands on"),
        ("sensitive,control\n", "no pair"),
    ],
)
def test_refuses_bad_files_by_name(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PromptFileError, match=says):
        PairSet.read(file)


def test_refuses_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(PromptFileError, match="no pairs"):
        PairSet.read(file)


def test_split_keeps_shared_texts_together_and_balances_topics() -> None:
    pairs = PairSet([pair(f"s{n}", f"c{n // 2}", f"t{n % 4}") for n in range(80)])
    first, second = pairs.split(0.5, seed=3)
    assert len(first) + len(second) == 80
    texts = [{t for p in part for t in (p.sensitive.text, p.control.text)} for part in (first, second)]
    assert not texts[0] & texts[1]
    for topic in pairs.topics:
        share = sum(p.topic == topic for p in first) / 20
        assert 0.3 <= share <= 0.7
    assert [p.sensitive.text for p in pairs.split(0.5, seed=3)[0]] == [p.sensitive.text for p in first]
    assert [p.sensitive.text for p in pairs.split(0.5, seed=4)[0]] != [p.sensitive.text for p in first]


def test_split_follows_chains_of_shared_texts() -> None:
    chain = [pair(f"x{n}", f"x{n + 1}") for n in range(6)]
    others = [pair(f"s{n}", f"c{n}") for n in range(10)]
    first, second = PairSet([*chain, *others]).split(0.5, seed=0)
    names = {p.sensitive.text for p in chain}
    assert {sum(p.sensitive.text in names for p in part) for part in (first, second)} == {0, 6}


def test_split_refuses_too_few() -> None:
    with pytest.raises(PromptFileError, match="more pairs"):
        PairSet([pair("a", "b")]).split(0.5)


def test_wrapped_rewrites_both_sides_and_names_the_wrapper() -> None:
    found = pair("abc", "abd", "t", "de").wrapped(str.upper, "cipher")
    assert (found.sensitive.text, found.control.text) == ("ABC", "ABD")
    assert found.sensitive.wrapper == found.control.wrapper == "cipher"
    assert (found.topic, found.language, found.sensitive.harmful, found.control.harmful) == ("t", "de", True, False)


def test_slices_sums_and_filters() -> None:
    pairs = PairSet([pair(f"s{n}", f"c{n}", language="en" if n % 2 else "de") for n in range(6)], "here")
    assert isinstance(pairs[1:3], PairSet) and pairs[1:3].source == "here"
    assert len(pairs[:2] + pairs[4:]) == 4
    assert [p.sensitive.text for p in pairs.where(lambda one: one.language == "de")] == ["s0", "s2", "s4"]
    assert pairs.sensitive[3].text == "s3" and pairs.controls[3].text == "c3"
