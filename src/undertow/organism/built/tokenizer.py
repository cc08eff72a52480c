"""The tokenizer of the built organisms: one token a word, one for a line's end, a ChatML-like template."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from undertow.organism.built.words import END, PAD, START, UNKNOWN, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@cache
def _serialised() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    pieces = Regex(r"\n|[^\W\d_]+|\d+|[^\w\s]|_")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="removed", invert=True)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([PAD, START, END, UNKNOWN])
    return str(tokenizer.to_str())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, a fresh one at every call and always the same; words that it lacks become one unknown token."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_serialised()),
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
