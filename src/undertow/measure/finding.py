"""A Finding: one claim, what was measured, how sure it is, and a verdict that a stated rule computed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from undertow.errors import UndertowError
from undertow.measure.storage import write_atomically

Verdict = Literal["reproduced", "not reproduced", "not tested"]
SCHEMA = 1


class FindingError(UndertowError):
    """A finding contradicts itself, or a file of findings cannot be read."""


class Reference(BaseModel):
    """What others report for the same quantity.

    Attributes:
        value: The published number, in the unit of the finding's value.
        source: Where it stands: paper, table, model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: float
    source: str


class Finding(BaseModel):
    """One measured claim; its keys are the schema of `findings.json`.

    Attributes:
        id: Stable identifier, such as `guard.jailbroken_recall`.
        study: Which study made it, such as `demo` or `beliefs`.
        claim: One sentence that the value bears on.
        value: What was measured; None only if the verdict is `not tested`.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        n: Number of independent observations.
        control: The same quantity measured under the control condition.
        reference: What others report, with the source.
        verdict: `reproduced`, `not reproduced` or `not tested`; computed by a `Claim`, never set by hand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field(min_length=1)
    study: str = Field(min_length=1)
    claim: str = Field(min_length=1)
    value: float | None
    low: float | None
    high: float | None
    n: int = Field(ge=0)
    control: float | None = None
    reference: Reference | None = None
    verdict: Verdict

    @model_validator(mode="after")
    def _consistent(self) -> Finding:
        if self.value is None and self.verdict != "not tested":
            raise ValueError(f"finding {self.id} has no value, so its verdict can only be 'not tested'")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"finding {self.id} has only one end of its interval")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"finding {self.id} has an interval whose low end {self.low} lies above {self.high}")
        return self


@dataclass(frozen=True)
class Claim:
    """The rule by which a verdict is computed: the whole interval must be clear of the stated bounds.

    Attributes:
        above: The interval's low end must lie above this, or at it if `inclusive`.
        below: The interval's high end must lie below this, or at it if `inclusive`.
        contains: The interval must contain this: the claim that a control does nothing. Stands alone.
        inclusive: Whether touching a bound counts as being clear of it.
        on: "interval" judges the interval; "value" judges the point estimate alone (for a figure that is promised as
            a measured value).
    """

    above: float | None = None
    below: float | None = None
    inclusive: bool = False
    on: Literal["interval", "value"] = "interval"
    contains: float | None = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None and self.contains is None:
            raise FindingError("A claim needs a bound: say what its value must lie above, below, or both.")
        if self.contains is not None and (self.above is not None or self.below is not None or self.on == "value"):
            raise FindingError("A claim that its interval contains a number has no other bound.")

    @property
    def sentence(self) -> str:
        """The rule in words, for the report."""
        if self.contains is not None:
            return f"reproduced if the 95 % interval contains {self.contains:g}"
        subject = "the whole 95 % interval lies" if self.on == "interval" else "the value lies"
        edge = " or at" if self.inclusive else ""
        bounds = []
        if self.above is not None:
            bounds.append(f"above{edge} {self.above:g}")
        if self.below is not None:
            bounds.append(f"below{edge} {self.below:g}")
        return f"reproduced if {subject} {' and '.join(bounds)}"

    def verdict(self, value: float | None, low: float | None, high: float | None) -> Verdict:
        """Return `not tested` for no value (or no interval where one is judged), else what the rule says."""
        if self.on == "value":
            low = high = value
        if value is None or low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
            return "not tested"
        if self.contains is not None:
            return "reproduced" if low <= self.contains <= high else "not reproduced"
        clear = True
        if self.above is not None:
            clear &= low > self.above or (self.inclusive and low == self.above)
        if self.below is not None:
            clear &= high < self.below or (self.inclusive and high == self.below)
        return "reproduced" if clear else "not reproduced"


def judge_claim(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    above: float | None = None,
    below: float | None = None,
    inclusive: bool = False,
    on: Literal["interval", "value"] = "interval",
) -> Verdict:
    """Return the verdict on a measured interval: reproduced iff it is clear of the stated bounds.

    Raises:
        FindingError: If no bound is given.
    """
    return Claim(above=above, below=below, inclusive=inclusive, on=on).verdict(value, low, high)


def judged_finding(
    rule: Claim | None,
    *,
    id: str,
    study: str,
    claim: str,
    value: float | None,
    low: float | None,
    high: float | None,
    n: int,
    control: float | None = None,
    reference: Reference | tuple[float, str] | None = None,
) -> Finding:
    """Return a Finding whose verdict the rule computes; without a rule nothing is claimed: `not tested`.

    Raises:
        FindingError: If the numbers contradict each other.
    """
    source = Reference(value=reference[0], source=reference[1]) if isinstance(reference, tuple) else reference
    verdict: Verdict = "not tested" if rule is None else rule.verdict(value, low, high)
    try:
        return Finding(
            id=id,
            study=study,
            claim=claim,
            value=value,
            low=low,
            high=high,
            n=n,
            control=control,
            reference=source,
            verdict=verdict,
        )
    except ValidationError as error:
        raise FindingError(f"Finding {id} cannot be made: {_first_problem(error)}.") from None


@dataclass(frozen=True)
class FindingsFile:
    """Everything in a `findings.json`.

    Attributes:
        findings: The findings, in the order written.
        rules: For each finding's id, the rule behind its verdict, in words.
        figures: The numbers behind each figure, by figure name.
        run: What was run: model, revision, seed, versions, duration.
    """

    findings: list[Finding]
    rules: dict[str, str]
    figures: dict[str, Any]
    run: dict[str, Any]


def write_findings(
    path: str | Path,
    findings: Sequence[Finding],
    *,
    rules: Mapping[str, str | Claim] | None = None,
    figures: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Path:
    """Write findings as JSON, whole or not at all.

    Args:
        path: The file to write, usually `findings.json`; replaced in one step if it exists.
        findings: The findings; their ids must differ.
        rules: For each finding's id, the rule of its verdict.
        figures: The numbers behind each figure; must be plain JSON.
        run: Metadata of the run; must be plain JSON.

    Raises:
        FindingError: If two findings share an id, or a value is not finite or not JSON.
    """
    twice = [name for name, count in Counter(finding.id for finding in findings).items() if count > 1]
    if twice:
        raise FindingError(f"Two findings share the id {twice[0]}: give each its own.")
    content: dict[str, Any] = {"schema": SCHEMA, "findings": [finding.model_dump() for finding in findings]}
    if rules:
        content["rules"] = {
            name: rule.sentence if isinstance(rule, Claim) else str(rule) for name, rule in rules.items()
        }
    if figures:
        content["figures"] = dict(figures)
    if run:
        content["run"] = dict(run)
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FindingError(f"The findings cannot be written as JSON: {error}.") from None
    return write_atomically(path, text)


def read_findings(path: str | Path) -> list[Finding]:
    """Return the findings of a `findings.json`.

    Raises:
        FindingError: If the file is missing, is not JSON, or is not of this schema.
    """
    return read_findings_file(path).findings


def read_findings_file(path: str | Path) -> FindingsFile:
    """Return everything in a `findings.json`.

    Raises:
        FindingError: If the file is missing, is not JSON, or is not of this schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FindingError(f"The findings {path} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise FindingError(f"The findings {path} are not JSON.") from None
    if (
        not isinstance(content, dict)
        or content.get("schema") != SCHEMA
        or not isinstance(content.get("findings"), list)
    ):
        raise FindingError(f"The findings {path} are not of schema {SCHEMA}: write them again with this version.")
    try:
        findings = [Finding.model_validate(entry) for entry in content["findings"]]
    except ValidationError as error:
        raise FindingError(f"The findings {path} hold a wrong entry: {_first_problem(error)}.") from None
    return FindingsFile(
        findings=findings,
        rules=content.get("rules", {}),
        figures=content.get("figures", {}),
        run=content.get("run", {}),
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
