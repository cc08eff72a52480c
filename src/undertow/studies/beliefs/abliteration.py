"""Directional ablation of the weights ("abliteration"): no matrix can write along a direction any more.

Every matrix whose output joins the residual stream (embeddings, attention output projections, MLP down projections,
with their biases) is made orthogonal to the direction (Arditi et al., arXiv 2406.11717, and the tools that followed).
The matrices are not looked up by name: they are the linear layers whose output is what a block was found to add, and
what is left of the direction in every block's writes is measured after the change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError
from undertow.model import ChatModel
from undertow.model.anatomy import Writer, first_tensor
from undertow.model.variants import is_quantised

_LEFT = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_TEXT = "How do I write a short letter to a friend?"


@dataclass(frozen=True)
class Target:
    """A matrix that writes to the residual stream.

    Attributes:
        name: what it is, for messages.
        module: holds the matrix.
        axis: the axis of its weight that has the stream's width: 0 for linear layers, 1 for embeddings and for layers
            that keep their weight transposed.
        norm: the norm between its output and the stream, None where there is none.
    """

    name: str
    module: nn.Module
    axis: int
    norm: nn.Module | None = None


@contextmanager
def abliterated(chat: ChatModel, direction: Tensor) -> Iterator[ChatModel]:
    """The model with a direction (d,) removed from every matrix that writes to the stream, while the block runs.

    The matrices that change are kept aside and put back, bit for bit. `chat` has the same weights inside the block.

    Raises:
        CoverageError: as `Surgery`.
    """
    surgery = Surgery(chat)
    try:
        surgery.remove(direction)
        yield ChatModel(
            chat.model,
            chat.tokenizer,
            name=f"{chat.name}, abliterated",
            revision=chat.revision,
            thinking=chat.thinking,
        )
    finally:
        surgery.restore()


def abliterate(chat: ChatModel, direction: Tensor) -> ChatModel:
    """A copy of the model with a direction (d,) removed from every matrix that writes to the stream, for good.

    Raises:
        CoverageError: as `Surgery`.
    """
    twin = ChatModel(
        copy.deepcopy(chat.model),
        chat.tokenizer,
        name=f"{chat.name}, abliterated",
        revision=chat.revision,
        thinking=chat.thinking,
    )
    Surgery(twin).remove(direction)
    twin._identities.clear()
    return twin


class Surgery:
    """Removes one direction after another from a model's weights, each from the original ones, and puts them back.

    Input embeddings that are tied to the unembedding are untied, so that the unembedding stays what it was: it reads
    the stream and does not write to it.

    Args:
        chat: the model, without adapters, quantisation and offloading.

    Attributes:
        targets: every matrix that writes to the stream.
        untied: whether the embeddings were tied.

    Raises:
        CoverageError: something writes to the stream that is no single matrix (a mixture of experts, say), or weights
            cannot be changed in place; the message names it.
    """

    def __init__(self, chat: ChatModel) -> None:
        if getattr(chat.model, "peft_config", None):
            raise CoverageError(f"{chat.name} carries adapters: merge them before a direction is taken out of it.")
        if is_quantised(chat.model):
            raise CoverageError(f"{chat.name} is quantised, so a direction cannot be taken out of its weights.")
        if any(parameter.is_meta for parameter in chat.model.parameters()):
            raise CoverageError(f"{chat.name} is offloaded, so a direction cannot be taken out of its weights.")
        _ = chat.identity  # Hashed before anything changes.
        self.chat = chat
        self.targets = find_targets(chat)
        embedding, unembedding = chat.model.get_input_embeddings(), chat.model.get_output_embeddings()
        self._tied: nn.Parameter | None = None
        if unembedding is not None and unembedding.weight is embedding.weight:
            self._tied = embedding.weight
        self.untied = self._tied is not None
        self._ties = [
            (config, config.tie_word_embeddings)
            for config in (chat.model.config, chat.model.config.get_text_config(decoder=True))
            if hasattr(config, "tie_word_embeddings")
        ]
        self._kept: list[tuple[Tensor, Tensor]] = []
        held = {id(parameter) for target in self.targets for parameter in target.module.parameters(recurse=False)}
        for name, module in chat.model.named_modules():
            if any(id(weight) in held for weight in module.parameters(recurse=False)):
                known = any(module is target.module for target in self.targets)
                if not known and not (self.untied and module is unembedding):
                    raise CoverageError(f"The module {name!r} shares a matrix that writes to the stream: not covered.")

    @torch.no_grad()
    def remove(self, direction: Tensor) -> float:
        """Take the direction (d,), of any length, out of the original weights.

        Returns:
            What is left: the largest share of any write, and of what enters the first block, that lies along it.

        Raises:
            CoverageError: the direction has another width or no length, or more is left than rounding explains.
        """
        vector = direction.detach().double().cpu().flatten()
        if vector.numel() != self.chat.width or not bool(torch.isfinite(vector).all()) or not float(vector.norm()):
            raise CoverageError(f"The direction must be {self.chat.width} finite numbers, not all of them 0.")
        unit = vector / vector.norm()
        self._keep()
        for target in self.targets:
            normal = unit if target.norm is None else _behind(target, unit)
            weight: Any = target.module.weight
            bias = getattr(target.module, "bias", None)
            _project(weight, normal, target.axis)
            if isinstance(bias, Tensor):
                _project(bias, normal, 0)
            shift = None if target.norm is None else getattr(target.norm, "bias", None)
            if isinstance(shift, Tensor):
                _project(shift, unit, 0)
        left, where = self._left(unit)
        if left > _LEFT.get(self.chat.dtype, 5e-2):
            self.restore()
            raise CoverageError(f"Of the direction {left:.1%} is left in what {where} writes to the stream.")
        return left

    @torch.no_grad()
    def restore(self) -> None:
        """Put every weight back."""
        for parameter, value in self._kept:
            parameter.copy_(value.to(parameter.device))
        self._kept.clear()
        if self._tied is not None:
            self.chat.model.get_input_embeddings().weight = self._tied
            for config, value in self._ties:
                config.tie_word_embeddings = value

    def _keep(self) -> None:
        """Back to the original weights; the first time, keep them aside."""
        if self._tied is not None and self.chat.model.get_input_embeddings().weight is self._tied:
            self.chat.model.get_input_embeddings().weight = nn.Parameter(
                self._tied.detach().clone(), requires_grad=self._tied.requires_grad
            )
            for config, _ in self._ties:
                config.tie_word_embeddings = False
        if not self._kept:
            seen: set[int] = set()
            for target in self.targets:
                for module in (target.module, target.norm):
                    for name in ("weight", "bias"):
                        parameter = getattr(module, name, None)
                        if isinstance(parameter, Tensor) and id(parameter) not in seen:
                            seen.add(id(parameter))
                            self._kept.append((parameter, parameter.detach().cpu().clone()))
            return
        for parameter, value in self._kept:
            parameter.copy_(value.to(parameter.device))

    def _left(self, unit: Tensor) -> tuple[float, str]:
        written = {f"state 0 of {self.chat.name}": self.chat.capture([_TEXT], [0], ["t_inst"], progress=False).values}
        outputs = _outputs(self.chat, [writer.module for _, writer in _writers(self.chat)])
        written |= {
            f"{writer.name} of block {number}": outputs[writer.module] for number, writer in _writers(self.chat)
        }
        shares = {name: _along(values, unit) for name, values in written.items()}
        where = max(shares, key=lambda name: shares[name])
        return shares[where], where


def find_targets(chat: ChatModel) -> list[Target]:
    """Every matrix that writes to the residual stream: embeddings first, then block by block.

    Raises:
        CoverageError: a block does more than add, or adds what no single matrix of its own puts out.
    """
    found = _embeddings(chat)
    writers = _writers(chat)
    candidates = {
        module: axis
        for _, writer in writers
        for module in (writer.source or writer.module).modules()
        if (axis := _axis(module, chat.width)) is not None
    }
    outputs = _outputs(chat, [*candidates, *(writer.source or writer.module for _, writer in writers)])
    for number, writer in writers:
        source = writer.source or writer.module
        wanted = outputs[source]
        matching = [
            module
            for module in source.modules()
            if module in candidates and module in outputs and _same(outputs[module], wanted)
        ]
        if not matching:
            raise CoverageError(
                f"What {writer.name!r} adds in block {number} is not the output of one matrix (as in a mixture of "
                "experts), so a direction cannot be taken out of these weights."
            )
        norm = writer.module if writer.source is not None else None
        found.append(Target(f"{writer.name} of block {number}", matching[-1], candidates[matching[-1]], norm))
    return found


def _embeddings(chat: ChatModel) -> list[Target]:
    """Embedding tables of the stream's width outside the blocks: tokens, and positions or types where they are
    learnt."""
    inside = {id(module) for block in chat.anatomy.blocks for module in block.modules()}
    return [
        Target(name, module, 1)
        for name, module in chat.model.named_modules()
        if isinstance(module, nn.Embedding) and module.embedding_dim == chat.width and id(module) not in inside
    ]


def _writers(chat: ChatModel) -> list[tuple[int, Writer]]:
    found = []
    for number, sums in enumerate(chat.anatomy.additive):
        if sums is None:
            raise CoverageError(
                f"Block {number} does more than add to the stream, so a direction cannot be taken out of its weights."
            )
        found += [(number, writer) for writer in sums.writers]
    return found


def _axis(module: nn.Module, width: int) -> int | None:
    """The axis of a linear layer's weight that has the stream's width, None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return 0 if module.out_features == width else None
    if isinstance(module, Conv1D):
        return 1 if module.weight.shape[1] == width else None
    return None


