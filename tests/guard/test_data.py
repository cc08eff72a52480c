from __future__ import annotations

import numpy as np
import pytest

from undertow.errors import GuardError, PromptFileError
from undertow.guard.data import gather, split, strata_weights
from undertow.prompts import Prompt, PromptSet

HARMFUL = [f"harmful request {number}" for number in range(12)]
HARMLESS = [f"harmless request {number}" for number in range(12)]


def test_every_form_of_prompts_is_taken(tmp_path):
    file = tmp_path / "harmful.txt"
    file.write_text("\n".join(HARMFUL))
    conversations = [[{"role": "user", "content": text}] for text in HARMLESS]
    data = gather(str(file), conversations)
    assert [prompt.text for prompt in data.prompts] == HARMFUL + HARMLESS
    assert data.labels.tolist() == [True] * 12 + [False] * 12
    again = gather(PromptSet([Prompt(text, harmful=True) for text in HARMFUL]), [Prompt(text) for text in HARMLESS])
    assert again.sha256 == data.sha256
    assert gather(HARMFUL[::-1], HARMLESS).sha256 == data.sha256
    assert gather([*HARMFUL, "one more"], HARMLESS).sha256 != data.sha256


def test_a_prompt_in_both_classes_is_refused():
    with pytest.raises(GuardError, match="1 prompts are given as harmful and as harmless"):
        gather([*HARMFUL, " harmless request 3 "], HARMLESS)


def test_a_contradicting_label_is_refused():
    with pytest.raises(GuardError, match="labelled harmless, yet was given as harmful"):
        gather([Prompt(text, harmful=False) for text in HARMFUL], HARMLESS)


def test_too_few_are_refused_and_repetitions_do_not_count():
    with pytest.raises(GuardError, match="at least 10 distinct harmful prompts, and there are 9"):
        gather(HARMFUL[:9] * 3, HARMLESS)
    data = gather([*HARMFUL, HARMFUL[0]], HARMLESS)
    assert len(data.prompts) == 24
    assert "1 repeated harmful prompts" in data.notes[0]


def test_a_missing_file_is_named():
    with pytest.raises(PromptFileError, match="nowhere"):
        gather("nowhere.txt", HARMLESS)


def test_families_come_from_wrappers_and_styles():
    harmful = [Prompt(text, wrapper="roleplay" if number % 2 else None) for number, text in enumerate(HARMFUL)]
    harmless = [Prompt(text, style="look-alike", category="fire") for text in HARMLESS]
    data = gather(harmful, harmless)
    assert set(data.families) == {"bare", "roleplay", "look-alike"}
    assert set(data.groupings) == {"family"}
    assert gather(HARMFUL, HARMLESS).groupings == {}


def test_split_takes_its_share_of_every_stratum():
    strata = [(True, "a")] * 40 + [(True, "b")] * 10 + [(False, "a")] * 100
    fit, held_out = split(strata, 0.3, seed=0)
    assert sorted([*fit, *held_out]) == list(range(150))
    taken = [strata[row] for row in held_out]
    assert [taken.count(stratum) for stratum in sorted(set(strata), reverse=True)] == [3, 12, 30]
    np.testing.assert_array_equal(split(strata, 0.3, seed=0)[0], fit)
    assert not np.array_equal(split(strata, 0.3, seed=1)[0], fit)


def test_split_of_many_small_strata_still_takes_its_share():
    strata = [(row % 2 == 0, row) for row in range(100)]
    assert len(split(strata, 0.3, seed=0)[1]) == 30


def test_a_stratum_weighs_the_root_of_its_size():
    weights = strata_weights(["a"] * 100 + ["b"] * 4)
    assert weights[:100].sum() == pytest.approx(10)
    assert weights[100:].sum() == pytest.approx(2)
