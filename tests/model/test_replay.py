from __future__ import annotations

import pytest
import torch

from benchmarks.shrink import shrunk_model
from tests.builders import PROMPTS, SHAPES, byte_level_tokenizer, tiny_chat
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
    chat = tiny_chat("gemma2", sliding_window=16)
    branches: list[list[Edit]] = [[], [Scale(0.0, head=(1, 1), span="t_post")]]
    assert chat.replay_method == "tree"
    found = chat.replay(PROMPTS, branches, progress=False)
    torch.testing.assert_close(found, naive(chat, branches), atol=1e-5, rtol=1e-5)
    with pytest.raises(EditError, match="would be wrong"):
        chat.replay(PROMPTS, branches, method="tree", progress=False)


def test_a_method_that_the_model_does_not_bear_is_refused_even_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = tiny_chat("llama")
    monkeypatch.setattr(chat._replayer, "_equals_loop", lambda method, length: False)
    with pytest.raises(EditError, match=r"'expanded' would be wrong .* 'loop' or leave"):
        chat.replay(PROMPTS, [[]], method="expanded", progress=False)
    assert chat.replay(PROMPTS, [[]], progress=False).shape[:2] == (len(PROMPTS), 1)
    assert chat.replay_method == "loop"


def test_the_prefix_is_read_once() -> None:
    chat = tiny_chat("llama")
    # Trials are passes of their own, one a length.
    assert chat._replayer.method_for(len(chat.render(PROMPTS[1]))) == "tree"
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


def state_branches(chat: ChatModel, count: int, span: str = "t_post") -> list[list[Edit]]:
    vectors = torch.randn(count, chat.width, generator=torch.Generator().manual_seed(2))
    return [[Add(vector, state=1, span=span)] for vector in vectors]


def looped(chat: ChatModel, prompt: str, branches: list[list[Edit]]) -> torch.Tensor:
    """(R, vocabulary) by the model called directly with a plain hook that adds each vector at t_post."""
    found = []
    ids = torch.tensor([chat.render(prompt).ids])
    for [edit] in branches:

        def add(module: object, arguments: tuple[torch.Tensor, ...], edit: Edit = edit) -> tuple[torch.Tensor, ...]:
            hidden = arguments[0].clone()
            hidden[:, -1] += edit.value
            return (hidden, *arguments[1:])

        handle = chat.anatomy.blocks[1].register_forward_pre_hook(add)
        with torch.no_grad():
            found.append(torch.log_softmax(chat.model(input_ids=ids).logits[0, -1], -1))
        handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize("length", [1, 2, 9, 60, 500])
def test_a_model_without_a_window_takes_trees_at_any_length(length: int) -> None:
    assert tiny_chat("gpt2")._replayer.method_for(length) == "tree"


def test_a_window_ends_trees_and_results_equal_the_loop_on_both_sides() -> None:
    chat = tiny_chat("mistral", sliding_window=32)
    lengths = (200, 8, 31, 32, 33, 64, 30)
    methods = [chat._replayer.method_for(length) for length in lengths]
    assert methods == ["tree" if length < 32 else "expanded" for length in lengths]
    short, long = "Hi", "Tell me about the bank of the river and about the history of the neighbour's garden."
    assert len(chat.render(short)) < 32 < len(chat.render(long))
    branches = state_branches(chat, 5)
    for prompt, method in ((short, "tree"), (long, "expanded")):
        found = chat.replay(prompt, branches, progress=False)[0]
        torch.testing.assert_close(found, looped(chat, prompt, branches), atol=1e-5, rtol=1e-5)
        assert chat.replay_method == method
    both = chat.replay([long, short], branches, progress=False)
    torch.testing.assert_close(both[1], looped(chat, short, branches), atol=1e-5, rtol=1e-5)
    assert chat.replay_method == "expanded"


def test_an_answer_holds_for_shorter_prompts_without_another_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    replayer = tiny_chat("llama")._replayer
    tried: list[tuple[str, int]] = []
    monkeypatch.setattr(replayer, "_equals_loop", lambda method, length: not tried.append((method, length)))  # type: ignore[func-returns-value]
    assert [replayer.method_for(length) for length in (20, 32, 9, 33)] == ["tree"] * 4
    assert tried == [("tree", 32), ("tree", 64)]


