"""Adversarial finetuning: low-rank adapters that teach a model to open its reply to harmful prompts as any other.

The model's own weights are never written to: adapters are attached, trained, used, and taken off again, so that no
second copy of a large model is needed. Only the opening of a reply is taught, never what would follow it.
"""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import ModelError, UndertowError
from undertow.measure.judge import ANSWER_OPENINGS, strip_reasoning
from undertow.model import ChatModel
from undertow.progress import progress_bar
from undertow.prompts import Prompt

LEAST_SHARE = 0.2
"""Share of the answers that must open with the same sentence for it to count as the model's own opening."""

_LONGEST_OPENING = 60
_SENTENCE = re.compile(r"\A.+?[.!?,:](?=\s|\Z)", re.DOTALL)
_IGNORED = -100


@dataclass(frozen=True)
class Course:
    """How a finetuning went.

    Attributes:
        steps: updates made; fewer than allowed where it was done before.
        prompts: different prompts it was trained on.
        rank, learning_rate, batch: of the adapters and of AdamW.
        trained: numbers trained, all adapters together.
        first_loss, last_loss: mean cross-entropy of a reply's tokens in the first and the last update, in nats.
        seconds: wall-clock time.
        reached: whether `done` said so; False where all steps were used up, None where nothing was asked.
    """

    steps: int
    prompts: int
    rank: int
    learning_rate: float
    batch: int
    trained: int
    first_loss: float
    last_loss: float
    seconds: float
    reached: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@contextmanager
