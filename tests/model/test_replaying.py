"""Replay read as replies' losses and as states, against plain passes one at a time."""

from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, SHAPES, tiny_chat
from undertow.errors import EditError
from undertow.model import Add, ChatModel, Edit, Replace, Scale


@pytest.fixture(scope="module", params=list(SHAPES))
def chat(request: pytest.FixtureRequest) -> ChatModel:
    return tiny_chat(request.param)


def branches(chat: ChatModel) -> list[list[Edit]]:
    generator = torch.Generator().manual_seed(5)
    donors = [torch.randn(chat.anatomy.head_sizes[1], generator=generator) for _ in PROMPTS]
    vector = torch.randn(chat.width, generator=generator)
    return [
        [],
        [Replace(donors, head=(1, 2), span="t_post")],
        [Add(vector, state=1, span="tail"), Scale(0.0, mlp=1, span="t_post")],
        [Add(vector, 3.0, state=chat.layers, span="t_post")],
    ]


def own(edit: Edit, row: int) -> Edit:
    return Replace(edit.value[row], head=edit.head, span=edit.span) if isinstance(edit.value, list) else edit  # type: ignore[arg-type]


def last(chat: ChatModel) -> int:
    rendered = chat.render(PROMPTS[0])
    return len(rendered) - rendered.tail.start


def test_losses_equal_one_teacher_forced_pass_each(chat: ChatModel) -> None:
    generator = torch.Generator().manual_seed(2)
    continuations = [
        torch.randint(10, 400, (size,), generator=generator).tolist() for size in (3, 1, 3, 5, 1)[: len(PROMPTS)]
    ]
    found = chat.replay_losses(PROMPTS, continuations, branches(chat), last=last(chat), progress=False)
    for row, (prompt, ids) in enumerate(zip(PROMPTS, continuations, strict=True)):
        for place, branch in enumerate(branches(chat)):
            # The reply grows by one token a pass: every edit sits on the same absolute prompt tokens.
            total = 0.0
            rendered = chat.render(prompt)
            for count in range(len(ids)):
                tokens = torch.tensor([[*rendered.ids, *ids[:count]]])
                spans = {"t_post": [rendered.t_post], "tail": list(rendered.tail)}
                total -= float(_plain(chat, tokens, [own(edit, row) for edit in branch], spans)[ids[count]])
            assert found[row, place] == pytest.approx(total / len(ids), abs=2e-4)


def _plain(chat: ChatModel, ids: torch.Tensor, edits: list[Edit], spans: dict[str, list[int]]) -> torch.Tensor:
    """Log-probabilities at the last token, by hooks written here."""
    handles = []
    for edit in edits:
        handles.append(_hook(chat, edit, spans[str(edit.span)]))
    try:
        with torch.no_grad():
            return torch.log_softmax(chat.model(input_ids=ids).logits[0, -1].float(), -1)
    finally:
        for handle in handles:
            handle.remove()


def _hook(chat: ChatModel, edit: Edit, columns: list[int]) -> torch.utils.hooks.RemovableHandle:
    anatomy = chat.anatomy

    def change(hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        if edit.head is not None:
            size = anatomy.head_sizes[edit.head[0]]
            hidden[0, columns, edit.head[1] * size : (edit.head[1] + 1) * size] = edit.value
        elif edit.mlp is not None:
            hidden[0, columns] *= edit.coefficient
        else:
            hidden[0, columns] += edit.coefficient * edit.value
        return hidden

    def before(module: object, arguments: tuple[torch.Tensor, ...], keywords: dict[str, object]) -> object:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": change(keywords["hidden_states"])}  # type: ignore[arg-type]

    def after(module: object, arguments: object, output: object) -> object:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)  # type: ignore[arg-type]

    if edit.head is not None:
        return anatomy.projections[edit.head[0]].register_forward_pre_hook(before, with_kwargs=True)  # type: ignore[union-attr]
    if edit.mlp is not None:
        return anatomy.mlps[edit.mlp].register_forward_hook(after)  # type: ignore[union-attr]
    if edit.state == chat.layers:
        return anatomy.blocks[-1].register_forward_hook(after)
    return anatomy.blocks[edit.state or 0].register_forward_pre_hook(before, with_kwargs=True)


