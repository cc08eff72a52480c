"""Write the findings of runs of the beliefs study, side by side, into a page between its markers.

python docs/beliefs.py docs/studies/beliefs.md "seed 2, shipped=beliefs" "seed 0=beliefs-0" "seed 1=beliefs-1"
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from undertow.studies.beliefs.claims import CLAIMS, FOREMOST, STUDY

BLOCK = re.compile(r"(<!-- runs: .*? -->\n).*?(<!-- end of runs -->)", re.DOTALL)
WORDS = {
    "separation.t_inst.refused_harmless": "harmless prompts that are refused lie on the harmless side at t_inst",
    "double_dissociation.random": "control: random directions show no dissociation",
    "directions.category_variation": "harmfulness directions vary more over categories than refusal directions",
    "guard.gain.accepted_harmful": "best rule minus `centroid`, accepted harmful flagged, at 2 % false positives",
    "guard.gain.refused_harmless": "best rule minus `centroid`, refused harmless spared, at 2 % false positives",
    "finetuning.refused": "bare harmful prompts refused after adversarial finetuning",
    "finetuning.harmfulness_kept": "share of the belief of harmfulness kept under finetuning",
    "abliteration.refused": "bare harmful prompts refused after abliteration",
    "abliteration.recall_drop": "drop of the best guard's recall under abliteration",
    "over_refusal.released": "refused harmless prompts answered under release",
}
MARKS = {"reproduced": "✓", "not reproduced": "✗", "not tested": "○"}


def cell(finding: dict[str, Any] | None) -> str:
    """Verdict, value, interval, n and control of one finding."""
    if finding is None or finding["value"] is None:
        return "–"
    control = "" if finding["control"] is None else f"; control {finding['control']:.3f}"
    span = f"{finding['low']:.3f} to {finding['high']:.3f}"
    return f"{MARKS[finding['verdict']]} {finding['value']:.3f} ({span}; n = {finding['n']:,}{control})"


def main() -> None:
    page = Path(sys.argv[1])
    runs = {}
    for argument in sys.argv[2:]:
        name, _, folder = argument.partition("=")
        content = json.loads((Path(folder) / "findings.json").read_text(encoding="utf-8"))
        runs[name] = {finding["id"]: finding for finding in content["findings"]}
    titles = {f"{STUDY}.{name}": f"**{number}. {claim}**" for number, (claim, name) in enumerate(CLAIMS, start=1)}
    titles |= {f"{STUDY}.{name}": words for name, words in WORDS.items()}
    lines = ["| claim | " + " | ".join(runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for name in FOREMOST:
        cells = [cell(findings.get(name)) for findings in runs.values()]
        lines.append(f"| {titles[name]}<br>`{name}` | " + " | ".join(cells) + " |")
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise SystemExit(f"{page} has no markers for the runs.")
    page.write_text(BLOCK.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