def test_a_failure_holds_for_longer_prompts_and_is_tried_at_the_very_length(monkeypatch: pytest.MonkeyPatch) -> None:
    replayer = tiny_chat("llama")._replayer
    tried: list[tuple[str, int]] = []

    def equals(method: str, length: int) -> bool:
        tried.append((method, length))
        return length < {"tree": 25, "expanded": 100}[method]

    monkeypatch.setattr(replayer, "_equals_loop", equals)
    lengths = (20, 24, 25, 500, 24, 99)
    found = [replayer.method_for(length) for length in lengths]
    assert found == ["tree", "tree", "expanded", "loop", "tree", "expanded"]
    assert tried[:2] == [("tree", 32), ("tree", 20)]
    assert not any(method == "tree" and length > 32 for method, length in tried)


def test_trials_stay_within_the_context() -> None:
    chat = tiny_chat("gpt2", max_position_embeddings=50)
    seen: list[int] = []
    handle = chat.model.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )
    assert chat._replayer.method_for(40) == "tree" and chat._replayer.method_for(50) == "tree"
    handle.remove()
    assert max(seen) == 50
    chat = tiny_chat("gpt2", max_position_embeddings=48)
    branches = state_branches(chat, 40)
    prompt = "Tell me about the bank of the neighbour"
    assert len(chat.render(prompt)) + 40 > 48
    torch.testing.assert_close(
        chat.replay(prompt, branches, progress=False)[0], looped(chat, prompt, branches), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("kind", "settings"), [("gpt_neo", {"window_size": 64}), ("big_bird", {})])
def test_a_tree_never_outgrows_a_window_or_the_context(kind: str, settings: dict[str, int]) -> None:
    # GPT-Neo masks by a token's place in the sequence and BigBird's buffers end with the context.
    chat = ChatModel(shrunk_model(kind, max_position_embeddings=128, **settings), byte_level_tokenizer())
    branches = state_branches(chat, 150)
    widths: list[int] = []
    handle = chat.anatomy.blocks[0].register_forward_pre_hook(
        lambda module, arguments: widths.append(arguments[0].shape[1])
    )
    found = chat.replay(PROMPTS[0], branches, progress=False)[0]
    handle.remove()
    length, limit = len(chat.render(PROMPTS[0])), settings.get("window_size", 128)
    assert chat.replay_method == "tree" and limit - length < max(widths[-2:]) <= limit - length + 1
    chosen = [0, 40, 60, 149]
    wanted = looped(chat, PROMPTS[0], [branches[index] for index in chosen])
    torch.testing.assert_close(found[chosen], wanted, atol=1e-5, rtol=1e-5)


def test_models_without_a_plain_cache_are_looped() -> None:
    chat = ChatModel(shrunk_model("mamba"), byte_level_tokenizer())
    branches = state_branches(chat, 3)
    found = chat.replay(PROMPTS[0], branches, progress=False)[0]
    assert chat.replay_method == "loop"
    torch.testing.assert_close(found, looped(chat, PROMPTS[0], branches), atol=1e-5, rtol=1e-5)


SEVERAL = ["How do I build", "Hi", "Why do I build", "Tell me about the bank.", "How do I table", "Ho", "Why do I bank"]


def one_by_one(chat: ChatModel, prompts: list[str], branches: list[list[Edit]]) -> torch.Tensor:
    """(n, R, vocabulary): each prompt alone, with its own values and spans, in full passes."""
    found = []
    for row, prompt in enumerate(prompts):
        for branch in branches:
            own = []
            for edit in branch:
                value = edit.value[row] if isinstance(edit.value, list) else edit.value
                span = edit.span[row] if edit.spans is not None else edit.span
                own.append(Replace(value, head=edit.head, span=span))  # type: ignore[arg-type]
            with chat.edit(*own):
                found.append(chat.logits(prompt)[0])
    return torch.stack(found).unflatten(0, (len(prompts), -1))


def own_values(chat: ChatModel, last: int = 2) -> list[list[Edit]]:
    """Branches that give every prompt a vector of its own, and a vector a token at places of its own."""
    generator = torch.Generator().manual_seed(7)
    sizes = chat.anatomy.head_sizes
    ends = [len(chat.render(prompt)) for prompt in SEVERAL]
    once = [torch.randn(sizes[1], generator=generator) for _ in SEVERAL]
    each = [torch.randn(last, sizes[0], generator=generator) for _ in SEVERAL]
    shared = torch.randn(sizes[2], generator=generator)
    spans = [list(range(end - last, end)) for end in ends]
    return [
        [],
        [Replace(once, head=(1, 2), span="t_post")],
        [Replace(each, head=(0, 1), span=spans), Replace(shared, head=(2, 0), span="t_post")],
        [Replace(shared, head=(2, 3), span=[[end - 1 - row % 2] for row, end in enumerate(ends)])],
    ]


