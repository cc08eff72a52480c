"""One forward pass: what a model's signature takes, where its cache comes back, and logits at chosen columns only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError, EditError, NotFiniteError
from undertow.model.anatomy import Anatomy
from undertow.model.variants import innermost, input_device, uncompiled

_CACHE_NAMES = ("past_key_values", "cache_params", "state")


class Forward:
    """Calls a model the way its signature allows.

    Args:
        model: a Hugging Face causal language model.
        anatomy: its parts.
        pad: token id that fills padding.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, pad: int) -> None:
        self.model = model
        self.anatomy = anatomy
        self.pad = pad
        self._takes = frozenset(inspect.signature(innermost(model).forward).parameters)
        self._inside = False
        self.takes_positions = self.accepts_positions

    @property
    def accepts_positions(self) -> bool:
        """Whether the model's signature has position ids."""
        return "position_ids" in self._takes

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return input_device(self.model)

    def pad_right(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Token ids (batch, longest) and their mask, None where nothing is padded."""
        return self._pad(sequences, left=False)

    def pad_left(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """The same, with the last tokens aligned."""
        return self._pad(sequences, left=True)

    def _pad(self, sequences: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor | None]:
        width = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), width), self.pad, dtype=torch.long)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            part = slice(width - len(sequence), width) if left else slice(0, len(sequence))
            ids[row, part] = torch.tensor(sequence, dtype=torch.long)
            mask[row, part] = 1
        padded = any(len(sequence) != width for sequence in sequences)
        return ids.to(self.device), mask.to(self.device) if padded else None

    def __call__(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
        columns: Tensor | None = None,
        refuse_nan: bool = True,
    ) -> tuple[Tensor, Any]:
        """Run the model.

        Args:
            ids: (batch, tokens).
            mask: (batch, cached + tokens), or a 4-D additive mask, or None.
            position_ids: (batch, tokens), left out where the model takes none.
            cache: what an earlier call gave back.
            use_cache: whether to ask for a cache.
            columns: (batch, k) columns whose logits are wanted; None stands for all.
            refuse_nan: False leaves logits that are not numbers to the caller.

        Returns:
            Logits (batch, k or tokens, vocabulary) in the model's dtype, and the cache (None where it gives none).

        Raises:
            NotFiniteError: logits at the columns are not numbers.
        """
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": use_cache}
        if mask is not None:
            inputs["attention_mask"] = mask
        if position_ids is not None and self.takes_positions:
            inputs["position_ids"] = position_ids
        if cache is not None:
            name, value = cache
            inputs[name] = value
        with self.running(), torch.no_grad():
            if columns is None or self.anatomy.unembedding is None:
                output = self.model(**inputs)
                logits = output.logits
                if columns is not None:
                    logits = _take(logits, columns)
            else:
                # Logits of unwanted tokens are never computed.
                handle = self.anatomy.unembedding.register_forward_pre_hook(
                    lambda module, arguments: (_take(arguments[0], columns), *arguments[1:])
                )
                try:
                    output = self.model(**inputs)
                finally:
                    handle.remove()
                logits = output.logits
        # The greatest logit shows a NaN or an infinity anywhere; -inf alone is how some models bar a token.
        if refuse_nan and columns is not None and not bool(logits.amax(-1).isfinite().all()):
            raise NotFiniteError(
                f"The model's logits are not numbers in {self.anatomy.dtype}: load it in bfloat16 or float32, "
                "and check that no edit is out of all proportion."
            )
        found = None
        for name in _CACHE_NAMES:
            value = getattr(output, name, None)
            if use_cache and value is not None:
                found = (name, value)
                break
        return logits, found

    def check_causal(self) -> None:
        """Hold two prompts that differ in their last token against each other, without a mask.

        Some models read in both directions only where they are given no mask.

        Raises:
            CoverageError: earlier tokens see the last one, or prompts in one batch see each other.
        """
        vocabulary = self.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        ids = torch.arange(3, 9).repeat(2, 1)
        ids[1, -1] += 1
        logits, _ = self((ids % vocabulary).to(self.device))
        first, second = logits[:, :-1].float()
        tolerance = 1e-3 if self.anatomy.dtype in (torch.float32, torch.float64) else 5e-2
        if (first - second).abs().max() > tolerance * first.abs().max():
            raise CoverageError(
                "What this model computes at a token depends on later tokens or on other prompts of the batch, "
                "so it is no causal language model: it is not covered."
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Marks calls as ours, so that edits are in force, and lets no compiled code skip hooks."""
        before, self._inside = self._inside, True
        try:
            with uncompiled():
                yield
        finally:
            self._inside = before

    @contextmanager
    def refuse_foreign_calls(self) -> Iterator[None]:
        """Refuse direct calls of the model while edits are declared, since no edit would apply to them."""

        def check(module: nn.Module, arguments: Any) -> None:
            if not self._inside:
                raise EditError(
                    "Inside model.edit, call logits, generate or capture of the ChatModel: "
                    "a direct call of the Hugging Face model would not be edited."
                )

        handle = self.model.register_forward_pre_hook(check)
        try:
            yield
        finally:
            handle.remove()


def _take(values: Tensor, columns: Tensor) -> Tensor:
    columns = columns.to(values.device)
    rows = torch.arange(values.shape[0], device=values.device).unsqueeze(1)
    return values[rows, columns]
