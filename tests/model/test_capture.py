from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.shrink import shrunk_model
from tests.builders import PROMPTS, SHAPES, byte_level_tokenizer, tiny_chat
from undertow.errors import ArrayError, EditError, NotFiniteError, PositionError
from undertow.model import Activations, ChatModel
from undertow.model.capture import Gatherer


@pytest.fixture(scope="module", params=list(SHAPES))
def chat(request: pytest.FixtureRequest) -> ChatModel:
    return tiny_chat(request.param)


def own_states(chat: ChatModel, ids: list[int]) -> torch.Tensor:
    """(L + 1, tokens, d): transformers' own hidden states, the last one replaced by the un-normed block output."""
    kept = []
    handle = chat.anatomy.blocks[-1].register_forward_hook(
        lambda module, inputs, output: kept.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    with torch.no_grad():
        output = chat.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    handle.remove()
    return torch.stack([*(state[0] for state in output.hidden_states[:-1]), kept[0][0]])


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_states_equal_transformers_own(chat: ChatModel, tokens_per_batch: int) -> None:
    found = chat.capture(PROMPTS, progress=False, tokens_per_batch=tokens_per_batch)
    assert found.values.shape == (len(PROMPTS), chat.layers + 1, 2, chat.width)
    for index, prompt in enumerate(PROMPTS):
        rendered = chat.render(prompt)
        own = own_states(chat, rendered.ids)
        torch.testing.assert_close(found.values[index, :, 0], own[:, rendered.t_inst], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.values[index, :, 1], own[:, rendered.t_post], atol=1e-5, rtol=1e-5)


def test_chosen_states_and_positions(chat: ChatModel) -> None:
    found = chat.capture(PROMPTS[:2], states=[2, 0], positions=["t_post", 1], progress=False)
    own = own_states(chat, chat.render(PROMPTS[1]).ids)
    torch.testing.assert_close(found.at(1, 2)[1], own[2, 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.at("t_post", 0)[1], own[0, -1], atol=1e-5, rtol=1e-5)


def test_head_slices_sum_to_the_attention_output(chat: ChatModel) -> None:
    found = chat.capture(PROMPTS[:2], states=[], positions=["t_post"], heads=True, progress=False)
    assert found.heads is not None
    outputs: list[torch.Tensor] = []
    for block, attention in enumerate(chat.anatomy.attentions):
        outputs.clear()
        assert attention is not None
        handle = attention.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
        with torch.no_grad():
            chat.model(input_ids=torch.tensor([chat.render(PROMPTS[0]).ids]))
        handle.remove()
        projection = chat.anatomy.projections[block]
        assert projection is not None
        weight = projection.weight.T if type(projection).__name__ == "Conv1D" else projection.weight
        size = chat.anatomy.head_sizes[block]
        total = sum(weight[:, head * size : (head + 1) * size] @ found.heads[0, block, head, 0] for head in range(4))
        bias = getattr(projection, "bias", None)
        total = total + (0 if bias is None else bias)
        torch.testing.assert_close(total, outputs[0][0, -1], atol=1e-5, rtol=1e-4)


def test_the_pass_stops_after_the_deepest_state() -> None:
    chat = tiny_chat("llama")
    reached = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output, index=index: reached.append(index))
        for index, block in enumerate(chat.anatomy.blocks)
    ]
    assert chat.anatomy.unembedding is not None
    handles.append(chat.anatomy.unembedding.register_forward_hook(lambda *_: reached.append(-1)))
    chat.capture(PROMPTS[0], states=[1], progress=False)
    assert reached == [0]
    reached.clear()
    chat.capture(PROMPTS[0], progress=False)
    # The last block's own hook is registered first, so it is seen; the unembedding never runs.
    assert -1 not in reached
    for handle in handles:
        handle.remove()


def test_no_hooks_are_left_behind_even_after_an_error() -> None:
    chat = tiny_chat("llama")

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in chat.model.modules())

    before = hooks()
    chat.capture(PROMPTS, progress=False)
    with pytest.raises(RuntimeError, match="broken"):
        chat.generate(PROMPTS, 2, progress=False, on_prefill=_broken, prefill_states=[1])
    assert hooks() == before


def _broken(batch: object) -> list[None]:
    raise RuntimeError("broken")


