from __future__ import annotations

import dataclasses

import pytest

from tests.guard.taught import REFUSAL, many
from undertow.errors import GuardError
from undertow.guard.generation import REFUSAL_TEXT, decide, guarded_generate
from undertow.guard.verdict import Verdict

JAILBROKEN = many("harmful", 20, 55, "persuasion")
BARE = many("harmful", 20, 55)
LOOK_ALIKE = many("look-alike", 20, 55)
HARMLESS = many("harmless", 20, 55)
OPTIONS = {"max_new_tokens": 6, "progress": False}


def count(replies, action: str) -> int:
    return sum(reply.action == action for reply in replies)


def test_refuse_stops_before_a_token_is_decoded(guard):
    replies = guard.generate(JAILBROKEN + HARMLESS, **OPTIONS)
    plain = guard.model.generate(HARMLESS, **OPTIONS)
    assert count(replies[:20], "refused") >= 18
    assert all(reply.text == REFUSAL_TEXT for reply in replies if reply.action == "refused")
    assert count(replies[20:], "none") >= 18
    assert [r.text for r in replies[20:] if r.action == "none"] == [
        text for text, r in zip(plain, replies[20:], strict=True) if r.action == "none"
    ]


def test_flag_changes_no_reply(guard):
    prompts = JAILBROKEN + BARE + LOOK_ALIKE
    replies = guard.generate(prompts, on_harmful="flag", **OPTIONS)
    assert [reply.text for reply in replies] == guard.model.generate(prompts, **OPTIONS)
    assert count(replies[:40], "flagged") >= 36


def test_steer_makes_the_model_itself_refuse_what_it_was_about_to_answer(guard):
    replies = guard.generate(JAILBROKEN, on_harmful="steer", **OPTIONS)
    steered = [reply for reply in replies if reply.action == "steered"]
    assert len(steered) >= 18
    assert sum(reply.text.startswith(REFUSAL[:8]) for reply in steered) >= 0.9 * len(steered)
    assert count(guard.generate(BARE, on_harmful="steer", **OPTIONS), "steered") == 0


def test_release_answers_what_was_over_refused_and_nothing_harmful(guard):
    replies = guard.generate(LOOK_ALIKE + BARE, on_harmful="flag", on_over_refusal="release", **OPTIONS)
    released = [reply for reply in replies[:20] if reply.action == "released"]
    assert len(released) >= 18
    assert sum(reply.text.startswith("Sure") for reply in released) >= 0.9 * len(released)
    assert count(replies[20:], "released") <= 1


def test_policies_mix_in_one_batch_in_order(guard):
    prompts = [prompt for group in zip(JAILBROKEN, HARMLESS, LOOK_ALIKE, BARE, strict=True) for prompt in group]
    mixed = guard.generate(prompts, on_harmful="steer", on_over_refusal="release", **OPTIONS)
    alone = [
        guard.generate(prompt, on_harmful="steer", on_over_refusal="release", **OPTIONS)[0] for prompt in prompts[:12]
    ]
    assert [(reply.action, reply.text) for reply in mixed[:12]] == [(reply.action, reply.text) for reply in alone]


def test_the_verdict_of_the_prefill_is_the_verdict_of_the_guard(guard):
    prompts = JAILBROKEN[:6] + HARMLESS[:6]
    for reply, verdict in zip(guard.generate(prompts, on_harmful="flag", **OPTIONS), guard(prompts), strict=True):
        assert reply.verdict.harmfulness == pytest.approx(
            verdict.harmfulness, abs=1e-3 * abs(verdict.harmfulness) + 1e-4
        )
        assert reply.verdict.quadrant == verdict.quadrant


def test_no_second_forward_pass(guard):
    """Refused prompts cost one pass of the model; an unguarded reply of one token costs one as well."""
    calls = []
    handle = guard.model.model.register_forward_pre_hook(lambda *arguments: calls.append(1))
    try:
        guard.generate(JAILBROKEN[0], **OPTIONS)
        assert len(calls) == 1
        calls.clear()
        guard.generate(HARMLESS[0], max_new_tokens=1, progress=False)
        assert len(calls) == 1
        calls.clear()
        guard.generate(JAILBROKEN[0], on_harmful="steer", max_new_tokens=1, progress=False)
        assert len(calls) == 2  # the prefill, and the template tail again
    finally:
        handle.remove()


def test_empty_and_conversations(guard):
    assert guard.generate([]) == []
    turns = [{"role": "user", "content": "bake1 the thing3"}]
    assert len(guard.generate(turns, **OPTIONS)) == 1


def test_a_reply_that_was_never_judged_is_an_error(guard, monkeypatch):
    monkeypatch.setattr(type(guard.model), "generate", lambda self, prompts, **options: ["x"] * len(prompts))
    with pytest.raises(GuardError, match="nothing is returned"):
        guard.generate("bake1 the thing3")


@pytest.mark.parametrize(
    ("verdict", "policy", "action"),
    [
        ((True, 1.0), ("refuse", "keep"), "refused"),
        ((True, -1.0), ("flag", "keep"), "flagged"),
        ((True, -1.0), ("steer", "keep"), "steered"),
        ((True, 1.0), ("steer", "release"), "flagged"),
        ((True, None), ("steer", "keep"), "steered"),
        ((False, 1.0), ("refuse", "release"), "released"),
        ((False, 1.0), ("refuse", "keep"), "none"),
        ((False, -1.0), ("refuse", "release"), "none"),
        ((False, None), ("refuse", "keep"), "none"),
    ],
)
def test_policies(verdict, policy, action):
    flagged, refusal = verdict
    assert decide(Verdict(0.5, refusal, "harmful", flagged, 0.0, 0.0), *policy) == action


def test_what_a_guard_cannot_do_is_refused(guard):
    with pytest.raises(GuardError, match="on_harmful"):
        guard.generate("x", on_harmful="shout")
    with pytest.raises(GuardError, match="on_over_refusal"):
        guard.generate("x", on_over_refusal="shout")
    blind = copy_without(guard, "steering")
    with pytest.raises(GuardError, match="no refusal direction"):
        guarded_generate(blind, "x", "steer")
    with pytest.raises(GuardError, match="no refusal belief"):
        guarded_generate(copy_without(guard, "refusal"), "x", on_over_refusal="release")


def copy_without(guard, name: str):
    import copy

    other = copy.copy(guard)
    setattr(other, name, None)
    return other


def test_replies_are_plain_data(guard):
    reply = guard.generate("bake1 the thing3", **OPTIONS)[0]
    assert dataclasses.asdict(reply)["verdict"]["flagged"] is False