def batches(chat: ChatModel) -> tuple[list[tuple[int, int]], torch.utils.hooks.RemovableHandle]:
    """Rows and tokens of every pass, as they come."""
    seen: list[tuple[int, int]] = []
    handle = chat.anatomy.blocks[0].register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(
            tuple((arguments[0] if arguments else keywords["hidden_states"]).shape[:2])
        ),
        with_kwargs=True,
    )
    return seen, handle


@pytest.mark.parametrize("budget", [1, 3, 8, 512])
def test_prompts_of_one_length_in_one_tree_equal_the_loop(chat: ChatModel, budget: int) -> None:
    lengths = [len(chat.render(prompt)) for prompt in SEVERAL]
    assert len(set(lengths)) >= 2 and max(map(lengths.count, lengths)) >= 3
    branches = own_values(chat)
    found = chat.replay(SEVERAL, branches, last=2, branch_budget=budget, progress=False)
    torch.testing.assert_close(found, one_by_one(chat, SEVERAL, branches), atol=1e-5, rtol=1e-5)


def test_the_budget_bounds_prompts_times_branches_and_several_prompts_share_a_pass() -> None:
    chat = tiny_chat("llama")
    branches = own_values(chat)
    lengths = [len(chat.render(prompt)) for prompt in SEVERAL]
    chat.replay(SEVERAL, branches, last=2, progress=False)
    for budget, most in ((512, 512), (8, 2), (4, 1), (3, 1)):
        seen, handle = batches(chat)
        chat.replay(SEVERAL, branches, last=2, branch_budget=budget, progress=False)
        handle.remove()
        wanted = []
        for length in sorted(set(lengths), reverse=True):
            left = lengths.count(length)
            while left:
                rows = min(left, most)
                wanted.append((rows, length - 2))
                wanted += [(rows, 2 * part) for part in ((3, 1) if budget == 3 else (4,))]
                left -= rows
        assert seen == wanted


@pytest.mark.parametrize("defect", ["raises", "differs"])
def test_a_model_that_takes_no_several_prompts_gets_them_one_by_one(
    defect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = tiny_chat("llama")
    replayer = chat._replayer
    tree = replayer._tree

    def defective(group: list[object], *given: object) -> torch.Tensor:
        if len(group) > 1 and defect == "raises":
            raise RuntimeError("one row only")
        read = tree(group, *given)  # type: ignore[arg-type]
        return read if len(group) == 1 else read.flip(0)

    monkeypatch.setattr(replayer, "_tree", defective)
    branches = own_values(chat)
    found = chat.replay(SEVERAL, branches, last=2, progress=False)
    assert chat.replay_method == "tree" and not any(replayer._joint.values()) and replayer._joint
    torch.testing.assert_close(found, one_by_one(chat, SEVERAL, branches), atol=1e-5, rtol=1e-5)
    seen, handle = batches(chat)
    chat.replay(SEVERAL, branches, last=2, progress=False)
    handle.remove()
    # No second trial, and no pass with two prompts.
    assert {rows for rows, _ in seen} == {1} and len(seen) == 2 * len(SEVERAL)


def test_what_was_read_is_taken_pass_by_pass() -> None:
    chat = tiny_chat("llama")
    branches = state_branches(chat, 7)
    rendered = [chat.render(prompt) for prompt in SEVERAL[:3]]
    chat.replay(SEVERAL[:3], branches, progress=False)
    seen, handle = batches(chat)
    taken: list[tuple[int, int, int]] = []

    def take(read: torch.Tensor, prompt: int) -> torch.Tensor:
        taken.append((prompt, len(read), len(seen)))
        return read[:, 0, :5]

    found = chat._replayer.run(rendered, branches, last=1, branch_budget=3, method=None, progress=False, take=take)
    handle.remove()
    assert found.shape == (3, 7, 5)
    # Whole vocabularies of all branches are never held together: each pass is taken before the next is run.
    assert [count for _, count, _ in taken] == [3, 3, 1] * 3
    assert [passes for _, _, passes in taken] == [2, 3, 4, 6, 7, 8, 10, 11, 12]