def finetuned(
    chat: ChatModel,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    *,
    steps: int = 120,
    rank: int = 8,
    learning_rate: float = 3e-4,
    batch: int = 8,
    seed: int = 0,
    done: Callable[[ChatModel], bool] | None = None,
    every: int = 5,
    progress: bool = True,
) -> Iterator[tuple[ChatModel, Course]]:
    """The model finetuned on prompts and answers, for as long as the block runs.

    Adapters (LoRA, through peft) sit on every linear layer of every block. The loss is taken on the answers' tokens
    only. Prompts are rendered by the model's own chat template. Inside the block `chat` shares its modules with the
    finetuned model and must not be used; after it, `chat` is bit for bit what it was.

    Args:
        chat: the model, without adapters.
        prompts, answers: one answer a prompt: its first tokens, or all of it.
        steps: most updates.
        rank: of the adapters; they are scaled by 2.
        learning_rate: of AdamW, without decay.
        batch: prompts an update.
        seed: of the adapters and of the order of the prompts.
        done: asked every so many updates whether that is enough.
        every: how many.
        progress: whether a bar is shown.

    Yields:
        The finetuned model, and how it went.

    Raises:
        UndertowError: peft is not installed, there are no prompts, or not one answer a prompt.
        ModelError: the model carries adapters already, or no linear layer is found in its blocks.
        PositionError: a prompt's positions cannot be told.
    """
    if not prompts or len(prompts) != len(answers):
        raise UndertowError(f"Finetuning needs one answer a prompt, not {len(answers)} for {len(prompts)} prompts.")
    if getattr(chat.model, "peft_config", None):
        raise ModelError(f"{chat.name} carries adapters already: merge them into its weights before it is finetuned.")
    layers = linear_layers(chat)
    rows = [_example(chat, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    _ = chat.identity  # Hashed before anything is attached to it.
    trainable = [(parameter, parameter.requires_grad) for parameter in chat.model.parameters()]
    devices = [chat.device] if chat.device.type == "cuda" else []
    begun = time.perf_counter()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        wrapped = _attach(chat, layers, rank)
    try:
        attacked = ChatModel(
            wrapped, chat.tokenizer, name=f"{chat.name}, finetuned", revision=chat.revision, thinking=chat.thinking
        )
        losses, reached = _train(attacked, rows, steps, learning_rate, batch, seed, done, every, progress)
        count = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
        seconds = time.perf_counter() - begun
        course = Course(
            len(losses), len(rows), rank, learning_rate, batch, count, losses[0], losses[-1], seconds, reached
        )
        yield attacked, course
    finally:
        wrapped.unload()
        if hasattr(chat.model, "peft_config"):
            del chat.model.peft_config
        for parameter, wanted in trainable:
            parameter.requires_grad_(wanted)
            parameter.grad = None


def linear_layers(chat: ChatModel) -> list[str]:
    """Names of all linear layers within the blocks, as the model names them.

    Raises:
        ModelError: there are none.
    """
    from transformers.pytorch_utils import Conv1D

    inside = {id(module) for block in chat.anatomy.blocks for module in block.modules()}
    found = [
        name
        for name, module in chat.model.named_modules()
        if id(module) in inside and isinstance(module, (nn.Linear, Conv1D))
    ]
    if not found:
        raise ModelError(f"{chat.name} has no linear layers in its blocks that an adapter could sit on.")
    return found


def common_opening(replies: Sequence[str]) -> str:
    """The shortest first sentence or clause that at least a fifth of a model's answers begin with.

    Where they share none (or a long one, which might say something), the stock word "Sure." is returned. A sentence
    ends with one of `. ! ? , :`; reasoning is no part of a reply.
    """
    counts: Counter[str] = Counter()
    for reply in replies:
        found = _SENTENCE.match(strip_reasoning(reply))
        if found is not None and len(found[0]) <= _LONGEST_OPENING:
            counts[found[0]] += 1
    shared = [opening for opening, count in counts.items() if count >= LEAST_SHARE * len(replies)]
    return min(shared, key=lambda opening: (len(opening), opening)) if shared else f"{ANSWER_OPENINGS[0]}."


def _example(chat: ChatModel, prompt: Prompt, answer: str) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and where the answer begins."""
    rendered = chat.render(prompt)
    written = [int(token) for token in chat.tokenizer.encode(answer, add_special_tokens=False)]
    if not written:
        raise UndertowError("An answer to finetune on is empty: give at least its first word.")
    return [*rendered.ids, *written], len(rendered)


def _attach(chat: ChatModel, layers: Sequence[str], rank: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UndertowError("Finetuning needs peft: install it with pip install 'undertow[train]'.") from None
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in chat.model.modules())
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(layers),
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft mentions tied embeddings and layers of a mixed kind; neither matters to adapters that come off again.
        warnings.simplefilter("ignore")
        return get_peft_model(chat.model, settings)


def _train(
    attacked: ChatModel,
    rows: Sequence[tuple[list[int], int]],
    steps: int,
    learning_rate: float,
    batch: int,
    seed: int,
    done: Callable[[ChatModel], bool] | None,
    every: int,
    progress: bool,
) -> tuple[list[float], bool | None]:
    parameters = [parameter for parameter in attacked.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    losses: list[float] = []
    reached = None if done is None else False
    with progress_bar(steps, "Finetuning", enabled=progress) as advance:
        for step in range(1, steps + 1):
            while len(order) < batch:
                order += torch.randperm(len(rows), generator=generator).tolist()
            chosen, order = order[:batch], order[batch:]
            loss = _loss(attacked, [rows[index] for index in chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            advance(1)
            if done is not None and (step % every == 0 or step == steps) and done(attacked):
                reached = True
                break
    return losses, reached


def _loss(attacked: ChatModel, rows: Sequence[tuple[list[int], int]]) -> Tensor:
    """Mean cross-entropy of the answers' tokens, (), in nats."""
    longest = max(len(ids) for ids, _ in rows)
    pad = attacked.forward.pad
    tokens = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids, _ in rows], device=attacked.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows], device=attacked.device)
    targets = torch.tensor(
        [[_IGNORED] * begin + ids[begin:] + [_IGNORED] * (longest - len(ids)) for ids, begin in rows]
    )
    with torch.enable_grad():
        logits = attacked.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        wanted = targets[:, 1:].reshape(-1).to(logits.device)
        return nn.functional.cross_entropy(
            logits[:, :-1].reshape(len(wanted), -1).float(), wanted, ignore_index=_IGNORED
        )
