from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow.measure.plain_pickle import Call, Name, PickleError, read_plain_pickle


def never(name: Name) -> bool:
    return False


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(plain, st.sampled_from([3, 4, 5]))
@settings(max_examples=150, deadline=None)
def test_plain_data_come_back_as_python_reads_them(value: object, protocol: int) -> None:
    stream = io.BytesIO(pickle.dumps(value, protocol=protocol) + b"rest")
    assert read_plain_pickle(stream, never) == value
    assert stream.read() == b"rest"


def test_calls_stay_notes() -> None:
    pickled = pickle.dumps(OrderedDict(a=1), protocol=2)
    found = read_plain_pickle(io.BytesIO(pickled), lambda name: name == Name("collections", "OrderedDict"))
    assert isinstance(found, Call) and found.function == Name("collections", "OrderedDict")
    assert found.items == [("a", 1)]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_names_that_are_not_allowed_end_the_reading(protocol: int) -> None:
    with pytest.raises(PickleError, match="system, which is not part of a plain array; nothing was run"):
        read_plain_pickle(io.BytesIO(pickle.dumps(os.system, protocol=protocol)), never)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x02", b"\x80\x02]q", b"\x80\x02a.", b"\x80\x02)(.", b"("])
def test_damaged_streams_are_refused(content: bytes) -> None:
    with pytest.raises(PickleError):
        read_plain_pickle(io.BytesIO(content), never)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_data_or_an_error(content: bytes) -> None:
    with contextlib.suppress(PickleError):
        read_plain_pickle(io.BytesIO(b"\x80\x04" + content), never)
