from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.shrink import shrunk_model
from tests.builders import PROMPTS, byte_level_tokenizer, tiny_chat
from undertow.model import Add, ChatModel, Scale
from undertow.model.observe import observe


def plainly(chat: ChatModel, prompt: str, module: nn.Module) -> tuple[Tensor, Tensor]:
    """What one module is given and returns at t_post, by a plain hook on the model called directly."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        given = arguments[0] if arguments else keywords["hidden_states"]
        output = output[0] if isinstance(output, tuple) else output
        found.append((given.reshape(-1, given.shape[-1])[-1], output.reshape(-1, output.shape[-1])[-1]))

    handle = module.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        chat.model(input_ids=torch.tensor([chat.render(prompt).ids]))
    handle.remove()
    return found[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_inputs_outputs_and_logits_equal_plain_hooks(kind: str) -> None:
    chat = tiny_chat(kind)
    block = chat.anatomy.blocks[1]
    head = chat.anatomy.unembedding
    attention, mlp, projection = chat.anatomy.attentions[1], chat.anatomy.mlps[1], chat.anatomy.projections[1]
    assert attention is not None and mlp is not None and projection is not None and head is not None
    outputs, inputs = [attention, mlp, block, head], [block, projection]
    found = observe(chat, PROMPTS, outputs, inputs)
    for index, prompt in enumerate(PROMPTS):
        for module, values in zip(outputs, found.outputs, strict=True):
            torch.testing.assert_close(values[index], plainly(chat, prompt, module)[1], atol=1e-5, rtol=1e-5)
        for module, values in zip(inputs, found.inputs, strict=True):
            torch.testing.assert_close(values[index], plainly(chat, prompt, module)[0], atol=1e-5, rtol=1e-5)
        own = plainly(chat, prompt, head)[1]
        torch.testing.assert_close(found.logits[index], own, atol=1e-5, rtol=1e-5)


def test_modules_that_are_given_rows_and_tokens_in_one_axis_are_read_at_the_right_token() -> None:
    chat = ChatModel(shrunk_model("mixtral"), byte_level_tokenizer())
    experts = chat.model.model.layers[1].mlp.experts
    found = observe(chat, PROMPTS, [experts])
    for index, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(found.outputs[0][index], plainly(chat, prompt, experts)[1], atol=1e-5, rtol=1e-5)


def test_edits_are_seen_where_they_apply_and_downstream() -> None:
    chat = tiny_chat("llama")
    vector = torch.arange(64.0)
    blocks = chat.anatomy.blocks
    mlp = chat.anatomy.mlps[0]
    assert mlp is not None
    before = observe(chat, PROMPTS, [mlp, blocks[2]], [blocks[1]])
    with chat.edit(Add(vector, state=1, span="t_post"), Scale(0.0, mlp=0), Add(vector, state=3, span="t_post")):
        after = observe(chat, PROMPTS, [mlp, blocks[2]], [blocks[1]])
        logits = chat.logits(PROMPTS)
    assert float(after.outputs[0].abs().max()) == 0 and float(before.outputs[0].abs().max()) > 0
    wanted = before.inputs[0] - before.outputs[0] + vector
    torch.testing.assert_close(after.inputs[0], wanted, atol=1e-4, rtol=1e-4)
    with chat.edit(Add(vector, state=1, span="t_post"), Scale(0.0, mlp=0)):
        without = observe(chat, PROMPTS, [blocks[2]])
    torch.testing.assert_close(after.outputs[1], without.outputs[0] + vector, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.log_softmax(after.logits, -1), logits, atol=1e-5, rtol=1e-5)


def test_batches_change_nothing_and_hooks_are_removed() -> None:
    chat = tiny_chat("llama")
    block = chat.anatomy.blocks[1]

    def hooks() -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in chat.model.modules())

    before = hooks()
    together = observe(chat, PROMPTS, [block])
    chat.budget.tokens = 1
    alone = observe(chat, PROMPTS, [block])
    torch.testing.assert_close(together.outputs[0], alone.outputs[0], atol=1e-5, rtol=1e-5)
    assert hooks() == before
