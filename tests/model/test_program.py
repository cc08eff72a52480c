from __future__ import annotations

import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.model import Add, Scale
from undertow.model.program import Frame, Operation, Program, apply_operations
from undertow.prompts import Prompt

CHAT = tiny_chat("llama")
RENDERED = CHAT.renderer.render_many([Prompt(text) for text in PROMPTS[:2]])


def touched(program: Program, site: tuple[str, int], frame: Frame, width: int = 64) -> list[tuple[int, int]]:
    """(row, column) of every token that the program changes at a site."""
    program.look_at(frame)
    hidden = torch.zeros(len(frame.prompts), frame.width, width)
    changed = dict(program.visits())[site](hidden)
    return [] if changed is None else [tuple(pair) for pair in changed.abs().sum(-1).nonzero().tolist()]


def test_spans_follow_the_padding() -> None:
    program = Program(CHAT.anatomy, [Add(torch.ones(64), state=1, span="t_inst")], RENDERED)
    lengths = [len(item) for item in RENDERED]
    width = max(lengths)
    right = touched(program, ("state", 1), Frame([0, 1], [0, 0], lengths, width))
    assert right == [(0, RENDERED[0].t_inst), (1, RENDERED[1].t_inst)]
    starts = [length - width for length in lengths]
    left = touched(program, ("state", 1), Frame([0, 1], starts, lengths, width))
    assert left == [(row, item.t_inst - start) for row, (item, start) in enumerate(zip(RENDERED, starts, strict=True))]


def test_decoded_tokens_are_never_taken_for_prompt_tokens() -> None:
    lengths = [len(item) for item in RENDERED]
    prompt = Program(CHAT.anatomy, [Add(torch.ones(64), state=1, span="prompt")], RENDERED)
    generated = Program(CHAT.anatomy, [Add(torch.ones(64), state=1, span="generated")], RENDERED)
    for step in range(3):
        starts = [length + step for length in lengths]
        frame = Frame([0, 1], starts, [start + 1 for start in starts], 1)
        assert touched(prompt, ("state", 1), frame) == []
        assert touched(generated, ("state", 1), frame) == [(0, 0), (1, 0)]
    whole = Frame([0, 1], [0, 0], lengths, max(lengths))
    assert touched(generated, ("state", 1), whole) == []


def test_edits_added_for_one_prompt_leave_the_others_and_the_original_alone() -> None:
    base = Program(CHAT.anatomy, [], RENDERED)
    twin = base.copy()
    twin.add([Add(torch.ones(64), state=2, span="t_post")], prompt=1)
    frame = Frame([0, 1], [0, 0], [len(item) for item in RENDERED], max(len(item) for item in RENDERED))
    assert touched(twin, ("state", 2), frame) == [(1, RENDERED[1].t_post)]
    assert base.sites == []


def test_operations_on_heads_touch_one_slice() -> None:
    hidden = torch.ones(1, 2, 64)
    found = apply_operations([Operation("scale", torch.tensor([0]), torch.tensor([1]), 2, None, 0.0)], hidden, 16)
    wanted = torch.ones(1, 2, 64)
    wanted[0, 1, 32:48] = 0
    assert torch.equal(found, wanted) and torch.equal(hidden, torch.ones(1, 2, 64))


def test_sites_are_listed_once_in_order() -> None:
    edits = [Scale(0.5, mlp=2), Add(torch.ones(64), state=1), Scale(2.0, mlp=2)]
    assert Program(CHAT.anatomy, edits, RENDERED).sites == [("mlp", 2), ("state", 1)]
