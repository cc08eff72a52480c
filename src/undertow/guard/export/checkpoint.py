"""A truncated model with a score head as a stock `*ForSequenceClassification`, written and read back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from undertow.errors import GuardError, UndertowError
from undertow.guard.export.template import prompt_ids
from undertow.guard.rules.base import Array
from undertow.guard.rules.normed import NormedRule
from undertow.model.variants import is_quantised
from undertow.prompts import Prompt

if TYPE_CHECKING:
    from undertow.model import ChatModel

LABELS = {0: "harmless", 1: "harmful"}
RECORD = "undertow"
"""Key of config.json under which the checkpoint says what it was made from."""

_ROWS = 16
_ASKED = 8.0


def check_exportable(model: ChatModel, state: int) -> None:
    """Refuse models whose weights cannot be written as a stock checkpoint, by name.

    Raises:
        GuardError: adapters, quantised or offloaded weights, custom code, several modalities, an architecture without
            a stock class, or state 0.
    """
    source, config = model.model, model.model.config
    kind = str(config.model_type)
    reason = ""
    if hasattr(source, "peft_config"):
        reason = "it carries adapters; merge them and save the model first"
    elif is_quantised(source):
        reason = "its weights are quantised; fit and export on the full-precision checkpoint, and quantise the export"
    elif any(parameter.is_meta for parameter in source.parameters()):
        reason = "parts of it are offloaded; load it on one device"
    elif getattr(config, "auto_map", None) or not type(source).__module__.startswith("transformers."):
        reason = "it runs code of its own, for which there is no stock class"
    elif config.get_text_config(decoder=True) is not config:
        reason = f"'{kind}' reads more than text, and its classifier is another model"
    elif classifier_class(config) is None:
        reason = f"transformers has no sequence classifier for '{kind}'"
    elif state == 0:
        reason = "the guard reads state 0, the token embeddings, and a classifier needs at least one block"
    if reason:
        raise GuardError(f"{model.name} cannot be exported as a sequence classifier: {reason}.")


def classifier_class(config: Any) -> Any:
    """The stock sequence classifier of a configuration, None where there is none."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)


