"""TransformerLens through TransformerBridge, whose attention is the "eager" one so that hooks see patterns."""

from __future__ import annotations

from typing import Any

import torch
from harness import Action, Material
from torch import Tensor

VARIANTS = {"capture": ("",), "steering": ("",), "interchange": ("",), "guard": ("",)}
ABSENT: dict[str, str] = {}
NOTES = {
    "capture": "run_with_cache with a names_filter, all tokens kept",
    "steering": "hooks around bridge.generate",
    "interchange": "run_with_hooks, one pass a head",
    "guard": "run_with_cache with stop_at_layer",
}


def opened(material: Material) -> Any:
    """The bridge."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(material.folder), device="cpu", dtype=torch.float32)


def make(task: str, variant: str, bridge: Any, material: Material) -> Action:
    """One task."""
    functions = {"capture": capture, "steering": steer, "interchange": interchange, "guard": judge}
    return lambda: functions[task](bridge, material)


def plain(task: str, bridge: Any, material: Material) -> Action | None:
    """Its own generation without a hook."""
    return (lambda: generate(bridge, material)) if task == "steering" else None


def capture(bridge: Any, material: Material) -> Tensor:
    """States (n, L + 1, 2, d)."""
    names = ["blocks.0.hook_resid_pre"] + [f"blocks.{block}.hook_resid_post" for block in range(bridge.cfg.n_layers)]
    found: dict[int, Tensor] = {}
    for batch in material.batches:
        ids, mask, before = material.padded("capture", batch)
        columns, rows = material.columns("capture", batch, before), torch.arange(len(batch))[:, None]
        with torch.no_grad():
            _, cache = bridge.run_with_cache(ids, names_filter=names, attention_mask=mask, return_type=None)
        found.update(zip(batch, torch.stack([cache[name][rows, columns] for name in names], dim=1), strict=True))
    return torch.stack([found[index] for index in range(len(found))])


def generate(bridge: Any, material: Material) -> Tensor:
    """New tokens of its own generation."""
    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)
    with torch.no_grad():
        found = bridge.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=material.tokens,
            stop_at_eos=False,
            do_sample=False,
            return_type="tokens",
            verbose=False,
        )
    return found[:, ids.shape[1] :]


def steer(bridge: Any, material: Material) -> Tensor:
    """The same under a hook that adds the vector."""
    vector = material.values["vector"]

    def add(value: Tensor, hook: Any) -> Tensor:
        return value + vector

    with bridge.hooks(fwd_hooks=[(f"blocks.{material.state - 1}.hook_resid_post", add)]):
        return generate(bridge, material)


def interchange(bridge: Any, material: Material) -> Tensor:
    """One forward pass a head."""
    ids, donors = torch.tensor([material.items["interchange"][0].ids]), material.values["donors"]
    rows = []
    for block in range(donors.shape[0]):
        for head in range(donors.shape[1]):

            def put(value: Tensor, hook: Any, block: int = block, head: int = head) -> Tensor:
                value[:, -1, head] = donors[block, head]
                return value

            with torch.no_grad():
                logits = bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{block}.attn.hook_z", put)])
            rows.append(logits[0, -1])
    return torch.log_softmax(torch.stack(rows).float(), -1)


def judge(bridge: Any, material: Material) -> Tensor:
    """Scores of the guard's prompts, one at a time."""
    name, states = f"blocks.{material.state - 1}.hook_resid_post", []
    for item in material.items["guard"]:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                torch.tensor([item.ids]), names_filter=name, stop_at_layer=material.state, return_type=None
            )
        states.append(cache[name][0, item.t_inst])
    return material.scores(torch.stack(states))
