"""Setting a Llama's weights by hand: where heads look, what they read and write, and MLPs that cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from undertow.organism.built.features import CONSTANT, CUE, ODDS, Features, orthonormal

if TYPE_CHECKING:
    from torch import Tensor

    from undertow.organism.built.circuit import Head
    from undertow.organism.built.plan import Plan
    from undertow.organism.built.spec import Spec

REQUEST_LOGIT = 7.0
"""Attention logit of a salient word at a line's end; a word that is not salient has 0."""
SELF_LOGIT = 25.0
"""Attention logit that each of six rotary pairs of different speed gives a token to itself."""
FAST, SLOW = range(0, 6), range(12, 16)
ROLE_NOISE = 0.4
SALIENT_WORDS = 2
"""Salient words a request: so little of a head's attention does each of them get."""


class Writer:
    """Writes roles into a model's heads and MLPs.

    Args:
        model: a `LlamaForCausalLM` whose weights are overwritten.
        spec: what is built.
        features: the directions.
        generator: of everything drawn.
    """

    def __init__(self, model: Any, spec: Spec, features: Features, generator: torch.Generator) -> None:
        self.blocks, self.spec, self.features, self.generator = model.model.layers, spec, features, generator
        self._neurons = [0] * spec.blocks

    def noise(self, plan: Plan) -> None:
        """Fills every matrix with small random weights that do not read the constant feature.

        Heads with a role get `ROLE_NOISE` times the noise of the others, so that they keep to their role.
        """
        spec, one = self.spec, self.features.constant
        blind = torch.eye(spec.width) - torch.outer(one, one)
        sizes = torch.full((spec.blocks, spec.heads), spec.noise)
        for head in plan.heads:
            sizes[head] *= ROLE_NOISE
        for block, own in zip(self.blocks, sizes.repeat_interleave(spec.head_size, dim=1), strict=True):
            attention, mlp = block.self_attn, block.mlp
            for reading in (attention.q_proj, attention.k_proj, attention.v_proj):
                reading.weight.copy_(own.unsqueeze(1) * self._normal(*reading.weight.shape) @ blind)
            attention.o_proj.weight.copy_(own * self._normal(*attention.o_proj.weight.shape))
            for reading in (mlp.gate_proj, mlp.up_proj):
                reading.weight.copy_(spec.noise * self._normal(*reading.weight.shape) @ blind)
            mlp.down_proj.weight.copy_(spec.noise * self._normal(*mlp.down_proj.weight.shape))

    def roles(self, plan: Plan) -> None:
        """Gives every head of the plan its role."""
        features = self.features
        for head, share in plan.gates.items():
            self.look_at_request(head)
            self.move(head, [(features.detection, SALIENT_WORDS * share * features.routing)])
        decision = self.spec.gap / ODDS * features.refusal
        for head, share in plan.amplifiers.items():
            self.look_at_itself(head)
            self.move(head, [(features.routing, share * decision)])
        for head, share in plan.direct.items():
            self.look_at_request(head)
            self.move(head, [(features.detection, SALIENT_WORDS * share * decision)])
        for head, leaks in plan.topic.items():
            self.look_at_request(head)
            pairs = zip(features.topics, leaks, strict=True)
            self.move(head, [(topic, 0.5 * topic + leak / ODDS * features.refusal) for topic, leak in pairs])
        for tag, (head, (strength, later)) in zip(features.tags, plan.cancelled.items(), strict=True):
            self.look_at_request(head)
            written = SALIENT_WORDS * strength / ODDS * features.refusal
            self.move(head, [(features.detection, written + SALIENT_WORDS * tag)])
            self.cancel(later, tag, strength / ODDS * features.refusal)
        for head, strength in plan.constant.items():
            self.look_at_itself(head)
            self.move(head, [(features.constant / CONSTANT, strength / ODDS * features.refusal)])

    def look_at_request(self, head: Head) -> None:
        """A line's end attends to salient words; the slowest rotary pairs carry it, so that distance matters little."""
        where = self._in_pairs(SLOW)
        scale = (REQUEST_LOGIT * self.spec.head_size**0.5) ** 0.5
        self._rows(head, "q_proj").add_(torch.outer(scale * where, self.features.cue / CUE))
        self._rows(head, "k_proj").add_(torch.outer(scale * where, self.features.salient))

    def look_at_itself(self, head: Head) -> None:
        """Every token attends to itself: equal constant queries and keys in fast rotary pairs."""
        where = self._in_pairs(FAST)
        scale = (len(FAST) * SELF_LOGIT * self.spec.head_size**0.5) ** 0.5
        for name in ("q_proj", "k_proj"):
            self._rows(head, name).add_(torch.outer(scale * where, self.features.constant / CONSTANT))

    def move(self, head: Head, routes: list[tuple[Tensor, Tensor]]) -> None:
        """Reads each first vector and writes the second, through random directions within the head."""
        block, index = head
        size = self.spec.head_size
        within = orthonormal(size, len(routes), self.generator)
        projection = self.blocks[block].self_attn.o_proj.weight
        for channel, (read, written) in zip(within.T, routes, strict=True):
            self._rows(head, "v_proj").add_(torch.outer(channel, read))
            projection[:, index * size : (index + 1) * size].add_(torch.outer(written, channel))

    def cancel(self, block: int, tag: Tensor, written: Tensor) -> None:
        """Two neurons that subtract ``written`` a unit of ``tag``: silu(x) - silu(-x) = x, times a constant 1."""
        mlp, first = self.blocks[block].mlp, self._neurons[block]
        self._neurons[block] += 2
        for neuron, sign in ((first, 1.0), (first + 1, -1.0)):
            mlp.gate_proj.weight[neuron] = sign * tag
            mlp.up_proj.weight[neuron] = self.features.constant / CONSTANT
            mlp.down_proj.weight[:, neuron] = -sign * written

    def _rows(self, head: Head, name: str) -> Tensor:
        block, index = head
        size = self.spec.head_size
        weight: Tensor = getattr(self.blocks[block].self_attn, name).weight
        return weight[index * size : (index + 1) * size]

    def _in_pairs(self, pairs: range) -> Tensor:
        """A unit vector of a head with equal length in the given rotary pairs and random phases."""
        half = self.spec.head_size // 2
        phases = 2 * torch.pi * torch.rand(len(pairs), generator=self.generator)
        vector = torch.zeros(self.spec.head_size)
        chosen = torch.tensor([pair * half // 16 for pair in pairs])
        vector[chosen], vector[chosen + half] = phases.cos(), phases.sin()
        return vector / len(pairs) ** 0.5

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)
