from __future__ import annotations

import pytest
import torch

from tests.builders import PROMPTS, tiny_chat, tiny_model
from undertow.errors import CoverageError, EditError
from undertow.model.anatomy import find_anatomy
from undertow.model.hooks import attached, check_site

SITES = [("state", 0), ("state", 3), ("heads", 1), ("attention", 2), ("mlp", 0)]


@pytest.mark.parametrize("site", SITES)
def test_visits_see_and_change_the_tensor_at_a_site(site: tuple[str, int]) -> None:
    chat = tiny_chat("llama")
    seen: list[torch.Tensor] = []
    with attached(chat.anatomy, [(site, lambda hidden: seen.append(hidden))]):
        plain = chat.logits(PROMPTS[0])
    with attached(chat.anatomy, [(site, lambda hidden: hidden * 0), (site, lambda hidden: seen.append(hidden))]):
        changed = chat.logits(PROMPTS[0])
    assert seen[0].shape == (1, len(chat.render(PROMPTS[0])), 64)
    assert seen[0].abs().sum() > 0 and seen[1].abs().sum() == 0
    assert not torch.allclose(plain, changed)
    assert torch.equal(chat.logits(PROMPTS[0]), plain)


def test_what_else_a_module_returns_is_left_alone() -> None:
    chat = tiny_chat("llama")
    outputs: list[tuple[torch.Tensor, object]] = []
    with attached(chat.anatomy, [(("attention", 1), lambda hidden: hidden * 0)]):
        handle = chat.model.model.layers[1].self_attn.register_forward_hook(
            lambda module, arguments, output: outputs.append(output)
        )
        chat.logits(PROMPTS[0])
        handle.remove()
    [output] = outputs
    assert isinstance(output, tuple) and len(output) == 2 and float(output[0].abs().max()) == 0


def test_hooks_are_removed_when_a_visit_fails() -> None:
    chat = tiny_chat("llama")

    def fail(hidden: torch.Tensor) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), attached(chat.anatomy, [(("state", 1), fail)]):
        chat.logits(PROMPTS[0])
    assert torch.isfinite(chat.logits(PROMPTS[0])).all()


def test_sites_that_do_not_exist_are_refused() -> None:
    anatomy = find_anatomy(tiny_model("llama"))
    check_site(anatomy, ("state", 3))
    with pytest.raises(EditError, match="no state 4"):
        check_site(anatomy, ("state", 4))
    with pytest.raises(EditError, match="no mlp 3"):
        check_site(anatomy, ("mlp", 3))
    anatomy.mlps[0] = None
    with pytest.raises(CoverageError, match="Block 0"):
        check_site(anatomy, ("mlp", 0))
