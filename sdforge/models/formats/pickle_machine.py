"""Reads what a pickle describes without ever calling anything it names.

Python's own unpickler imports and calls what the data ask for. This one has no way to: it knows the
operations that describe plain data, and where data name a class or function it keeps the name and
the arguments (`Call`). Steps, sizes and depth are bounded. Operations are those of pickle protocols
0 to 5 (the Python library's `pickletools` describes each).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# The header of the largest checkpoint takes some 200 000. Few enough to bound memory too.
MOST_STEPS = 1_500_000
_MOST_MEMO = 1_000_000
_MARK = object()
_TABLE = "collections.OrderedDict"


class PickleFault(ValueError):
    """The data are no pickle of plain data; the message is the end of a sentence about the file."""


@dataclass(frozen=True)
class Global:
    """A class or function that the data name, 'torch.FloatStorage'; never looked up."""

    name: str


@dataclass
class Call:
    """Something that the data want to be made by a call; `state` is what it is given afterwards."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Persistent:
    """A reference to something outside of the pickle, such as the numbers of a tensor."""

    id: Any


class PickleMachine:
    """Runs one pickle after another over a buffer."""

    def __init__(self, text: memoryview, may_name: Callable[[str], bool]) -> None:
        """Take the bytes, and what tells whether a name is harmless."""
        self.place = 0
        self.references: list[Any] = []  # all that lies outside, in the order of mention
        self._text = text
        self._may_name = may_name
        self._steps = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return what the next pickle describes.

        Raises:
            PickleFault: it names what is not allowed, uses an operation that plain data do not
                need, or is damaged.
        """
        self._stack, self._memo = [], {}
        while True:
            self._steps += 1
            if self._steps > MOST_STEPS or len(self._memo) > _MOST_MEMO:
                raise PickleFault("describes more than any model has")
            code = self._take(1)[0]
            if code == ord("."):
                if not self._stack:
                    raise PickleFault("is damaged: its description is empty")
                return self._stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise PickleFault(
                    f"uses the pickle operation {chr(code)!r}, which no model file needs"
                )
            try:
                operation(self)
            except (IndexError, KeyError, TypeError, struct.error, UnicodeError) as error:
                raise PickleFault(
                    f"is damaged: its description breaks off at byte {self.place}"
                ) from error

    # --- what operations are made of -----------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        piece = self._text[self.place : self.place + count]
        if count < 0 or len(piece) != count:
            raise PickleFault("is truncated: its description breaks off")
        self.place += count
        return piece

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _line(self) -> str:
        end = self.place
        while self._text[end] != 10:
            end += 1
        line = bytes(self._take(end - self.place))
        self._take(1)
        return line.decode("utf-8")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _to_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise IndexError

    def _name(self, name: str) -> None:
        if not self._may_name(name):
            raise PickleFault(
                f"is refused: it names {name[:100]!r}, which no model file needs; opened with "
                "Python's pickle it would run that"
            )
        self._push(Global(name))

    # --- operations ----------------------------------------------------------------------------

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError
        self._name(f"{module}.{name}")

    def _global(self) -> None:
        module = self._line()
        self._name(f"{module}.{self._line()}")

    def _call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError
        is_table = function.name == _TABLE and not any(arguments)
        self._push({} if is_table else Call(function.name, arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        # Ordered dictionaries may carry attributes, which say nothing of interest.
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):
            raise TypeError

    def _append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Call):
            raise TypeError

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        table = target.items if isinstance(target, Call) else target
        if not isinstance(table, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing tuples of tuples of tuples could take for ever; keys are names and numbers.
            table[key if isinstance(key, str | int | float | bytes | None) else id(key)] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:]) if count else ()
        if len(values) != count or _MARK in values:
            raise IndexError
        del self._stack[len(self._stack) - count :]
        self._push(values)

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _bytes(self, form: str) -> None:
        self._push(bytes(self._take(self._number(form))))

    def _text_of(self, form: str) -> None:
        self._push(bytes(self._take(self._number(form))).decode("utf-8", "surrogatepass"))

    def _old_text(self, form: str) -> None:
        self._push(bytes(self._take(self._number(form))).decode("latin-1"))

    def _long(self, form: str) -> None:
        count = self._number(form)
        if count > 64:
            raise PickleFault("holds a number of absurd length")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _persistent(self) -> None:
        reference = Persistent(self._stack.pop())
        self.references.append(reference.id)
        self._push(reference)

    def _int_line(self) -> None:
        line = self._line()
        if len(line) > 40:
            raise PickleFault("holds a number of absurd length")
        try:
            self._push({"00": False, "01": True}.get(line, int(line.rstrip("L") or "0")))
        except ValueError as error:
            raise TypeError from error

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _frozen_set(self) -> None:
        self._push(tuple(self._to_mark()))

    def _reversed_list(self) -> None:
        values = self._to_mark()
        self._push(values)

    def _dict(self) -> None:
        values = self._to_mark()
        self._push({})
        self._set_items(values)


_OPERATIONS: dict[int, Callable[[PickleMachine], object]] = {
    0x80: lambda m: m._take(1),  # the protocol
    0x95: lambda m: m._take(8),  # a frame of protocol 4
    ord("("): lambda m: m._push(_MARK),
    ord("0"): lambda m: m._stack.pop(),
    ord("1"): lambda m: m._to_mark(),
    ord("2"): lambda m: m._push(m._stack[-1]),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("I"): PickleMachine._int_line,
    ord("L"): PickleMachine._int_line,
    0x8A: lambda m: m._long("<B"),
    0x8B: lambda m: m._long("<i"),
    ord("G"): PickleMachine._float,
    ord("X"): lambda m: m._text_of("<I"),
    0x8C: lambda m: m._text_of("<B"),
    0x8D: lambda m: m._text_of("<Q"),
    ord("U"): lambda m: m._old_text("<B"),
    ord("T"): lambda m: m._old_text("<i"),
    ord("B"): lambda m: m._bytes("<I"),
    ord("C"): lambda m: m._bytes("<B"),
    0x8E: lambda m: m._bytes("<Q"),
    ord(")"): lambda m: m._push(()),
    ord("t"): lambda m: m._push(tuple(m._to_mark())),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("]"): lambda m: m._push([]),
    ord("l"): PickleMachine._reversed_list,
    ord("a"): PickleMachine._append,
    ord("e"): lambda m: m._extend(m._to_mark()),
    ord("}"): lambda m: m._push({}),
    ord("d"): PickleMachine._dict,
    ord("s"): PickleMachine._set_item,
    ord("u"): lambda m: m._set_items(m._to_mark()),
    0x8F: lambda m: m._push([]),  # a set, of which only that it is one matters
    0x90: lambda m: m._extend(m._to_mark()),
    0x91: PickleMachine._frozen_set,
    ord("q"): lambda m: m._put(m._number("<B")),
    ord("r"): lambda m: m._put(m._number("<I")),
    0x94: lambda m: m._put(len(m._memo)),
    ord("h"): lambda m: m._push(m._memo[m._number("<B")]),
    ord("j"): lambda m: m._push(m._memo[m._number("<I")]),
    ord("c"): PickleMachine._global,
    0x93: PickleMachine._stack_global,
    ord("R"): PickleMachine._call,
    0x81: PickleMachine._call,
    ord("b"): PickleMachine._build,
    ord("Q"): PickleMachine._persistent,
}