def test_memory_shortage_shrinks_the_budget_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat("llama")
    wanted = chat.capture(PROMPTS, progress=False).values
    original, sizes = chat.forward.pad_right, []

    def scarce(sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        sizes.append(len(sequences))
        if len(sequences) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return original(sequences)

    monkeypatch.setattr(chat.forward, "pad_right", scarce)
    found = chat.capture(PROMPTS, progress=False).values
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    budget = chat.budget.tokens
    sizes.clear()
    chat.capture(PROMPTS, progress=False)
    assert max(sizes) <= 2 and chat.budget.tokens == budget


def test_round_trip(tmp_path: object) -> None:
    chat = tiny_chat("llama")
    found = chat.capture(PROMPTS, heads=[0, 1], progress=False)
    path = f"{tmp_path}/states.safetensors"
    found.save(path)
    again = Activations.load(path)
    assert torch.equal(again.values, found.values)
    assert again.heads is not None and found.heads is not None and torch.equal(again.heads, found.heads)
    assert again.prompts == found.prompts and again.identity == found.identity and again.states == found.states
    with open(f"{tmp_path}/other", "wb") as file:
        file.write(b"nothing")
    with pytest.raises(ArrayError):
        Activations.load(f"{tmp_path}/other")


def test_wrong_requests_are_refused() -> None:
    chat = tiny_chat("llama")
    with pytest.raises(EditError, match="no state 9"):
        chat.capture(PROMPTS, states=[9], progress=False)
    with pytest.raises(PositionError, match="single tokens"):
        chat.capture(PROMPTS, positions=["instruction"], progress=False)
    with pytest.raises(PositionError, match="outside"):
        chat.capture(PROMPTS, positions=[4000], progress=False)
    found = chat.capture(PROMPTS, states=[1], progress=False)
    with pytest.raises(PositionError, match="not captured"):
        found.at("t_inst", 2)
    assert np.isfinite(found.values.numpy()).all()


def test_streams_wider_than_their_embedding_are_captured_as_they_are() -> None:
    # Mamba in bfloat16 keeps its stream in float32 from the first block on.
    chat = ChatModel(shrunk_model("mamba").bfloat16(), byte_level_tokenizer())
    found = chat.capture(PROMPTS, progress=False, tokens_per_batch=1)
    assert found.values.dtype == torch.float32
    for index, prompt in enumerate(PROMPTS[:2]):
        seen: list[torch.Tensor] = []
        handles = [
            block.register_forward_hook(lambda module, arguments, output, seen=seen: seen.append(output[0, -1]))
            for block in chat.model.backbone.layers
        ]
        with torch.no_grad():
            chat.model(input_ids=torch.tensor([chat.render(prompt).ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        assert torch.equal(found.values[index, 1:, 1], torch.stack(seen))
    first = chat.capture(PROMPTS, states=[0], progress=False)
    assert first.values.dtype == torch.bfloat16


def gather(chat: ChatModel, hidden: torch.Tensor, columns: list[list[int]]) -> Gatherer:
    gatherer = Gatherer(chat.anatomy, [0], stop=False)
    gatherer.aim(columns)
    gatherer.visits()[0][1](hidden)
    return gatherer


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("positions", [0, 1, 2])
def test_the_wanted_columns_of_every_row_are_taken(chat: ChatModel, rows: int, positions: int) -> None:
    hidden = torch.randn(5, rows, 4).transpose(0, 1)
    columns = torch.randint(5, (rows, positions))
    values = gather(chat, hidden, columns.tolist()).state_values()
    assert torch.equal(values, hidden[torch.arange(rows).unsqueeze(1), columns].unsqueeze(1))


@pytest.mark.parametrize("column", [-1, 5])
def test_a_column_of_another_row_is_refused(chat: ChatModel, column: int) -> None:
    with pytest.raises(PositionError, match="outside a batch of 5 columns"):
        gather(chat, torch.zeros(2, 5, 4), [[0], [column]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), (float("inf"), float("-inf"))])
def test_states_that_are_not_finite_are_refused_however_they_add_up(chat: ChatModel, bad: float | tuple) -> None:
    hidden = torch.zeros(1, 5, 4)
    hidden[0, 2, : 2 if isinstance(bad, tuple) else 1] = torch.tensor(bad)
    with pytest.raises(NotFiniteError):
        gather(chat, hidden, [[2]]).state_values()


def test_finite_states_of_any_size_are_taken(chat: ChatModel) -> None:
    for dtype in (torch.float16, torch.float64):
        hidden = torch.full((1, 5, 4), torch.finfo(dtype).max, dtype=dtype)
        assert torch.equal(gather(chat, hidden, [[0, 1]]).state_values()[0, 0], hidden[0, :2])
