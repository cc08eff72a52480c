"""The gradient-based suffix search (GCG) itself, done by the nanoGCG library on the model at hand.

nanogcg is used because it is the only small GCG package on PyPI that takes any Hugging Face model. Its metadata pins an
old transformers, so it goes in without its dependencies; with transformers 5 it works once its prefix cache is off.

The library renders and tokenises piece by piece. Here it is handed a tokenizer that answers out of whole rendered
prompts instead: a suffix counts only where the rendered prompt holds exactly its tokens between those of the prompt, so
what the library optimises is what the model will read.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from undertow.errors import PositionError, UndertowError
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.model import ChatModel

LIBRARY = "nanogcg"
INSTALL = "pip install --no-deps nanogcg"
TOP = 256
"""Most tokens a place that candidates are drawn from, by gradient."""

_SLOT = "{optim_str}"
_BEFORE, _AFTER, _TARGET = "before", "after", "target"
_UNPRINTABLE = "\x00"


def check_suffix_library() -> str:
    """Return the library's version; call it before anything slow.

    Raises:
        UndertowError: it is not installed or does not load.
    """
    try:
        importlib.import_module(LIBRARY)
    except ImportError as error:
        raise UndertowError(
            f"The gradient-based suffix search needs the {LIBRARY} package ({error}): {INSTALL}."
        ) from error
    try:
        return importlib.metadata.version(LIBRARY)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Task:
    """One search.

    Attributes:
        chat: the model.
        prompt: the request that a suffix is put behind.
        join: what stands between the request and the suffix: nothing or a space.
        start: token ids of the suffix that the search begins with.
        target: token ids of the opening that the model shall reply with.
        vocabulary: what tokens a suffix may hold.
        steps, width: rounds, and candidates a round.
        seed: of the candidates.
        advance: called after every round.
    """

    chat: ChatModel
    prompt: Prompt
    join: str
    start: tuple[int, ...]
    target: tuple[int, ...]
    vocabulary: Vocabulary = field(repr=False)
    steps: int
    width: int
    seed: int
    advance: Callable[[int], None] = field(repr=False, default=lambda amount: None)


@dataclass(frozen=True)
class Found:
    """What a search returns.

    Attributes:
        text: the suffix, without `Task.join`.
        loss: mean cross-entropy of the target, in nats a token, as the library states it.
    """

    text: str
    loss: float


class Vocabulary:
    """Tokens that a suffix may hold: plain printable ASCII, no special or added token.

    Args:
        chat: the model.

    Attributes:
        size: rows of the embedding matrix.
        texts: (size,) text of every token, an unprintable character for those that are not allowed.
        allowed: ids of the allowed tokens, ascending.

    Raises:
        UndertowError: no token is allowed.
    """

    def __init__(self, chat: ChatModel) -> None:
        tokenizer = chat.tokenizer
        self.size = int(chat.model.get_input_embeddings().weight.shape[0])
        special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
        known = min(self.size, len(tokenizer))
        decoded = tokenizer.batch_decode([[index] for index in range(known)], clean_up_tokenization_spaces=False)
        self.texts = [
            text if index not in special and text.strip() and text.isascii() and text.isprintable() else _UNPRINTABLE
            for index, text in enumerate(decoded)
        ] + [_UNPRINTABLE] * (self.size - known)
        self.allowed = [index for index, text in enumerate(self.texts) if text != _UNPRINTABLE]
        if not self.allowed:
            raise UndertowError("The model's vocabulary holds no printable ASCII token, so no suffix can be made.")


def with_suffix(prompt: Prompt, suffix: str) -> Prompt:
    """Return the prompt with a text behind its last user message; label, category and the other messages stay."""
    messages = prompt.messages
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    messages[last]["content"] += suffix
    content: Any = messages[last]["content"] if isinstance(prompt.content, str) else tuple(messages)
    return Prompt(content, prompt.harmful, prompt.category, "gradient_suffix", prompt.style, prompt.language, prompt.id)


def rendered_ids(chat: ChatModel, prompt: Prompt, suffixes: Sequence[str]) -> list[tuple[list[int], int] | None]:
    """Token ids and t_inst of the prompt with each suffix; None where the template cannot take it."""
    attacked = [with_suffix(prompt, suffix) for suffix in suffixes]
    with contextlib.suppress(PositionError):
        return [(item.ids, item.t_inst) for item in chat.renderer.render_many(attacked)]
    found: list[tuple[list[int], int] | None] = []
    for item in attacked:
        try:
            rendered = chat.render(item)
            found.append((rendered.ids, rendered.t_inst))
        except PositionError:
            found.append(None)
    return found


class Frame:
    """The rendered prompt around its suffix.

    Args:
        chat: the model.
        prompt: the request.
        join: what stands between the request and the suffix.
        ids: token ids of a suffix that the rendered prompt is known to hold whole.

    Attributes:
        before, after: token ids around the suffix.

    Raises:
        UndertowError: the rendered prompt does not hold these tokens as its instruction's last.
    """

    def __init__(self, chat: ChatModel, prompt: Prompt, join: str, ids: Sequence[int]) -> None:
        self.chat, self.prompt, self.join = chat, prompt, join
        self._held: dict[str, list[int]] = {}
        rendered = rendered_ids(chat, prompt, [join + decode(chat, [ids])[0]])[0]
        whole, last = rendered or ([], -1)
        begin = last + 1 - len(ids)
        if begin < 1 or whole[begin : last + 1] != list(ids):
            raise UndertowError("A suffix does not keep its tokens in the rendered prompt: draw another one.")
        self.before, self.after = whole[:begin], whole[last + 1 :]

    def read(self, texts: Sequence[str]) -> None:
        """Tokenise suffixes in their place, together, for `ids`."""
        self._held.clear()
        for text, rendered in zip(
            texts, rendered_ids(self.chat, self.prompt, [self.join + text for text in texts]), strict=True
        ):
            ids = rendered[0] if rendered else []
            fits = ids[: len(self.before)] == self.before and ids[len(ids) - len(self.after) :] == self.after
            self._held[text] = ids[len(self.before) : len(ids) - len(self.after)] if fits else []

    def ids(self, text: str) -> list[int]:
        """The suffix's token ids in its place; empty where the tokens around it change."""
        if text not in self._held:
            self.read([text])
        return self._held[text]


