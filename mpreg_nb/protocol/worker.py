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

A node may lease a worker to a client of its machine. Who holds the lease sends `Job`
to the worker itself, over a Unix socket, and gets the answers there. These jobs are
numbered too, from 1 in each lease; the shared memory has the number of the last one
that started, which of them run, and what each took, so that the node counts them
without a message.

`ByteLimitedCache` is the rule by which a node and its workers keep code. Each follows
it alone: after the same uses both hold the same versions, without a message.
"""

import contextlib
import mmap
import struct
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

"""Length of the id of a call."""

RECALL = bytes(ID_BYTES)
"""Before the id of a call: drop it if it has not begun, but do not interrupt it."""

END_LEASE = b"\xff" * ID_BYTES
"""Before the `lease_word` of a lease: begin no more of its jobs."""


def lease_word(number: int, *, stop: bool) -> bytes:
    """Return the word after `END_LEASE`. stop: interrupt the job that runs, too.

    >>> lease_read(lease_word(7, stop=True))
    (7, True)
    """
    return number.to_bytes(8, "big") + stop.to_bytes(8, "big")


def lease_read(word: bytes) -> tuple[int, bool]:
    """Return the number of the lease, and whether its job is to be interrupted."""
    return int.from_bytes(word[:8], "big"), bool(word[-1])


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


BEFORE = -1
"""In `Job.inputs`: the result of the job that this one follows."""


class Job(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="job"):
    """Run `version` on the arguments in the payload.

    It may bring jobs that follow it. Each begins when the one before it has a result
    that is small, and has been answered; where one has none, those after it never
    begin, and no word is said of them. A worker numbers them as it does jobs that come
    by themselves.
    """

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
    then: "tuple[Job, ...]" = ()  # steps of a workflow that follow this one
    depth: int = 0  # of calls that wait for it
    keep: bool = False  # its result may stay where it is made, if it is large


def following(job: Job, result: bytes) -> Job:
    """Return the first job that follows `job`, as one that comes by itself."""
    first, *others = job.then
    inputs = tuple(result if given == BEFORE else given for given in first.inputs)
    return msgspec.structs.replace(first, inputs=inputs, then=tuple(others))


class Lease(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="lease"):
    """Take jobs from who connects to `path` and shows `key`, until `LeaseEnd`.

    A worker has one lease at a time, and none while it has jobs of its node.
    """

    number: int
    key: bytes
    path: str


class Permit(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="permit"):
    """Jobs of the lease may name `version`; in `RunRecord` it is called `place`."""

    version: str
    place: int


class LeaseEnd(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="lease_end"
):
    """Begin no more jobs of this lease, and say when none runs."""

    number: int


class LeaseOpen(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="lease_open"
):
    """The worker listens for who holds the lease; "" says that it can."""

    number: int
    error: str = ""


class LeaseOver(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="lease_over"
):
    """No job of this lease will begin. While some run, each that ends is told so."""

    number: int
    runs: bool = False


class RunsCounted(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="counted"
):
    """There are many records in the shared memory: take them.

    `records` are those for which there was no room.
    """

    records: bytes = b""


class Greeting(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="greeting"
):
    """The first message of who holds a lease."""

    lease: int
    key: bytes


class Returned(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="returned"
):
    """Job `id` has not begun, and never will: its lease has ended."""

    id: bytes


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
    queued_us: int = 0  # in the worker; told only to who holds a lease
    goes_on: bytes = b""  # the job that follows and begins now; see `Job.then`


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
        "gone",  # of such pools: `lost` are calls whose results they no longer have
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
    lost: tuple[bytes, ...] = ()


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


ToWorker: TypeAlias = Setup | Code | Job | SegmentsGone | Lease | Permit | LeaseEnd
FromWorker: TypeAlias = (
    WorkerReady
    | JobDone
    | JobFailed
    | JobPrinted
    | JobBlocked
    | WorkerUnfit
    | SegmentsGone
    | LeaseOpen
    | LeaseOver
    | RunsCounted
)

FromHolder: TypeAlias = Greeting | Job
"""What a worker is told by who holds a lease of it."""

ToHolder: TypeAlias = JobDone | JobFailed | JobPrinted | Returned
"""What it answers."""

_DONE = b"\xa4done"

ENDS = (
    "ok",
    "application",
    "not_picklable",
    "too_large",
    "cancelled",
    "bad_request",
    "deadline",
    "overloaded",
)
"""How a job can end: its result, or the kind of its `JobFailed`."""


def end_of(answer: "Buffer") -> str:
    """Return how a job ended, by the frame of its answer.

    >>> end_of(frame(JobDone(id=b"i"))), end_of(
    ...     frame(JobFailed(id=b"i", kind="too_large", message=""))
    ... )
    ('ok', 'too_large')
    """
    data = memoryview(answer)
    if data[5 : 5 + len(_DONE)] == _DONE:
        return "ok"
    failed: JobFailed = _failed_decoder.decode(data[4:])
    return failed.kind


_failed_decoder = msgspec.msgpack.Decoder(JobFailed)


_BEGUN, _ENDED, _HEARD, _WRITTEN, _PUT_OFF = range(5)
_LEASE, _LEASE_BEGUN, _COUNTED, _TAKEN, _CALLED, _LEASE_CALLED, _ITEMS = range(5, 12)
_WRITTEN_BEFORE = 12

_ITEM_BITS = 16  # for how many items of a chunk have ended; above is its number

LEASED_AT_ONCE = 64
"""Jobs of a lease that run at once, at most."""

_RUNNING = 13
_ID_AT = (_RUNNING + LEASED_AT_ONCE) * 8
_NUMBERS_BYTES = _ID_AT + ID_BYTES
TEXT_BYTES = 8 * 1024 - _NUMBERS_BYTES

_RECORD = struct.Struct("<IIHBx")
RECORDS = 8192
"""Runs of leased jobs that the node has not counted yet, at most."""

_RECORDS_AT = _NUMBERS_BYTES + TEXT_BYTES
PAGE_BYTES = _RECORDS_AT + RECORDS * _RECORD.size
"""Numbers in this host's order, an id, a ring of text, and one of records."""

