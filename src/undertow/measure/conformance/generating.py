"""Checks of what runs a prompt's end more than once: replay, cached generation, left padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import UndertowError
from undertow.measure.conformance.trial import Outcome, Trial, relative_difference
from undertow.model import Add, Replace
from undertow.model.edit import Edit

_NEW_TOKENS = 8
_MOST_LOOPS = 48


def check_replay(trial: Trial) -> Outcome:
    """Branches replayed in one pass against the same edits made one at a time."""
    chat, anatomy = trial.chat, trial.chat.anatomy
    prompt, donor = trial.prompts[:1], trial.prompts[1:2]
    branches: list[list[Edit]] = [[]]
    for block in range(chat.layers):
        if anatomy.heads[block]:
            heads = chat.capture(donor, [], ("t_post",), heads=[block], progress=False).heads
            assert heads is not None
            branches += [
                [Replace(heads[0, 0, head, 0], head=(block, head), span="t_post")]
                for head in range(anatomy.heads[block])
            ]
    what = f"all {len(branches) - 1} heads interchanged at t_post"
    if len(branches) == 1:
        branches += [[Add(trial.vector(state), state=state, span="t_post")] for state in range(chat.layers)]
        what = f"{chat.layers} states edited at t_post"
    replayed = chat.replay(prompt, branches, progress=False)[0]
    step = max(1, -(-len(branches) // _MOST_LOOPS))
    chosen = list(range(0, len(branches), step))
    naive = []
    for index in chosen:
        with chat.edit(*branches[index]):
            naive.append(chat.logits(prompt)[0])
    worst = relative_difference(replayed[chosen], torch.stack(naive))
    return worst, f"By the method {chat.replay_method!r}: {what}, of which {len(chosen)} branches against the loop."


def check_generation(trial: Trial) -> Outcome:
    """Logits of every step of an edited, cached generation against the whole sequence run again without cache."""
    chat = trial.chat
    worst, steps = 0.0, 0
    vector = trial.vector(trial.middle)
    rendered = trial.rendered[0]
    # What the model may be asked for is tried now, so that those passes are not taken for generation's.
    chat.decoding_for(len(rendered) + _NEW_TOKENS)
    for span in ("instruction", "all"):
        logits: list[Tensor] = []
        fed: list[int] = []

        def keep(
            module: nn.Module,
            arguments: Any,
            keywords: Any,
            output: Any,
            logits: list[Tensor] = logits,
            fed: list[int] = fed,
        ) -> None:
            if logits:
                fed.append(int(keywords["input_ids"][0, -1]))
            logits.append(output.logits[0, -1].float().cpu())

        handle = chat.model.register_forward_hook(keep, with_kwargs=True)
        try:
            with chat.edit(Add(vector, state=trial.middle, span=span)):
                [reply] = chat.generate(trial.prompts[:1], _NEW_TOKENS, progress=False)
        finally:
            handle.remove()
        cached = torch.log_softmax(torch.stack(logits), -1)
        sequence = rendered.ids + fed
        columns = range(len(sequence)) if span == "all" else rendered.span(span)
        with trial.added_by_hand(trial.middle, vector, columns):
            again = trial.plain_logits(sequence)[rendered.t_post :]
        worst = max(worst, relative_difference(cached, again))
        tokens = [*fed, int(again[-1].argmax())]
        if trial.exact:
            # In lower precision two tokens may be equally likely but for rounding.
            if again.argmax(-1).tolist() != tokens:
                raise UndertowError("recomputation without cache chooses other tokens than generation with it.")
            if chat.tokenizer.decode(tokens, skip_special_tokens=True) != reply:
                raise UndertowError("the reply is not made of the likeliest tokens of each step.")
        steps += len(tokens)
    return worst, f"{steps} tokens generated under an edit with a KV cache against recomputation without."


def check_left_padding(trial: Trial) -> Outcome:
    """Prompts generated together, padded on the left, against each alone."""
    chat = trial.chat
    found: dict[int, Tensor] = {}

    def look(batch: Any) -> list[None]:
        found.update(zip(batch.indices, batch.logits, strict=True))
        return [None] * len(batch.indices)

    with chat.edit(Add(trial.vector(trial.middle), state=trial.middle, span="instruction")):
        together = chat.generate(trial.prompts, _NEW_TOKENS, progress=False, on_prefill=look)
        alone = [chat.generate([prompt], _NEW_TOKENS, progress=False)[0] for prompt in trial.prompts]
        single = torch.cat([chat.logits([prompt]) for prompt in trial.prompts])
    batched = torch.log_softmax(torch.stack([found[index] for index in range(len(trial.prompts))]), -1)
    same = sum(left == right for left, right in zip(together, alone, strict=True))
    if trial.exact and same < len(alone):
        raise UndertowError(f"{len(alone) - same} of {len(alone)} replies change when prompts are generated together.")
    return relative_difference(batched, single), (
        f"{len(alone)} prompts of different lengths generated together and alone: {same} replies are the same."
    )
