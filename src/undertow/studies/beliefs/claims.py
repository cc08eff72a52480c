"""What the paper claims: its eight claims, the findings that stand first, and the published figures."""

from __future__ import annotations

STUDY = "beliefs"
PAPER = "Zhao et al., arXiv 2507.11878"
_TABLE = f"{PAPER}, table 1: Llama2-Chat-7B, threshold 0"
_FOUR = f"{PAPER}, figure 4: Qwen2-7B, best layers (read off the plot)"

REFERENCES: dict[str, tuple[float, str]] = {
    "steering.refusal": (0.80, _FOUR),
    "steering.harmfulness": (0.37, _FOUR),
    "guard.centroid.refused_harmless": (1.0, f"{_TABLE} (Llama3-8B 0.785, Qwen2-7B 0.916)"),
    "guard.centroid.accepted_harmful": (0.939, f"{_TABLE} (Llama3-8B 0.593, Qwen2-7B 0.546)"),
    "guard.centroid.role_play": (1.0, f"{_TABLE}, templates (Llama3-8B 1.000, Qwen2-7B 0.535)"),
    "guard.centroid.persuasion": (0.416, f"{_TABLE}, persuasion (Llama3-8B 0.650, Qwen2-7B 0.750)"),
    "guard.centroid.suffix": (1.0, f"{_TABLE}, adversarial suffixes (Llama3-8B 0.910, Qwen2-7B 1.000)"),
}

CLAIMS: tuple[tuple[str, str], ...] = (
    ("Harmfulness is encoded at the last token of the request", "separation.t_inst.accepted_harmful"),
    ("Refusal is encoded at the last token of the prompt", "separation.t_post.accepted_harmful"),
    ("They are different directions", "directions.distinct"),
    ("Either direction makes the model refuse", "steering.harmfulness"),
    ("Only harmfulness changes the judgement of the request", "double_dissociation"),
    ("Jailbreaks suppress refusal more than the belief of harm", "jailbreaks.believed_answered"),
    ("The Latent Guard sees more than the model's own refusal", "guard.centroid.beats_own_refusal"),
    ("Finetuning the model to comply leaves the guard working", "finetuning.recall_drop"),
)
"""The paper's eight claims, each with the finding that bears on it most directly."""

FOREMOST: tuple[str, ...] = tuple(
    f"{STUDY}.{name}"
    for name in (
        *(name for _, name in CLAIMS),
        "separation.t_inst.refused_harmless",
        "double_dissociation.random",
        "directions.category_variation",
        "guard.gain.accepted_harmful",
        "guard.gain.refused_harmless",
        "finetuning.refused",
        "finetuning.harmfulness_kept",
        "abliteration.refused",
        "abliteration.recall_drop",
        "over_refusal.released",
    )
)
"""Findings that stand first: those of the eight claims, their controls, and what goes beyond the paper."""
