"""What the benchmarks share: one random 12-layer Llama, prompts of a given length, interleaved timing."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from undertow.model import ChatModel

VOCABULARY = 4_096
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def benchmark_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: every letter of a prompt is one token. The rest of the vocabulary decodes to its own number.

    No text gives the numbered tokens, but a random model generates them, and replies can so be told apart.
    """
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    words += [f"[{index}]" for index in range(len(words), VOCABULARY)]
    tokenizer = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    return fast


def plain_llama(layers: int = 12, heads: int = 8, width: int = 512) -> LlamaForCausalLM:
    """A random Llama: 12 blocks, 8 heads of 64, float32.

    The vocabulary of 4,096 gives the unembedding the share of the cost that it has in an 8B model (6 %).
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def benchmark_llama(layers: int = 12, heads: int = 8, width: int = 512) -> ChatModel:
    """`plain_llama` opened by Undertow."""
    return ChatModel(plain_llama(layers, heads, width), benchmark_tokenizer(), name="benchmark-llama")


def words_of(letters: int, seed: int) -> str:
    """So many random letters, each of which is one token."""
    generator = torch.Generator().manual_seed(seed)
    return "".join(
        "abcdefghijklmnopqrstuvwxyz"[index] for index in torch.randint(0, 26, (letters,), generator=generator)
    )


def prompts_of(chat: ChatModel, tokens: int, count: int, seed: int = 0) -> list[str]:
    """Distinct prompts that render to exactly so many tokens."""
    overhead = len(chat.render("a")) - 1
    return [words_of(tokens - overhead, seed * 1_000 + index) for index in range(count)]


def timed(action: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(actions: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each action, taken in turn so that a slow spell of the machine hits all alike; one warm-up first."""
    for action in actions.values():
        action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            seconds[name].append(timed(action))
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, baseline: str) -> dict[str, float]:
    """Median, least and greatest of the paired ratios, and the ratio of the medians."""
    pairs = [a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)]
    return {
        "of_medians": statistics.median(seconds[name]) / statistics.median(seconds[baseline]),
        "median": statistics.median(pairs),
        "low": min(pairs),
        "high": max(pairs),
    }


def parser(description: str) -> argparse.ArgumentParser:
    """Flags that all benchmarks take."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--json", type=Path, default=None, help="also write the figures here")
    return made


def write_table(page: Path, name: str, text: str) -> None:
    """Put a table between a page's marks, `<!-- name: ... -->` and `<!-- end of name -->`."""
    marked = re.compile(rf"(<!-- {re.escape(name)}: .*? -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
    whole = page.read_text(encoding="utf-8")
    if not marked.search(whole):
        raise SystemExit(f"{page} has no marks for this table.")
    page.write_text(marked.sub(lambda match: match[1] + text + "\n" + match[2], whole), encoding="utf-8")


def finish(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write the figures where asked."""
    figures = {
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "machine": platform.machine(),
        **figures,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
