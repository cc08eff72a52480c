"""Checks of what is read and written in one forward pass: positions, states, edits, heads, attribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError, UndertowError
from undertow.measure.attribution import LogitAttribution
from undertow.measure.conformance.trial import NotApplicable, Outcome, Trial, relative_difference
from undertow.model import Add, Replace, Scale
from undertow.model.anatomy import first_tensor
from undertow.model.edit import Edit


def check_positions(trial: Trial) -> Outcome:
    """Token ids equal the chat template's own, and the instruction's tokens spell the instruction."""
    tokenizer = trial.chat.tokenizer
    wrong = 0
    for prompt, rendered in zip(trial.prompts, trial.rendered, strict=True):
        own = tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
        start, end = rendered.offsets[rendered.instruction[0]][0], rendered.offsets[rendered.t_inst][1]
        wrong += list(own) != rendered.ids or prompt.strip() not in rendered.text[start:end]
    return float(wrong), f"Tokens and instruction spans of {len(trial.prompts)} prompts against the tokenizer's own."


def check_states(trial: Trial) -> Outcome:
    """Captured states, padded in one batch and one by one, against `output_hidden_states` of single prompts."""
    chat = trial.chat
    positions = (0, "t_inst", "t_post")
    batches = [chat.capture(trial.prompts, None, positions, progress=False, tokens_per_batch=size)
               for size in (trial.one_batch, 1)]  # fmt: skip
    worst = 0.0
    for row, rendered in enumerate(trial.rendered):
        columns = [0, rendered.t_inst, rendered.t_post]
        own = trial.plain_states(rendered.ids)
        normed = trial.normed_state(rendered.ids)
        for captured in batches:
            states = captured.values[row].to(chat.device)
            for state, tensor in own.items():
                worst = max(worst, relative_difference(states[state], tensor[columns]))
            # What transformers publishes last has been through the final norm; state L has not.
            if normed is not None and chat.anatomy.final_norm is not None:
                with torch.no_grad():
                    after = chat.anatomy.final_norm(states[chat.layers][None])[0]
                worst = max(worst, relative_difference(after, normed[columns]))
    return worst, (
        f"States 0 to {chat.layers} at three positions of {len(trial.prompts)} prompts, padded in one batch and alone, "
        "against the model's own hidden states."
    )


def check_identity(trial: Trial) -> Outcome:
    """Edits that change nothing, through real hooks, against no edit at all."""
    chat, anatomy = trial.chat, trial.chat.anatomy
    base = chat.logits(trial.prompts)
    block = min(trial.middle, chat.layers - 1)
    edits: list[Edit] = []
    states = sorted({0, trial.middle, chat.layers})
    captured = chat.capture(trial.prompts, states, ("t_inst", "t_post"), progress=False)
    for state in states:
        edits += [Scale(1.0, state=state), Add(torch.zeros(chat.width), state=state)]
        edits += [
            Replace(list(captured.at(position, state)), state=state, span=position) for position in ("t_inst", "t_post")
        ]
    if anatomy.attentions[block] is not None:
        edits.append(Scale(1.0, attention=block))
    if anatomy.mlps[block] is not None:
        edits.append(Scale(1.0, mlp=block))
    if anatomy.heads[block]:
        heads = chat.capture(trial.prompts, [], ("t_post",), heads=[block], progress=False).heads
        assert heads is not None
        edits.append(Scale(1.0, head=(block, 0)))
        edits += [
            Replace(list(heads[:, 0, head, 0]), head=(block, head), span="t_post")
            for head in range(anatomy.heads[block])
        ]
    worst = 0.0
    for edit in edits:
        with chat.edit(edit):
            same = chat.logits(trial.prompts)
        worst = max(worst, 0.0 if torch.equal(same, base) else max(relative_difference(same, base), 1e-12))
    return (
        worst,
        f"{len(edits)} edits that change nothing (scale by 1, add 0, replace by itself): bit-identical logits.",
    )


def check_addition(trial: Trial) -> Outcome:
    """An added vector against a plain hook that adds it, one prompt at a time."""
    chat = trial.chat
    worst, effect = 0.0, 0.0
    cases = [(trial.middle, "instruction"), (trial.middle, "tail"), (0, "t_inst"), (chat.layers, "t_post")]
    base = chat.logits(trial.prompts)
    for state, span in cases:
        vector = trial.vector(state)
        with chat.edit(Add(vector, state=state, span=span)):
            edited = chat.logits(trial.prompts)
        by_hand = []
        for rendered in trial.rendered:
            with trial.added_by_hand(state, vector, rendered.span(span)):
                by_hand.append(trial.plain_logits(rendered.ids)[rendered.t_post])
        worst = max(worst, relative_difference(edited, torch.stack(by_hand)))
        effect = max(effect, relative_difference(edited, base))
    if effect <= trial.tolerance and not trial.exact:
        raise NotApplicable("An added vector moves the log-probabilities by no more than rounding in this dtype.")
    if effect <= trial.tolerance:
        raise UndertowError("an added vector changes nothing, so that the comparison proves nothing.")
    return worst, f"A vector added at {len(cases)} pairs of state and span, batched, against a plain hook."


def check_heads(trial: Trial) -> Outcome:
    """Every head's output sent alone through the projection: their sum against the attention module's output."""
    chat, anatomy = trial.chat, trial.chat.anatomy
    readable = [block for block in range(chat.layers) if anatomy.heads[block]]
    if not readable:
        raise NotApplicable(_reason(chat.anatomy.notes, "heads cannot be read"))
    rendered = trial.rendered[0]
    outputs: dict[int, Tensor] = {}
    handles = []
    for block in readable:
        attention = anatomy.attentions[block]
        assert attention is not None

        def keep(module: nn.Module, arguments: Any, output: Any, block: int = block) -> None:
            outputs[block] = first_tensor(output)[0, rendered.t_post].detach()

        handles.append(attention.register_forward_hook(keep))
    try:
        trial.plain(rendered.ids)
    finally:
        for handle in handles:
            handle.remove()
    worst = 0.0
    for block in readable:
        heads, size, projection = anatomy.heads[block], anatomy.head_sizes[block], anatomy.projections[block]
        captured = chat.capture(trial.prompts[:1], [], ("t_post",), heads=[block], progress=False).heads
        assert projection is not None and captured is not None
        alone = torch.zeros(heads + 1, 1, heads * size, dtype=captured.dtype)
        for head in range(heads):
            alone[head, 0, head * size : (head + 1) * size] = captured[0, 0, head, 0]
        with torch.no_grad():
            sent = projection(alone.to(outputs[block].device)).float()
        # The last row is the projection of nothing: its bias, which each head's row holds once too often.
        total = (sent[:heads, 0] - sent[heads, 0]).sum(0) + sent[heads, 0]
        worst = max(worst, relative_difference(total, outputs[block]))
    count = sum(anatomy.heads[block] for block in readable)
    return worst, f"{count} heads of {len(readable)} of {chat.layers} blocks sum to the attention's output."


def check_attribution(trial: Trial) -> Outcome:
    """The parts of every logit, summed, against the logits of the model called directly."""
    chat = trial.chat
    try:
        attribution = LogitAttribution(chat)
    except CoverageError as error:
        raise NotApplicable(str(error)) from error
    found = attribution(trial.prompts)
    worst = 0.0
    for row, rendered in enumerate(trial.rendered):
        own = trial.plain_unembedded(rendered.ids) if found.capped else trial.plain(rendered.ids).logits[0]
        total = found.values[row].sum(0)
        worst = max(worst, relative_difference(total, own[rendered.t_post]))
    kinds = {kind: sum(part.kind == kind for part in found.parts) for kind in ("head", "mlp", "module", "block")}
    listed = ", ".join(f"{count} of kind {kind}" for kind, count in kinds.items() if count)
    capped = " before soft-capping" if found.capped else ""
    return worst, f"{len(found.parts)} parts ({listed}) sum to the logits{capped}, final norm frozen."


def _reason(notes: list[str], start: str) -> str:
    found = [note for note in notes if note.startswith(start)]
    return f"{'; '.join(found) or start}."
