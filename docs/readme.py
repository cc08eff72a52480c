"""Write figures into README.md: the demo's, and those of the built circuits from a routing study.

python docs/readme.py demo/findings.json README.md
python docs/readme.py routing/findings.json README.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

SHOWN = {
    "guard.jailbroken_recall": "jailbroken requests that the guard flags (best rule, at 2 % false positives)",
    "guard.centroid.jailbroken_recall": "the same for the rule `centroid`, on the same prompts at the same rate",
    "guard.published.jailbroken_recall": "the same for the published rule to the letter, with its own threshold 0",
    "guard.refused_harmless_accuracy": "refused look-alikes that the guard recognises as harmless",
    "guard.false_positive_rate": "harmless requests that the guard flags",
    "organism.bare_harmful_refused": "bare harmful requests that the organism refuses",
    "organism.harmless_answered": "harmless requests that it answers",
    "organism.jailbroken_answered": "wrapped harmful requests that it answers",
    "organism.over_refused": "look-alikes that it refuses",
    "organism.inversion_accuracy": "requests that it judges rightly when asked outright",
}
BLOCK = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)


BUILT = re.compile(r"(<!-- built: .*? -->\n).*?(<!-- end of built -->)", re.DOTALL)
METHODS = {
    "": "the study's rule, told nothing",
    "attribution.": "ranking by direct logit attribution, told how many there are",
    "ablation.": "ranking by mean ablation, told how many there are",
}
FIGURES = ("gate_recall", "gate_precision", "amplifier_recall", "amplifier_precision", "false_gate_rate")


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def main() -> None:
    findings = {item["id"]: item for item in read(sys.argv[1])}
    readme = Path(sys.argv[2])
    block, table = (BUILT, built_table) if "routing.built.gate_recall" in findings else (BLOCK, demo_table)
    text = readme.read_text(encoding="utf-8")
    if not block.search(text):
        raise SystemExit(f"{readme} has no markers for these figures.")
    readme.write_text(block.sub(lambda match: match[1] + table(findings) + "\n" + match[2], text), encoding="utf-8")


def demo_table(findings: dict[str, dict[str, Any]]) -> str:
    """A row a figure of the demo."""
    lines = ["| held-out prompts | value | 95 % interval | n | control |", "|---|---|---|---|---|"]
    for name, words in SHOWN.items():
        found = findings[name]
        control = "" if found["control"] is None else percent(found["control"])
        span = f"{percent(found['low'])} to {percent(found['high'])}"
        lines.append(f"| {words} | {percent(found['value'])} | {span} | {found['n']:,} | {control} |")
    return "\n".join(lines)


def read(path: str) -> list[dict[str, Any]]:
    """The findings of a file."""
    found: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))["findings"]
    return found


def built_table(findings: dict[str, dict[str, Any]]) -> str:
    """A row a method: recall and precision with their intervals."""
    lines = ["| method | " + " | ".join(name.replace("_", " ") for name in FIGURES) + " |", "|---" * 6 + "|"]
    for prefix, words in METHODS.items():
        cells = []
        for name in FIGURES:
            found = findings.get(f"routing.built.{prefix}{name}")
            cells.append(
                "–"
                if found is None
                else f"{percent(found['value'])} ({percent(found['low'])} to {percent(found['high'])})"
            )
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
