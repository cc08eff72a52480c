"""Capture of two positions at all states against the bare forward pass of the same batches.

The baseline runs the same padded batches through the model's decoder with nothing read and no unembedding.
"""

from __future__ import annotations

import torch
from common import benchmark_llama, finish, interleaved, parser, prompts_of, ratio

from undertow.model.batching import plan


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--prompts", type=int, default=64)
    flags.add_argument("--tokens-per-batch", type=int, default=2048)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    chat = benchmark_llama()
    lengths = torch.randint(32, 129, (arguments.prompts,), generator=torch.Generator().manual_seed(1)).tolist()
    prompts = [prompts_of(chat, length, 1, seed=index)[0] for index, length in enumerate(lengths)]
    rendered = [chat.render(prompt).ids for prompt in prompts]
    batches = [
        chat.forward.pad_right([rendered[index] for index in batch])
        for batch in plan([len(ids) for ids in rendered], arguments.tokens_per_batch)
    ]
    decoder = chat.model.model

    def bare() -> None:
        with torch.no_grad():
            for ids, mask in batches:
                decoder(input_ids=ids, attention_mask=mask, use_cache=False)

    def capture() -> None:
        chat.capture(prompts, progress=False, tokens_per_batch=arguments.tokens_per_batch)

    def stacked() -> None:
        with torch.no_grad():
            for ids, mask in batches:
                decoder(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)

    seconds = interleaved({"bare": bare, "capture": capture, "output_hidden_states": stacked}, arguments.repeats)
    figures, states = {}, chat.layers + 1
    print(f"{arguments.prompts} prompts of 32 to 128 tokens, {len(batches)} batches, {states} states x 2 positions")
    for name in ("capture", "output_hidden_states"):
        found = ratio(seconds, name, "bare")
        figures[name] = found
        print(
            f"{name:<22} {found['median']:.3f}x the bare forward pass "
            f"(of medians {found['of_medians']:.3f}, spread {found['low']:.3f} to {found['high']:.3f})"
        )
    finish(arguments, {"benchmark": "capture", "ratios": figures})


if __name__ == "__main__":
    main()
