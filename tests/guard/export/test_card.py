from __future__ import annotations

from typing import Any

from undertow.guard.export.card import classifier_card

EXPORT: dict[str, Any] = {
    "architecture": "LlamaForSequenceClassification",
    "blocks": 13,
    "rule": "normed",
    "state": 13,
    "threshold": 0.73125,
    "checked": 80,
    "largest_difference": 3.2e-6,
    "agreement": None,
    "notes": ["Too few prompts."],
}


def test_it_says_how_to_serve_and_where_to_flag() -> None:
    card = classifier_card(EXPORT, "owner/model", "bfloat16")
    for words in (
        "base_model: owner/model",
        "first 13 blocks",
        "Flag from 0.731250 on",
        "--runner pooling --convert classify --dtype bfloat16",
        "80 prompts: probabilities differ by at most 3.2e-06",
        "- Too few prompts.",
    ):
        assert words in card
    assert "stands in" not in card


def test_it_says_what_it_stands_in_for() -> None:
    agreement = {"alike": 95, "prompts": 100, "low": 0.887, "high": 0.984}
    card = classifier_card(EXPORT | {"agreement": agreement}, "organism:aligned", "float32")
    assert "On 100 prompts held out from its fit it decides as that guard on 95 (95 % interval 88.7% to 98.4%)" in card
    assert "base_model" not in card
