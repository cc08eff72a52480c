from __future__ import annotations

import pytest
import torch

from tests.guard.taught import many
from undertow.guard import LatentGuard
from undertow.guard.rows import SCORES, Scorer, score_chunk, score_row
from undertow.guard.scan import LocalScorer
from undertow.prompts import Prompt


def test_a_row_has_its_keys_in_order_and_nothing_else() -> None:
    scores = {name: index for index, name in enumerate(reversed(SCORES))} | {"warnings": []}
    row = score_row(3, Prompt("hello", id="x"), True, scores)
    assert list(row) == ["row", "id", *SCORES, "error", "prompt"]
    assert row == {"row": 3, "id": "x", **{name: scores[name] for name in SCORES}, "error": None, "prompt": "hello"}
    assert score_row(4, Prompt("hello"), False, None, "why") == {
        "row": 4, "id": None, **dict.fromkeys(SCORES), "error": "why",
    }  # fmt: skip


def test_a_guard_is_no_scorer_and_its_scorer_is(guard) -> None:
    assert not isinstance(guard, Scorer)
    scorer = LocalScorer(guard)
    assert isinstance(scorer, Scorer)
    assert (scorer.fingerprint, scorer.chunk_rows, scorer.has_refusal) == (guard.fingerprint, 64, True)


@pytest.mark.parametrize("spoilt", [[5], [0, 1, 63], range(64)])
def test_prompts_whose_states_are_not_finite_spoil_no_others(guard: LatentGuard, spoilt: list[int]) -> None:
    prompts = [prompt for prompt in many("harmful", 80, 4) if "thing23" not in prompt.text.split()][:64]
    prompts[40] = Prompt("attack1 " * 100)
    for index in spoilt:
        prompts[index] = Prompt("bake1 the thing23")
    poison = guard.model.tokenizer.convert_tokens_to_ids("thing23")

    def hook(module: object, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((arguments[0] == poison).unsqueeze(-1), float("nan"))

    handle = guard.model.model.get_input_embeddings().register_forward_hook(hook)
    try:
        rows = score_chunk(guard, prompts, 128)
    finally:
        handle.remove()
    assert [row["row"] for row in rows] == list(range(128, 192))
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        if index in spoilt:
            assert row["harmful"] is row["flagged"] is None and "not finite" in row["error"]
        elif index == 40:
            assert row["harmful"] is None and "at most 64" in row["error"]
        else:
            assert row["error"] is None
            assert row["harmfulness"] == pytest.approx(guard(prompt).harmfulness, abs=1e-3)
