"""The plan's tokens against those that go through the embedding in real runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from undertow.model import ChatModel, load
from undertow.studies.routing.bands import measure_bands
from undertow.studies.routing.circuit import measure_circuit
from undertow.studies.routing.loads import LOADS, Assumed, Counter, Prompts, total
from undertow.studies.routing.plan import padding_of
from undertow.studies.routing.preparing import Prepared, Settings, assumed_of, context_of, prepare_run
from undertow.studies.routing.screening import measure_screening
from undertow.studies.routing.sizes import ModelShape


class Tokens:
    """Counts what goes through a model's embedding."""

    def __init__(self, chat: ChatModel) -> None:
        self.count = 0
        chat.model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        self.count += inputs[0].numel()

    def taken(self) -> int:
        found, self.count = self.count, 0
        return found


def planned(ready: Prepared, name: str, known: Assumed) -> float:
    sizes = padding_of(ready.chat, ready.halves, known.tokens_per_batch)
    halves = [
        Counter(ModelShape.of(ready.chat), Prompts(len(half), *size), known)
        for half, size in zip(ready.halves, sizes, strict=True)
    ]
    return total(LOADS[name](*halves))


def test_tokens_are_those_of_real_runs_within_five_per_cent() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    chat = load("organism:aligned")
    ready = prepare_run(chat, Settings(pairs_most=16, permutations=100, cipher="none", builds=0))
    longest = max(len(chat.render(prompt)) for prompt in [*ready.pairs.sensitive, *ready.pairs.controls])
    known = replace(assumed_of(ready), longest=longest)
    tokens = Tokens(chat)
    counted: dict[str, int] = {}
    context = context_of(ready)
    counted["prepare"] = tokens.taken()
    found = measure_screening(context)
    counted["screening"] = tokens.taken()
    measure_screening(context, "tail")
    counted["screening, tail"] = tokens.taken()
    circuit = measure_circuit(context)
    counted["circuit"] = tokens.taken()
    bands = measure_bands(context, found, random_sets=1)
    counted["bands"] = tokens.taken()
    torch.set_num_threads(threads)
    # What the study itself finds, and how long replies are, is told to the plan; all else it must know.
    replies = [*context.choose.sensitive.replies, *context.choose.control.replies]
    known = replace(
        known,
        gates=len(circuit.gates),
        gate_blocks=len({block for block, _ in circuit.gates}),
        steps=len(bands.steps),
        random_sets=1,
        reply=min(
            known.reply, 1 + max(len(chat.tokenizer.encode(reply, add_special_tokens=False)) for reply in replies)
        ),
    )
    expected = {name: planned(ready, name, known) for name in counted}
    assert sum(expected.values()) == pytest.approx(sum(counted.values()), rel=0.05), (expected, counted)
    for name, count in counted.items():
        assert expected[name] == pytest.approx(count, rel=0.08), name


def test_replay_runs_its_prefix_once_and_every_branch_once() -> None:
    shape = ModelShape("any", 2, 8, 2, 2, 4, 16, 50)
    half = Counter(shape, Prompts(3, 10.0), Assumed(branches=4))
    prefix, branches = half.replay(3, 9)
    assert (prefix.calls, prefix.tokens, prefix.context) == (3, 27, 9)
    assert (branches.calls, branches.tokens, branches.context, branches.logits) == (9, 27, 13, 27)
    assert half.replay(3, 0) == []
    several = half.replay(1, 4, last=3, columns=2)
    assert several[0].tokens == 8 and several[1].tokens == 12 and several[1].calls == 4


def test_more_heads_pairs_and_gates_cost_more() -> None:
    def tokens(heads: int, pairs: int, gates: int) -> dict[str, float]:
        shape = ModelShape("any", 4, 64, heads, heads, 8, 16, 50)
        halves = [Counter(shape, Prompts(pairs, 20.0), Assumed(gates=gates, gate_blocks=gates)) for _ in "ab"]
        return {name: total(work(*halves)) for name, work in LOADS.items()}

    few, more, doubled = tokens(4, 10, 1), tokens(8, 10, 1), tokens(4, 20, 1)
    assert all(more[name] >= few[name] for name in LOADS) and more["screening"] > 1.5 * few["screening"]
    assert all(doubled[name] > 1.3 * few[name] for name in LOADS)
    assert tokens(4, 10, 3)["circuit"] > few["circuit"] > tokens(4, 10, 0)["circuit"]
