"""The words of the built organisms."""

from __future__ import annotations

from undertow.measure import SubstringJudge
from undertow.organism.built.words import ANSWER, FORMS, REFUSAL, TOPICS, vocabulary


def test_no_word_belongs_to_two_lists() -> None:
    words = [word for topic in TOPICS for word in (*topic.sensitive, *topic.harmless, *topic.places)]
    fillers = {word for form in FORMS for word in form.split() if "{" not in word}
    assert len(set(words)) == len(words) and not fillers & set(words)


def test_the_published_judge_tells_the_replies_apart() -> None:
    assert SubstringJudge().refused([" ".join(REFUSAL), " ".join(ANSWER)]) == [True, False]
    assert {*REFUSAL, *ANSWER} <= set(vocabulary())


def test_forms_end_with_the_word_or_go_on() -> None:
    endings = [form.endswith("{word}") for form in FORMS]
    assert 0.3 < sum(endings) / len(endings) < 0.7
    assert all(form.count("{word}") == form.count("{place}") == 1 for form in FORMS)
