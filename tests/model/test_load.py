from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.builders import PROMPTS, byte_level_tokenizer, tiny_model
from undertow.errors import ModelError
from undertow.model import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "model"
    tiny_model("llama").save_pretrained(path)
    byte_level_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize(("dtype", "wanted"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_folder_is_opened_in_the_type_asked_for(folder: Path, dtype: str, wanted: torch.dtype) -> None:
    chat = load(folder, dtype=dtype)
    assert chat.dtype == wanted and chat.name == str(folder)


def test_the_attention_implementation_is_passed_on(folder: Path) -> None:
    eager, fast = (load(folder, attn_implementation=name) for name in ("eager", "sdpa"))
    assert (eager.model.config._attn_implementation, fast.model.config._attn_implementation) == ("eager", "sdpa")
    torch.testing.assert_close(eager.logits(PROMPTS), fast.logits(PROMPTS), atol=1e-5, rtol=1e-5)


def test_a_thinking_mode_that_the_template_has_not_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError):
        load(folder, thinking=True)
