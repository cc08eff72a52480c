"""Trains the model organism from nothing: `train("aligned", seed, output)`."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import UndertowError
from undertow.organism.bilingual import BilingualItemMaker
from undertow.organism.extension import bilingual_tokenizer, continued, meanings
from undertow.organism.gist import Encoded, collate, encode
from undertow.organism.grammar import trainable
from undertow.organism.items import ItemMaker
from undertow.organism.optimizer import Muon
from undertow.organism.registry import weights_path
from undertow.organism.tokenizer import CONTEXT, train_tokenizer
from undertow.prompts import Prompt, PromptSet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run, besides the seed.

    `finish` items follow the main phase, of wider sentences, at `finish_rate` times its learning rates. With `start`
    the training goes on from a built-in organism of that name, whose shape it keeps, and all sentences are wide.
    """

    layers: int = 6
    width: int = 128
    heads: int = 4
    inner: int = 384
    items: int = 150_000
    primer: int = 36_000
    batch: int = 64
    matrix_rate: float = 4e-3
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 150
    finish: int = 0
    finish_rate: float = 0.3
    start: str | None = None


FINISHING_SEED = 10_000
RECIPES: dict[str, Recipe] = {
    "aligned": Recipe(finish=24_000),
    "bilingual": Recipe(start="aligned", items=64_000, primer=6_000, matrix_rate=1e-3, finish=28_800, finish_rate=0.6),
}


