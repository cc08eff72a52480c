from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, SHAPES, tiny_chat
from undertow.errors import EditError, ModelError, PositionError
from undertow.model import Add, ChatModel, PrefillBatch, Steer, Stop


@pytest.fixture(scope="module", params=list(SHAPES))
def chat(request: pytest.FixtureRequest) -> ChatModel:
    return tiny_chat(request.param)


def test_greedy_replies_equal_transformers_generate(chat: ChatModel) -> None:
    found = chat.generate(PROMPTS, 8, progress=False)
    for reply, prompt in zip(found, PROMPTS, strict=True):
        ids = chat.render(prompt).ids
        own = chat.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
        )
        assert reply == chat.tokenizer.decode(own[0, len(ids) :], skip_special_tokens=True)


def test_prefill_shows_the_captured_states_and_the_first_logits(chat: ChatModel) -> None:
    seen: list[PrefillBatch] = []

    def look(batch: PrefillBatch) -> list[None]:
        seen.append(batch)
        return [None] * len(batch.indices)

    replies = chat.generate(PROMPTS, 4, progress=False, on_prefill=look, prefill_states=[2, chat.layers])
    assert replies == chat.generate(PROMPTS, 4, progress=False)
    wanted = chat.capture(PROMPTS, states=[2, chat.layers], progress=False)
    logits = chat.logits(PROMPTS)
    assert sorted(index for batch in seen for index in batch.indices) == list(range(len(PROMPTS)))
    for batch in seen:
        torch.testing.assert_close(batch.values, wanted.values[batch.indices], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.log_softmax(batch.logits, -1), logits[batch.indices], atol=1e-4, rtol=1e-4)


def test_stop_and_steer_touch_only_their_rows(chat: ChatModel) -> None:
    vector = torch.randn(chat.width, generator=torch.Generator().manual_seed(3)) * 4
    edits = (Add(vector, state=1, span="tail"), Add(vector, state=2, span="generated"))

    def decide(batch: PrefillBatch) -> list[Stop | Steer | None]:
        choices: dict[int, Stop | Steer | None] = {0: Stop("no"), 1: Steer(edits), 3: Steer(edits)}
        return [choices.get(index) for index in batch.indices]

    found = chat.generate(PROMPTS, 6, progress=False, on_prefill=decide)
    plain = chat.generate(PROMPTS, 6, progress=False)
    with chat.edit(*edits):
        steered = chat.generate(PROMPTS, 6, progress=False)
    assert found == ["no", steered[1], plain[2], steered[3], plain[4]]


def test_steering_reads_the_prompt_only_once() -> None:
    chat = tiny_chat("llama")
    edits = (Add(torch.ones(chat.width), state=1, span="tail"),)
    # The trials of decoding are passes of their own, once a model.
    chat.decoding_for(64)
    tokens = []
    handle = chat.anatomy.blocks[0].register_forward_pre_hook(
        lambda module, arguments: tokens.append(arguments[0].shape[1])
    )
    chat.generate(PROMPTS[1], 2, progress=False, on_prefill=lambda batch: [Steer(edits)])
    handle.remove()
    rendered = chat.render(PROMPTS[1])
    assert tokens == [len(rendered), len(rendered.tail), 1]


def test_steering_may_not_reach_the_instruction() -> None:
    chat = tiny_chat("llama")
    edits = (Add(torch.ones(chat.width), state=1, span="instruction"),)
    with pytest.raises(EditError, match="Steering after the prefill"):
        chat.generate(PROMPTS, 2, progress=False, on_prefill=lambda batch: [Steer(edits)] * len(batch.indices))


def test_sampling_does_not_depend_on_the_batch() -> None:
    chat = tiny_chat("llama")
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 4, "progress": False}
    together = chat.generate(PROMPTS, 6, **options)  # type: ignore[arg-type]
    assert chat.generate(PROMPTS, 6, **options) == together  # type: ignore[arg-type]
    assert chat.generate(PROMPTS[:1], 6, **options) == together[:1]  # type: ignore[arg-type]
    assert chat.generate(PROMPTS, 6, **{**options, "seed": 5}) != together  # type: ignore[arg-type]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    from undertow.model.generate import Sampling

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(400, 1)
    chosen = Sampling(1, temperature=1.0, top_p=0.7).chooser(range(400))(logits)
    assert set(chosen.tolist()) == {0, 1}
    share = (chosen == 0).float().mean().item()
    assert abs(share - 0.625) < 0.1


@pytest.mark.parametrize(
    "settings", [{"temperature": 1e-45}, {"temperature": 1e-300}, {"top_p": 1e-60}, {"top_p": 1e-9}]
)
def test_the_lowest_temperatures_and_masses_take_the_likeliest_token(settings: dict[str, float]) -> None:
    from undertow.model.generate import Sampling

    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 30
    chooser = Sampling(1, **{"temperature": 1.0, **settings}).chooser(range(20))
    assert torch.equal(chooser(logits), logits.argmax(-1))


def test_replies_end_at_the_context_and_at_the_stop_token() -> None:
    chat = tiny_chat("llama", max_position_embeddings=40)
    length = len(chat.render(PROMPTS[0]).ids)
    chat.decoding_for(40)
    passes: list[int] = []
    handle = chat.model.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    chat.stop_ids = frozenset({-1})
    chat.generate(PROMPTS[0], 200, progress=False)
    assert len(passes) == 41 - length
    chat.stop_ids = frozenset({int(chat.logits(PROMPTS[0]).argmax())})
    passes.clear()
    assert chat.generate(PROMPTS[0], 200, progress=False) == [""]
    assert len(passes) == 1
    handle.remove()
    with pytest.raises(PositionError, match="reads at most"):
        chat.generate("word " * 60, progress=False)


def test_wrong_settings_are_refused() -> None:
    chat = tiny_chat("llama")
    with pytest.raises(ModelError, match="max_new_tokens"):
        chat.generate(PROMPTS, 0, progress=False)
    with pytest.raises(ModelError, match="top_p"):
        chat.generate(PROMPTS, 2, top_p=0.0, progress=False)
    for temperature in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ModelError, match="temperature must be a finite number"):
            chat.generate(PROMPTS, 2, temperature=temperature, progress=False)
    with pytest.raises(EditError, match="decisions"):
        chat.generate(PROMPTS, 2, progress=False, on_prefill=lambda batch: [])
