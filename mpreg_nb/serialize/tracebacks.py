"""Tracebacks as plain records, and records as tracebacks again.

A traceback is bound to its process: frames and code do not travel. What travels
is where each frame stood. From that, real frames are made on the other side, of
code that does nothing but carry the name, file, line and columns, so that
everything that can show a traceback shows these too.
"""

import linecache
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import msgspec

HEAD_FRAMES = 20
TAIL_FRAMES = 80
"""Of a deep recursion, so many frames from each end travel."""

SOURCE_BYTES = 64 * 1024
"""Largest text of a cell that travels with a function or an exception."""

_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class TracebackFrame(msgspec.Struct, frozen=True, array_like=True):
    """The position of one call. Lines and columns count as in code objects."""

    filename: str
    name: str
    qualified_name: str
    first_line: int  # of the function
    line: int
    last_line: int | None = None
    column: int | None = None
    last_column: int | None = None


def hidden(filenames: Sequence[str]) -> list[bool]:
    """Return for each frame, outermost first, whether to hide it from users.

    Those of this package, and those of the standard library that ours called or that
    called ours: they only wait and pass on.
    """
    ours = [name.startswith(_PACKAGE) for name in filenames]
    waits = [
        name.startswith(_LIBRARY) and "site-packages" not in name for name in filenames
    ]
    found = ours[:]
    order = range(len(ours))
    for indices in (order, reversed(order)):
        beside = False
        for index in indices:
            beside = ours[index] or (beside and waits[index])
            found[index] = found[index] or beside
    return found


def frames(traceback: types.TracebackType | None) -> tuple[TracebackFrame, ...]:
    """Return the frames of `traceback`, outermost first, without the hidden ones."""
    places = []
    while traceback is not None:
        places.append((traceback.tb_frame.f_code, traceback))
        traceback = traceback.tb_next
    unseen = hidden([code.co_filename for code, _ in places])
    found = [
        _frame(code, at)
        for (code, at), is_hidden in zip(places, unseen, strict=True)
        if not is_hidden
    ]
    if len(found) > HEAD_FRAMES + TAIL_FRAMES:
        found[HEAD_FRAMES:-TAIL_FRAMES] = ()
    return tuple(found)


def _frame(code: types.CodeType, traceback: types.TracebackType) -> TracebackFrame:
    at = islice(code.co_positions(), traceback.tb_lasti // 2, None)
    start, end, column, end_column = next(at, (None, None, None, None))
    first = code.co_firstlineno
    line = traceback.tb_lineno or start or first
    place = (code.co_filename, code.co_name, code.co_qualname, first, line)
    if start != line:
        return TracebackFrame(*place)
    return TracebackFrame(*place, end, column, end_column)


def without_ours(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """Return `traceback` from the first frame outside of this package."""
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            return traceback
        traceback = traceback.tb_next
    return None


def sources(filenames: Iterable[str]) -> dict[str, str]:
    """Return the text of each file that only this process can read: cells.

    Files on disk are left out, as are texts above `SOURCE_BYTES`.
    """
    found: dict[str, str] = {}
    for filename in filenames:
        if filename not in found and not os.path.isfile(filename):
            text = "".join(linecache.getlines(filename))
            if 0 < len(text) <= SOURCE_BYTES:
                found[filename] = text
    return found


def learn_sources(texts: Mapping[str, str]) -> None:
    """Let tracebacks of this process show lines of `texts`, by file name."""
    for filename, text in texts.items():
        if not linecache.getlines(filename):
            # No modification time: such entries are not checked against the disk.
            lines = text.splitlines(keepends=True)
            linecache.cache[filename] = (len(text), None, lines, filename)


def rebuild(places: Iterable[TracebackFrame]) -> types.TracebackType | None:
    """Return a traceback of `places`, outermost first."""
    traceback: types.TracebackType | None = None
    for place in reversed(tuple(places)):
        frame, at = _stand(place)
        traceback = types.TracebackType(traceback, frame, at, place.line)
    return traceback


class _Stop(Exception):
    """Raised and caught in this file, to create a frame."""


def _raise() -> None:
    raise _Stop


def _stand(place: TracebackFrame) -> tuple[types.FrameType, int]:
    """Return a frame at the position `place`, and its current instruction."""
    code = _raise.__code__.replace(
        co_filename=place.filename,
        co_name=place.name,
        co_qualname=place.qualified_name,
        co_firstlineno=place.first_line,
        co_linetable=_line_table(place, len(_raise.__code__.co_code) // 2),
    )
    stub = types.FunctionType(code, {"__name__": "", "_Stop": _Stop})
    try:
        stub()
    except _Stop as stop:
        here = stop.__traceback__
    if here is None or here.tb_next is None:
        raise RuntimeError("the stub did not run")
    return here.tb_next.tb_frame, here.tb_next.tb_lasti


def _line_table(place: TracebackFrame, instructions: int) -> bytes:
    """Say that all instructions are at `place`.

    One entry is a byte with its kind and how many instructions it is for (up to
    eight), then variable-length numbers. Source: CPython 3.11,
    Objects/locations.md: kind 14 has all columns, kind 13 none.
    """
    if place.last_line is None or place.column is None or place.last_column is None:
        kind, columns = 13, b""
    else:
        below = _number(place.last_line - place.line)
        columns = below + _number(place.column + 1) + _number(place.last_column + 1)
        kind = 14
    table = b""
    down = place.line - place.first_line  # from the entry before
    while instructions > 0:
        count = min(8, instructions)
        table += bytes((0x80 | kind << 3 | count - 1,)) + _signed(down) + columns
        instructions -= count
        down = 0
    return table


def _number(value: int) -> bytes:
    """Write six bits a byte, low ones first; bit 6 says that more follow."""
    data = bytearray()
    while value > 63:
        data.append(0x40 | value & 63)
        value >>= 6
    data.append(value)
    return bytes(data)


def _signed(value: int) -> bytes:
    return _number(-value << 1 | 1 if value < 0 else value << 1)
