"""The organism's tokenizer: byte-level BPE trained on its own language, with a ChatML-like chat template."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from undertow.organism import lexicon, stems
from undertow.organism.grammar import INVERSION_WORDINGS
from undertow.organism.items import (
    IDENTITY,
    ORDINAL_WORDINGS,
    PLACEHOLDER,
    SAFETY_WORDINGS,
    SMALL_EXCHANGES,
    TOPIC_WORDINGS,
    ItemMaker,
)
from undertow.prompts import Prompt
from undertow.prompts.wrappers import parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
VOCABULARY = 4096
CONTEXT = 1024

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(messages: Sequence[dict[str, str]], reply: str | None = None) -> str:
    """The conversation as the chat template writes it, with the generation prompt, and the reply where one is given."""
    text = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages) + f"{START}assistant\n"
    return text if reply is None else f"{text}{reply}{END}"


def _corpus(written: Sequence[Prompt]) -> Iterable[str]:
    """All words of the language, in their sentences; held-out words too, since a tokenizer only spells."""
    maker = ItemMaker(0, written)
    for _ in range(30000):
        item = maker.draw()
        yield item.content
        yield item.reply
    generator = random.Random(0)
    words = [
        o for c in lexicon.CATEGORIES for o in (*c.dangerous, *c.protective, *c.constructive, *c.destructive, c.title)
    ]
    words += [w for field in lexicon.EVERYDAY for w in (*field.objects, *field.verbs, field.name)]
    words += [lexicon.gerund(w) for c in lexicon.CATEGORIES for w in (*c.constructive, *c.destructive)]
    for kind in (
        "persona",
        "name",
        "adjective",
        "character",
        "manner",
        "role",
        "purpose",
        "plea",
        "fragment",
        "symbol",
    ):
        words += parts(kind)
    words += [
        text.replace("{", "").replace("}", "")
        for text in (*stems.STEMS, *parts("role_play_frame"), *parts("persuasion_frame"))
    ]
    words += [
        *stems.OPENINGS,
        *stems.ENDINGS,
        *stems.SETTINGS,
        *stems.SMALL_TALK,
        *stems.SYSTEM_PROMPTS,
        IDENTITY,
        PLACEHOLDER,
    ]
    words += [
        *INVERSION_WORDINGS["train"],
        *INVERSION_WORDINGS["test"],
        *SAFETY_WORDINGS,
        *TOPIC_WORDINGS,
        *ORDINAL_WORDINGS,
    ]
    words += ["system\n", "user\n", "assistant\n"] * 20
    words += [text for users, reply in SMALL_EXCHANGES for text in (*users, reply)] + [
        prompt.text for prompt in written
    ]
    for _ in range(40):
        generator.shuffle(words)
        yield from (" " + word for word in words)
        yield from words
        yield from (word[:1].upper() + word[1:] for word in words)


def train_tokenizer(written: Sequence[Prompt] = (), vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Trains the tokenizer; the same words give the same tokenizer.

    Args:
        written: further prompts whose words it should know (the whole built-in set).
        vocabulary: number of tokens, special ones included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(written), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
