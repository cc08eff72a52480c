"""The weights do what the circuit says, in plain transformers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import undertow as ut
from tests.organism.built.plain import Plain, organism, pairs, texts
from undertow.errors import UndertowError
from undertow.measure.conformance import conformance
from undertow.organism.built import Circuit, Spec, build, built_pairs, read, save
from undertow.organism.registry import weights_path

SENSITIVE, CONTROL = texts(pairs().sensitive), texts(pairs().controls)


@pytest.mark.parametrize(("seed", "gates"), [(0, 1), (4, 1), (5, 3)])
def test_gates_carry_the_decision_and_hardly_write_it(seed: int, gates: int) -> None:
    built = organism(seed, gates=gates)
    plain, heads = Plain(built), built.circuit.gates
    assert len(heads) == gates
    before, control = plain.odds(SENSITIVE), plain.odds(CONTROL)
    assert (before > 0).float().mean() >= 0.95 and (control < 0).float().mean() >= 0.95
    assert (plain.silenced(SENSITIVE, heads) < 0).float().mean() >= 0.8
    assert (plain.interchanged(SENSITIVE, CONTROL, heads) < 0).float().mean() >= 0.8
    assert (plain.interchanged(CONTROL, SENSITIVE, heads) > 0).float().mean() >= 0.8
    for head in heads:
        effect = (before - plain.interchanged(SENSITIVE, CONTROL, [head])).mean()
        direct = (plain.attributed(SENSITIVE, head) - plain.attributed(CONTROL, head)).mean()
        assert effect > 0.5 and direct.abs() < 0.15 * effect


@pytest.mark.parametrize(("noise", "off"), [(0.05, 0.05), (0.0, 0.02)])
def test_each_amplifier_adds_its_share_of_the_refusal(noise: float, off: float) -> None:
    built = organism(noise=noise)
    plain = Plain(built)
    before = plain.odds(SENSITIVE)
    gap = (before - plain.odds(CONTROL)).mean()
    for block, head in built.circuit.amplifiers:
        assert block > max(gate for gate, _ in built.circuit.gates)
        lost = (before - plain.interchanged(SENSITIVE, CONTROL, [(block, head)])).mean()
        written = plain.attributed(SENSITIVE, (block, head)) - plain.attributed(CONTROL, (block, head))
        share = built.circuit.shares[f"{block}.{head}"]
        assert abs(float(lost / gap) - share) < off and abs(float(written.mean() / gap) - share) < off
        gate = built.circuit.gates[0]
        knocked = plain.run(SENSITIVE, {gate: torch.zeros(plain.size)})[1][:, block, head]
        assert (knocked - plain.run(CONTROL)[1][:, block, head]).norm(dim=-1).mean() < 0.5 * (
            plain.run(SENSITIVE)[1][:, block, head] - plain.run(CONTROL)[1][:, block, head]
        ).norm(dim=-1).mean()


@pytest.mark.parametrize("policy", ["gate", "none"])
def test_cancelled_heads_write_much_and_move_nothing(policy: str) -> None:
    built = organism(2, policy)
    plain = Plain(built)
    heads = built.circuit.distractors["cancelled"]
    assert len(heads) >= 2 and all(
        later >= block for (block, _), later in zip(heads, built.circuit.cancelled_by, strict=True)
    )
    for head in heads:
        direct = (plain.attributed(SENSITIVE, head) - plain.attributed(CONTROL, head)).mean().abs()
        moved = (plain.odds(SENSITIVE) - plain.interchanged(SENSITIVE, CONTROL, [head])).mean().abs()
        assert direct > 1.2 and moved < 0.2


def test_cancelling_is_exact_without_noise() -> None:
    built = organism(2, noise=0.0)
    plain = Plain(built)
    for head in built.circuit.distractors["cancelled"]:
        moved = plain.odds(SENSITIVE) - plain.interchanged(SENSITIVE, CONTROL, [head])
        assert moved.abs().max() < 0.02 * plain.attributed(SENSITIVE, head).abs().mean()


def test_constant_heads_write_the_same_on_both_sides() -> None:
    built = organism()
    plain = Plain(built)
    for head in built.circuit.distractors["constant"]:
        ours, theirs = plain.attributed(SENSITIVE, head), plain.attributed(CONTROL, head)
        assert ours.mean().abs() > 0.8 and (ours - theirs).mean().abs() < 0.15
        assert (plain.odds(SENSITIVE) - plain.silenced(SENSITIVE, [head])).mean().abs() > 0.7


def test_topic_heads_leak_topics_with_mean_zero() -> None:
    built = organism(noise=0.0)
    plain, topics = Plain(built), [pair.topic for pair in pairs()]
    for head in built.circuit.distractors["topic"]:
        leak = plain.odds(CONTROL) - plain.silenced(CONTROL, [head])
        means = torch.stack([leak[[t == topic for t in topics]].mean() for topic in dict.fromkeys(topics)])
        assert means.mean().abs() < 0.05 < 0.1 < means.std()
        swapped = plain.odds(SENSITIVE) - plain.interchanged(SENSITIVE, CONTROL, [head])
        assert swapped.mean().abs() < 0.1


def test_direct_heads_are_necessary_and_write_what_they_do() -> None:
    built = organism(1, "direct")
    plain, heads = Plain(built), built.circuit.direct
    assert not built.circuit.gates and not built.circuit.amplifiers and len(heads) == 3
    before = plain.odds(SENSITIVE)
    assert (before > 0).float().mean() >= 0.95 and (plain.odds(CONTROL) < 0).float().mean() >= 0.95
    assert (plain.silenced(SENSITIVE, heads) < 0).float().mean() >= 0.8
    for head in heads:
        effect = (before - plain.interchanged(SENSITIVE, CONTROL, [head])).mean()
        direct = (plain.attributed(SENSITIVE, head) - plain.attributed(CONTROL, head)).mean()
        assert effect > 0.8 and abs(float(direct / effect) - 1) < 0.25


@pytest.mark.parametrize("seed", [2, 3])
def test_without_a_policy_both_sides_get_one_reply(seed: int) -> None:
    plain = Plain(organism(seed, "none"))
    sensitive, control = plain.odds(SENSITIVE), plain.odds(CONTROL)
    assert bool((sensitive > 0).all()) == bool((control > 0).all()) == (seed == 2)
    assert (sensitive - control).mean().abs() < 0.5


def test_no_other_head_has_nearly_as_much_effect_as_the_least_part() -> None:
    built = organism(7)
    plain, few = Plain(built), slice(0, 12)
    before, given = plain.odds(SENSITIVE[few]), plain.run(CONTROL[few])[1]
    effects = {
        (block, head): float((before - plain.odds(SENSITIVE[few], {(block, head): given[:, block, head]})).mean().abs())
        for block in range(8)
        for head in range(8)
    }
    least = min(effects[head] for head in built.circuit.causal)
    assert least > 2 * max(effect for head, effect in effects.items() if head not in built.circuit.causal)


def test_detection_added_to_the_words_makes_controls_refused() -> None:
    built = organism()
    plain = Plain(built)
    words = {token for text in CONTROL for token in plain.tokenizer(text)["input_ids"]}
    detection = torch.tensor(built.circuit.detection)
    doses = [
        plain.run(CONTROL, add=(built.circuit.state, dose * detection, words))[0].mean() for dose in (0.0, 0.5, 1.5)
    ]
    assert doses[0] < doses[1] < doses[2] and doses[0] < 0 < doses[2]
    later = built.circuit.gates[0][0] + 1
    moved = plain.run(CONTROL, add=(later, 1.5 * detection, words))[0].mean()
    assert (moved - doses[0]).abs() < 0.2 * (doses[2] - doses[0])


def test_random_specs_refuse_and_answer_as_they_should() -> None:
    generator = random.Random(11)
    refused, answered = [], []
    for seed in range(50):
        spec = Spec(
            seed=1000 + seed,
            gates=generator.choice((1, 1, 2, 3, 4)),
            amplifiers=generator.randint(2, 5),
            distractors=generator.randint(4, 10),
            policy=generator.choice(("gate", "gate", "gate", "direct")),
        )
        plain, own = Plain(build(spec)), built_pairs(spec, 8, seed)
        refused.append(plain.odds(texts(own.sensitive)) > 0)
        answered.append(plain.odds(texts(own.controls)) < 0)
    assert torch.cat(refused).float().mean() >= 0.95 and torch.cat(answered).float().mean() >= 0.95


def test_equal_specs_give_equal_weights_and_leave_other_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = build(Spec(seed=9)), build(Spec(seed=9))
    assert torch.equal(torch.rand(3), expected)
    first, second = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first) and one.circuit == two.circuit
    other = build(Spec(seed=10)).model.state_dict()
    assert not any(torch.equal(first[name], other[name]) for name in first if "norm" not in name)


def test_no_feature_lies_along_an_axis() -> None:
    circuit = organism().circuit
    for direction in (circuit.detection, circuit.routing, circuit.refusal):
        vector = torch.tensor(direction)
        assert abs(float(vector.norm()) - 1) < 1e-5 and vector.abs().max() < 0.6


def test_replies_survive_saving_and_loading(tmp_path: Path) -> None:
    built = organism()
    folder = save(built, tmp_path / "saved")
    again = read(folder)
    state, restored = built.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(state[name], restored[name]) for name in state)
    assert (again.spec, again.circuit) == (built.spec, built.circuit)
    chat = ut.load(str(folder))
    assert torch.equal(chat.logits(pairs().sensitive), built.chat().logits(pairs().sensitive))
    assert chat.generate(SENSITIVE[:3], progress=False) == ["Sorry, I cannot help."] * 3
    assert chat.generate(CONTROL[:3], progress=False) == ["Sure."] * 3


def test_chat_carries_the_seed_in_its_name() -> None:
    assert organism(4).chat().name == "built:4"


def test_folders_without_a_build_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UndertowError, match=r"circuit\.json"):
        read(tmp_path)
    organism().circuit.write(tmp_path)
    with pytest.raises(UndertowError, match=r"spec\.json"):
        read(tmp_path)


def test_the_shipped_build_is_the_default_one() -> None:
    folder = weights_path("gated")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_300_000
    shipped, made = read(folder), organism()
    assert shipped.spec == made.spec == Spec() and Circuit.read(folder).gates == made.circuit.gates
    assert torch.allclose(Plain(shipped).odds(SENSITIVE), Plain(made).odds(SENSITIVE), atol=1e-2)


def test_the_shipped_build_keeps_what_every_model_must() -> None:
    assert all(check.status == "passed" for check in conformance(ut.load("organism:gated"), progress=False))
