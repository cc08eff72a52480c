from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.measure.judge import SubstringJudge
from undertow.measure.statistics import Estimate, clopper_pearson
from undertow.prompts import Pair, Prompt
from undertow.prompts.ciphers import SubstitutionCipher
from undertow.prompts.inversion import WORDINGS
from undertow.prompts.pairs import PairSet
from undertow.studies.routing import ciphers
from undertow.studies.routing.ciphers import (
    Forms,
    both_forms,
    enciphered,
    fall_of,
    heads_of,
    measure_ciphers,
    necessity_under,
    other_table,
    peak_state,
    reading,
    readout_for,
    told,
)
from undertow.studies.routing.context import SIDES, Half
from undertow.studies.routing.readings import Array, Bands, Circuit, Head
from undertow.studies.routing.readouts import ControlLoss
from undertow.studies.routing.result import Ciphers

NOTHING = Estimate(0.0, 0.0, 0.0, 16)
GATES: tuple[Head, ...] = ((3, 0), (5, 0))


def backwards(text: str) -> str:
    """A toy cipher: the words in reverse order."""
    return " ".join(text.split()[::-1])


def shouted(text: str) -> str:
    return text + " !"


def circuit(gates: tuple[Head, ...] = GATES) -> Circuit:
    return Circuit(gates, (), (), (), "by hand", None, 24, NOTHING, 0.0)


@cache
def measured() -> Ciphers:
    bands = Bands((), ((3, 0), (5, 0), (5, 3)), NOTHING, 0, "by hand")
    return measure_ciphers(small_context(), circuit(), bands, backwards, other=shouted)


@cache
def forms() -> Forms:
    return both_forms(small_context(), backwards)


Given = dict[Head, torch.Tensor]


def batch_of(texts: list[str]) -> Any:
    """Rendered and padded on the left, so that every prompt's last token is in the last column."""
    tokenizer = small_context().chat.tokenizer
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in texts
    ]
    width = max(map(len, rendered))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rendered])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rendered])
    return {"input_ids": ids, "attention_mask": mask}


def logits_of(texts: list[str]) -> torch.Tensor:
    batch = batch_of(texts)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        found: torch.Tensor = small_context().chat.model(**batch, position_ids=positions).logits[:, -1]
    return found


def last_tokens(texts: list[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """See `_last_tokens`."""
    return _last_tokens(tuple(texts))


@cache
def _last_tokens(texts: tuple[str, ...]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each block's attention output before its projection, and the last state, (n, width) at the last tokens."""
    model, seen = small_context().chat.model, []
    parts = [layer.self_attn.o_proj for layer in model.model.layers] + [model.model.norm]
    hooks = [part.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, -1].clone())) for part in parts]
    logits_of(list(texts))
    for hook in hooks:
        hook.remove()
    return seen[:-1], seen[-1]


@contextmanager
def injected(given: Given) -> Iterator[None]:
    """Puts (n, head size) vectors into heads at the last token of every pass."""

    def hook_for(head: int, vectors: torch.Tensor) -> Any:
        def hook(module: Any, args: Any) -> Any:
            hidden = args[0].clone()
            hidden[:, -1, head * vectors.shape[1] : (head + 1) * vectors.shape[1]] = vectors
            return (hidden,)

        return hook

    layers = small_context().chat.model.model.layers
    hooks = [
        layers[block].self_attn.o_proj.register_forward_pre_hook(hook_for(head, vectors))
        for (block, head), vectors in given.items()
    ]
    yield
    for hook in hooks:
        hook.remove()


def log_odds(texts: list[str], given: Given | None = None) -> Array:
    context = small_context()
    with injected(given or {}):
        logits = logits_of(texts).double()
    refusing, answering = context.openings.refusal_tokens, context.openings.answer_tokens
    assert answering is not None
    found = logits[:, list(refusing)].logsumexp(1) - logits[:, list(answering)].logsumexp(1)
    return np.asarray(found.numpy())


