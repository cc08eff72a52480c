"""Direct logit attribution: what each head, each MLP and the embedding adds to a token's logit, exactly.

The last state is a sum of what the blocks wrote to the stream; with the scale of the final norm held at the prompt's
own value, the logits are linear in it (arXiv 2604.04385, section 3). Post-attention norms are held the same way,
biases are parts of their own, and the parts sum to the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError
from undertow.measure.attribution.norm import FrozenNorm
from undertow.model import ChatModel
from undertow.model.anatomy import Writer
from undertow.model.observe import Observation, observe

_EXACT = {torch.float64: 1e-6, torch.float32: 2e-5, torch.float16: 5e-3}
_LOW_PRECISION = 3e-2


@dataclass(frozen=True)
class Part:
    """One addend of a logit.

    Attributes:
        kind: ``embedding``, ``head``, ``mlp``, ``module``, ``block``, ``bias`` or ``edit``: what edits of a block's
            attention output or of the state after it add (those of state 0 count as embedding).
        block: where it is written, None for the embedding and the model's last biases.
        head: which head, for kind ``head``.
        name: what to call it in a table.
    """

    kind: str
    block: int | None
    head: int | None
    name: str


@dataclass(frozen=True)
class LogitParts:
    """What every part adds to chosen logits at t_post.

    Attributes:
        parts: the addends.
        values: (n, parts, tokens) float32, in the units of the logits.
        logits: (n, tokens) float32: what the parts sum to, read off the model itself.
        tokens: vocabulary indices along the last axis.
        capped: whether the model squashes these logits afterwards (soft-capping), so that its own are smaller.
    """

    parts: tuple[Part, ...]
    values: Tensor
    logits: Tensor
    tokens: tuple[int, ...]
    capped: bool

    @property
    def residue(self) -> float:
        """Largest difference between the parts' sum and the logits, relative to the largest logit."""
        return float((self.values.sum(1) - self.logits).abs().max() / self.logits.abs().max().clamp_min(1e-12))

    def heads(self) -> dict[tuple[int, int], Tensor]:
        """(n, tokens) of each head, by (block, head)."""
        return {
            (part.block, part.head): self.values[:, index]
            for index, part in enumerate(self.parts)
            if part.kind == "head" and part.block is not None and part.head is not None
        }


