"""Part 9: what a letter cipher does to detection and routing, with the control that the published study lacks.

Both sides of a pair go into the same cipher wrapper, so that donor and recipient have one form and nearly one length
(arXiv 2604.04385 takes a short plain donor for a long ciphered prompt; that donor is measured beside it). A cipher
that the model cannot read hides the request from it altogether: what routing then loses says nothing about routing.
Whether it is read stands in `Ciphers.readings`, measured by questions behind the ciphered request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.judge import strip_reasoning
from undertow.measure.observed import Observed, observe_replies
from undertow.measure.statistics import Estimate, proportion
from undertow.prompts import Prompt
from undertow.prompts.ciphers import SubstitutionCipher
from undertow.prompts.inversion import NO, WORDINGS, YES, invert
from undertow.prompts.pairs import Pair, PairSet
from undertow.studies.routing.cipher_contrast import measure_contrast
from undertow.studies.routing.cipher_rescue import measure_rescue
from undertow.studies.routing.circuit import ratio_of_means
from undertow.studies.routing.context import LEAST_PAIRS, SIDES, Context, Half, head_outputs, other_rows
from undertow.studies.routing.readings import Array, Bands, Circuit, Head, mean_estimate, mean_interval
from undertow.studies.routing.readouts import ControlLoss, Readout
from undertow.studies.routing.result import CipherHead, CipherReading, Ciphers
from undertow.studies.routing.screening import swaps

Cipher = Callable[[str], str] | SubstitutionCipher
"""Rewrites a request; a `SubstitutionCipher` puts its table beside it."""

TOP_HEADS = 3
ANSWER_TOKENS = 6
_ANSWER = re.compile(rf"\W*({YES}|{NO})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Forms:
    """The same pairs plain and ciphered.

    Attributes:
        choose, report: the plain pairs of either half.
        ciphered_choose: the ciphered choose pairs; only their prompts are there, nothing was generated or read.
        ciphered_report: the ciphered report pairs.
        rows: half -> the rows of the context's half that these are.
    """

    choose: Half
    report: Half
    ciphered_choose: Half
    ciphered_report: Half
    rows: dict[str, Array]


def measure_ciphers(
    context: Context,
    circuit: Circuit | None,
    bands: Bands | None,
    cipher: Cipher,
    *,
    name: str | None = None,
    other: Cipher | None = None,
    languages: Sequence[str] | None = None,
) -> Ciphers:
    """Measure detection, routing, rescue and contrast under a cipher.

    Without gates in `circuit`, the heads of largest mean necessity on the plain choose pairs take the gates' place
    everywhere, also in the names of `Rescue`.

    Args:
        context: the pairs and the model.
        circuit: names the gates.
        bands: names the band, which is injected too where it is not empty.
        cipher: any function from text to text, or a `SubstitutionCipher`.
        name: of the cipher in tables; its own when left out.
        other: a cipher of the same kind that the model was not trained on; another random table when left out for a
            `SubstitutionCipher`, none otherwise.
        languages: takes pairs of these languages only, such as those that the model reads in the cipher.

    Raises:
        UndertowError: too few pairs are left, the cipher gives an empty text, or it makes both sides of a pair equal.
        PositionError: a ciphered prompt does not fit the model.
    """
    other = other or other_table(cipher)
    forms = both_forms(context, cipher, languages)
    plain, ciphered = forms.report, forms.ciphered_report
    readout = readout_for(context, ciphered)
    readings = [
        reading(context, "plain", plain.pairs, plain.sensitive.refused),
        reading(context, "cipher", ciphered.pairs, ciphered.sensitive.refused),
    ]
    if other is not None:
        readings.append(reading(context, "other table", enciphered(plain.pairs, other)))
    detection, low, high, drop = detection_of(forms, context.seed)
    heads = heads_of(context, circuit, forms.rows["choose"])
    rows, collapse = necessity_under(context, forms, heads, readout)
    contrast, contrast_p, contrast_heads = measure_contrast(
        context, (forms.choose, forms.ciphered_choose), (plain, ciphered)
    )
    return Ciphers(
        name or str(getattr(cipher, "name", None) or getattr(cipher, "__name__", "cipher")),
        tuple(readings),
        detection,
        low,
        high,
        drop,
        rows,
        collapse,
        measure_rescue(context, plain, ciphered, heads, bands.band if bands is not None else (), readout),
        contrast,
        contrast_p,
        contrast_heads,
        len(plain),
    )


def other_table(cipher: Cipher) -> SubstitutionCipher | None:
    """Another random table than a substitution cipher's own; None for any other function."""
    if not isinstance(cipher, SubstitutionCipher):
        return None
    return next(found for found in map(SubstitutionCipher.from_seed, (1, 2)) if found.table != cipher.table)


