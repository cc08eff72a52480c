"""Write the demo's figures into README.md: ``python docs/readme.py demo/findings.json README.md``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

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


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f} %"


def main() -> None:
    findings = {item["id"]: item for item in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["findings"]}
    lines = ["| held-out prompts | value | 95 % interval | n | control |", "|---|---|---|---|---|"]
    for name, words in SHOWN.items():
        found = findings[name]
        control = "" if found["control"] is None else percent(found["control"])
        span = f"{percent(found['low'])} to {percent(found['high'])}"
        lines.append(f"| {words} | {percent(found['value'])} | {span} | {found['n']:,} | {control} |")
    readme = Path(sys.argv[2])
    text = readme.read_text(encoding="utf-8")
    table = "\n".join(lines)
    readme.write_text(BLOCK.sub(lambda match: match[1] + table + "\n" + match[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
