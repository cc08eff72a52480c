"""Batched greedy replies of an organism in plain transformers, for its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.organism.tokenizer import render
from undertow.prompts import Prompt

if TYPE_CHECKING:
    import torch


class PlainModel:
    """An organism loaded by transformers alone.

    Args:
        folder: the organism's folder.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def _encode(self, prompts: Sequence[Prompt]) -> Any:
        texts = [render(prompt.messages) for prompt in prompts]
        return self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)

    def _in_order(self, prompts: Sequence[Prompt], size: int) -> list[list[int]]:
        """Indices in batches of similar length."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].text))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, advance: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """Greedy replies, in the order of the prompts."""
        import torch

        replies = [""] * len(prompts)
        for indices in self._in_order(prompts, 100):
            encoded = self._encode([prompts[index] for index in indices])
            with torch.no_grad():
                output = self.model.generate(**encoded, max_new_tokens=new_tokens, do_sample=False)
            texts = self.tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
            for index, text in zip(indices, texts, strict=True):
                replies[index] = text.strip()
            advance(len(indices))
        return replies

    def first_tokens(
        self, prompts: Sequence[Prompt], state: int, vector: torch.Tensor, instructions: Sequence[str] | None = None
    ) -> list[str]:
        """First token of the greedy reply while a vector is added to the residual stream.

        Args:
            prompts: the prompts.
            state: the block at whose input it is added.
            vector: what is added, (width,).
            instructions: for each prompt the part of its text on whose tokens it is added; None adds it on every
            prompt token.
        """
        import torch

        replies = [""] * len(prompts)
        for indices in self._in_order(prompts, 100):
            batch = [prompts[index] for index in indices]
            encoded = self._encode(batch)
            where = encoded["attention_mask"].bool()
            if instructions is not None:
                for row, index in enumerate(indices):
                    rendered, text = render(prompts[index].messages), instructions[index]
                    start = rendered.rindex(text)
                    spans = [encoded[row].offsets[column] for column in range(where.shape[1])]
                    where[row] &= torch.tensor([first >= start and last <= start + len(text) for first, last in spans])
            added = where.unsqueeze(-1) * vector
            handle = self.model.model.layers[state].register_forward_pre_hook(
                lambda _, arguments, added=added: (arguments[0] + added, *arguments[1:])
            )
            try:
                with torch.no_grad():
                    logits = self.model(**encoded, use_cache=False, logits_to_keep=1).logits[:, -1]
            finally:
                handle.remove()
            for index, token in zip(indices, logits.argmax(dim=-1).tolist(), strict=True):
                replies[index] = self.tokenizer.decode([token])
        return replies

    def states(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Residual stream at t_inst and t_post.

        Returns:
            Tensor (n, layers + 1, 2, width): the input of every block and the output of the last one, before the
            final norm.
        """
        import torch

        tail = len(self.tokenizer("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)["input_ids"])
        found: list[Any] = [None] * len(prompts)
        last: list[torch.Tensor] = []
        hook = self.model.model.layers[-1].register_forward_hook(
            lambda _, __, output: last.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            for indices in self._in_order(prompts, 100):
                encoded = self._encode([prompts[index] for index in indices])
                with torch.no_grad():
                    hidden = list(self.model.model(**encoded, output_hidden_states=True, use_cache=False).hidden_states)
                hidden[-1] = last.pop()
                both = torch.stack([state[:, [-1 - tail, -1]] for state in hidden], dim=1)
                for row, index in enumerate(indices):
                    found[index] = both[row]
        finally:
            hook.remove()
        return torch.stack(found)
