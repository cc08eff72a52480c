"""Plain float arrays out of `.pt`, `.npy`, `.npz`, `.safetensors` and pickle files, told by content, never by name.

Nothing in a file is ever imported, called or executed; sizes are checked against the file before memory is taken.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np

from undertow.measure.array_parts import (
    ArrayBuilder,
    ArrayFileError,
    Tree,
    from_raw,
    is_part_of_an_array,
    storage_widths,
)
from undertow.measure.plain_pickle import PickleError, read_plain_pickle

LARGEST_FILE = 8 * 2**30
_LARGEST_RATIO = 64  # of a compressed archive's contents to the file
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_array_tree(path: Path) -> Tree:
    """Return the float arrays of a file (numpy, of their own dtype; bfloat16 as float32) in their containers.

    Raises:
        ArrayFileError: If the file holds anything but plain float arrays.
        OSError: If the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise ArrayFileError("is empty")
    if size > LARGEST_FILE:
        raise ArrayFileError(f"is larger than {LARGEST_FILE // 2**30} GiB")
    data = path.read_bytes()
    try:
        if data[:4] == b"PK\x03\x04":
            return _read_zip(data)
        if data[:6] == b"\x93NUMPY":
            return _read_npy(data)
        if data[:1] == b"\x80":
            return _read_pickles(data)
        if len(data) > 8 and data[8:9] == b"{":
            return _read_safetensors(data)
    except PickleError as error:
        raise ArrayFileError(str(error)) from None
    raise ArrayFileError("is no array file of a known kind (.pt, .npy, .npz, .safetensors)")


def _read_zip(data: bytes) -> Tree:
    try:
        archive = zipfile.ZipFile(BytesIO(data))
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > max(_LARGEST_RATIO * len(data), 2**20):
            raise ArrayFileError("declares far more data than it can hold")
        stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
        if stored > len(data):
            raise ArrayFileError("declares more data than it holds")
        names = {entry.filename for entry in entries}
        if len(names) != len(entries):
            raise ArrayFileError("names one of its parts twice")
        if names and all(name.endswith(".npy") for name in names):
            return {name.removesuffix(".npy"): _read_npy(archive.read(name)) for name in sorted(names)}
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ArrayFileError("is an archive, but of neither torch nor numpy arrays")
        return _read_torch_archive(archive, names, pickles[0], total)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, OverflowError, ValueError, KeyError):
        raise ArrayFileError("is a damaged or truncated archive") from None


def _read_torch_archive(archive: zipfile.ZipFile, names: set[str], pickle_name: str, size: int) -> Tree:
    folder = pickle_name.removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder").strip() if f"{folder}byteorder" in names else b"little"
    if order not in (b"little", b"big"):
        raise ArrayFileError("does not say its byte order")

    def storage(key: str) -> bytes:
        name = f"{folder}data/{key}"
        if name not in names:
            raise ArrayFileError("lacks the data of one of its tensors")
        return archive.read(name)

    stream = BytesIO(archive.read(pickle_name))
    tree = read_plain_pickle(stream, is_part_of_an_array)
    return ArrayBuilder(storage, ">" if order == b"big" else "<", size).build(tree)


def _read_pickles(data: bytes) -> Tree:
    stream = BytesIO(data)
    first = read_plain_pickle(stream, is_part_of_an_array)
    if first != _LEGACY_MAGIC:
        if stream.read(1):
            raise ArrayFileError("has more data after its end")
        return ArrayBuilder(None, "<", len(data)).build(first)
    _protocol = read_plain_pickle(stream, is_part_of_an_array)
    system = read_plain_pickle(stream, is_part_of_an_array)
    tree = read_plain_pickle(stream, is_part_of_an_array)
    keys = read_plain_pickle(stream, is_part_of_an_array)
    if not isinstance(keys, list) or not isinstance(system, dict):
        raise ArrayFileError("is a damaged torch file")
    little = bool(system.get("little_endian", True))
    widths = storage_widths(tree)
    found: dict[str, bytes] = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little" if little else "big", signed=True)
        length = count * widths.get(key, 0)
        if key not in widths or not 0 < length <= len(data):
            raise ArrayFileError("is a damaged or truncated torch file")
        found[key] = stream.read(length)
        if len(found[key]) != length:
            raise ArrayFileError("is truncated")

    def storage(key: str) -> bytes:
        if key not in found:
            raise ArrayFileError("lacks the data of one of its tensors")
        return found[key]

    return ArrayBuilder(storage, "<" if little else ">", len(data)).build(tree)


def _read_npy(data: bytes) -> np.ndarray:
    stream = BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ArrayFileError(f"uses numpy's file format {version[0]}.{version[1]}, which no plain array needs")
    except ArrayFileError:
        raise
    except Exception:
        # numpy tokenises and evaluates the header as a literal, and lets whatever goes wrong there through.
        raise ArrayFileError("has a damaged numpy header") from None
    kind = dtype.str.lstrip("<>=|")
    return from_raw(stream.read(), kind, dtype.str[0], shape, fortran)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        parts = dict(deserialize(data))
    except (SafetensorError, ValueError, json.JSONDecodeError):
        raise ArrayFileError("is a damaged or truncated safetensors file") from None
    kinds = {"F16": "f2", "F32": "f4", "F64": "f8", "BF16": "bfloat16"}
    tree = {}
    for name, part in parts.items():
        kind = kinds.get(part["dtype"], str(part["dtype"]))
        tree[str(name)] = from_raw(bytes(part["data"]), kind, "<", tuple(part["shape"]), False)
    return tree