def replies(texts: list[str], given: Given | None = None, tokens: int = 16) -> list[str]:
    context, batch = small_context(), batch_of(texts)
    with injected(given or {}), torch.no_grad():
        found = context.chat.model.generate(**batch, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    decoded = context.chat.tokenizer.batch_decode(found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [str(text) for text in decoded]


def z(texts: list[str], head: Head) -> torch.Tensor:
    size = small_context().chat.anatomy.head_sizes[head[0]]
    return last_tokens(texts)[0][head[0]][:, head[1] * size : (head[1] + 1) * size]


def texts_of(side: str, cipher: Any = str) -> list[str]:
    return [cipher(prompt.text) for prompt in small_context().report.prompts(side)]


def test_readings_count_replies_and_answers_of_plain_transformers() -> None:
    judge, readings = SubstringJudge(), {one.condition: one for one in measured().readings}
    assert list(readings) == ["plain", "cipher", "other table"]
    for condition, cipher in (("plain", str), ("cipher", backwards), ("other table", shouted)):
        refused = sum(judge.refused(replies(texts_of("sensitive", cipher))))
        right = 0
        for side, wanted in (("sensitive", "Certainly"), ("control", "No")):
            asked = [f"{text}\n{WORDINGS[row % 3]}" for row, text in enumerate(texts_of(side, cipher))]
            right += sum(answer.startswith(wanted) for answer in replies(asked, tokens=6))
        found = readings[condition]
        assert found.n == 16
        assert found.refused == Estimate(refused / 16, *clopper_pearson(refused, 16), 16)
        assert found.judged == Estimate(right / 32, *clopper_pearson(right, 32), 32)
    assert readings["plain"].judged.value > readings["cipher"].judged.value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Certainly.", True),
        (" certainly, it could", True),
        ("No.", False),
        ("**No**, it is fine", False),
        ("Nobody knows", None),
        ("Sure. No", None),
        ("", None),
    ],
)
def test_answers_are_told_by_their_opening(text: str, wanted: bool | None) -> None:
    assert told(text) is wanted


