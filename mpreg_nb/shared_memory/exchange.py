"""What goes over one link instead of the bytes of large parts, and what comes back.

The parts of a message are written as `SegmentRef`s: which segment, where, how long. The
descriptor of a segment goes once, beside the link, through a socket that carries
descriptors (`DescriptorChannel`); after that its id is enough, for both ends.

For each message that refers to a segment the receiver gets one lease, and returns it
when nothing uses it any more. Until then the sender keeps what it sent alive. A link
that is lost returns nothing: what was on it becomes stale.
"""

import array
import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from mpreg_nb.protocol.shared import PartRef, SegmentRef, SegmentsGone
from mpreg_nb.settings import FRAGMENT_BYTES
from mpreg_nb.shared_memory.segments import (
    ID_BYTES,
    LARGE_PART_BYTES,
    MOST_SEGMENTS,
    Segment,
    SharedMemory,
)

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts


MOST_KNOWN = 2 * MOST_SEGMENTS
"""Segments of one link; values in others go as bytes."""


class DescriptorChannel:
    """A socket beside a link, through which descriptors of segments go.

    What was written to it is at the other end when `send` returns. So a descriptor
    that was sent before a message is there when the message is read.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    def send(self, segment: Segment) -> bool:
        """Send the descriptor of `segment`; False: the other end does not take it."""
        head = segment.id + segment.capacity.to_bytes(8, "big")
        rights = array.array("i", (segment.descriptor,))
        try:
            self._end.sendmsg(
                [head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())]
            )
        except OSError:  # full, or closed, or too many descriptors on their way
            return False
        return True

    def receive(self) -> Iterable[tuple[bytes, int, int]]:
        """Yield id, descriptor and capacity of the segments that have come."""
        size = array.array("i").itemsize
        while True:
            try:
                head, rights, _, _ = self._end.recvmsg(
                    ID_BYTES + 8, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC
                )
            except OSError:  # nothing more, or closed
                return
            if not head:
                return
            for level, kind, data in rights:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    (descriptor,) = array.array("i", data[:size])
                    capacity = int.from_bytes(head[ID_BYTES:], "big")
                    yield head[:ID_BYTES], descriptor, capacity

    def close(self) -> None:
        """Close it; what is on its way is gone."""
        self._end.close()


Exported: TypeAlias = tuple[PartRef, ...]


class SegmentExchange:
    """The segments that both ends of one link know.

    `wake` is called when `news` has something to tell: on any thread, in the middle of
    anything, so that it may wait for nothing.
    """

    def __init__(
        self,
        memory: SharedMemory,
        channel: DescriptorChannel,
        wake: Callable[[], object],
    ) -> None:
        self._memory = memory
        self._channel = channel
        self._wake = wake
        self._known: dict[bytes, Segment] = {}
        self._given: dict[bytes, Segment] = {}  # of these, what the other end sent
        self._lent: dict[bytes, list[Buffer]] = {}  # id -> what the other end may read
        self._ended: deque[Segment] = deque()  # leases to return
        self._discarded: deque[Segment] = deque()
        self._is_awake = False
        self._is_closed = False
        self._process = memory.process
        self._lock = threading.RLock()  # never taken where leases end
        memory.linked(1)

    # ------------------------------------------------------------------- send

    def export(self, parts: "Parts") -> Exported | None:
        """Return what to write for `parts`; None: write their bytes.

        Each result must be sent: the other end returns what it was lent with it.
        """
        with self._lock:
            found: list[tuple[Segment, PartRef] | None] = []
            beside = 0
            for part in parts:
                size = len(part)
                at = self._memory.find(part, size) if size >= LARGE_PART_BYTES else None
                if at is None:
                    beside += size
                    if beside > FRAGMENT_BYTES:
                        return None
                    found.append(None)
                else:
                    segment, offset = at
                    found.append((segment, SegmentRef(segment.id, offset, size)))
            lent = {one[0].id: one[0] for one in found if one is not None}
            if not lent or not all(map(self._introduce, lent.values())):
                return None
            entries: list[PartRef] = []
            for part, one in zip(parts, found, strict=True):
                if one is None:
                    entries.append(bytes(part))
                    continue
                entries.append(one[1])
                if lent.pop(one[0].id, None) is not None:
                    self._lent.setdefault(one[0].id, []).append(part)
            return tuple(entries)

    def _introduce(self, segment: Segment) -> bool:
        """Send the descriptor of a segment unless the other end has it."""
        if segment.id in self._known:
            return True
        if segment.is_dropped or len(self._known) >= MOST_KNOWN:
            return False
        if not self._channel.send(segment):
            return False
        self._known[segment.id] = segment
        segment.known_by.add(self)
        return True

    # ---------------------------------------------------------------- receive

    def accept(self, entries: Exported) -> "tuple[Buffer, ...]":
        """Return the parts that the other end wrote as `entries`.

        Raises:
            ValueError: it refers to what it did not send.
        """
        with self._lock:
            leases: dict[bytes, memoryview] = {}
            parts: list[Buffer] = []
            for entry in entries:
                if isinstance(entry, bytes):
                    parts.append(entry)
                    continue
                lease = leases.get(entry.segment)
                if lease is None:
                    segment = self._known.get(entry.segment) or self._receive(
                        entry.segment
                    )
                    lease = leases[entry.segment] = segment.lease(self._lease_ended)
                if entry.offset + entry.length > len(lease):
                    raise ValueError("a part is beyond the end of its segment")
                parts.append(lease[entry.offset : entry.offset + entry.length])
            return tuple(parts)

    def _receive(self, wanted: bytes) -> Segment:
        self.take_in()
        if wanted not in self._known:
            raise ValueError("a part is in a segment that was not sent")
        return self._known[wanted]

    def take_in(self) -> None:
        """Map the segments whose descriptors have come."""
        with self._lock:
            for key, descriptor, capacity in self._channel.receive():
                segment = self._memory.map(key, descriptor, capacity)
                self._known[key] = self._given[key] = segment
                segment.known_by.add(self)

    # ----------------------------------------------------------------- return

    def _lease_ended(self, segment: Segment) -> None:
        self._ended.append(segment)
        self._alert()

    def discard(self, segment: Segment) -> None:
        """Have both ends forget a segment, once nothing of it is lent."""
        self._discarded.append(segment)
        self._alert()

    def _alert(self) -> None:
        if self._process is not self._memory.process:
            return  # in a forked child: the link is its parent's
        if not self._is_awake and not self._is_closed:
            self._is_awake = True
            self._wake()

    def news(self) -> SegmentsGone | None:
        """Return what the other end is to be told now, if anything."""
        with self._lock:
            self._is_awake = False
            returned: list[bytes] = []
            stale: list[bytes] = []
            while self._ended:
                segment = self._ended.popleft()
                (stale if segment.is_stale else returned).append(segment.id)
            forgotten: list[bytes] = []
            for _ in range(len(self._discarded)):
                segment = self._discarded.popleft()
                if segment.id in self._lent:
                    continue  # when it is returned
                if self._known.pop(segment.id, None) is not None:
                    self._given.pop(segment.id, None)
                    segment.known_by.discard(self)
                    forgotten.append(segment.id)
            if not (returned or stale or forgotten):
                return None
            return SegmentsGone(
                returned=tuple(returned), stale=tuple(stale), forgotten=tuple(forgotten)
            )

    def told(self, gone: SegmentsGone) -> None:
        """Take back what the other end returns, and forget what it forgets."""
        with self._lock:
            for key in gone.stale:
                if key in self._known:
                    self._known[key].is_stale = True
            for key in (*gone.returned, *gone.stale):
                lent = self._lent.get(key)
                if lent is None:
                    continue
                lent.pop()
                if not lent:
                    del self._lent[key]
                    segment = self._known.get(key)
                    if segment is not None and segment.is_dropped:
                        self.discard(segment)
            if gone.forgotten:
                self.take_in()  # a descriptor may have come that is to be forgotten
            for key in gone.forgotten:
                segment = self._known.pop(key, None)
                if segment is not None:
                    segment.known_by.discard(self)
                    if self._given.pop(key, None) is not None:
                        self._memory.forget(segment)

    def gives(self, segment: Segment) -> bool:
        """Whether the other end is one that this process has the segment from."""
        return segment.id in self._given

    def close(self) -> None:
        """End with the link. What is lent may be read for ever: it becomes stale."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._memory.linked(-1)
            with contextlib.suppress(OSError):
                for _, descriptor, _ in self._channel.receive():
                    os.close(descriptor)
            self._channel.close()
            for key in self._lent:
                if key in self._known:
                    self._known[key].is_stale = True
            self._lent.clear()
            known, self._known = self._known, {}
            for segment in known.values():
                segment.known_by.discard(self)
            given, self._given = self._given, {}
            for segment in given.values():
                self._memory.forget(segment)