MOST_LEASED = 1 << 16
"""Versions that the leases of one worker name, at most."""

_MOST_US = (1 << 32) - 1

RunRecord: TypeAlias = tuple[int, int, int, str]
"""Of a leased job: its version by `Permit`, run and queue in us, one of `ENDS`."""


def _records(data: "Buffer") -> list[RunRecord]:
    return [
        (place, run_us, queued_us, ENDS[end])
        for run_us, queued_us, place, end in _RECORD.iter_unpack(data)
    ]


def read_records(message: RunsCounted) -> list[RunRecord]:
    """Return the records that came with a message."""
    return _records(message.records)


class SharedStatus:
    """Both sides' view of the page. Only the worker writes, all but `_TAKEN`."""

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

    @property
    def called(self) -> int:
        """Number of the job whose function was called last."""
        return self._numbers[_CALLED]

    def call(self, number: int) -> None:
        """Say that the function of this job is called now; its arguments are there."""
        self._numbers[_CALLED] = number

    def items_ended(self, number: int) -> int:
        """Return how many items of this job have ended before the one that runs."""
        chunk, ended = divmod(self._numbers[_ITEMS], 1 << _ITEM_BITS)
        return ended if chunk == number else 0

    def begin_items(self, number: int) -> None:
        """Say that the items of this job begin; see serialize.chunks."""
        self._numbers[_ITEMS] = number << _ITEM_BITS

    def end_items(self, count: int = 1) -> None:
        """Say that one more item of it has ended, or several; the next one begins."""
        self._numbers[_ITEMS] += count

    def end(self, number: int) -> None:
        """Say that all jobs up to this one have ended; answers may still be held."""
        self._numbers[_ENDED] = number

    def open_lease(self, number: int) -> None:
        """Say that jobs come by this lease from now on; none has begun."""
        self._numbers[_LEASE_BEGUN] = self._numbers[_LEASE_CALLED] = 0
        self._numbers[_LEASE] = number

    def begin_leased(
        self, number: int, call_id: bytes, place: int, slot: int = 0
    ) -> None:
        """Say that this job of the lease may have effects from now on.

        slot: below `LEASED_AT_ONCE`, and of no other that runs.
        """
        self._memory[_ID_AT:_NUMBERS_BYTES] = call_id
        # In this order: what has begun and is not seen to run has ended.
        self._numbers[_RUNNING + slot] = number * MOST_LEASED + place
        self._numbers[_LEASE_BEGUN] = number

    def call_leased(self, number: int) -> None:
        """Say that the function of this job of the lease is called now."""
        self._numbers[_LEASE_CALLED] = number

    @property
    def leased_called(self) -> int:
        """Number of the job of the newest lease whose function was called last."""
        return self._numbers[_LEASE_CALLED]

    def end_leased(self, slot: int = 0) -> None:
        """Say that the job of the lease that has this slot has ended."""
        self._numbers[_RUNNING + slot] = 0

    def leased(self, lease: int) -> tuple[int, dict[int, int]]:
        """Return the number of the last job of a lease that began, and which run.

        The latter are numbers of jobs, with the version of each by `Permit`.
        """
        if self._numbers[_LEASE] != lease:
            return 0, {}
        # In this order: what runs now and began later is not of interest.
        begun = self._numbers[_LEASE_BEGUN]
        running = self._numbers[_RUNNING : _RUNNING + LEASED_AT_ONCE].tolist()
        return begun, dict(divmod(each, MOST_LEASED) for each in running if each)

    @property
    def leased_call(self) -> bytes:
        """The call whose job of a lease began last."""
        return bytes(self._memory[_ID_AT:_NUMBERS_BYTES])

    def count(
        self, place: int, run_us: int, queued_us: int, end: str
    ) -> RunsCounted | None:
        """Note what a job of a lease took; return what the node is to be told, if so.

        It is told when half of the room is taken, and what there is no room for.
        """
        run = min(run_us, _MOST_US), min(queued_us, _MOST_US), place, ENDS.index(end)
        counted = self._numbers[_COUNTED]
        waiting = counted - self._numbers[_TAKEN]
        if waiting >= RECORDS:
            return RunsCounted(records=_RECORD.pack(*run))
        at = _RECORDS_AT + counted % RECORDS * _RECORD.size
        _RECORD.pack_into(self._memory, at, *run)
        self._numbers[_COUNTED] = counted + 1
        return RunsCounted() if waiting == RECORDS // 2 else None

    def take_records(self) -> list[RunRecord]:
        """Return what jobs of leases took since this was asked; for the node."""
        taken, counted = self._numbers[_TAKEN], self._numbers[_COUNTED]
        if taken == counted:
            return []
        first, last = taken % RECORDS, counted % RECORDS
        size, start = _RECORD.size, _RECORDS_AT
        if first < last:
            data = self._memory[start + first * size : start + last * size]
        else:
            data = self._memory[start + first * size : start + RECORDS * size]
            data += self._memory[start : start + last * size]
        self._numbers[_TAKEN] = counted
        return _records(data)

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

    def note_anew(self) -> None:
        """Say that what was printed so far is of calls that have ended."""
        self._numbers[_WRITTEN_BEFORE] = self._numbers[_WRITTEN]

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of what runs; the first may lack its begin."""
        written = self._numbers[_WRITTEN]
        ring = self._memory[_NUMBERS_BYTES:]
        if written > TEXT_BYTES:
            at = written % TEXT_BYTES
            data = ring[at:] + ring[:at]
        else:
            data = ring[:written]
        now = min(written - self._numbers[_WRITTEN_BEFORE], len(data))
        data = data[len(data) - now :]
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
