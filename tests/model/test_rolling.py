from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.model import Add, ChatModel
from undertow.model.decoding import Decoding
from undertow.model.edit import Edit
from undertow.model.generate import Generator, Sampling
from undertow.model.program import Program
from undertow.model.rolling import Joining, RollingBatch
from undertow.prompts import as_prompts

LENGTHS = [6, 3, 9, 5, 7]


def join(rolling: RollingBatch, chat: ChatModel, keys: list[int], edits: dict[int, Edit] | None = None) -> None:
    rendered = chat.renderer.render_many(as_prompts([PROMPTS[key] for key in keys]))
    program = Program(chat.anatomy, (), rendered)
    own = {key: (edit,) for key, edit in (edits or {}).items()}
    for index, key in enumerate(keys):
        program.add(own.get(key, ()), index)
    generator = Generator(chat, rendered, Sampling(12), program)
    _, groups = generator.begin(list(range(len(keys))))
    for rows in groups:
        chosen = [keys[index] for index in rows.prompts]
        joining = [Joining(rendered[index], None, own.get(keys[index], ())) for index in rows.prompts]
        rolling.join(rows, chosen, joining, longest=max(len(item) for item in rendered) + 12)


def roll(chat: ChatModel, arrivals: dict[int, list[int]], edits: dict[int, Edit] | None = None) -> dict[int, list[int]]:
    """Tokens of every prompt; prompts arrive at given steps and leave at lengths of their own."""
    rolling = RollingBatch(chat)
    found: dict[int, list[int]] = {key: [] for keys in arrivals.values() for key in keys}
    for step in range(40):
        if step in arrivals:
            join(rolling, chat, arrivals[step], edits)
        tokens = rolling.choose()
        for key, token in tokens.items():
            found[key].append(token)
        rolling.leave([key for key in tokens if len(found[key]) == LENGTHS[key]])
        broken, _ = rolling.advance({key: tokens[key] for key in rolling.keys})
        assert broken == []
    assert len(rolling) == 0 and rolling.choose() == {}
    return found


