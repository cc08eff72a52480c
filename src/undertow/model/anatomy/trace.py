"""One short forward pass that records what flows through a model's blocks, module by module.

Three rows are read at once: a sequence, the same with another last token, and the same cut short and padded on the
right. Between them they show whether a token sees what comes after it and whether padding leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from undertow.errors import CoverageError
from undertow.model.anatomy.parts import first_tensor, hidden_input
from undertow.model.variants import input_device

ROWS, TOKENS, KEPT = 3, 6, 4


@dataclass
class Call:
    """One call of a module inside a block.

    Attributes:
        name: path within the block.
        module: the module.
        begun: a counter that orders starts and ends of calls and attention operations.
        ended: the same, at its end.
        entered: a copy of its input where that is the only tensor it was given, else None.
        left: a copy of the tensor it returned, None where it returned none.
    """

    name: str
    module: nn.Module
    begun: int
    ended: int = -1
    entered: Tensor | None = None
    left: Tensor | None = None


@dataclass(frozen=True)
class AttentionOperation:
    """One softmax over tokens: when it ran, over how many heads, and how wide each head's values are (if known)."""

    at: int
    heads: int
    size: int | None


@dataclass
class BlockTrace:
    """What one block did: its input and output, the calls inside it, its attention operations."""

    entered: Tensor
    left: Tensor | None = None
    calls: list[Call] = field(default_factory=list)
    operations: list[AttentionOperation] = field(default_factory=list)


class _Watch(TorchFunctionMode):
    """Sees attention operations as they run, whichever function an architecture computes them with."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            query = args[0] if args else (kwargs or {})["query"]
            value = args[2] if len(args) > 2 else (kwargs or {})["value"]
            if query.dim() == 4 and query.shape[-2] == TOKENS:
                self.trace.operation(query.shape[1], value.shape[-1])
        elif name == "softmax":
            scores = args[0] if args else (kwargs or {}).get("input")
            if isinstance(scores, Tensor) and scores.dim() in (3, 4) and scores.shape[-2] == TOKENS:
                # Some architectures fold the heads into the rows.
                heads = scores.shape[1] if scores.dim() == 4 else scores.shape[0] // ROWS
                if scores.dim() == 4 or scores.shape[0] > ROWS:
                    self.trace.operation(heads, None)
        return func(*args, **(kwargs or {}))


class Trace:
    """The recording of one pass.

    Args:
        model: a Hugging Face causal language model.
        blocks: its list of blocks; those that the pass skips are left out of `blocks` afterwards.

    Attributes:
        blocks: the blocks that ran, in order.
        records: a `BlockTrace` for each.
        published: the model's own hidden states, None where it gives none.
        logits: (rows, tokens, vocabulary).
        after: calls outside the blocks that were given the last state, in order.
        streams: how many tensors of the stream's shape the blocks pass on.
        runs: how often each module inside the blocks ran in the whole pass, by ``id``.
        skipped: how many blocks of the list did not run.

    Raises:
        CoverageError: a block runs more than once.
    """

    def __init__(self, model: Any, blocks: list[nn.Module]) -> None:
        self.blocks: list[nn.Module] = []
        self.records: list[BlockTrace] = []
        self.runs: dict[int, int] = {}
        self._names = {id(block): {id(part): name for name, part in block.named_modules()} for block in blocks}
        self._inside: nn.Module | None = None
        self._open: list[Call] = []
        self._clock = 0
        self.after: list[Call] = []
        self.streams = 1
        inner = {id(part): part for block in blocks for part in block.modules() if part is not block}
        own = {id(block) for block in blocks} | inner.keys()
        handles = []
        for block in blocks:
            handles.append(block.register_forward_pre_hook(self._enter_block, with_kwargs=True))
            handles.append(block.register_forward_hook(self._leave_block))
        for part in inner.values():
            handles.append(part.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(part.register_forward_hook(self._leave))
        for part in model.modules():
            if id(part) not in own and not any(True for _ in part.children()):
                handles.append(part.register_forward_hook(self._leave_outer, with_kwargs=True))
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), _plain_attention(model), _Watch(self):
                output = model(**_inputs(model), use_cache=False, output_hidden_states=True)
        finally:
            for handle in handles:
                handle.remove()
            model.train(training)
        self.published: tuple[Tensor, ...] | None = getattr(output, "hidden_states", None) or None
        self.logits: Tensor = output.logits
        if len({id(block) for block in self.blocks}) != len(self.blocks):
            raise CoverageError("One forward pass enters the same block more than once: such models are not covered.")
        if not self.blocks:
            raise CoverageError("No block of the list that was found runs when the model reads a text.")
        self.skipped = len(blocks) - len(self.blocks)

    @property
    def states(self) -> list[Tensor]:
        """States 0 to L, each (rows, tokens, d_model)."""
        last = self.records[-1].left
        assert last is not None
        return [record.entered for record in self.records] + [last]

    def operation(self, heads: int, size: int | None) -> None:
        """Note an attention operation in the block that is running."""
        if self._inside is not None:
            self._clock += 1
            self.records[-1].operations.append(AttentionOperation(self._clock, heads, size))

    def _enter_block(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._inside is not None:
            return
        self._inside = module
        self.blocks.append(module)
        self.records.append(BlockTrace(hidden_input(arguments, keywords).detach().clone()))

    def _leave_block(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self._inside is module:
            self._inside = None
            self.records[-1].left = left = first_tensor(output).detach().clone()
            if not isinstance(output, Tensor):
                alike = [part for part in output if isinstance(part, Tensor) and part.shape == left.shape]
                self.streams = max(self.streams, sum(part.is_floating_point() for part in alike))

    def _leave_outer(self, module: nn.Module, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        if self._inside is not None or not self.records or not isinstance(output, Tensor):
            return
        last = self.records[-1].left
        given = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
        if last is None or len(given) != 1 or given[0].shape != last.shape:
            return
        if torch.equal(given[0].to(last.device), last):
            self.after.append(Call("", module, self._clock, self._clock, last, output.detach().clone()))

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._inside is None:
            return
        self._clock += 1
        self.runs[id(module)] = self.runs.get(id(module), 0) + 1
        given = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
        entered = given[0].detach().clone() if len(given) == 1 and given[0].is_floating_point() else None
        call = Call(self._names[id(self._inside)].get(id(module), "?"), module, self._clock, entered=entered)
        self._open.append(call)

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if self._inside is None or not self._open:
            return
        # A module that raised and was caught leaves its call open.
        while self._open[-1].module is not module:
            self._open.pop()
        call = self._open.pop()
        self._clock += 1
        call.ended = self._clock
        try:
            call.left = first_tensor(output).detach().clone()
        except CoverageError:
            call.left = None
        self.records[-1].calls.append(call)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Compute attention with PyTorch's own functions during the recording, since fused kernels hide their heads."""
    before = getattr(model.config.get_text_config(decoder=True), "_attn_implementation", None)
    switch = before not in (None, "eager", "sdpa") and hasattr(model, "set_attn_implementation")
    if switch:
        try:
            model.set_attn_implementation("sdpa")
        except ValueError:
            # Some architectures have no sdpa, such as those that soft-cap attention.
            model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if switch:
            model.set_attn_implementation(before)


def _inputs(model: Any) -> dict[str, Tensor]:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = input_device(model)
    ids = (torch.arange(3, 3 + TOKENS) % vocabulary).repeat(ROWS, 1)
    ids[1, -1] = (3 + TOKENS) % vocabulary
    mask = torch.ones_like(ids)
    mask[2, KEPT:] = 0
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
