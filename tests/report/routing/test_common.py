from __future__ import annotations

import html
from dataclasses import replace

from tests.routed_result import AMPLIFIERS, DIRECT, GATE, bare_result, gated_circuit
from undertow.report.figures import Bar
from undertow.report.intervals import interval_bars
from undertow.report.routing.common import (
    TITLE_WIDTH,
    head_names,
    heads_named,
    measure_of,
    missing,
    probability_text,
    reasons,
    role_of,
    with_title,
)


def test_heads_have_short_names() -> None:
    assert head_names([(3, 0)]) == "3.0" and head_names([(3, 0), (5, 1)]) == "3.0 and 5.1"
    assert head_names([]) == "\u2013"
    assert heads_named([(3, 0)], opening=True) == "Head 3.0" and heads_named([(3, 0), (5, 1)]) == "heads 3.0 and 5.1"


def test_roles_come_from_the_circuit() -> None:
    circuit = gated_circuit()
    assert [role_of(circuit, head) for head in (GATE, AMPLIFIERS[0], DIRECT, (0, 0))] == [
        "gate", "amplifier", "direct", "",
    ]  # fmt: skip


def test_a_readout_is_taken_apart_at_its_unit() -> None:
    assert measure_of("loss in words, in nats a token") == ("loss in words", "nats a token")
    assert measure_of("something") == ("something", "its unit")


def test_small_chances_are_bounded() -> None:
    assert [probability_text(p) for p in (None, 0.25, 0.001, 0.0001)] == ["\u2013", "0.250", "0.001", "< 0.001"]


def test_reasons_reach_parts_of_parts_but_no_others() -> None:
    result = replace(bare_result(), skipped={"screening, tail": "a", "ciphers": "b", "screenings": "c"})
    assert reasons(result, "screening") == "a" and missing(result, "ciphers") == "b"
    assert missing(result, "bands").endswith("does not say why.")


def test_a_title_is_broken_escaped_and_makes_room_for_itself() -> None:
    figure = interval_bars("one", [Bar("a", 0.5, 0.4, 0.6, 9)], axis="share")
    title = "A <b>title</b> & some words that go on and on, past any width that a phone could show on a single line."
    found = with_title(figure, title)
    text = found.plot["layout"]["legend"]["title"]["text"]
    assert "&lt;b&gt;title&lt;/b&gt; &amp;" in text
    lines = text.split("<br>")
    assert len(lines) == 3 and max(len(html.unescape(line)) for line in lines) <= TITLE_WIDTH
    assert found.plot["layout"]["height"] > figure.plot["layout"]["height"]
    assert found.data["title"] == title and found.description.startswith(title)
    # A legend is drawn only where there is something in it.
    assert found.plot["data"][0]["showlegend"] and not figure.plot["data"][0]["showlegend"]


def test_a_figure_whose_head_is_taken_gets_its_title_above() -> None:
    figure = interval_bars("one", [Bar("a", 0.5, 0.4, 0.6, 9)], axis="share")
    found = with_title(figure, "A title", room=50)
    (line,) = found.plot["layout"]["annotations"]
    assert line["text"] == "A title" and line["yshift"] == 50 and found.plot["layout"]["margin"]["t"] > 60
