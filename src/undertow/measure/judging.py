"""A study's findings, gathered one by one with the rules of their verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from undertow.measure.finding import Claim, Finding, judged_finding
from undertow.measure.statistics import Estimate

_TWINS = 99


class Judging:
    """Gathers the findings of one study.

    Args:
        study: its name, with which every id begins.
        references: finding's name -> published value and where it stands.

    Attributes:
        findings: those added so far.
        rules: id -> the rule that judged it.
    """

    def __init__(self, study: str, references: Mapping[str, tuple[float, str]]) -> None:
        self.study = study
        self.references = references
        self.findings: list[Finding] = []
        self.rules: dict[str, Claim] = {}

    def add(
        self,
        name: str,
        claim: str,
        found: Estimate | None,
        rule: Claim | None,
        control: Estimate | float | None = None,
        *,
        n: int = 0,
    ) -> None:
        """Add one finding.

        Args:
            name: its id behind the study's name; numbered where it is taken.
            claim: one sentence that the value bears on.
            found: what was measured; without an interval where neither end is finite; None, a value that is not finite
                or half an interval is `not tested`.
            rule: the rule of its verdict; None, or one whose bounds are not finite, judges nothing.
            control: the same quantity under the control condition.
            n: observations, where nothing was found.
        """
        key = self._free(f"{self.study}.{name}")
        value = low = high = None
        if found is not None and math.isfinite(found.value):
            bounded = [math.isfinite(end) for end in (found.low, found.high)]
            if all(bounded):
                value, low, high, n = found
            elif not any(bounded):
                value, n = found.value, found.n
        if rule is not None and not all(map(math.isfinite, filter(None, (rule.above, rule.below)))):
            rule = None
        if rule is not None:
            self.rules[key] = rule
        against = control.value if isinstance(control, Estimate) else control
        self.findings.append(
            judged_finding(
                rule,
                id=key,
                study=self.study,
                claim=claim,
                value=value,
                low=low,
                high=high,
                n=n,
                control=against if against is not None and math.isfinite(against) else None,
                reference=self.references.get(name),
            )
        )

    def ordered(self, foremost: Sequence[str]) -> tuple[Finding, ...]:
        """The findings, those of these ids first and in this order."""
        order = {name: place for place, name in enumerate(foremost)}
        return tuple(sorted(self.findings, key=lambda one: order.get(one.id, len(order))))

    def _free(self, key: str) -> str:
        """The id itself, or numbered where a family of the user's own reads like another."""
        taken = {finding.id for finding in self.findings}
        return next(one for one in (key, *(f"{key}.{count}" for count in range(2, _TWINS))) if one not in taken)