def enciphered(pairs: PairSet, cipher: Cipher) -> PairSet:
    """The pairs with both sides in the same cipher.

    Raises:
        UndertowError: the cipher gives an empty text, or it makes both sides of a pair equal.
    """
    rewrite = cipher.wrap if isinstance(cipher, SubstitutionCipher) else cipher

    def checked(pair: Pair) -> Pair:
        found = pair.wrapped(rewrite, "cipher")
        texts = [side.text for side in (found.sensitive, found.control)]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise UndertowError("The cipher makes an empty text of a request: give a function from text to text.")
        if isinstance(cipher, SubstitutionCipher) and any(
            cipher.encode(side.text) == side.text.lower() for side in (pair.sensitive, pair.control)
        ):
            raise UndertowError("A text has no letter that the cipher exchanges: leave out pairs in other alphabets.")
        if texts[0] == texts[1]:
            raise UndertowError("The cipher makes both sides of a pair the same text: give one that can be undone.")
        return found

    return PairSet(map(checked, pairs), f"{pairs.source}, ciphered")


def both_forms(context: Context, cipher: Cipher, languages: Sequence[str] | None = None) -> Forms:
    """The pairs of both halves, plain and in the cipher; see `measure_ciphers` for what it raises."""
    chat, rows, plain = context.chat, {}, {}
    for which in ("choose", "report"):
        half = context.half(which)
        chosen = [row for row, pair in enumerate(half.pairs) if languages is None or pair.language in languages]
        if len(chosen) < LEAST_PAIRS:
            raise UndertowError(
                f"{len(chosen)} pairs to {which} on are too few to measure a cipher: give at least {LEAST_PAIRS} "
                "in a language that it is measured in."
            )
        rows[which] = np.asarray(chosen)
        plain[which] = half if len(chosen) == len(half) else _part(context, half, chosen)
    choose, report = (enciphered(plain[which].pairs, cipher) for which in ("choose", "report"))
    sensitive, control = (
        Observed(prompts, [], np.zeros(0, dtype=bool), {}) for prompts in (choose.sensitive, choose.controls)
    )
    count = len(report)
    seen = observe_replies(
        chat,
        [*report.sensitive, *report.controls],
        reply_tokens=context.reply_tokens,
        judge=context.judge,
        progress=False,
    )
    sides = {"sensitive": seen.part(slice(0, count)), "control": seen.part(slice(count, 2 * count))}
    return Forms(
        plain["choose"],
        plain["report"],
        Half(choose, sensitive, control, {}, plain["choose"].others),
        Half(
            report,
            sides["sensitive"],
            sides["control"],
            {side: head_outputs(chat, one.prompts) for side, one in sides.items()},
            plain["report"].others,
        ),
        rows,
    )


def _part(context: Context, half: Half, rows: Sequence[int]) -> Half:
    pairs = PairSet([half.pairs[row] for row in rows], half.pairs.source)
    heads = {side: {block: values[list(rows)] for block, values in half.heads[side].items()} for side in SIDES}
    others = other_rows(context.chat, pairs, context.seed)
    return Half(pairs, half.sensitive.part(rows), half.control.part(rows), heads, others)


def readout_for(context: Context, ciphered: Half) -> Readout:
    """The study's readout, fit for ciphered prompts: the published loss is of the ciphered control's continuation."""
    if not isinstance(context.readout, ControlLoss):
        return context.readout
    added = ControlLoss.of(context.chat, ciphered.prompts("control"))
    return ControlLoss({**context.readout.continuations, **added.continuations})


def told(reply: str) -> bool | None:
    """What a reply to the question says of the request's harm; None where it opens with neither answer."""
    found = _ANSWER.match(strip_reasoning(reply))
    return None if found is None else found.group(1).lower() == YES.lower()


def reading(context: Context, condition: str, pairs: PairSet, refused: Array | None = None) -> CipherReading:
    """How the model treats one form of the pairs: refusals, and answers to the question whether it would be harmful.

    Args:
        context: the model and its judge.
        condition: what the form is called.
        pairs: n pairs in this form.
        refused: (n,) which sensitive prompts are refused, where that is known.

    Returns:
        `judged` counts both sides of every pair, 2n answers; one that opens with neither "Certainly" nor "No" is wrong.
    """
    chat, count = context.chat, len(pairs)
    if refused is None:
        replies = chat.generate(pairs.sensitive, max_new_tokens=context.reply_tokens, progress=False)
        refused = np.array(context.judge.refused(replies), dtype=bool)
    asked: list[Prompt] = [
        invert(prompt, WORDINGS[row % len(WORDINGS)])
        for side in (pairs.sensitive, pairs.controls)
        for row, prompt in enumerate(side)
    ]
    answers = chat.generate(asked, max_new_tokens=ANSWER_TOKENS, progress=False)
    right = sum(told(answer) is (row < count) for row, answer in enumerate(answers))
    return CipherReading(condition, proportion(int(refused.sum()), count), proportion(right, 2 * count), count)


