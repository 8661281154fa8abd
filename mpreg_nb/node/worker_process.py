"""One worker process as its node sees it: process, socket, jobs and log."""

import asyncio
import codecs
import contextlib
import ctypes
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec
import psutil

from mpreg_nb.protocol.shared import SegmentsGone
from mpreg_nb.protocol.worker import (
    END_LEASE,
    ID_BYTES,
    MOST_LEASED,
    PAGE_BYTES,
    RECALL,
    ByteLimitedCache,
    Code,
    FromWorker,
    Job,
    JobBlocked,
    JobDone,
    JobFailed,
    JobFrameReader,
    JobPrinted,
    Lease,
    LeaseEnd,
    LeaseOpen,
    LeaseOver,
    Permit,
    Received,
    RunRecord,
    RunsCounted,
    Setup,
    SharedStatus,
    WorkerReady,
    WorkerUnfit,
    frame,
    lease_word,
    read_records,
    sizes,
)
from mpreg_nb.shared_memory.exchange import DescriptorChannel, SegmentExchange
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport import local_socket
from mpreg_nb.transport.timer import run_each

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts


SOCKET_BYTES = 1 << 20
"""Asked for in both directions; the system may give less."""

DESCRIPTOR_SOCKET = (
    socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
)
"""The kind of the socket through which descriptors go."""

SECRETS = "MPREG_NB_TOKEN"
"""Variables that begin so are not for user code."""

_WORDS = select.PIPE_BUF // ID_BYTES // 2 * 2
"""Words that a pipe takes together or not at all. An even number: RECALL, and what
begins with it, are two."""

_PER_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # what ru_maxrss counts


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _PER_MB


class End(msgspec.Struct, frozen=True):
    """How a process ended."""

    status: int  # exit code, or the negative number of the signal
    memory_mb: float | None  # the most it held, or what it held when last looked at

    @property
    def cause(self) -> str:
        """In words.

        >>> End(3, None).cause, End(-9, 20.0).cause
        ('exit code 3', 'signal SIGKILL')
        """
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return f"signal {signal.Signals(-self.status).name}"
        except ValueError:  # real-time signals have no names
            return f"signal {-self.status}"


