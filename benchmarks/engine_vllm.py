"""An exported guard in vLLM, in plain transformers and in Undertow: the same probabilities, and how fast each is.

vLLM runs in an environment of its own (`--python`), on as many threads, and not at the same time as the others. Each is
timed from text to score over all prompts. Exits with 1 where a probability from vLLM differs by more than 1e-4 from
that of plain transformers. Without EXPORT, guards of the rule `normed` are fitted and exported first: on
`organism:aligned` (the first 3 of its 6 blocks or so) and on a random 12-layer Llama, where arithmetic outweighs
overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import benchmark_llama, finish, parser, prompts_of, timed

if TYPE_CHECKING:
    from undertow.guard import LatentGuard

BOUND = 1e-4
_ROOT = Path(__file__).resolve().parent.parent
_ROWS = 32
_BLOCK = re.compile(r"(<!-- vllm: .*? -->\n).*?(<!-- end of vllm -->)", re.DOTALL)
_WORDS = {
    "transformers": "transformers, the export",
    "undertow": "Undertow, the guard itself",
    "vllm": "vLLM {version}, the export",
}


def work(task: Path, result: Path, repeats: int) -> None:
    """In the environment of vLLM: score the texts of a task, and time it."""
    from undertow.engines.vllm import VllmScorer, _version
    from undertow.prompts import Prompt

    given = json.loads(task.read_text())
    prompts = [Prompt(text) for text in given["texts"]]
    with VllmScorer(given["export"]) as scorer:
        rows = scorer.score_chunk(prompts, 0)
        seconds = [timed(lambda: scorer.score_chunk(prompts, 0)) for _ in range(repeats)]
    found = {"version": _version(), "probabilities": [row["harmful"] for row in rows], "seconds": seconds}
    result.write_text(json.dumps(found))


def with_vllm(python: Path, export: Path, texts: list[str], repeats: int, threads: int) -> dict[str, Any]:
    """What `work` finds, in a process of the other environment."""
    with tempfile.TemporaryDirectory() as folder:
        task, result = Path(folder) / "task.json", Path(folder) / "result.json"
        task.write_text(json.dumps({"export": str(export), "texts": texts}))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
        command = [str(python), __file__, "--work", str(task), str(result), "--repeats", str(repeats)]
        subprocess.run(command, check=True, env=environment)
        return dict(json.loads(result.read_text()))


def with_transformers(export: Path, texts: list[str], repeats: int) -> dict[str, Any]:
    """Probabilities from plain transformers, in batches sorted by length."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export, padding_side="right")
    model = AutoModelForSequenceClassification.from_pretrained(export, dtype="auto").eval()

    def score() -> list[float]:
        rendered = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) for text in texts
        ]
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        found = [0.0] * len(texts)
        order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
        for begin in range(0, len(order), _ROWS):
            batch = order[begin : begin + _ROWS]
            inputs = tokenizer.pad({"input_ids": [ids[row] for row in batch]}, return_tensors="pt")
            with torch.inference_mode():
                values = model(**inputs).logits.double().softmax(-1)[:, 1].tolist()
            for row, value in zip(batch, values, strict=True):
                found[row] = value
        return found

    probabilities = score()
    return {"probabilities": probabilities, "seconds": [timed(score) for _ in range(repeats)]}


def with_undertow(guard: LatentGuard, texts: list[str], repeats: int) -> dict[str, Any]:
    """Probabilities of the guard saved beside the export, through Undertow's own capture."""
    probabilities = guard.harmfulness.curve.probability(guard.score(texts)).tolist()
    return {"probabilities": probabilities, "seconds": [timed(lambda: guard.score(texts)) for _ in range(repeats)]}


