"""Messages and frames between a node and its workers, and the memory that they share.

A node and its worker share a stream socket. Each message is a frame: its length in
4 bytes (big-endian), then the message in msgpack, then the raw parts whose sizes its
field `sizes` gives. Without parts, `payload` is inline. Both ends are the same
program, so types are not validated as those of peers are. `JobFrameReader` receives
large parts where they stay, so that nothing is copied twice.

Large parts that are in shared memory are only referred to; descriptors of that memory
go through a socket of their own (see `shared_memory.exchange`).

Two more things go beside the socket. Ids of calls to interrupt go through a pipe,
followed by SIGINT, since a worker that runs a function does not read the socket. And
`SharedStatus` is memory that both share and that outlives the worker: the number of
the last job that started, of the last one that ended with all before it, how many
drops the worker has seen, and the end of what functions printed. Jobs are numbered
and start in that order, so after a crash the node knows which of them never ran.

`ByteLimitedCache` is the rule by which a node and its workers keep code. Each follows
it alone: after the same uses both hold the same versions, without a message.
"""

import contextlib
import mmap
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from mpreg_nb.protocol.shared import PartRef, SegmentsGone

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts


ID_BYTES = 16

RECALL = bytes(ID_BYTES)
"""Before the id of a call: drop it if it has not begun, but do not interrupt it."""
"""Length of the id of a call."""


class Setup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="setup"):
    """What a worker must know; the first frame."""

    scratch: str
    slots: int
    max_payload_bytes: int
    home_url: str = ""  # of the node, for functions that call the cluster
    home_token: str = ""
    home_ca: str = ""
    keeps: bool = False  # what a call sets in the process is there for the next
    shared_memory_bytes: int = 0  # that the worker may own; 0: none is used


class Code(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="code"):
    """Keep the code of `version`; jobs that follow may name it."""

    version: str
    function: str
    payload: bytes = b""
    sizes: tuple[int, ...] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="job"):
    """Run `version` on the arguments in the payload."""

    id: bytes
    version: str
    function: str
    payload: bytes = b""  # (args, kwargs)
    sizes: tuple[int, ...] = ()  # of the payload's parts, then of the inputs'
    inputs: tuple[bytes | int, ...] = ()  # inline, or how many of the parts it has
    json: bool = False
    quiet: bool = False
    remaining_ms: int | None = None
    split: bool = False  # the first argument into items, see `serialize.items`
    folder: bytes = b""  # of the caller, see working_folder
    shared: tuple[PartRef, ...] = ()  # the parts, if no bytes of them follow
    items: int = 0  # so many calls in one, see serialize.chunks; 0: it is one call


class WorkerReady(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="ready"
):
    """The worker has started and takes jobs."""

    pid: int


class JobDone(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="done"):
    """Job `id` returned."""

    id: bytes
    payload: bytes = b""
    sizes: tuple[int, ...] = ()
    run_us: int = 0
    shared: tuple[PartRef, ...] = ()  # the parts, if no bytes of them follow


class JobFailed(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="failed"
):
    """Job `id` has no result. The payload is the exception, see `serialize.pickle`."""

    id: bytes
    kind: Literal[
        "application",
        "not_picklable",
        "too_large",
        "cancelled",
        "bad_request",
        "deadline",
        "overloaded",
        "node_lost",  # of pools whose workers can be lost while their node lives
    ]
    message: str
    executed: Literal["no", "yes", "unknown"] = "yes"
    types: tuple[str, ...] = ()
    payload: bytes = b""
    sizes: tuple[int, ...] = ()
    size_bytes: int = 0
    limit_bytes: int = 0
    run_us: int = 0
    argument_types: tuple[str, ...] = ()  # where the function raised


class JobPrinted(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="printed"
):
    """Job `id` wrote `text`; whole lines where possible.

    On the stream "display" the text is one display, as JSON; if it is long, it
    comes as the part beside the message. What was cut are displays and bytes then.
    """

    id: bytes
    stream: Literal["stdout", "stderr", "display"]
    text: str
    lines_cut: int = 0  # left out before the text, since they were too many
    characters_cut: int = 0
    sizes: tuple[int, ...] = ()


class JobBlocked(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="parked"
):
    """Job `id` waits for the cluster and needs no slot, or does so no longer."""

    id: bytes
    waits: bool


class WorkerUnfit(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="unfit"
):
    """The worker starts no more jobs: a function left what cannot be restored."""

    reason: str


ToWorker: TypeAlias = Setup | Code | Job | SegmentsGone
FromWorker: TypeAlias = (
    WorkerReady
    | JobDone
    | JobFailed
    | JobPrinted
    | JobBlocked
    | WorkerUnfit
    | SegmentsGone
)


_BEGUN, _ENDED, _HEARD, _WRITTEN, _PUT_OFF = range(5)

