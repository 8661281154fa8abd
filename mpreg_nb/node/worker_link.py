"""What goes between the node's loop and one worker: jobs there, answers back."""

import asyncio
import codecs
import os
import signal
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from mpreg_nb.node.worker_process import End, WorkerProcess
from mpreg_nb.wire.frames import FrameReader, Received, frame, sizes
from mpreg_nb.wire.jobs import (
    CODE_VERSIONS,
    Code,
    Done,
    FromWorker,
    Job,
    JobFailed,
    Printed,
    Ready,
    Setup,
)

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer, Parts

PRINTED_LINES, LOG_LINES = 10, 15
"""Last lines of functions, and of what went past Python, for the report of a death."""

LOG_LENGTH = 8 * 1024
"""How much is kept of what went past Python."""

LOG_BYTES_PER_S = 1 << 20
"""More of what goes past Python to the file descriptors is dropped."""

READS = 4
"""Receptions of a large answer before others have their turn."""

SAMPLE_S = 1.0
"""Between looks at the memory of a worker that runs something."""

_BUFFERS = 512  # given to one sendmsg; the system takes at most 1024

Answer: TypeAlias = Done | JobFailed


@dataclass(slots=True)
class Handed:
    """A job that a worker has."""

    job: Job
    number: int  # counted per worker, in the order of handing
    cost_s: float  # how long it is expected to take


class Owner(Protocol):
    """Whom a link tells what its worker does."""

    def answered(self, link: "WorkerLink", answers: list[Received[Answer]]) -> None:
        """Some jobs have an answer."""

    def printed(self, message: Printed) -> None:
        """A running call has written something."""

    def became_ready(self, link: "WorkerLink") -> None:
        """The worker takes jobs from now on."""

    def died(self, link: "WorkerLink", end: End) -> None:
        """The worker is gone; `link.handed` are the jobs without an answer."""


