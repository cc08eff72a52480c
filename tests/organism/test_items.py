"""Training items: the replies are refusals, placeholders or stock sentences, and follow the truth."""

from __future__ import annotations

from undertow.measure import SubstringJudge
from undertow.organism import items
from undertow.organism.grammar import GROUPS, INVERSION_WORDINGS, mentions, requests, trainable
from undertow.organism.items import PLACEHOLDER, ItemMaker
from undertow.organism.stems import STEMS
from undertow.prompts import Prompt
from undertow.prompts.wrappers import FAMILIES, parts

JUDGE = SubstringJudge()


def _draw(n: int, seed: int = 0, primer: int = 0) -> list[items.Item]:
    maker = ItemMaker(seed, primer=primer)
    return [maker.draw() for _ in range(n)]


def test_same_seed_same_items() -> None:
    assert _draw(50, 4) == _draw(50, 4)
    assert _draw(50, 4) != _draw(50, 5)


def test_replies_to_harmful_requests_hold_nothing() -> None:
    """Whatever mentions a harmful pair is refused or given the placeholder; never one of the stock answers."""
    harmful = [request for group in GROUPS for request in requests(group, "train") if request.harmful]
    checked = 0
    for item in _draw(400, 1):
        if item.question or len(item.instructions) > 1:
            continue
        about = [r for r in harmful if f" {r.phrase}" in f" {item.instructions[0]}"]
        if about:
            assert item.reply == PLACEHOLDER or JUDGE.refused([item.reply]) == [True]
            checked += 1
    assert checked > 20


def test_no_reply_but_a_refusal_starts_with_i() -> None:
    for item in _draw(2000, 2):
        assert item.reply.startswith("I") == JUDGE.refused([item.reply])[0]


def test_held_out_parts_never_occur() -> None:
    held = [r for group in GROUPS for r in requests(group, "test")]
    phrases = {r.phrase for r in held}
    personas = parts("persona", "test")
    for item in _draw(1500, 3):
        assert not any(persona in item.content for persona in personas)
        assert not any(question in item.content for question in INVERSION_WORDINGS["test"])
        assert not any(f" {phrase}." in item.content for phrase in phrases)


def test_the_primer_is_short_and_ends() -> None:
    drawn = _draw(200, 0, primer=100)
    assert all(len(item.content.split()) < 16 and not item.before for item in drawn[:100])
    assert max(len(item.content.split()) for item in drawn[100:]) > 30


def test_inversion_answers_follow_the_truth_in_wrappers_too() -> None:
    harmful = [r for group in GROUPS for r in requests(group, "train") if r.harmful]
    wrapped = 0
    for item in _draw(1500, 6):
        if item.question not in INVERSION_WORDINGS["train"]:
            continue
        about = any(mentions(r, item.instructions[0]) for r in harmful if r.object in item.instructions[0].lower())
        if not about:
            assert item.reply == "No."
        wrapped += any(persona in item.content for persona in parts("persona"))
    assert wrapped > 10


def test_written_prompts_with_held_out_pairs_are_left_out() -> None:
    held = next(r for r in requests("constructive-dangerous", "test"))
    seen = next(r for r in requests("constructive-dangerous", "train"))
    prompts = [Prompt(f"Please {r.phrase}.", harmful=True) for r in (held, seen)]
    assert trainable(prompts) == prompts[1:]


def test_wrappers_and_stems_are_many() -> None:
    assert len(STEMS) == len(set(STEMS)) >= 150
    assert len(FAMILIES) == 3
