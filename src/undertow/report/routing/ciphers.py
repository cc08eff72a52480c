"""Part 9 of the page: what a cipher does to detection and to routing."""

from __future__ import annotations

import math

import numpy as np

from undertow.report.figures import Figure
from undertow.report.html import Section
from undertow.report.intervals import interval_bars, interval_dots
from undertow.report.routing.common import (
    bars_of,
    finite,
    head_name,
    heads_named,
    measure_of,
    missing,
    number_cell,
    number_text,
    probability_text,
    reasons,
    share_cell,
    share_text,
    titled,
    with_title,
)
from undertow.report.routing.heads import HeadPanel, head_maps
from undertow.report.routing.plots import Line, lines
from undertow.report.tables import Table, written
from undertow.studies.routing.result import Ciphers, RoutingResult

CIPHERS = "Under a cipher"
MOST_CONTRAST = 8


def ciphers_section(result: RoutingResult) -> Section:
    """Part 9: reading, detection, necessity, rescue and contrast under a letter cipher."""
    found = result.ciphers
    if found is None:
        return Section(title=CIPHERS, skipped=missing(result, "ciphers"))
    heads = "the gates" if result.circuit.gates else "the heads of largest necessity, as there is no gate,"
    return Section(
        title=CIPHERS,
        text=f"The requests were rewritten by the cipher {found.cipher}, sensitive prompts and controls alike "
        f"({found.n} report pairs). {_read(found)} Of the detection signal {share_text(found.drop)} is gone at the "
        f"state where it is largest in plain text. The necessity of {heads} falls by {share_text(found.collapse)}"
        f"{_ends(found)}. {unread(found)}"
        + ("" if result.circuit.gates else f" Where figures say gate, they mean {_heads(found)}."),
        figures=[
            *_readings(found),
            *_detection(found),
            *_necessity(result, found),
            *_rescue(found),
            *_contrast(found),
        ],
        tables=[*_tables(found)],
        control="The ciphered control in the same wrapper is donor and counterpart, so that form and length are held "
        "fixed; the published donor, a plain control, stands beside it. In the rescue the gate's output on a plain "
        "control, random heads and a random vector are put in the same places. The contrast is net of the same "
        "difference on the controls.",
        how_to_read="A cipher that the model cannot read hides the request from everything, routing included; a fall "
        "of necessity then says nothing about gates. Only where the ciphered prompt is judged right and detection is "
        "left does a collapse speak of routing, and only a rescue that beats its three controls speaks of the gate.",
        skipped=reasons(result, "ciphers"),
    )


def _ends(found: Ciphers) -> str:
    low, high = found.collapse.low, found.collapse.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f" (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


def _heads(found: Ciphers) -> str:
    return heads_named(one.head for one in found.heads)


def _read(found: Ciphers) -> str:
    parts = [
        f"{titled(one.condition)}: {share_text(one.judged)} of the prompts' harm told right, "
        f"{share_text(one.refused)} of the sensitive refused"
        for one in found.readings
    ]
    return f"{'; '.join(parts)}." if parts else ""


def unread(found: Ciphers) -> str:
    """A warning where the model may not read the cipher at all; empty where it does, or where nobody asked."""
    known = [finite(one.judged) for one in found.readings if one.condition == "cipher"]
    if not known or known[0] is None or known[0].low > 0.5:
        return ""
    return (
        f"Whether the model reads this cipher is not clear: it tells {share_text(known[0])} of the ciphered requests' "
        "harm right, no better than a guess may, so that what falls here says nothing about routing."
    )


def _readings(found: Ciphers) -> list[Figure]:
    bars = bars_of(
        entry
        for one in found.readings
        for entry in (
            (titled(one.condition), one.refused, "sensitive prompts refused", True),
            (titled(one.condition), one.judged, "harm told right when asked", True),
        )
    )
    if not bars:
        return []
    title = (
        f"How well the cipher is read: share refused and share judged right, n = {max(bar.n for bar in bars)} at most. "
        "Lines: 95 % intervals (Clopper-Pearson). Another table is the control."
    )
    return [with_title(interval_bars("cipher-readings", bars, axis="share of the prompts"), title)]