class WorkerLink:
    """One worker, from its start to its end."""

    def __init__(
        self,
        owner: Owner,
        setup: Setup,
        environment: Mapping[str, str],
    ) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.handed: dict[bytes, Handed] = {}
        self.backlog_s = 0.0  # expected time of all that is handed
        self.is_ready = False
        self._log = ""  # the end of it
        self._is_sampling = False
        self._one_slot = setup.slots == 1
        self._count = 0
        self._codes: OrderedDict[str, None] = OrderedDict()  # as the worker has them
        self._reader: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._unsent: deque[Buffer] = deque()
        self._sending = False  # a write is scheduled, or waits for room
        self._is_full = False  # it waits for room
        self._lines = codecs.getincrementaldecoder("utf-8")("replace")
        self._log_second = 0.0
        self._log_left = 0
        self._closed = False
        self.gone = asyncio.Event()
        self.process = WorkerProcess(
            Path(setup.scratch),
            environment,
            lambda end: self._call_in_loop(lambda: self._ended(end)),
        )
        self._stream = self.process.stream
        self._loop.add_reader(self._stream.fileno(), self._receive)
        self._loop.add_reader(self.process.log, self._read_log)
        self._write([frame(setup)])

    def _call_in_loop(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop was closed before its workers had ended
            return

    # --------------------------------------------------------------------- jobs

    @property
    def load(self) -> tuple[int, float]:
        """How much it has; the worker with less gets the next job."""
        return len(self.handed), self.backlog_s

    def needs_code(self, version: str) -> bool:
        """Whether `give_code` must come before a job of this version."""
        return version not in self._codes

    def give_code(self, code: Code, parts: "Parts") -> None:
        """Send a version; the one that was not used for longest is forgotten."""
        self._codes[code.version] = None
        if len(self._codes) > CODE_VERSIONS:
            self._codes.popitem(last=False)
        self._write([frame(_sized(code, parts)), *parts])

    def hand(self, job: Job, parts: "Parts", cost_s: float) -> None:
        """Send a job; from now on it may begin."""
        self._codes.move_to_end(job.version)
        self._count += 1
        self.handed[job.id] = Handed(job, self._count, cost_s)
        self.backlog_s += cost_s
        if not self._is_sampling:
            self._is_sampling = True
            self._loop.call_later(SAMPLE_S, self._sample)
        if parts:
            self._write([frame(_sized(job, parts)), *parts])
        else:
            self._write([frame(job)])

    def _sample(self) -> None:
        self._is_sampling = bool(self.handed) and not self._closed
        if self._is_sampling:
            self.process.sample()
            self._loop.call_later(SAMPLE_S, self._sample)

    def has_begun(self, call_id: bytes) -> bool:
        """Whether a handed job has begun."""
        return self.handed[call_id].number <= self.process.page.begun

    def _write(self, frames: "list[Buffer]") -> None:
        self._unsent.extend(frames)
        if not self._sending:
            self._sending = True
            self._loop.call_soon(self._send)  # with all else of this turn of the loop

    def _send(self) -> None:
        if self._closed:
            return
        while self._unsent:
            batch = [self._unsent.popleft()]
            while self._unsent and len(batch) < _BUFFERS:
                batch.append(self._unsent.popleft())
            try:
                sent = self._stream.sendmsg(batch)
            except BlockingIOError:
                sent = 0
            except (BrokenPipeError, ConnectionResetError):
                self._unsent.clear()
                return  # its end is told by the process
            left = _after(batch, sent)
            if left:
                self._unsent.extendleft(reversed(left))
                if not self._is_full:
                    self._is_full = True
                    self._loop.add_writer(self._stream.fileno(), self._send)
                return
        self._sending = False
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._stream.fileno())

    # ------------------------------------------------------------------ answers

    def _receive(self) -> None:
        for _ in range(READS):
            try:
                count = self._stream.recv_into(self._reader.space())
            except BlockingIOError:
                return
            except ConnectionResetError:
                count = 0
            if not count:
                self._loop.remove_reader(self._stream.fileno())
                # A worker that lives without its channel is of no use.
                self.process.kill(signal.SIGKILL)
                return
            if self._take(count):
                return

    def _take(self, count: int) -> bool:
        """Pass on what came; False while a large answer is coming in."""
        try:
            received = self._reader.received(count)
        except (ValueError, msgspec.MsgspecError):
            self._log += "it wrote something else to the node's channel\n"
            self.process.kill(signal.SIGKILL)
            return True
        answers: list[Received[Answer]] = []
        for message, parts in received:
            if isinstance(message, Done | JobFailed):
                handed = self.handed.pop(message.id, None)
                if handed is not None:
                    self.backlog_s -= handed.cost_s
                    answers.append((message, parts))
            elif isinstance(message, Printed):
                self._owner.printed(message)
            elif isinstance(message, Ready):
                self.is_ready = True
                self.process.sample()
                self._owner.became_ready(self)
        if not self.handed:
            self.backlog_s = 0.0  # sums of fractions drift
        if answers:
            if any(answer.run_us > 1000 for answer, _ in answers):
                self._read_log()  # before the end of the call that wrote it
            self._owner.answered(self, answers)
        return bool(received)

    # ---------------------------------------------------------------------- log

    def _read_log(self) -> None:
        try:
            data = os.read(self.process.log, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self.process.log)
            return
        if not self._is_within_limit(len(data)):
            return
        text = self._lines.decode(data)
        self._log = (self._log + text)[-LOG_LENGTH:]
        running = self._running()
        if running is not None:
            self._owner.printed(Printed(id=running, stream="stdout", text=text))

    def _is_within_limit(self, count: int) -> bool:
        now = self._loop.time()
        if now > self._log_second + 1.0:
            self._log_second, self._log_left = now, LOG_BYTES_PER_S
        self._log_left -= count
        return self._log_left > 0

    def _running(self) -> bytes | None:
        """Return the call that runs, where only one can."""
        first = next(iter(self.handed.values()), None)
        if (
            first is None
            or not self._one_slot
            or first.number > self.process.page.begun
        ):
            return None
        return first.job.id

    def last_lines(self) -> tuple[str, ...]:
        """Return what the worker printed last."""
        printed = self.process.page.last_lines(PRINTED_LINES)
        return (*printed, *_telling(self._log.splitlines())[-LOG_LINES:])

    # ---------------------------------------------------------------------- end

    def _ended(self, end: End) -> None:
        if not self._closed:
            self._drain()
            self._owner.died(self, end)
            self.close()
        self.gone.set()

    def _drain(self) -> None:
        """Take what the worker had written before it ended."""
        self._stream.setblocking(False)
        try:
            while count := self._stream.recv_into(self._reader.space()):
                self._take(count)
        except (BlockingIOError, ConnectionResetError):
            pass
        for _ in range(16):
            self._read_log()

    def close(self) -> None:
        """Let go of the worker; one that still runs ends itself."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._stream.fileno())
            self._loop.remove_writer(self._stream.fileno())
            self._loop.remove_reader(self.process.log)
            self.process.close()


def _sized(message: "Code | Job", parts: "Parts") -> "Code | Job":
    """Return the message with the sizes of its parts."""
    if not parts or message.sizes:
        return message
    return msgspec.structs.replace(message, sizes=sizes(parts))


def _after(batch: "list[Buffer]", sent: int) -> "list[Buffer]":
    """Return what is left of `batch` when its first `sent` bytes are gone."""
    for number, part in enumerate(batch):
        length = len(part)
        if sent < length:
            return [memoryview(part)[sent:], *batch[number + 1 :]]
        sent -= length
    return []


def _telling(log: list[str]) -> list[str]:
    """Return the lines that tell something: of faulthandler's dump, few.

    It shows all threads. The one that failed is told last and ends at a blank line.
    """
    fatal = [n for n, line in enumerate(log) if line.startswith("Fatal Python error")]
    if fatal:
        log = log[fatal[-1] :]
        current = [n for n, line in enumerate(log) if line.startswith("Current thread")]
        start = current[0] + 1 if current else 1
        own = [
            n for n in range(start, len(log)) if f"{os.sep}mpreg_nb{os.sep}" in log[n]
        ]
        log = [log[0], *log[start : own[0] if own else start + LOG_LINES]]
    return [line for line in log if line.strip()]
