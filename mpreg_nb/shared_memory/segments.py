"""Memory that processes of one machine share: segments, their pool, who may read them.

A *segment* is memory without a name (a Linux memfd). The process that made it, its
owner, is the only one that can write; others get a descriptor and map it to read. Its
size is sealed. Since it has no name, it is gone with the last process that maps it,
however that ends.

A segment is filled once and then read, by as many as like to, through *leases*: objects
that export its memory. Arrays, memoryviews and slices of them keep the lease alive that
they came from; when the last of them is gone, the lease ends. The owner fills a segment
anew only when every lease of it has ended, in all processes: whoever passes a value on
keeps its own lease until the receiver has returned its (see `exchange`). Where that
cannot be known any more, because a process died or was forked, the segment is *stale*:
it is never filled again, so that no value ever changes under a reader.

The pages of a segment that was filled once are in place, in the owner and in each
reader: that is why a pool pays, and why new segments cost as much as a socket. What was
free for `IDLE_S` goes back to the system.
"""

import ctypes
import fcntl
import mmap
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts


LEAST_BYTES = 256 * 1024
"""Of the large parts of a value together. Less travels as fast through a socket."""

LARGE_PART_BYTES = 16 * 1024
"""A smaller part of a large value goes with the message."""

DEFAULT_LIMIT_MB = 1024
"""Of what one process owns. What it reads is owned by others."""

MOST_SEGMENTS = 32
"""That one process owns: each costs a descriptor, in every process that has it."""

IDLE_S = 10.0
"""How long a free segment is kept for the next value."""

LOOK_S = 1.0
"""Between looks for segments that nobody used for long."""

ALIGNMENT = 64
"""Of each part in its segment: what vector instructions and Arrow ask for."""

ID_BYTES = 12

IS_SUPPORTED = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
"""Whether this system has such memory; elsewhere values go through sockets."""


def bytes_of(limit_mb: int) -> int:
    """Return a limit in bytes; 0 where this system has no such memory."""
    return limit_mb << 20 if IS_SUPPORTED else 0


_SEAL_FUTURE_WRITE = 0x10  # since Linux 5.1; not in Python 3.11
_FIXED_SIZE = 0x2 | 0x4  # F_SEAL_SHRINK, F_SEAL_GROW
_SEALED = 0x1


