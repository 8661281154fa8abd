"""The worker's end of its socket: jobs in, answers and prints out, code cache.

Answers of short jobs are held while further short jobs wait, and written
together: one system call and one wake-up of the node for many. A thread writes
them when a job takes longer than expected, so that no answer waits for another.
"""

import inspect
import math
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock, RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from mpreg_nb.protocol.shared import SegmentsGone
from mpreg_nb.protocol.worker import (
    ID_BYTES,
    ByteLimitedCache,
    Code,
    FromHolder,
    Job,
    JobFrameReader,
    Received,
    Room,
    ToWorker,
    frame,
)
from mpreg_nb.serialize.items import take_apart
from mpreg_nb.serialize.pickle import unpack_function
from mpreg_nb.shared_memory.exchange import DescriptorChannel, SegmentExchange
from mpreg_nb.shared_memory.segments import SharedMemory
from mpreg_nb.transport.local_socket import widen
from mpreg_nb.worker.lifetime import start_essential

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer


HOLD_S = 0.002
"""Longest time that an answer is held."""

RETURN_S = 0.001
"""How soon the node hears that a value in shared memory is not used any more."""

HOLD_BYTES = 64 * 1024
_IDLE_TICKS = 10
_BUFFERS = 512  # given to one sendmsg; the system takes at most 1024


class AnswerSender:
    """Frames to the node; complete frames, whichever thread sends them."""

    def __init__(self, stream: socket.socket, alarm: "Alarm | None" = None) -> None:
        """alarm: shared with another sender; None: one of its own."""
        self._stream = stream
        self._lock = Lock()
        self._held: list[Buffer] = []
        self._held_bytes = 0
        self._held_since = math.inf
        self._idle_ticks = 0
        self.alarm = alarm or Alarm()

    def send(
        self,
        frames: "Sequence[Buffer]",
        before: "Callable[[], Sequence[Buffer]] | None" = None,
    ) -> None:
        """Write held frames, then those that `before` returns, then `frames`.

        `before` is called when nobody else writes, so that what it takes from
        somewhere and what others take from there are written in that order.
        """
        with self._lock:
            if before is not None:
                frames = (*before(), *frames)
            if self._held:
                frames = (*self._held, *frames)
                self._held = []
                self._held_bytes = 0
                self._held_since = math.inf
            if frames:
                self._write(frames)

    def hold(self, frame: "Buffer") -> None:
        """Write `frame` soon, if nothing else is written before; waits for nothing."""
        with self._lock:
            self._held.append(frame)
            self._held_bytes += len(frame)
            if len(self._held) == 1:
                self._held_since = now = monotonic()
                self.alarm.set(now + HOLD_S, self._flush_due)

    @property
    def is_full(self) -> bool:
        """Whether held frames should be written now, by their size."""
        return self._held_bytes > HOLD_BYTES

    @property
    def is_holding(self) -> bool:
        """Whether something is held."""
        return bool(self._held)

    def flush(self) -> None:
        """Write held frames."""
        if self._held:
            self.send(())

    def _flush_due(self, now: float) -> float:
        if self._held:
            self._idle_ticks = 0
            if self._held_since + HOLD_S <= now:
                self.flush()
        else:
            self._idle_ticks += 1
        # To keep ticking for a while is cheaper than to be woken for each batch.
        return now + HOLD_S if self._idle_ticks < _IDLE_TICKS else math.inf

    def share(
        self, memory: SharedMemory, channel: DescriptorChannel
    ) -> SegmentExchange:
        """Return the exchange of shared memory with the node; tell it what it says."""

        def tell(_now: float) -> float:
            news = exchange.news()
            if news is not None:
                self.send([frame(news)])
            return math.inf

        # In the alarm before the first lease ends: that may happen as it is looked at.
        self.alarm.set(math.inf, tell)
        exchange = SegmentExchange(
            memory, channel, lambda: self.alarm.set(monotonic() + RETURN_S, tell)
        )
        return exchange

    def call_by(self, when: float, tick: Callable[[float], float]) -> None:
        """Call `tick(now)` in a thread by `when`; it returns when to call it again."""
        self.alarm.set(when, tick)

    def _write(self, frames: "Sequence[Buffer]") -> None:
        if len(frames) == 1:
            self._stream.sendall(frames[0])
            return
        if sum(map(len, frames)) <= HOLD_BYTES:
            self._stream.sendall(b"".join(frames))
            return
        views = [memoryview(part).cast("B") for part in frames if len(part)]
        while views:
            sent = self._stream.sendmsg(views[:_BUFFERS])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]


