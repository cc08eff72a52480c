"""What the demo measured, and the counts that its findings, tables and figures are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.guard.verdict import QUADRANTS, Verdict
from undertow.measure.finding import Claim, Finding
from undertow.measure.statistics import Band, Estimate, proportion, threshold_at_rate
from undertow.studies.demo.acting import Acting
from undertow.studies.demo.behaviour import Array, Cell
from undertow.studies.demo.detectors import RATE, Controls, Detector
from undertow.studies.demo.kinds import HELD_OUT_FAMILIES, Kind

if TYPE_CHECKING:
    from undertow.guard import LatentGuard


@dataclass(frozen=True)
class DemoResult:
    """Everything that one run of the demo measured.

    Attributes:
        guard: the fitted guard.
        cells: held-out prompts of every kind, with replies and states.
        verdicts: kind -> the guard's verdicts, in the order of the cell's prompts.
        detectors: the guard first, then its rivals and the baselines.
        controls: guards that know nothing.
        bands: position -> published score over the states, by cluster.
        acting: steering and guarded generation.
        seed, n: seed, and prompts a kind.
        findings: what it comes to; empty until `undertow.studies.demo.findings.findings_of` has judged it.
        rules: finding's id -> the rule of its verdict.
        run: what was run: model, versions, seconds.
    """

    guard: LatentGuard
    cells: tuple[Cell, ...] = field(repr=False)
    verdicts: Mapping[str, list[Verdict]] = field(repr=False)
    detectors: tuple[Detector, ...]
    controls: Controls = field(repr=False)
    bands: Mapping[str, Sequence[Band]] = field(repr=False)
    acting: Acting = field(repr=False)
    seed: int
    n: int
    findings: tuple[Finding, ...] = ()
    rules: Mapping[str, Claim] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)

    def cell(self, kind: str) -> Cell:
        """The cell of a kind."""
        return next(cell for cell in self.cells if cell.kind.name == kind)

    def detector(self, key: str) -> Detector | None:
        """The detector of that key; the guard itself stands for the rule that it uses."""
        found = next((detector for detector in self.detectors if detector.key == key), None)
        return self.detectors[0] if found is None and key == self.guard.rule else found

    def finding(self, name: str) -> Finding | None:
        """The finding of that id."""
        return next((finding for finding in self.findings if finding.id == name), None)

    def gather(
        self, value: Callable[[Cell], Array], *, kinds: Callable[[Kind], bool], refused: bool | None = None
    ) -> Array:
        """One value a prompt, from every cell of the wanted kinds and, where asked, of one behaviour.

        Args:
            value: cell -> (..., n).
            kinds: which kinds.
            refused: True for refused prompts only, False for answered ones, None for both.
        """
        parts = [
            value(cell)[..., np.ones(cell.n, dtype=bool) if refused is None else cell.refused == refused]
            for cell in self.cells
            if kinds(cell.kind)
        ]
        return np.concatenate(parts, axis=-1)

    def jailbroken(self, detector: Detector, families: Sequence[str] = HELD_OUT_FAMILIES) -> Array:
        """Flags of accepted harmful prompts: harmful, in a held-out wrapper family, and answered by the model."""
        return self.gather(
            lambda cell: detector.flags(cell.kind.name),
            kinds=lambda kind: kind.harmful and kind.family in families,
            refused=False,
        )

    def false_positives(self, detector: Detector, kind: str | None = None) -> Array:
        """Flags of harmless prompts, of all kinds or of one."""
        return self.gather(
            lambda cell: detector.flags(cell.kind.name),
            kinds=lambda other: not other.harmful and kind in (None, other.name),
        )

    def refused_harmless(self, detector: Detector) -> Array:
        """Which refused harmless prompts are recognised as harmless."""
        return ~self.gather(
            lambda cell: detector.flags(cell.kind.name), kinds=lambda kind: not kind.harmful, refused=True
        )

    def control_flags(
        self, flags: Mapping[str, Array], *, kinds: Callable[[Kind], bool], refused: bool | None
    ) -> Array:
        """Flags (repeats, n) of one of the controls."""
        return self.gather(lambda cell: flags[cell.kind.name], kinds=kinds, refused=refused)

    def recall_at_test_rate(self, detector: Detector) -> float | None:
        """Recall of accepted harmful prompts at the threshold that flags 2 % of these very harmless prompts."""
        harmless = self.gather(lambda cell: detector.scores[cell.kind.name], kinds=lambda kind: not kind.harmful)
        threshold = threshold_at_rate(harmless, RATE).threshold
        found = estimate(self.jailbroken(detector.at(threshold, "", "", "", True)))
        return None if found is None else found.value

    @property
    def quadrant_names(self) -> tuple[str, ...]:
        """The quadrants that verdicts can name."""
        return QUADRANTS if self.guard.refusal is not None else ("harmful", "harmless")

    def quadrants(self) -> dict[str, dict[str, int]]:
        """Title of a kind -> how many of its prompts fall into each quadrant."""
        found = {}
        for cell in self.cells:
            counts = Counter(str(verdict.quadrant) for verdict in self.verdicts[cell.kind.name])
            found[cell.kind.title] = {name: counts.get(name, 0) for name in self.quadrant_names}
        return found


def estimate(hits: Array) -> Estimate | None:
    """The share of hits with its Clopper-Pearson interval; None where there is nothing to count."""
    return proportion(int(np.sum(hits)), len(hits)) if len(hits) else None
