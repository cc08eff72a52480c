"""Files written whole or not at all, and safetensors that carry what they hold as JSON in their metadata."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import UndertowError

if TYPE_CHECKING:
    import torch

_KEY = "undertow"


class StorageError(UndertowError):
    """A file of tensors is missing, damaged or of another kind."""


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write text (as UTF-8) or bytes through a temporary file in the same folder, so that no half file is ever seen."""
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files that only their owner can read; give the mode that any new file here would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> Path:
    """Write tensors as safetensors, with `about` and the kind of file as JSON in the metadata.

    Args:
        path: The file to write.
        kind: What the file is, with its version, such as `direction/1`.
        tensors: The tensors, by name.
        about: Plain JSON.
    """
    from safetensors.torch import save

    metadata = {_KEY: json.dumps({"kind": kind, **about})}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_atomically(path, save(plain, metadata=metadata))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read tensors and metadata that `save_tensors` wrote.

    Raises:
        StorageError: If the file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise StorageError(f"There is no file {path}.") from None
    except (OSError, SafetensorError):
        raise StorageError(f"{path} is not a safetensors file, or is damaged.") from None
    try:
        about = json.loads(metadata[_KEY])
        found = about.pop("kind")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StorageError(f"{path} was not written by Undertow: its metadata say nothing of a {kind}.") from None
    if found != kind:
        raise StorageError(f"{path} holds a {found}, and a {kind} was expected.")
    return tensors, about
