"""Guarded against plain generation: time to the first token.

The guard's verdict comes out of the prefill of the same generation. Both generate one token for each prompt, by turns;
the guard only looks (`on_harmful="flag"`), so that both do the same work. On a random 12-layer Llama (42 million
parameters) with a guard fitted on random prompts, and on `organism:aligned` (under 2 million), whose prefill takes a
few milliseconds: there the guard's fixed cost shows, which is given in milliseconds too.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from common import benchmark_llama, finish, interleaved, parser, prompts_of, ratio

from undertow.guard import LatentGuard
from undertow.model import ChatModel, load
from undertow.organism.grammar import sample
from undertow.prompts import Prompt

BOUND = 1.03


def guard_of_random_prompts(chat: ChatModel) -> LatentGuard:
    """A guard on prompts of letters in which one letter stands for harm, so that there is something to be read."""
    harmful = [text.replace("e", "x") for text in prompts_of(chat, 48, 24, seed=1)]
    harmless = [text.replace("x", "e") for text in prompts_of(chat, 48, 24, seed=2)]
    return LatentGuard.fit(chat, harmful, harmless, refusal_rule=None, steering=False, progress=False)


def guard_of_organism(chat: ChatModel) -> tuple[LatentGuard, list[Prompt]]:
    """A guard with both beliefs on the built-in organism, and prompts to judge."""
    kinds = {kind: list(sample(kind, 60, 0)) for kind in ("bare", "role_play", "harmless", "look-alike")}
    guard = LatentGuard.fit(
        chat, kinds["bare"] + kinds["role_play"], kinds["harmless"] + kinds["look-alike"], progress=False
    )
    return guard, [prompt for kind in ("bare", "suffix", "harmless") for prompt in sample(kind, 4, 0, "test")]


def compare(
    name: str, guard: LatentGuard, calls: Sequence[list[Prompt] | list[str]], repeats: int
) -> dict[str, object]:
    """Time both on the same calls and print the ratio."""

    def plain() -> None:
        for prompts in calls:
            guard.model.generate(prompts, max_new_tokens=1, progress=False)

    def guarded() -> None:
        for prompts in calls:
            guard.generate(prompts, on_harmful="flag", max_new_tokens=1, progress=False)

    gc.collect()
    gc.disable()
    try:
        seconds = interleaved({"plain": plain, "guarded": guarded}, repeats)
    finally:
        gc.enable()
    found = ratio(seconds, "guarded", "plain")
    middle = {kind: sorted(values)[len(values) // 2] / len(calls) * 1e3 for kind, values in seconds.items()}
    print(
        f"{name:<44} plain {middle['plain']:8.2f} ms, guarded {middle['guarded']:8.2f} ms a call: "
        f"{found['median']:.3f}x (of medians {found['of_medians']:.3f}, spread {found['low']:.3f} to "
        f"{found['high']:.3f}; bound {BOUND}), {middle['guarded'] - middle['plain']:+.2f} ms"
    )
    return {"name": name, "ratio": found, "milliseconds": middle, "holds": found["median"] <= BOUND}


def main() -> None:
    flags = parser(__doc__)
    flags.set_defaults(repeats=11)
    flags.add_argument("--lengths", type=int, nargs="+", default=[64, 256])
    flags.add_argument("--calls", type=int, default=8, help="calls in one timing")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    chat = benchmark_llama()
    guard = guard_of_random_prompts(chat)
    print(f"random 12-layer Llama, float32, {guard.rule} rule on states {guard.harmfulness.rule.states}")
    for length in arguments.lengths:
        calls = [[text] for text in prompts_of(chat, length, arguments.calls, seed=3)]
        rows.append(compare(f"random Llama, one prompt of {length} tokens", guard, calls, arguments.repeats))
    batch = [prompts_of(chat, 64, 8, seed=4)]
    rows.append(compare("random Llama, a batch of 8 x 64 tokens", guard, batch, arguments.repeats))
    organism = load("organism:aligned")
    guard, prompts = guard_of_organism(organism)
    rows.append(compare("organism:aligned, one prompt", guard, [[prompt] for prompt in prompts], arguments.repeats))
    rows.append(compare("organism:aligned, a batch of 12", guard, [prompts], arguments.repeats))
    finish(arguments, {"benchmark": "guard", "bound": BOUND, "rows": rows})


if __name__ == "__main__":
    main()
