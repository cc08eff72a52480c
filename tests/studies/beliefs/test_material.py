"""Prompts of the study, counted by hand."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.studies.beliefs.requested import HARMFUL, HARMLESS, requests
from undertow.errors import UndertowError
from undertow.prompts import Prompt, PromptSet
from undertow.prompts.wrappers import FAMILIES
from undertow.studies.beliefs.material import FIT_FAMILY, LEAST, Material


def jsonl(path: Path, prompts: Sequence[Prompt]) -> Path:
    rows = ({"prompt": prompt.text, "category": prompt.category} for prompt in prompts)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def bare(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [prompt for prompt in prompts if not prompt.wrapper]


def test_built_in_halves_share_no_request() -> None:
    material = Material.gather(families=FAMILIES)
    assert material.source == "the built-in prompts"
    halves = [bare(half) for half in (material.fit, material.test)]
    for half, split in zip(halves, ("train", "test"), strict=True):
        known = {prompt.text: bool(prompt.harmful) for prompt in PromptSet.builtin(split)}
        assert {prompt.text: prompt.harmful for prompt in half}.items() <= known.items()
    for one, other in ((material.fit, halves[1]), (material.test, halves[0])):
        everything = "\n".join(prompt.text for prompt in one)
        assert not any(prompt.text in everything for prompt in other)


def test_test_prompts_are_wrapped_in_every_family_and_fit_prompts_in_one() -> None:
    material = Material.gather(families=("persuasion", "suffix"), most=40)
    counts = Counter((prompt.wrapper, prompt.harmful) for prompt in material.test)
    assert counts == {(family, harm): 40 for family in (None, "persuasion", "suffix") for harm in (True, False)}
    fitted = Counter(prompt.wrapper for prompt in material.fit)
    assert fitted == {None: 80, FIT_FAMILY: 40}
    wrapped = [prompt for prompt in material.fit if prompt.wrapper]
    own = [prompt.text for prompt in bare(material.fit)]
    assert all(sum(text in prompt.text for text in own) == 1 for prompt in wrapped)
    assert abs(sum(bool(prompt.harmful) for prompt in wrapped) - 20) <= 1


def test_test_bare_points_at_the_same_request() -> None:
    material = Material.gather(families=FAMILIES, most=30)
    assert len(material.test_bare) == len(material.test)
    for prompt, place in zip(material.test, material.test_bare, strict=True):
        if prompt.wrapper:
            request = material.test[place]
            assert not request.wrapper and request.text in prompt.text and request.text != prompt.text
            assert (request.harmful, request.category, request.style) == (
                prompt.harmful,
                prompt.category,
                prompt.style,
            )
        else:
            assert place == -1


def test_families_and_splits_reach_the_wrapper() -> None:
    calls = []

    def wrapper(prompt: Prompt, family: str, *, seed: int, split: str) -> Prompt:
        calls.append((family, split, seed))
        return Prompt(f"{family}: {prompt.text}", harmful=prompt.harmful, wrapper=family)

    Material.gather(families=("mine", "yours"), most=20, wrapper=wrapper, seed=5)
    assert Counter(calls) == {(FIT_FAMILY, "train", 5): 20, ("mine", "test", 5): 40, ("yours", "test", 5): 40}


def test_files_are_split_into_halves_of_the_same_categories(tmp_path: Path) -> None:
    harmful = jsonl(tmp_path / "harmful.jsonl", requests(HARMFUL, 60, "abc"))
    rows = [{"prompt": prompt.text, "category": str(prompt.category)} for prompt in requests(HARMLESS, 44, "de")]
    harmless = table(tmp_path / "harmless.csv", rows)
    material = Material.gather(str(harmful), harmless, families=())
    assert material.source == f"{harmful} and {harmless}"
    for half in (bare(material.fit), list(material.test)):
        assert Counter((prompt.harmful, prompt.category) for prompt in half) == {
            (True, "a"): 10,
            (True, "b"): 10,
            (True, "c"): 10,
            (False, "d"): 11,
            (False, "e"): 11,
        }
        assert all(bool(prompt.harmful) == prompt.text.startswith(HARMFUL) for prompt in half)
    texts = [prompt.text for prompt in (*bare(material.fit), *material.test)]
    assert len(set(texts)) == len(texts) == 104


def test_halves_of_odd_groups_are_of_equal_size() -> None:
    """Three prompts in each of 28 categories: no half gets the odd one every time."""
    names = [f"topic {number}" for number in range(28)]
    material = Material.gather(requests(HARMFUL, 84, names), requests(HARMLESS, 84, names), families=())
    for half in (bare(material.fit), list(material.test)):
        counts = Counter((prompt.harmful, prompt.category) for prompt in half)
        assert set(counts.values()) <= {1, 2} and len(counts) == 56
        assert [sum(prompt.harmful is wanted for prompt in half) for wanted in (True, False)] == [42, 42]


def test_labels_of_one_file_for_both_classes_are_kept(tmp_path: Path) -> None:
    rows = [{"prompt": prompt.text, "harmful": "true"} for prompt in requests(HARMFUL, 40)]
    rows += [{"prompt": prompt.text, "harmful": "false"} for prompt in requests(HARMLESS, 46)]
    both = str(table(tmp_path / "both.csv", rows))
    material = Material.gather(both, both, families=())
    listed = [*bare(material.fit), *material.test]
    assert Counter(prompt.harmful for prompt in listed) == {True: 40, False: 46}
    assert all(bool(prompt.harmful) == prompt.text.startswith(HARMFUL) for prompt in listed)


def test_texts_given_in_python_and_twice_count_once() -> None:
    harmful = [prompt.text for prompt in requests(HARMFUL, 40)]
    material = Material.gather(harmful * 2, PromptSet(requests(HARMLESS, 40)), families=())
    assert material.source == "prompts given in Python and prompts given in Python"
    assert len(material.test) == 40 and len(bare(material.fit)) == 40


@pytest.mark.parametrize("given", [{"harmful": ["a"]}, {"harmless": ["a"]}])
def test_one_class_alone_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UndertowError, match="together, or neither"):
        Material.gather(**given, families=())


@pytest.mark.parametrize(
    ("harmful", "harmless", "message"),
    [
        (38, 60, "fit half holds 19 harmful prompts and needs 20: give at least 40"),
        (60, 38, "fit half holds 19 harmless prompts and needs 20"),
        (39, 60, "test half holds 19 harmful prompts"),
        (60, 0, "holds 0 harmless"),
    ],
)
def test_too_few_are_refused_with_their_count(harmful: int, harmless: int, message: str) -> None:
    with pytest.raises(UndertowError, match=message):
        Material.gather(requests(HARMFUL, harmful), requests(HARMLESS, harmless), families=())
    assert LEAST == 20


def test_forty_of_each_are_enough() -> None:
    assert len(Material.gather(requests(HARMFUL, 40), requests(HARMLESS, 40), families=()).test) == 40


def test_a_contradiction_is_refused() -> None:
    harmless = [*requests(HARMLESS, 40), Prompt(f"{HARMFUL} 007?")]
    with pytest.raises(UndertowError, match="as harmful and as harmless: 'How do I break into house number 007"):
        Material.gather(requests(HARMFUL, 40), harmless, families=())


def test_prompts_that_carry_a_wrapper_already_are_not_wrapped_again() -> None:
    harmful = [Prompt(f"Bad {index}", wrapper="attack" if index % 2 else None) for index in range(80)]
    harmless = [Prompt(f"Good {index}") for index in range(80)]
    material = Material.gather(harmful, harmless, families=FAMILIES, seed=0)
    for prompts in (material.fit, material.test):
        assert sum(prompt.wrapper == "attack" for prompt in prompts) == 20
        wrapped = [prompt for prompt in prompts if prompt.wrapper in FAMILIES and prompt.harmful]
        assert wrapped and all(int(prompt.text.split("Bad ")[1].split()[0].strip(".")) % 2 == 0 for prompt in wrapped)
    for index in material.test_bare:
        assert index == -1 or material.test[index].wrapper is None


def test_jailbreaks_take_the_place_of_our_wrapped_harmful_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"Please! {number}", "wrapper": "begging", "harmful": "true"} for number in range(7)]
    rows += [{"prompt": f"Just {number}", "wrapper": "", "harmful": "true"} for number in range(3)]
    rows += [{"prompt": "Fine thing", "wrapper": "begging", "harmful": "false"}]
    file = table(tmp_path / "jailbreaks.csv", rows)
    plain = Material.gather(families=("persuasion", "suffix"), most=30)
    material = Material.gather(jailbreaks=str(file), families=("persuasion", "suffix"), most=30)
    assert material.source == f"the built-in prompts, jailbreaks from {file}"
    assert material.fit == plain.fit
    counts = Counter((prompt.wrapper, prompt.harmful) for prompt in material.test)
    assert counts == {
        (None, True): 30,
        (None, False): 30,
        ("persuasion", False): 30,
        ("suffix", False): 30,
        ("begging", True): 7,
        ("jailbreak", True): 3,
    }
    kept = [prompt for prompt in plain.test if prompt.wrapper and not prompt.harmful]
    assert [prompt for prompt in material.test if prompt.wrapper and not prompt.harmful] == kept
    for prompt, place in zip(material.test, material.test_bare, strict=True):
        if prompt.wrapper in ("begging", "jailbreak"):
            assert place == -1
        elif prompt.wrapper:
            assert material.test[place].text in prompt.text


def test_every_family_of_jailbreaks_is_thinned_by_itself() -> None:
    given = [Prompt(f"{family} {number}", wrapper=family) for family in ("x", "y") for number in range(50)]
    given += [Prompt(f"z {number}", wrapper="z") for number in range(4)]
    material = Material.gather(jailbreaks=given, families=(), most=24)
    assert Counter(prompt.wrapper for prompt in material.test if prompt.wrapper) == {"x": 24, "y": 24, "z": 4}


def test_jailbreaks_known_from_the_other_prompts_are_left_out() -> None:
    plain = Material.gather(families=(), most=30)
    known = [prompt.text for prompt in plain.test if prompt.harmful] + [plain.fit[0].text]
    material = Material.gather(jailbreaks=[*known, "new"], families=(), most=30)
    assert [prompt.text for prompt in material.test if prompt.wrapper] == ["new"]
    for nothing in (known, []):
        with pytest.raises(UndertowError, match="jailbreaks hold no harmful prompt"):
            Material.gather(jailbreaks=nothing, families=(), most=30)


def test_thinning_keeps_the_shares_of_categories_and_styles() -> None:
    whole = Counter((prompt.harmful, prompt.category, prompt.style) for prompt in PromptSet.builtin("test"))
    for most in (60, 97):
        kept = Counter(
            (prompt.harmful, prompt.category, prompt.style) for prompt in Material.gather(families=(), most=most).test
        )
        for harmful in (True, False):
            size = sum(count for key, count in whole.items() if key[0] is harmful)
            assert sum(count for key, count in kept.items() if key[0] is harmful) == most
            for key, count in whole.items():
                if key[0] is harmful:
                    assert abs(kept[key] - count * most / size) <= 1
    with_both = Material.gather(families=(), most=10_000)
    assert len(with_both.test) == sum(whole.values())


def test_the_seed_settles_everything() -> None:
    def gather(seed: int) -> Material:
        return Material.gather(
            requests(HARMFUL, 90, "abc"), requests(HARMLESS, 90, "abc"), families=FAMILIES, most=30, seed=seed
        )

    first, second, other = gather(0), gather(0), gather(1)
    assert first == second
    assert {prompt.text for prompt in bare(first.fit)} != {prompt.text for prompt in bare(other.fit)}
    # The halves themselves are drawn: with nothing thinned they still differ, and neither follows the given order.
    whole = [
        Material.gather(requests(HARMFUL, 90), requests(HARMLESS, 90), families=(), seed=seed).test for seed in (0, 1)
    ]
    assert set(whole[0]) != set(whole[1])
    assert all(len({int(prompt.text[-4:-1]) % 2 for prompt in half}) == 2 for half in whole)
