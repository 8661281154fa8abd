"""Payloads too large for one message, cut into fragments and put together again.

The message goes first, in an `Attach` that tells the sizes of its parts; the
bytes of the parts follow in `Fragment`s, of several streams in turn, so that
small messages find their way between them. No part is copied to be sent, and
the room for each is made once where it is received. Pure bookkeeping: when to
write is for the connection to say.

A stream's number is even if the side that dialled began it, so that an `Abort`
can come from both ends: "no more of this will come", and "send no more of it".
"""

import mmap
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from mpreg_nb.errors import BadRequest
from mpreg_nb.protocol.codec import (
    Abort,
    Attach,
    Buffer,
    Fragment,
    Parts,
    Unread,
    encode,
    unread,
)
from mpreg_nb.settings import FRAGMENT_BYTES

OPEN_AT_ONCE = 16
"""Streams of one direction whose fragments are mixed; more wait their turn."""

MOST_PARTS = 65_536

MOST_PIECES = 8
"""Of one fragment without a copy; more small parts are joined first."""

MAPPED_BYTES = 2 << 20
"""A part of this size gets pages of its own, which the system clears as they fill.
A bytearray is cleared when it is made: 40 ms for 100 MB, in which nothing moves."""

WHOLE = b"\xc0"
"""msgpack's nil, in place of a message too long for a frame: part 0 is it."""


class _Outgoing(msgspec.Struct):
    stream: int
    attach: bytes
    left: deque[memoryview]  # what is still to be sent
    key: bytes | None = None  # streams of one key go one after the other


class OutgoingStreams:
    """Cuts parts into fragments, one of each stream in turn.

    Streams of the same key go one after the other: what a call displays must come
    before its answer, however large it is.
    """

    __slots__ = ("_behind", "_next_stream", "_open", "_waiting", "waiting_bytes")

    def __init__(self, *, dialled: bool) -> None:
        self.waiting_bytes = 0
        """Of all parts that are still to be sent."""
        self._next_stream = 2 if dialled else 1
        self._open: deque[_Outgoing] = deque()
        self._waiting: deque[_Outgoing] = deque()
        # Of each key that is on its way: those whose turn comes after it.
        self._behind: dict[bytes, deque[_Outgoing]] = {}

    def __len__(self) -> int:
        """How many there are; those of one key count while its first is on its way."""
        return len(self._open) + len(self._waiting)

    def is_behind(self, message: Any) -> bool:
        """Whether `message` must wait for a stream that has its id as the key."""
        return bool(self._behind) and getattr(message, "id", None) in self._behind

    def clear(self) -> None:
        """Forget all of them."""
        self._open.clear()
        self._waiting.clear()
        self._behind.clear()
        self.waiting_bytes = 0

    def add(self, message: bytes, parts: Parts, key: bytes | None = None) -> int:
        """Queue `parts` of the encoded `message`; return the stream's number."""
        if len(parts) > MOST_PARTS:
            raise ValueError(f"a message has at most {MOST_PARTS} parts")
        views = [_flat(part) for part in parts]
        stream = self._next_stream
        self._next_stream = stream + 2 if stream < 2**32 - 2 else 1 + stream % 2
        attach = Attach(
            stream=stream,
            sizes=tuple(len(view) for view in views),
            message=msgspec.Raw(message),
        )
        left = deque(view for view in views if len(view))
        outgoing = _Outgoing(stream, encode(attach), left, key)
        self.waiting_bytes += sum(attach.sizes)
        if key is not None and key in self._behind:
            self._behind[key].append(outgoing)
            return stream
        if key is not None:
            self._behind[key] = deque()
        self._waiting.append(outgoing)
        return stream

    def _over(self, outgoing: _Outgoing) -> None:
        """Let the next of its key begin."""
        if outgoing.key is None:
            return
        behind = self._behind[outgoing.key]
        if behind:
            self._waiting.append(behind.popleft())
        else:
            del self._behind[outgoing.key]

    def next_element(self) -> list[Buffer]:
        """Return the next element to send, in pieces; nothing if all is sent."""
        if self._waiting and len(self._open) < OPEN_AT_ONCE:
            begun = self._waiting.popleft()
            if begun.left:
                self._open.append(begun)
            else:
                self._over(begun)
            return [begun.attach]
        if not self._open:
            return []
        current = self._open.popleft()
        pieces = list(_cut(current.left, FRAGMENT_BYTES))
        if current.left:
            self._open.append(current)
        else:
            self._over(current)
        size = sum(map(len, pieces))
        self.waiting_bytes -= size
        if len(pieces) > MOST_PIECES:
            return [_fragment_head(current.stream, size), b"".join(pieces)]
        return [_fragment_head(current.stream, size), *pieces]

    def abort(self, stream: int) -> bytes:
        """Forget `stream`; return what tells the other side, if it knows of it."""
        for queue in (self._open, self._waiting):
            for outgoing in queue:
                if outgoing.stream == stream:
                    queue.remove(outgoing)
                    self._forget(outgoing)
                    self._over(outgoing)
                    known = queue is self._open
                    return encode(Abort(stream=stream)) if known else b""
        for behind in self._behind.values():
            for outgoing in behind:
                if outgoing.stream == stream:
                    behind.remove(outgoing)
                    self._forget(outgoing)
                    return b""
        return b""

    def _forget(self, outgoing: _Outgoing) -> None:
        self.waiting_bytes -= sum(map(len, outgoing.left))


