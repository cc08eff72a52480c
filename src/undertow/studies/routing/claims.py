"""What the paper claims, the findings that stand first, and the published figures."""

from __future__ import annotations

STUDY = "routing"
PAPER = "Frank, arXiv 2604.04385"
_RESULTS = f"{PAPER}, published result files"

REFERENCES: dict[str, tuple[float, str]] = {
    "top_head.necessity": (0.011, f"{_RESULTS}: Qwen3-8B, L17.H17, by another readout and position (0.010 to 0.084)"),
    "band.gain": (1.88, f"{_RESULTS}: Phi-4-mini, six heads of block 13 over the best single head"),
    "ablation.single_head_change": (0.0, f"{_RESULTS}: Phi-4-mini and Gemma-2-2B, one head zeroed, n = 30"),
    "cipher.collapse": (0.988, f"{_RESULTS}: Phi-4-mini, absolute values, plain donor, aligned from the left"),
    "cipher.detection_drop": (0.88, f"{_RESULTS}: Phi-4-mini (Gemma-2-2B 0.70, Qwen3-8B 0.66)"),
    "cipher.rescue": (0.483, f"{_RESULTS}: Phi-4-mini, 58 of 120 (Qwen3-8B 0 of 8)"),
}

CLAIMS: tuple[tuple[str, str], ...] = (
    ("A head or a few gate the refusal", "gates"),
    ("They act through later heads, so attribution misses them", "top_head.indirect"),
    ("Later heads amplify them", "amplifiers"),
    ("A band does more than its best head", "band.gain"),
    ("Ablating one head changes no behaviour", "ablation.single_head_change"),
    ("Less of the detection signal, fewer refusals", "modulation.attenuation"),
    ("The decision is fixed early", "commitment.last"),
    ("A cipher takes the gate's necessity away", "cipher.collapse"),
    ("The plain gate activation brings refusals back", "cipher.rescue"),
)
"""The paper's claims, each with the finding that bears on it most directly."""

FOREMOST: tuple[str, ...] = tuple(
    f"{STUDY}.{name}"
    for name in (
        "built.gate_recall",
        "built.gate_precision",
        "built.amplifier_recall",
        "built.amplifier_precision",
        "built.false_gate_rate",
        *(name for _, name in CLAIMS),
    )
)
"""Findings that stand first: the ground truth, then those of the claims."""
