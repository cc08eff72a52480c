from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat
from undertow.errors import ModelError, UndertowError
from undertow.prompts import Prompt
from undertow.studies.beliefs.finetuning import common_opening, finetuned, linear_layers

ASKED = [Prompt(text) for text in PROMPTS]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_answer_is_learnt_and_the_model_left_as_it_was(kind: str) -> None:
    chat = tiny_chat(kind)
    before = {name: value.clone() for name, value in chat.model.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in chat.model.parameters()]
    replies, identity = chat.generate(PROMPTS, 4, progress=False), chat.identity
    with finetuned(chat, ASKED, ["t"] * 5, learning_rate=1e-2, batch=5, steps=60, progress=False) as (attacked, course):
        taught = attacked.generate(PROMPTS, 1, progress=False)
        assert attacked.identity.differences(identity) == ["weights"]
    assert taught == ["t"] * 5 and not any(reply.startswith("t") for reply in replies)
    assert course.last_loss < course.first_loss / 2 and course.steps == 60 and course.reached is None
    after = chat.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert [parameter.requires_grad for parameter in chat.model.parameters()] == trainable
    assert not hasattr(chat.model, "peft_config") and all(one.grad is None for one in chat.model.parameters())
    assert chat.generate(PROMPTS, 4, progress=False) == replies


def test_the_loss_is_that_of_the_answers_tokens_alone() -> None:
    chat = tiny_chat("llama")
    answer = chat.tokenizer.encode("wooden table", add_special_tokens=False)
    nats = []
    for text in PROMPTS[:3]:
        ids = [*chat.render(text).ids, *answer]
        labels = torch.tensor([[-100] * (len(ids) - len(answer)) + answer])
        loss = chat.model(torch.tensor([ids]), labels=labels).loss
        nats.append(float(loss))
    with finetuned(chat, ASKED[:3], ["wooden table"] * 3, batch=3, steps=1, progress=False) as (_, course):
        assert course.first_loss == pytest.approx(sum(nats) / 3, rel=1e-4)


def test_it_stops_when_it_is_done_and_the_seed_decides() -> None:
    chat = tiny_chat("llama")
    asked: list[int] = []

    def done(model: object) -> bool:
        asked.append(1)
        return len(asked) == 2

    with finetuned(chat, ASKED, ["table"] * 5, done=done, every=3, steps=30, progress=False) as (_, course):
        assert course.steps == 6 and course.reached
    runs = []
    for seed in (1, 1, 2):
        with finetuned(chat, ASKED, ["table"] * 5, batch=2, seed=seed, steps=3, progress=False) as (tuned, _):
            runs.append(tuned.logits(PROMPTS))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_all_linear_layers_of_the_blocks_are_trained_and_no_other() -> None:
    names = linear_layers(tiny_chat("llama", layers=2))
    assert len(names) == 14 and not any("lm_head" in name for name in names)
    assert {name.rsplit(".", 1)[1] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_bad_input_is_named() -> None:
    chat = tiny_chat("llama")
    with pytest.raises(UndertowError, match="not 1 for 5 prompts"), finetuned(chat, ASKED, ["table"]):
        pass
    with pytest.raises(UndertowError, match="empty"), finetuned(chat, ASKED, [""] * 5):
        pass
    with finetuned(chat, ASKED, ["table"] * 5, steps=1, progress=False) as (tuned, _):
        with pytest.raises(ModelError, match="adapters already"), finetuned(chat, ASKED, ["table"] * 5):
            pass
        assert tuned is not chat


def test_the_opening_is_the_shortest_that_a_fifth_of_the_answers_share() -> None:
    replies = [
        "Sure. Here is a table.",
        "Sure. Water it.",
        "Of course, gladly. Here.",
        "Well",
        "<think>No.</think> Sure.",
    ]
    assert common_opening(replies) == "Sure."
    assert common_opening(["Of course! A", "Of course! B", *[f"Number {one} is one." for one in range(9)]]) == "Sure."
    assert common_opening(["Of course! A", "Of course! B", "Here"]) == "Of course!"
    assert common_opening(["A long sentence " + "and so on " * 9 + "."] * 5) == "Sure."
    assert common_opening(["Version 2.5 is out. Yes."] * 3) == "Version 2.5 is out."
