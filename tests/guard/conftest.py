from __future__ import annotations

import pytest
import torch

from tests.guard.taught import fit_prompts, taught_chat
from undertow.guard import LatentGuard
from undertow.model import ChatModel


@pytest.fixture(scope="session")
def chat() -> ChatModel:
    """A small model that refuses bare harmful and look-alike prompts and is jailbroken by two wrappers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return taught_chat()
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def guard(chat: ChatModel) -> LatentGuard:
    """A guard fitted on bare prompts, look-alikes and one wrapper family."""
    return LatentGuard.fit(chat, *fit_prompts(), calibration=0.05, progress=False)
