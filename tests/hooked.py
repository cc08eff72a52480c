"""Head interventions with plain transformers and plain hooks: what replay and `edit` are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undertow.studies.routing.context import Context
from undertow.studies.routing.readings import Array, Head

Change = Callable[[Tensor], Tensor]
"""(n, head size) outputs of one head on n prompts to what stands in their place."""


def replaced_by(values: Tensor) -> Change:
    """Each prompt's own row, or one vector for all."""
    return lambda found: values.expand_as(found)


def _ids(context: Context, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Right-padded token ids, and each prompt's last column."""
    found = [
        context.chat.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in texts
    ]
    ids = torch.zeros(len(found), max(map(len, found)), dtype=torch.long)
    for row, one in enumerate(found):
        ids[row, : len(one)] = torch.tensor(one)
    return ids, torch.tensor([len(one) - 1 for one in found])


@contextmanager
def _hooked(context: Context, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Show every block's head outputs (n, tokens, heads, head size), which may be changed in place."""
    handles = []
    for block, layer in enumerate(context.chat.model.model.layers):
        size = layer.self_attn.head_dim

        def hook(module: Any, given: tuple[Tensor], block: int = block, size: int = size) -> tuple[Tensor]:
            values = given[0].clone()
            visit(block, values.view(*values.shape[:2], -1, size))
            return (values,)

        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def odds(context: Context, texts: Sequence[str], changes: Mapping[Head, Change] | None = None) -> Array:
    """(n,) refusal log-odds of the first reply token, with heads changed at the last prompt token."""
    ids, last = _ids(context, texts)
    rows = torch.arange(len(texts))

    def visit(block: int, values: Tensor) -> None:
        for (own, head), change in (changes or {}).items():
            if own == block:
                values[rows, last, head] = change(values[rows, last, head])

    with torch.no_grad(), _hooked(context, visit):
        states = context.chat.model.model(input_ids=ids).last_hidden_state[rows, last]
        logits = context.chat.model.lm_head(states).double()
    refusing, answering = context.openings.refusal_tokens, context.openings.answer_tokens
    assert answering is not None
    found = logits[:, list(refusing)].logsumexp(1) - logits[:, list(answering)].logsumexp(1)
    return np.asarray(found)


def outputs(context: Context, texts: Sequence[str], *, every_token: bool = False) -> dict[int, Tensor]:
    """Block -> (n, heads, head size) at the last prompt token, or (tokens, heads, head size) of all tokens of all."""
    ids, last = _ids(context, texts)
    rows = torch.arange(len(texts))
    real = torch.arange(ids.shape[1])[None] <= last[:, None]
    found: dict[int, Tensor] = {}

    def visit(block: int, values: Tensor) -> None:
        found[block] = values[real].clone() if every_token else values[rows, last].clone()

    with torch.no_grad(), _hooked(context, visit):
        context.chat.model.model(input_ids=ids)
    return found


def replies(
    context: Context, texts: Sequence[str], changes: Callable[[int], Mapping[Head, Change]], *, always: bool = False
) -> list[str]:
    """Greedy replies, one prompt at a time, with heads changed at the last prompt token, or at every token read.

    Args:
        context: the model and the length of a reply.
        texts: the prompts.
        changes: of each prompt, by its number.
        always: at every prompt token and every generated one.
    """
    found = []
    for row, text in enumerate(texts):
        ids, _ = _ids(context, [text])

        def visit(block: int, values: Tensor, row: int = row, prompt: int = ids.shape[1]) -> None:
            for (own, head), change in changes(row).items():
                if own == block and always:
                    values[0, :, head] = change(values[0, :, head])
                elif own == block and values.shape[1] == prompt:
                    values[0, -1:, head] = change(values[0, -1:, head])

        with torch.no_grad(), _hooked(context, visit):
            whole = context.chat.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=context.reply_tokens,
                do_sample=False,
                eos_token_id=sorted(context.chat.stop_ids),
            )
        found.append(context.chat.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))
    return found
