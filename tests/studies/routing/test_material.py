from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest

from tests.builders import tiny_chat
from tests.routed import small_context
from undertow.errors import UndertowError
from undertow.model import load
from undertow.prompts.ciphers import SubstitutionCipher
from undertow.prompts.pairs import Pair, PairSet
from undertow.prompts.prompt import Prompt
from undertow.studies.routing.material import at_most, cipher_of, given_pairs, organism_pairs, summarise_pairs

TABLE = ascii_lowercase[::-1]


def made(count: int) -> PairSet:
    return PairSet(
        (Pair(Prompt(f"bad {n}", harmful=True), Prompt(f"good {n}", harmful=False), id=str(n)) for n in range(count)),
        "made",
    )


def test_pairs_are_taken_read_or_asked_for(tmp_path: Path) -> None:
    pairs = made(3)
    assert given_pairs(pairs, "some/model") is pairs
    file = tmp_path / "pairs.csv"
    file.write_text("sensitive,control\nbad,good\n")
    assert [pair.control.text for pair in given_pairs(file, "some/model") or ()] == ["good"]
    assert given_pairs(None, "organism:aligned") is None
    with pytest.raises(UndertowError, match=r"some/model with --pairs FILE"):
        given_pairs(None, "some/model")


def test_most_pairs_are_drawn_in_order_and_too_few_refused() -> None:
    pairs = made(40)
    assert at_most(pairs, None) is pairs and at_most(pairs, 40) is pairs
    drawn = at_most(pairs, 20, seed=3)
    rows = [int(pair.id) for pair in drawn]
    assert len(rows) == 20 and rows == sorted(rows) and rows != list(range(20))
    assert [pair.id for pair in at_most(pairs, 20, seed=3)] == [pair.id for pair in drawn]
    with pytest.raises(UndertowError, match="needs at least 16"):
        at_most(pairs, 15)
    with pytest.raises(UndertowError, match="made holds 15 pairs"):
        at_most(made(15), None)


def test_an_organism_comes_with_pairs_of_like_length() -> None:
    chat = load("organism:aligned")
    pairs = organism_pairs(chat, 40, seed=1)
    lengths = np.array([[len(chat.render(side)) for side in (pair.sensitive, pair.control)] for pair in pairs])
    assert len(pairs) == 40 and set(pairs.languages) == {"en"} and len(pairs.topics) > 5
    assert np.abs(lengths[:, 0] - lengths[:, 1]).mean() < 1.5
    assert [pair.id for pair in organism_pairs(chat, 40, seed=1)] == [pair.id for pair in pairs]
    built = tiny_chat()
    built.name = "organism:gated"
    assert organism_pairs(built, 20).source.startswith("built")


def test_ciphers_by_name_by_file_and_as_they_are(tmp_path: Path) -> None:
    assert cipher_of(None) is None and cipher_of("none") is None
    named = SubstitutionCipher.named(SubstitutionCipher.names()[0])
    assert cipher_of("default") == (named, named.name) == cipher_of(named)
    assert cipher_of("cipher-7") == (SubstitutionCipher.from_seed(7), "cipher-7")
    assert cipher_of(str.upper) == (str.upper, "upper")
    letters = dict(zip(ascii_lowercase, TABLE, strict=True))
    for value in (TABLE, {"table": TABLE, "note": "mine"}, letters):
        file = tmp_path / "mirror.json"
        file.write_text(json.dumps(value))
        assert cipher_of(str(file)) == (SubstitutionCipher(TABLE, "mirror"), "mirror")


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "holds no cipher table"), ("[1]", "holds no cipher table"), ('{"table": 3}', "holds no cipher table"),
     ('{"a": 1, "a": 2}', "holds no cipher table"), ('"abc"', "exactly once")],
)  # fmt: skip
def test_a_file_without_a_table_is_refused_in_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(UndertowError, match=says) as refused:
        cipher_of(file)
    assert "\n" not in str(refused.value)


def test_a_cipher_that_is_not_there_is_refused() -> None:
    with pytest.raises(UndertowError, match="no cipher 'rotated'"):
        cipher_of("rotated")


def test_the_summary_counts_what_the_pairs_are() -> None:
    context = small_context()
    found = summarise_pairs(context)
    pairs = [*context.choose.pairs, *context.report.pairs]
    lengths = np.array([[len(context.chat.render(side)) for side in (pair.sensitive, pair.control)] for pair in pairs])
    apart = lengths[:, 0] - lengths[:, 1]
    assert (found.choose, found.report) == (len(context.choose), len(context.report))
    assert found.length_difference.value == pytest.approx(apart.mean()) and found.length_difference.n == len(pairs)
    assert found.same_length.value == pytest.approx((apart == 0).mean())
    judged = context.judge.refused(context.report.sensitive.replies)
    assert found.refused["sensitive"].value == pytest.approx(np.mean(judged))
    assert found.refused["control"].n == len(context.report)
    assert found.examples[0] == (context.report.pairs[0].sensitive.text, context.report.pairs[0].control.text)
    assert found.source == context.report.pairs.source and set(found.topics) == {pair.topic for pair in pairs}
