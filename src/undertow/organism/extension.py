"""Further words for an organism: a tokenizer that knows more, and the weights of another organism to go on from."""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.organism import german_lexicon, german_stems, lexicon, stems
from undertow.organism.bilingual import CIPHER, BilingualItemMaker
from undertow.organism.german import with_zu
from undertow.organism.grammar import stems_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 8192
NEW_ROW_SCALE = 0.3
"""Spread of new embedding rows, relative to that of the old ones."""
MEANING_SCALE = 0.5
"""How much of the English row a new word begins with. Less than all of it: rows also write, and English is to win."""
GERMAN_TIMES, ENCODED_TIMES = 40, 15
"""How often the tokenizer reads the list of all words, besides 12,000 items; German compounds are long."""


def further_merges(words: dict[str, list[str]], counts: dict[str, int], known: set[str], new: int) -> list[list[str]]:
    """Byte-pair merges that go on where a tokenizer ends.

    Args:
        words: each word and the tokens that it has so far.
        counts: how often each word occurs.
        known: the tokens that exist.
        new: how many tokens to add.

    Returns:
        Pairs of tokens to merge, in order; ties go to the pair that comes first in the alphabet.
    """
    tokens = {word: list(pieces) for word, pieces in words.items()}
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[str]] = defaultdict(set)
    for word, pieces in tokens.items():
        for pair in pairwise(pieces):
            pairs[pair] += counts[word]
            where[pair].add(word)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[list[str]] = []
    known = set(known)
    while new > 0 and heap:
        count, best = heapq.heappop(heap)
        if pairs[best] != -count or not count:
            continue
        merges.append(list(best))
        joined = "".join(best)
        new -= joined not in known
        known.add(joined)
        touched: set[tuple[str, str]] = set()
        for word in sorted(where.pop(best)):
            old = tokens[word]
            merged: list[str] = []
            for piece in old:
                if merged and (merged[-1], piece) == best:
                    merged[-1] = joined
                else:
                    merged.append(piece)
            for sign, pieces in ((-1, old), (1, merged)):
                for pair in pairwise(pieces):
                    pairs[pair] += sign * counts[word]
                    touched.add(pair)
                    if sign > 0:
                        where[pair].add(word)
            tokens[word] = merged
        for pair in touched:
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
    return merges


def extended_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """An organism's tokenizer with further merges, learned on texts; all old tokens keep their number.

    Args:
        folder: the organism's folder.
        texts: what to learn from.
        vocabulary: number of tokens, old and new.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    backend = tokenizer.backend_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    words = {word: [token.value for token in backend.model.tokenize(word)] for word in counts}
    state = json.loads(backend.to_str())
    known: dict[str, int] = state["model"]["vocab"]
    for merge in further_merges(words, counts, set(known), vocabulary - len(known)):
        state["model"]["merges"].append(merge)
        known.setdefault("".join(merge), len(known))
    extended: Any = type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        model_max_length=tokenizer.model_max_length,
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    extended.chat_template = tokenizer.chat_template
    return extended


def _english() -> list[str]:
    """All words that may stand in a request, in their stems."""
    english = [o for c in lexicon.CATEGORIES for o in (*c.dangerous, *c.protective)]
    verbs = [v for c in lexicon.CATEGORIES for v in (*c.constructive, *c.destructive)]
    verbs += [*lexicon.NEUTRAL_VERBS, *(v for field in lexicon.EVERYDAY for v in field.verbs)]
    english += [form for verb in dict.fromkeys(verbs) for form in (verb, lexicon.gerund(verb))]
    english += [o for field in lexicon.EVERYDAY for o in field.objects]
    english += [*stems_of("all"), *stems.OPENINGS, *stems.ENDINGS, *stems.SETTINGS, *stems.SMALL_TALK]
    return english


def _corpus() -> Iterator[str]:
    """Items of the three surfaces, and all their words; held-out ones too, since a tokenizer only spells."""
    maker = BilingualItemMaker(0)
    for _ in range(12_000):
        item = maker.draw()
        yield item.content
        yield item.reply
    german = [*german_lexicon.objects().values(), *german_lexicon.TOPICS.values()]
    german += [verb.format("X") for verb in german_lexicon.VERBS.values()]
    german += [with_zu(phrase) for phrase in german[-len(german_lexicon.VERBS) :]]
    german += [*german_stems.STEMS, *german_stems.OPENINGS, *german_stems.ENDINGS, *german_stems.SETTINGS]
    german += [*german_stems.SMALL_TALK]
    german = [text.replace("{vp}", "").replace("{zu}", "") for text in german]
    encoded = [CIPHER.encode(text.format(vp="", ing="", object="", it="")) for text in _english()]
    for words, times in ((german, GERMAN_TIMES), (encoded, ENCODED_TIMES)):
        for _ in range(times):
            yield from (f" {text}" for text in words)


def bilingual_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the organism `bilingual`, from that of the organism it goes on from."""
    return extended_tokenizer(folder, _corpus())


def meanings() -> list[tuple[str, str]]:
    """New words and the English words that they stand for, German and ciphered."""
    found: list[tuple[str, str]] = []
    for (_, english), german in german_lexicon.objects().items():
        ours, theirs = german.split()[1:], english.split()[1:] or [english]
        if len(ours) == len(theirs):
            found += zip(ours, theirs, strict=True)
        else:
            found += [(word, " ".join(theirs)) for word in ours if word[0].isupper()]
    found += [(verb.split()[-1], english) for english, verb in german_lexicon.VERBS.items()]
    words = {word for text in _english() for word in re.findall(r"[a-z]+", text.lower())}
    return found + [(CIPHER.encode(word), word) for word in sorted(words)]


def continued(
    folder: Path, name: str, tokenizer: Any, seed: int, known: Iterable[tuple[str, str]] = ()
) -> torch.nn.Module:
    """An organism's model for a larger vocabulary.

    Embedding rows of old tokens are copied. The row of a new token is random around a mean: of the rows of the English
    words for which the known words stand that hold it, or of all rows where it is in none.

    Args:
        folder: the organism to go on from.
        name: name of the new organism's recipe, which its configuration keeps.
        tokenizer: the larger tokenizer.
        seed: seed of the new rows.
        known: new words and what they stand for, such as `meanings`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    old: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    before = AutoTokenizer.from_pretrained(folder).get_vocab()
    weights = old.state_dict()
    rows = weights["model.embed_tokens.weight"]
    generator = torch.Generator().manual_seed(seed)
    noise = NEW_ROW_SCALE * rows.std(dim=0) * torch.randn(len(tokenizer), rows.shape[1], generator=generator)
    wide = rows.mean(dim=0).repeat(len(tokenizer), 1)
    hints: dict[int, list[torch.Tensor]] = defaultdict(list)
    for word, meaning in known:
        ids = [number for number in _ids(tokenizer, meaning) if number < len(before)]
        for number in _ids(tokenizer, word) if ids else ():
            hints[number].append(rows[ids].mean(dim=0))
    for number, vectors in hints.items():
        wide[number] = MEANING_SCALE * torch.stack(vectors).mean(dim=0)
    wide += noise
    wide[: len(before)] = rows
    old.config.vocab_size = len(tokenizer)
    old.config.organism = name
    model = LlamaForCausalLM(old.config)
    model.load_state_dict({**weights, "model.embed_tokens.weight": wide, "lm_head.weight": wide})
    model.tie_weights()
    return model.train()


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text behind a space."""
    ids: list[int] = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    return ids
