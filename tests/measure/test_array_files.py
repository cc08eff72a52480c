from __future__ import annotations

import builtins
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from undertow.errors import ArrayError
from undertow.measure.arrays import load_arrays

LAYERS, COUNT, WIDTH = 5, 4, 16


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(1)).half()


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(LAYERS, COUNT, 2, WIDTH, generator=torch.Generator().manual_seed(2)).half()


def zip_around(pickled: bytes, path: Path, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def numpy_one(pickled: bytes) -> bytes:
    """The same pickle as numpy 1 writes it: the module had another name then."""
    assert b"numpy._core" in pickled
    return pickled.replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_files_equal_what_torch_reads(
    tmp_path: Path, states: torch.Tensor, legacy: bool, dtype: torch.dtype
) -> None:
    path = tmp_path / "states.pt"
    torch.save(states.to(dtype), path, _use_new_zipfile_serialization=not legacy)
    found = load_arrays(path)
    assert found.kind == "states" and found.names == ("array",)
    assert (found.states, found.width) == (LAYERS, WIDTH)
    assert found.values.dtype == torch.float32
    assert torch.equal(found.values, torch.load(path, weights_only=True).float())


@pytest.mark.parametrize("legacy", [False, True])
def test_views_share_a_storage_and_keep_their_own_values(tmp_path: Path, states: torch.Tensor, legacy: bool) -> None:
    path = tmp_path / "view.pt"
    view = states[:, 1:3].transpose(1, 3)[:, 2:5].transpose(1, 3)
    torch.save(
        {"part": view, "whole": states, "turned": states[:, :, 1].permute(2, 0, 1)[0:2].permute(1, 0, 2)[:, 0]},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(ArrayError, match="different kinds"):
        load_arrays(path)
    torch.save(view, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(load_arrays(path).values, view.float())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("old_numpy", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f8"])
def test_numpy_arrays_inside_torch_files(
    tmp_path: Path, states: torch.Tensor, legacy: bool, old_numpy: bool, order: str, dtype: str
) -> None:
    path = tmp_path / "numpy.pt"
    array = np.array(states.numpy(), dtype=dtype, order=order)
    torch.save(array, path, _use_new_zipfile_serialization=not legacy)
    if old_numpy and legacy:
        path.write_bytes(numpy_one(path.read_bytes()))
    elif old_numpy:
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read("numpy/data.pkl")
        zip_around(numpy_one(pickled), path)
    assert np.array_equal(load_arrays(path).values.numpy(), array.astype(np.float32))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_bare_pickles_of_numpy_arrays(tmp_path: Path, states: torch.Tensor, protocol: int, order: str) -> None:
    path = tmp_path / "bare.pt"
    array = np.array(states.numpy(), order=order)
    path.write_bytes(pickle.dumps(array, protocol=protocol))
    assert np.array_equal(load_arrays(path).values.numpy(), array.astype(np.float32))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torch_files_of_any_pickle_protocol(tmp_path: Path, matrix: torch.Tensor, protocol: int) -> None:
    path = tmp_path / "protocol.pt"
    torch.save({"a": matrix, "b": matrix.numpy()}, path, pickle_protocol=protocol)
    found = load_arrays(path)
    assert torch.equal(found["a"], matrix.float()) and torch.equal(found["b"], matrix.float())


def test_python_two_pickle(tmp_path: Path, matrix: torch.Tensor) -> None:
    raw = matrix.numpy().tobytes()
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06"
        b"(K\x01" + b"K" + bytes([LAYERS]) + b"K" + bytes([WIDTH]) + b"\x86q\x07"
        b"cnumpy\ndtype\nq\x08U\x02f2q\tK\x00K\x01\x87q\nRq\x0b(K\x03U\x01<q\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\rb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"q\x0etq\x0fb."
    )
    assert np.array_equal(pickle.loads(pickled, encoding="latin1"), matrix.numpy())
    path = tmp_path / "two.pt"
    path.write_bytes(pickled)
    assert torch.equal(load_arrays(path).values, matrix.float())


def test_numpy_files(tmp_path: Path, matrix: torch.Tensor) -> None:
    np.save(tmp_path / "one.npy", np.asfortranarray(matrix.numpy()))
    np.savez(tmp_path / "many.npz", harmful=matrix.numpy(), harmless=-matrix.numpy())
    np.savez_compressed(tmp_path / "packed.npz", harmful=matrix.numpy())
    assert torch.equal(load_arrays(tmp_path / "one.npy").values, matrix.float())
    many = load_arrays(tmp_path / "many.npz", "centroids")
    assert many.kind == "centroids" and many.names == ("harmful", "harmless")
    assert torch.equal(many["harmless"], -matrix.float())
    assert torch.equal(load_arrays(tmp_path / "packed.npz").values, matrix.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_safetensors_whatever_the_name(tmp_path: Path, matrix: torch.Tensor, dtype: torch.dtype) -> None:
    path = tmp_path / "named.pt"
    save_file({"direction": matrix.to(dtype)}, str(path))
    assert torch.equal(load_arrays(path)["direction"], matrix.to(dtype).float())


def test_containers(tmp_path: Path, matrix: torch.Tensor, states: torch.Tensor) -> None:
    path = tmp_path / "container.pt"
    for container in (
        list(matrix),
        tuple(matrix.numpy()),
        {state: matrix[state] for state in reversed(range(LAYERS))},
        torch.nn.Parameter(matrix.float()),
        OrderedDict(array=matrix),
    ):
        torch.save(container, path)
        assert torch.equal(load_arrays(path).values, matrix.float()), container
    torch.save([states[state].numpy() for state in range(LAYERS)], path)
    assert torch.equal(load_arrays(path).values, states.float())
    torch.save({"violence": matrix, "fraud": {"all": 2 * matrix}}, path)
    found = load_arrays(path)
    assert found.names == ("violence", "fraud.all") and torch.equal(found["fraud.all"], 2 * matrix.float())
    with pytest.raises(ArrayError, match="choose one"):
        _ = found.values
    with pytest.raises(ArrayError, match="no array theft"):
        _ = found["theft"]
    assert torch.equal(found.select("violence").direction(kind="harmfulness")[2], matrix[2].float())


class Payload:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("container", ["zip", "legacy", "bare", "npy", "npz", "zip-protocol-4", "inside-numpy"])
@pytest.mark.parametrize("function", ["system", "eval", "exec", "import"])
def test_a_payload_is_refused_and_never_runs(
    tmp_path: Path, matrix: torch.Tensor, container: str, function: str
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "payload.pt"
    code = f"open({str(trace)!r}, 'w').close()"
    payload = {
        "system": Payload(os.system, f"touch {trace}"),
        "eval": Payload(builtins.eval, code),
        "exec": Payload(builtins.exec, code),
        "import": Payload(builtins.__import__, "antigravity"),
    }[function]
    held = {"direction": matrix, "other": payload}
    if container == "zip":
        torch.save(held, path)
    elif container == "zip-protocol-4":
        torch.save(held, path, pickle_protocol=4)
    elif container == "legacy":
        torch.save(held, path, _use_new_zipfile_serialization=False)
    elif container == "bare":
        path.write_bytes(pickle.dumps(held, protocol=4))
    elif container == "inside-numpy":
        torch.save(np.array([payload], dtype=object), path)
    else:
        stream = io.BytesIO()
        (np.save if container == "npy" else np.savez)(stream, np.array([payload], dtype=object))  # type: ignore[operator]
        path.write_bytes(stream.getvalue())
    with pytest.raises(ArrayError) as refusal:
        load_arrays(path)
    assert not trace.exists()
    assert "\n" not in str(refusal.value)
    if function != "import" and container not in ("npy", "npz", "bare"):
        torch.load(path, weights_only=False)
        assert trace.exists(), "the payload must be live, or this test shows nothing"


def test_a_name_that_is_never_called_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "name.pt"
    torch.save({"harmless": os.getcwd}, path)
    with pytest.raises(ArrayError, match=r"getcwd.*nothing was run"):
        load_arrays(path)


def test_forged_numpy_types_never_reach_numpy(tmp_path: Path) -> None:
    """A dtype whose pickled state claims object fields lets plain bytes stand for pointers; here it is refused."""
    array = np.zeros((2, 2), dtype=np.float64)
    forged = pickle.dumps(array, protocol=2)
    original = b"(K\x03X\x01\x00\x00\x00<q"
    start = forged.index(original)
    end = forged.index(b"NNN", start)
    changed = forged[:end] + b"N" + b"X\x01\x00\x00\x00a\x85" + b"}" + forged[end + 3 :]
    path = tmp_path / "forged.pt"
    path.write_bytes(changed)
    with pytest.raises(ArrayError, match="no plain numpy type"):
        load_arrays(path)


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (torch.zeros(4, 8, dtype=torch.int64), "LongStorage"),
        (torch.zeros(4, 8, dtype=torch.bool), "BoolStorage"),
        (np.zeros((4, 8), dtype=np.int32), "i4"),
        (np.zeros((4, 8), dtype=np.complex64), "c8"),
        (np.full((4, 8), None), "Python objects"),
        (np.zeros((4, 8), dtype=[("a", "f4")]), "no plain numpy type|V4"),
        (torch.zeros(8), "neither"),
        (torch.zeros(4, 8, 2), "neither"),
        (torch.zeros(4, 3, 3, 8), "third axis"),
        (torch.zeros(4, 0), "empty"),
        (torch.zeros(0, 3, 2, 4), "empty"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "1 of 4 values"),
        (torch.tensor([[1.0, float("inf")], [0.0, 1.0]]), "not finite"),
        (np.array([[1e300, 0.0], [0.0, 1.0]]), "not finite"),
        (torch.zeros(1).expand(1000, 4000), "more than its"),
        ({"direction": torch.zeros(4, 8), "layer": 3}, "a number"),
        ({"direction": torch.zeros(4, 8), "note": "x"}, "text"),
        ({"direction": None}, "None"),
        ({(1, 2): torch.zeros(4, 8)}, "names"),
        ([], "no array"),
        ({}, "no array"),
        ({"a": torch.zeros(4, 8), "b": torch.zeros(5, 8)}, "different kinds"),
        ({"a": torch.zeros(4, 8).to_sparse()}, "not part of a plain array"),
        (torch.nn.Linear(2, 2), "nothing was run"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, held: object, match: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(held, path)
    with pytest.raises(ArrayError, match=match) as refusal:
        load_arrays(path)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_deep_and_endless_containers_are_refused(tmp_path: Path, matrix: torch.Tensor) -> None:
    path = tmp_path / "deep.pt"
    nested: object = matrix
    for _ in range(40):
        nested = [nested]
    torch.save(nested, path)
    with pytest.raises(ArrayError, match="nested"):
        load_arrays(path)
    endless: list = []
    endless.append(endless)
    torch.save(endless, path)
    with pytest.raises(ArrayError, match="nested"):
        load_arrays(path)
    torch.save({f"copy{index}": matrix for index in range(500)}, path)
    with pytest.raises(ArrayError, match="more values than it holds"):
        load_arrays(path)
    shared: list = [matrix]
    for _ in range(5):
        shared = [shared] * 60
    torch.save(shared, path)
    with pytest.raises(ArrayError, match=r"nested|more values"):
        load_arrays(path)


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "direction.pt"
    for content, match in (
        (b"", "empty"),
        (b"these are words, not numbers\n", "no array file"),
        (b'{"schema": 1}\n', "no array file"),
        (b"\x80\x04", "truncated"),
        (b"PK\x03\x04 and nothing else", "damaged or truncated archive"),
        (b"\x93NUMPY\x01\x00\x10\x00garbage", "numpy header"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": 1}', "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "no array file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ArrayError, match=match):
            load_arrays(path)
    with pytest.raises(ArrayError, match="no file"):
        load_arrays(tmp_path / "absent.pt")
    with pytest.raises(ArrayError, match="cannot be read"):
        load_arrays(tmp_path)


@pytest.mark.parametrize("form", ["zip", "legacy", "numpy", "bare", "npy", "npz", "safetensors"])
def test_truncated_and_damaged_files_never_do_worse_than_an_error(
    tmp_path: Path, matrix: torch.Tensor, form: str
) -> None:
    path = tmp_path / "whole"
    if form == "safetensors":
        save_file({"a": matrix}, str(path))
    elif form in ("npy", "npz"):
        stream = io.BytesIO()
        (np.save if form == "npy" else np.savez)(stream, matrix.numpy())  # type: ignore[operator]
        path.write_bytes(stream.getvalue())
    elif form == "bare":
        path.write_bytes(pickle.dumps(matrix.numpy()))
    else:
        held = matrix.numpy() if form == "numpy" else matrix
        torch.save(held, path, _use_new_zipfile_serialization=form != "legacy")
    whole = path.read_bytes()
    broken = tmp_path / "broken.pt"
    for length in sorted({1, 7, 20, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 1}):
        broken.write_bytes(whole[:length])
        with pytest.raises(ArrayError):
            load_arrays(broken)
    generator = random.Random(0)
    for _ in range(300):
        spoiled = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            spoiled[generator.randrange(len(spoiled))] = generator.randrange(256)
        broken.write_bytes(bytes(spoiled))
        try:
            load_arrays(broken)
        except ArrayError as error:
            assert "\n" not in str(error)


def test_huge_declarations_take_no_memory(tmp_path: Path, matrix: torch.Tensor) -> None:
    path = tmp_path / "huge.pt"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": (2**20, 2**24)})
    path.write_bytes(header.getvalue() + b"\0" * 64)
    with pytest.raises(ArrayError, match="declares an array of shape"):
        load_arrays(path)
    pickled = pickle.dumps(np.zeros((3, 5), dtype=np.float16), protocol=2)
    for old, new in ((b"K\x03K\x05\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),):
        assert old in pickled
        path.write_bytes(pickled.replace(old, new))
    with pytest.raises(ArrayError, match="declares an array of shape"):
        load_arrays(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        stream = io.BytesIO()
        np.save(stream, np.zeros((64, 2**16), dtype=np.float32))
        bomb.writestr("a.npy", stream.getvalue())
    assert path.stat().st_size < 2**17
    with pytest.raises(ArrayError, match="more data"):
        load_arrays(path)
    torch.save(matrix, path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("huge/data.pkl")
    zip_around(pickled, path, {"0": b"\0" * 6})
    with pytest.raises(ArrayError, match="declares 80 values"):
        load_arrays(path)
    zip_around(pickled, path, {})
    with pytest.raises(ArrayError, match="lacks the data"):
        load_arrays(path)
