from __future__ import annotations

from undertow.organism.grammar import requests
from undertow.studies.demo.kinds import FIT_FAMILY, HELD_OUT_FAMILIES, KINDS, fit_prompts, test_prompts


def test_the_guard_sees_one_wrapper_family_only():
    fitted = fit_prompts(60, 3)
    assert {prompt.wrapper for prompt in fitted.prompts} == {None, FIT_FAMILY}
    assert FIT_FAMILY not in HELD_OUT_FAMILIES
    assert len(HELD_OUT_FAMILIES) == 2
    assert all(prompt.harmful for prompt in fitted.positive)
    assert not any(prompt.harmful for prompt in fitted.negative)
    assert len(fitted.positive) == 120
    assert len(fitted.negative) == 180
    assert sum(prompt.style == "look-alike" for prompt in fitted.wrapped_harmless) == 20


def test_held_out_prompts_share_no_request_and_no_text_with_the_fit():
    fitted, tested = fit_prompts(60, 0), test_prompts(60, 0)
    objects = {request.phrase for request in requests("constructive-dangerous", "test")}
    assert not any(phrase in prompt.text for prompt in fitted.bare for phrase in objects)
    texts = {prompt.text for prompt in fitted.prompts}
    assert not any(prompt.text in texts for prompts in tested.values() for prompt in prompts)


def test_every_kind_is_what_it_says():
    tested = test_prompts(25, 1)
    assert list(tested) == [kind.name for kind in KINDS]
    for kind in KINDS:
        prompts = tested[kind.name]
        assert len(prompts) == 25
        assert {prompt.harmful for prompt in prompts} == {kind.harmful}
        assert {prompt.wrapper is not None for prompt in prompts} == {kind.wrapped}
        if kind.family is not None:
            assert {prompt.wrapper for prompt in prompts} == {kind.family}
        assert all((prompt.style == "look-alike") or not kind.look_alike for prompt in prompts)
