"""interp-engine, its "eager" backend, with the attention that transformers takes by default (faster than its own)."""

from __future__ import annotations

from typing import Any

import harness
import torch
from harness import Action, Material
from torch import Tensor

STREAM, BATCH = "generate_stream, batch 1", "transformers' generate inside steer"
VARIANTS = {"capture": ("",), "steering": (STREAM, BATCH), "interchange": ("",), "guard": ("",)}
ABSENT: dict[str, str] = {}
NOTES = {
    "capture": "all tokens kept",
    "interchange": "HookManager.write, one pass a head",
    "guard": "always the whole pass",
}


def opened(material: Material) -> Any:
    """The model."""
    from interp_engine import load_model

    return load_model(str(material.folder), backend="eager", device="cpu", dtype="float32", attn_implementation="sdpa")


def inner(model: Any) -> Any:
    """The transformers model inside."""
    return model.hf_model


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """One task."""
    if task == "steering":
        return (lambda: steer_batch(model, material)) if variant == BATCH else lambda: steer(model, material)
    functions = {"capture": capture, "interchange": interchange, "guard": judge}
    return lambda: functions[task](model, material)


def plain(task: str, model: Any, material: Material) -> Action | None:
    """Its own generation without steering."""
    return (lambda: stream(model, material)) if task == "steering" else None


def capture(model: Any, material: Material) -> Tensor:
    """States (n, L + 1, 2, d)."""
    from interp_engine import Address
    from interp_engine import capture as capture_points

    points = [Address("resid_pre", 0)] + [Address("resid_post", block) for block in range(model.n_layers)]
    found: dict[int, Tensor] = {}
    for batch in material.batches:
        ids, mask, before = material.padded("capture", batch)
        columns, rows = material.columns("capture", batch, before), torch.arange(len(batch))[:, None]
        cache = capture_points(model, ids, points, attention_mask=mask)
        found.update(zip(batch, torch.stack([cache[point][rows, columns] for point in points], dim=1), strict=True))
    return torch.stack([found[index] for index in range(len(found))])


def stream(model: Any, material: Material) -> Tensor:
    """New tokens, one prompt at a time."""
    from interp_engine import generate_stream

    rows = []
    for item in material.items["steering"]:
        steps = generate_stream(
            model, torch.tensor([item.ids]), max_tokens=material.tokens, temperature=0.0, stop_at_eos=False
        )
        rows.append(torch.tensor([step.token_id for step in steps]))
    return torch.stack(rows)


def spec(material: Material) -> Any:
    """The vector, added to the output of the block before the state."""
    from interp_engine import SteerSpec

    return [SteerSpec(material.values["vector"], layer=material.state - 1)]


def steer(model: Any, material: Material) -> Tensor:
    """Its own loop under a steer."""
    from interp_engine import steer as steering

    with steering(model, spec(material)):
        return stream(model, material)


def steer_batch(model: Any, material: Material) -> Tensor:
    """transformers' generation of the whole batch under a steer."""
    from interp_engine import steer as steering

    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)
    with steering(model, spec(material)):
        return harness.generate(model.hf_model, ids, mask, material.tokens)


def interchange(model: Any, material: Material) -> Tensor:
    """One forward pass a head."""
    from interp_engine import HookManager

    ids, donors = torch.tensor([material.items["interchange"][0].ids]), material.values["donors"]
    size, rows = donors.shape[2], []
    for block in range(donors.shape[0]):
        module, side = model.resolve_point("z", block)
        for head in range(donors.shape[1]):

            def put(value: Tensor, block: int = block, head: int = head) -> Tensor:
                changed = value.clone()
                changed[:, -1, head * size : (head + 1) * size] = donors[block, head]
                return changed

            with HookManager() as hooks, torch.no_grad():
                hooks.write(module, put, point=side)
                rows.append(model.hf_model(ids, use_cache=False, logits_to_keep=1).logits[0, -1])
    return torch.log_softmax(torch.stack(rows).float(), -1)


def judge(model: Any, material: Material) -> Tensor:
    """Scores of the guard's prompts, one at a time."""
    from interp_engine import Address
    from interp_engine import capture as capture_points

    point = Address("resid_post", material.state - 1)
    states = [
        capture_points(model, torch.tensor([item.ids]), [point])[point][0, item.t_inst]
        for item in material.items["guard"]
    ]
    return material.scores(torch.stack(states))
