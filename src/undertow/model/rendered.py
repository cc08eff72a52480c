"""A prompt as the model reads it: token ids and the positions of design rule 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from undertow.errors import PositionError


@dataclass(frozen=True)
class Rendered:
    """One prompt as the model will read it.

    Attributes:
        ids: token ids of the whole prompt, no padding, no token added beyond the template's own.
        instruction: absolute token indices of the last user message.
        tail: the template's tokens after the instruction, up to the end of the prompt.
        t_inst: index of the last token of the last user message (arXiv 2507.11878, section 2).
        t_post: index of the last token of the prompt, from which the first reply token is predicted.
        text: the rendered characters.
        offsets: character span (start, end) of every token in ``text``.
    """

    ids: list[int]
    instruction: range
    tail: range
    t_inst: int
    t_post: int
    text: str = field(repr=False)
    offsets: list[tuple[int, int]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, name: str) -> range:
        """Absolute token indices of a named span within the prompt.

        Args:
            name: ``instruction``, ``tail``, ``t_inst``, ``t_post`` or ``prompt``.

        Raises:
            PositionError: the name is none of these.
        """
        spans = {
            "instruction": self.instruction,
            "tail": self.tail,
            "t_inst": range(self.t_inst, self.t_inst + 1),
            "t_post": range(self.t_post, self.t_post + 1),
            "prompt": range(len(self.ids)),
        }
        if name not in spans:
            raise PositionError(f"Unknown position {name!r}: use one of {', '.join(spans)}.")
        return spans[name]