class WorkerProcess:
    """A child in a process group of its own, and the node's ends of its channels.

    `on_end` is called in a thread of ours, once. Whatever the worker started and
    left in its group is killed with it.
    """

    def __init__(
        self,
        scratch: Path,
        environment: Mapping[str, str],
        on_end: Callable[[End], None],
    ) -> None:
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as theirs:
            self._start(scratch, environment, opened, theirs)
            opened.pop_all()  # it runs: the ends are ours until `close`
        self.pid = self._popen.pid
        self.told = 0  # words written to the pipe of cancels
        self._ended = False
        self._ending = Lock()
        Thread(
            target=self._wait, args=(on_end,), name="mpreg-wait", daemon=True
        ).start()

    def _start(
        self,
        scratch: Path,
        environment: Mapping[str, str],
        ours: contextlib.ExitStack,
        theirs: contextlib.ExitStack,
    ) -> None:
        """Open the channels, each end on its stack, and start the program."""
        self.stream, channel = socket.socketpair()
        ours.enter_context(self.stream)
        theirs.enter_context(channel)
        for end in (self.stream, channel):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        self.descriptors, descriptors = socket.socketpair(
            socket.AF_UNIX, DESCRIPTOR_SOCKET
        )
        ours.enter_context(self.descriptors)
        theirs.enter_context(descriptors)
        cancels, self._cancels = os.pipe()
        self.log, log = os.pipe()
        shared = _shared_memory()
        for fd in (self._cancels, self.log):
            ours.callback(os.close, fd)
            os.set_blocking(fd, False)
        for fd in (cancels, log, shared):
            theirs.callback(os.close, fd)
        self.stream.setblocking(False)
        self.page = SharedStatus(shared)
        # A child inherits the peak of its parent until it has a higher one itself.
        self._inherited_mb = _peak_mb()
        self._sampled_mb: float | None = None
        given = (channel.fileno(), cancels, shared, descriptors.fileno())
        # PR_SET_PDEATHSIG in the worker refers to the thread that calls this.
        self._popen = subprocess.Popen(  # noqa: S603  our own program
            [
                *(sys.executable, "-P", "-X", "faulthandler"),
                *("-m", "mpreg_nb.worker", *map(str, given), str(os.getpid())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=scratch,
            env=_without_secrets(environment),
            pass_fds=given,
            process_group=0,
        )

    def sample(self) -> None:
        """Note how much memory the worker holds, for the report of its end."""
        try:
            held = psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return  # it has just ended
        self._sampled_mb = round(held / 1e6, 1)

    def interrupt(self, *call_ids: bytes) -> bool:
        """Send ids of calls to drop or interrupt; `told` counts the words sent.

        After the word RECALL, a call is dropped only if it has not started. False: not
        all words were sent.
        """
        told = self.told
        for at in range(0, len(call_ids), _WORDS):
            words = call_ids[at : at + _WORDS]
            try:
                os.write(self._cancels, b"".join(words))  # all of them, or none
            except (BlockingIOError, BrokenPipeError):
                break  # it does not read, or is gone: a later kill ends it
            self.told += len(words)
        if self.told > told:
            with self._ending:
                if not self._ended:
                    _interrupt_main_thread(self.pid)
        return self.told == told + len(call_ids)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the worker and all that it started."""
        with self._ending:
            if not self._ended:
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Close our ends; a worker that still runs ends itself."""
        self.stream.close()
        self.descriptors.close()
        os.close(self._cancels)
        os.close(self.log)
        self.page.close()

    def _wait(self, on_end: Callable[[End], None]) -> None:
        if hasattr(os, "waitid"):
            # Not reaped yet, so its process group cannot be anybody else's.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._sweep()
        else:
            _, status, usage = os.wait4(self.pid, 0)
        with self._ending:
            self._ended = True
            if hasattr(os, "waitid"):
                _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._popen.returncode = code
        peak_mb = usage.ru_maxrss / _PER_MB
        known = peak_mb > self._inherited_mb
        on_end(End(code, round(peak_mb, 1) if known else self._sampled_mb))

    def _sweep(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # nothing is left, or what is left became another user's


_tgkill = getattr(ctypes.CDLL(None), "tgkill", None)  # Linux has it


def _interrupt_main_thread(pid: int) -> None:
    """Send SIGINT to the thread that runs Python's signal handlers.

    What is sent to a process that was stopped may come to any of its threads. The
    main thread would then stay in its system call, and hear of nothing.
    """
    if _tgkill is None or _tgkill(pid, pid, int(signal.SIGINT)) != 0:
        os.kill(pid, signal.SIGINT)


def _shared_memory() -> int:
    """Return a descriptor of memory that can be shared."""
    if hasattr(os, "memfd_create"):
        shared = os.memfd_create("mpreg-page")
    else:
        with tempfile.TemporaryFile() as file:
            shared = os.dup(file.fileno())
    os.ftruncate(shared, PAGE_BYTES)
    return shared


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(SECRETS)
    }


READS = 4
"""Receptions of a large answer before others have their turn."""

_BUFFERS = 512  # given to one sendmsg; the system takes at most 1024


class WorkerStream:
    """Frames out, messages in.

    `on_messages` gets what one reception completed. `on_broken` is called when
    nothing more will come, with the reason if it is not that the end was closed.

    Frames are written at the end of a turn of the loop, together. A worker that got no
    more than one write in the turn before gets the next one at once: who waits for each
    answer before the next call saves a turn.
    """

    def __init__(
        self,
        end: socket.socket,
        on_messages: Callable[[list[Received[FromWorker]]], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._on_messages = on_messages
        self._on_broken = on_broken
        self._reader: JobFrameReader[FromWorker] = JobFrameReader(FromWorker)
        self._unsent: deque[Buffer] = deque()
        self._is_sending = False  # a write is scheduled, or waits for room
        self._writes = 0  # since the worker last said something
        self._at_once = False  # whether the next write need not wait for others
        self._is_full = False  # it waits for room
        self._is_closed = False
        self._loop.add_reader(end.fileno(), self._receive)

    def write(self, frames: "list[Buffer]") -> None:
        """Send frames, with all else of this turn of the loop."""
        self._unsent.extend(frames)
        self._writes += 1
        if self._is_sending:
            return
        self._is_sending = True
        if self._at_once:
            self._at_once = False
            self._send()
        else:
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        if self._is_closed:
            return
        while self._unsent:
            batch = [self._unsent.popleft()]
            while self._unsent and len(batch) < _BUFFERS:
                batch.append(self._unsent.popleft())
            try:
                sent = self._end.sendmsg(batch)
            except BlockingIOError:
                sent = 0
            except (BrokenPipeError, ConnectionResetError):
                self._unsent.clear()
                return  # the reading side reports the end
            left = _after(batch, sent)
            if left:
                self._unsent.extendleft(reversed(left))
                if not self._is_full:
                    self._is_full = True
                    self._loop.add_writer(self._end.fileno(), self._send)
                return
        self._is_sending = False
        if self._is_full:
            self._is_full = False
            self._loop.remove_writer(self._end.fileno())

    def read(self) -> None:
        """Take in what is there, without a turn of the loop."""
        self._receive()

    def _receive(self) -> None:
        for _ in range(READS):
            try:
                count = self._end.recv_into(self._reader.space())
            except BlockingIOError:
                return
            except ConnectionResetError:
                count = 0
            if not count:
                self._loop.remove_reader(self._end.fileno())
                self._on_broken("")
                return
            if self._take(count) or self._is_closed:
                return

    def _take(self, count: int) -> bool:
        """Pass on what came; False while a large answer is coming in."""
        try:
            received = self._reader.received(count)
        except (ValueError, msgspec.MsgspecError):
            self._on_broken("it wrote invalid data to its channel to the node")
            return True
        if received:
            self._on_messages(received)
            # What followed on it was written together; what comes next may be alone.
            self._at_once = self._writes <= 1
            self._writes = 0
        return bool(received)

    def drain(self) -> None:
        """Take what a worker had written before it ended."""
        try:
            while not self._is_closed:  # by what came
                count = self._end.recv_into(self._reader.space())
                if not count:
                    return
                self._take(count)
        except (BlockingIOError, ConnectionResetError):
            return

    def close(self) -> None:
        """Stop reading and writing."""
        self._is_closed = True
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())


def _after(batch: "list[Buffer]", sent: int) -> "list[Buffer]":
    """Return what is left of `batch` when its first `sent` bytes are gone."""
    for number, part in enumerate(batch):
        length = len(part)
        if sent < length:
            return [memoryview(part)[sent:], *batch[number + 1 :]]
        sent -= length
    return []


KEPT_LENGTH = 8 * 1024
"""How much of it is kept, for the report of a death."""

LAST_LINES = 15
"""Lines of it in such a report."""

BYTES_PER_S = 1 << 20
"""More is counted instead of passed on."""

PAUSE_S = 0.02
"""Between looks at a flood: who writes faster than a pipe can be read so, waits."""

FLOOD_READS = 8
"""Of a pipe's length each, at one look at a flood."""

HELD_S = 1.0
"""How long after a fatal error its process may still live."""

FATAL = "Fatal Python error"
_LENGTH = 1 << 16


class WorkerLog:
    """Reads the pipe that is the worker's standard output and error.

    `on_text` gets the text, and how many lines and bytes were left out before it.
    `on_look` is called before text is read that has come by itself. `writer` returns
    who writes now: only what that one wrote is kept for the report of a death.
    """

    def __init__(
        self,
        pipe: int,
        on_text: Callable[[str, int, int], None],
        on_look: Callable[[], None],
        writer: Callable[[], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._on_text = on_text
        self._on_look = on_look
        self._writer = writer
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._kept = ""
        self._kept_of: object = writer()
        self._second = 0.0  # when the present second of counting began
        self._bytes_left = 0
        self._lines_cut = self._bytes_cut = 0
        self._held = ""  # from the first word of a death on
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(pipe, self._look)

    def _look(self) -> None:
        self._on_look()
        self._read_once()
        if self._bytes_cut and self._pause is None:
            self._loop.remove_reader(self._pipe)
            self._pause = self._loop.call_later(PAUSE_S, self._look_again)

    def _look_again(self) -> None:
        self._pause = None
        reads = FLOOD_READS
        while reads and self._read_once():
            reads -= 1
        if self._pipe < 0:
            return
        if reads:  # the flood is over, at least for now
            self._loop.add_reader(self._pipe, self._look)
        else:
            self._pause = self._loop.call_later(PAUSE_S, self._look_again)

    def read(self) -> None:
        """Pass on text that is there, and how much was left out so far."""
        self._read_once()
        self._release()
        if self._bytes_cut:
            self._pass_on("")

    def _read_once(self) -> bool:
        if self._pipe < 0:
            return False
        try:
            data = os.read(self._pipe, _LENGTH)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        if self._is_within_limit(len(data)):
            text = self._decode(data)
            self._keep(text)
            self._hold_or_pass_on(text)
        else:
            self._lines_cut += data.count(b"\n")
            self._bytes_cut += len(data)
        return True

    def _hold_or_pass_on(self, text: str) -> None:
        """Hold back the dump of a fatal error: the report of the death shows it."""
        if not self._held:
            start = text.find(FATAL)
            if start >= 0:
                text, self._held = text[:start], text[start:]
                self._loop.call_later(HELD_S, self._release)
            if text:
                self._pass_on(text)
        else:
            self._held += text

    def _release(self) -> None:
        held, self._held = self._held, ""
        if held and self._pipe >= 0:  # it was another process that died
            self._pass_on(held)

    def _pass_on(self, text: str) -> None:
        lines, size = self._lines_cut, self._bytes_cut
        self._lines_cut = self._bytes_cut = 0
        self._on_text(text, lines, size)

    def _is_within_limit(self, count: int) -> bool:
        now = self._loop.time()
        if now > self._second + 1.0:
            self._second, self._bytes_left = now, BYTES_PER_S
        self._bytes_left -= count
        return self._bytes_left > 0

    def _keep(self, text: str) -> None:
        writer = self._writer()
        if writer != self._kept_of:
            self._kept, self._kept_of = "", writer
        self._kept = (self._kept + text)[-KEPT_LENGTH:]

    def add(self, line: str) -> None:
        """Add a line of the node's own."""
        self._keep(f"{line}\n")

    def drain(self) -> None:
        """Take what a worker had written before it ended."""
        reads = 16  # a pipe holds 64 KiB, unless others write to it too
        while reads and self._read_once():
            reads -= 1

    def last_lines(self) -> list[str]:
        """Return the last lines that help to find the cause."""
        self._keep("")
        return _telling(self._kept.splitlines())[-LAST_LINES:]

    def close(self) -> None:
        """Read no more."""
        if self._pause is not None:
            self._pause.cancel()
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            self._pipe = -1


def _telling(log: list[str]) -> list[str]:
    """Return the lines that help: of the dump of faulthandler, only a few.

    The dump shows all threads, the failed one last, up to a blank line.
    """
    fatal = [n for n, line in enumerate(log) if line.startswith(FATAL)]
    if fatal:
        log = log[fatal[-1] :]
        current = [n for n, line in enumerate(log) if line.startswith("Current thread")]
        start = current[0] + 1 if current else 1
        ours = f"{os.sep}mpreg_nb{os.sep}worker{os.sep}"
        own = [n for n in range(start, len(log)) if ours in log[n]]
        log = [log[0], *log[start : own[0] if own else start + LAST_LINES]]
    return [line for line in log if line.strip()]


PRINTED_LINES = 10
"""Last lines of functions that are kept for the report of a death."""

SAMPLE_S = 1.0
"""Between looks at the memory of a worker that runs something."""

RECALL_S = 0.001
"""Between looks whether a worker has heard which jobs it is not to begin."""

BROKEN_S = 0.5
"""How long a worker has to end by itself when its channel is closed."""

Answer: TypeAlias = JobDone | JobFailed
Answers: TypeAlias = "list[tuple[Answer, tuple[Buffer, ...]]]"


HEARD_S, LONGEST_HEARD_S = 0.001, 0.1
"""Between looks whether a worker has heard that a lease is over."""


class Handed(msgspec.Struct):
    """A job that a worker has."""

    job: Job
    number: int  # counted per worker, in the order of handing
    cost_s: float  # how long it is expected to take
    then: tuple[Job, ...] = ()  # that follow it


class WorkerLease(msgspec.Struct, eq=False):
    """That a client sends jobs to a worker itself.

    None of the node go there, until only those of the lease run that had begun.
    """

    number: int
    key: bytes
    path: str
    is_open: bool = False  # the worker listens for it
    is_ending: bool = False
    is_last: bool = False  # jobs of it run, and no other will begin
    is_stopped: bool = False  # what runs is to end, too
    versions: set[str] = set()  # that its jobs may name
    cancelled: dict[bytes, int] = {}  # calls: their jobs

    def wanted_of(self, jobs: Iterable[int]) -> set[int]:
        """Return those of these jobs that nobody has cancelled."""
        return set() if self.is_stopped else set(jobs) - {*self.cancelled.values()}


class LeaseRecord(msgspec.Struct, frozen=True):
    """What is known of a lease that is over, by the numbers of its jobs."""

    begun: int
    running: frozenset[int]
    called: int  # that runs, alone, and whose function was called; 0: none
    cancelled: frozenset[bytes]
    is_gone: bool  # the worker, too
    end: End | None = None  # of the worker; None: it lives, or was replaced
    lines: tuple[str, ...] = ()  # that it printed last


LOG = logging.getLogger("mpreg_nb.node")


class Owner(Protocol):
    """Receives the events of a worker; a pool implements it."""

    def lease_opened(self, link: "WorkerHandle", lease: WorkerLease) -> None:
        """The worker listens for who holds the lease."""

    def lease_ending(self, link: "WorkerHandle", lease: WorkerLease) -> None:
        """No job of the lease begins any more; one may run."""

    def lease_fenced(self, lease: WorkerLease, begun: int) -> None:
        """No job of the lease after the one with this number has begun, or will."""

    def lease_shared(self, link: "WorkerHandle") -> None:
        """What is left of the lease runs, and takes no more slots than that."""

    def lease_over(
        self, link: "WorkerHandle", lease: WorkerLease, record: LeaseRecord
    ) -> None:
        """No job of the lease runs, and none will; `link.lease` is None again."""

    def leased_printed(self, lease: WorkerLease, message: JobPrinted) -> None:
        """A job of a lease has written something past Python."""

    def counted(self, runs: list[tuple[str, str, RunRecord]]) -> None:
        """Jobs of leases have ended: function and version of each, and what it took."""

    def answered(self, link: "WorkerHandle", answers: Answers) -> None:
        """Some jobs have an answer."""

    def printed(self, message: JobPrinted, parts: "Parts" = ()) -> None:
        """A running call has written or displayed something."""

    def became_ready(self, link: "WorkerHandle") -> None:
        """The worker takes jobs from now on."""

    def waits(self, link: "WorkerHandle") -> None:
        """`link.waiting` has changed."""

    def became_unfit(self, link: "WorkerHandle", reason: str) -> None:
        """The worker starts no more jobs; `link.handed` are those it never will."""

    def died(self, link: "WorkerHandle", end: End) -> None:
        """The worker is gone; `link.handed` are the jobs without an answer."""


class WorkerHandle:
    """One worker, from its start to its end."""

    def __init__(
        self, owner: Owner, setup: Setup, environment: Mapping[str, str]
    ) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.slots = setup.slots
        self.handed: dict[bytes, Handed] = {}
        self.waiting: set[bytes] = set()  # of those, calls that wait for the cluster
        self._recalled: set[bytes] = set()  # taken back; the answer is still to come
        self.backlog_s = 0.0  # expected time of all that is handed
        self.is_ready = False
        self.is_leaving = False  # it only ends what it runs
        self.gone = asyncio.Event()
        self._count = 0
        self._turn = 0  # how often it got a job when it had none
        self._codes = ByteLimitedCache()  # the versions that the worker has
        self._is_sampling = False
        self._is_closed = False
        self._is_receiving = False  # what it said is passed on just now
        self._answers: Answers = []  # of that, what is still to be passed on
        self._unfit = ""  # why it begins no more jobs
        self.lease: WorkerLease | None = None
        self._leased: dict[tuple[str, str], int] = {}  # what leases name -> its place
        self._door: Path | None = None  # where the worker listens
        self.process = WorkerProcess(
            Path(setup.scratch),
            environment,
            lambda end: self._call_in_loop(lambda: self._ended(end)),
        )
        self._stream = WorkerStream(self.process.stream, self._received, self._broken)
        self._log = WorkerLog(
            self.process.log, self._logged, self._hear_ends, self._writer
        )
        self._memory: SegmentExchange | None = None
        if setup.shared_memory_bytes:
            channel = DescriptorChannel(self.process.descriptors)
            self._memory = SegmentExchange(MEMORY, channel, self._wake)
        self._stream.write([frame(setup)])

    def _call_in_loop(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop was closed before its workers had ended
            return

    # --------------------------------------------------------------------- jobs

    @property
    def free_slots(self) -> int:
        """How many more jobs would begin at once; below 0, so many wait there."""
        lent = len(self.waiting) if self.slots > 1 else 0
        taken = 0 if self.lease is None else len(self.leased_running)
        return self.slots + lent - len(self.handed) - taken

    @property
    def is_blocked(self) -> bool:
        """Whether what is handed now would wait for a call that itself waits."""
        return self.slots == 1 and bool(self.waiting)

    @property
    def takes_jobs(self) -> bool:
        """Whether a job may be handed to it now."""
        # Behind jobs of a lease none waits: how long these take is not known here.
        is_free = self.lease is None or (self.lease.is_last and self.free_slots > 0)
        is_free = is_free and not self.is_blocked
        return self.is_ready and is_free and not self.is_leaving

    def needs_code(self, version: str) -> bool:
        """Whether `give_code` must come before a job of this version."""
        return version not in self._codes

    def give_code(self, code: Code, parts: "Parts") -> None:
        """Send a version; the one that was not used for longest is forgotten."""
        self._codes.add(code.version, len(code.payload) + sum(map(len, parts)))
        self._stream.write([frame(_sized(code, parts)), *parts])

    def hand(self, job: Job, parts: "Parts", cost_s: float) -> None:
        """Send a job; from now on it may begin."""
        self._codes.use(job.version)
        if not self.handed:
            self._turn += 1
        self._count += 1
        self.handed[job.id] = Handed(job, self._count, cost_s, job.then)
        for follower in job.then:
            self._codes.use(follower.version)
            self._count += 1
        self.backlog_s += cost_s
        if not self._is_sampling:
            self._is_sampling = True
            self._loop.call_later(SAMPLE_S, self._sample)
        if not parts:
            self._stream.write([frame(job)])
            return
        shared = None if self._memory is None else self._memory.export(parts)
        if shared is None:
            self._stream.write([frame(_sized(job, parts)), *parts])
        else:
            job = msgspec.structs.replace(job, sizes=(), shared=shared)
            self._stream.write([frame(job)])

    # ------------------------------------------------------------------- leases

    def open_lease(self, number: int) -> WorkerLease | None:
        """Let a client send jobs itself; None: there is no place for a socket.

        The worker must have no jobs. It gets none but these until `lease_over`.
        """
        if self._door is None:
            self._door = local_socket.path_for(f"worker-{self.process.pid}")
        if self._door is None or len(self._leased) >= MOST_LEASED:
            return None
        lease = WorkerLease(number, os.urandom(16), str(self._door))
        self.lease = lease
        if not self._is_sampling:
            self._is_sampling = True
            self._loop.call_later(SAMPLE_S, self._sample)
        told = Lease(number=number, key=lease.key, path=lease.path)
        self._stream.write([frame(told)])
        return lease

    def permit(self, lease: WorkerLease, function: str, version: str) -> None:
        """Let the jobs of a lease name a version, which the worker has."""
        place = self._leased.setdefault((function, version), len(self._leased))
        lease.versions.add(version)
        self._codes.use(version)
        self._stream.write([frame(Permit(version=version, place=place))])

    def end_lease(self, *, stop: bool = False) -> None:
        """Have no more jobs of the lease begin; stop: nor the one that runs go on."""
        lease = self.lease
        if lease is None or (lease.is_ending and not stop):
            return
        lease.is_stopped = lease.is_stopped or stop
        if not lease.is_ending:
            lease.is_ending = True
            self._stream.write([frame(LeaseEnd(number=lease.number))])
            self._owner.lease_ending(self, lease)
        if lease.is_open and self.process.interrupt(
            END_LEASE, lease_word(lease.number, stop=stop)
        ):
            self._look_whether_heard(lease, self.process.told, HEARD_S)

    def _look_whether_heard(
        self, lease: WorkerLease, told: int, pause_s: float
    ) -> None:
        """Tell which job began last, as soon as the worker knows that no other may.

        What waits there behind a long job can run elsewhere then. The worker writes
        down which job begins, and then looks once more whether it may.
        """
        if self.lease is not lease:
            return
        page = self.process.page
        if page.heard >= told:
            begun, _ = page.leased(lease.number)
            self._owner.lease_fenced(lease, begun)
        else:
            longer_s = min(2 * pause_s, LONGEST_HEARD_S)
            self._loop.call_later(
                pause_s, self._look_whether_heard, lease, told, longer_s
            )

    def recall_leased(self, call_id: bytes) -> None:
        """Have a job of the lease dropped if it has not begun."""
        self.process.interrupt(RECALL, call_id)

    @property
    def leased_running(self) -> dict[int, int]:
        """The jobs of the lease that run now, and the place of the function of each."""
        if self.lease is None:
            return {}
        return self.process.page.leased(self.lease.number)[1]

    @property
    def leased_functions(self) -> list[str]:
        """The names of the functions whose jobs of a lease run."""
        named = list(self._leased)
        return [named[place][0] for place in self.leased_running.values()]

    def count_leased(self) -> None:
        """Tell the owner what jobs of leases took since the last time."""
        self._count_records(self.process.page.take_records())

    def _count_records(self, records: list[RunRecord]) -> None:
        if records:
            named = list(self._leased)
            self._owner.counted([(*named[record[0]], record) for record in records])

    def settle_lease(self, end: End | None = None, *, is_gone: bool = True) -> None:
        """Forget the lease: its last job has ended, or the worker `is_gone`."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        self.count_leased()
        lease.is_ending = True
        begun, running = self.process.page.leased(lease.number)
        is_alone = len(running) == 1 and not self.handed
        called = self.process.page.leased_called if is_alone else 0
        lines = () if end is None else self.last_lines()
        cancelled = frozenset(lease.cancelled)
        numbers = frozenset(running)
        record = LeaseRecord(begun, numbers, called, cancelled, is_gone, end, lines)
        self._owner.lease_over(self, lease, record)

    def take_back(self, call_id: bytes) -> bool:
        """Remove a job from those that the worker has; False if it had it not."""
        handed = self.handed.pop(call_id, None)
        if handed is None:
            return False
        self.waiting.discard(call_id)
        # Sums of fractions drift, so they start again at 0.
        self.backlog_s = self.backlog_s - handed.cost_s if self.handed else 0.0
        return True

    def _go_on(self, answer: JobDone) -> bool:
        """Have the job that follows in place of one that is answered."""
        handed = self.handed.get(answer.id)
        if handed is None:
            return False
        follows, *then = handed.then
        after = Handed(follows, handed.number + 1, handed.cost_s, tuple(then))
        if len(self.handed) == 1:
            self.handed.clear()
            self.handed[follows.id] = after
        else:  # in the order in which they were handed
            handed_now = list(self.handed.values())
            self.handed.clear()
            for each in handed_now:
                kept = after if each is handed else each
                self.handed[kept.job.id] = kept
        self.waiting.discard(answer.id)
        return True

    def has_begun(self, call_id: bytes) -> bool:
        """Whether a job that the worker has was started."""
        return self.handed[call_id].number <= self.process.page.begun

    def recall(self, then: Callable[[list[bytes]], None]) -> None:
        """Recall jobs that have not started; `then` gets the ids that never will."""
        begun = self.process.page.begun
        wanted = [h for h in self.handed.values() if h.number > begun]
        if wanted:
            words = [word for handed in wanted for word in (RECALL, handed.job.id)]
            if self.process.interrupt(*words):  # else it begins them, sooner or later
                self._look_for_recalled(wanted, self.process.told, then)

    def _look_for_recalled(
        self, wanted: list[Handed], told: int, then: Callable[[list[bytes]], None]
    ) -> None:
        if self._is_closed:
            return
        page = self.process.page
        if page.heard < told:
            again = self._look_for_recalled
            self._loop.call_later(RECALL_S, again, wanted, told, then)
            return
        begun = page.begun  # read after `heard`: jobs not started by now never will
        ids = [handed.job.id for handed in wanted if handed.number > begun]
        back = [call_id for call_id in ids if self.take_back(call_id)]
        self._recalled.update(back)
        then(back)

    def _sample(self) -> None:
        is_used = bool(self.handed) or self.lease is not None
        self._is_sampling = is_used and not self._is_closed
        if self._is_sampling:
            self.process.sample()
            self._loop.call_later(SAMPLE_S, self._sample)

    # ------------------------------------------------------------------ answers

    def _received(self, received: list[Received[FromWorker]]) -> None:
        self._is_receiving = True
        try:
            run_each(self._take, received)
            self._pass_on()
        finally:
            self._is_receiving = False
        if self._unfit and not self._is_closed:
            self._owner.became_unfit(self, self._unfit)

    def _pass_on(self) -> None:
        answers, self._answers = self._answers, []
        if answers:
            self._owner.answered(self, answers)

    def _take(self, one: Received[FromWorker]) -> None:
        if self._is_closed:  # it was retired for what came before
            return
        message, parts = one
        if type(message) is JobDone or type(message) is JobFailed:
            self._take_answer(message, parts)
        elif isinstance(message, JobPrinted | JobBlocked):
            self._pass_on()  # it may be of a job that goes on behind one of these
            if isinstance(message, JobPrinted):
                self._owner.printed(message, parts)
            else:
                self._blocked(message)
        elif isinstance(message, WorkerReady):
            self.is_ready = True
            self.process.sample()
            self._owner.became_ready(self)
        elif isinstance(message, WorkerUnfit):
            self._unfit = message.reason
        elif self._memory is not None and isinstance(message, SegmentsGone):
            self._memory.told(message)
        else:
            self._heard_of_lease(message)

    def _take_answer(self, message: Answer, came: "tuple[Buffer, ...]") -> None:
        if message.run_us > 1000:
            self._pass_on()  # what the log has may be of a job that goes on behind them
            self._log.read()  # while it is the call's that wrote it
        answer, parts = message, came
        if type(message) is JobDone and message.shared:
            answer, parts = self._accepted(message)
        if message.id in self._recalled and was_dropped(message):
            self._recalled.discard(message.id)
        elif type(message) is JobDone and message.goes_on:
            if self._go_on(message):
                self._answers.append((answer, parts))
        elif self.take_back(message.id):
            self._answers.append((answer, parts))

    def _blocked(self, message: JobBlocked) -> None:
        known = message.id in self.handed or self.leased_running
        if message.waits and known:
            self.waiting.add(message.id)
        else:
            self.waiting.discard(message.id)
        self._owner.waits(self)

    def _accepted(self, answer: JobDone) -> "tuple[Answer, tuple[Buffer, ...]]":
        if self._memory is None:
            raise RuntimeError("a worker without shared memory uses it")
        try:
            return answer, self._memory.accept(answer.shared)
        except (OSError, ValueError) as error:  # no memory or descriptors to be had now
            text = f"its result could not be read: {error}"
            return JobFailed(id=answer.id, kind="node_lost", message=text), ()

    def _wake(self) -> None:
        self._call_in_loop(self._tell_gone)

    def _tell_gone(self) -> None:
        """Tell the worker which shared memory is not read here any more."""
        if self._memory is not None and not self._is_closed:
            gone = self._memory.news()
            if gone is not None:
                self._stream.write([frame(gone)])

    def _heard_of_lease(self, message: FromWorker) -> None:
        lease = self.lease
        if isinstance(message, RunsCounted):
            self._count_records(read_records(message))
            self.count_leased()
        elif lease is None:
            return
        elif isinstance(message, LeaseOpen) and message.number == lease.number:
            if message.error:
                self._log.add(f"no calls come directly: {message.error}")
                self.end_lease()
            elif not lease.is_ending:
                lease.is_open = True
                self._owner.lease_opened(self, lease)
        elif isinstance(message, LeaseOver) and message.number == lease.number:
            if message.runs:
                lease.is_last = True
                self._owner.lease_shared(self)
            else:
                self.waiting.intersection_update(self.handed)
                self.settle_lease(is_gone=False)

    def _logged(self, text: str, lines_cut: int, bytes_cut: int) -> None:
        """Give what went past Python to the call that runs, where only one can.

        What no call can be given, such as the prints of a thread that goes on after
        its call, is in the log of the node.
        """
        if self.lease is not None and self.slots == 1:
            printed = JobPrinted(
                id=self.process.page.leased_call,
                stream="stdout",
                text=text,
                lines_cut=lines_cut,
                characters_cut=bytes_cut,
            )
            self._owner.leased_printed(self.lease, printed)
            return
        first = next(iter(self.handed.values()), None)
        if (
            first is not None
            and self.slots == 1
            and first.number <= self.process.page.begun
        ):
            self._owner.printed(
                JobPrinted(
                    id=first.job.id,
                    stream="stdout",
                    text=text,
                    lines_cut=lines_cut,
                    characters_cut=bytes_cut,
                )
            )
            return
        for line in text.splitlines():
            LOG.info("printed outside of a call: %s", line)

    def _writer(self) -> object:
        """Return what tells calls apart that write past Python, as far as it can."""
        if self.slots > 1:
            return self._turn
        page = self.process.page
        first = next(iter(self.handed.values()), None)
        number = page.begun if first is None else min(first.number, page.begun)
        return number, page.leased_call

    def _hear_ends(self) -> None:
        """Learn which jobs have ended, if another one has begun that may have written.

        Else what it writes would be given to the one before it.
        """
        first = next(iter(self.handed.values()), None)
        if first is not None and first.number < self.process.page.begun:
            self.catch_up()

    def catch_up(self) -> None:
        """Take in now what the worker has said; what is passed on just now is known."""
        if not (self._is_closed or self._is_receiving):
            self._stream.read()

    def last_lines(self) -> tuple[str, ...]:
        """Return what the worker printed last."""
        printed = self.process.page.last_lines(PRINTED_LINES)
        return (*printed, *self._log.last_lines())

    # ---------------------------------------------------------------------- end

    def _broken(self, reason: str) -> None:
        """End a worker that has lost its channel, if it is not just ending."""
        if reason:
            self._log.add(reason)
        self._loop.call_later(BROKEN_S, self.process.kill, signal.SIGKILL)

    def _ended(self, end: End) -> None:
        def died() -> None:
            if not self._is_closed:  # it was not retired for the last that it said
                self._owner.died(self, end)

        drains = () if self._is_closed else (self._stream.drain, self._log.drain)
        run_each(lambda step: step(), (*drains, died, self.close))
        self.gone.set()

    def close(self) -> None:
        """Let go of the worker; one that still runs ends itself."""
        if not self._is_closed:
            self._is_closed = True
            try:
                self.settle_lease()
            finally:
                self._let_go()

    def _let_go(self) -> None:
        self._stream.close()
        self._log.close()
        if self._memory is not None:
            self._memory.close()
        self.process.close()
        if self._door is not None:
            local_socket.remove(self._door)


def _sized(message: "Code | Job", parts: "Parts") -> "Code | Job":
    """Return the message with the sizes of its parts."""
    if not parts or message.sizes:
        return message
    return msgspec.structs.replace(message, sizes=sizes(parts))


def was_dropped(answer: "JobDone | JobFailed") -> bool:
    """Return whether a worker reports that it dropped a job before its start."""
    return (
        isinstance(answer, JobFailed)
        and answer.kind == "cancelled"
        and answer.executed == "no"
    )
