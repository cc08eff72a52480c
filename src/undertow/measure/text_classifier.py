"""Any Hugging Face sequence classifier as a score of texts: the log-odds of one of its labels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from undertow.errors import ModelError

if TYPE_CHECKING:
    import torch

REFUSAL_LABELS: tuple[str, ...] = ("refusal", "refused", "refuse", "rejection", "rejected", "reject")
"""Usual names of the label that says a reply refuses."""

HARM_LABELS: tuple[str, ...] = (
    "unsafe",
    "harmful",
    "harm",
    "jailbreak",
    "injection",
    "malicious",
    "toxic",
    "toxicity",
)
"""Usual names of the label that says a text is harmful."""

_TOKENS = 8_192
_NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class TextClassifier:
    """A sequence classifier read at one label.

    score = log-odds of the label: its logit minus the log-sum-exp of all the others, in nats, so that 0 stands for
    probability 1/2; where labels do not exclude one another, or there is one only, it is the label's own logit.

    Texts longer than `longest` tokens are cut at the end that the tokenizer cuts (the last tokens, for most).

    Attributes:
        name: where it came from.
        label: the label that is scored.
        longest: most tokens of a text that are read, special tokens included; None where there is no limit.
        model, tokenizer: as transformers gave them.
        index: place of the label among the model's outputs.
        exclusive: whether exactly one label holds for a text.
    """

    name: str
    label: str
    longest: int | None
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    index: int
    exclusive: bool

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        label: str | None = None,
        usual: Sequence[str] = HARM_LABELS,
        device: str | torch.device | None = None,
    ) -> TextClassifier:
        """Open a checkpoint; no code of its own is ever run.

        Args:
            checkpoint: a folder or a Hub id.
            label: name of the label to score, case ignored; None takes the one label with a usual name.
            usual: names to look for where no label is given.
            device: where it runs; None is the GPU if there is one, else the CPU.

        Raises:
            ModelError: it cannot be loaded, has no trained classification head, has no such label, or none or several
                of its labels have a usual name.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        local = {"local_files_only": True} if (Path(checkpoint) / "config.json").is_file() else {}
        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, **local)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                checkpoint, output_loading_info=True, dtype="auto", **local
            )
        except Exception as error:
            raise ModelError(f"The text classifier {checkpoint!r} cannot be loaded: {first_sentence(error)}") from error
        if found["missing_keys"]:
            raise ModelError(
                f"{checkpoint!r} is no trained text classifier: it lacks {len(found['missing_keys'])} weights, such as "
                f"{min(found['missing_keys'])}, which would be random."
            )
        kind = getattr(model.config, "problem_type", None)
        if kind == "regression":
            raise ModelError(f"{checkpoint!r} predicts a number, not labels: give a classifier with labels.")
        labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        index = chosen_label(labels, label, usual, checkpoint)
        target = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            name=checkpoint,
            label=labels[index],
            longest=_longest(model, tokenizer),
            model=model.to(target).eval(),
            tokenizer=tokenizer,
            index=index,
            exclusive=len(labels) > 1 and kind != "multi_label_classification",
        )

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of every text, uncut."""
        return [len(ids) for ids in self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]] or []

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads, and cut."""
        return 0 if self.longest is None else sum(length > self.longest for length in self.lengths(texts))

    def scores(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Log-odds of the label, (n,) float64, in nats.

        Raises:
            ModelError: a text does not fit in memory, or a score is not a number.
        """
        import torch

        from undertow.model.batching import TokenBudget, run_batches

        listed = list(texts)
        found = np.empty(len(listed))
        if not listed:
            return found
        cut = {"truncation": True, "max_length": self.longest} if self.longest is not None else {}
        encoded = self.tokenizer(listed, verbose=False, **cut)
        columns = {name: encoded[name] for name in self.tokenizer.model_input_names if name in encoded}
        pads = self.tokenizer.pad_token_id is not None and self.model.config.pad_token_id is not None
        lengths = [len(ids) for ids in encoded["input_ids"]]

        def step(batch: list[int]) -> None:
            rows = [{name: values[place] for name, values in columns.items()} for place in batch]
            inputs = self.tokenizer.pad(rows, return_tensors="pt") if pads else _tensors(rows)
            with torch.no_grad():
                logits = self.model(**{name: value.to(self.model.device) for name, value in inputs.items()}).logits
            found[batch] = self._odds(logits.double().cpu())

        # A model without a padding token finds the end of a text only where it is alone.
        budget = TokenBudget(_TOKENS if pads else 1)
        for _ in run_batches(lengths, budget, step):
            pass
        if not np.isfinite(found).all():
            raise ModelError(f"Scores of the text classifier {self.name!r} are not numbers: load it in float32.")
        return found

    def _odds(self, logits: torch.Tensor) -> Any:
        import torch

        own = logits[:, self.index]
        if not self.exclusive:
            return own.numpy()
        others = torch.cat([logits[:, : self.index], logits[:, self.index + 1 :]], dim=1)
        return (own - torch.logsumexp(others, dim=1)).numpy()


def chosen_label(labels: Sequence[str], wanted: str | None, usual: Sequence[str], name: str) -> int:
    """Place of the wanted label, or of the only one with a usual name; case, spaces and dashes are ignored.

    Raises:
        ModelError: there is no such label; or none or several have a usual name, and the sentence lists them.
    """
    normal = [_normal(label) for label in labels]
    listed = ", ".join(labels)
    if wanted is not None:
        if normal.count(_normal(wanted)) != 1:
            raise ModelError(f"The text classifier {name!r} has no label {wanted!r}: its labels are {listed}.")
        return normal.index(_normal(wanted))
    named = [place for place, label in enumerate(normal) if label in {_normal(word) for word in usual}]
    if len(named) != 1:
        several = "several of them could be" if named else "none of them is certainly"
        raise ModelError(
            f"The text classifier {name!r} has the labels {listed}, and {several} the one that is meant: name it, as "
            f"in {name}#{labels[-1]}."
        )
    return named[0]


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's text, for a message of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z])", lines[0])[0] if lines else type(error).__name__
    return first[:300].rstrip(".") + "."


def _normal(label: str) -> str:
    return re.sub(r"[\s_-]+", "_", label.strip().lower())


def _tensors(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def _longest(model: Any, tokenizer: Any) -> int | None:
    """The least of what tokenizer, configuration and position embeddings allow."""
    limits: list[float] = [tokenizer.model_max_length or math.inf]
    configured = getattr(model.config, "max_position_embeddings", None)
    limits.append(configured if isinstance(configured, int) and configured > 0 else math.inf)
    for path, module in model.named_modules():
        # Where position embeddings have a padding row, the first positions are never given to a text.
        padding = getattr(module, "padding_idx", None)
        if path.endswith("position_embeddings") and padding is not None:
            limits.append(module.num_embeddings - padding - 1)
    shortest = min(limits)
    return int(shortest) if shortest < _NO_LIMIT else None
