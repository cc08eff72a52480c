"""A chat model opened for reading and writing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError, ModelError
from undertow.model.anatomy import Anatomy, find_anatomy
from undertow.model.batching import TokenBudget, default_budget, run_batches
from undertow.model.capture import Activations, Gatherer, Position, StopForward, position_columns, render_lean
from undertow.model.decoding import Decoding, DecodingTrials
from undertow.model.edit import Edit
from undertow.model.forward import Forward
from undertow.model.generate import Generator, OnPrefill, Sampling
from undertow.model.hooks import attached, check_site
from undertow.model.identity import ModelIdentity, identify
from undertow.model.positions import Rendered, Renderer
from undertow.model.program import Frame, Program, check_edit
from undertow.model.replay import Replayer
from undertow.model.replaying import Replaying
from undertow.model.variants import adapter_state, check_variant, input_device, uncompiled
from undertow.progress import progress_bar
from undertow.prompts import Prompt, as_prompts

_WINDOW = 2048


class ChatModel(Replaying):
    """Any Hugging Face causal language model with a chat template, whose states can be read and edited.

    Args:
        model: the loaded model; quantised, offloaded and PEFT-wrapped ones included. Put into evaluation mode.
        tokenizer: its fast tokenizer, with a chat template.
        name: where it came from, for artefacts and messages.
        revision: the revision it was loaded at.
        thinking: thinking mode that prompts are rendered in; None is the template's default.

    Attributes:
        anatomy: where the model keeps its parts, checked by arithmetic.
        layers: number of blocks L; states run from 0 to L.
        width: size of the residual stream, d_model.
        context: most tokens the model reads, or None.
        budget: tokens a batch; shrinks when memory runs out and is remembered.

    Raises:
        CoverageError: the architecture's blocks cannot be found or verified, or what is around it is not covered.
        PositionError: the tokenizer has no chat template or no offsets.
        ModelError: ``thinking`` is set and the template has no such switch.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
        thinking: bool | None = None,
    ) -> None:
        if not isinstance(model, nn.Module) or not hasattr(model, "config"):
            raise ModelError(f"A Hugging Face causal language model is needed, not {type(model).__name__}.")
        self.model: Any = getattr(model, "_orig_mod", model)
        self.model.eval()
        check_variant(self.model)
        self.tokenizer = tokenizer
        self.name = name or getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__
        self.revision, self.thinking = revision, thinking
        config: Any = self.model.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        self.context: int | None = limit if isinstance(limit, int) and limit > 0 else None
        self.renderer = Renderer(tokenizer, context=self.context, thinking=thinking)
        with uncompiled():
            self.anatomy: Anatomy = find_anatomy(self.model)
        self.forward = Forward(self.model, self.anatomy, self._pad_id())
        self.forward.check_causal()
        self.budget: TokenBudget = default_budget(self.device)
        self._edits: list[Edit] = []
        self._identities: dict[Any, ModelIdentity] = {}
        self._replayer = Replayer(self)
        self._trials = DecodingTrials(self)

    def __repr__(self) -> str:
        return f"ChatModel({self.name!r}, layers={self.layers}, width={self.width}, dtype={self.dtype})"

    @property
    def layers(self) -> int:
        """Number of blocks, L."""
        return len(self.anatomy.blocks)

    @property
    def width(self) -> int:
        """Size of the residual stream, d_model."""
        return self.anatomy.width

    @property
    def device(self) -> torch.device:
        """Device of the token embeddings."""
        return input_device(self.model)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits in force, outermost block first."""
        return tuple(self._edits)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the residual stream."""
        return self.anatomy.dtype

    @property
    def identity(self) -> ModelIdentity:
        """Hashes that artefacts carry, so that a guard knows its model; another one while its adapters are off."""
        state = adapter_state(self.model)
        if state not in self._identities:
            self._identities[state] = identify(
                self.model, self.tokenizer, name=self.name, revision=self.revision, thinking=self.thinking
            )
        return self._identities[state]

    def decoding_for(self, length: int) -> Decoding:
        """What this model may be asked for while it generates sequences of so many tokens, found by arithmetic."""
        return self._trials.at(length)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a reply."""
        found: set[int] = set()
        for source in (getattr(self.model, "generation_config", None), self.model.config, self.tokenizer):
            ids = getattr(source, "eos_token_id", None)
            found.update(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
        return frozenset(found)

    def render(self, prompt: str | Prompt | Sequence[dict[str, str]]) -> Rendered:
        """Token ids and positions of one prompt.

        Args:
            prompt: a string, a `Prompt`, or a list of messages that ends with the user's.

        Raises:
            PositionError: the positions cannot be told for certain; the message says why.
        """
        return self.renderer.render(as_prompts(prompt)[0])

    def capture(
        self,
        prompts: Any,
        states: Sequence[int] | None = None,
        positions: Sequence[Position] = ("t_inst", "t_post"),
        *,
        heads: bool | Sequence[int] = False,
        progress: bool = True,
        tokens_per_batch: int | None = None,
    ) -> Activations:
        """Read the residual stream (and head outputs) at chosen positions, under the edits in force.

        Args:
            prompts: whatever `as_prompts` accepts.
            states: which of 0..L; None reads all. The pass ends after the deepest.
            positions: ``t_inst``, ``t_post``, or absolute token indices.
            heads: True, or block indices, to read z[l, h] too: each head's slice of the attention output
                projection's input.
            progress: whether to show a bar.
            tokens_per_batch: fixes the batches, whatever memory allows.

        Returns:
            `Activations` with values (n, states, positions, d_model).

        Raises:
            PositionError: a prompt's positions cannot be told, or an index lies outside one.
            EditError: a state does not exist.
            CoverageError: heads of a block cannot be read.
        """
        items = as_prompts(prompts)
        chosen = tuple(range(self.layers + 1)) if states is None else tuple(states)
        blocks = tuple(range(self.layers)) if heads is True else tuple(heads or ())
        for state in chosen:
            check_site(self.anatomy, ("state", state))
        for block in blocks:
            check_site(self.anatomy, ("heads", block))
        if len({(self.anatomy.heads[block], self.anatomy.head_sizes[block]) for block in blocks}) > 1:
            raise CoverageError("Blocks differ in their heads: capture them one at a time, heads=[block].")
        values = torch.empty(len(items), len(chosen), len(positions), self.width, dtype=self.anatomy.dtype)
        head_values = None
        if blocks:
            heads_shape = (self.anatomy.heads[blocks[0]], len(positions), self.anatomy.head_sizes[blocks[0]])
            head_values = torch.empty(len(items), len(blocks), *heads_shape, dtype=self.anatomy.dtype)
        gatherer = Gatherer(self.anatomy, chosen, blocks)
        budget = self.budget if tokens_per_batch is None else TokenBudget(tokens_per_batch)
        # Rendered prompts are kept for one window at a time; edits may hold a value for each prompt of the call.
        window = max(1, len(items)) if self._edits else _WINDOW
        with progress_bar(len(items), "Reading states", enabled=progress) as advance:
            for begin in range(0, len(items), window):
                rendered = render_lean(self.renderer, items[begin : begin + window])
                columns = [position_columns(item, positions) for item in rendered]
                program = Program(self.anatomy, self._edits, rendered)

                def step(
                    batch: list[int],
                    begin: int = begin,
                    rendered: list[Rendered] = rendered,
                    columns: list[list[int]] = columns,
                    program: Program = program,
                ) -> None:
                    nonlocal values, head_values
                    gatherer.aim([columns[index] for index in batch])
                    self._run_until_stopped([rendered[index] for index in batch], batch, program)
                    rows = [begin + index for index in batch]
                    if chosen:
                        values = _put(values, rows, gatherer.state_values())
                    if head_values is not None:
                        head_values = _put(head_values, rows, gatherer.head_values())

                if not chosen and not blocks:
                    continue
                with attached(self.anatomy, [*program.visits(), *gatherer.visits()]):
                    for done in run_batches([len(item) for item in rendered], budget, step):
                        advance(done)
        return Activations(values, items, chosen, tuple(positions), self.identity, head_values, blocks)

    def _run_until_stopped(self, rendered: list[Rendered], batch: list[int], program: Program) -> None:
        ids, mask = self.forward.pad_right([item.ids for item in rendered])
        program.look_at(Frame(batch, [0] * len(batch), [len(item) for item in rendered], ids.shape[1]))
        with suppress(StopForward):
            self.forward(ids, mask)

    def logits(self, prompts: Any, *, progress: bool = False) -> Tensor:
        """Log-probabilities of the first reply token, under the edits in force.

        Args:
            prompts: whatever `as_prompts` accepts.
            progress: whether to show a bar.

        Returns:
            (n, vocabulary), float32, CPU: log-softmax of the logits at t_post, in nats.

        Raises:
            PositionError: a prompt's positions cannot be told.
        """
        rendered = self.renderer.render_many(as_prompts(prompts))
        program = Program(self.anatomy, self._edits, rendered)
        results: list[Tensor | None] = [None] * len(rendered)

        def step(batch: list[int]) -> None:
            items = [rendered[index] for index in batch]
            ids, mask = self.forward.pad_right([item.ids for item in items])
            program.look_at(Frame(batch, [0] * len(batch), [len(item) for item in items], ids.shape[1]))
            columns = torch.tensor([[item.t_post] for item in items])
            logits, _ = self.forward(ids, mask, columns=columns)
            for index, row in zip(batch, torch.log_softmax(logits[:, 0].float(), -1).cpu(), strict=True):
                results[index] = row

        with (
            attached(self.anatomy, program.visits()),
            progress_bar(len(rendered), "Reading logits", enabled=progress) as advance,
        ):
            for done in run_batches([len(item) for item in rendered], self.budget, step):
                advance(done)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        return torch.stack([row for row in results if row is not None]) if results else torch.empty(0, vocabulary)

    def generate(
        self,
        prompts: Any,
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        progress: bool = True,
        on_prefill: OnPrefill | None = None,
        prefill_states: Sequence[int] = (),
        prefill_positions: Sequence[str] = ("t_inst", "t_post"),
    ) -> list[str]:
        """Replies, under the edits in force.

        Args:
            prompts: whatever `as_prompts` accepts.
            max_new_tokens: most tokens of a reply; less where the context ends first.
            temperature: 0 takes the likeliest token.
            top_p: probability mass that sampling keeps.
            seed: fixes every prompt's random numbers, whatever the batching.
            progress: whether to show a bar.
            on_prefill: called with each batch's `PrefillBatch` before its first token; returns `Stop`, `Steer` or None
                for every row.
            prefill_states: states that ``on_prefill`` reads.
            prefill_positions: single-token positions that it reads.

        Returns:
            One text a prompt, special tokens removed.

        Raises:
            PositionError: a prompt's positions cannot be told, or it leaves no room for a reply.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, seed)
        for state in prefill_states:
            check_site(self.anatomy, ("state", state))
        rendered = self.renderer.render_many(as_prompts(prompts))
        program = Program(self.anatomy, self._edits, rendered)
        generator = Generator(
            self,
            rendered,
            sampling,
            program,
            on_prefill=on_prefill,
            prefill_states=prefill_states,
            prefill_positions=prefill_positions,
        )
        return generator.run(progress)

    @contextmanager
    def edit(self, *edits: Edit) -> Iterator[ChatModel]:
        """Edits that hold for every `capture`, `logits` and `generate` inside the block.

        Nested blocks add to the outer ones; edits of one site apply in the order given.

        Raises:
            EditError: an edit does not fit this model, or the Hugging Face model is called directly inside.
        """
        for edit in edits:
            check_edit(self.anatomy, edit, 0)
        before = list(self._edits)
        self._edits.extend(edits)
        try:
            with self.forward.refuse_foreign_calls():
                yield self
        finally:
            self._edits[:] = before

    def _pad_id(self) -> int:
        candidates = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(candidate for candidate in candidates if isinstance(candidate, int))


def _put(values: Tensor, rows: list[int], found: Tensor) -> Tensor:
    """The values with rows filled in, in the type of what was found: some streams are wider than their embedding."""
    values = values.to(found.dtype)
    values[rows] = found
    return values
