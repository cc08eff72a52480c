"""Small contexts, and what the tests hold the routing study against: one prompt, one plain pass, hooks of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.builders import tiny_chat
from undertow.model import ChatModel
from undertow.organism.built import Built, Spec, build, built_pairs
from undertow.prompts import Prompt
from undertow.prompts.pairs import Pair, PairSet
from undertow.studies.routing.context import Context, prepare
from undertow.studies.routing.readings import Array, Head

Changes = Mapping[Head, tuple[Sequence[int], Tensor]]
"""Head -> token columns, and (columns, head size) what stands there instead."""

_PLACES = ("garden", "school", "bank", "table", "neighbour")
"""One token each, as all words that a pair exchanges."""


def words_pairs(count: int) -> PairSet:
    """Pairs of three lengths in turn, equal on both sides; two topics in turn."""
    found = []
    for number in range(count):
        topic = ("alarm", "history")[number % 2]
        text = f"{'Please ' * (number % 3)}explain the {{}} {topic} {number:02d} {_PLACES[number % 5]}"
        sides = [
            Prompt(text.format(word), harmful=harmful, category=topic, language="en")
            for word, harmful in (("smoke", True), ("wooden", False))
        ]
        found.append(Pair(sides[0], sides[1], topic, "en", str(number)))
    return PairSet(found, "words")


@cache
def tiny_context(kind: str = "llama", readout: str = "log-odds", choose: int = 6, report: int = 5) -> Context:
    """A random model; its openings are stated, two tokens on either side."""
    pairs = words_pairs(choose + report)
    return prepare(
        tiny_chat(kind),
        pairs,
        readout=readout,
        halves=(pairs[:choose], pairs[choose:]),
        refusal_tokens=("Q", "No"),
        answer_tokens=("Y", "ok"),
        reply_tokens=4,
        permutations=200,
    )


@cache
def built_organism(seed: int = 0, policy: str = "gate", **wanted: Any) -> Built:
    """A small built organism: 4 blocks of 4 heads."""
    settings = {"blocks": 4, "heads": 4, "distractors": 5, "amplifiers": 2, "width": 80} | wanted
    return build(Spec(seed=seed, policy=policy, **settings))


@cache
def built_context(seed: int = 0, policy: str = "gate", **wanted: Any) -> Context:
    """That organism with 16 pairs to choose on and 10 to report on."""
    built = built_organism(seed, policy, **wanted)
    pairs = built_pairs(built.spec, 26, seed)
    return prepare(
        built.chat(),
        pairs,
        halves=(pairs[:16], pairs[16:]),
        refusal_tokens=("Sorry",),
        answer_tokens=("Sure",),
        reply_tokens=4,
        permutations=500,
        branches=2048,
    )


def token_ids(chat: ChatModel, text: str) -> list[int]:
    """A request's tokens by the tokenizer's own template."""
    found: list[int] = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    return found


class Pass:
    """One plain pass over one prompt of a Llama-like model, with heads replaced.

    Args:
        chat: the model.
        text: the prompt.
        changes: what is replaced.
        reply: tokens behind the prompt.

    Attributes:
        logits: (tokens, vocabulary) double.
        states: the last block's output, (tokens, d_model).
        heads: block -> (tokens, heads, head size) after replacement.
        mlps: block -> (tokens, d_model).
    """

    def __init__(self, chat: ChatModel, text: str, changes: Changes | None = None, reply: Sequence[int] = ()) -> None:
        layers = chat.model.model.layers
        self.heads: dict[int, Tensor] = {}
        self.mlps: dict[int, Tensor] = {}
        handles = []
        for block, layer in enumerate(layers):

            def before(module: Any, given: tuple[Tensor], block: int = block) -> tuple[Tensor]:
                size = layers[block].self_attn.head_dim
                values = given[0].clone().unflatten(-1, (-1, size))
                for (own, head), (columns, vectors) in (changes or {}).items():
                    if own == block:
                        values[0, list(columns), head] = vectors
                self.heads[block] = values[0]
                return (values.flatten(-2),)

            def after(module: Any, given: Any, output: Tensor, block: int = block) -> None:
                self.mlps[block] = output[0]

            handles.append(layer.self_attn.o_proj.register_forward_pre_hook(before))
            handles.append(layer.mlp.register_forward_hook(after))

        def last(module: Any, given: tuple[Tensor]) -> None:
            self.states = given[0][0]

        handles.append(chat.model.model.norm.register_forward_pre_hook(last))
        try:
            with torch.no_grad():
                self.ids = [*token_ids(chat, text), *reply]
                self.logits = chat.model(input_ids=torch.tensor([self.ids])).logits[0].double()
        finally:
            for handle in handles:
                handle.remove()


def odds_of(context: Context, logits: Tensor) -> float:
    """Refusal log-odds from one row of logits."""
    refusing, answering = context.openings.refusal_tokens, context.openings.answer_tokens
    assert answering is not None
    return float(logits[list(refusing)].logsumexp(0) - logits[list(answering)].logsumexp(0))


def texts(context: Context, half: str, side: str) -> list[str]:
    """A side's requests, by the pairs and not by what the study keeps."""
    pairs = context.half(half).pairs
    return [(pair.sensitive if side == "sensitive" else pair.control).text for pair in pairs]


def plain_odds(context: Context, half: str, side: str) -> Array:
    """(n,) log-odds at the end of every prompt of a side."""
    return np.array([odds_of(context, Pass(context.chat, text).logits[-1]) for text in texts(context, half, side)])
