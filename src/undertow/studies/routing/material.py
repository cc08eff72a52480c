"""What the study is given: pairs, and the cipher they are rewritten in."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.statistics import proportion
from undertow.model.source import ORGANISM_PREFIX
from undertow.prompts.ciphers import SubstitutionCipher
from undertow.prompts.jsonfile import DuplicateKeyError, parse_json
from undertow.prompts.pairs import PairSet
from undertow.studies.routing.context import LEAST_PAIRS, SIDES, Context
from undertow.studies.routing.readings import PairsSummary, mean_estimate

if TYPE_CHECKING:
    from undertow.model import ChatModel

ORGANISM_PAIRS = 120
BILINGUAL_PAIRS = {"en": 80, "de": 40}
_EXAMPLES = 3

Cipher = SubstitutionCipher | Callable[[str], str]


def is_organism(name: str) -> bool:
    """Whether a model's name is that of a built-in organism."""
    return name.startswith(ORGANISM_PREFIX)


def given_pairs(pairs: Any, model: str) -> PairSet | None:
    """The pairs as given: a set, or a file to read; None where the organism's own are to be drawn.

    Args:
        pairs: a `PairSet`, a file, or None.
        model: name of the model.

    Raises:
        UndertowError: none are given and the model is no built-in organism.
        PromptFileError: the file cannot be read.
    """
    if pairs is None:
        if not is_organism(model):
            raise UndertowError(
                f"Give matched pairs for {model} with --pairs FILE (columns sensitive and control): only the built-in "
                "organisms come with pairs."
            )
        return None
    return pairs if isinstance(pairs, PairSet) else PairSet.read(pairs)


def organism_pairs(chat: ChatModel, most: int | None = None, seed: int = 0) -> PairSet:
    """Matched pairs of a built-in organism's own language, as near in length as its tokenizer allows.

    Args:
        chat: the organism.
        most: how many; 120 where left out.
        seed: equal seeds give equal pairs.
    """
    from undertow.organism.pairs import REALISATIONS, matched_pairs

    name = chat.name.removeprefix(ORGANISM_PREFIX)
    count = ORGANISM_PAIRS if most is None else most
    if name.startswith("gated"):
        from undertow.organism.built import Spec, built_pairs

        return built_pairs(Spec(), count, seed)

    def length(text: str) -> int:
        return len(chat.tokenizer.encode(text, add_special_tokens=False))

    shares = {"en": count}
    if name == "bilingual" and "de" in REALISATIONS:
        german = round(count * BILINGUAL_PAIRS["de"] / sum(BILINGUAL_PAIRS.values()))
        shares = {"en": count - german, "de": german}
    drawn = [matched_pairs(size, seed, language=language, length=length) for language, size in shares.items()]
    return PairSet((pair for part in drawn for pair in part), "; ".join(part.source for part in drawn))


def at_most(pairs: PairSet, most: int | None, seed: int = 0) -> PairSet:
    """So many of the pairs at most, drawn at random, in their order.

    Raises:
        UndertowError: there are fewer than the study needs.
    """
    least = 2 * LEAST_PAIRS
    if most is not None and most < least:
        raise UndertowError(f"{most} pairs are too few: the study needs at least {least}.")
    if most is not None and len(pairs) > most:
        rows = sorted(random.Random(seed).sample(range(len(pairs)), most))
        pairs = PairSet((pairs[row] for row in rows), pairs.source)
    if len(pairs) < least:
        raise UndertowError(f"{pairs.source} holds {len(pairs)} pairs, and the study needs at least {least}.")
    return pairs


def cipher_of(cipher: Any) -> tuple[Cipher, str] | None:
    """A cipher and its name; None where none is wanted.

    Args:
        cipher: a cipher or any function of a text, ``default``, ``none``, a cipher's name, or a JSON file with a table:
            26 letters in a string, an object with them as ``table``, or an object from each letter to its stand-in.

    Raises:
        UndertowError: there is no such cipher, or the file holds no table.
    """
    if cipher is None or cipher == "none":
        return None
    if isinstance(cipher, SubstitutionCipher):
        return cipher, cipher.name
    if callable(cipher):
        return cipher, getattr(cipher, "__name__", "cipher")
    if cipher == "default":
        found = SubstitutionCipher.named(SubstitutionCipher.names()[0])
        return found, found.name
    path = Path(cipher)
    if path.suffix.lower() == ".json" or path.is_file():
        found = SubstitutionCipher(_table(path), path.stem)
        return found, found.name
    found = SubstitutionCipher.named(str(cipher))
    return found, found.name


def summarise_pairs(context: Context) -> PairsSummary:
    """Part 1: what the pairs are, how alike their sides are in length, and what the model does with them."""
    differences = []
    for half in (context.choose, context.report):
        lengths = [
            np.array([len(item) for item in context.chat.renderer.render_many(half.prompts(side))]) for side in SIDES
        ]
        differences.append(lengths[0] - lengths[1])
    found = np.concatenate(differences)
    pairs = context.choose.pairs + context.report.pairs
    report = context.report
    return PairsSummary(
        report.pairs.source,
        len(context.choose),
        len(report),
        pairs.topics,
        pairs.languages,
        mean_estimate(found, context.seed),
        proportion(int((found == 0).sum()), len(found)),
        {side: proportion(int(report.side(side).refused.sum()), len(report)) for side in SIDES},
        tuple((pair.sensitive.text, pair.control.text) for pair in report.pairs[:_EXAMPLES]),
    )


def _table(path: Path) -> str:
    text = path.read_text(encoding="utf-8-sig")
    problem = UndertowError(
        f'{path} holds no cipher table: write {{"table": "..."}} with the letters that stand for a to z in this order.'
    )
    try:
        value = parse_json(text)
    except (ValueError, DuplicateKeyError):
        raise problem from None
    if isinstance(value, dict) and set(value) == set(ascii_lowercase):
        value = "".join(map(str, (value[letter] for letter in ascii_lowercase)))
    elif isinstance(value, dict):
        value = value.get("table")
    if not isinstance(value, str):
        raise problem
    return value
