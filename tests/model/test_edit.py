from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.builders import PROMPTS, SHAPES, tiny_chat
from undertow.errors import EditError
from undertow.model import Add, ChatModel, Edit, ProjectOut, Replace, Scale


@pytest.fixture(scope="module", params=list(SHAPES))
def chat(request: pytest.FixtureRequest) -> ChatModel:
    return tiny_chat(request.param)


@pytest.fixture(scope="module")
def llama() -> ChatModel:
    return tiny_chat("llama")


def vector(width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def by_hand(chat: ChatModel, prompt: str, block: int, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Log-probabilities at t_post with a plain hook on one block's input, one unpadded prompt."""

    def hook(module: object, arguments: tuple[torch.Tensor, ...], keywords: dict[str, object]) -> object:
        return (change(arguments[0]), *arguments[1:]), keywords

    handle = chat.anatomy.blocks[block].register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        output = chat.model(input_ids=torch.tensor([chat.render(prompt).ids])).logits[0, -1]
    handle.remove()
    return torch.log_softmax(output, -1)


def test_identity_edits_are_bit_identical(chat: ChatModel) -> None:
    plain = chat.logits(PROMPTS)
    donors = chat.capture(PROMPTS, states=[1], positions=["t_post"], progress=False, heads=[1])
    assert donors.heads is not None
    zero = torch.zeros(chat.width)
    edits: list[Edit] = [
        Add(zero, state=1, span="all"),
        Add(vector(chat.width), 0.0, state=chat.layers, span="prompt"),
        Scale(1.0, state=0, span="t_inst"),
        Scale(1.0, head=(1, 2), span="instruction"),
        Scale(1.0, mlp=1, span="tail"),
        Scale(1.0, attention=0),
        ProjectOut(zero, state=1),
    ]
    for edit in edits:
        with chat.edit(edit):
            assert torch.equal(chat.logits(PROMPTS), plain), edit
    # A replaced value comes from a batch of the same shape, hence the same bits.
    values = [donors.values[index, 0, 0] for index in range(len(PROMPTS))]
    heads = [donors.heads[index, 0, 3, 0] for index in range(len(PROMPTS))]
    with chat.edit(Replace(values, state=1, span="t_post"), Replace(heads, head=(1, 3), span="t_post")):
        assert torch.equal(chat.logits(PROMPTS), plain)


@pytest.mark.parametrize("span", ["instruction", "tail", "t_inst", "t_post", "prompt", "all", (1, 3)])
def test_addition_equals_the_same_done_by_hand(chat: ChatModel, span: str | tuple[int, ...]) -> None:
    steering = vector(chat.width)
    with chat.edit(Add(steering, 1.5, state=1, span=span)):
        found = chat.logits(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        rendered = chat.render(prompt)
        where = list(range(len(rendered.ids)))
        if span != "all":
            where = list(rendered.span(span)) if isinstance(span, str) else list(span)

        def change(hidden: torch.Tensor, where: list[int] = where) -> torch.Tensor:
            hidden = hidden.clone()
            hidden[:, where] += 1.5 * steering
            return hidden

        torch.testing.assert_close(found[index], by_hand(chat, prompt, 1, change), atol=1e-4, rtol=1e-4)


def test_projection_scale_and_replacement_by_hand(llama: ChatModel) -> None:
    axis, value = vector(llama.width, 1), vector(llama.width, 2)
    unit = axis / axis.norm()
    cases: list[tuple[Edit, Callable[[torch.Tensor], torch.Tensor]]] = [
        (ProjectOut(axis * 7, state=2), lambda h: h - (h @ unit)[..., None] * unit),
        (Scale(3.0, along=axis, state=2), lambda h: h + 2 * (h @ unit)[..., None] * unit),
        (Scale(0.5, state=2), lambda h: h * 0.5),
        (Replace(value, state=2), lambda h: value.expand_as(h)),
    ]
    for edit, change in cases:
        with llama.edit(edit):
            found = llama.logits(PROMPTS)
        for index, prompt in enumerate(PROMPTS):
            torch.testing.assert_close(found[index], by_hand(llama, prompt, 2, change), atol=1e-4, rtol=1e-4)


def test_last_state_is_edited_before_the_final_norm(llama: ChatModel) -> None:
    value = vector(llama.width)
    with llama.edit(Replace(value, state=llama.layers, span="t_post")):
        found = llama.logits(PROMPTS)
    assert llama.anatomy.final_norm is not None
    with torch.no_grad():
        wanted = torch.log_softmax(llama.model.lm_head(llama.anatomy.final_norm(value)), -1)
    torch.testing.assert_close(found, wanted.expand_as(found), atol=1e-5, rtol=1e-5)


def test_zeroed_head_equals_zeroed_weights(chat: ChatModel) -> None:
    with chat.edit(Scale(0.0, head=(1, 2))):
        found = chat.logits(PROMPTS)
    projection, size = chat.anatomy.projections[1], chat.anatomy.head_sizes[1]
    assert projection is not None
    weight = projection.weight.data
    before = weight.clone()
    part = slice(2 * size, 3 * size)
    if type(projection).__name__ == "Conv1D":
        weight[part] = 0
    else:
        weight[:, part] = 0
    wanted = chat.logits(PROMPTS)
    weight.copy_(before)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_block_outputs_can_be_replaced(llama: ChatModel) -> None:
    zero = torch.zeros(llama.width)
    everything: list[Edit] = [Replace(zero, attention=block) for block in range(3)]
    everything += [Replace(zero, mlp=block) for block in range(3)]
    with llama.edit(*everything):
        found = llama.logits(PROMPTS)
        states = llama.capture(PROMPTS, progress=False).values
    torch.testing.assert_close(states[:, 0], states[:, 3])
    assert torch.isfinite(found).all()


def recomputed(chat: ChatModel, prompt: str, edit: Edit, steps: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens and logits with every step run afresh over the whole sequence, by a plain hook."""
    rendered = chat.render(prompt)
    ids = list(rendered.ids)
    scores = []
    for _ in range(steps):
        inside, generated_from = edit.covers(rendered)
        where = list(inside) + (list(range(generated_from, len(ids))) if generated_from is not None else [])

        def hook(
            module: object, arguments: tuple[torch.Tensor, ...], keywords: dict[str, object], where: list[int] = where
        ):  # type: ignore[no-untyped-def]
            hidden = arguments[0].clone()
            if where:
                hidden[:, where] += edit.coefficient * edit.value
            return (hidden, *arguments[1:]), keywords

        assert edit.state is not None
        handle = chat.anatomy.blocks[edit.state].register_forward_pre_hook(hook, with_kwargs=True)
        with torch.no_grad():
            logits = chat.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        handle.remove()
        scores.append(logits)
        ids.append(int(logits.argmax()))
    return ids[len(rendered.ids) :], torch.stack(scores)


@pytest.mark.parametrize("span", ["instruction", "t_inst", "t_post", "prompt", "generated", "all"])
def test_edit_under_generation_equals_recomputation_without_cache(chat: ChatModel, span: str) -> None:
    from undertow.model.generate import Generator, Sampling
    from undertow.model.program import Program

    edit = Add(vector(chat.width, 5), 0.7, state=1, span=span)
    rendered = chat.renderer.render_many([_prompt(text) for text in PROMPTS])
    generator = Generator(chat, rendered, Sampling(6), Program(chat.anatomy, [edit], rendered))
    generator.stop_ids = frozenset({-1})
    rows, _ = generator.prefill(list(range(len(PROMPTS))), generator.program, look=False)
    scores, tokens = [], []
    for token in generator.decode(rows):
        # The logits that chose this token, since the next pass has not run yet.
        scores.append(rows.logits)
        tokens.append(token)
    found_scores, chosen = torch.stack(scores, dim=1), torch.stack(tokens, dim=1)
    for index, prompt in enumerate(PROMPTS):
        wanted, wanted_scores = recomputed(chat, prompt, edit, 6)
        assert chosen[index].tolist() == wanted
        torch.testing.assert_close(found_scores[index], wanted_scores, atol=1e-4, rtol=1e-4)


def _prompt(text: str):  # type: ignore[no-untyped-def]
    from undertow.prompts import Prompt

    return Prompt(text)


def test_explicit_positions_reach_generated_tokens(llama: ChatModel) -> None:
    length = len(llama.render(PROMPTS[0]).ids)
    big = vector(llama.width) * 50
    with llama.edit(Add(big, state=1, span=[length + 1])):
        steered = llama.generate(PROMPTS[0], 4, progress=False)
    plain = llama.generate(PROMPTS[0], 4, progress=False)
    edit = Add(big, state=1, span=[length + 1])
    rendered = llama.render(PROMPTS[0])
    ids = list(rendered.ids)
    for _ in range(4):
        with llama.edit(edit):
            pass

        def hook(module: object, arguments: tuple[torch.Tensor, ...], keywords: dict[str, object]) -> object:
            hidden = arguments[0].clone()
            if hidden.shape[1] > length + 1:
                hidden[:, length + 1] += big
            return (hidden, *arguments[1:]), keywords

        handle = llama.anatomy.blocks[1].register_forward_pre_hook(hook, with_kwargs=True)
        with torch.no_grad():
            ids.append(int(llama.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        handle.remove()
    assert steered[0] == llama.tokenizer.decode(ids[length:], skip_special_tokens=True)
    assert steered != plain


def test_nested_edits_add_up_and_end(llama: ChatModel) -> None:
    a, b = vector(llama.width, 1), vector(llama.width, 2)
    plain = llama.logits(PROMPTS)
    with llama.edit(Add(a, state=1)), llama.edit(Add(b, state=1)):
        nested = llama.logits(PROMPTS)
    with llama.edit(Add(a + b, state=1)):
        joint = llama.logits(PROMPTS)
    torch.testing.assert_close(nested, joint, atol=1e-4, rtol=1e-4)
    assert torch.equal(llama.logits(PROMPTS), plain)


def test_direct_calls_inside_an_edit_are_refused(llama: ChatModel) -> None:
    with llama.edit(Add(torch.zeros(llama.width), state=1)), pytest.raises(EditError, match="would not be edited"):
        llama.model(input_ids=torch.tensor([[5, 6]]))
    llama.model(input_ids=torch.tensor([[5, 6]]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: Add(torch.zeros(d)), "0 sites"),
        (lambda d: Add(torch.zeros(d), state=1, mlp=1), "2 sites"),
        (lambda d: Add(torch.zeros(d + 1), state=1), "width"),
        (lambda d: Add(torch.zeros(d), state=99), "no state 99"),
        (lambda d: Add(torch.zeros(d), state=-1), "no state -1"),
        (lambda d: Scale(0, head=(0, 4)), "no head 4"),
        (lambda d: Scale(0, mlp=3), "no mlp 3"),
        (lambda d: Add(torch.zeros(d), state=1, span="middle"), "Unknown span"),
        (lambda d: Add(torch.zeros(d), state=1, span=[-1]), "ambiguous"),
        (lambda d: Add(torch.full((d,), float("nan")), state=1), "not finite"),
    ],
)
def test_wrong_edits_are_refused(llama: ChatModel, make: Callable[[int], Edit], words: str) -> None:
    with pytest.raises(EditError, match=words), llama.edit(make(llama.width)):
        llama.logits(PROMPTS)


def test_values_per_prompt_and_per_token(llama: ChatModel) -> None:
    values = [vector(llama.width, index) for index in range(len(PROMPTS))]
    with llama.edit(Add(values, state=1, span="t_post")):
        found = llama.logits(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        with llama.edit(Add(values[index], state=1, span="t_post")):
            torch.testing.assert_close(found[index], llama.logits(prompt)[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(EditError, match="values for 5 prompts"), llama.edit(Add(values, state=1)):
        llama.logits([*PROMPTS, "One more"])
    tail = len(llama.render(PROMPTS[0]).tail)
    rows = torch.stack([vector(llama.width, index) for index in range(tail)])
    with llama.edit(Add(rows, state=1, span="tail")):
        found = llama.logits(PROMPTS[0])[0]

    def change(hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        hidden[0, -tail:] += rows
        return hidden

    torch.testing.assert_close(found, by_hand(llama, PROMPTS[0], 1, change), atol=1e-4, rtol=1e-4)
    with pytest.raises(EditError, match="tokens and its span"), llama.edit(Add(rows, state=1, span="instruction")):
        llama.logits(PROMPTS[1])


def test_each_prompt_may_have_its_own_span(chat: ChatModel) -> None:
    value = vector(chat.width, 7)
    spans = [range(1, 3), [0, 4], range(2, 3), [1], range(0, 5)]
    assert len(spans) == len(PROMPTS)
    with chat.edit(Add(value, 0.9, state=1, span=spans)):
        found = chat.logits(PROMPTS)
    for prompt, span, row in zip(PROMPTS, spans, found, strict=True):
        with chat.edit(Add(value, 0.9, state=1, span=list(span))):
            torch.testing.assert_close(row, chat.logits([prompt])[0], atol=2e-5, rtol=1e-5)


def test_too_few_spans_are_refused(chat: ChatModel) -> None:
    with chat.edit(Add(vector(chat.width), state=1, span=[range(1, 2)])), pytest.raises(EditError, match="spans for 1"):
        chat.logits(["one", "two"])
    with pytest.raises(EditError, match="negative"):
        Add(vector(chat.width), state=1, span=[[0], [-1]])