def decode(chat: ChatModel, ids: Any) -> list[str]:
    """The text of each row of token ids."""
    return list(chat.tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False))


class PlacedTokenizer:
    """What the library sees of the tokenizer: it knows the names of the prompt's pieces, and suffixes in their place.

    Args:
        task: the search.
        frame: the rendered prompt around the suffix.
    """

    bos_token = bos_token_id = pad_token_id = unk_token_id = None
    chat_template = f"{_BEFORE}{_SLOT}{_AFTER}"

    def __init__(self, task: Task, frame: Frame) -> None:
        self._task, self._frame = task, frame
        self._pieces = {_BEFORE: frame.before, _AFTER: frame.after, _TARGET: list(task.target)}
        self.vocab_size = task.vocabulary.size
        self.eos_token_id = next((i for i, text in enumerate(task.vocabulary.texts) if text == _UNPRINTABLE), None)

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        """The template with named pieces instead of text."""
        return self.chat_template

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one token; unprintable where a suffix may not hold it."""
        return self._task.vocabulary.texts[ids[0]]

    def batch_decode(self, ids: Any) -> list[str]:
        """The texts of suffixes, which are tokenised in their place at once: the library does so one by one."""
        texts = decode(self._task.chat, ids)
        self._frame.read(texts)
        return texts

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any:
        """A named piece's ids, for a list of one name, or a suffix's ids in its place."""
        from transformers import BatchEncoding

        ids = self._frame.ids(text) if isinstance(text, str) else self._pieces[text[0]]
        return BatchEncoding({"input_ids": torch.tensor([ids], dtype=torch.int64)})


def search_with_library(task: Task) -> Found:
    """Run one search; the library's lines stay off the terminal, and its randomness out of ours.

    Raises:
        UndertowError: the library fails; its own first line is named.
    """
    check_suffix_library()
    library: Any = importlib.import_module(LIBRARY)
    frame = Frame(task.chat, task.prompt, task.join, task.start)
    settings = library.GCGConfig(
        num_steps=task.steps,
        optim_str_init=decode(task.chat, [task.start])[0],
        search_width=task.width,
        topk=min(TOP, len(task.vocabulary.allowed)),
        use_prefix_cache=False,
    )
    device = task.chat.device
    with (
        _quiet(task.advance),
        _frozen_objects(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(task.seed)
        try:
            result = library.run(task.chat.model, PlacedTokenizer(task, frame), _SLOT, _TARGET, settings)
        except Exception as error:
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise UndertowError(f"{LIBRARY} cannot attack this model: {line}") from error
    return Found(str(result.best_string), float(result.best_loss))


class _Rounds(logging.Handler):
    """Counts the library's rounds: it logs its buffer once before the first and once after each."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._advance, self._begun = advance, False

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("buffer:"):
            if self._begun:
                self._advance(1)
            self._begun = True


class _Sink(io.StringIO):
    """Swallows what the library writes, while a progress bar that asks for the real stream still finds it."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def _quiet(advance: Callable[[int], None]) -> Iterator[None]:
    logger = logging.getLogger(LIBRARY)
    before = (logger.handlers[:], logger.propagate, logger.level)
    logger.handlers[:], logger.propagate = [_Rounds(advance)], False
    try:
        with (
            contextlib.redirect_stdout(_Sink(sys.stdout)),
            contextlib.redirect_stderr(_Sink(sys.stderr)),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])


@contextlib.contextmanager
def _frozen_objects() -> Iterator[None]:
    """The library collects garbage every round; what lived before need not be looked through each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