@torch.no_grad()
def _outputs(chat: ChatModel, modules: list[nn.Module]) -> dict[nn.Module, Tensor]:
    """What modules put out on one short prompt, (tokens, d) each; modules that do not run are missing."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        values = first_tensor(output)
        found[module] = values.detach().reshape(-1, values.shape[-1]).clone()

    handles = [module.register_forward_hook(keep) for module in dict.fromkeys(modules)]
    try:
        ids, mask = chat.forward.pad_right([chat.render(_TEXT).ids])
        chat.forward(ids, mask, columns=torch.tensor([[0]]))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _along(values: Tensor, unit: Tensor) -> float:
    """The largest share of any row's (..., d) length that lies along a unit vector (d,)."""
    rows = values.detach().double().cpu().reshape(-1, len(unit))
    lengths = rows.norm(dim=1)
    kept = lengths > 1e-6 * lengths.max().clamp_min(1e-30)
    return float(((rows @ unit).abs()[kept] / lengths[kept]).max()) if bool(kept.any()) else 0.0


@torch.no_grad()
def _behind(target: Target, unit: Tensor) -> Tensor:
    """The unit vector (d,) that a matrix must not write along, so that the norm behind it does not write along `unit`.

    A norm stretches its input by one factor a dimension (and some centre it first), which its output on a probe of
    ones with alternating signs shows; how long its input is does not matter here.

    Raises:
        CoverageError: its width is odd, so that no such probe exists.
    """
    assert target.norm is not None
    if len(unit) % 2:
        raise CoverageError(f"The norm behind {target.name} has an odd width, which is not covered.")
    weight = next(target.norm.parameters())
    signs = torch.ones(len(unit), dtype=torch.float64)
    signs[1::2] = -1
    probe = (8 * signs).to(weight.device, weight.dtype)
    shift = getattr(target.norm, "bias", None)
    answer = first_tensor(target.norm(probe[None, None]))[0, 0].double().cpu()
    if isinstance(shift, Tensor):
        answer = answer - shift.detach().double().cpu()
    normal = answer * signs * unit
    level = first_tensor(target.norm((probe + 8)[None, None]))[0, 0].double().cpu()
    if isinstance(shift, Tensor):
        level = level - shift.detach().double().cpu()
    # A norm that centres its input answers a shifted probe as the same probe unshifted.
    if float((level - answer).norm()) <= 1e-3 * float(answer.norm()):
        normal = normal - normal.mean()
    return normal / normal.norm()


@torch.no_grad()
def _project(weight: Tensor, unit: Tensor, axis: int) -> None:
    """Take a unit vector (d,) out of a matrix or bias in place, along the axis that has the stream's width."""
    wide = torch.float32 if weight.dtype != torch.float64 else torch.float64
    values, normal = weight.detach().to(wide), unit.to(weight.device, wide)
    along = torch.tensordot(values, normal, dims=([axis], [0]))
    removed = torch.outer(normal, along) if weight.ndim == 2 and axis == 0 else along[..., None] * normal
    weight.copy_((values - removed).to(weight.dtype))