def build_model(recipe: Recipe, tokenizer: Any, seed: int) -> torch.nn.Module:
    """A Llama with random weights for the recipe and the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
        rms_norm_eps=1e-5,
    )
    return LlamaForCausalLM(config)


def batches(maker: ItemMaker, tokenizer: Any, size: int, pool: int = 32) -> Iterator[list[Encoded]]:
    """Batches of similar length: `pool` batches are drawn at a time, sorted by length, handed out in random order."""
    generator = random.Random(0)
    while True:
        encoded = encode([maker.draw() for _ in range(size * pool)], tokenizer)
        encoded.sort(key=lambda one: len(one.ids))
        grouped = [encoded[start : start + size] for start in range(0, len(encoded), size)]
        generator.shuffle(grouped)
        yield from grouped


def batch_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weighted mean cross-entropy over the learned tokens of a collated batch."""
    import torch

    hidden = model.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    logits = model.lm_head(hidden[batch["rows"], batch["columns"]])
    losses = torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="none")
    return (losses * batch["weights"]).sum() / batch["weights"].sum()


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """Share of the learning rates at a step: linear warm-up, then a half cosine down to a fiftieth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    seed: int,
    written: Sequence[Prompt] = (),
    advance: Callable[[int, float], None] = lambda _items, _loss: None,
    split: str = "train",
    maker: type[ItemMaker] = ItemMaker,
) -> float:
    """Trains a model in place on freshly drawn items.

    Args:
        model: the model, from `build_model`.
        tokenizer: its tokenizer.
        recipe: how long and how fast.
        seed: seed of the items.
        written: written prompts to mix in.
        advance: told after every step the number of items and the running loss (nats a token).
        split: sentences to draw, ``train`` or ``finish``.
        maker: what draws the items.

    Returns:
        The running loss at the end.
    """
    import torch

    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
    muon = Muon(matrices, recipe.matrix_rate, weight_decay=recipe.weight_decay)
    adam = torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    stream = batches(maker(seed, written, recipe.primer, split), tokenizer, recipe.batch)
    steps = recipe.items // recipe.batch
    running = 0.0
    model.train()
    for step in range(steps):
        share = rate(step, steps, recipe)
        muon.learning_rate = share * recipe.matrix_rate
        for group in adam.param_groups:
            group["lr"] = share * recipe.learning_rate
        loss = batch_loss(model, collate(next(stream), tokenizer.pad_token_id))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        advance(recipe.batch, running)
    model.eval()
    return running


def finish(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    seed: int,
    written: Sequence[Prompt] = (),
    advance: Callable[[int, float], None] = lambda _items, _loss: None,
    maker: type[ItemMaker] = ItemMaker,
) -> float:
    """The finishing phase, after `fit`: wider sentences, smaller steps, a seed of its own. Arguments as for `fit`."""
    shorter = replace(
        recipe,
        items=recipe.finish,
        primer=0,
        matrix_rate=recipe.matrix_rate * recipe.finish_rate,
        learning_rate=recipe.learning_rate * recipe.finish_rate,
        warmup=min(recipe.warmup, 20),
    )
    return fit(model, tokenizer, shorter, seed + FINISHING_SEED, written, advance, "finish", maker)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes the organism in plain Hugging Face format."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=64, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(
    name: str,
    seed: int,
    output: str | Path,
    *,
    threads: int | None = None,
    progress: bool = True,
    recipe: Recipe | None = None,
    n: int = 300,
) -> Path:
    """Makes an organism from nothing: tokenizer, weights, evaluation and card.

    The output folder appears only when everything is done; an interrupted run leaves nothing behind.

    Args:
        name: one of `RECIPES`.
        seed: seed of the weights and of the items.
        output: folder to write; it must not exist or must be empty.
        threads: threads that torch uses; None leaves torch's own choice.
        progress: whether to show a progress bar and the final table.
        recipe: another recipe in place of the named one, for trials.
        n: prompts a cell of the final evaluation; 0 leaves the evaluation and the card out.

    Returns:
        The output folder.

    Raises:
        UndertowError: no such recipe, or the output folder is not empty.
    """
    import torch

    from undertow.organism.card import Run, write_card

    if name not in RECIPES:
        raise UndertowError(f"There is no organism {name!r} to train; there is {', '.join(RECIPES)}.")
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UndertowError(f"The output folder {output} is not empty; name a new one.")
    chosen = recipe or RECIPES[name]
    if threads:
        torch.set_num_threads(threads)
    began, began_processor = time.monotonic(), time.process_time()
    if chosen.start:
        tokenizer = bilingual_tokenizer(weights_path(chosen.start))
        model = continued(weights_path(chosen.start), name, tokenizer, seed, meanings())
    else:
        tokenizer = train_tokenizer(list(PromptSet.builtin("all")))
        model = build_model(chosen, tokenizer, seed)
    maker, split = (BilingualItemMaker, "finish") if chosen.start else (ItemMaker, "train")
    written = trainable(PromptSet.builtin("train"))
    with _display((chosen.items // chosen.batch + chosen.finish // chosen.batch) * chosen.batch, progress) as advance:
        loss = fit(model, tokenizer, chosen, seed, written, advance, split, maker)
        if chosen.finish >= chosen.batch:
            loss = finish(model, tokenizer, chosen, seed, written, advance, maker)
    minutes, processor = (time.monotonic() - began) / 60, (time.process_time() - began_processor) / 60
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".undertow-", dir=output.parent) as temporary:
        folder = Path(temporary) / name
        save(model, tokenizer, folder)
        if n:
            from undertow.organism.evaluation import evaluate

            evaluation = evaluate(folder, n=n, seed=seed, progress=progress)
            write_card(
                folder,
                name,
                [Run(seed, minutes, processor, torch.get_num_threads(), loss, asdict(chosen), evaluation)],
                seed,
            )
            if progress:
                from rich.console import Console

                Console(stderr=True).print(evaluation.table())
        if output.exists():
            output.rmdir()
        shutil.move(folder, output)
    return output


@contextmanager
def _display(total: int, enabled: bool) -> Iterator[Callable[[int, float], None]]:
    """A progress bar that also shows the running loss; where standard error is no terminal, a line every twentieth."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:.0f} items/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, disable=not (enabled and console.is_terminal)) as display:
        task = display.add_task("training", total=total, loss=float("nan"), speed=0.0)
        done = 0

        def advance(items: int, loss: float) -> None:
            nonlocal done
            before, done = done, done + items
            speed = done / max(time.monotonic() - began, 1e-9)
            display.update(task, advance=items, loss=loss, speed=speed)
            if enabled and not console.is_terminal and done * 20 // total > before * 20 // total:
                console.print(f"{done} of {total} items, loss {loss:.3f}, {speed:.0f} items/s", highlight=False)

        yield advance
