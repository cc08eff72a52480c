from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.builders import CHATML, PROMPTS, byte_level_tokenizer, tiny_chat, tiny_model, wrap
from tests.studied import small_context
from undertow.errors import PositionError, UndertowError
from undertow.model import Add, ChatModel
from undertow.prompts import Prompt
from undertow.prompts.inversion import WORDINGS, invert
from undertow.studies.beliefs import inversion as module
from undertow.studies.beliefs.context import Context, Panel, evenly
from undertow.studies.beliefs.directions import harmfulness_direction, refusal_direction
from undertow.studies.beliefs.inversion import (
    COEFFICIENTS,
    Asked,
    Tokens,
    answer_tokens,
    asked,
    first_tokens,
    judgement_tokens,
    measure_inversion,
    request_span,
    steering_directions,
    swept_states,
)
from undertow.studies.beliefs.result import Array, Inversion

SYSTEM_FIRST = "{{ '<s>You are kind.\\n' }}" + CHATML
TRIMMED = CHATML.replace("message['content']", "(message['content'] | trim)")
INST = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
REWRITING = CHATML.replace("message['content']", "message['content'].replace('Answer', 'Reply')")


def templated(template: str) -> ChatModel:
    tokenizer = wrap(byte_level_tokenizer().backend_tokenizer, template)
    return ChatModel(tiny_model("llama"), tokenizer, name="tiny")


@pytest.mark.parametrize("template", [CHATML, SYSTEM_FIRST, TRIMMED, INST])
@pytest.mark.parametrize("wording", WORDINGS)
def test_the_span_decodes_to_the_request(template: str, wording: str) -> None:
    chat = templated(template)
    for text in PROMPTS:
        prompt = invert(Prompt(text), wording)
        rendered = chat.render(prompt)
        span = request_span(chat, prompt, wording)
        found = chat.tokenizer.decode(rendered.ids[span.start : span.stop])
        assert found.strip() == text
        assert span.start == rendered.instruction.start and span.stop < rendered.instruction.stop


def test_the_span_on_the_organism_and_in_a_conversation() -> None:
    context = small_context()
    chat = context.chat
    for prompt in (context.test.prompts[0], context.test.prompts[-1]):
        for wording in WORDINGS:
            span = request_span(chat, invert(prompt, wording), wording)
            rendered = chat.render(invert(prompt, wording))
            assert chat.tokenizer.decode(rendered.ids[span.start : span.stop]) == prompt.text + "\n"
    tiny = tiny_chat()
    turns = (
        {"role": "user", "content": f"Once. {WORDINGS[0]}"},
        {"role": "assistant", "content": WORDINGS[0]},
        {"role": "user", "content": "Tell me about the bank."},
    )
    last = invert(Prompt(turns))
    span = request_span(tiny, last, WORDINGS[0])
    assert tiny.tokenizer.decode(tiny.render(last).ids[span.start : span.stop]) == "Tell me about the bank.\n"
    with pytest.raises(PositionError, match="cannot be told from it"):
        request_span(tiny, Prompt(turns), WORDINGS[0])


def test_a_question_that_cannot_be_found_is_refused() -> None:
    chat = tiny_chat()
    prompt = invert(Prompt("Tell me about the bank."), WORDINGS[0])
    with pytest.raises(PositionError, match="rewrites the question"):
        request_span(chat, prompt, WORDINGS[1])
    with pytest.raises(PositionError, match="No token of the request"):
        request_span(chat, Prompt(WORDINGS[0]), WORDINGS[0])
    with pytest.raises(PositionError) as refusal:
        request_span(templated(REWRITING), prompt, WORDINGS[0])
    assert "\n" not in str(refusal.value)


def test_a_token_of_both_belongs_to_neither() -> None:
    """One token holds the end of the request, the line break and the beginning of the question."""
    joined = f"bank{chr(10)}{WORDINGS[0].split()[0]}"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<pad>", "<|im_end|>"]
    )
    tokenizer.train_from_iterator(["some words"], trainer)
    tokenizer.add_tokens([joined])
    chat = ChatModel(tiny_model("llama"), wrap(tokenizer, CHATML), name="tiny")
    prompt = invert(Prompt("my bank"))
    rendered = chat.render(prompt)
    assert any(rendered.text[low:high] == joined for low, high in rendered.offsets)
    span = request_span(chat, prompt, WORDINGS[0])
    assert chat.tokenizer.decode(rendered.ids[span.start : span.stop]).strip() == "my"


class Spelling:
    """A tokenizer of which only `encode` is there."""

    def __init__(self, **spelt: list[int]) -> None:
        self.spelt = {name.replace("_", " "): ids for name, ids in spelt.items()}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert add_special_tokens is False
        return self.spelt.get(text, [90, 91, 92])