_NUMBERS_BYTES = 5 * 8
TEXT_BYTES = 8 * 1024 - _NUMBERS_BYTES
PAGE_BYTES = _NUMBERS_BYTES + TEXT_BYTES
"""Five numbers in this host's order, then a ring of text."""


class SharedStatus:
    """Both sides' view of the page. Only the worker writes."""

    def __init__(self, shared: int) -> None:
        self._memory = mmap.mmap(shared, PAGE_BYTES)
        self._numbers = memoryview(self._memory)[:_NUMBERS_BYTES].cast("Q")

    @property
    def begun(self) -> int:
        """Number of the last job that may have had an effect."""
        return self._numbers[_BEGUN]

    @property
    def ended(self) -> int:
        """Number of the last job that ended with all before it, answered or not."""
        return self._numbers[_ENDED]

    def begin(self, number: int) -> None:
        """Say that this job may have effects from now on."""
        self._numbers[_BEGUN] = number

    def end(self, number: int) -> None:
        """Say that all jobs up to this one have ended; answers may still be held."""
        self._numbers[_ENDED] = number

    @property
    def heard(self) -> int:
        """How many ids of calls to drop or interrupt the worker has taken in."""
        return self._numbers[_HEARD]

    def hear(self, count: int) -> None:
        """Say that so many more ids have been taken in."""
        self._numbers[_HEARD] += count

    @property
    def put_off_s(self) -> float:
        """When an interrupt was put off last, since an import is not torn apart."""
        return self._numbers[_PUT_OFF] / 1e9

    def put_off(self) -> None:
        """Say that a call is not interrupted now, but as soon as its import is over."""
        self._numbers[_PUT_OFF] = time.monotonic_ns()

    def note(self, text: str) -> None:
        """Keep `text`, or its end, as what was printed last."""
        data = text[-TEXT_BYTES:].encode(errors="backslashreplace")[-TEXT_BYTES:]
        at = self._numbers[_WRITTEN] % TEXT_BYTES
        first = data[: TEXT_BYTES - at]
        rest = data[len(first) :]
        start = _NUMBERS_BYTES
        self._memory[start + at : start + at + len(first)] = first
        self._memory[start : start + len(rest)] = rest
        self._numbers[_WRITTEN] += len(data)

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that were printed; the first may lack its begin."""
        written = self._numbers[_WRITTEN]
        ring = self._memory[_NUMBERS_BYTES:]
        if written > TEXT_BYTES:
            at = written % TEXT_BYTES
            data = ring[at:] + ring[:at]
        else:
            data = ring[:written]
        return data.decode(errors="replace").splitlines()[-count:]

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._memory.close()


LARGE_BYTES = 4 << 20
"""From here on, memory comes from the system in huge pages."""

Room: TypeAlias = bytearray | memoryview


def room(size_bytes: int) -> Room:
    """Return writable memory of this size, to be filled.

    A large bytearray would be written twice, once with zeros, and in pages of 4 KiB
    that each cost a fault. Huge pages receive 100 MB in a third of the time. They
    go back to the system with the last view of them.

    >>> len(room(10)), len(room(LARGE_BYTES))
    (10, 4194304)
    """
    if size_bytes < LARGE_BYTES or sys.platform != "linux":
        return bytearray(size_bytes)
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them: small ones serve
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


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


class JobFrameReader(Generic[T]):
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


CODE_BYTES = 32 << 20
"""Code that a worker keeps, and older versions that a node keeps."""


OVERHEAD_BYTES = 4096
"""What a function takes besides its bytes, about: objects, offers, source lines."""


class ByteLimitedCache:
    """Keys with sizes, the least recently used first.

    >>> recent = ByteLimitedCache(limit_bytes=10_000)
    >>> recent.add("a", 6), recent.add("b", 1000), recent.add("c", 99_000)
    ([], [], ['a', 'b'])
    >>> "c" in recent  # what came last stays, however large it is
    True
    """

    def __init__(self, limit_bytes: int = CODE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._sizes

    def add(self, key: str, size_bytes: int) -> list[str]:
        """Take a key in as the last one used; return those that had to go for it."""
        self.drop(key)
        # No entry is free: thousands of small ones count too.
        self._sizes[key] = size_bytes = size_bytes + OVERHEAD_BYTES
        self._bytes += size_bytes
        gone = []
        while self._bytes > self._limit_bytes and len(self._sizes) > 1:
            oldest, freed = self._sizes.popitem(last=False)
            self._bytes -= freed
            gone.append(oldest)
        return gone

    def use(self, key: str) -> None:
        """Count a key as the last one used."""
        self._sizes.move_to_end(key)

    def drop(self, key: str) -> None:
        """Forget a key, if it is there."""
        self._bytes -= self._sizes.pop(key, 0)
