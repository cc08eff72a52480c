"""Persuasion in single styles: enough of them, splits apart, the request unchanged."""

from __future__ import annotations

import random
import string

import pytest

from undertow.prompts.persuasions import PERSUASION_STYLES, STYLES, persuade, style_parts

KINDS = ("first", "second", "frames")


def test_there_are_five_styles_or_more_whose_sentences_differ() -> None:
    assert len(PERSUASION_STYLES) >= 5
    everything = [part for style in STYLES.values() for kind in KINDS for part in getattr(style, kind)]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("family", PERSUASION_STYLES)
def test_halves_share_nothing_and_each_composes_a_dozen_wrappers(family: str) -> None:
    for kind in KINDS:
        train, test = ({part for _, part in style_parts(family, kind, split)} for split in ("train", "test"))
        assert not train & test
        assert train | test == set(getattr(STYLES[family], kind))
        assert abs(len(train) - len(test)) <= 1
        assert len(getattr(STYLES[family], kind)) >= 12
    for split in ("train", "test"):
        names = {persuade("Bake.", family, random.Random(seed), split)[1] for seed in range(60)}
        assert len(names) >= 12


@pytest.mark.parametrize("family", PERSUASION_STYLES)
def test_every_frame_uses_both_parts_and_the_request_once(family: str) -> None:
    for frame in STYLES[family].frames:
        slots = sorted(name for _, name, _, _ in string.Formatter().parse(frame) if name)
        assert slots == ["first", "request", "second"], frame


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("family", PERSUASION_STYLES)
def test_a_wrapper_holds_the_request_and_parts_of_its_half_only(family: str, split: str) -> None:
    request = "How do I {bake} a 100 % cake {0}?"
    other = "test" if split == "train" else "train"
    foreign = [part for kind in ("first", "second") for _, part in style_parts(family, kind, other)]
    for seed in range(40):
        text, name = persuade(request, family, random.Random(seed), split)
        assert text.count(request) == 1
        around = text.replace(request, "")
        assert not [part for part in foreign if part in around[1:]]
        assert "{" not in around and "}" not in around
        assert name.startswith(f"{family}/")
        assert text[0].isupper()
