"""The routing study's screening of all heads of an organism: by replay against one forward pass a head and prompt.

Every head of every sensitive prompt is exchanged for the control's at t_post, and the refusal log-odds are read. Prints
the ratio, how near it is to the bound R T / (T - 1 + R), and the largest difference of the two readings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import finish, interleaved, parser, ratio

from undertow.model import ChatModel, Edit, load
from undertow.organism.pairs import matched_pairs
from undertow.studies.routing.context import Context, prepare

ORGANISM = "organism:aligned"
WANTED_SHARE, WANTED_DIFFERENCE = 0.7, 1e-5


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--model", default=ORGANISM)
    flags.add_argument("--pairs", type=int, default=60)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    row = compare(load(arguments.model), arguments.pairs, arguments.repeats)
    gain = row["speed_up"]
    print(f"{arguments.model}: {row['R']} heads, {row['pairs']} pairs, {row['T']:.1f} tokens a prompt, {row['method']}")
    print(f"loop {row['seconds']['loop']:.2f} s, replay {row['seconds']['replay']:.2f} s")
    print(f"speed-up {gain['median']:.1f} ({gain['low']:.1f} to {gain['high']:.1f}), bound {row['bound']:.1f}")
    print(f"share of the bound {row['share']:.2f} (wanted {WANTED_SHARE})")
    print(f"largest difference {row['difference']:.1e} nats (wanted {WANTED_DIFFERENCE})")
    finish(arguments, {"benchmark": "routing", "model": arguments.model, "rows": [row]})


def compare(chat: ChatModel, pairs: int, repeats: int) -> dict[str, Any]:
    """Time both ways of screening on so many sensitive prompts.

    Args:
        chat: an organism.
        pairs: how many pairs are screened.
        repeats: how often each way is timed.
    """
    made = matched_pairs(pairs + 16, 0, length=lambda text: len(chat.tokenizer.encode(text, add_special_tokens=False)))
    context = prepare(chat, made, halves=(made[:16], made[16:]), permutations=100)
    half = context.report
    branches: list[list[Edit]] = [list(half.swap("control", [head])) for head in context.heads]
    found: dict[str, np.ndarray] = {}

    def replay() -> None:
        found["replay"] = context.read(half, "sensitive", branches)  # type: ignore[arg-type]

    def loop() -> None:
        found["loop"] = looped(context)

    seconds = interleaved({"loop": loop, "replay": replay}, repeats)
    gain = ratio(seconds, "loop", "replay")
    tokens = float(np.mean([len(chat.render(prompt)) for prompt in half.prompts("sensitive")]))
    count = len(branches)
    bound = count * tokens / (tokens - 1 + count)
    return {
        "T": tokens,
        "R": count,
        "pairs": len(half),
        "method": chat.replay_method,
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "speed_up": gain,
        "bound": bound,
        "share": gain["median"] / bound,
        "difference": float(np.abs(found["loop"] - found["replay"]).max()),
    }


def looped(context: Context) -> np.ndarray:
    """(n, R) log-odds with plain hooks: a full forward pass a prompt and head, logits of the last token only."""
    chat, half = context.chat, context.report
    model, anatomy = chat.model, chat.anatomy
    refusing = list(context.openings.refusal_tokens)
    answering = list(context.openings.answer_tokens or ())
    found = np.zeros((len(half), len(context.heads)))
    rendered = [torch.tensor([chat.render(prompt).ids]) for prompt in half.prompts("sensitive")]
    for column, (block, head) in enumerate(context.heads):
        size = anatomy.head_sizes[block]
        part = slice(head * size, (head + 1) * size)
        given = half.heads["control"][block][:, head]
        projection = anatomy.projections[block]
        assert projection is not None
        for row, ids in enumerate(rendered):

            def put(
                module: Any, inputs: tuple[torch.Tensor, ...], part: slice = part, value: torch.Tensor = given[row]
            ) -> tuple[torch.Tensor]:
                changed = inputs[0].clone()
                changed[0, -1, part] = value
                return (changed,)

            handle = projection.register_forward_pre_hook(put)
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].double()
            handle.remove()
            found[row, column] = float(logits[refusing].logsumexp(0) - logits[answering].logsumexp(0))
    return found


if __name__ == "__main__":
    main()