class Alarm:
    """A thread that calls functions at given times; started with the first of them."""

    def __init__(self) -> None:
        self._due: dict[Callable[[float], float], float] = {}
        self._next = math.inf  # when the thread wakes by itself
        self._changing = RLock()  # a signal handler may come upon itself
        self._asleep = Lock()  # held, but for a moment in which the thread is woken
        self._started = False

    def set(self, when: float, tick: Callable[[float], float]) -> None:
        """Call `tick` by `when`, or earlier if an earlier time is set."""
        with self._changing:
            self._due[tick] = min(when, self._due.get(tick, math.inf))
            if when >= self._next:
                return
            self._next = when
            if not self._started:
                self._started = True
                self._asleep.acquire()
                start_essential(self._run, "alarm")
            elif self._asleep.locked():
                self._asleep.release()

    def forget(self, tick: Callable[[float], float]) -> None:
        """Never call `tick` again: its owner is gone."""
        with self._changing:
            self._due.pop(tick, None)

    def _run(self) -> None:
        while True:
            self._call_due(monotonic())
            with self._changing:
                self._next = min(self._due.values(), default=math.inf)
                pause = self._next - monotonic()
            if pause > 0:
                self._asleep.acquire(timeout=min(pause, 3600.0))

    def _call_due(self, now: float) -> None:
        with self._changing:
            ticks = [tick for tick, due in self._due.items() if due <= now]
        for tick in ticks:
            with self._changing:
                if tick not in self._due:  # it was forgotten just now
                    continue
                self._due[tick] = math.inf
            again = tick(now)
            with self._changing:
                if tick in self._due:
                    self._due[tick] = min(again, self._due[tick])


UNREAD_S = 10
"""A client that reads nothing for so long, while answers wait, gets no more."""


class Holder(AnswerSender):
    """The client that holds a lease: its jobs come from here, its answers go there."""

    def __init__(self, stream: socket.socket, lease: int, outbox: AnswerSender) -> None:
        super().__init__(stream, alarm=outbox.alarm)
        seconds = struct.pack("ll", UNREAD_S, 0)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        widen(stream)
        self.lease = lease
        self.stream = stream
        self.is_gone = False
        self.jobs = 0  # that have come so far
        self._reader: JobFrameReader[FromHolder] = JobFrameReader(FromHolder)

    def receive(self) -> list[Received[FromHolder]]:
        """Return what came, without waiting; at the end of it `is_gone`."""
        try:
            space = self._reader.space()
            count = self.stream.recv_into(space, 0, socket.MSG_DONTWAIT)
            if count:
                return self._reader.received(count)
        except BlockingIOError:
            return []
        except (OSError, ValueError, msgspec.MsgspecError):
            pass  # it ended, or speaks another language: either way it is gone
        self.is_gone = True
        return []

    def _flush_due(self, now: float) -> float:
        if self.is_gone:  # what was held since keeps it for nobody
            self.alarm.forget(self._flush_due)
            return math.inf
        return super()._flush_due(now)

    def let_go(self) -> None:
        """Write nothing any more; what is held is for nobody."""
        self.is_gone = True
        self.alarm.forget(self._flush_due)
        with suppress(OSError):  # who writes just now goes on; it may have ended itself
            self.stream.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self.stream.close()

    def _write(self, frames: "Sequence[Buffer]") -> None:
        """Write to the client; one that is gone, or reads nothing, is let go.

        It asks its node what became of its calls.
        """
        if self.is_gone:
            return
        try:
            super()._write(frames)
        except OSError:
            self.is_gone = True
            with suppress(OSError):  # it ended by itself
                self.stream.shutdown(socket.SHUT_RDWR)


RISE = 0.5
FALL = 0.1
"""How fast the expected time of a function follows longer and shorter runs."""


class CachedFunction:
    """One version of a function."""

    def __init__(self, code: Code, parts: tuple[Room, ...]) -> None:
        self._code = code
        self._parts = parts
        self._opening = Lock()
        self._function: Callable[..., Any] | None = None
        self.is_async = False
        self.expected_ns = math.inf  # infinite before the first run

    @property
    def function(self) -> Callable[..., Any]:
        """The function; raises NotPicklable where it cannot be rebuilt here."""
        return self._function or self._open()

    def _open(self) -> Callable[..., Any]:
        with self._opening:
            if self._function is None:
                opened = unpack_function(self._parts or (self._code.payload,))
                self.is_async = _is_async(opened)
                self._function = opened
                self._parts = ()
        return self._function

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "CachedFunction":
        """Return a function of this package in the form of a received one."""
        made = cls(Code(version="", function=function.__name__), ())
        made._function = function
        return made

    @property
    def has_run(self) -> bool:
        """Whether it has run in this process."""
        return self.expected_ns != math.inf

    def took(self, run_ns: int) -> None:
        """Take a run into account."""
        if self.expected_ns == math.inf:
            self.expected_ns = run_ns
        weight = RISE if run_ns > self.expected_ns else FALL
        self.expected_ns += weight * (run_ns - self.expected_ns)


