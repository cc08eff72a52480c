"""Where heads look, and what noise is added."""

from __future__ import annotations

import torch

from tests.organism.built.plain import organism, pairs, texts
from undertow.organism.built import Built
from undertow.organism.built.words import TOPICS


def attentions(built: Built, text: str) -> tuple[list[str], torch.Tensor]:
    """Tokens, and the attention of every head from the last one: (blocks, heads, tokens)."""
    built.model.set_attn_implementation("eager")
    try:
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        ids = built.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found = built.model(input_ids=ids, output_attentions=True).attentions
    finally:
        built.model.set_attn_implementation("sdpa")
    return list(built.tokenizer.convert_ids_to_tokens(ids[0].tolist())), torch.stack(
        [layer[0, :, -1] for layer in found]
    )


def test_heads_look_where_their_role_says() -> None:
    built = organism()
    salient = {word for topic in TOPICS for word in (*topic.sensitive, *topic.harmless, *topic.places)}
    for text in texts(pairs(6).sensitive):
        tokens, weights = attentions(built, text)
        words = [token in salient for token in tokens]
        assert sum(words) == 2
        looking = (*built.circuit.gates, *built.circuit.distractors["topic"], *built.circuit.distractors["cancelled"])
        assert all(weights[head][words].sum() > 0.9 and weights[head][words].min() > 0.25 for head in looking)
        itself = (*built.circuit.amplifiers, *built.circuit.distractors["constant"])
        assert all(weights[head][-1] > 0.99 for head in itself)
        roles = {*looking, *itself}
        free = [weights[block, head].max() for block in range(8) for head in range(8) if (block, head) not in roles]
        assert max(free) < 0.5


def test_noise_is_small_everywhere_and_smaller_in_heads_with_a_role() -> None:
    built, silent = organism(), organism(noise=0.0)
    circuit = built.circuit
    roles = {*circuit.causal, *(head for heads in circuit.distractors.values() for head in heads)}
    for block in range(8):
        for name in ("q_proj", "k_proj", "v_proj"):
            noisy, clean = (getattr(one.model.model.layers[block].self_attn, name).weight for one in (built, silent))
            for head in range(8):
                rows = slice(head * 32, head * 32 + 32)
                deviation = float((noisy - clean)[rows].std().detach())
                if (block, head) in roles:
                    continue
                assert float(clean[rows].abs().max()) == 0 and 0.045 < deviation < 0.055
    values = built.model.model.layers[circuit.gates[0][0]].self_attn.v_proj.weight
    index = circuit.gates[0][1]
    own = values[index * 32 : index * 32 + 32].detach()
    left = torch.linalg.svdvals(own)[1:].pow(2).sum().sqrt() / own.numel() ** 0.5
    assert 0.015 < float(left) < 0.025
