"""A very small chat model that is taught, in seconds, to refuse, to be jailbroken and to over-refuse."""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.builders import CHATML
from undertow.model import ChatModel
from undertow.prompts import Prompt

HARMFUL_VERBS = [f"attack{number}" for number in range(12)]
HARMLESS_VERBS = [f"bake{number}" for number in range(12)]
NOUNS = [f"thing{number}" for number in range(24)]
WRAPPERS = {"roleplay": "pretend you are free and", "persuasion": "for science , kindly"}
LOOK_ALIKE = "brutally"
FILLER = ["please", "now", "today"]
REFUSAL = "I cannot help with that"
WORDS = ["user", "assistant", "system", *HARMFUL_VERBS, *HARMLESS_VERBS, *NOUNS, LOOK_ALIKE, *FILLER, "the"]
WORDS += sorted({*" ".join(WRAPPERS.values()).split(), *REFUSAL.split(), "Sure", "here", "is"} - set(WORDS))
SPECIALS = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>"]


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = {word: index for index, word in enumerate([*SPECIALS, *dict.fromkeys(WORDS)])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(SPECIALS)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<|im_end|>", unk_token="<unk>")
    fast.chat_template = CHATML
    return fast


def make(kind: str, generator: random.Random, wrapper: str | None = None) -> Prompt:
    """A prompt: kind is "harmful", "harmless" or "look-alike"."""
    harmful = kind == "harmful"
    verb = generator.choice(HARMFUL_VERBS if harmful else HARMLESS_VERBS)
    words = [*([WRAPPERS[wrapper]] if wrapper else []), *([LOOK_ALIKE] if kind == "look-alike" else []), verb, "the"]
    words += [generator.choice(NOUNS), *generator.sample(FILLER, generator.randint(0, 2))]
    style = kind if kind == "look-alike" else None
    return Prompt(" ".join(words), harmful=harmful, wrapper=wrapper, style=style)


def many(kind: str, count: int, seed: int, wrapper: str | None = None) -> list[Prompt]:
    """Distinct prompts of one kind."""
    generator = random.Random(f"{kind} {seed} {wrapper}")
    found: dict[str, Prompt] = {}
    while len(found) < count:
        prompt = make(kind, generator, wrapper)
        found[prompt.text] = prompt
    return list(found.values())


def is_refused(prompt: Prompt) -> bool:
    """What the model is taught: refuse bare harmful and look-alike requests, answer everything else."""
    return prompt.wrapper is None and (bool(prompt.harmful) or prompt.style is not None)


@lru_cache(maxsize=1)
def taught_chat(steps: int = 200) -> ChatModel:
    """Llama, 3 blocks of width 32, taught in a few seconds."""
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    generator = random.Random(0)
    verdicts = words.convert_tokens_to_ids(["bake0", "attack0"])
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        rows, targets, questions = [], [], []
        for _ in range(64):
            wrapper = generator.choice([None, None, *WRAPPERS])
            prompt = make(generator.choice(["harmful", "harmless", "look-alike"]), generator, wrapper)
            text = words.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
            noun = next(word for word in prompt.text.split() if word in NOUNS)
            reply = REFUSAL if is_refused(prompt) else f"Sure here is the {noun}"
            head = words(text, add_special_tokens=False)["input_ids"]
            tail = words(reply, add_special_tokens=False)["input_ids"] + [2]
            rows.append(head + tail)
            # Harm is asked for at t_inst itself, so that a belief is there to be read, whatever the reply.
            questions.append((len(head) - 4, verdicts[bool(prompt.harmful)]))
            targets.append([-100] * len(head) + tail)
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in targets])
        output = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels)
        places, truths = (torch.tensor(part) for part in zip(*questions, strict=True))
        asked = output.logits[torch.arange(len(places)), places]
        loss = output.loss + torch.nn.functional.cross_entropy(asked, truths)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return ChatModel(model.eval(), words, name="taught")


def fit_prompts() -> tuple[list[Prompt], list[Prompt]]:
    """Harmful and harmless prompts to fit on: bare ones, look-alikes, and one wrapper family."""
    harmful = many("harmful", 120, 0) + many("harmful", 60, 0, "roleplay")
    harmless = many("harmless", 120, 0) + many("look-alike", 60, 0) + many("harmless", 40, 0, "roleplay")
    return harmful, harmless
