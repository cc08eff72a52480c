"""Where a model's files come from: the Hub, a folder, or the organisms in the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from undertow.errors import ModelError

ORGANISM_PREFIX = "organism:"
_ORGANISMS = Path(__file__).resolve().parent.parent / "organism" / "weights"
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_ADAPTER = "adapter_config.json"


def organism_folder(name: str) -> Path:
    """Folder of a built-in organism, found by name as package data.

    Raises:
        ModelError: there is none of this name; the message lists those there are.
    """
    folder = _ORGANISMS / name
    if not name or "/" in name or not (folder / "config.json").is_file():
        present = sorted(path.parent.name for path in _ORGANISMS.glob("*/config.json"))
        raise ModelError(f"There is no built-in organism {name!r}: there is {', '.join(present) or 'none'}.")
    return folder


def resolve_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """A dtype that transformers accepts, from its name.

    Raises:
        ModelError: the name is unknown.
    """
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype not in _DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}: use auto, {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def load_pretrained(
    name: str,
    *,
    revision: str | None,
    dtype: str | torch.dtype,
    device_map: Any,
    attn_implementation: str | None,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """Model and tokenizer through transformers' auto classes.

    Raises:
        ModelError: nothing can be loaded from there.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    kind = resolve_dtype(dtype)
    source = name
    if name.startswith(ORGANISM_PREFIX):
        source = str(organism_folder(name.removeprefix(ORGANISM_PREFIX)))
    elif Path(name).exists() and not any((Path(name) / file).is_file() for file in ("config.json", _ADAPTER)):
        raise ModelError(f"{name} is not a model folder: it has no config.json.")
    elif not Path(name).exists() and (name.count("/") > 1 or name.startswith(("/", ".", "~"))):
        raise ModelError(f"There is no model folder {name}.")
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    # The model that a folder with an adapter names may lie on the Hub.
    if (Path(source) / "config.json").is_file():
        shared["local_files_only"] = True
    options: dict[str, Any] = {"dtype": kind}
    single = _single_device(device_map)
    if device_map is not None and single is None:
        options["device_map"] = device_map
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        model, found = _read_model(source, {**shared, **options})
    except Exception as error:
        raise ModelError(f"The model {name!r} cannot be loaded: {_reason(error)}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"The checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}: "
            "they would be random."
        )
    if single is not None and not getattr(model, "is_quantized", False):
        model = model.to(single)
    elif device_map is None and torch.cuda.is_available():
        model = model.to("cuda")
    return model, tokenizer


def _read_model(source: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model and transformers' account of what it found, by the first class for text that knows the architecture."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

    classes: list[Any] = [AutoModelForCausalLM]
    if not (Path(source) / _ADAPTER).is_file():
        keys = ("revision", "trust_remote_code", "local_files_only")
        config = AutoConfig.from_pretrained(source, **{key: options[key] for key in keys if key in options})
        if AutoModelForCausalLM.__name__ not in getattr(config, "auto_map", {}):
            known: list[Any] = [AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM]
            classes = [kind for kind in known if type(config) in kind._model_mapping] or classes
    found: dict[str, Any] = {}
    for kind in classes:
        model, found = kind.from_pretrained(source, output_loading_info=True, **options)
        # The text-only class may not understand the names in a multimodal checkpoint.
        if not found["missing_keys"]:
            break
    return model, found


def _single_device(device_map: Any) -> torch.device | None:
    """The one device that a map names, which needs no placement by accelerate; None for every other map."""
    try:
        return torch.device(device_map) if isinstance(device_map, str | torch.device) else None
    except RuntimeError:
        return None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z])", lines[0])[0] if lines else type(error).__name__
    return first[:300].rstrip(".") + "."