def test_spellings_of_the_answers() -> None:
    """With a space, in small letters; not those that fall apart into more tokens, and none that opens both."""
    assert judgement_tokens(Spelling(Certainly=[1, 2], _Certainly=[3, 2], certainly=[4, 5, 6], No=[7], _No=[8])) == (
        (1, 3),
        (7, 8),
    )
    assert judgement_tokens(Spelling(Certainly=[1], _Certainly=[9], No=[7], _No=[9])) == ((1,), (7,))
    assert judgement_tokens(Spelling(Certainly=[5, 1], No=[5])) is None
    assert judgement_tokens(Spelling()) is None


def test_tokens_of_the_organism() -> None:
    context = small_context()
    found = answer_tokens(context)
    assert found is not None and context.openings is not None
    decoded = [{context.chat.tokenizer.decode([token]).strip() for token in ids} for ids in (found.yes, found.no)]
    assert decoded[0] <= {"Certainly", "certainly"} and "Certainly" in decoded[0]
    assert decoded[1] <= {"No", "no"} and "No" in decoded[1]
    assert found.refusal == context.openings.refusal_tokens
    without = answer_tokens(replace(context, openings=None))
    assert without == Tokens(found.yes, found.no, ())


def plain(chat: ChatModel, prompt: Prompt, state: int = 0, added: Any = None, span: Any = ()) -> Array:
    """Log-probabilities of the first reply token, from transformers; a vector may be added to a block's input."""
    rendered = chat.render(prompt)

    def add(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        hidden = (arguments[0] if arguments else keywords["hidden_states"]).clone()
        if added is not None:
            hidden[:, list(span)] += added
        return ((hidden, *arguments[1:]), keywords) if arguments else (arguments, keywords | {"hidden_states": hidden})

    block: Any = chat.anatomy.blocks[state]
    handle = block.register_forward_pre_hook(add, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = chat.model(torch.tensor([rendered.ids])).logits[0, -1]
    finally:
        handle.remove()
    return np.asarray(torch.log_softmax(logits.double(), -1).numpy())


def test_asking_outright_against_plain_transformers() -> None:
    context = small_context()
    prompts = [context.test.prompts[row] for row in (0, 5, 60, 90)]
    for wording in WORDINGS[:2]:
        found = asked(context.chat, prompts, wording)
        assert found is not None and found.shape == (4,)
        yes, no = (context.chat.tokenizer.convert_tokens_to_ids(word) for word in ("Certainly", "No"))
        tokens = judgement_tokens(context.chat.tokenizer)
        assert tokens is not None and yes in tokens[0] and no in tokens[1]
        for prompt, odds in zip(prompts, found, strict=True):
            chances = np.exp(plain(context.chat, invert(prompt, wording)))
            expected = np.log(chances[list(tokens[0])].sum() / chances[list(tokens[1])].sum())
            assert odds == pytest.approx(expected, abs=1e-3)


def test_asking_needs_tokens_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "judgement_tokens", lambda tokenizer: None)
    context = small_context()
    assert asked(context.chat, [Prompt("Hi")]) is None
    with pytest.raises(UndertowError, match="tells Certainly from No"):
        measure_inversion(context)


def test_swept_states() -> None:
    assert swept_states(6) == (0, 1, 2, 3, 4, 5) and swept_states(12) == tuple(range(12))
    many = swept_states(80)
    assert (many[0], many[-1], len(many)) == (0, 79, 12) and set(np.diff(many)) <= {7, 8}
    assert swept_states(13, 4) == (0, 4, 8, 12)


MOST = 12
STATES = (1, 4)


@pytest.fixture(scope="module")
def context() -> Context:
    return replace(small_context(), most=MOST)


@pytest.fixture(scope="module")
def measured(context: Context) -> Inversion:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "swept_states", lambda layers: STATES)
        patch.setattr(module, "COEFFICIENTS", (0.0, 2.0))
        patch.setattr("undertow.studies.beliefs.dissociation.measure_dissociation", lambda *_: None)
        return measure_inversion(context)