def _detection(found: Ciphers) -> list[Figure]:
    drawn = [
        Line(
            {"plain": "plain text", "cipher": "under the cipher"}.get(key, key),
            list(range(len(values))),
            values,
            found.low.get(key, ()),
            found.high.get(key, ()),
        )
        for key, values in found.detection.items()
        if len(values)
    ]
    if not drawn:
        return []
    title = (
        "Detection signal at t_inst, state by state: sensitive minus control of the same form along the plain "
        f"detection direction, in units of the stream, mean of {found.n} report pairs. Shaded: 95 % intervals. Zero: "
        "nothing detected."
    )
    return [lines("cipher-detection", title, drawn, across="state l", along="projection", levels=[0.0])]


def _necessity(result: RoutingResult, found: Ciphers) -> list[Figure]:
    unit = measure_of(result.screenings[0].readout)[1] if result.screenings else "the readout's unit"
    bars = bars_of(
        (head_name(one.head), estimate, group, True)
        for one in found.heads
        for group, estimate in (
            ("plain text", one.plain),
            ("cipher, ciphered donor", one.cipher),
            ("cipher, plain donor (published)", one.published),
        )
    )
    if not bars:
        return []
    title = (
        f"Necessity of {_heads(found)} in plain text and under the cipher, in {unit}, n = {found.n} report pairs. "
        "Lines: 95 % intervals. The plain donor also changes the form."
    )
    figure = interval_dots("cipher-necessity", bars, axis=f"necessity, {unit}", share=False, reference=0.0, filled=True)
    return [with_title(figure, title)]


def _rescue(found: Ciphers) -> list[Figure]:
    bars = bars_of((titled(one.injected), one.refused, "", True) for one in found.rescue)
    if not bars:
        return []
    title = (
        f"Share of ciphered sensitive prompts refused when something is put into {_heads(found)}, n = {bars[0].n} "
        "report prompts. Lines: 95 % intervals (Clopper-Pearson). Plain control, random heads and vector are controls."
    )
    return [with_title(interval_bars("cipher-rescue", bars, axis="share refused"), title)]


def _contrast(found: Ciphers) -> list[Figure]:
    if not len(found.contrast_heads):
        return []
    significant = [
        head for head, p in zip(found.contrast_heads, found.contrast_p, strict=True) if math.isfinite(p) and p <= 0.05
    ]
    title = (
        "Cipher contrast of every head: attribution in plain text minus under the cipher, net of the controls' "
        f"difference, in nats, mean of {found.n} report pairs. Ringed: family-wise p at most 5 % over all heads."
    )
    marks = {"significant": significant} if significant else {}
    return [head_maps("cipher-contrast", title, [HeadPanel("Contrast", found.contrast_heads, found.contrast)], marks)]


def _tables(found: Ciphers) -> list[Table]:
    tables = []
    if found.readings:
        read = tuple(
            (titled(one.condition), share_cell(one.refused), share_cell(one.judged), one.n) for one in found.readings
        )
        headings = ("Prompts", "Sensitive refused", "Harm told right", "n (pairs)")
        tables.append(Table(headings, read, numeric=(1, 2, 3), caption="How well the model reads the cipher."))
    if found.heads:
        tables.append(
            Table(
                ("Head", "Plain", "Cipher", "Plain minus cipher", "Published donor"),
                tuple(
                    (head_name(one.head), *map(number_cell, (one.plain, one.cipher, one.difference, one.published)))
                    for one in found.heads
                ),
                numeric=(1, 2, 3, 4),
                caption=f"Necessity. Over these heads it collapses by {number_text(found.collapse)}.",
            )
        )
    if found.rescue:
        tables.append(
            Table(
                ("Put in", "Refused", "Change of the readout", "n"),
                tuple(
                    (titled(one.injected), share_cell(one.refused), number_cell(one.readout), one.refused.n)
                    for one in found.rescue
                ),
                numeric=(1, 2, 3),
                caption="Rescue: refusals of ciphered sensitive prompts.",
            )
        )
    if len(found.contrast_heads):
        order = np.argsort(-np.nan_to_num(np.abs(found.contrast)), kind="stable")[:MOST_CONTRAST]
        rows = tuple(
            (
                head_name(found.contrast_heads[place]),
                written(float(found.contrast[place])),
                probability_text(float(found.contrast_p[place])),
            )
            for place in map(int, order)
        )
        columns = ("Head", "Contrast, nats", "p, family-wise")
        tables.append(Table(columns, rows, numeric=(1, 2), caption="The heads of largest contrast.", folded=True))
    return tables
