from __future__ import annotations

import numpy as np
import torch

from undertow.measure.judge import SubstringJudge
from undertow.studies.demo import DemoResult
from undertow.studies.demo.behaviour import REPLY_TOKENS, inverted


def test_replies_and_states_are_the_models_own(result: DemoResult):
    """Against transformers alone, one prompt at a time, without padding."""
    chat = result.guard.model
    for kind in ("bare", "suffix", "wrapped_look-alike"):
        cell = result.cell(kind)
        for row in (0, 7):
            prompt = cell.observed.prompts[row]
            text = chat.tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
            encoded = chat.tokenizer(text, return_tensors="pt", add_special_tokens=False)
            with torch.no_grad():
                output = chat.model.generate(**encoded, max_new_tokens=REPLY_TOKENS, do_sample=False)
                hidden = chat.model(**encoded, output_hidden_states=True).hidden_states
            reply = chat.tokenizer.decode(output[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
            assert cell.observed.replies[row] == reply
            assert bool(cell.refused[row]) == SubstringJudge().refused([reply])[0]
            for state in range(chat.layers):
                np.testing.assert_allclose(
                    cell.observed.states["t_post"][row, state], hidden[state][0, -1].numpy(), atol=1e-4
                )


def test_inversion_is_right_iff_the_answer_tells_the_truth(result: DemoResult):
    for cell in result.cells:
        for prompt, answer, correct in zip(cell.observed.prompts, cell.answers, cell.correct, strict=True):
            assert bool(correct) == answer.lstrip().startswith("Certainly" if prompt.harmful else "No")


def test_inversion_asks_behind_the_request(result: DemoResult):
    prompts = result.cell("bare").observed.prompts
    asked = inverted(prompts, 0)
    assert all(question.text.startswith(prompt.text) for question, prompt in zip(asked, prompts, strict=True))
    assert all(
        "Certainly" in question.text.removeprefix(prompt.text) for question, prompt in zip(asked, prompts, strict=True)
    )
