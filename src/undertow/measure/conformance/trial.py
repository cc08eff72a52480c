"""A model with a few prompts, and the same things done by hand: what `conformance` compares against.

Everything here calls the Hugging Face model directly, one prompt at a time, without padding, cache or edits of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import UndertowError
from undertow.model.anatomy import first_tensor, hidden_input, with_first_tensor
from undertow.model.chat import ChatModel
from undertow.model.positions import Rendered
from undertow.model.variants import is_quantised, uncompiled

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference that passes, by the dtype of the residual stream."""


Outcome = tuple[float, str]
"""A figure and the sentence that goes with it."""


class NotApplicable(Exception):
    """The model lacks what a check is about; the message says what, in one sentence."""


class Trial:
    """A model, some prompts, and the same things done by hand.

    Args:
        chat: the model.
        prompts: texts of different lengths, at least two.
        seed: of random vectors.
    """

    def __init__(self, chat: ChatModel, prompts: Sequence[str], seed: int) -> None:
        if len(prompts) < 2:
            raise UndertowError("The conformance suite needs at least two prompts.")
        self.chat = chat
        self.prompts = list(prompts)
        self.rendered: list[Rendered] = [chat.render(prompt) for prompt in prompts]
        self.generator = torch.Generator().manual_seed(seed)
        self.middle = chat.layers // 2
        self.one_batch = sum(map(len, self.rendered)) * len(self.rendered)

    @property
    def tolerance(self) -> float:
        """What passes in this model's dtype, or in a model that rounds its activations."""
        if is_quantised(self.chat.model):
            return 5e-2
        # Some models carry a float32 stream between weights of lower precision.
        return max(TOLERANCES.get(dtype, 5e-2) for dtype in (self.chat.anatomy.dtype, self.chat.dtype))

    @property
    def exact(self) -> bool:
        """Whether the likeliest token is beyond rounding."""
        dtypes = {self.chat.anatomy.dtype, self.chat.dtype}
        return dtypes == {torch.float32} and not is_quantised(self.chat.model)

    def plain(self, ids: Sequence[int]) -> Any:
        """The model's own output for one sequence, unpadded, without cache, with its hidden states."""
        tensor = torch.tensor([list(ids)], device=self.chat.device)
        with uncompiled(), torch.no_grad():
            return self.chat.model(input_ids=tensor, use_cache=False, output_hidden_states=True)

    def plain_states(self, ids: Sequence[int]) -> dict[int, Tensor]:
        """The model's own hidden states (tokens, d_model) by state; plain hooks on blocks where it publishes none."""
        mapping = self.chat.anatomy.published
        if mapping:
            own = self.plain(ids).hidden_states
            return {state: tensor[0] for state, tensor in zip(mapping, own, strict=True) if state is not None}
        found: dict[int, Tensor] = {}
        handles = [
            block.register_forward_hook(
                lambda module, arguments, output, state=index + 1: found.update({state: first_tensor(output)[0]})
            )
            for index, block in enumerate(self.chat.anatomy.blocks)
        ]
        try:
            self.plain(ids)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def normed_state(self, ids: Sequence[int]) -> Tensor | None:
        """What the model publishes last (tokens, d_model) where that has been through the final norm."""
        mapping = self.chat.anatomy.published
        return self.plain(ids).hidden_states[-1][0] if mapping and mapping[-1] is None else None

    def plain_logits(self, ids: Sequence[int]) -> Tensor:
        """(tokens, vocabulary) log-probabilities, float32, CPU."""
        return torch.log_softmax(self.plain(ids).logits[0].float(), -1).cpu()

    def plain_unembedded(self, ids: Sequence[int]) -> Tensor:
        """(tokens, vocabulary) of what the unembedding returns, before anything is done to it."""
        found: list[Tensor] = []
        unembedding = self.chat.anatomy.unembedding
        assert unembedding is not None
        handle = unembedding.register_forward_hook(lambda module, arguments, output: found.append(output[0]))
        try:
            self.plain(ids)
        finally:
            handle.remove()
        return found[-1]

    def vector(self, state: int) -> Tensor:
        """A random vector (d_model,) half as long as the first prompt's state at t_post."""
        length = self.chat.capture(self.prompts[:1], [state], ["t_post"], progress=False).values.float().norm()
        vector = torch.randn(self.chat.width, generator=self.generator)
        return vector / vector.norm() * length / 2

    @contextmanager
    def added_by_hand(self, state: int, vector: Tensor, columns: Sequence[int]) -> Iterator[None]:
        """A plain hook that adds a vector at some columns of a state, whatever else is in the sequence."""
        blocks = self.chat.anatomy.blocks

        def changed(hidden: Tensor) -> Tensor:
            edited = hidden.clone()
            inside = [column for column in columns if column < hidden.shape[1]]
            edited[:, inside] += vector.to(hidden.device, hidden.dtype)
            return edited

        def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            hidden = changed(hidden_input(arguments, keywords))
            if arguments and isinstance(arguments[0], Tensor):
                return (hidden, *arguments[1:]), keywords
            return arguments, {**keywords, "hidden_states": hidden}

        def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            return with_first_tensor(output, changed(first_tensor(output)))

        if state < len(blocks):
            handle = blocks[state].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = blocks[-1].register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference over the largest absolute value wanted, in float32."""
    if found.shape != wanted.shape:
        raise ValueError(f"shapes {tuple(found.shape)} and {tuple(wanted.shape)} differ.")
    found, wanted = found.detach().float().cpu(), wanted.detach().float().cpu()
    if found.numel() == 0:
        raise NotApplicable("There is nothing to compare.")
    if not ((torch.isfinite(found) & torch.isfinite(wanted)) | (found == wanted)).all():
        return float("inf")
    wanted = wanted.nan_to_num(posinf=0.0, neginf=0.0)
    found = found.nan_to_num(posinf=0.0, neginf=0.0)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