def compare(
    name: str, python: Path, export: Path, guard: LatentGuard, texts: list[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """All three on the same prompts, printed."""
    ways = {
        "transformers": with_transformers(export, texts, arguments.repeats),
        "undertow": with_undertow(guard, texts, arguments.repeats),
        "vllm": with_vllm(python, export, texts, arguments.repeats, arguments.threads),
    }
    plain = ways["transformers"]
    tokens = sum(guard.model.render(text).t_inst + 1 for text in texts) / len(texts)
    print(f"{name}: {len(texts)} prompts of {tokens:.1f} tokens on average, vLLM {ways['vllm']['version']}")
    row: dict[str, Any] = {"name": name, "prompts": len(texts), "tokens": tokens, "version": ways["vllm"]["version"]}
    for way, found in ways.items():
        pairs = zip(found["probabilities"], plain["probabilities"], strict=True)
        difference = max(abs(a - b) for a, b in pairs)
        rate = len(texts) / statistics.median(found["seconds"])
        ratio = statistics.median(plain["seconds"]) / statistics.median(found["seconds"])
        row[way] = {"difference": difference, "prompts_a_second": rate, "of_transformers": ratio}
        print(
            f"  {way:<13} {rate:8.1f} prompts a second, {ratio:5.2f}x transformers; "
            f"probabilities differ by at most {difference:.1e}"
        )
    row["holds"] = row["vllm"]["difference"] <= BOUND
    return row


def table(rows: list[dict[str, Any]], threads: int) -> str:
    """A row an engine and model."""
    lines = [
        "| model | engine | prompts a second | against transformers | largest difference of a probability |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        label = f"{row['name']}, {row['prompts']} prompts of {row['tokens']:.0f} tokens"
        for way, words in _WORDS.items():
            found = row[way]
            words = words.format(version=row["version"])
            difference = "" if way == "transformers" else f"{found['difference']:.1e}"
            rate, ratio = f"{found['prompts_a_second']:,.0f}", f"{found['of_transformers']:.2f}x"
            lines.append(f"| {label} | {words} | {rate} | {ratio} | {difference} |")
    about = f"{threads} thread{'s' if threads > 1 else ''}, from text to score, one engine at a time."
    return "\n".join([*lines, "", about])


def write_table(page: Path, text: str) -> None:
    """Put the table between a page's marks."""
    whole = page.read_text(encoding="utf-8")
    if not _BLOCK.search(whole):
        raise SystemExit(f"{page} has no marks for this table.")
    page.write_text(_BLOCK.sub(lambda match: match[1] + text + "\n" + match[2], whole), encoding="utf-8")


def given_export(export: Path, count: int) -> tuple[LatentGuard, list[str]]:
    """The guard beside an export, and built-in prompts for it."""
    from undertow.guard import LatentGuard

    return LatentGuard.from_pretrained(export / "guard"), built_in(count)


def built_in(count: int) -> list[str]:
    """Built-in prompts, evenly spread."""
    from undertow.prompts import PromptSet

    texts = PromptSet.builtin().texts
    return [texts[index * len(texts) // count] for index in range(min(count, len(texts)))]


def organism_export(folder: Path, count: int) -> tuple[LatentGuard, list[str]]:
    """`organism:aligned`, its guard exported to a folder."""
    from undertow.guard import LatentGuard
    from undertow.guard.export import export_classifier
    from undertow.model import load
    from undertow.prompts import PromptSet

    prompts = PromptSet.builtin("train")
    guard = LatentGuard.fit(
        load("organism:aligned"),
        prompts.harmful(),
        prompts.harmless(),
        rule="normed",
        refusal_rule=None,
        steering=False,
        progress=False,
    )
    export_classifier(guard, folder, progress=False)
    return guard, built_in(count)


def random_export(folder: Path, count: int) -> tuple[LatentGuard, list[str]]:
    """The random Llama of the other benchmarks, read at its middle; one letter stands for harm.

    Only a fifth of the prompts, as each takes far longer.
    """
    import numpy as np

    from undertow.guard import Belief, LatentGuard
    from undertow.guard.calibration import fit_curve, measured_threshold
    from undertow.guard.export import export_classifier
    from undertow.guard.rules import NormedRule

    chat = benchmark_llama()
    harmful = [text.replace("e", "x") for text in prompts_of(chat, 64, 100, seed=1)]
    harmless = [text.replace("x", "e") for text in prompts_of(chat, 64, 100, seed=2)]
    labels, state = np.arange(200) < 100, chat.layers // 2
    captured = chat.capture(harmful + harmless, states=[state], positions=("t_inst",), progress=False)
    features = captured.at("t_inst").numpy()
    rule = NormedRule.fit(features, labels, (state,), **NormedRule.settings_for(chat))
    scores = rule.score(features)
    curve = fit_curve(scores, labels, "platt", intercept=False)
    belief = Belief("harmfulness", "t_inst", rule, curve, measured_threshold(0.0, scores, labels, 0.95, None), "")
    training = {"harmful": 100, "harmless": 100, "held_out": 0}
    metrics = {"area": 1.0, "threshold_sentence": "Nothing was held out."}
    guard = LatentGuard(chat, chat.identity, belief, None, training=training, metrics=metrics)
    export_classifier(guard, folder, progress=False)
    return guard, prompts_of(chat, 96, max(1, count // 5), seed=3)


def main() -> None:
    flags = parser(__doc__ or "")
    flags.set_defaults(repeats=3, threads=1)
    flags.add_argument("export", type=Path, nargs="?", help="an exported classifier; by default two are made")
    flags.add_argument("--python", type=Path, default=Path("build/vllm/bin/python"), help="python that has vLLM")
    flags.add_argument("--prompts", type=int, default=500)
    flags.add_argument("--work", type=Path, nargs=2, default=None, help=argparse.SUPPRESS)
    flags.add_argument("--write", type=Path, nargs="+", default=[], help="write the table into these pages")
    arguments = flags.parse_args()
    if arguments.work is not None:
        work(*arguments.work, arguments.repeats)
        return
    import torch

    torch.set_num_threads(arguments.threads)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.export is not None:
            guard, texts = given_export(arguments.export, arguments.prompts)
            rows.append(compare(str(arguments.export), arguments.python, arguments.export, guard, texts, arguments))
        else:
            for name, make in {"organism:aligned": organism_export, "random 12-layer Llama": random_export}.items():
                folder = Path(scratch) / make.__name__
                guard, texts = make(folder, arguments.prompts)
                label = f"{name}, {guard.harmfulness.rule.states[0]} of {guard.model.layers} blocks"
                rows.append(compare(label, arguments.python, folder, guard, texts, arguments))
    finish(arguments, {"benchmark": "engine_vllm", "bound": BOUND, "rows": rows})
    for page in arguments.write:
        write_table(page, table(rows, arguments.threads))
    if not all(row["holds"] for row in rows):
        print(f"Probabilities from vLLM differ by more than {BOUND:g}.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
