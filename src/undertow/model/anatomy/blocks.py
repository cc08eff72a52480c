"""Search for the list of blocks, the final norm, and what a hint names."""

from __future__ import annotations

from typing import Any

from torch import nn

from undertow.errors import CoverageError
from undertow.model.anatomy.parts import AnatomyHint


def follow(module: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, out of any compiled wrapper.

    Raises:
        CoverageError: there is none.
    """
    for name in path.split("."):
        if not hasattr(module, name):
            raise CoverageError(f"register_anatomy declares {path!r}, and {type(module).__name__} has no {name!r}.")
        module = getattr(module, name)
    return plain(module)


def plain(module: nn.Module) -> nn.Module:
    """The module inside a compiled wrapper."""
    return getattr(module, "_orig_mod", module)


def block_counts(config: Any) -> list[int]:
    """How many blocks the configuration may mean, the decoder's own count first."""
    names = ("num_decoder_layers", "num_hidden_layers", "num_layers")
    return [count for name in names if isinstance(count := getattr(config, name, None), int)]


def find_blocks(model: Any, hint: AnatomyHint, model_type: str) -> list[nn.Module]:
    """The list of blocks.

    Among lists of modules inside the decoder that are as long as the configuration says, the outermost and largest.

    Raises:
        CoverageError: there is no such list.
    """
    if hint.blocks is not None:
        return [plain(block) for block in follow(model, hint.blocks).children()]
    config = model.config.get_text_config(decoder=True)
    counts = block_counts(config)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    inside = {id(module) for module in decoder.modules()} if isinstance(decoder, nn.Module) else None
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and any(True for _ in plain(module[0]).children())
    ]
    lists = [item for item in lists if inside is not None and id(item[1]) in inside] or lists
    fitting: list[tuple[str, nn.ModuleList]] = []
    for count in counts:
        fitting = fitting or [item for item in lists if len(item[1]) == count]
    if not fitting:
        raise CoverageError(
            f"No list of {' or '.join(map(str, counts)) or 'any'} blocks was found in model type {model_type!r}: "
            f"declare it with undertow.register_anatomy({model_type!r}, blocks=...)."
        )
    _, found = max(fitting, key=lambda item: (-item[0].count("."), _size(item[1])))
    return [plain(block) for block in found]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
