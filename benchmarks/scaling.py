"""How Undertow's advantage over the naive way grows with prompts, tokens, layers and heads.

Capture is held against a loop over single prompts with output_hidden_states, and against the bare pass of the same
batches; replay against one forward pass a head. Tokens are varied for replay by `replay.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from common import benchmark_llama, finish, interleaved, parser, prompts_of, ratio
from replay import compare

from undertow.model import ChatModel
from undertow.model.batching import plan


def capture(chat: ChatModel, prompts: int, tokens: int, repeats: int, budget: int) -> dict[str, Any]:
    """Time capture, the bare pass and the naive loop by turns on prompts of about so many tokens."""
    spread = [tokens - tokens // 4 + index % (tokens // 2) for index in range(prompts)]
    texts = [prompts_of(chat, length, 1, seed)[0] for seed, length in enumerate(spread)]
    rendered = [chat.render(text) for text in texts]
    batches = [
        chat.forward.pad_right([rendered[index].ids for index in batch])
        for batch in plan([len(item) for item in rendered], budget)
    ]

    def bare() -> None:
        with torch.no_grad():
            for ids, mask in batches:
                chat.model.model(input_ids=ids, attention_mask=mask, use_cache=False)

    def ours() -> None:
        chat.capture(texts, progress=False, tokens_per_batch=budget)

    def naive() -> None:
        found = []
        with torch.no_grad():
            for item in rendered:
                hidden = chat.model(input_ids=torch.tensor([item.ids]), output_hidden_states=True).hidden_states
                found.append(torch.stack([state[0, [item.t_inst, item.t_post]] for state in hidden]))
        torch.stack(found)

    seconds = interleaved({"bare": bare, "capture": ours, "naive": naive}, repeats)
    return {
        "prompts": prompts,
        "tokens": tokens,
        "layers": chat.layers,
        "to_bare": ratio(seconds, "capture", "bare"),
        "speed_up": ratio(seconds, "naive", "capture"),
    }


def main() -> None:
    flags = parser(__doc__)
    flags.set_defaults(repeats=3)
    flags.add_argument("--tokens-per-batch", type=int, default=2048)
    flags.add_argument("--prompts", type=int, nargs="+", default=[8, 32, 64])
    flags.add_argument("--tokens", type=int, nargs="+", default=[32, 128, 256])
    flags.add_argument("--layers", type=int, nargs="+", default=[4, 8, 12])
    flags.add_argument("--heads", type=int, nargs="+", default=[4, 8, 16])
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats, budget = arguments.repeats, arguments.tokens_per_batch
    chat = benchmark_llama()
    curves: dict[str, list[dict[str, Any]]] = {
        "prompts": [capture(chat, count, 64, repeats, budget) for count in arguments.prompts],
        "tokens": [capture(chat, 16, length, repeats, budget) for length in arguments.tokens],
        "layers": [capture(benchmark_llama(layers), 16, 64, repeats, budget) for layers in arguments.layers],
    }
    for name, rows in curves.items():
        for row in rows:
            print(
                f"capture, {name:<8} {row[name]:>4}: {row['to_bare']['median']:.3f}x the bare pass, "
                f"{row['speed_up']['median']:.2f} times as fast as the naive loop"
            )
    curves["heads"] = [compare(benchmark_llama(heads=heads), 128, repeats) for heads in arguments.heads]
    finish(arguments, {"benchmark": "scaling", "tokens_per_batch": budget, "curves": curves})


if __name__ == "__main__":
    main()
