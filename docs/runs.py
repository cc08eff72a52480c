"""Write the findings of runs of a study, side by side, into a page between its markers.

python docs/runs.py beliefs docs/studies/beliefs.md "seed 2, shipped=beliefs" "seed 0=beliefs-0" "seed 1=beliefs-1"
python docs/runs.py routing docs/studies/routing.md "bilingual=routing" "aligned=routing-aligned"
"""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"(<!-- runs: .*? -->\n).*?(<!-- end of runs -->)", re.DOTALL)
WORDS = {
    "built.gate_recall": "built circuits: share of the gates that are named",
    "built.gate_precision": "built circuits: share of the named gates that are gates",
    "built.amplifier_recall": "built circuits: share of the amplifiers that are named",
    "built.amplifier_precision": "built circuits: share of the named amplifiers that are amplifiers",
    "built.false_gate_rate": "built circuits without a gate: share in which one is named",
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
    span = "" if finding["low"] is None else f"{finding['low']:.3f} to {finding['high']:.3f}; "
    return f"{MARKS[finding['verdict']]} {finding['value']:.3f} ({span}n = {finding['n']:,}{control})"


def main() -> None:
    study, page = sys.argv[1], Path(sys.argv[2])
    claims = import_module(f"undertow.studies.{study}.claims")
    runs = {}
    for argument in sys.argv[3:]:
        name, _, folder = argument.partition("=")
        content = json.loads((Path(folder) / "findings.json").read_text(encoding="utf-8"))
        runs[name] = {finding["id"]: finding for finding in content["findings"]}
    titles = {f"{study}.{name}": f"**{number}. {claim}**" for number, (claim, name) in enumerate(claims.CLAIMS, 1)}
    titles |= {f"{study}.{name}": words for name, words in WORDS.items()}
    lines = ["| claim | " + " | ".join(runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for name in claims.FOREMOST:
        cells = [cell(findings.get(name)) for findings in runs.values()]
        lines.append(f"| {titles[name]}<br>`{name}` | " + " | ".join(cells) + " |")
    text = page.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise SystemExit(f"{page} has no markers for the runs.")
    page.write_text(BLOCK.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
