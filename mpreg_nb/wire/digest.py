"""A digest of what a pickle says, and not of how it says it.

Equal functions rarely pickle to equal bytes: sets come in the order of this
process's string hashes, equal strings are written once or twice as it happens
that they are one object or two, classes carry a random mark, and code the name of
the file that this run of the cell was given. So the pickle is read by a reader
that imports nothing and calls nothing, and what it says is hashed in one order.
"""

import hashlib
import io
import pickle
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeAlias

VERSION_DIGITS = 32
"""Hexadecimal digits of a version: 128 bits of the sha256."""

# Where cloudpickle's reduction of code, since Python 3.11, has what a rerun of an
# unchanged cell changes: the name of the cell's file and the line in it.
_CODE_FILE = 10
_CODE_LINE = 13

# In 3.13 classes tell their line, and their attributes in an unstable order.
_CLASS_LINE = "__firstlineno__"
_CLASS_ATTRIBUTES = "__static_attributes__"

_FLAT = frozenset({int, float, bool, str, bytes, type(None)})


class _Made:
    """What a call in the pickle would have made."""

    def __init__(self, maker: object, args: tuple[object, ...]) -> None:
        self.maker = maker
        self.args = args
        self.state: object = None
        self.items: list[object] = []  # appended, added, or key and value in turn
        self.changes: list[_Made] = []  # calls that were given this as the first of two

    def __call__(self, *args: object) -> "_Made":
        return _made(self, args)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items += (key, value)

    def append(self, item: object) -> None:
        self.items.append(item)

    def extend(self, items: Iterable[object]) -> None:
        self.items.extend(items)

    add = append


class _Named:
    """Stands for what has this module and name; pickle wants it to be a class."""

    module: str
    name: str

    def __new__(cls, *args: object, **_: object) -> Any:
        return _made(cls, args)


def _made(maker: object, args: tuple[object, ...]) -> _Made:
    made = _Made(maker, args)
    # `setter(obj, state)` leaves no trace on the stack, so it is noted on `obj`.
    if len(args) == 2 and isinstance(args[0], _Made):
        args[0].changes.append(made)
    return made


class _Reader(pickle.Unpickler):
    """Reads a pickle into tuples, lists, dicts, sets, _Made and _Named."""

    def __init__(self, data: Any, buffers: Iterable[Any]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._named: dict[tuple[str, str], type[_Named]] = {}

    def find_class(self, module: str, name: str) -> type[_Named]:
        key = (module, name)
        if key not in self._named:
            body = {"module": module, "name": name}
            self._named[key] = type("_Named", (_Named,), body)
        return self._named[key]

    def persistent_load(self, pid: Any) -> _Made:
        return _Made("persistent", (pid,))


def read(head: Any, buffers: Iterable[Any] = ()) -> Any:
    """Return what the pickle says, as inert objects."""
    return _Reader(head, buffers).load()  # finds no class: runs nothing


def digest(said: object) -> str:
    """Return 32 hexadecimal digits for what `read` returned."""
    return _sum(said).hex()[:VERSION_DIGITS]


def code_files(said: object) -> list[str]:
    """Return the file names of all code in what `read` returned, each once."""
    names: dict[str, None] = {}
    seen: set[int] = set()
    pending = [said]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _Made):
            if _is_code(value):
                names[str(value.args[_CODE_FILE])] = None
            pending += (value.maker, value.state, *value.args, *value.items)
            pending += value.changes
        elif isinstance(value, dict):
            pending += (*value.keys(), *value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending += value
    return list(names)


_Numbers: TypeAlias = dict[int, int]
"""The id of a container -> in what order it was met."""


def _sum(root: object, around: tuple[_Numbers, ...] = ()) -> bytes:
    """Hash everything from `root` on: each container once, then by its number.

    `around` has the numbers of what a set is in whose items are hashed one by one.
    """
    hasher = hashlib.sha256()
    numbers: _Numbers = {}
    pending: list[object] = [root]
    while pending:
        value = pending.pop()
        write = _WRITERS.get(type(value))
        if write is not None:
            hasher.update(write(value))
            continue
        if isinstance(value, type) and issubclass(value, _Named):
            hasher.update(_text(f"{value.module}:{value.name}"))
            continue
        if isinstance(value, tuple) and _is_flat(value):
            hasher.update(_flat(value))  # constants: equal means same, no identity
            continue
        above = [n for n, met in enumerate(around) if id(value) in met]
        if above:
            hasher.update(b"^%d@%d;" % (above[0], around[above[0]][id(value)]))
            continue
        number = numbers.get(id(value))
        if number is not None:
            hasher.update(b"@%d;" % number)
            continue
        numbers[id(value)] = len(numbers)
        if isinstance(value, list) and len(value) > 32 and _is_flat(value):
            hasher.update(b"l" + _flat(value))
            continue
        tag, children = _opened(value, (*around, numbers))
        hasher.update(b"%s%d;" % (tag, len(children)))
        pending.extend(reversed(children))
    return hasher.digest()


def _opened(value: object, around: tuple[_Numbers, ...]) -> tuple[bytes, list[object]]:
    match value:
        case list() | tuple():
            return type(value).__name__.encode(), list(value)
        case dict():
            return b"dict", list(_entries(value))
        case set() | frozenset():
            kind = type(value).__name__.encode()
            if _is_flat(value):
                return kind, [tuple(sorted(value, key=repr))]
            return kind, [*sorted(_sum(item, around) for item in value)]
        case _Made():
            parts = [value.maker, *_arguments(value), value.state, *value.items]
            return b"made", [*parts, *value.changes]
        case _:  # an out-of-band buffer
            return b"raw", [bytes(memoryview(value).cast("B"))]  # type: ignore[arg-type]


def _entries(value: dict[Any, Any]) -> Iterator[object]:
    for key, item in value.items():
        if key == _CLASS_LINE:
            continue
        yield key
        yield tuple(sorted(item)) if key == _CLASS_ATTRIBUTES else item


def _arguments(made: _Made) -> list[object]:
    args = list(made.args)
    if _is_code(made):
        args[_CODE_FILE] = args[_CODE_LINE] = None
    elif getattr(made.maker, "module", "").startswith(_MARKING):
        args = [None if _is_mark(arg) else arg for arg in args]
    return args


_MARKING = ("cloudpickle", "mpreg_nb.wire")  # makers that take a mark of a class


def _is_mark(arg: object) -> bool:
    return isinstance(arg, str) and len(arg) == 32 and not set(arg) - _HEX


_HEX = frozenset("0123456789abcdef")


def _is_code(made: _Made) -> bool:
    maker = made.maker
    return (
        isinstance(maker, _Made)
        and maker.args == ("CodeType",)
        and len(made.args) > _CODE_LINE
    )


def _is_flat(value: Collection[Any]) -> bool:
    return set(map(type, value)) <= _FLAT


def _flat(value: "list[Any] | tuple[Any, ...]") -> bytes:
    text = repr(value).encode(errors="surrogatepass")
    return b"f%d;%s" % (len(text), text)


def _text(value: str) -> bytes:
    data = value.encode(errors="surrogatepass")
    return b"s%d;%s" % (len(data), data)


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"d" + struct.pack(">d", value),
    str: _text,
    bytes: lambda value: b"b%d;%s" % (len(value), value),
    bytearray: lambda value: b"a%d;%s" % (len(value), value),
}
