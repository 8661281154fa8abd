"""An exception as a record that can be read even where it cannot be rebuilt.

An exception is taken apart into its class, its arguments and its attributes,
rather than pickled whole: many exception classes pickle well and then fail to
unpickle, because their `__init__` wants other arguments than it passes on.
"""

from collections.abc import Callable, Iterator
from traceback import TracebackException, format_tb
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import RemoteError
from mpreg_nb.wire.exceptions import Content, attributes, content, make, members, read
from mpreg_nb.wire.tracebacks import Frame, frames, sources, without_ours

Pack: TypeAlias = Callable[[object], bytes]
"""Pickles a value so that it can be unpickled again, or raises."""

CAME = "_mpreg_came"
"""The attribute of an error from afar in which we keep what it is made of."""

TEXT_LENGTH = 64 * 1024
MESSAGE_LENGTH = 8 * 1024
PICKLE_BYTES = 1 << 20
"""An exception whose pickle is larger travels with its large values cut."""

ERRORS = 32
"""Longest chain of causes, members of groups included."""


class Raised(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One exception. Others of its report are told by their number in it."""

    types: tuple[str, ...]  # qualified names of its class and the bases
    message: str
    frames: tuple[Frame, ...]
    # A `Content`, or the exception itself in a tuple; empty where neither can travel.
    pickled: bytes = b""
    cause: int | None = None
    context: int | None = None
    hides_context: bool = False
    members: tuple[int, ...] = ()  # of a group


class Report(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An exception, first, and all that it came from."""

    errors: tuple[Raised, ...]
    text: str  # as a traceback is printed
    sources: dict[str, str]  # file name of a cell -> its text


def type_names(cls: type) -> tuple[str, ...]:
    """Return the qualified names of a class and its bases, nearest first.

    >>> type_names(KeyError)[:2]
    ('builtins.KeyError', 'builtins.LookupError')
    """
    return tuple(f"{c.__module__}.{c.__qualname__}" for c in cls.__mro__[:-1])


def raised_class(error: BaseException) -> type[BaseException]:
    """Return the class that was raised: also of an error that came from afar."""
    return type(_here(error))


def message_of(error: BaseException) -> str:
    """Return what `error` says, cut to length."""
    try:
        return shortened(str(error), MESSAGE_LENGTH)
    except BaseException as trouble:  # noqa: BLE001  any class may define __str__
        return f"(its __str__ raised {type(trouble).__name__})"


def describe(error: BaseException, pack: Pack) -> bytes:
    """Return the report of `error`."""
    chain = list(_chain(error))
    numbers = {id(one): number for number, one in enumerate(chain)}
    errors = tuple(_raised(one, numbers, pack) for one in chain)
    filenames = (frame.filename for one in errors for frame in one.frames)
    report = Report(errors=errors, text=_printed(error), sources=sources(filenames))
    return msgspec.msgpack.encode(report)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and everything it refers to, each once, nearest first."""
    pending = [error]
    seen: set[int] = set()
    while pending and len(seen) < ERRORS:
        one = pending.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        near = [read(one, "__cause__"), read(one, "__context__"), *members(one)]
        pending += [other for other in near if other is not None]


def _raised(error: BaseException, numbers: dict[int, int], pack: Pack) -> Raised:
    group = members(error)
    # Where the chain was cut, a group has none of its members, rather than some.
    complete = all(id(member) in numbers for member in group)
    return Raised(
        types=tuple(_encodable(name) for name in type_names(raised_class(error))),
        message=message_of(error),
        frames=frames(read(error, "__traceback__")),
        pickled=_pickled(error, pack) if complete else b"",
        cause=numbers.get(id(read(error, "__cause__"))),
        context=numbers.get(id(read(error, "__context__"))),
        hides_context=read(error, "__suppress_context__"),
        members=tuple(numbers[id(member)] for member in group) if complete else (),
    )


def _here(error: BaseException) -> BaseException:
    """Return what to take apart: of an error that came from afar, the original."""
    came = attributes(error).get(CAME)
    if came is None and issubclass(type(error), RemoteError):
        original = attributes(error).get("original")
    else:
        original = None if came is None else came.original
    return original if isinstance(original, BaseException) else error


def _pickled(error: BaseException, pack: Pack) -> bytes:
    error = _here(error)
    cls, args, state, slots = content(error)
    state = {name: value for name, value in state.items() if name != CAME}
    if not _can_be_made(cls, args, members(error)):
        return _tried((error,), pack)  # it is one of C, with a way of its own
    data = _tried((cls, args, state, slots), pack)
    if data:
        return data
    args = tuple(_fit(arg, pack) for arg in args)
    state = {name: _fit(value, pack) for name, value in state.items()}
    slots = {name: _fit(value, pack) for name, value in slots.items()}
    return _tried((cls, args, state, slots), pack)


def _can_be_made(
    cls: type[BaseException], args: tuple[Any, ...], inner: tuple[BaseException, ...]
) -> bool:
    try:
        make(cls, args, inner)
    except Exception:  # noqa: BLE001  whatever a type of C says to other arguments
        return False
    return True


def _tried(value: Content | tuple[BaseException], pack: Pack) -> bytes:
    try:
        data = pack(value)
    except BaseException:  # noqa: BLE001  user code runs in there; the text remains
        return b""
    return data if len(data) <= PICKLE_BYTES else b""


def _fit(value: object, pack: Pack) -> object:
    """Return `value`, or its text where it is large or cannot travel."""
    try:
        if len(pack(value)) <= TEXT_LENGTH:
            return value
        return shortened(value if isinstance(value, str) else repr(value))
    except BaseException:  # noqa: BLE001  user code runs in there
        return f"<{type(value).__name__} that cannot be pickled>"


def _printed(error: BaseException) -> str:
    traceback = without_ours(read(error, "__traceback__"))
    try:
        told = TracebackException(type(error), error, traceback, compact=True)
        _shorten(told)
        text = "".join(told.format())
    except BaseException:  # noqa: BLE001  any class may define __str__ and the like
        places = "".join(format_tb(traceback))
        said = f"{type_names(type(error))[0]}: {message_of(error)}\n"
        text = f"Traceback (most recent call last):\n{places}{said}"
    return shortened(text, TEXT_LENGTH)


def _shorten(told: TracebackException) -> None:
    """Cut the messages before they are copied into the text."""
    pending: list[Any] = [told]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            text = getattr(one, "_str", None)
            if isinstance(text, str):
                one._str = shortened(text, MESSAGE_LENGTH)
            pending += (one.__cause__, one.__context__, *(one.exceptions or ()))


def shortened(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Return `text` with its middle left out, where it is longer than `length`.

    >>> shortened("abcdefgh" * 100, 60)
    'abcdefghabcdefg [... 765 characters ...] efghabcdefghabcdefgh'
    """
    if len(text) > length:
        head = length // 4
        tail = length - 2 * head - length // 6
        left_out = len(text) - head - tail
        text = f"{text[:head]} [... {left_out} characters ...] {text[-tail:]}"
    return _encodable(text)


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    return text.encode(errors="backslashreplace").decode()
