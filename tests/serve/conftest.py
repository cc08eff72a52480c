from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.builders import tiny_chat
from tests.guard.taught import fit_prompts, many, taught_chat
from tests.serve.served import Served, serving, settings_with
from undertow.guard import LatentGuard
from undertow.model import ChatModel
from undertow.serve.metrics import Metrics


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def chat(one_thread: None) -> ChatModel:
    """A small model that refuses bare harmful and look-alike prompts and is jailbroken by two wrappers."""
    return taught_chat()


@pytest.fixture(scope="session")
def guard(chat: ChatModel) -> LatentGuard:
    """A guard with both beliefs and a direction to steer with, fitted in two seconds."""
    harmful, harmless = fit_prompts()
    return LatentGuard.fit(
        chat, harmful, harmless, rule="centroid", refusal_rule="centroid", calibration=0.05, progress=False
    )


@pytest.fixture(scope="session")
def talkative(one_thread: None) -> LatentGuard:
    """A guard of a random model whose replies go on until they are ended, of up to 4096 tokens."""
    model = tiny_chat("llama", layers=2, max_position_embeddings=4096)
    prompts = [prompt.text for prompt in many("harmful", 12, 1)], [prompt.text for prompt in many("harmless", 12, 1)]
    return LatentGuard.fit(model, *prompts, rule="centroid", refusal_rule=None, steering=False, progress=False)


@pytest.fixture(scope="session")
def served(guard: LatentGuard) -> Iterator[Served]:
    """A server that allows every policy, for all tests that leave it as it is."""
    policy = {"allowed": ["flag", "steer", "release"]}
    with serving(guard, settings_with(name="taught", policy=policy), metrics=Metrics()) as server:
        yield server
