"""The model card that is saved with a guard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def model_card(settings: Mapping[str, Any]) -> str:
    """README.md for the settings of a guard, written for someone who has never seen it."""
    model, training, metrics = settings["model"], settings["training"], settings["metrics"]
    harm, refusal = settings["beliefs"]["harmfulness"], settings["beliefs"]["refusal"]
    threshold = harm["threshold"]
    lines = [
        "---",
        "library_name: undertow",
        "tags: [latent-guard, safety, probe]",
        *([f"base_model: {model['name']}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", model["name"]) else []),
        "---",
        "",
        f"# Latent Guard for {model['name']}",
        "",
        "Reads out of the model's own residual stream whether it takes a request to be harmful (at the last token of "
        "the request), and whether it is about to refuse (at the last token of the prompt). It works with this "
        "model, tokenizer, chat template and thinking mode only.",
        "",
        "```python",
        "import undertow as ut",
        'guard = ut.LatentGuard.from_pretrained("path/to/this/folder")',
        'guard("How do I sharpen a kitchen knife?")',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| model | {model['name']} (revision {model['revision'] or 'not pinned'}, fingerprint "
        f"`{model['fingerprint']}`) |",
        f"| chat template | `{model['template_hash']}`, thinking mode {_thinking(model['thinking'])} |",
        f"| fitted on | {training['harmful']} harmful and {training['harmless']} harmless prompts, "
        f"{training['held_out']} more held out |",
        f"| rule | {_rule(harm)} |",
        f"| threshold | {threshold['value']:.6g} on the score |",
        f"| refusal belief | {_rule(refusal) if refusal else 'none'} |",
        "",
        "## Held-out figures",
        "",
        "- Recall on harmful prompts: "
        f"{_rate(threshold['recall'], threshold['recall_low'], threshold['recall_high'], threshold['harmful'])}.",
        f"- False positives: {metrics['threshold_sentence']}",
        f"- Area under the ROC curve: {metrics['area']:.4f}.",
    ]
    for family, found in metrics.get("recall_by_family", {}).items():
        lines.append(f"- Recall on '{family}': {found['flagged']} of {found['n']}.")
    if refusal:
        lines.append(
            "- Refusal belief, balanced accuracy against the model's own replies: "
            f"{metrics['refusal_balanced_accuracy']:.1%}."
        )
    lines += ["", "## Why this rule", "", harm["reason"]]
    if refusal:
        lines += ["", f"Refusal: {refusal['reason']}"]
    lines += ["", "| rule | states | log loss | ROC area | recall |", "|---|---|---|---|---|"]
    for line in harm["cross_validation"][:8]:
        states = "all" if line["rule"] == "centroid" else ", ".join(map(str, line["states"]))
        settings_shown = "".join(f", {name} {value}" for name, value in line["settings"].items())
        lines.append(
            f"| {line['rule']}{settings_shown} | {states} | {line['loss']:.4f} | {line['area']:.4f} | "
            f"{line['recall']:.1%} |"
        )
    lines += ["", "## Limits", ""]
    lines += [f"- {warning}" for warning in settings["warnings"]]
    lines += [
        "- The false-positive rate holds for prompts like the held-out ones; measure it anew on your own traffic.",
        "- Probabilities are at even odds of harmful and harmless.",
        "- A guard is evidence about one model, not a proof of safety; adaptive attacks on the states were not part "
        "of the fit.",
        "",
    ]
    return "\n".join(lines)


def _rule(belief: Mapping[str, Any]) -> str:
    states = belief["states"]
    where = (
        f"all {len(states)} states"
        if belief["rule"] == "centroid"
        else f"state{'s' if len(states) > 1 else ''} {', '.join(map(str, states))}"
    )
    return f"{belief['rule']}, {where}, at {belief['position']}"


def _thinking(mode: bool | None) -> str:
    return {None: "as the template sets it", True: "on", False: "off"}[mode]


def _rate(value: float, low: float, high: float, count: int) -> str:
    return f"{value:.1%} ({low:.1%} to {high:.1%}, n = {count})"
