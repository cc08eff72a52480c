"""Generation with a KV cache under edits, with a look at the prefill before the first token is chosen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from undertow.errors import EditError, ModelError, PositionError
from undertow.model.batching import run_batches
from undertow.model.capture import Gatherer, position_columns
from undertow.model.edit import Edit
from undertow.model.hooks import attached
from undertow.model.positions import Rendered
from undertow.model.program import Frame, Program
from undertow.model.rows import Rows, advance, columns_of, copy_cache, keep, plain_layers
from undertow.progress import progress_bar

if TYPE_CHECKING:
    from undertow.model.chat import ChatModel


@dataclass(frozen=True)
class PrefillBatch:
    """What the prefill of a batch showed, before any token is generated.

    Attributes:
        indices: which prompts of the call the rows are.
        values: (batch, states, positions, d_model), CPU, model dtype.
        states: along the second axis.
        positions: along the third axis.
        logits: (batch, vocabulary), float32, CPU: the scores of the first reply token.
    """

    indices: list[int]
    values: Tensor
    states: tuple[int, ...]
    positions: tuple[str, ...]
    logits: Tensor

    def at(self, position: str) -> Tensor:
        """(batch, states, d_model) at one position."""
        return self.values[:, :, self.positions.index(position)]


@dataclass(frozen=True)
class Stop:
    """Do not generate for this prompt: the reply is this text."""

    text: str


@dataclass(frozen=True)
class Steer:
    """Go on under further edits, on the template tail and the generated tokens only.

    The tail is run again against the KV cache of the same prefill, so the prompt is not read a second time.
    """

    edits: tuple[Edit, ...]


Decision = Stop | Steer | None
OnPrefill = Callable[[PrefillBatch], Sequence[Decision]]


@dataclass
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: most tokens of a reply.
        temperature: 0 takes the likeliest token.
        top_p: probability mass that is kept.
        seed: with a prompt's index, fixes its random numbers whatever the batching.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise ModelError("temperature must be a finite number from 0 on, and top_p lie within (0, 1].")

    def chooser(self, prompts: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """A function from logits (batch, vocabulary) to token ids (batch), one random stream a prompt."""
        if self.temperature == 0:
            return lambda logits: logits.argmax(-1)
        streams = [torch.Generator().manual_seed(_stream(self.seed, prompt)) for prompt in prompts]

        def choose(logits: Tensor) -> Tensor:
            # In double precision and from the likeliest token on, so that no temperature is too low.
            wide = logits.double().cpu()
            probabilities = torch.softmax((wide - wide.amax(-1, keepdim=True)) / self.temperature, -1).float()
            if self.top_p < 1:
                ordered, order = probabilities.sort(-1, descending=True)
                # A token stays while the mass before it is below top_p, the likeliest always.
                dropped = ordered.cumsum(-1) - ordered >= self.top_p
                dropped[..., 0] = False
                ordered[dropped] = 0
                probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
            chosen = [
                torch.multinomial(row, 1, generator=stream) for row, stream in zip(probabilities, streams, strict=True)
            ]
            return torch.cat(chosen).to(logits.device)

        return choose


class Generator:
    """Generates replies for the prompts of one call.

    Args:
        chat: the model.
        rendered: the prompts.
        sampling: how tokens are chosen.
        program: edits in force.
        on_prefill: looks at every batch's prefill and decides row by row.
        prefill_states: states that ``on_prefill`` wants.
        prefill_positions: positions that it wants.
    """

    def __init__(
        self,
        chat: ChatModel,
        rendered: Sequence[Rendered],
        sampling: Sampling,
        program: Program,
        *,
        on_prefill: OnPrefill | None = None,
        prefill_states: Sequence[int] = (),
        prefill_positions: Sequence[str] = ("t_inst", "t_post"),
    ) -> None:
        self.chat = chat
        self.rendered = rendered
        self.sampling = sampling
        self.program = program
        self.on_prefill = on_prefill
        self.prefill_states = tuple(prefill_states)
        self.prefill_positions = tuple(prefill_positions)
        self.stop_ids = chat.stop_ids
        longest = max((len(item) for item in rendered), default=1)
        self.decoding = chat.decoding_for(longest + sampling.max_new_tokens)

    def run(self, progress: bool) -> list[str]:
        """Replies in the order of the prompts, without special tokens."""
        replies: list[str | None] = [None] * len(self.rendered)
        lengths = [len(rendered) for rendered in self.rendered]

        def step(batch: list[int]) -> None:
            for prompt, reply in self.reply(batch).items():
                replies[prompt] = reply

        with progress_bar(len(lengths), "Generating", enabled=progress) as advance:
            for done in run_batches(
                lengths,
                self.chat.budget,
                step,
                extra=self.sampling.max_new_tokens,
                alike=not self.decoding.left_padding,
            ):
                advance(done)
        return [reply or "" for reply in replies]

    def reply(self, prompts: list[int]) -> dict[int, str]:
        """Replies of one batch, by prompt index."""
        replies, groups = self.begin(prompts)
        for group in groups:
            for _ in self.decode(group):
                pass
            replies.update(self._texts(group))
        return replies

    def begin(self, prompts: list[int]) -> tuple[dict[int, str], list[Rows]]:
        """Prefill one batch and carry out what ``on_prefill`` decides.

        Returns:
            The texts of prompts that are not generated for, by index, and the others ready to be decoded.
        """
        # A copy, so that a batch repeated after memory ran out does not steer twice.
        rows, seen = self.prefill(prompts, self.program.copy(), look=self.on_prefill is not None)
        replies: dict[int, str] = {}
        groups = [rows]
        if seen is not None:
            assert self.on_prefill is not None
            decisions = list(self.on_prefill(seen))
            if len(decisions) != len(prompts):
                raise EditError(f"on_prefill gave {len(decisions)} decisions for a batch of {len(prompts)}.")
            stopped = [i for i, decision in enumerate(decisions) if isinstance(decision, Stop)]
            steered = [i for i, decision in enumerate(decisions) if isinstance(decision, Steer)]
            for index in stopped:
                replies[prompts[index]] = decisions[index].text  # type: ignore[union-attr]
            if stopped or steered:
                going_on = [i for i, decision in enumerate(decisions) if decision is None]
                groups = [self._keep(rows, going_on)] if going_on else []
                if steered:
                    groups.append(self._steer(rows, steered, decisions))
        return replies, groups

    def prefill(self, prompts: list[int], program: Program, *, look: bool) -> tuple[Rows, PrefillBatch | None]:
        """Read a batch of prompts once.

        Returns:
            The rows ready to decode, and what ``on_prefill`` may look at (None unless ``look``).
        """
        rendered = [self.rendered[prompt] for prompt in prompts]
        lengths = [len(item) for item in rendered]
        ids, mask = self.chat.forward.pad_left([item.ids for item in rendered])
        width = ids.shape[1]
        starts = [length - width for length in lengths]
        program.look_at(Frame(prompts, starts, lengths, width))
        visits = program.visits()
        gatherer = None
        if look and self.prefill_states:
            gatherer = Gatherer(self.chat.anatomy, self.prefill_states, stop=False)
            columns = [
                [index - start for index in position_columns(item, self.prefill_positions)]
                for item, start in zip(rendered, starts, strict=True)
            ]
            gatherer.aim(columns)
            visits = [*visits, *gatherer.visits()]
        with attached(self.chat.anatomy, visits):
            logits, cache = self.chat.forward(
                ids,
                mask,
                position_ids=columns_of(starts, width, ids.device),
                use_cache=self.decoding.cache,
                columns=torch.full((len(prompts), 1), width - 1),
            )
        rows = Rows(list(prompts), ids, mask, starts, width, cache, logits[:, -1], program)
        if not look:
            return rows, None
        if gatherer is not None:
            values = gatherer.state_values()
        else:
            values = torch.empty(len(prompts), 0, len(self.prefill_positions), self.chat.width)
        return rows, PrefillBatch(
            list(prompts), values, self.prefill_states, self.prefill_positions, rows.logits.float().cpu()
        )

    def decode(self, rows: Rows) -> Iterator[Tensor]:
        """Generate until every row has ended.

        Yields:
            The token ids (batch) of each step; a row that has ended goes on with padding.
        """
        choose = self.sampling.chooser(rows.prompts)
        ended = torch.zeros(len(rows.prompts), dtype=torch.bool, device=rows.logits.device)
        stop_ids = torch.tensor(sorted(self.stop_ids), device=rows.logits.device)
        limit = self._limit(rows)
        with attached(self.chat.anatomy, rows.program.visits()):
            for step in range(limit):
                token = choose(rows.logits).to(rows.logits.device)
                token = token.masked_fill(ended, self.chat.forward.pad)
                ended = ended | torch.isin(token, stop_ids)
                rows.tokens.append(token)
                yield token
                if step == limit - 1 or bool(ended.all()):
                    return
                advance(self.chat.forward, rows, token)

    def _limit(self, rows: Rows) -> int:
        if self.chat.context is None:
            return self.sampling.max_new_tokens
        longest = max(len(self.rendered[prompt]) for prompt in rows.prompts)
        room = self.chat.context - longest + 1
        if room < 1:
            raise PositionError(f"A prompt of {longest} tokens leaves no room for a reply: shorten it.")
        return min(self.sampling.max_new_tokens, room)

    def _texts(self, rows: Rows) -> dict[int, str]:
        table = torch.stack(rows.tokens, dim=1).tolist() if rows.tokens else [[] for _ in rows.prompts]
        texts = {}
        for prompt, tokens in zip(rows.prompts, table, strict=True):
            end = next((index for index, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
            texts[prompt] = self.chat.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return texts

    def _keep(self, rows: Rows, chosen: list[int]) -> Rows:
        """The chosen rows on their own, sharing the prefill's cache."""
        if len(chosen) == len(rows.prompts):
            return rows
        kept = keep(rows, chosen)
        if kept is None:
            kept, _ = self.prefill([rows.prompts[i] for i in chosen], rows.program, look=False)
        return kept

    def _steer(self, rows: Rows, chosen: list[int], decisions: Sequence[Decision]) -> Rows:
        """The chosen rows with the template tail run again under their own edits."""
        for index in chosen:
            decision = decisions[index]
            assert isinstance(decision, Steer)
            for edit in decision.edits:
                if edit.span not in ("tail", "t_post", "generated"):
                    raise EditError(
                        f"Steering after the prefill reaches tail, t_post and generated, not {edit.span!r}."
                    )
            rows.program.add(decision.edits, rows.prompts[index])
        prompts = [rows.prompts[index] for index in chosen]
        plain = plain_layers(rows.cache)
        if plain is None:
            steered, _ = self.prefill(prompts, rows.program, look=False)
            return steered
        kept = self._keep(rows, chosen) if len(chosen) < len(rows.prompts) else rows
        again = max(1, max(len(self.rendered[prompt].tail) for prompt in prompts))
        width = kept.width
        layers = plain_layers(kept.cache)
        assert layers is not None
        cache = copy_cache(
            [(keys[..., : width - again, :], values[..., : width - again, :]) for keys, values in layers]
        )
        starts = [start + width - again for start in kept.starts]
        lengths = [len(self.rendered[prompt]) for prompt in prompts]
        rows.program.look_at(Frame(prompts, starts, lengths, again))
        with attached(self.chat.anatomy, rows.program.visits()):
            logits, cache = self.chat.forward(
                kept.ids[:, width - again :],
                kept.mask,
                position_ids=columns_of(starts, again, kept.ids.device),
                cache=cache,
                use_cache=True,
                columns=torch.full((len(prompts), 1), again - 1),
            )
        return Rows(prompts, kept.ids, kept.mask, kept.starts, width, cache, logits[:, -1], rows.program)


def _stream(seed: int, prompt: int) -> int:
    """A 32-bit seed, since torch's generator looks at no more."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt}".encode()).digest()[:4], "big")