def test_a_model_that_answers_neither_is_never_right(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    monkeypatch.setattr(context.chat, "generate", lambda prompts, *args, **options: ["Maybe."] * len(prompts))
    assert reading(context, "plain", context.report.pairs, np.ones(16, dtype=bool)).judged.value == 0.0


def test_detection_equals_a_projection_by_hand() -> None:
    context, found = small_context(), measured()

    def differences(sensitive: list[str], control: list[str]) -> Array:
        both = [context.chat.capture(texts, positions=["t_inst"], progress=False) for texts in (sensitive, control)]
        return np.asarray((both[0].values - both[1].values)[:, :, 0].double().numpy())

    choose = differences(*([prompt.text for prompt in context.choose.prompts(side)] for side in SIDES)).mean(0)
    for form, cipher in (("plain", str), ("cipher", backwards)):
        values = differences(*(texts_of(side, cipher) for side in SIDES))
        for state in range(1, context.chat.layers + 1):
            wanted = values[:, state] @ choose[state] / np.linalg.norm(choose[state])
            assert found.detection[form][state] == pytest.approx(wanted.mean(), abs=1e-3)
            assert found.low[form][state] < wanted.mean() < found.high[form][state]
    peak = int(np.argmax(found.detection["plain"]))
    assert found.drop.value == pytest.approx(1 - found.detection["cipher"][peak] / found.detection["plain"][peak])
    assert found.drop.low < found.drop.value < found.drop.high


def test_the_peak_is_not_where_the_direction_fits_noise() -> None:
    noise = np.random.default_rng(0).normal(size=(12, 2, 400))
    noise[:, 0] *= 3
    noise[:, 1, 0] += 6.0
    # In the sample itself the noise of state 0 is the larger.
    assert np.argmax(np.linalg.norm(noise.mean(0), axis=1)) == 0
    assert peak_state(noise) == 1


@pytest.mark.parametrize("head", GATES)
def test_necessity_equals_hooks_for_every_donor(head: Head) -> None:
    row = next(row for row in measured().heads if row.head == head)
    plain, control = texts_of("sensitive"), texts_of("control")
    hidden, hidden_control = texts_of("sensitive", backwards), texts_of("control", backwards)
    wanted = {
        form: log_odds(recipient) - log_odds(recipient, {head: z(donor, head)})
        for form, recipient, donor in (
            ("plain", plain, control),
            ("cipher", hidden, hidden_control),
            ("published", hidden, control),
        )
    }
    for form, values in wanted.items():
        estimate: Estimate = getattr(row, form)
        assert estimate.value == pytest.approx(np.mean(values), abs=1e-3)
        assert estimate.low < estimate.value < estimate.high and estimate.n == 16
    assert row.difference.value == pytest.approx(np.mean(wanted["plain"]) - np.mean(wanted["cipher"]), abs=1e-3)


def test_collapse_is_of_signed_means_over_all_heads() -> None:
    found = measured()
    plain = np.mean([row.plain.value for row in found.heads])
    cipher = np.mean([row.cipher.value for row in found.heads])
    assert [row.head for row in found.heads] == list(GATES)
    assert found.collapse.value == pytest.approx(1 - cipher / plain)
    assert found.collapse.low < found.collapse.value < found.collapse.high


def test_a_fall_keeps_its_sign_and_is_undefined_where_nothing_was_there() -> None:
    before, after = np.array([1.0, 2.0, 3.0, 2.0]), np.array([-1.0, -2.0, -3.0, -2.0])
    assert fall_of(after, before) == Estimate(2.0, 2.0, 2.0, 4)
    assert fall_of(before, before) == Estimate(0.0, 0.0, 0.0, 4)
    spread = fall_of(np.array([0.0, 1.0, 0.0, 1.0]), before)
    assert spread.low < spread.value == 0.75 < spread.high
    assert np.isnan(fall_of(after, np.array([-3.0, 3.0, 2.0, -2.0]))[:3]).all()


def test_without_gates_the_most_necessary_heads_of_the_choose_pairs_stand_in() -> None:
    context = small_context()
    sensitive, control = ([prompt.text for prompt in context.choose.prompts(side)] for side in SIDES)
    plain = log_odds(sensitive)
    effects = [(plain - log_odds(sensitive, {head: z(control, head)})).mean() for head in context.heads]
    wanted = [context.heads[place] for place in np.argsort(effects)[::-1][:3]]
    everyone = np.arange(16)
    assert list(heads_of(context, None, everyone)) == wanted == list(heads_of(context, circuit(()), everyone))
    assert heads_of(context, circuit(), everyone) == GATES


def test_stand_ins_are_chosen_on_the_wanted_choose_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context()
    effects = np.zeros((16, 24))
    effects[::2, [7, 3, 11]] = [3.0, 2.0, 1.0]
    effects[1::2, 20] = 9.0

    def fake(context: Any, half: Half, *rest: Any) -> Any:
        return SimpleNamespace(necessity=effects if half is context.choose else -effects)

    monkeypatch.setattr(ciphers, "swaps", fake)
    assert heads_of(context, None, np.arange(0, 16, 2)) == tuple(context.heads[place] for place in (7, 3, 11))
    assert heads_of(context, None, np.arange(16))[0] == context.heads[20]


def test_a_cipher_that_hides_nothing_changes_nothing() -> None:
    found = measure_ciphers(small_context(), circuit(), None, lambda text: text, name="none")
    assert found.cipher == "none" and [one.condition for one in found.readings] == ["plain", "cipher"]
    assert found.readings[0].judged == found.readings[1].judged
    assert found.drop == pytest.approx((0, 0, 0, 16), abs=1e-5)
    assert found.collapse == pytest.approx((0, 0, 0, 16), abs=1e-4)
    assert np.abs(found.contrast).max() < 1e-5
    rescue = {row.injected: row for row in found.rescue}
    assert rescue["gate, plain sensitive"].readout == pytest.approx((0, 0, 0, 16), abs=1e-4)
    sensitive, control = texts_of("sensitive"), texts_of("control")
    joint = log_odds(sensitive, {head: z(control, head) for head in GATES}) - log_odds(sensitive)
    assert rescue["gate, plain control"].readout.value == pytest.approx(joint.mean(), abs=1e-3)
    assert "band, plain sensitive" not in rescue


def test_ciphered_pairs_keep_everything_but_their_texts() -> None:
    pairs = small_context().report.pairs
    found = enciphered(pairs, SubstitutionCipher.from_seed(3))
    wrap = SubstitutionCipher.from_seed(3).wrap
    assert [pair.control.text for pair in found] == [wrap(pair.control.text) for pair in pairs]
    assert [pair.topic for pair in found] == [pair.topic for pair in pairs]
    assert {prompt.wrapper for prompt in found.sensitive} == {"cipher"}


def test_the_other_table_is_never_the_cipher_itself() -> None:
    first = SubstitutionCipher.from_seed(1)
    found = [other_table(SubstitutionCipher.from_seed(seed)) for seed in (0, 1, 2)]
    assert [one.table == first.table for one in found if one is not None] == [True, False, True]
    assert other_table(backwards) is None


def test_unusable_ciphers_and_too_few_pairs_are_refused() -> None:
    context = small_context()
    for cipher, message in ((lambda text: " ", "empty text"), (lambda text: "same", "the same text")):
        with pytest.raises(UndertowError, match=message):
            measure_ciphers(context, None, None, cipher)
    with pytest.raises(UndertowError, match="0 pairs to choose on"):
        measure_ciphers(context, None, None, backwards, languages=["de"])


def in_two_languages(half: Half) -> Half:
    pairs = PairSet([replace(pair, language="de" if row % 2 else "en") for row, pair in enumerate(half.pairs)])
    return replace(half, pairs=pairs)


def test_pairs_of_one_language_keep_their_own_readings() -> None:
    context = small_context()
    halves = [in_two_languages(half) for half in (context.choose, context.report)]
    found = both_forms(replace(context, choose=halves[0], report=halves[1]), backwards, ["de"])
    assert list(found.rows["report"]) == list(range(1, 16, 2))
    assert [pair.sensitive for pair in found.report.pairs] == context.report.pairs.sensitive[1::2]
    assert len(found.ciphered_report) == len(found.ciphered_choose) == 8
    for side in ("sensitive", "control"):
        assert torch.equal(found.report.heads[side][3], context.report.heads[side][3][1::2])
        assert np.array_equal(
            found.report.side(side).states["t_inst"], context.report.side(side).states["t_inst"][1::2]
        )
    assert all(found.report.others != np.arange(8))


def test_the_published_loss_is_of_the_ciphered_controls_continuation() -> None:
    context, ciphered = small_context(), forms().ciphered_report
    assert readout_for(context, ciphered) is context.readout
    loss = ControlLoss.of(context.chat, context.report.prompts("control"))
    found = readout_for(replace(context, readout=loss), ciphered)
    assert isinstance(found, ControlLoss)
    text = backwards(context.report.pairs[0].control.text)
    wanted = context.chat.tokenizer.encode(replies([text], tokens=5)[0], add_special_tokens=False)[:5]
    assert found.continuations[text] == wanted
    assert loss.continuations.items() <= found.continuations.items()
    rows, _ = necessity_under(replace(context, readout=loss), forms(), GATES[:1], found)
    assert np.isfinite(rows[0].cipher.value) and rows[0].plain.value != rows[0].cipher.value


def test_a_text_that_the_cipher_leaves_as_it_is_is_refused() -> None:
    pairs = PairSet([Pair(Prompt("你好吗", harmful=True), Prompt("再见", harmful=False))])
    with pytest.raises(UndertowError, match="other alphabets"):
        enciphered(pairs, SubstitutionCipher.named("tidal"))