def alone(chat: ChatModel, key: int, *edits: Edit) -> list[int]:
    """The same tokens, by plain transformers on the whole sequence for each, or under an edit by `Generator`."""
    rendered = chat.render(PROMPTS[key])
    if edits:
        program = Program(chat.anatomy, edits, [rendered])
        generator = Generator(chat, [rendered], Sampling(LENGTHS[key]), program)
        generator.stop_ids = frozenset({-1})
        rows, _ = generator.prefill([0], program, look=False)
        return [int(token) for token in generator.decode(rows)]
    ids = list(rendered.ids)
    for _ in range(LENGTHS[key]):
        with torch.no_grad():
            ids.append(int(chat.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(rendered) :]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma2", "gpt_neox"])
def test_replies_that_come_and_go_equal_each_alone(kind: str) -> None:
    chat = tiny_chat(kind)
    found = roll(chat, {0: [0, 3], 2: [1], 4: [2, 4]})
    for key in range(5):
        assert found[key] == alone(chat, key), key


@pytest.mark.parametrize("positions", [True, False])
def test_a_model_without_a_usable_cache_goes_on_from_all_its_tokens(
    monkeypatch: pytest.MonkeyPatch, positions: bool
) -> None:
    # GPT-NeoX reads distances between tokens only, so its replies need no position ids.
    chat = tiny_chat("gpt_neox")
    monkeypatch.setattr(chat, "decoding_for", lambda length: Decoding(positions, False, True))
    found = roll(chat, {0: [0, 3], 2: [1], 4: [2, 4]})
    for key in range(5):
        assert found[key] == alone(chat, key), key


def test_watching_without_a_cache_and_beside_replies_that_ended() -> None:
    for kind, cache in (("llama", False), ("gemma2", True)):
        chat = tiny_chat(kind)
        if not cache:
            chat.decoding_for = lambda length: Decoding(True, False, True)  # type: ignore[method-assign]
        rolling = RollingBatch(chat)
        join(rolling, chat, [0, 1, 3])
        rolling.leave([1])
        read = {key: list(chat.render(PROMPTS[key]).ids) for key in (0, 3)}
        for _ in range(3):
            tokens = rolling.choose()
            _, seen = rolling.advance(tokens, [1, 3])
            assert sorted(tokens) == sorted(seen) == [0, 3]
            for key, token in tokens.items():
                read[key].append(token)
                with torch.no_grad():
                    hidden = chat.model.model(
                        input_ids=torch.tensor([read[key]]), output_hidden_states=True, use_cache=False
                    )
                torch.testing.assert_close(seen[key][0], hidden.hidden_states[1][0, -1], atol=1e-4, rtol=1e-4)


def test_merging_depends_on_the_cache() -> None:
    for kind, groups in (("llama", 1), ("gemma2", 2)):
        chat = tiny_chat(kind)
        rolling = RollingBatch(chat)
        join(rolling, chat, [0, 1])
        join(rolling, chat, [2])
        assert len(rolling._groups) == groups and sorted(rolling.keys) == [0, 1, 2]


def test_an_edit_holds_for_its_own_reply_only() -> None:
    chat = tiny_chat("llama")
    vector = torch.randn(chat.width, generator=torch.Generator().manual_seed(1)) * 3
    edit = Add(vector, 1.0, state=1, span="all")
    found = roll(chat, {0: [0, 1], 1: [2]}, {1: edit})
    assert found[0] == alone(chat, 0) and found[2] == alone(chat, 2)
    assert found[1] == alone(chat, 1, edit) != alone(chat, 1)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_watched_states_are_those_of_the_read_token(kind: str) -> None:
    chat = tiny_chat(kind)
    rolling = RollingBatch(chat)
    join(rolling, chat, [0, 1])
    join(rolling, chat, [3])
    tokens = rolling.choose()
    _, seen = rolling.advance(tokens, [0, 2])
    for key, token in tokens.items():
        ids = torch.tensor([[*chat.render(PROMPTS[key]).ids, token]])
        with torch.no_grad():
            hidden = chat.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        wanted = torch.stack([hidden[0][0, -1], hidden[2][0, -1]])
        torch.testing.assert_close(seen[key], wanted, atol=1e-4, rtol=1e-4)


def test_logits_that_are_not_numbers_are_named_row_by_row() -> None:
    chat = tiny_chat("llama")
    rolling = RollingBatch(chat)
    join(rolling, chat, [0, 1, 2])
    tokens = rolling.choose()
    tokens[1] = 99

    def poison(module: object, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((arguments[0] == 99).unsqueeze(-1), float("nan"))

    handle = chat.model.get_input_embeddings().register_forward_hook(poison)
    broken, _ = rolling.advance(tokens)
    handle.remove()
    assert broken == [1]
    rolling.leave(broken)
    assert sorted(rolling.choose()) == [0, 2]


def test_a_chooser_that_fails_leaves_its_own_reply_out() -> None:
    def broken(logits: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("probabilities that are no numbers")

    chat = tiny_chat("llama")
    rolling = RollingBatch(chat)
    join(rolling, chat, [0, 1, 2])
    rolling._prompts[1].chooser = broken
    assert sorted(rolling.choose()) == [0, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_infinite_logits_are_broken_and_barred_tokens_are_not(bad: float) -> None:
    chat = tiny_chat("llama")
    rolling = RollingBatch(chat)
    join(rolling, chat, [0, 1])

    def spoil(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, ..., 7] = bad
        output[1, ..., 7] = -float("inf")
        return output

    handle = chat.model.get_output_embeddings().register_forward_hook(spoil)
    broken, _ = rolling.advance(rolling.choose())
    handle.remove()
    assert broken == [0]


def test_nothing_is_left_behind() -> None:
    chat = tiny_chat("gemma2")
    rolling = RollingBatch(chat)
    join(rolling, chat, [0, 1], {1: Add(torch.ones(chat.width), 1.0, state=1, span="generated")})
    rolling.leave([1])
    assert rolling._program.sites == [] and set(rolling._rendered) == {0, 1}
    rolling.leave([0])
    assert rolling._rendered == {} and rolling._groups == []
    join(rolling, chat, [2])
    assert rolling.clear() == [2] and len(rolling) == 0 and rolling._rendered == {}
