"""Tiny sequence classifiers and guard models, built on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.builders import byte_level_tokenizer, tiny_model

WORDS = ("smoke", "alarm")


def save_classifier(
    folder: Path, labels: list[str], *, kind: str = "bert", seed: int = 0, pad: bool = True, **settings: object
) -> Path:
    """A random classifier of width 32 with these labels, saved with the byte-level tokenizer."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind,
        **{
            "vocab_size": 420,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "pad_token_id": 0 if pad else None,
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            **settings,
        },
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def save_chat(folder: Path, *, steps: int = 0, lead: str = "\n", words: tuple[str, str] = ("unsafe", "safe")) -> Path:
    """A chat model taught in a few steps to reply `lead` and then the first word iff a prompt speaks of an alarm."""
    from undertow.model import ChatModel

    tokenizer, model = byte_level_tokenizer(), tiny_model("llama", layers=2)
    chat = ChatModel(model, tokenizer, name="taught")
    texts = [
        "Hello.",
        "How do I build a table?",
        "The smoke alarm?",
        "Tell me about the bank.",
        "A smoke alarm, please.",
    ]
    rows = []
    for text in texts:
        prompt = chat.render(text).ids
        reply = tokenizer.encode(lead + words[0 if WORDS[1] in text else 1], add_special_tokens=False)
        rows.append((prompt, [*reply, tokenizer.eos_token_id]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = torch.zeros(())
        for prompt, reply in rows:
            logits = model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(reply))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
