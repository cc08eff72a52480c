"""Make what every tool is given and checked against: ``python benchmarks/material.py FOLDER``.

Writes the random 12-layer Llama with its tokenizer, the prompts of all four tasks, and reference values computed with
plain transformers: one prompt at a time, hooks by hand, nothing padded. Undertow takes no part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import benchmark_tokenizer, plain_llama, words_of
from safetensors.torch import save_file
from torch import Tensor, nn

STATE = 6
TOKENS = 32
TOKENS_PER_BATCH = 1024


def entry(tokenizer: Any, text: str) -> dict[str, Any]:
    """One prompt with its token ids and both positions, found by looking for the token that ends the instruction."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    end = ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    return {"text": text, "rendered": rendered, "ids": ids, "t_inst": end - 1, "t_post": len(ids) - 1}


def batches_of(lengths: list[int], tokens: int) -> list[list[int]]:
    """Indices sorted by length and cut where a batch, padding included, would pass so many tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@contextmanager
def hooked(*hooks: Any) -> Iterator[None]:
    """Remove these hooks at the end."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def states_of(model: Any, ids: list[int]) -> tuple[Tensor, Tensor]:
    """All states (L + 1, tokens, d) of one prompt, and the last one after the final norm (tokens, d)."""
    last: list[Tensor] = []
    hook = model.model.layers[-1].register_forward_hook(
        lambda module, arguments, output: last.append(output if isinstance(output, Tensor) else output[0])
    )
    with hooked(hook), torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    return torch.cat([*hidden[:-1], last[0]]), hidden[-1][0]


def steered_reply(model: Any, ids: list[int], vector: Tensor) -> Tensor:
    """Greedy tokens under a vector added to every token's input of block STATE, without a cache."""

    def add(module: nn.Module, arguments: Any, keywords: Any) -> Any:
        if arguments:
            return (arguments[0] + vector, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": keywords["hidden_states"] + vector}

    hook = model.model.layers[STATE].register_forward_pre_hook(add, with_kwargs=True)
    grown = torch.tensor([ids])
    with hooked(hook), torch.no_grad():
        for _ in range(TOKENS):
            token = model(input_ids=grown, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
            grown = torch.cat([grown, token[:, None]], dim=1)
    return grown[0, len(ids) :]


def heads_of(model: Any, ids: list[int]) -> Tensor:
    """Every head's output (L, heads, head size) at the last token: slices of the output projection's input."""
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, arguments: found.append(arguments[0][0, -1].reshape(model.config.num_attention_heads, -1))
        )
        for layer in model.model.layers
    ]
    with hooked(*hooks), torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return torch.stack(found)


def interchanged(model: Any, ids: list[int], donors: Tensor) -> Tensor:
    """Log-probabilities (L x heads, vocabulary) of the last token with one head's output replaced, one pass a head."""
    rows = []
    for layer, block in enumerate(model.model.layers):
        for head in range(donors.shape[1]):
            part = slice(head * donors.shape[2], (head + 1) * donors.shape[2])

            def put(module: nn.Module, arguments: Any, layer: int = layer, head: int = head, part: slice = part) -> Any:
                changed = arguments[0].clone()
                changed[:, -1, part] = donors[layer, head]
                return (changed,)

            with hooked(block.self_attn.o_proj.register_forward_pre_hook(put)), torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
            rows.append(torch.log_softmax(logits.float(), -1))
    return torch.stack(rows)


def make(folder: Path, prompts: int, tokens: int) -> None:
    """Write the whole material."""
    tokenizer, model = benchmark_tokenizer(), plain_llama()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    settings = folder / "model" / "tokenizer_config.json"
    # transformers 5 names a class that the older releases which some peers need do not know.
    named = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(named, indent=2), encoding="utf-8")

    overhead = len(entry(tokenizer, "a")["ids"]) - 1
    lengths = torch.randint(32, 129, (prompts,), generator=torch.Generator().manual_seed(1)).tolist()
    counts = {
        "capture": lengths,
        "steering": [48, 50, 52, 54, 56, 58, 60, 62],
        "interchange": [tokens],
        "guard": [tokens] * 8,
    }
    items = {
        task: [entry(tokenizer, words_of(count - overhead, seed)) for seed, count in enumerate(values)]
        for task, values in counts.items()
    }
    donor = entry(tokenizer, words_of(tokens - overhead, 99))
    generator = torch.Generator().manual_seed(2)
    states, normed = [], []
    for item in items["capture"]:
        found, after = states_of(model, item["ids"])
        states.append(found[:, [item["t_inst"], item["t_post"]]])
        normed.append(after[[item["t_inst"], item["t_post"]]])
    vector = torch.randn(model.config.hidden_size, generator=generator) * 0.5
    replies = torch.stack([steered_reply(model, item["ids"], vector) for item in items["steering"]])
    if bool((replies == tokenizer.eos_token_id).any()):
        raise SystemExit("A reference reply ends early: take another seed.")
    donors = heads_of(model, donor["ids"])
    read = torch.stack([states_of(model, item["ids"])[0][STATE, item["t_inst"]] for item in items["guard"]])
    harmful, harmless = states[0][STATE, 0], states[1][STATE, 0]
    cosine = nn.functional.cosine_similarity
    values = {
        "states": torch.stack(states),
        "normed": torch.stack(normed),
        "vector": vector,
        "replies": replies,
        "donors": donors,
        "interchanged": interchanged(model, items["interchange"][0]["ids"], donors),
        "harmful": harmful,
        "harmless": harmless,
        "scores": cosine(read, harmful[None]) - cosine(read, harmless[None]),
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in values.items()}, folder / "values.safetensors")
    described = {
        "items": items,
        "batches": batches_of(lengths, TOKENS_PER_BATCH),
        "replies": tokenizer.batch_decode(replies, skip_special_tokens=True),
        "state": STATE,
        "tokens": TOKENS,
    }
    (folder / "material.json").write_text(json.dumps(described), encoding="utf-8")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("folder", type=Path)
    flags.add_argument("--prompts", type=int, default=16)
    flags.add_argument("--tokens", type=int, default=128, help="length of the prompts of interchange and guard")
    flags.add_argument("--threads", type=int, default=2)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    make(arguments.folder, arguments.prompts, arguments.tokens)


if __name__ == "__main__":
    main()
