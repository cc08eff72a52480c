"""What any module of a model is given or returns at t_post, under the edits in force."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from undertow.model.anatomy import first_tensor, hidden_input
from undertow.model.batching import run_batches
from undertow.model.hooks import attached
from undertow.model.program import Frame, Program
from undertow.progress import progress_bar
from undertow.prompts import as_prompts

if TYPE_CHECKING:
    from undertow.model.chat import ChatModel


@dataclass(frozen=True)
class Observation:
    """What was seen at t_post of every prompt.

    Attributes:
        outputs: for each module asked for, what it returned: (n, width), float32, CPU.
        inputs: for each module asked for, what it was given: (n, width), float32, CPU.
        logits: (n, vocabulary), float32, CPU: the model's own logits, not normalised.
    """

    outputs: list[Tensor]
    inputs: list[Tensor]
    logits: Tensor


def observe(
    chat: ChatModel,
    prompts: Any,
    outputs: Sequence[nn.Module] = (),
    inputs: Sequence[nn.Module] = (),
    *,
    progress: bool = False,
) -> Observation:
    """Run prompts and read modules at t_post; an edit at the same module is seen as it applies.

    Args:
        chat: the model.
        prompts: whatever `as_prompts` accepts.
        outputs: modules whose output is wanted; each must run once a pass.
        inputs: modules whose first input is wanted.
        progress: whether to show a bar.

    Raises:
        PositionError: a prompt's positions cannot be told.
    """
    rendered = chat.renderer.render_many(as_prompts(prompts))
    program = Program(chat.anatomy, chat.edits, rendered)
    left: list[list[Tensor]] = [[torch.empty(0)] * len(rendered) for _ in outputs]
    given: list[list[Tensor]] = [[torch.empty(0)] * len(rendered) for _ in inputs]
    logits: list[Tensor] = [torch.empty(0)] * len(rendered)
    shape, batch_now, columns_now = [0, 0], [0], [0]

    def keep(store: list[Tensor], values: Tensor) -> None:
        values = values.detach()
        if values.dim() == 3 and values.shape[1] == 1:
            # The unembedding is given t_post alone.
            rows = values[:, 0]
        else:
            # Some modules see (rows x tokens, width).
            rows = values.reshape(shape[0], shape[1], -1)[torch.arange(shape[0]), torch.tensor(columns_now)]
        rows = rows.float().cpu()
        for index, row in zip(batch_now, rows, strict=True):
            store[index] = row

    def on_output(store: list[Tensor]) -> Any:
        return lambda module, arguments, output: keep(store, first_tensor(output))

    def on_input(store: list[Tensor]) -> Any:
        return lambda module, arguments, keywords: keep(store, hidden_input(arguments, keywords))

    def step(batch: list[int]) -> None:
        items = [rendered[index] for index in batch]
        ids, mask = chat.forward.pad_right([item.ids for item in items])
        program.look_at(Frame(batch, [0] * len(batch), [len(item) for item in items], ids.shape[1]))
        shape[:] = ids.shape
        batch_now[:] = batch
        columns_now[:] = [item.t_post for item in items]
        scores, _ = chat.forward(ids, mask, columns=torch.tensor(columns_now).unsqueeze(1))
        for index, row in zip(batch, scores[:, 0].float().cpu(), strict=True):
            logits[index] = row

    with ExitStack() as stack:
        stack.enter_context(attached(chat.anatomy, program.visits()))
        for module, store in zip(outputs, left, strict=True):
            stack.callback(module.register_forward_hook(on_output(store)).remove)
        for module, store in zip(inputs, given, strict=True):
            stack.callback(module.register_forward_pre_hook(on_input(store), with_kwargs=True).remove)
        advance = stack.enter_context(progress_bar(len(rendered), "Reading modules", enabled=progress))
        for done in run_batches([len(item) for item in rendered], chat.budget, step):
            advance(done)
    return Observation([torch.stack(rows) for rows in left], [torch.stack(rows) for rows in given], torch.stack(logits))