class _Incoming(msgspec.Struct):
    message: Any
    parts: tuple[Buffer, ...]
    missing: int
    rooms: deque[memoryview]  # of the parts, what is not yet filled


class Complete(msgspec.Struct, frozen=True):
    """A message with all of its parts."""

    message: Any
    parts: tuple[Buffer, ...]


class TooLarge(msgspec.Struct, frozen=True):
    """A message whose parts are dropped, since they are more than is accepted."""

    message: Any
    size_bytes: int


class IncomingStreams:
    """Puts fragments in their places; nothing is received twice or moved."""

    __slots__ = ("_max_bytes", "_open", "_refused")

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._open: dict[int, _Incoming] = {}
        self._refused: dict[int, int] = {}  # stream -> bytes that may yet come

    def __len__(self) -> int:
        return len(self._open)

    def clear(self) -> None:
        """Forget all of them."""
        self._open.clear()
        self._refused.clear()

    def attach(
        self, stream: int, sizes: tuple[int, ...], message: Any
    ) -> Complete | TooLarge | Unread | None:
        """Make room for the parts of `message`.

        Unread: the stream is open already, or one too many.
        """
        if stream in self._open or stream in self._refused:
            return unread(message, f"stream {stream} was started twice")
        if len(self._open) + len(self._refused) > 2 * OPEN_AT_ONCE:
            return unread(message, "too many streams at once")
        total = sum(sizes)
        if total > self._max_bytes:
            self._refused[stream] = total
            return TooLarge(message, total)
        try:
            parts = tuple(_room(size) for size in sizes)
        except (MemoryError, OSError):
            self._refused[stream] = total
            return TooLarge(message, total)
        if not total:
            return Complete(message, parts)
        rooms = deque(memoryview(part) for part in parts if len(part))
        self._open[stream] = _Incoming(message, parts, total, rooms)
        return None

    def refuse(self, stream: int, sizes: tuple[int, ...]) -> None:
        """Drop the parts that will come of a message which could not be read."""
        if sum(sizes) and stream not in self._open:
            self._refused[stream] = sum(sizes)

    def fragment(self, stream: int, data: memoryview) -> Complete | Unread | None:
        """Copy `data` to its place; return the message if that completed it.

        Unread: more came than was announced.

        Raises:
            BadRequest: the stream is not open.
        """
        incoming = self._open.get(stream)
        if incoming is None:
            if stream in self._refused:
                self._drop(stream, len(data))
                return None
            raise BadRequest(f"a fragment of stream {stream}, which is not open")
        incoming.missing -= len(data)
        if incoming.missing < 0:
            del self._open[stream]
            reason = f"stream {stream} sent more than it announced"
            return unread(incoming.message, reason)
        rooms = incoming.rooms
        while len(data):
            room = rooms[0]
            size = min(len(room), len(data))
            room[:size] = data[:size]
            data = data[size:]
            if size == len(room):
                rooms.popleft()
            else:
                rooms[0] = room[size:]
        if incoming.missing:
            return None
        del self._open[stream]
        return Complete(incoming.message, incoming.parts)

    def abort(self, stream: int) -> None:
        """Forget `stream`; its sender gave it up."""
        self._open.pop(stream, None)
        self._refused.pop(stream, None)

    def _drop(self, stream: int, size: int) -> None:
        self._refused[stream] -= size
        if self._refused[stream] <= 0:
            del self._refused[stream]


def _room(size: int) -> bytearray | memoryview:
    if size < MAPPED_BYTES:
        return bytearray(size)
    # No huge pages: they are three times as fast once the system has some at hand,
    # and can stall for 200 ms where it has to make them.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(pages)


def _flat(part: Buffer) -> memoryview:
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _cut(left: deque[memoryview], size: int) -> Iterator[memoryview]:
    """Take at most `size` bytes off the front of `left`."""
    while left and size:
        first = left.popleft()
        if len(first) > size:
            left.appendleft(first[size:])
            first = first[:size]
        size -= len(first)
        yield first


def _fragment_head(stream: int, size: int) -> bytes:
    # An encoded Fragment up to its data; so the data need not be copied into it.
    empty = encode(Fragment(stream=stream, data=memoryview(b"")))
    return empty[:-2] + b"\xc6" + size.to_bytes(4, "big")
