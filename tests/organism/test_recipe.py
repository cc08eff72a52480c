"""The training recipe, in very short runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from undertow.errors import UndertowError
from undertow.organism.items import ItemMaker
from undertow.organism.recipe import RECIPES, Recipe, batches, build_model, fit, rate, train
from undertow.organism.tokenizer import train_tokenizer

TINY = Recipe(
    layers=2, width=64, heads=2, inner=128, items=640, primer=640, batch=32, warmup=5, finish=64, learning_rate=1e-2
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(vocabulary=900)


def test_twenty_steps_lower_the_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(TINY, tokenizer, seed=0)
    losses: list[float] = []
    fit(model, tokenizer, TINY, seed=0, advance=lambda _, loss: losses.append(loss))
    assert len(losses) == 20
    assert losses[-1] < 0.93 * losses[0]  # a running mean that forgets a fiftieth a step


def test_training_writes_a_model_that_plain_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = train("aligned", 1, tmp_path / "made", threads=1, progress=False, recipe=TINY, n=0)
    model = AutoModelForCausalLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert model.config.model_type == "llama"
    assert next(model.parameters()).dtype == torch.float32
    assert tokenizer.chat_template
    assert list(tmp_path.iterdir()) == [output]


def test_same_seed_same_weights(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (build_model(TINY, tokenizer, seed) for seed in (3, 3))
    short = Recipe(**{**vars(TINY), "items": 96, "primer": 32})
    for model in (first, second):
        fit(model, tokenizer, short, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_refusals_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(UndertowError, match="nobody"):
        train("nobody", 0, tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("something")
    with pytest.raises(UndertowError, match="not empty"):
        train("aligned", 0, tmp_path / "full")


def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    def stop(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("undertow.organism.recipe.train_tokenizer", lambda written: tokenizer)
    monkeypatch.setattr("undertow.organism.recipe.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        train("aligned", 0, tmp_path / "made", progress=False, recipe=TINY, n=0)
    assert list(tmp_path.iterdir()) == []


def test_learning_rate_warms_up_and_falls() -> None:
    recipe = RECIPES["aligned"]
    values = [rate(step, 5000, recipe) for step in range(5000)]
    assert max(values) == pytest.approx(1)
    assert values[0] < 0.02
    assert values[-1] < 0.05


def test_batches_hold_items_of_similar_length(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = batches(ItemMaker(0), tokenizer, 16, pool=8)
    spreads = []
    for _ in range(16):
        lengths = [len(one.ids) for one in next(stream)]
        assert len(lengths) == 16
        spreads.append(max(lengths) - min(lengths))
    assert sorted(spreads)[8] <= 12
