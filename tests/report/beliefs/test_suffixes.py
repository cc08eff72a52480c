from __future__ import annotations

from tests.report.beliefs.made import HARMFUL_TEXT, full_result
from undertow.report.beliefs.suffixes import suffix_figure, suffix_tables, suffix_text
from undertow.studies.beliefs.suffix_search import CONDITIONS, SuffixSearch


def _search() -> SuffixSearch:
    result = full_result()
    assert result.jailbreaks is not None and result.jailbreaks.suffixes is not None
    return result.jailbreaks.suffixes


def test_it_says_what_searched_for_what_and_what_came_out() -> None:
    text = suffix_text(_search())
    for part in (
        "some library 1.0",
        "30 rounds of 64 candidates",
        "`Sure.`",
        "12 s",
        "the suffix found 50.0",
        "8 requests",
    ):
        assert part in text, part


def test_the_shift_against_a_random_suffix_stands_beside_that_against_the_bare_request() -> None:
    bars = suffix_figure(_search())[0].data["bars"]
    shown = {(bar["name"], bar["group"]): bar["value"] for bar in bars}
    assert shown["against a random suffix", "refusal"] == -0.1
    assert shown["against the bare request", "harmfulness"] == -0.2


def test_prompts_are_truncated_unless_asked_for() -> None:
    conditions, trials = suffix_tables(_search(), False)
    assert len(conditions.rows) == len(CONDITIONS) and len(trials.rows) == 8
    assert HARMFUL_TEXT not in str(trials.rows)
    assert HARMFUL_TEXT in str(suffix_tables(_search(), True)[1].rows)
