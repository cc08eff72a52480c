from __future__ import annotations

import asyncio

import pytest
import torch

from tests.serve.test_engine import FLAG, collect, prompts, running
from undertow.guard import LatentGuard
from undertow.model import Add
from undertow.serve.engine import Engine
from undertow.serve.jobs import Belief, ChatJob, Piece


def test_edits_and_watched_beliefs(guard: LatentGuard) -> None:
    assert guard.directions is not None
    prompt = prompts()[0]
    state = 1
    edit = Add(torch.from_numpy(guard.directions.difference("refusal", state)), -3.0, state=state, span="all")
    with guard.model.edit(edit):
        steered = guard.model.generate([prompt], 6, progress=False)[0]
    plain = guard.model.generate([prompt], 6, progress=False)[0]

    async def ask() -> tuple[list, str]:
        async with running(guard) as engine:
            watched, (_, plain_text, _) = await asyncio.gather(
                _events(engine, ChatJob(prompt, FLAG, max_new_tokens=6, edits=(edit,), watch=True)),
                collect(engine, ChatJob(prompt, FLAG, max_new_tokens=6)),
            )
            return watched, plain_text

    events, plain_text = asyncio.run(ask())
    text = "".join(event.text for event in events if isinstance(event, Piece))
    assert plain_text == plain and text == steered != plain
    beliefs = [event for event in events if isinstance(event, Belief)]
    assert [belief.index for belief in beliefs] == list(range(len(beliefs))) and len(beliefs) >= 2
    # The same states, read off a whole forward pass under the same edit.
    ids = guard.model.render(prompt).ids
    tokens = [guard.model.tokenizer.convert_tokens_to_ids(belief.token) for belief in beliefs]
    where = guard.harmfulness.rule.states[-1]
    hidden = _states_under(guard, [*ids, *tokens], edit, where)
    wanted = guard.directions.read("harmfulness", hidden[:, None], [where])[len(ids) :, 0]
    for belief, value in zip(beliefs, wanted, strict=True):
        assert belief.harmfulness == pytest.approx(float(value), abs=1e-3)


async def _events(engine: Engine, job: ChatJob) -> list:
    return [event async for event in engine.chat(job)]


def _states_under(guard: LatentGuard, ids: list[int], edit: Add, state: int):
    """(tokens, d) at one state, with the edit carried out by a hook of our own."""
    added = torch.as_tensor(edit.value) * edit.coefficient
    block = guard.model.anatomy.blocks[edit.state]
    handle = block.register_forward_pre_hook(lambda module, inputs: (inputs[0] + added, *inputs[1:]))
    try:
        with torch.no_grad():
            output = guard.model.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    finally:
        handle.remove()
    if state < guard.model.layers:
        return (output.hidden_states[state][0] + (added if state == edit.state else 0)).numpy()
    captured: list = []
    last = guard.model.anatomy.blocks[-1]
    handles = [
        block.register_forward_pre_hook(lambda module, inputs: (inputs[0] + added, *inputs[1:])),
        last.register_forward_hook(
            lambda module, inputs, result: captured.append(result[0] if isinstance(result, tuple) else result)
        ),
    ]
    with torch.no_grad():
        guard.model.model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return captured[0].reshape(len(ids), -1).numpy()
