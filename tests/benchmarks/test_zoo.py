from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from shrink import shrunk_model, types

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
SAMPLE = [
    "bart", "bamba", "bert", "bloom", "cohere2", "deepseek_v3", "falcon", "gemma2", "gemma3_text", "glm4",
    "gpt2", "gpt_neo", "gpt_oss", "granite", "jamba", "llama4_text", "mamba", "minimax", "mixtral", "mllama",
    "olmo2", "opt", "phi3", "qwen3_next", "xlnet",
]  # fmt: skip


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_type_does_what_the_page_says_of_it(model_type: str) -> None:
    row = zoo.examine(model_type)
    assert row.failed == []
    assert row.status == zoo.stated(PAGE.read_text(encoding="utf-8"))[model_type]
    assert row.sentence


def test_the_page_has_a_row_for_every_type_with_one_of_three_words() -> None:
    stated = zoo.stated(PAGE.read_text(encoding="utf-8"))
    assert sorted(stated) == sorted(types())
    counts = {status: list(stated.values()).count(status) for status in zoo.STATUSES}
    assert counts["works"] >= 140
    for status, count in counts.items():
        assert f"**{status}** ({count})" in PAGE.read_text(encoding="utf-8")


def test_a_type_that_fails_a_check_never_counts_as_works(monkeypatch: pytest.MonkeyPatch) -> None:
    from undertow.model import decoding

    # Left padding that is taken to be harmless where positions are learned and counted from the row's start.
    monkeypatch.setattr(decoding, "_equal", lambda chat, wanted, attempt: True)
    row = zoo.examine("bart")
    assert row.status == "partly" and any(line.startswith("left padding") for line in row.failed)


def test_shrunk_models_are_small_and_hold_every_kind_of_block_that_the_defaults_mix() -> None:
    model = shrunk_model("qwen3_next")
    assert set(model.config.layer_types) == {"linear_attention", "full_attention"}
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    norms = [module.weight for name, module in shrunk_model("llama").named_modules() if "norm" in name]
    assert all(not torch.allclose(weight, torch.ones_like(weight), atol=1e-3) for weight in norms)
