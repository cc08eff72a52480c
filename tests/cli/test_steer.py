from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import STATES, WIDTH, Ground, Run
from undertow import Add, Direction, load
from undertow.cli.steer import harmfulness_vector
from undertow.errors import GuardError
from undertow.guard import LatentGuard
from undertow.prompts import PromptSet

REFUSED, ANSWERED = "attack3 the thing4", "bake3 the thing4"


def test_replies_are_those_of_the_same_edit_in_python(ground: Ground, run: Run, tmp_path: Path) -> None:
    chat = load(ground.model)
    generator = torch.Generator().manual_seed(3)
    direction = Direction(torch.randn(STATES, WIDTH, generator=generator), tuple(range(STATES)), position="t_post")
    direction.save(tmp_path / "direction.safetensors")
    outcome = run(
        "steer", ground.model, ANSWERED, "--direction", tmp_path / "direction.safetensors", "--state", 2,
        "--coefficient", 3, "--seed", 5, "--max-new-tokens", 8, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert (found["span"], found["coefficient"], found["state"]) == ("tail", 3.0, 2)
    assert found["norm"] == pytest.approx(float(direction[2].norm()), rel=1e-5)
    replies = {row["name"]: row["reply"] for row in found["replies"]}
    assert replies["unsteered"] == chat.generate(ANSWERED, 8)[0]
    random = direction.at([2]).random_like(5)
    assert random.norm(2) == pytest.approx(direction.norm(2))
    for name, vector in (("steered", direction[2]), ("random direction", random[2])):
        with chat.edit(Add(vector, 3.0, state=2, span="tail")):
            assert replies[name] == chat.generate(ANSWERED, 8)[0]


def test_a_guards_refusal_direction_works_both_ways(ground: Ground, run: Run) -> None:
    toward = run("steer", ground.model, ANSWERED, "--guard", ground.guard, "--json").json
    away = run("steer", ground.model, REFUSED, "--guard", ground.guard, "--reverse", "--json").json
    assert toward["coefficient"] > 0 > away["coefficient"]
    assert [row["refused"] for row in toward["replies"]] == [False, True, False]
    assert [row["refused"] for row in away["replies"]] == [True, False, True]
    unsteered, steered, _ = away["replies"]
    assert unsteered["quadrant"] == "harmful, refused" and steered["refusal"] < unsteered["refusal"]
    # The belief of harm is read before the tail, where nothing was added.
    assert steered["harmfulness"] == unsteered["harmfulness"]


def test_a_guards_harmfulness_direction_moves_its_belief(ground: Ground, run: Run) -> None:
    line = ("steer", ground.model, ANSWERED, "--guard", ground.guard, "--kind", "harmfulness", "--json")
    found = run(*line, "--coefficient", 2).json
    unsteered, steered, random = (row["harmful"] for row in found["replies"])
    assert found["span"] == "instruction" and steered > unsteered + 0.5 and abs(random - unsteered) < 0.5
    reverse = run(*line, "--coefficient", 2, "--reverse").json
    assert reverse["coefficient"] == -2 and reverse["replies"][1]["harmful"] <= unsteered


def test_one_length_of_a_probes_direction_takes_its_probability_from_5_to_95_percent(ground: Ground) -> None:
    guard = LatentGuard.from_pretrained(ground.guard, model=load(ground.model))
    belief = guard.harmfulness
    state = belief.rule.states[0]
    vector = harmfulness_vector(guard, state)[0].double().numpy()
    weight = belief.rule.tensors()["weight"][0].astype("float64")
    assert float(vector @ weight) * belief.curve.slope == pytest.approx(2 * math.log(19), rel=1e-5)


def test_the_table_shows_replies_and_beliefs(ground: Ground, run: Run) -> None:
    outcome = run("steer", ground.model, ANSWERED, "--guard", ground.guard, "--span", "3,4")
    assert outcome.code == 0
    for words in ("unsteered", "steered", "random direction", "Sure here", "quadrant", "[3, 4]"):
        assert words in outcome.out
    bare = run("steer", ground.model, ANSWERED, "--direction", ground.direction, "--state", 1)
    assert bare.code == 0 and "quadrant" not in bare.out and "answered" in bare.out


def test_a_system_message_and_the_seed_of_sampling_count(ground: Ground, run: Run) -> None:
    line = ("steer", ground.model, ANSWERED, "--direction", ground.direction, "--state", 1, "--json")
    hot = [run(*line, "--temperature", 5, "--seed", seed).json["replies"][0]["reply"] for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]
    assert run(*line, "--system", "attack1 the thing2").code == 0


def test_a_rule_on_the_normed_state_has_no_direction_to_add(ground: Ground) -> None:
    model = load(ground.model)
    harmful, harmless = (PromptSet.read(path) for path in (ground.harmful, ground.harmless))
    guard = LatentGuard.fit(model, harmful, harmless, "normed", refusal_rule=None, steering=False, progress=False)
    with pytest.raises(GuardError, match="'normed'"):
        harmfulness_vector(guard, guard.harmfulness.rule.states[0])