class _PyBuffer(ctypes.Structure):
    """Python's Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None

# Calls of the system, without the interpreter's lock: other threads go on meanwhile.
_system = ctypes.CDLL(None, use_errno=True)
_compare = _system.memcmp
_compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_map = _system.mmap
_map.restype = ctypes.c_void_p
_map.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_unmap = _system.munmap
_unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def _mapped(descriptor: int, size_bytes: int, *, writable: bool) -> int:
    """Return where the memory is. Python's mmap would keep a second descriptor.

    Raises:
        OSError: the system does not map it.
        ValueError: there is less of it.
    """
    if os.fstat(descriptor).st_size < size_bytes:
        raise ValueError("a segment is smaller than it was said to be")
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = _map(None, size_bytes, protection, mmap.MAP_SHARED, descriptor, 0)
    if address is None or address == _FAILED:
        raise OSError(ctypes.get_errno(), "shared memory cannot be mapped")
    return int(address)


def address_of(buffer: "Buffer") -> int:
    """Return where the bytes of `buffer` are; for as long as it is held."""
    found = _PyBuffer()
    _get_buffer(buffer, ctypes.byref(found), 0)
    try:
        return found.buf or 0
    finally:
        _release_buffer(ctypes.byref(found))


class Knows(Protocol):
    """A link whose other end has a descriptor of a segment."""

    def discard(self, segment: "Segment") -> None:
        """Tell the other end that the segment is used no more. On any thread."""

    def gives(self, segment: "Segment") -> bool:
        """Whether the other end is one that this process has the segment from."""


class Segment:
    """One piece of shared memory, as this process has mapped it."""

    __slots__ = (
        "__weakref__",
        "_lease_type",
        "address",
        "capacity",
        "descriptor",
        "free_since",
        "id",
        "is_dropped",
        "is_own",
        "is_stale",
        "known_by",
    )

    def __init__(
        self, key: bytes, descriptor: int, capacity: int, *, own: bool
    ) -> None:
        """Map what `descriptor` stands for; it belongs to this object from now on."""
        self.id = key
        self.descriptor = descriptor
        self.capacity = capacity
        self.is_own = own
        self.is_stale = False
        """Whether it may still be read by somebody of whom nothing is known."""
        self.is_dropped = False
        """Whether it is to be forgotten when its last lease has ended."""
        self.known_by: set[Knows] = set()
        self.free_since = 0.0
        self.address = 0
        self.address = _mapped(descriptor, capacity, writable=own)
        self._lease_type = ctypes.c_char * capacity

    def __del__(self) -> None:
        if self.address:
            _unmap(self.address, self.capacity)
        os.close(self.descriptor)

    @classmethod
    def create(cls, key: bytes, capacity: int) -> "Segment":
        """Return a new one that this process owns.

        Raises:
            OSError: the system gives no memory or no descriptor.
        """
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        descriptor = os.memfd_create("mpreg_nb", flags)
        try:
            os.ftruncate(descriptor, capacity)
        except BaseException:
            os.close(descriptor)
            raise
        segment = cls(key, descriptor, capacity, own=True)
        # After the mapping above, which is the only one that can write.
        seals = _FIXED_SIZE | _SEALED
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals | _SEAL_FUTURE_WRITE)
        except OSError:  # an older kernel
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return segment

    def lease(self, ended: Callable[["Segment"], None]) -> memoryview:
        """Return the memory, to be read; `ended` is called when nobody can any more.

        That happens on whichever thread lets go of it, and in the middle of anything:
        `ended` may take no lock.
        """
        exporter = self._lease_type.from_address(self.address)
        weakref.finalize(exporter, ended, self).atexit = False
        return memoryview(exporter).cast("B").toreadonly()

    def holds(self, address: int, size_bytes: int) -> bool:
        """Whether these bytes are in this segment."""
        offset = address - self.address
        return 0 <= offset and offset + size_bytes <= self.capacity

    def fill(self, offset: int, source: "Buffer", size_bytes: int) -> None:
        """Copy `source` to `offset`. Other threads run meanwhile."""
        ctypes.memmove(self.address + offset, address_of(source), size_bytes)


def rounded(size_bytes: int) -> int:
    """Return the capacity for so many bytes: one of eight for each power of two.

    >>> rounded(1), rounded(100_000_000), rounded(1 << 30)
    (262144, 100663296, 1073741824)
    """
    size_bytes = max(size_bytes, LEAST_BYTES)
    step = max(mmap.PAGESIZE, 1 << (size_bytes - 1).bit_length() >> 4)
    return -(-size_bytes // step) * step


class MemoryStatistics(msgspec.Struct, frozen=True):
    """What one process has in shared memory."""

    limit_bytes: int
    owned_bytes: int
    """Of segments that this process made; of these, `free_bytes` hold no value."""

    free_bytes: int
    mapped_bytes: int
    """Of all segments that this process has mapped, those of others too."""

    refused: int
    """Values that went through sockets, since the limit was reached."""


class _Placed(msgspec.Struct, frozen=True):
    """Where a copy of some bytes of this process is."""

    exporter: "weakref.ref[Any]"
    segment: Segment
    offset: int


class SharedMemory:
    """The segments of this process: those that it owns, and those that it reads."""

    def __init__(self) -> None:
        self.limit_bytes = bytes_of(DEFAULT_LIMIT_MB)
        """Of all segments that this process owns; 0: none are made."""
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork, after_in_child=self._after_fork
            )

    def _begin(self) -> None:
        self._lock = threading.Lock()  # never taken by what ends leases
        self.process = object()
        """Another one in a forked child."""
        self._prefix = os.urandom(ID_BYTES - 4)
        self._count = 0
        self._links = 0
        self._free: list[Segment] = []  # the least recently used first
        self._owned = self._owned_bytes = 0
        self._ended: deque[Segment] = deque()  # their last lease has just ended
        self._mapped: weakref.WeakValueDictionary[bytes, Segment]
        self._mapped = weakref.WeakValueDictionary()
        self._placed: dict[tuple[int, int], _Placed] = {}
        self._keeper: threading.Thread | None = None
        self._refused = 0

    # ----------------------------------------------------------------- values

    def linked(self, change: int) -> None:
        """Count the links whose other end reads shared memory."""
        self._links += change

    def place(self, parts: "Parts") -> "tuple[Buffer, ...]":
        """Return `parts` with the large ones in shared memory, where that pays.

        What is there already, such as an array that came with a call, is not copied.
        """
        if not self._links or not self.limit_bytes:
            return tuple(parts)
        large = [
            (number, memoryview(part).nbytes)
            for number, part in enumerate(parts)
            if len(part) >= LARGE_PART_BYTES
        ]
        if sum(size for _, size in large) < LEAST_BYTES:
            return tuple(parts)
        placed: list[Buffer] = list(parts)
        to_copy: list[tuple[int, int, int]] = []  # number, size, offset
        needed = 0
        for number, size in large:
            part = placed[number]
            if self.find(part, size) is not None:
                continue
            copy = self._copy_of(part, size)
            if copy is not None:
                placed[number] = copy
                continue
            to_copy.append((number, size, needed))
            needed += -(-size // ALIGNMENT) * ALIGNMENT
        if not needed:
            return tuple(placed)
        taken = self._take(needed)
        if taken is None:
            return tuple(placed)
        segment, view = taken
        exporter = weakref.ref(view.obj)
        copies: dict[tuple[int, int], _Placed] = {}
        for number, size, offset in to_copy:
            source = placed[number]
            segment.fill(offset, source, size)
            placed[number] = view[offset : offset + size]
            copies[address_of(source), size] = _Placed(exporter, segment, offset)
        with self._lock:
            self._placed.update(copies)
        return tuple(placed)

    def find(self, part: "Buffer", size_bytes: int) -> tuple[Segment, int] | None:
        """Return the segment that `part` is in, and where; None: it is in none."""
        if type(part) is not memoryview or not part.readonly:
            return None
        address = address_of(part)
        with self._lock:
            for segment in self._mapped.values():
                if segment.holds(address, size_bytes):
                    return segment, address - segment.address
        return None

    def _copy_of(self, part: "Buffer", size_bytes: int) -> memoryview | None:
        """Return the copy that other calls use now, if it is still the same."""
        address = address_of(part)
        placed = self._placed.get((address, size_bytes))
        exporter = None if placed is None else placed.exporter()
        if placed is None or exporter is None:
            return None
        there = placed.segment.address + placed.offset
        if _compare(there, address, size_bytes):
            return None
        whole = memoryview(exporter).cast("B").toreadonly()
        return whole[placed.offset : placed.offset + size_bytes]

    # ------------------------------------------------------------------- pool

    def _take(self, size_bytes: int) -> tuple[Segment, memoryview] | None:
        """Return a segment to fill, and its lease; None: there is no room."""
        with self._lock:
            self._sort_ended()
            segment = self._fitting(size_bytes) or self._new(size_bytes)
            if segment is None:
                self._refused += 1
                return None
            view = segment.lease(self._lease_ended)
            if segment in self._free:
                self._free.remove(segment)
            if self._keeper is None:
                keeper = threading.Thread(
                    target=self._keep, name="mpreg-memory", daemon=True
                )
                self._keeper = keeper
                keeper.start()
        return segment, view

    def _lease_ended(self, segment: Segment) -> None:
        if segment.id.startswith(self._prefix):  # else of the parent of this process
            self._ended.append(segment)

    def _fitting(self, size_bytes: int) -> Segment | None:
        most = 2 * rounded(size_bytes)
        fitting = [s for s in self._free if size_bytes <= s.capacity <= most]
        if not fitting:
            return None
        # The one used last: its pages are in the caches of the processor.
        return min(fitting, key=lambda s: (s.capacity, -s.free_since))

    def _new(self, size_bytes: int) -> Segment | None:
        capacity = rounded(size_bytes)
        most_bytes = self.limit_bytes - capacity
        while self._free and (
            self._owned_bytes > most_bytes or self._owned >= MOST_SEGMENTS
        ):
            self._drop(self._free.pop(0))
        if self._owned_bytes > most_bytes or self._owned >= MOST_SEGMENTS:
            return None
        self._count += 1
        key = self._prefix + self._count.to_bytes(4, "big")
        try:
            segment = Segment.create(key, capacity)
        except OSError:  # no memory, or no descriptor: there are sockets
            return None
        self._owned += 1
        self._owned_bytes += capacity
        self._mapped[key] = segment
        return segment

    def _sort_ended(self) -> None:
        """Free the segments whose lease has ended, except those that are stale."""
        while self._ended:
            segment = self._ended.popleft()
            if segment in self._free:
                continue  # it was interrupted before it was taken
            if segment.is_stale:
                self._drop(segment)
            else:
                segment.free_since = time.monotonic()
                self._free.append(segment)
            gone = [key for key, at in self._placed.items() if at.exporter() is None]
            for key in gone:
                del self._placed[key]

    def _drop(self, segment: Segment) -> None:
        self._owned -= 1
        self._owned_bytes -= segment.capacity
        self.forget(segment)

    def forget(self, segment: Segment) -> None:
        """Have all links forget a segment that is not used any more.

        One of another process stays for as long as any link may refer to it.
        """
        links = list(segment.known_by)
        if not segment.is_own and any(link.gives(segment) for link in links):
            return
        segment.is_dropped = True
        for link in links:
            link.discard(segment)

    def trim(self, idle_s: float = 0.0) -> None:
        """Give back to the system what was free for so long."""
        with self._lock:
            self._sort_ended()
            old = time.monotonic() - idle_s
            while self._free and self._free[0].free_since <= old:
                self._drop(self._free.pop(0))

    def _keep(self) -> None:
        me = threading.current_thread()
        while True:
            time.sleep(LOOK_S)
            self.trim(IDLE_S)
            with self._lock:
                if self._keeper is not me:
                    return
                if not self._owned_bytes:
                    self._keeper = None
                    return

    # ---------------------------------------------------------------- readers

    def map(self, key: bytes, descriptor: int, capacity: int) -> Segment:
        """Return a segment of another process, mapped once however often it comes.

        Raises:
            OSError, ValueError: the descriptor does not stand for such memory.
        """
        with self._lock:
            known = self._mapped.get(key)
            if known is not None:
                os.close(descriptor)
                known.is_dropped = False
                return known
            segment = self._mapped[key] = Segment(key, descriptor, capacity, own=False)
            return segment

    def statistics(self) -> MemoryStatistics:
        """Return what there is now."""
        with self._lock:
            self._sort_ended()
            return MemoryStatistics(
                limit_bytes=self.limit_bytes,
                owned_bytes=self._owned_bytes,
                free_bytes=sum(segment.capacity for segment in self._free),
                mapped_bytes=sum(s.capacity for s in self._mapped.values()),
                refused=self._refused,
            )

    # ------------------------------------------------------------------- fork

    def _before_fork(self) -> None:
        """Fill nothing again that the child may read: it tells nobody when it ends."""
        self._lock.acquire()
        try:
            self._sort_ended()
            free = set(map(id, self._free))
            for segment in self._mapped.values():
                if id(segment) not in free:
                    segment.is_stale = True
        finally:
            self._lock.release()

    def _after_fork(self) -> None:
        """Have nothing in the child; what its parent leased there stays readable."""
        self._begin()


MEMORY = SharedMemory()
"""The shared memory of this process."""
