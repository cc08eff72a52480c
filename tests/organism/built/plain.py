"""A built organism in plain transformers, with hooks of its own: what the tests hold the truth against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from undertow.organism.built import Built, Head, Spec, build, built_pairs
from undertow.prompts.pairs import PairSet


@cache
def organism(seed: int = 0, policy: str = "gate", gates: int = 1, noise: float = 0.05) -> Built:
    """A build that several tests share; nobody changes it."""
    return build(Spec(seed=seed, policy=policy, gates=gates, noise=noise))


@cache
def pairs(n: int = 48, seed: int = 3) -> PairSet:
    return built_pairs(Spec(), n, seed)


class Plain:
    """Log-odds of refusing, head slices and direct attribution, at the last prompt token."""

    def __init__(self, built: Built) -> None:
        self.model, self.tokenizer = built.model, built.tokenizer
        self.size = self.model.config.head_dim
        words = self.tokenizer.get_vocab()
        rows = self.model.lm_head.weight
        self.refusal, self.answer = words["Sorry"], words["Sure"]
        self.difference = (rows[self.refusal] - rows[self.answer]).detach()

    def _batch(self, texts: Sequence[str]) -> dict[str, Tensor]:
        prompts = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in texts]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def run(
        self,
        texts: Sequence[str],
        heads: dict[Head, Tensor] | None = None,
        add: tuple[int, Tensor, set[int]] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-odds (n), slices (n, blocks, heads, size) as they were before any change, and last states (n, width).

        Args:
            texts: requests.
            heads: values for heads' slices at the last token, (size) or (n, size).
            add: (block, vector, token ids): a vector added to a block's input on these tokens.
        """
        layers, seen, last = self.model.model.layers, {}, []
        batch = self._batch(texts)

        def slices(block: int, value: Tensor) -> Tensor:
            seen[block] = value[:, -1].reshape(len(texts), -1, self.size).clone()
            value = value.clone()
            for (where, head), put in (heads or {}).items():
                if where == block:
                    value[:, -1, head * self.size : (head + 1) * self.size] = put
            return value

        hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args, block=block: (slices(block, args[0]),))
            for block, layer in enumerate(layers)
        ]
        hooks.append(self.model.model.norm.register_forward_pre_hook(lambda _, args: last.append(args[0][:, -1])))
        if add is not None:
            block, vector, ids = add
            where = torch.isin(batch["input_ids"], torch.tensor(sorted(ids))).unsqueeze(-1)

            def shift(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (args[0] + where * vector, *args[1:])

            hooks.append(layers[block].register_forward_pre_hook(shift))
        try:
            with torch.no_grad():
                logits = self.model(**batch).logits[:, -1]
        finally:
            for hook in hooks:
                hook.remove()
        odds = logits[:, self.refusal] - logits[:, self.answer]
        return odds, torch.stack([seen[block] for block in range(len(layers))], dim=1), last[0]

    def odds(self, texts: Sequence[str], heads: dict[Head, Tensor] | None = None) -> Tensor:
        return self.run(texts, heads)[0]

    def silenced(self, texts: Sequence[str], heads: Sequence[Head]) -> Tensor:
        return self.odds(texts, {head: torch.zeros(self.size) for head in heads})

    def interchanged(self, texts: Sequence[str], donors: Sequence[str], heads: Sequence[Head]) -> Tensor:
        given = self.run(donors)[1]
        return self.odds(texts, {(block, head): given[:, block, head] for block, head in heads})

    def attributed(self, texts: Sequence[str], head: Head) -> Tensor:
        """(n): what a head adds to the log-odds through the final norm, frozen, and the unembedding alone."""
        _, slices, last = self.run(texts)
        block, index = head
        weight = self.model.model.layers[block].self_attn.o_proj.weight.detach()
        written = slices[:, block, index] @ weight[:, index * self.size : (index + 1) * self.size].T
        norm = self.model.model.norm
        scale = (last.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        return (written * scale * norm.weight.detach()) @ self.difference


def texts(side: Sequence[object]) -> list[str]:
    return [prompt.text for prompt in side]  # type: ignore[attr-defined]