def build_classifier(model: ChatModel, state: int, weight: Array, record: dict[str, Any]) -> Any:
    """The first `state` blocks of a model, a norm without gains, and a head of two labels.

    Weights are shared with the model, not copied. The logits are 0 for "harmless" and weight . norm(state) for
    "harmful", so that their softmax is the sigmoid of the latter.

    Args:
        model: passed `check_exportable`.
        state: the state read, at least 1.
        weight: (d,) of the head.
        record: plain values for config.json.

    Raises:
        GuardError: the truncated configuration or its weights are not what the stock class expects, or its norm
            cannot be freed of its gains.
    """
    source = model.model
    config = _truncated(source.config, state, model)
    config.update({"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}, RECORD: record})
    config.problem_type = "single_label_classification"
    config.pad_token_id = _pad_id(model)
    try:
        with torch.device("meta"):
            classifier = classifier_class(config)(config)
    except Exception as error:
        raise GuardError(f"{model.name} cannot be cut to {state} blocks: {_line(error)}.") from error
    inner, prefix = classifier.base_model, source.base_model.state_dict()
    missing = [name for name in inner.state_dict() if name not in prefix]
    if missing or not isinstance(getattr(classifier, "score", None), nn.Linear):
        what = f"its part {missing[0]} is not in the model" if missing else "it has no linear head named 'score'"
        raise GuardError(f"The stock sequence classifier of {model.name} cannot be filled: {what}.")
    inner.load_state_dict({name: prefix[name] for name in inner.state_dict()}, strict=True, assign=True)
    _free_norm(model, inner)
    head = torch.zeros(len(LABELS), model.width)
    head[1] = torch.from_numpy(np.asarray(weight, dtype=np.float32))
    classifier.score.weight = nn.Parameter(head.to(model.device))
    return classifier.eval()


def write_checkpoint(classifier: Any, model: ChatModel, template: str, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer with the cut template."""
    with _without_bars():
        classifier.save_pretrained(folder)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_pad_id(model))
    tokenizer.save_pretrained(folder)


def read_log_odds(folder: Path, prompts: Sequence[Prompt], device: torch.device, dtype: torch.dtype) -> Array:
    """What plain transformers makes of a written checkpoint.

    Returns:
        (n,) float64, log-odds of "harmful" for every prompt.

    Raises:
        GuardError: weights are missing in the folder or left over.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with _without_bars():
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
    if wrong:
        raise GuardError(f"The written checkpoint does not load whole: {wrong[0]} is missing, unknown or misshapen.")
    loaded = loaded.to(device).eval()
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    found = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for begin in range(0, len(order), _ROWS):
        batch = order[begin : begin + _ROWS]
        width = max(len(rows[row]) for row in batch)
        ids = torch.full((len(batch), width), int(loaded.config.pad_token_id))
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            ids[index, : len(rows[row])] = torch.tensor(rows[row])
            mask[index, : len(rows[row])] = 1
        with torch.inference_mode():
            logits = loaded(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.double().cpu()
        found[batch] = (logits[:, 1] - logits[:, 0]).numpy()
    return found


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the bars of transformers off standard error, as they tell of single files."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _truncated(config: Any, state: int, model: ChatModel) -> Any:
    values = copy.deepcopy(config.to_dict())
    blocks = model.layers
    for name, value in values.items():
        if isinstance(value, list) and len(value) == blocks and not name.endswith("token_id"):
            values[name] = value[:state]
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = state
    values.pop("architectures", None)
    try:
        return type(config).from_dict(values)
    except Exception as error:
        raise GuardError(f"{model.name} cannot be cut to {state} blocks: {_line(error)}.") from error


def _free_norm(model: ChatModel, inner: Any) -> None:
    """Set the final norm's gains so that it does nothing but norm."""
    names = {id(module): name for name, module in model.model.base_model.named_modules()}
    name = names.get(id(model.anatomy.final_norm))
    if name is None:
        raise GuardError(f"The final norm of {model.name} is not part of its base model, so it cannot be exported.")
    norm = inner.get_submodule(name)
    settings = NormedRule.settings_for(model)
    for parameter_name, parameter in list(norm.named_parameters(recurse=False)):
        if parameter_name not in ("weight", "bias"):
            raise GuardError(f"The final norm of {model.name} has a part '{parameter_name}' that a classifier lacks.")
        setattr(norm, parameter_name, nn.Parameter(torch.zeros_like(parameter)))
    asked = torch.linspace(-_ASKED, _ASKED, model.width) + 0.5
    wanted = torch.from_numpy(NormedRule.view(asked[None, None].numpy(), **settings))[0, 0]
    for gain in (1.0, 0.0):
        if getattr(norm, "weight", None) is not None:
            norm.weight = nn.Parameter(torch.full_like(norm.weight, gain))
        if _close(norm, asked, wanted):
            return
    raise GuardError(f"The final norm of {model.name} cannot be freed of its gains, so the guard cannot be exported.")


def _close(norm: nn.Module, asked: Tensor, wanted: Tensor) -> bool:
    own = next(norm.parameters(), torch.zeros(()))
    with torch.inference_mode():
        found = norm(asked.to(own)[None, None])[0, 0].float().cpu()
    precise = own.dtype in (torch.float32, torch.float64)
    return bool((found - wanted).abs().max() < (1e-5 if precise else 0.05))


def _pad_id(model: ChatModel) -> int:
    tokenizer = model.tokenizer
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, *sorted(model.stop_ids)):
        if isinstance(candidate, int):
            return candidate
    raise UndertowError(f"The tokenizer of {model.name} has neither a padding nor an end token: set one.")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
