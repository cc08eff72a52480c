from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undertow.errors import ModelError
from undertow.model.batching import TokenBudget, plan, run_batches


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200), st.integers(0, 5))
def test_plans_cover_everything_once_within_the_budget(lengths: list[int], tokens: int, extra: int) -> None:
    batches = plan(lengths, tokens, extra)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        used = len(batch) * (max(lengths[index] for index in batch) + extra)
        assert used <= tokens or len(batch) == 1


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 100), st.integers(0, 5))
def test_batches_of_equal_length_are_as_large_as_the_budget_lets_them_be(
    lengths: list[int], tokens: int, extra: int
) -> None:
    batches = plan(lengths, tokens, extra, alike=True)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        [length] = {lengths[index] for index in batch}
        assert len(batch) * (length + extra) <= tokens or len(batch) == 1
    for length in set(lengths):
        most = max(1, tokens // (length + extra))
        assert sum(lengths[batch[0]] == length for batch in batches) == -(-lengths.count(length) // most)


def test_equal_lengths_stay_together_when_memory_runs_out() -> None:
    lengths, done = [4, 3, 4, 4, 3, 4, 4, 3, 4, 4], []

    def step(batch: list[int]) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("out of memory")
        done.append(sorted(batch))

    assert sum(run_batches(lengths, TokenBudget(100), step, alike=True)) == 10
    assert all(len({lengths[index] for index in batch}) == 1 for batch in done)
    assert sorted(index for batch in done for index in batch) == list(range(10))
    assert max(map(len, done)) == 3


def test_a_shortage_splits_the_batch_and_keeps_the_smaller_budget() -> None:
    lengths, done, budget = [10] * 8, [], TokenBudget(80)

    def step(batch: list[int]) -> None:
        if len(batch) > 3:
            raise torch.OutOfMemoryError("out of memory")
        done.extend(batch)

    assert sum(run_batches(lengths, budget, step)) == 8
    assert sorted(done) == list(range(8)) and budget.shrunk and budget.tokens < 40


def test_one_prompt_too_large_is_said() -> None:
    def step(batch: list[int]) -> None:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(ModelError, match="One prompt of 9 tokens"):
        list(run_batches([9, 9], TokenBudget(100), step))


def test_other_errors_pass_through() -> None:
    def step(batch: list[int]) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        list(run_batches([1], TokenBudget(10), step))
