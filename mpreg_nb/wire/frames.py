"""Frames of the worker lane, without the socket that they go through.

`FrameReader` says where received bytes go and what messages they make. Large
parts are received where they stay: nothing is copied twice.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec

from mpreg_nb.wire.room import Room, room

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer, Parts

T = TypeVar("T")

Received: TypeAlias = tuple[T, tuple[Room, ...]]

BUFFER_BYTES = 256 * 1024
"""Received at once; a Unix socket holds about as much."""

MESSAGE_BYTES = 1 << 30
"""Longest message without its parts; more is taken for a broken stream."""

_encode = msgspec.msgpack.Encoder().encode


def frame(message: msgspec.Struct) -> bytes:
    """Return a message as a frame; its parts, if any, must follow."""
    data = _encode(message)
    return len(data).to_bytes(4, "big") + data


def sizes(parts: "Parts") -> tuple[int, ...]:
    """Return the lengths of parts in bytes."""
    return tuple(memoryview(part).nbytes for part in parts)


class FrameReader(Generic[T]):
    """Makes messages of received bytes.

    Give `space()` to `recv_into`, and the count that it returned to `received`.
    """

    def __init__(self, kind: Any) -> None:
        self._decode: Callable[[Buffer], T] = msgspec.msgpack.Decoder(kind).decode
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._start = 0  # of what is in the buffer and has not been looked at
        self._end = 0
        self._message: T | None = None  # waits for its parts
        self._parts: list[Room] = []
        self._filling = 0  # which part is being received
        self._filled = 0  # how much of it is there

    def space(self) -> memoryview:
        """Return where the next bytes go."""
        if self._message is not None:
            return memoryview(self._parts[self._filling])[self._filled :]
        return self._view[self._end :]

    def received(self, count: int) -> list[Received[T]]:
        """Return the messages that became complete with `count` more bytes.

        Raises:
            ValueError: these bytes are not of this lane.
        """
        found: list[Received[T]] = []
        if self._message is not None:
            self._filled += count
            if not self._is_full():
                return found
            found.append(self._completed())
        else:
            self._end += count
        self._take(found)
        return found

    def _take(self, found: list[Received[T]]) -> None:
        view, start, end = self._view, self._start, self._end
        while end - start >= 4:
            stop = start + 4 + int.from_bytes(view[start : start + 4], "big")
            if stop > end:
                break
            message = self._decode(view[start + 4 : stop])
            start = stop
            lengths = getattr(message, "sizes", ())
            if not lengths:
                found.append((message, ()))
                continue
            start = self._begin(message, lengths, start, end)
            if not self._is_full():
                break
            found.append(self._completed())
        self._start = start
        if start == end:
            self._start = self._end = 0
        else:
            self._make_room()

    def _begin(self, message: T, lengths: Iterable[int], start: int, end: int) -> int:
        """Expect parts, take of them what is in the buffer, return where it ends."""
        self._message = message
        self._parts = [room(length) for length in lengths]
        for number, part in enumerate(self._parts):
            count = min(len(part), end - start)
            part[:count] = self._view[start : start + count]
            start += count
            self._filling, self._filled = number, count
            if count < len(part):
                break
        return start

    def _is_full(self) -> bool:
        """Whether all parts are there; goes on to the next one that is not."""
        while self._filled == len(self._parts[self._filling]):
            if self._filling + 1 == len(self._parts):
                return True
            self._filling += 1
            self._filled = 0
        return False

    def _completed(self) -> Received[T]:
        message, parts = self._message, tuple(self._parts)
        self._message, self._parts = None, []
        if message is None:
            raise RuntimeError("parts without a message")
        return message, parts

    def _make_room(self) -> None:
        """Move what is left to the front of a buffer that can hold the message."""
        left = self._end - self._start
        needed = 4
        if left >= 4:
            head = self._view[self._start : self._start + 4]
            needed += int.from_bytes(head, "big")
        if needed > MESSAGE_BYTES:
            raise ValueError(f"a message of {needed} bytes")
        if self._start + needed <= len(self._view) > self._end:
            return
        old = self._view[self._start : self._end]
        if needed > len(self._view):
            self._view = memoryview(bytearray(needed))
        elif len(self._view) > BUFFER_BYTES >= needed:
            self._view = memoryview(bytearray(BUFFER_BYTES))
        self._view[:left] = old
        self._start, self._end = 0, left