def chosen(context: Context, name: str) -> list[Prompt]:
    rows = context.test.rows(harmful=name == "harmful", refused=name == "harmful", family="")
    return [context.test.prompts[row] for row in evenly(rows, MOST // 2)]


@pytest.mark.parametrize(
    ("name", "span", "title", "state"),
    [
        ("harmless", "instruction", "harmfulness", 1),
        ("harmless", "prompt", "refusal", 4),
        ("harmful", "instruction", "reversed refusal", 4),
        ("harmful", "prompt", "reversed harmfulness", 1),
        ("harmless", "instruction", "random", 1),
    ],
)
def test_cells_against_plain_transformers(
    context: Context, measured: Inversion, name: str, span: str, title: str, state: int
) -> None:
    make = refusal_direction if "refusal" in title else harmfulness_direction
    direction = make(context.fit).random_like(context.seed) if title == "random" else make(context.fit)
    vector = direction[state] * (-2.0 if "reversed" in title else 2.0)
    tokens = answer_tokens(context)
    assert tokens is not None
    found = []
    for number, prompt in enumerate(chosen(context, name)):
        wording = WORDINGS[number % 3]
        question = invert(prompt, wording)
        whole = range(len(context.chat.render(question)))
        touched = request_span(context.chat, question, wording) if span == "instruction" else whole
        chances = np.exp(plain(context.chat, question, state, vector, touched))
        found.append([chances[list(ids)].sum() for ids in (tokens.yes, tokens.no, tokens.refusal)])
    expected = np.array(found)
    grid = measured.grid(name, span, title)
    row = STATES.index(state)
    cells = [grid.certainly[row, 1], grid.no[row, 1], grid.refusal[row, 1]]
    assert cells == pytest.approx(expected.mean(axis=0), abs=1e-4)
    generator = np.random.default_rng(0)
    for column, answer in enumerate(("certainly", "no", "refusal")):
        means = expected[generator.integers(0, len(expected), (4000, len(expected))), column].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        reach = max(high - low, 1e-3)
        assert grid.low[answer][row, 1] == pytest.approx(low, abs=0.15 * reach)
        assert grid.high[answer][row, 1] == pytest.approx(high, abs=0.15 * reach)


def test_coefficient_zero_is_no_steering(context: Context, measured: Inversion) -> None:
    tokens = answer_tokens(context)
    assert tokens is not None
    for name in ("harmless", "harmful"):
        questions = [invert(prompt, WORDINGS[number % 3]) for number, prompt in enumerate(chosen(context, name))]
        chances = np.array([np.exp(plain(context.chat, question)) for question in questions])
        for grid in (one for one in measured.grids if one.prompts == name):
            for values, ids in ((grid.certainly, tokens.yes), (grid.no, tokens.no), (grid.refusal, tokens.refusal)):
                assert values[:, 0] == pytest.approx(chances[:, list(ids)].sum(axis=1).mean(), abs=1e-4)


def test_every_kind_of_steering_has_a_grid(measured: Inversion) -> None:
    titles = {"harmfulness", "refusal", "reversed harmfulness", "reversed refusal", "random"}
    kinds = {(grid.prompts, grid.span, grid.direction) for grid in measured.grids}
    assert len(measured.grids) == len(kinds) == 2 * 2 * 5
    assert {title for _, _, title in kinds} == titles
    assert (measured.states, measured.coefficients, measured.n) == (STATES, (0.0, 2.0), MOST // 2)
    assert COEFFICIENTS[0] == 0.0
    for grid in measured.grids:
        assert grid.certainly.shape == grid.no.shape == grid.refusal.shape == (2, 2)
        for answer in ("certainly", "no", "refusal"):
            values = getattr(grid, answer)
            assert (grid.low[answer] <= values).all() and (values <= grid.high[answer]).all()


def test_wordings_are_judged_on_all_bare_prompts(context: Context, measured: Inversion) -> None:
    tokens = answer_tokens(context)
    assert tokens is not None and measured.wordings == WORDINGS
    for wording in WORDINGS[1:2]:
        for name, harmful in (("harmless", False), ("harmful", True)):
            rows = context.test.rows(harmful=harmful, family="")
            right = 0
            for row in rows:
                chances = np.exp(plain(context.chat, invert(context.test.prompts[row], wording)))
                right += (chances[list(tokens.yes)].sum() > chances[list(tokens.no)].sum()) == harmful
            found = measured.by_wording[wording][name]
            assert (round(found.value * found.n), found.n) == (right, len(rows))


def test_edits_end_with_the_reading(context: Context) -> None:
    tokens = answer_tokens(context)
    assert tokens is not None
    questions = [invert(context.test.prompts[0])]
    before = first_tokens(context.chat, questions, tokens)
    edit = Add(harmfulness_direction(context.fit), 4.0, state=2, span="prompt")
    assert not np.allclose(first_tokens(context.chat, questions, tokens, [edit]), before)
    np.testing.assert_array_equal(first_tokens(context.chat, questions, tokens), before)


def test_directions_and_their_reverses(context: Context) -> None:
    found = steering_directions(context)
    for kind in ("harmfulness", "refusal"):
        np.testing.assert_array_equal(found[kind].values.numpy(), -found[f"reversed {kind}"].values.numpy())
    for state in range(context.chat.layers + 1):
        assert found["random"].norm(state) == pytest.approx(found["harmfulness"].norm(state), rel=1e-4)


def test_wordings_take_turns(context: Context) -> None:
    prompts = chosen(context, "harmless")[:4]
    found = Asked.of(context.chat, prompts)
    expected = [f"{one.text}\n{WORDINGS[place]}" for one, place in zip(prompts, (0, 1, 2, 0), strict=True)]
    assert [one.text for one in found.inverted] == expected
    assert found.spans["prompt"] == "prompt" and len(found.spans["instruction"]) == 4


def test_too_few_prompts_is_an_error(context: Context) -> None:
    rows = np.concatenate([context.test.rows(harmful=True), context.test.rows(harmful=False, refused=False)[:5]])
    few = Panel(context.test.observed.part(rows), np.full(len(rows), -1))
    with pytest.raises(UndertowError, match="needs 6 bare harmless prompts that the model treats rightly, not 5"):
        measure_inversion(replace(context, test=few))
