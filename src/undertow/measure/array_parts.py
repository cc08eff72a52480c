"""Float arrays made of raw bytes and of the notes that a plain pickle leaves, with every size checked first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from undertow.measure.plain_pickle import Call, Name, Persistent

# What one array, or a container of arrays, may hold.
Tree = Any  # np.ndarray | list[Tree] | dict[str | int, Tree]

MOST_ITEMS = 4096
_DEEPEST = 6
FLOATS = {"f2": 2, "f4": 4, "f8": 8}
_STORAGES = {"HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8", "BFloat16Storage": "bfloat16"}
_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_FROM_BUFFER = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
_ALLOWED = {
    *_RECONSTRUCT,
    *_FROM_BUFFER,
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}


class ArrayFileError(Exception):
    """Why a file is not plain arrays; the message completes the sentence 'the file ...'."""


def is_part_of_an_array(name: Name) -> bool:
    """Return whether a pickle of plain arrays may name this global."""
    return name.full in _ALLOWED or (name.module == "torch" and name.name.endswith("Storage"))


def storage_widths(tree: Any) -> dict[str, int]:
    """Return bytes per element of every storage that the tree refers to, by key."""
    widths: dict[str, int] = {}
    pending, seen = [tree], 0
    while pending:
        node = pending.pop()
        seen += 1
        if seen > 64 * MOST_ITEMS:
            raise ArrayFileError("holds too many parts")
        if isinstance(node, Persistent):
            key, kind, _ = storage_reference(node)
            widths[key] = 2 if kind == "bfloat16" else FLOATS[kind]
        elif isinstance(node, (list, tuple)):
            pending.extend(node)
        elif isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, Call):
            pending.extend([*node.arguments, *(value for _, value in node.items)])
    return widths


def _shape(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and isinstance(value.function, Name) and value.function.full == "torch.Size":
        value = value.arguments[0] if len(value.arguments) == 1 else None
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, tuple) or not all(type(size) is int and size >= 0 for size in value) or len(value) > 8:
        raise ArrayFileError("declares an array whose shape is not one")
    return value


def _elements(data: bytes, kind: str, order: str) -> np.ndarray:
    """Return the bytes as a flat array; `kind` is f2, f4, f8 or bfloat16."""
    sign = ">" if order == ">" else "<"
    if kind == "bfloat16":
        halves = np.frombuffer(data, dtype=f"{sign}u2").astype(np.uint32)
        return (halves << 16).view(np.float32)
    if kind not in FLOATS:
        what = "Python objects" if kind.startswith("O") else f"values of type {kind[:20]}"
        raise ArrayFileError(f"holds {what}, and only floating-point arrays are read")
    return np.frombuffer(data, dtype=f"{sign}{kind}")


def from_raw(data: bytes, kind: str, order: str, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    """Return bytes as an array of the kind (f2, f4, f8, bfloat16), byte order and shape declared.

    Raises:
        ArrayFileError: If shape and bytes disagree, or the kind is no float.
    """
    width = 2 if kind == "bfloat16" else FLOATS.get(kind)
    if width is not None and math.prod(shape) * width != len(data):
        raise ArrayFileError(f"declares an array of shape {_short(shape)}, which its {len(data)} bytes of data are not")
    return _elements(data, kind, order).reshape(shape, order="F" if fortran else "C")


def _short(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def storage_reference(node: Persistent) -> tuple[str, str, int]:
    """Return key, element kind and element count of a torch storage."""
    key = node.key
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or not isinstance(key[1], Name):
        raise ArrayFileError("refers to data in a way that plain tensors do not")
    kind = _STORAGES.get(key[1].name)
    if kind is None:
        raise ArrayFileError(f"holds a {key[1].name[:40]}, and only floating-point arrays are read")
    if not isinstance(key[2], str) or type(key[4]) is not int or (len(key) == 6 and key[5] is not None):
        raise ArrayFileError("refers to data in a way that plain tensors do not")
    return key[2], kind, key[4]


@dataclass
class ArrayBuilder:
    """Makes arrays of the notes that a plain pickle leaves."""

    storage: Callable[[str], bytes] | None
    order: str
    most_values: int
    items: int = 0
    values: int = 0

    def __post_init__(self) -> None:
        self.flat: dict[str, np.ndarray] = {}

    def build(self, node: Any, depth: int = 0) -> Tree:
        self.items += 1
        if self.items > MOST_ITEMS or depth > _DEEPEST:
            raise ArrayFileError("holds too many or too deeply nested parts")
        if isinstance(node, (list, tuple)):
            return [self.build(child, depth + 1) for child in node]
        if isinstance(node, dict):
            return self._names(list(node.items()), depth)
        if isinstance(node, Call) and isinstance(node.function, Name):
            tree = self._call(node, node.function.full, depth)
            # One array named many times would be copied many times.
            self.values += tree.size if isinstance(tree, np.ndarray) else 0
            if self.values > self.most_values:
                raise ArrayFileError("declares more values than it holds")
            return tree
        raise ArrayFileError(f"holds {_describe(node)} where a plain array was expected")

    def _names(self, pairs: list[tuple[Any, Any]], depth: int) -> dict[str | int, Tree]:
        named: dict[str | int, Tree] = {}
        for key, value in pairs:
            if type(key) not in (str, int):
                raise ArrayFileError("holds a dict whose keys are not plain names")
            named[key] = self.build(value, depth + 1)
        return named

    def _call(self, node: Call, name: str, depth: int) -> Tree:
        arguments = node.arguments
        if name == "collections.OrderedDict" and not arguments:
            return self._names(node.items, depth)
        if name == "torch._utils._rebuild_parameter" and len(arguments) == 3:
            return self.build(arguments[0], depth + 1)
        if name == "torch._utils._rebuild_tensor_v2" and len(arguments) in (6, 7):
            return self._tensor(arguments)
        if name == "torch._utils._rebuild_tensor" and len(arguments) == 4:
            return self._tensor(arguments)
        if name in _RECONSTRUCT and node.state is not None:
            return self._numpy(arguments, node.state)
        if name in _FROM_BUFFER and len(arguments) == 4:
            kind, order = self._dtype(arguments[1])
            fortran = arguments[3] == "F"
            return from_raw(self._raw(arguments[0]), kind, order, _shape(arguments[2]), fortran)
        raise ArrayFileError(f"holds {name[:60]} where a plain array was expected")

    def _tensor(self, arguments: tuple[Any, ...]) -> np.ndarray:
        reference, offset, size, stride = arguments[:4]
        if not isinstance(reference, Persistent) or self.storage is None or type(offset) is not int or offset < 0:
            raise ArrayFileError("refers to data in a way that plain tensors do not")
        key, kind, count = storage_reference(reference)
        if key not in self.flat:
            self.flat[key] = _elements(self._sized(self.storage(key), kind, count), kind, self.order)
        flat, shape, steps = self.flat[key], _shape(size), _shape(stride)
        if len(steps) != len(shape):
            raise ArrayFileError("declares a tensor whose strides do not fit its shape")
        if 0 in shape:
            return np.zeros(shape, dtype=flat.dtype)
        last = offset + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
        if math.prod(shape) > flat.size or last >= flat.size:
            raise ArrayFileError(f"declares a tensor of shape {_short(shape)}, more than its {flat.size} values hold")
        width = flat.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            flat[offset:], shape=shape, strides=tuple(step * width for step in steps), writeable=False
        )

    @staticmethod
    def _sized(data: bytes, kind: str, count: int) -> bytes:
        width = 2 if kind == "bfloat16" else FLOATS[kind]
        if len(data) != count * width:
            raise ArrayFileError(f"declares {count} values where its data hold {len(data) // width}")
        return data

    def _numpy(self, arguments: tuple[Any, ...], state: Any) -> np.ndarray:
        if not arguments or not isinstance(arguments[0], Name) or arguments[0].full != "numpy.ndarray":
            raise ArrayFileError("holds a kind of numpy array that is not a plain one")
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ArrayFileError("holds a damaged numpy array")
        shape, dtype, fortran, raw = state[-4:]
        kind, order = self._dtype(dtype)
        if kind.startswith("O"):
            raise ArrayFileError("holds Python objects, and only floating-point arrays are read")
        return from_raw(self._raw(raw), kind, order, _shape(shape), bool(fortran))

    @staticmethod
    def _dtype(node: Any) -> tuple[str, str]:
        """Return kind and byte order of a pickled numpy dtype."""
        plain = isinstance(node, Call) and isinstance(node.function, Name) and node.function.full == "numpy.dtype"
        if not plain or not node.arguments or not isinstance(node.arguments[0], (str, bytes)):
            raise ArrayFileError("holds an array of no plain numpy type")
        text = node.arguments[0]
        kind = (text.decode("latin-1") if isinstance(text, bytes) else text).strip()
        order = "<"
        if node.state is not None:
            state = node.state
            # (version, byte order, subarray, names, fields, ...): all but the first two are None for a plain float.
            if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
                raise ArrayFileError("holds an array of no plain numpy type")
            order = state[1].decode("latin-1") if isinstance(state[1], bytes) else str(state[1])
        if kind[:1] in "<>=|":
            order, kind = kind[:1], kind[1:]
        return kind, order

    @staticmethod
    def _raw(node: Any) -> bytes:
        """Return the bytes of an array, however the pickle's protocol spells them."""
        if isinstance(node, (bytes, bytearray)):
            return bytes(node)
        encoded = isinstance(node, Call) and isinstance(node.function, Name) and node.function.full == "_codecs.encode"
        if encoded and len(node.arguments) == 2 and node.arguments[1] in ("latin1", "latin-1"):
            node = node.arguments[0]
        if isinstance(node, str):
            try:
                return node.encode("latin-1")
            except UnicodeEncodeError:
                pass
        if isinstance(node, list):
            raise ArrayFileError("holds Python objects, and only floating-point arrays are read")
        raise ArrayFileError("holds a damaged numpy array")


def _describe(node: Any) -> str:
    if node is None:
        return "None"
    if isinstance(node, Name):
        return node.full[:60]
    if isinstance(node, bool):
        return "a truth value"
    if isinstance(node, (int, float)):
        return "a number"
    if isinstance(node, (str, bytes)):
        return "text"
    return "a pickled object"
