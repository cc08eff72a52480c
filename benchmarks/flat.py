"""Memory of capture over many prompts: does the peak grow by the result only?

Every count runs in a process of its own, in which every large block goes back to the system when it is freed. A small
model is read, so that ten thousand prompts take seconds; what one batch needs is the same for every count. Printed are
the peak above the loaded model, the result's size (states and prompts), the rest, and how the rest grows from the
smallest count to this one. The tokenizers library keeps the words it has split: its cache is off, and on in a last row.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from common import benchmark_llama, finish, parser, words_of

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from harness import EXACT, peak_growth


def measured(count: int, layers: int, width: int, keeps_words: bool) -> dict[str, Any]:
    """Peak and result size of one capture in this process."""
    chat = benchmark_llama(layers, heads=4, width=width)
    if not keeps_words:
        chat.tokenizer.backend_tokenizer.model._resize_cache(0)
    lengths = torch.randint(16, 49, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [words_of(length, seed) for seed, length in enumerate(lengths)]
    chat.capture(prompts[:8], progress=False)
    found, peak = peak_growth(lambda: chat.capture(prompts, progress=False))
    size = found.values.nelement() * found.values.element_size()
    size += sum(sys.getsizeof(prompt) for prompt in found.prompts) + sys.getsizeof(found.prompts)
    return {"prompts": count, "peak": peak, "result": size, "rest": peak - size}


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--counts", type=int, nargs="+", default=[2_500, 10_000])
    flags.add_argument("--layers", type=int, default=4)
    flags.add_argument("--width", type=int, default=256)
    flags.add_argument("--keep-words", action="store_true", help="with --inside: leave the tokenizer its cache")
    flags.add_argument("--inside", type=int, default=None, help="measure this count in this very process")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.inside is not None:
        print(json.dumps(measured(arguments.inside, arguments.layers, arguments.width, arguments.keep_words)))
        return
    rows: list[dict[str, Any]] = []
    print("tokenizer's cache   prompts    peak MB   result MB    the rest MB   growth of the rest, bytes a prompt")
    for keeps_words, counts in ((False, arguments.counts), (True, arguments.counts[-1:])):
        for count in counts:
            command = [sys.executable, __file__, "--inside", str(count), "--threads", str(arguments.threads)]
            command += ["--layers", str(arguments.layers), "--width", str(arguments.width)]
            command += ["--keep-words"] if keeps_words else []
            done = subprocess.run(command, env={**os.environ, **EXACT}, capture_output=True, text=True, check=True)
            row = {"keeps_words": keeps_words, **json.loads(done.stdout.splitlines()[-1])}
            first = rows[0] if rows else row
            row["growth"] = (row["rest"] - first["rest"]) / max(1, row["prompts"] - first["prompts"])
            rows.append(row)
            print(
                f"{'kept' if keeps_words else 'off':<16} {row['prompts']:>10} {row['peak'] / 1e6:>10.1f} "
                f"{row['result'] / 1e6:>11.1f} {row['rest'] / 1e6:>14.1f} {row['growth']:>14.0f}"
            )
    finish(arguments, {"benchmark": "flat", "layers": arguments.layers, "width": arguments.width, "rows": rows})


if __name__ == "__main__":
    main()
