"""A pickle read as inert data: its instructions are followed, but nothing it names is ever imported or called.

Python's own unpickler imports what the stream names and calls it; `torch.load(weights_only=True)` calls only what is
allowed, yet would still hand hostile arguments to numpy's constructors. Here a call stays a `Call`, a note of what was
asked for, and the reader of arrays decides what to make of it.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

_MARK = object()


class PickleError(Exception):
    """The stream is damaged, or names something that is not allowed; the message completes 'the file ...'."""


@dataclass(frozen=True)
class Name:
    """A global that the stream names.

    Attributes:
        module: Its module.
        name: Its qualified name.
    """

    module: str
    name: str

    @property
    def full(self) -> str:
        """Module and name, joined by a dot."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that the stream asks for and that is not made.

    Attributes:
        function: What would be called; anything the stream can hold.
        arguments: The arguments.
        state: The state that would be set on the result; None if the stream sets none.
        items: Keys and values that would be set on the result.
    """

    function: Any
    arguments: tuple[Any, ...]
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Persistent:
    """A reference to something outside the stream, such as a storage.

    Attributes:
        key: The reference, as the stream gives it.
    """

    key: Any


def read_plain_pickle(stream: BytesIO, allowed: Callable[[Name], bool]) -> Any:
    """Read one pickle and return what it describes, as lists, tuples, dicts, numbers, texts, bytes and notes.

    The stream is left right after the pickle.

    Args:
        stream: The bytes, in memory.
        allowed: Says which globals may be named at all; naming another one ends the reading.

    Raises:
        PickleError: If the stream is damaged, truncated, or names what is not allowed.
    """
    try:
        return _Machine(allowed).run(stream)
    except PickleError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, struct.error):
        raise PickleError("holds a damaged or truncated pickle") from None
    except MemoryError:
        raise PickleError("declares more data than fits into memory") from None


class _Machine:
    """The stack machine of pickle, without its power to import, call and set."""

    def __init__(self, allowed: Callable[[Name], bool]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BytesIO) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                result = self.stack.pop()
                if self.stack:
                    raise PickleError("holds a damaged or truncated pickle")
                return result
            self.step(opcode.name, argument)
        raise PickleError("holds a damaged or truncated pickle")

    def step(self, code: str, argument: Any) -> None:
        stack = self.stack
        if code in _PUSHED_ARGUMENT:
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _CONTAINERS:
            stack.append(_CONTAINERS[code]())
        elif code in ("PROTO", "FRAME"):
            pass
        elif code == "MARK":
            stack.append(_MARK)
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = stack[-1]
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif code in _TUPLES:
            size = _TUPLES[code]
            stack[-size:] = [tuple(self.plain(stack[-size:], size))]
        elif code == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif code == "LIST":
            stack.append(self.since_mark())
        elif code == "DICT":
            stack.append(self.filled({}, self.since_mark()))
        elif code == "POP":
            stack.pop()
        elif code == "POP_MARK":
            self.since_mark()
        elif code == "DUP":
            stack.append(stack[-1])
        elif code in ("APPEND", "APPENDS"):
            values = self.since_mark() if code == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise PickleError("holds a damaged or truncated pickle")
            stack[-1].extend(values)
        elif code in ("SETITEM", "SETITEMS"):
            values = self.since_mark() if code == "SETITEMS" else self.plain([stack.pop(-2), stack.pop()], 2)
            self.filled(stack[-1], values)
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            if code == "GLOBAL":
                module, name = argument.split(" ", 1)
            else:
                name, module = stack.pop(), stack.pop()
            self.push_name(module, name)
        elif code in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if type(arguments) is not tuple:
                raise PickleError("holds a damaged or truncated pickle")
            stack.append(Call(function, arguments))
        elif code == "BUILD":
            state = stack.pop()
            if type(stack[-1]) is not Call:
                raise PickleError("sets the state of something that is not an array")
            stack[-1].state = state
        elif code == "BINPERSID":
            stack.append(Persistent(stack.pop()))
        elif code == "READONLY_BUFFER":
            pass
        else:
            raise PickleError(f"uses the pickle instruction {code}, which no plain array needs")

    def push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("holds a damaged or truncated pickle")
        found = Name(module, name)
        if not self.allowed(found):
            raise PickleError(f"asks for {found.full[:80]}, which is not part of a plain array; nothing was run")
        self.stack.append(found)

    def since_mark(self) -> list[Any]:
        stack = self.stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                values = stack[index + 1 :]
                del stack[index:]
                return values
        raise PickleError("holds a damaged or truncated pickle")

    @staticmethod
    def plain(values: list[Any], size: int) -> list[Any]:
        if len(values) != size or any(value is _MARK for value in values):
            raise PickleError("holds a damaged or truncated pickle")
        return values

    @staticmethod
    def filled(target: Any, values: list[Any]) -> Any:
        if len(values) % 2:
            raise PickleError("holds a damaged or truncated pickle")
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if type(target) is Call:
            target.items.extend(pairs)
        elif type(target) is dict:
            for key, value in pairs:
                if not isinstance(key, (str, bytes, int, float, type(None))):
                    raise PickleError("holds a dict whose keys are not names")
                target[key] = value
        else:
            raise PickleError("holds a damaged or truncated pickle")
        return target


_PUSHED_ARGUMENT = frozenset(
    [
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "BININT",
        "BININT1",
        "BININT2",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
    ]
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
