from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, SHAPES, tiny_chat
from undertow.errors import EditError
from undertow.model import Add, ChatModel, Edit, ProjectOut, Replace, Scale


@pytest.fixture(scope="module", params=list(SHAPES))
def chat(request: pytest.FixtureRequest) -> ChatModel:
    return tiny_chat(request.param)


def naive(chat: ChatModel, branches: list[list[Edit]]) -> torch.Tensor:
    """(n, R, vocabulary) by one full forward pass a prompt and branch."""
    results = []
    for index, prompt in enumerate(PROMPTS):
        row = []
        for branch in branches:
            own = [_for_prompt(edit, index) for edit in branch]
            with chat.edit(*own):
                row.append(chat.logits(prompt)[0])
        results.append(torch.stack(row))
    return torch.stack(results)


def _for_prompt(edit: Edit, index: int) -> Edit:
    if not isinstance(edit.value, list):
        return edit
    place = {"head": edit.head} if edit.head is not None else {"state": edit.state}
    return Replace(edit.value[index], span=edit.span, **place)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [None, "tree", "expanded", "loop"])
def test_interchange_of_all_heads_equals_the_naive_loop(chat: ChatModel, method: str | None) -> None:
    donors = chat.capture(PROMPTS[::-1], states=[], positions=["t_post"], heads=True, progress=False).heads
    assert donors is not None
    branches: list[list[Edit]] = [
        [Replace([donors[i, block, head, 0] for i in range(len(PROMPTS))], head=(block, head), span="t_post")]
        for block in range(chat.layers)
        for head in range(chat.anatomy.heads[block])
    ]
    found = chat.replay(PROMPTS, branches, method=method, progress=False)
    torch.testing.assert_close(found, naive(chat, branches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 3, 100])
def test_every_kind_of_edit_on_several_tokens(chat: ChatModel, budget: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, chat.width, generator=generator)
    head = torch.randn(chat.anatomy.head_sizes[0], generator=generator)
    branches: list[list[Edit]] = [
        [],
        [Add(a, 2.0, state=1, span="tail")],
        [Add(a, state=1, span="tail"), ProjectOut(b, state=1, span="t_post"), Scale(0.0, mlp=2, span="t_post")],
        [Scale(2.0, state=chat.layers, span="t_post"), Replace(b, attention=0, span="tail")],
        [
            Add(head, head=(0, 1), span="tail"),
            Scale(0.0, head=(0, 1), span="t_post"),
            Scale(0.5, head=(2, 3), span="tail"),
        ],
        [Scale(3.0, along=a, state=2, span="t_post")],
    ]
    last = max(len(chat.render(prompt).tail) for prompt in PROMPTS)
    found = chat.replay(PROMPTS, branches, last=last, branch_budget=budget, progress=False)
    torch.testing.assert_close(found, naive(chat, branches), atol=1e-5, rtol=1e-5)


def test_whole_prompt_can_be_replayed_and_tokens_chosen() -> None:
    chat = tiny_chat("llama")
    vector = torch.ones(chat.width)
    length = len(chat.render(PROMPTS[0]))
    branches: list[list[Edit]] = [[Add(vector, state=0)], [Add(vector, state=2, span="instruction")]]
    found = chat.replay(PROMPTS[0], branches, last=length, tokens=[7, 3], progress=False)
    with chat.edit(*branches[1]):
        wanted = chat.logits(PROMPTS[0])[0, [7, 3]]
    torch.testing.assert_close(found[0, 1], wanted, atol=1e-5, rtol=1e-5)


def test_prompts_past_a_sliding_window_are_not_seen_too_far_back() -> None:
    chat = tiny_chat("gemma2", sliding_window=8)
    branches: list[list[Edit]] = [[], [Scale(0.0, head=(1, 1), span="t_post")]]
    assert chat.replay_method == "tree"
    found = chat.replay(PROMPTS, branches, progress=False)
    torch.testing.assert_close(found, naive(chat, branches), atol=1e-5, rtol=1e-5)
    with pytest.raises(EditError, match="would be wrong"):
        chat.replay(PROMPTS, branches, method="tree", progress=False)


def test_a_method_that_the_model_does_not_bear_is_refused_even_when_asked_for() -> None:
    chat = tiny_chat("llama")
    chat._replayer.method = "loop"
    with pytest.raises(EditError, match="would be wrong"):
        chat.replay(PROMPTS, [[]], method="expanded", progress=False)


def test_the_prefix_is_read_once() -> None:
    chat = tiny_chat("llama")
    assert chat.replay_method == "tree"
    sizes = []
    handle = chat.anatomy.blocks[0].register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[1]))
    branches: list[list[Edit]] = [[Scale(0.0, head=(1, head), span="t_post")] for head in range(4)]
    chat.replay(PROMPTS[1], branches, progress=False)
    handle.remove()
    assert sizes == [len(chat.render(PROMPTS[1])) - 1, 4]


def test_wrong_branches_are_refused() -> None:
    chat = tiny_chat("llama")
    vector = torch.zeros(chat.width)
    with pytest.raises(EditError, match="raise last to"):
        chat.replay(PROMPTS, [[Add(vector, state=1, span="t_inst")]], progress=False)
    with pytest.raises(EditError, match="at least one branch"):
        chat.replay(PROMPTS, [], progress=False)
    with pytest.raises(EditError, match="last 999 tokens"):
        chat.replay(PROMPTS, [[]], last=999, progress=False)
    with pytest.raises(EditError, match="outside"), chat.edit(Add(vector, state=1)):
        chat.replay(PROMPTS, [[]], progress=False)
    with pytest.raises(EditError, match="Unknown replay method"):
        chat.replay(PROMPTS, [[]], method="magic", progress=False)
