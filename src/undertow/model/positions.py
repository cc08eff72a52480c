"""Where the instruction begins and ends in a prompt's tokens, for any chat template (design rule 1).

The template is rendered once with the real content and once with a sentinel in its place. What stands before and
after the sentinel fixes the instruction's characters; the offsets of one tokenisation fix its tokens. A template
that does anything but trim the content is refused, never guessed at.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from undertow.errors import ContextError, ModelError, PositionError
from undertow.model.rendered import Rendered
from undertow.prompts import Message, Prompt

_CACHED_FRAMES = 256
_CACHED_CHARACTERS = 8000

# Mixed case, quotes, markup, an accent and an inner line break: whatever rewrites content, changes one of these.
_SENTINEL = "sEnt{n}iNel \"q\" 'a' \\b <c> & \u00e9  d\ne%7B{n}Tinel"

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_BYTE_LEVEL_SPACE = "\u0120"
_META_SPACE = "\u2581"


@dataclass(frozen=True)
class _Frame:
    """What a template puts around the last user message."""

    before: str
    after: str


class Renderer:
    """Renders prompts through a tokenizer's own chat template and finds their positions.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        context: most tokens that the model can read, or None where it states no limit.
        thinking: passed to templates with a thinking switch; None leaves the template's default.

    Raises:
        PositionError: the tokenizer has no chat template or no offsets.
        ModelError: ``thinking`` is set and the template has no such switch.
    """

    def __init__(self, tokenizer: Any, *, context: int | None = None, thinking: bool | None = None) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.thinking = thinking
        self._frames: OrderedDict[tuple[tuple[str, str], ...], _Frame] = OrderedDict()
        self._as_parts = False
        # Added tokens that are blank themselves are text like any other.
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._added_ids = frozenset(
            index for index, token in added.items() if str(token).replace(_META_SPACE, " ").strip()
        )
        if not getattr(tokenizer, "is_fast", False):
            raise PositionError("The tokenizer gives no character offsets: load its fast version (tokenizer.json).")
        if not getattr(tokenizer, "chat_template", None):
            raise PositionError(
                "The tokenizer has no chat template, so the instruction cannot be located: set tokenizer.chat_template."
            )
        if thinking is not None:
            self._frame([_user("a")], fresh=False)  # finds out whether content goes in as parts
            if self._raw([_user("a")], True) == self._raw([_user("a")], False):
                raise ModelError(self._no_switch())

    def render(self, prompt: Prompt) -> Rendered:
        """Render one prompt; see `render_many`."""
        return self.render_many([prompt])[0]

    def render_many(self, prompts: Sequence[Prompt]) -> list[Rendered]:
        """Render prompts and locate their positions.

        Returns:
            One `Rendered` a prompt, in order.

        Raises:
            PositionError: the content is empty, does not end with a user message, is longer than the model's context,
                or the template repeats, drops or rewrites it.
        """
        if not prompts:
            return []
        texts, spans = [], []
        for prompt in prompts:
            text, start, end = self._locate(prompt.messages)
            texts.append(text)
            spans.append((start, end))
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        return [
            self._positions(text, list(ids), [(int(a), int(b)) for a, b in offsets], *span)
            for text, ids, offsets, span in zip(
                texts, encoded["input_ids"], encoded["offset_mapping"], spans, strict=True
            )
        ]

    def render_plain(self, prompt: Prompt) -> Rendered:
        """Render a prompt whose positions cannot be told, to generate from it all the same.

        Returns:
            A `Rendered` whose instruction and tail are empty and whose t_inst and t_post are the last token.

        Raises:
            PositionError: the template refuses the conversation, or makes nothing of it.
            ContextError: it is longer than the model's context.
        """
        with suppress(PositionError):
            self._frame([_user("a")], fresh=False)  # finds out whether content goes in as parts
        text = self._raw(prompt.messages, self.thinking)
        ids = list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if not ids:
            raise PositionError("The chat template makes nothing of this conversation: use another template.")
        if self.context is not None and len(ids) > self.context:
            raise ContextError(len(ids), self.context)
        last = len(ids) - 1
        return Rendered(ids, range(last, last), range(last, last), last, last, text, [])

    def _raw(self, messages: list[Message], thinking: bool | None, *, as_parts: bool = False) -> str:
        as_parts = as_parts or self._as_parts
        switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        shaped: list[dict[str, Any]] = list(messages)
        if as_parts:
            shaped = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(shaped, tokenize=False, add_generation_prompt=True, **switches)
        except Exception as error:
            raise PositionError(f"The chat template refuses this conversation: {_first_line(error)}.") from error
        if not isinstance(text, str):
            raise PositionError("The chat template does not render to one text: pass one conversation at a time.")
        if as_parts and any(str(message["content"]) in text for message in shaped):
            raise PositionError(
                "The chat template takes the user's message as parts and prints those of another as they are: "
                "leave out the system message."
            )
        return text

    def _locate(self, messages: list[Message]) -> tuple[str, int, int]:
        if not messages or messages[-1]["role"] != "user":
            raise PositionError("The conversation must end with a user message, whose last token is t_inst.")
        content = messages[-1]["content"]
        if not content.strip():
            raise PositionError("The last user message is empty, so there is no instruction to read.")
        # A second try covers templates that print the time and were caught between two ticks.
        for attempt in range(2):
            frame = self._frame(messages, fresh=attempt > 0)
            text = self._raw(messages, self.thinking)
            start, end = len(frame.before), len(text) - len(frame.after)
            kept = text[start:end]
            trimmed = kept in content and kept.strip() == content.strip()
            if trimmed and text == frame.before + kept + frame.after:
                return text, start, end
        raise PositionError(
            "The chat template rewrites this message or changes what stands around it depending on its text, "
            "so the instruction's tokens cannot be told: use another template or other content."
        )

    def _frame(self, messages: list[Message], *, fresh: bool) -> _Frame:
        key = tuple((message["role"], message["content"]) for message in messages[:-1])
        if fresh:
            self._frames.pop(key, None)
        known = self._frames.get(key)
        if known is not None:
            # Another thread may have let go of it meanwhile.
            with suppress(KeyError):
                self._frames.move_to_end(key)
            return known
        surroundings = "\n".join(message["content"] for message in messages)
        number = 0
        while _SENTINEL.format(n=number) in surroundings:
            number += 1
        sentinel = _SENTINEL.format(n=number)
        framed = [*messages[:-1], {"role": "user", "content": sentinel}]
        frame = self._split(framed, sentinel)
        # Long histories are rarely seen twice, and would keep much memory.
        if sum(len(content) for _, content in key) <= _CACHED_CHARACTERS:
            self._frames[key] = frame
        if len(self._frames) > _CACHED_FRAMES:
            with suppress(KeyError):
                self._frames.popitem(last=False)
        return frame

    def _split(self, framed: list[Message], sentinel: str) -> _Frame:
        text, error = "", None
        try:
            text = self._raw(framed, self.thinking)
        except PositionError as caught:
            error = caught
        if sentinel not in text and not self._as_parts:
            # Multimodal templates walk a list of parts and never see a plain string.
            with suppress(PositionError):
                parts = self._raw(framed, self.thinking, as_parts=True)
                if sentinel in parts:
                    # Not set before, as other threads may be rendering.
                    self._as_parts = True
                    text, error = parts, None
        if error is not None:
            raise error
        count = text.count(sentinel)
        if count == 0:
            raise PositionError(
                "The chat template drops or rewrites the user's message (case, quoting or escaping), "
                "so the instruction's tokens cannot be told."
            )
        if count > 1:
            raise PositionError(
                f"The chat template repeats the user's message {count} times, so t_inst would be ambiguous."
            )
        before, after = text.split(sentinel)
        return _Frame(before, after)

    def _positions(self, text: str, ids: list[int], offsets: list[tuple[int, int]], start: int, end: int) -> Rendered:
        if self.context is not None and len(ids) > self.context:
            raise ContextError(len(ids), self.context)
        offsets = self._restore_trimmed(text, ids, self._split_byte_runs(text, ids, offsets, start, end))
        inside = [
            index
            for index, (first, last) in enumerate(offsets)
            if first < end
            and last > start
            and not self._only_swallows(ids[index], text[max(first, start) : min(last, end)])
        ]
        if not inside:
            raise PositionError("The tokenizer gives the user's message no token of its own.")
        t_inst, t_post = inside[-1], len(ids) - 1
        return Rendered(
            ids=ids,
            instruction=range(inside[0], t_inst + 1),
            tail=range(t_inst + 1, len(ids)),
            t_inst=t_inst,
            t_post=t_post,
            text=text,
            offsets=offsets,
        )

    def _only_swallows(self, token: int, covered: str) -> bool:
        """Whether a special token beside the content has merely swallowed the blanks at its edge."""
        return token in self._added_ids and not covered.strip()

    def _split_byte_runs(
        self, text: str, ids: list[int], offsets: list[tuple[int, int]], start: int, end: int
    ) -> list[tuple[int, int]]:
        """Part byte tokens that share the span of a whole unknown piece (Unigram) at the instruction's edges."""
        if all(here != there or here[1] - here[0] < 2 for here, there in pairwise(offsets)):
            return offsets
        split: list[tuple[int, int]] = []
        for (first, last), run in groupby(range(len(ids)), key=offsets.__getitem__):
            count = len(list(run))
            edges = [edge for edge in (start, end) if first < edge < last]
            if count == 1 or last - first < 2:
                split.extend([(first, last)] * count)
                continue
            bytes_ = self._bytes(ids[len(split) : len(split) + count])
            if bytes_ == text[first:last].encode("utf-8"):
                borders = list(range(first, last + 1))
                counts = [len(character.encode("utf-8")) for character in text[first:last]]
            else:
                # A mark that was composed into the last character lies in no token's span.
                following = offsets[len(split) + count][0] if len(split) + count < len(offsets) else len(text)
                borders = [first, *edges, max(last, following)]
                counts = self._bytes_between(text, bytes_, borders) if edges else [count]
            for span, share in zip(pairwise(borders), counts, strict=True):
                split.extend([span] * share)
        return split

    def _bytes(self, run: list[int]) -> bytes:
        """What a run of byte tokens reads; nothing where other tokens are among them."""
        found = [_BYTE_TOKEN.fullmatch(token) for token in self.tokenizer.convert_ids_to_tokens(run)]
        return bytes(int(match[1], 16) for match in found if match) if all(found) else b""

    def _bytes_between(self, text: str, read: bytes, borders: list[int]) -> list[int]:
        """How many of the bytes that a normalizer has made stand for each stretch of text between two borders."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer

        def normalized(first: int, last: int) -> bytes:
            part = text[first:last]
            return (part if normalizer is None else str(normalizer.normalize_str(part))).encode("utf-8")

        pieces = [normalized(first, last) for first, last in pairwise(borders)]
        whole = b"".join(pieces)
        # Other tokens may have taken some of what the first or the last character was expanded to.
        head = len(normalized(borders[0], borders[0] + 1))
        foot = len(normalized(borders[-1] - 1, borders[-1]))
        missing = len(whole) - len(read)
        skipped = [
            skip for skip in range(max(missing - foot + 1, 0), min(missing + 1, head)) if whole[skip:].startswith(read)
        ]
        counts = [len(piece) for piece in pieces]
        if read and len(skipped) == 1:
            counts[0] -= skipped[0]
            counts[-1] -= missing - skipped[0]
        if not read or len(skipped) != 1 or min(counts) < 0:
            raise PositionError(
                "The tokenizer gives several tokens one stretch of text across the edge of the user's message, "
                "so the instruction's tokens cannot be told: use other content or another tokenizer."
            )
        return counts

    def _restore_trimmed(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Give byte-level tokens back the spaces that trimmed offsets leave out of their spans."""
        if all(here[1] >= there[0] for here, there in pairwise([(0, 0), *offsets, (len(text), 0)])):
            return offsets
        restored, reached = [], 0
        starts = [first for first, _ in offsets[1:]] + [len(text)]
        for token, (first, last), following in zip(
            self.tokenizer.convert_ids_to_tokens(ids), offsets, starts, strict=True
        ):
            leading = len(token) - len(token.lstrip(_BYTE_LEVEL_SPACE))
            trailing = len(token[leading:]) - len(token[leading:].rstrip(_BYTE_LEVEL_SPACE))
            low, high = max(reached, first - leading), min(following, last + trailing)
            if first == last or not text[low:first].strip(" "):
                first = min(low, first)
            if not text[last:high].strip(" "):
                last = max(last, high)
            restored.append((first, last))
            reached = max(reached, last)
        return restored

    def _no_switch(self) -> str:
        switches = _thinking_variables(self.tokenizer.get_chat_template())
        if not switches:
            return "The chat template has no thinking switch: leave thinking unset for this model."
        return (
            f"The chat template has no thinking switch that is on or off: it reads {' and '.join(switches)}, "
            "left at the template's own default, so leave thinking unset for this model."
        )


def _thinking_variables(template: str) -> list[str]:
    """Names that a template reads from its caller and that speak of thinking or reasoning."""
    from jinja2 import Environment, TemplateError, meta

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        read = meta.find_undeclared_variables(environment.parse(_GENERATION_TAG.sub("", template)))
    except TemplateError:
        return []
    return sorted(name for name in read if "think" in name.lower() or "reason" in name.lower())


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