def _is_async(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  an object with async __call__
    )


class Codes:
    """The versions that this worker has; the node knows them by the same rule."""

    def __init__(self) -> None:
        self._kept: dict[str, CachedFunction] = {}
        self._recent = ByteLimitedCache()

    def add(self, code: Code, parts: tuple[Room, ...]) -> None:
        """Keep a version, and forget those that were not used for longest."""
        size_bytes = len(code.payload) + sum(map(len, parts))
        for version in self._recent.add(code.version, size_bytes):
            del self._kept[version]
        self._kept[code.version] = CachedFunction(code, parts)

    def used(self, version: str) -> CachedFunction:
        """Return a version for a job that has come."""
        self.use(version)
        return self._kept[version]

    def use(self, version: str) -> None:
        """Count a version as the last one used."""
        self._recent.use(version)

    def find(self, version: str) -> CachedFunction | None:
        """Return a version if it is here. The node does not hear of this use."""
        return self._kept.get(version)


TAKE_APART = CachedFunction.of(take_apart)
"""What runs in place of a function whose argument is to be taken apart."""

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class Task:
    """A job with its parts and its code."""

    __slots__ = (
        "before",
        "code",
        "follower",
        "given",
        "holder",
        "is_called",
        "job",
        "number",
        "parts",
        "place",
        "read_ns",
        "slot",
        "started_ns",
    )

    def __init__(
        self,
        job: Job,
        parts: "tuple[Buffer, ...]",
        code: CachedFunction,
        number: int,
    ) -> None:
        self.job = job
        self.parts = parts
        self.code = code
        self.number = number
        self.given: Arguments = ((), {})  # once they are unpacked
        self.started_ns = 0
        self.is_called = False  # its function has begun, or does so just now
        self.holder: Holder | None = None  # who sent it; None: the node
        self.read_ns = 0  # when it came, from who holds a lease
        self.place = 0  # of its version by `Permit`
        self.slot = 0  # among the tasks of its lease that run
        self.follower: Task | None = None  # that begins when this one has a result
        self.before: bytes | None = None  # the result of the task that this one follows


CANCELS_BYTES = 1 << 16
"""What a pipe holds: nothing may be left, for it would wait for the next signal."""


class JobReceiver:
    """Tasks in the order in which they came. Only the main thread reads."""

    def __init__(self, stream: socket.socket, cancels: int) -> None:
        self._receive = stream.recv_into
        self._cancels = cancels
        self._reader: JobFrameReader[ToWorker] = JobFrameReader(ToWorker)
        self.codes = Codes()
        self.memory: SegmentExchange | None = None
        self._tasks = 0  # that have come so far
        self.waiting: deque[Task] = deque()
        self.taking = RLock()  # held by who takes one, where several threads do

    def first(self) -> ToWorker:
        """Return the first message; tasks that came with it go to `waiting`."""
        while True:
            received = self._read()
            if received:
                first, *others = received
                self._sort(others)
                return first[0]

    def wait(self) -> None:
        """Read until there is a task.

        Raises:
            ConnectionAbortedError: the node has closed its end.
        """
        while not self.waiting:
            self.read()

    def read(self) -> None:
        """Receive once, which may bring no task or several.

        Raises:
            ConnectionAbortedError: the node has closed its end.
        """
        self._sort(self._read())

    def _read(self) -> list[Received[ToWorker]]:
        count = self._receive(self._reader.space())
        if not count:
            raise ConnectionAbortedError("the node has closed its end")
        return self._reader.received(count)

    def _sort(self, received: list[Received[ToWorker]]) -> None:
        for message, came in received:
            if isinstance(message, Job):
                parts: tuple[Buffer, ...] = came
                if message.shared and self.memory is not None:
                    parts = self.memory.accept(message.shared)
                code = self.codes.used(message.version)
                if message.split:
                    code = TAKE_APART
                self._tasks += 1
                task = Task(message, parts, code, self._tasks)
                self.waiting.append(task)
                for job in message.then:
                    self._tasks += 1
                    code = self.codes.used(job.version)
                    follower = Task(job, (), code, self._tasks)
                    task.follower = follower
                    task = follower
            elif isinstance(message, SegmentsGone):
                if self.memory is not None:
                    self.memory.told(message)
            elif isinstance(message, Code):
                self.codes.add(message, came)

    def cancels(self) -> list[bytes]:
        """Return ids of jobs to interrupt; may be called in a signal handler."""
        try:
            data = os.read(self._cancels, CANCELS_BYTES)
        except BlockingIOError:
            return []
        return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]