class LogitAttribution:
    """Direct logit attribution on one model.

    Args:
        chat: the model.

    Raises:
        CoverageError: the last state is no sum (blocks norm the stream itself), or what follows it is more than a norm
            and a linear map.
    """

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat
        anatomy = chat.anatomy
        if all(sums is None for sums in anatomy.additive):
            raise CoverageError("Its blocks norm or rescale the stream itself, so the last state is no sum of parts.")
        if anatomy.unembedding is None:
            raise CoverageError("It has no unembedding module to attribute through.")
        self.norm = FrozenNorm(anatomy.final_norm, chat.width) if anatomy.final_norm is not None else None
        self._post_norms: dict[int, FrozenNorm] = {}
        self.scale, self.capped = self._readout()

    def __call__(self, prompts: Any, tokens: Sequence[int] | None = None, *, progress: bool = False) -> LogitParts:
        """Attribute the logits of the first reply token, under the edits in force.

        Args:
            prompts: whatever `as_prompts` accepts.
            tokens: vocabulary indices; None takes all (n x parts x vocabulary numbers).
            progress: whether to show a bar.

        Raises:
            PositionError: a prompt's positions cannot be told.
        """
        seen, vectors, parts = self._vectors(prompts, progress)
        last = seen.states[-1]
        logits = seen.own.logits
        chosen = list(range(logits.shape[1])) if tokens is None else list(tokens)
        constant = torch.zeros(1, self.chat.width)
        if self.norm is not None:
            vectors = self.norm.linear(vectors, self.norm.scale(last).unsqueeze(1))
            constant = self.norm.offset.unsqueeze(0)
        nothing = self._unembed(torch.zeros(1, self.chat.width), chosen)
        values = self.scale * (self._unembed(vectors.flatten(0, 1), chosen) - nothing)
        values = values.reshape(len(vectors), -1, len(chosen))
        bias = self.scale * self._unembed(constant, chosen).expand(len(vectors), -1).unsqueeze(1)
        parts = (*parts, Part("bias", None, None, "final bias"))
        values = torch.cat([values, bias], dim=1)
        wanted = seen.own.outputs[-1][:, chosen] if self.capped else logits[:, chosen]
        return LogitParts(parts, values, wanted, tuple(chosen), self.capped)

    def _readout(self) -> tuple[float, bool]:
        """The factor between the unembedding's output and the logits, and whether they are squashed."""
        chat = self.chat
        seen = observe(chat, ["Hi", "How are you?"], [self._last_block, self._unembedding])
        state, unembedded, logits = seen.outputs[0], seen.outputs[1], seen.logits
        normed = state
        if self.norm is not None:
            normed = self.norm.linear(state, self.norm.scale(state)) + self.norm.offset
        expected = self._unembed(normed, list(range(unembedded.shape[1])))
        inner = _factor(expected, unembedded, self._tolerance)
        if inner is None:
            raise CoverageError("Between its last state and its unembedding lies more than a norm.")
        outer = _factor(unembedded, logits, self._tolerance)
        if outer is not None:
            return inner * outer, False
        order = unembedded.argsort(-1)
        steps = logits.gather(-1, order).diff(dim=-1)
        if bool((steps < -self._tolerance * logits.abs().max()).any()):
            raise CoverageError("Its logits are no rising function of its unembedding's output.")
        return inner, True

    @property
    def _tolerance(self) -> float:
        return _EXACT.get(self.chat.anatomy.dtype, _LOW_PRECISION)

    @property
    def _last_block(self) -> nn.Module:
        return self.chat.anatomy.blocks[-1]

    @property
    def _unembedding(self) -> nn.Module:
        found = self.chat.anatomy.unembedding
        assert found is not None
        return found

    def _unembed(self, vectors: Tensor, tokens: Sequence[int]) -> Tensor:
        """(n, tokens): the unembedding of (n, d_model) vectors, in float32 where the weight can be read."""
        module = self._unembedding
        weight = getattr(module, "weight", None)
        if type(module) is nn.Linear and type(weight) is nn.Parameter and weight.device.type != "meta":
            bias = 0 if module.bias is None else module.bias.detach()[list(tokens)].float()
            with torch.no_grad():
                rows = weight.detach()[list(tokens)].float()
                return (vectors.to(weight.device) @ rows.T + bias).cpu()
        dtype = self.chat.anatomy.dtype
        with torch.no_grad():
            found = module(vectors.to(self.chat.device, dtype).unsqueeze(1))[:, 0]
        return found[:, list(tokens)].float().cpu()

    def _vectors(self, prompts: Any, progress: bool) -> tuple[_Seen, Tensor, tuple[Part, ...]]:
        """(n, parts, d_model): what each part adds to the last state."""
        anatomy = self.chat.anatomy
        modules = [writer.module for sums in anatomy.additive if sums is not None for writer in sums.writers]
        sources = [
            writer.source
            for sums in anatomy.additive
            if sums is not None
            for writer in sums.writers
            if writer.source is not None
        ]
        projections = [part for part in anatomy.projections if part is not None]
        wanted = list({id(module): module for module in (*modules, *sources)}.values())
        own = observe(
            self.chat, prompts, [*wanted, anatomy.blocks[-1], self._unembedding], [*anatomy.blocks, *projections],
            progress=progress,
        )  # fmt: skip
        seen = _Seen(own, {id(module): own.outputs[index] for index, module in enumerate(wanted)}, len(anatomy.blocks))
        heads = dict(zip((id(part) for part in projections), own.inputs[len(anatomy.blocks) :], strict=True))
        found: list[Tensor] = []
        parts: list[Part] = []

        def add(vector: Tensor, part: Part) -> None:
            found.append(vector)
            parts.append(part)

        carried = self._carried()
        edited = {edit.site for edit in self.chat.edits}
        add(carried[0] * seen.states[0], Part("embedding", None, None, "embedding"))
        for block, sums in enumerate(anatomy.additive):
            after = carried[block + 1]
            if sums is None:
                change = seen.states[block + 1] - seen.states[block]
                add(after * change, Part("block", block, None, f"block {block}"))
                continue
            begun = len(found)
            for writer in sums.writers:
                factor = after * writer.scale
                if anatomy.heads[block] and anatomy.attentions[block] in (writer.module, writer.source):
                    split, bias = self._split(block, writer, seen, heads[id(anatomy.projections[block])])
                    for head in range(anatomy.heads[block]):
                        add(factor * split[:, head], Part("head", block, head, f"head {block}.{head}"))
                    add(factor * bias, Part("bias", block, None, f"attention bias {block}"))
                else:
                    mlp = anatomy.mlps[block]
                    kind = "mlp" if mlp is not None and mlp in (writer.module, writer.source) else "module"
                    name = f"{'MLP' if kind == 'mlp' else writer.name} {block}"
                    add(factor * seen.outputs[id(writer.module)], Part(kind, block, None, name))
            if edited & {("state", block + 1), ("attention", block)}:
                explained = torch.stack([carried[block] * seen.states[block], *found[begun:]]).sum(0)
                add(after * seen.states[block + 1] - explained, Part("edit", block, None, f"edits {block}"))
        return seen, torch.stack(found, dim=1), tuple(parts)

    def _carried(self) -> list[float]:
        """What is left in the last state of 1 unit of each state."""
        factors = [1.0 if sums is None else sums.carry for sums in self.chat.anatomy.additive]
        left = [1.0]
        for factor in reversed(factors):
            left.append(left[-1] * factor)
        return left[::-1]

    def _split(self, block: int, writer: Writer, seen: _Seen, slices: Tensor) -> tuple[Tensor, Tensor]:
        """(n, heads, d_model) of the heads and (n, d_model) of the biases, as the block writes them."""
        anatomy = self.chat.anatomy
        projection, heads, size = anatomy.projections[block], anatomy.heads[block], anatomy.head_sizes[block]
        assert projection is not None
        alone = torch.zeros(len(slices), heads + 1, heads * size)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            alone[:, head, part] = slices[:, part]
        device = next(iter(projection.parameters())).device
        with torch.no_grad():
            sent = projection(alone.to(device if device.type != "meta" else self.chat.device, anatomy.dtype))
        sent = sent.float().cpu()
        split, bias = sent[:, :heads] - sent[:, heads:], sent[:, heads]
        if writer.source is None:
            return split, bias
        norm = self._post_norms.setdefault(block, FrozenNorm(writer.module, self.chat.width))
        scale = norm.scale(seen.outputs[id(writer.source)])
        return norm.linear(split, scale.unsqueeze(1)), norm.linear(bias, scale) + norm.offset


class _Seen:
    """One observation, with its states and its modules' outputs by module."""

    def __init__(self, own: Observation, outputs: dict[int, Tensor], layers: int) -> None:
        self.own = own
        self.outputs = outputs
        self.states = [*own.inputs[:layers], own.outputs[-2]]


def _factor(given: Tensor, found: Tensor, tolerance: float) -> float | None:
    """The number that one tensor is times another, None where there is none."""
    factor = float((given * found).sum() / given.pow(2).sum().clamp_min(1e-30))
    error = (found - factor * given).abs().max() / found.abs().max().clamp_min(1e-12)
    if error > tolerance:
        return None
    return 1.0 if abs(factor - 1) < 1e-4 else factor