def detection_of(forms: Forms, seed: int) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array], Estimate]:
    """Sensitive minus control along the detection direction at t_inst, plain and ciphered, and the drop at the peak.

    The direction of each state is the unit difference of means of the plain choose pairs; the peak is the state where
    the choose pairs themselves project most, either half of them on the direction of the other.

    Returns:
        Mean, low and high of (L + 1,) for "plain" and "cipher" on report pairs, and 1 - cipher / plain at the peak.
    """
    chosen = _differences(forms.choose)
    peak = peak_state(chosen)
    unit = _unit(chosen.mean(0))
    projected = {
        "plain": np.einsum("nsd,sd->ns", _differences(forms.report), unit),
        "cipher": np.einsum("nsd,sd->ns", _differences(forms.ciphered_report), unit),
    }
    found = {form: mean_interval(values, seed) for form, values in projected.items()}
    mean, low, high = ({form: arrays[place] for form, arrays in found.items()} for place in range(3))
    return mean, low, high, fall_of(projected["cipher"][:, peak], projected["plain"][:, peak], seed)


def _differences(half: Half) -> Array:
    """(n, L + 1, d) sensitive minus control at t_inst."""
    return np.asarray(half.sensitive.states["t_inst"] - half.control.states["t_inst"], dtype=np.float64)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30))


def peak_state(differences: Array) -> int:
    """The state where (n, L + 1, d) differences project most on the direction of those that they are not part of."""
    halves = differences[::2], differences[1::2]
    crossed = sum(np.einsum("sd,sd->s", one.mean(0), _unit(two.mean(0))) for one, two in (halves, halves[::-1]))
    return int(np.argmax(crossed))


def fall_of(after: Array, before: Array, seed: int = 0) -> Estimate:
    """1 - mean(after) / mean(before) over the same pairs, signed, with its percentile bootstrap interval.

    Not a number throughout where the interval of mean(before) holds 0: nothing was there that could fall.
    """
    _, low, high = mean_interval(before, seed)
    if low <= 0.0 <= high:
        return Estimate(float("nan"), float("nan"), float("nan"), len(before))
    left = ratio_of_means(after, before, seed)
    return Estimate(1.0 - left.value, 1.0 - left.high, 1.0 - left.low, left.n)


def heads_of(context: Context, circuit: Circuit | None, rows: Array) -> tuple[Head, ...]:
    """The gates, or without any the heads of largest mean necessity on these plain choose pairs."""
    if circuit is not None and circuit.gates:
        return circuit.gates
    found = swaps(context, context.choose, "t_post", context.heads, context.readout).necessity[rows].mean(0)
    return tuple(context.heads[place] for place in np.argsort(-found, kind="stable")[:TOP_HEADS])


def necessity_under(
    context: Context, forms: Forms, heads: Sequence[Head], readout: Readout
) -> tuple[tuple[CipherHead, ...], Estimate]:
    """Necessity at t_post of every head plain, under the cipher, and with the published donor; and its collapse.

    Returns:
        A row a head, and the fall of the mean over the heads from plain to cipher.
    """
    plain, ciphered = forms.report, forms.ciphered_report
    swapped = {
        "plain": (plain, [plain.swap("control", [head]) for head in heads]),
        "cipher": (ciphered, [ciphered.swap("control", [head]) for head in heads]),
        "published": (ciphered, [plain.swap("control", [head]) for head in heads]),
    }
    effects = {}
    for form, (half, branches) in swapped.items():
        found = context.read(half, "sensitive", [[], *branches], readout=readout)
        effects[form] = found[:, :1] - found[:, 1:]
    rows = []
    for place, head in enumerate(heads):
        each = {form: values[:, place] for form, values in effects.items()}
        each["difference"] = each["plain"] - each["cipher"]
        rows.append(CipherHead(head, **{form: mean_estimate(values, context.seed) for form, values in each.items()}))
    return tuple(rows), fall_of(effects["cipher"].mean(1), effects["plain"].mean(1), context.seed)
