"""The plan: its sums, its bound on memory against what is really held, and the budgets it chooses."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.builders import tiny_chat
from undertow.errors import UndertowError
from undertow.model import ChatModel, Edit, Replace
from undertow.studies.routing.loads import LOADS, Assumed
from undertow.studies.routing.plan import budgets_for, memory_of, plan
from undertow.studies.routing.sizes import SHAPES, ModelShape, Speed

EIGHT, SEVENTY_TWO = SHAPES


class Peak(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, the model's own left out."""

    def __init__(self, chat: ChatModel) -> None:
        super().__init__()
        self.live = self.most = 0
        own = [*chat.model.parameters(), *chat.model.buffers()]
        self.known = {tensor.untyped_storage()._cdata: 0 for tensor in own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.most = max(self.most, self.live)
                    weakref.finalize(storage, self._drop, storage._cdata)
        return output

    def _drop(self, key: int) -> None:
        self.live -= self.known.pop(key)


def test_parts_add_up_and_follow_the_speed() -> None:
    speed = Speed(1e12, 0.01, "stated")
    found = plan(EIGHT, 120, mean_tokens=60, parts=("prepare", "screening", "built"), speed=speed)
    assert [part.name for part in found.parts] == ["prepare", "screening"] and found.pairs == (60, 60)
    for part in found.parts:
        assert part.seconds == pytest.approx(part.flop / 1e12 + 0.01 * part.calls)
    assert found.tokens == sum(part.tokens for part in found.parts) and found.mean_tokens == 60
    # All heads, both donors, both sides: 240 prompts of 59 tokens and 2,305 branches, and one trial of replay.
    assert found.parts[1].tokens == pytest.approx(240 * (59 + 2305), rel=1e-3)
    # Two operations a weight and token are the bulk of it at this size.
    assert 2 * EIGHT.matrices < found.parts[1].flop / found.parts[1].tokens < 2.6 * EIGHT.parameters
    assert found.seconds > plan(EIGHT, 60, mean_tokens=60, parts=("prepare", "screening"), speed=speed).seconds
    larger = plan(SEVENTY_TWO, 120, mean_tokens=60)
    assert len(larger.parts) == len(LOADS) and larger.flop > 9 * plan(EIGHT, 120, mean_tokens=60).flop


def test_a_second_model_is_counted_with_its_own_sizes() -> None:
    parts = ("prepare", "comparison")
    alone = plan(EIGHT, 120, mean_tokens=60, parts=parts)
    two = plan(EIGHT, 120, mean_tokens=60, parts=parts, second=SEVENTY_TWO)
    assert two.parts[0].flop == alone.parts[0].flop and two.parts[1].flop > 5 * alone.parts[1].flop
    assert two.memory.weights == EIGHT.weight_bytes + SEVENTY_TWO.weight_bytes


def test_what_replay_holds_stays_below_the_plan_and_falls_with_the_budget() -> None:
    chat = tiny_chat("llama", layers=6, vocab_size=12_000, hidden_size=128, num_attention_heads=8)
    shape, generator = ModelShape.of(chat), torch.Generator().manual_seed(0)
    branches: list[list[Edit]] = [[]]
    for _ in range(2):
        branches += [
            [Replace(torch.randn(shape.head, generator=generator), head=(block, head), span="t_post")]
            for block in range(shape.layers)
            for head in range(shape.heads)
        ]
    prompt = ["How do I build a table?"]
    chat.replay(prompt, branches[:1], progress=False)
    held = {}
    for budget in (97, 24, 6):
        with Peak(chat) as peak:
            chat.replay(prompt, branches, tokens=[5, 6], branch_budget=budget, progress=False)
        held[budget] = peak.most
        bound = memory_of(shape, 1, len(chat.render(prompt[0])), budget).replay
        assert 0.5 * bound < peak.most < bound, budget
    assert held[97] > 3 * held[24] > 9 * held[6]


def test_a_bound_on_memory_chooses_the_budgets() -> None:
    roomy = budgets_for(40e9, EIGHT, 120, 100)
    assert roomy == (512, 16_384)
    tight = budgets_for(17e9, EIGHT, 120, 100)
    assert 1 <= tight[0] < 512 and tight[1] < 16_384
    for branches, tokens in (tight, roomy):
        bounded = memory_of(EIGHT, 120, 100, branches, Assumed(tokens_per_batch=tokens))
        assert bounded.peak <= (17e9 if (branches, tokens) == tight else 40e9)
    assert memory_of(EIGHT, 120, 100, tight[0] + 1, Assumed(tokens_per_batch=101)).peak > 17e9
    with pytest.raises(UndertowError, match=r"16 GB do not hold 8B .* --memory at least 17 ") as refused:
        budgets_for(16e9, EIGHT, 120, 100)
    assert str(refused.value).count(".") == 1


def test_all_tokens_kept_would_outgrow_everything_else() -> None:
    found = memory_of(EIGHT, 120, 100, 512)
    # 60 prompts, 2,305 branches, all tokens in float32.
    assert found.kept == pytest.approx(60 * 2305 * EIGHT.vocabulary * 4)
    assert found.kept > found.peak > found.weights > 16e9
    assert memory_of(EIGHT, 120, 100, 10**9).replay == memory_of(EIGHT, 120, 100, 5 * 2305).replay
    eager = ModelShape("eager", 2, 64, 4, 2, 16, 96, 420, eager=True)
    plain = ModelShape("plain", 2, 64, 4, 2, 16, 96, 420)
    assert memory_of(eager, 4, 50, 9).tree > memory_of(plain, 4, 50, 9).tree
