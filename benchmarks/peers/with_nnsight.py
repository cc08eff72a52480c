"""nnsight: traces, with the wanted tokens gathered inside and the pass stopped where nothing more is read."""

from __future__ import annotations

from typing import Any

import torch
from harness import Action, Material
from torch import Tensor

TRACES, INVOKES = "a trace a head", "96 invokes in one trace"
VARIANTS = {"capture": ("",), "steering": ("",), "interchange": (TRACES, INVOKES), "guard": ("",)}
ABSENT: dict[str, str] = {}
NOTES = {"capture": "tracer.stop() before the unembedding", "guard": "tracer.stop() after the state"}


def opened(material: Material) -> Any:
    """The model, with its weights."""
    from nnsight import TransformersModel

    return TransformersModel(str(material.folder), task="text-generation", dispatch=True)


def make(task: str, variant: str, model: Any, material: Material) -> Action:
    """One task."""
    if task == "capture":
        return lambda: capture(model, material)
    if task == "steering":
        return lambda: steer(model, material)
    if task == "interchange":
        return (lambda: invokes(model, material)) if variant == INVOKES else lambda: traces(model, material)
    return lambda: judge(model, material)


def plain(task: str, model: Any, material: Material) -> Action | None:
    """nnsight's own generation without an edit."""
    if task != "steering":
        return None
    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)
    count = material.tokens

    def run() -> Tensor:
        with (
            torch.no_grad(),
            model.generate(
                {"input_ids": ids, "attention_mask": mask}, max_new_tokens=count, min_new_tokens=count, do_sample=False
            ) as tracer,
        ):
            found = tracer.result.save()
        return found

    return run


def capture(model: Any, material: Material) -> Tensor:
    """States (n, L + 1, 2, d)."""
    import nnsight

    found: dict[int, Tensor] = {}
    for batch in material.batches:
        ids, mask, before = material.padded("capture", batch)
        columns, rows = material.columns("capture", batch, before), torch.arange(len(batch))[:, None]
        with torch.no_grad(), model.trace({"input_ids": ids, "attention_mask": mask}) as tracer:
            states = nnsight.save([])
            states.append(model.model.layers[0].input[rows, columns])
            for layer in model.model.layers:
                states.append(layer.output[rows, columns])
            tracer.stop()
        found.update(zip(batch, torch.stack(list(states), dim=1), strict=True))
    return torch.stack([found[index] for index in range(len(found))])


def steer(model: Any, material: Material) -> Tensor:
    """New tokens under a vector added at every step."""
    ids, mask, _ = material.padded("steering", list(range(len(material.items["steering"]))), left=True)
    vector, place, count = material.values["vector"], material.state - 1, material.tokens
    with (
        torch.no_grad(),
        model.generate(
            {"input_ids": ids, "attention_mask": mask}, max_new_tokens=count, min_new_tokens=count, do_sample=False
        ) as tracer,
    ):
        for _ in tracer.iter[:count]:
            model.model.layers[place].output[:] += vector
        found = tracer.result.save()
    return found[:, ids.shape[1] :]


def traces(model: Any, material: Material) -> Tensor:
    """One trace a head."""
    ids, donors = torch.tensor([material.items["interchange"][0].ids]), material.values["donors"]
    size, rows = donors.shape[2], []
    for place in range(donors.shape[0]):
        for head in range(donors.shape[1]):
            first, last, donor = head * size, (head + 1) * size, donors[place, head]
            with torch.no_grad(), model.trace({"input_ids": ids}, logits_to_keep=1):
                model.model.layers[place].self_attn.o_proj.input[:, -1, first:last] = donor
                logits = model.output.logits[0, -1].save()
            rows.append(logits)
    return torch.log_softmax(torch.stack(rows).float(), -1)


def invokes(model: Any, material: Material) -> Tensor:
    """One trace in which every head is an invoke."""
    import nnsight

    ids, donors = torch.tensor([material.items["interchange"][0].ids]), material.values["donors"]
    size = donors.shape[2]
    places = [(place, head) for place in range(donors.shape[0]) for head in range(donors.shape[1])]
    with torch.no_grad(), model.trace(logits_to_keep=1) as tracer:
        rows = nnsight.save([])
        for place, head in places:
            with tracer.invoke({"input_ids": ids}):
                model.model.layers[place].self_attn.o_proj.input[:, -1, head * size : (head + 1) * size] = donors[
                    place, head
                ]
                rows.append(model.output.logits[0, -1])
    return torch.log_softmax(torch.stack(list(rows)).float(), -1)


def judge(model: Any, material: Material) -> Tensor:
    """Scores of the guard's prompts, one at a time, stopped after the state."""
    place, states = material.state - 1, []
    for item in material.items["guard"]:
        ids, column = torch.tensor([item.ids]), item.t_inst
        with torch.no_grad(), model.trace({"input_ids": ids}) as tracer:
            state = model.model.layers[place].output[0, column].save()
            tracer.stop()
        states.append(state)
    return material.scores(torch.stack(states))