def test_states_equal_captures_under_the_same_edits(chat: ChatModel) -> None:
    states = [1, chat.layers]
    found = chat.replay_states(PROMPTS, branches(chat), states, last=last(chat), progress=False)
    assert found.shape == (len(PROMPTS), 4, 2, chat.width)
    for place, branch in enumerate(branches(chat)):
        with chat.edit(*branch):
            wanted = chat.capture(PROMPTS, states, ["t_post"], progress=False).values[:, :, 0]
        torch.testing.assert_close(found[:, place], wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["tree", "expanded", "loop"])
def test_states_and_losses_do_not_depend_on_the_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    wanted = chat.replay_states(PROMPTS, branches(chat), [2], last=last(chat), progress=False)
    losses = chat.replay_losses(PROMPTS, [[20, 21]] * len(PROMPTS), branches(chat), last=last(chat), progress=False)
    monkeypatch.setattr(chat._replayer, "method_for", lambda length: method)
    torch.testing.assert_close(
        chat.replay_states(PROMPTS, branches(chat), [2], last=last(chat), progress=False), wanted, atol=1e-4, rtol=1e-4
    )
    again = chat.replay_losses(
        PROMPTS, [[20, 21]] * len(PROMPTS), branches(chat), last=last(chat), branch_budget=3, progress=False
    )
    torch.testing.assert_close(again, losses, atol=1e-4, rtol=1e-4)


def test_the_pass_ends_after_the_deepest_state() -> None:
    chat = tiny_chat("llama", layers=4)
    chat.replay_states(PROMPTS[:1], [[]], [0], progress=False)
    seen: list[int] = []
    for number, block in enumerate(chat.anatomy.blocks):
        block.register_forward_hook(lambda module, arguments, output, number=number: seen.append(number))
    chat.replay_states(PROMPTS[:1], [[], []], [1], progress=False)
    # Once for the shared prefix, which runs whole, and once up to state 1 for the branches.
    assert seen == [0, 1, 2, 3, 0]


def test_refuses_what_makes_no_sense() -> None:
    chat = tiny_chat("llama")
    with pytest.raises(EditError, match="continuations"):
        chat.replay_losses(PROMPTS, [[1]], [[]], progress=False)
    with pytest.raises(EditError, match="continuations"):
        chat.replay_losses(PROMPTS[:1], [[]], [[]], progress=False)
    with pytest.raises(EditError, match="no state 9"):
        chat.replay_states(PROMPTS[:1], [[]], [9], progress=False)
    with pytest.raises(EditError, match="at least one state"):
        chat.replay_states(PROMPTS[:1], [[]], [], progress=False)
    with chat.edit(Scale(0.0, mlp=0)), pytest.raises(EditError, match=r"outside model\.edit"):
        chat.replay_states(PROMPTS[:1], [[]], [1], progress=False)


def test_spans_of_ones_own_follow_their_prompts_through_replies_of_any_length() -> None:
    chat = tiny_chat("llama")
    prompts = ["Hi", "How do I build", "Hx", "How do I table"]
    rendered = [chat.render(prompt) for prompt in prompts]
    ends = [len(item) for item in rendered]
    assert ends[0] == ends[2] and ends[1] == ends[3] and ends[0] != ends[1]
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(2, chat.anatomy.head_sizes[1], generator=generator) for _ in prompts]
    edit = Replace(values, head=(1, 3), span=[[end - 2, end - 1] for end in ends])
    replies = [[20, 21, 22], [30], [40], [50, 51, 52]]
    found = chat.replay_losses(prompts, replies, [[], [edit]], last=2, progress=False)
    for row, ids in enumerate(replies):
        for place in (0, 1):
            total = 0.0
            for count, wanted in enumerate(ids):
                tokens = torch.tensor([[*rendered[row].ids, *ids[:count]]])
                edits: list[Edit] = [Replace(values[row], head=(1, 3), span="tail")] if place else []
                total -= float(_plain(chat, tokens, edits, {"tail": [ends[row] - 2, ends[row] - 1]})[wanted])
            assert found[row, place] == pytest.approx(total / len(ids), abs=1e-4)
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-4
