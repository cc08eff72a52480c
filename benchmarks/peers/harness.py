"""What every tool's process shares: the material, the bare forward pass, the check, peak memory and timing.

Runs in any environment that has torch, transformers and safetensors; Undertow need not be there.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Action = Callable[[], Any]
"""Does one task once and returns its result as a tensor, or as texts."""

TOLERANCE = 1e-5
# glibc hands blocks above the threshold straight back to the system when they are freed.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
TASKS = ("capture", "steering", "interchange", "guard")


@dataclass(frozen=True)
class Item:
    """One prompt.

    Attributes:
        text: what the user says.
        rendered: with the chat template around it.
        ids: token ids of that.
        t_inst, t_post: indices of the instruction's and the prompt's last token.
    """

    text: str
    rendered: str
    ids: list[int]
    t_inst: int
    t_post: int


@dataclass(frozen=True)
class Material:
    """Prompts and reference values that `material.py` wrote.

    Attributes:
        folder: of the model and its tokenizer.
        items: prompts by task; the interchange has one, its donor's heads are in ``values``.
        batches: of the capture's prompts, as lists of indices; every tool that takes batches gets these.
        values: reference values from plain transformers, and the vectors that tasks need.
        replies: reference replies of the steering task.
        state: which state is steered and which one the guard reads.
        tokens: how many tokens are generated.
    """

    folder: Path
    items: dict[str, list[Item]]
    batches: list[list[int]]
    values: dict[str, Tensor]
    replies: list[str]
    state: int
    tokens: int

    @classmethod
    def load(cls, folder: Path) -> Material:
        """Read a folder."""
        found = json.loads((folder / "material.json").read_text(encoding="utf-8"))
        items = {task: [Item(**entry) for entry in entries] for task, entries in found["items"].items()}
        values = load_file(str(folder / "values.safetensors"))
        return cls(folder / "model", items, found["batches"], values, found["replies"], found["state"], found["tokens"])

    def small(self) -> Material:
        """A little of every task, for warming up."""
        return replace(
            self,
            items={task: items[-1:] for task, items in self.items.items()},
            batches=[[0]],
            values={**self.values, "donors": self.values["donors"][:1]},
            tokens=2,
        )

    def padded(self, task: str, batch: list[int], *, left: bool = False) -> tuple[Tensor, Tensor, list[int]]:
        """Token ids and mask (batch, longest), and how many columns of padding stand before each prompt."""
        sequences = [self.items[task][index].ids for index in batch]
        width = max(map(len, sequences))
        ids, mask = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width, dtype=torch.long)
        before = [width - len(sequence) if left else 0 for sequence in sequences]
        for row, (sequence, start) in enumerate(zip(sequences, before, strict=True)):
            ids[row, start : start + len(sequence)] = torch.tensor(sequence)
            mask[row, start : start + len(sequence)] = 1
        return ids, mask, before

    def columns(self, task: str, batch: list[int], before: list[int]) -> Tensor:
        """Columns (batch, 2) of t_inst and t_post."""
        chosen = [self.items[task][index] for index in batch]
        return torch.tensor([[item.t_inst + s, item.t_post + s] for item, s in zip(chosen, before, strict=True)])

    def scores(self, states: Tensor) -> Tensor:
        """The guard's number for states (n, d): cosine with the harmful centroid less that with the harmless one."""
        near = torch.nn.functional.cosine_similarity(states.float(), self.values["harmful"][None], dim=-1)
        far = torch.nn.functional.cosine_similarity(states.float(), self.values["harmless"][None], dim=-1)
        return near - far


def plain_model(folder: Path) -> nn.Module:
    """The model as transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder)).eval()


def plain_tokenizer(folder: Path) -> Any:
    """Its tokenizer, which pads on the left."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.padding_side = "left"
    return tokenizer


def bare(task: str, model: Any, material: Material) -> Action:
    """What a task's time is divided by: the forward passes of the same prompts with nothing read or changed.

    Capture and guard run the decoder without the unembedding; steering is transformers' own greedy generation; the
    interchange is one forward pass of the prompt with the logits of its last token.
    """
    if task == "capture":
        padded = [material.padded(task, batch)[:2] for batch in material.batches]
    elif task == "steering":
        padded = [material.padded(task, list(range(len(material.items[task]))), left=True)[:2]]
    else:
        padded = [material.padded(task, [index])[:2] for index in range(len(material.items[task]))]

    def run() -> Any:
        with torch.no_grad():
            for ids, mask in padded:
                if task == "steering":
                    return generate(model, ids, mask, material.tokens)
                if task == "interchange":
                    return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
                given = {} if bool(mask.all()) else {"attention_mask": mask}
                model.model(input_ids=ids, use_cache=False, **given)
        return None

    return run


def generate(model: Any, ids: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """New token ids (batch, tokens) of transformers' greedy generation."""
    with torch.no_grad():
        found = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
    return found[:, ids.shape[1] :]


def difference(task: str, found: Any, material: Material, tool: Any) -> float:
    """Greatest difference from plain transformers; for steering, the share of tokens or replies that differ.

    A tool may say that it gives fewer states (``STATES``) or the last one after the final norm (``NORMED_LAST``).
    """
    if task == "steering":
        if isinstance(found, Tensor):
            return (found != material.values["replies"]).float().mean().item()
        return sum(a != b for a, b in zip(found, material.replies, strict=True)) / len(material.replies)
    wanted = material.values[{"capture": "states", "interchange": "interchanged", "guard": "scores"}[task]]
    if task == "capture":
        if getattr(tool, "NORMED_LAST", False):
            wanted = torch.cat([wanted[:, :-1], material.values["normed"][:, None]], dim=1)
        wanted = wanted[:, list(getattr(tool, "STATES", range(wanted.shape[1])))]
    if tuple(found.shape) != tuple(wanted.shape):
        return float("inf")
    return (found - wanted).abs().max().item()


def peak_growth(action: Action) -> tuple[Any, int]:
    """The result of an action and by how many bytes the resident memory peaked above where it began."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = action()
    return result, _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}.")


def interleaved(actions: dict[str, Action], repeats: int) -> dict[str, list[float]]:
    """Seconds of each action, by turns, the order reversed every other time; one warm-up of each first."""
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats):
        order = list(actions) if repeat % 2 == 0 else list(reversed(actions))
        for name in order:
            gc.collect()
            start = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def paired(seconds: dict[str, list[float]], name: str, baseline: str) -> list[float]:
    """Ratio of every repeat."""
    return [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)
