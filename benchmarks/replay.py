"""All heads interchanged at t_post: replay against the naive loop of one forward pass a head.

Prints, for each prompt length, the speed-up, how near it is to the bound R T / (T - 1 + R), and the greatest
difference between the two in log-probability.
"""

from __future__ import annotations

from typing import Any

import torch
from common import benchmark_llama, finish, interleaved, parser, prompts_of, ratio

from undertow.model import ChatModel, Edit, Replace


def main() -> None:
    flags = parser(__doc__)
    flags.set_defaults(repeats=3)
    flags.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    chat = benchmark_llama()
    rows = []
    print(f"replay method: {chat.replay_method}; {chat.layers} blocks x {chat.anatomy.heads[0]} heads, float32")
    print("    T    R    loop s  replay s  speed-up          spread   bound  of bound   max diff")
    for length in arguments.lengths:
        row = compare(chat, length, arguments.repeats)
        rows.append(row)
    finish(arguments, {"benchmark": "replay", "rows": rows})


def compare(chat: ChatModel, length: int, repeats: int) -> dict[str, Any]:
    """Time both ways on one prompt of this length and print the line."""
    prompt, donor = prompts_of(chat, length, 2)
    heads = chat.capture(donor, states=[], positions=["t_post"], heads=True, progress=False).heads
    assert heads is not None
    branches: list[list[Edit]] = [
        [Replace(heads[0, block, head, 0], head=(block, head), span="t_post")]
        for block in range(chat.layers)
        for head in range(chat.anatomy.heads[block])
    ]
    results: dict[str, torch.Tensor] = {}

    def run(method: str) -> None:
        results[method] = chat.replay(prompt, branches, method=method, progress=False)

    seconds = interleaved({"loop": lambda: run("loop"), "tree": lambda: run("tree")}, repeats)
    gain = ratio(seconds, "loop", "tree")
    count = len(branches)
    bound = count * length / (length - 1 + count)
    difference = (results["loop"] - results["tree"]).abs().max().item()
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    spread = f"{gain['low']:.1f} to {gain['high']:.1f}"
    print(
        f"{length:>5} {count:>4} {medians['loop']:>9.3f} {medians['tree']:>9.4f} {gain['median']:>8.1f}x {spread:>15} "
        f"{bound:>7.1f} {gain['median'] / bound:>9.2f} {difference:>10.1e}"
    )
    return {"T": length, "R": count, "speed_up": gain, "bound": bound, "difference": difference}


if __name__ == "__main__":
    main()
