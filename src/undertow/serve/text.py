"""From token ids to text while it is being generated: whole characters only, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TextStream:
    """The text of one reply as it grows.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        stop: texts before which the reply ends.

    Attributes:
        stopped: whether a stop text was met; nothing more comes then.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._pending: list[int] = []
        self._decoded = ""
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that can be told for certain with one more token; may be empty."""
        if self.stopped:
            return ""
        self._ids.append(token)
        self._pending.append(token)
        try:
            fresh = self._decoder.step(self._backend, token) or ""
        except Exception:
            # Bytes that make no character change how those before them read, which the library takes for an error.
            return self._release(self._begin_anew())
        if fresh:
            self._pending.clear()
        self._decoded += fresh
        return self._release(fresh)

    def finish(self) -> str:
        """What was held back, once no further token comes."""
        if self.stopped:
            return ""
        whole = self._decode(self._ids)
        rest = whole[len(self._decoded) :] if whole.startswith(self._decoded) else self._decode(self._pending)
        out = self._release(rest)
        if self.stopped:
            return out
        out, self._held = out + self._held, ""
        return out

    def _begin_anew(self) -> str:
        """The text of the tokens since the last that was told, and a decoder that knows of no others."""
        from tokenizers.decoders import DecodeStream

        self._ids, self._pending = self._pending, []
        self._decoder = DecodeStream(ids=self._ids, skip_special_tokens=True)
        self._decoded = self._decode(self._ids)
        return self._decoded

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _release(self, fresh: str) -> str:
        if not self._stop:
            return fresh
        text = self._held + fresh
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        # The end of the text may be the beginning of a stop text.
        held = max(
            (
                size
                for stop in self._stop
                for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
