"""What goes between the node's loop and one worker: jobs there, answers back."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from mpreg_nb.node.worker_log import WorkerLog
from mpreg_nb.node.worker_process import End, WorkerProcess
from mpreg_nb.node.worker_stream import WorkerStream
from mpreg_nb.wire.frames import Received, frame, sizes
from mpreg_nb.wire.jobs import (
    RECALL,
    Code,
    Done,
    FromWorker,
    Job,
    JobFailed,
    Parked,
    Printed,
    Ready,
    Setup,
)
from mpreg_nb.wire.recent import Recent

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Parts

PRINTED_LINES = 10
"""Last lines of functions that are kept for the report of a death."""

SAMPLE_S = 1.0
"""Between looks at the memory of a worker that runs something."""

RECALL_S = 0.001
"""Between looks whether a worker has heard which jobs it is not to begin."""

BROKEN_S = 0.5
"""How long a worker has to end by itself when its channel is closed."""

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

    def printed(self, message: Printed, parts: "Parts" = ()) -> None:
        """A running call has written or displayed something."""

    def became_ready(self, link: "WorkerLink") -> None:
        """The worker takes jobs from now on."""

    def waits(self, link: "WorkerLink") -> None:
        """`link.waiting` has changed."""

    def died(self, link: "WorkerLink", end: End) -> None:
        """The worker is gone; `link.handed` are the jobs without an answer."""


class WorkerLink:
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
        self.gone = asyncio.Event()
        self._count = 0
        self._codes = Recent()  # the versions that the worker has
        self._is_sampling = False
        self._is_closed = False
        self.process = WorkerProcess(
            Path(setup.scratch),
            environment,
            lambda end: self._call_in_loop(lambda: self._ended(end)),
        )
        self._stream = WorkerStream(self.process.stream, self._received, self._broken)
        self._log = WorkerLog(self.process.log, self._logged)
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
        return self.slots + lent - len(self.handed)

    @property
    def is_blocked(self) -> bool:
        """Whether what is handed now would wait for a call that itself waits."""
        return self.slots == 1 and bool(self.waiting)

    @property
    def load(self) -> tuple[int, float]:
        """How much it has; the worker with less gets the next job."""
        return -self.free_slots, self.backlog_s

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
        self._count += 1
        self.handed[job.id] = Handed(job, self._count, cost_s)
        self.backlog_s += cost_s
        if not self._is_sampling:
            self._is_sampling = True
            self._loop.call_later(SAMPLE_S, self._sample)
        if parts:
            self._stream.write([frame(_sized(job, parts)), *parts])
        else:
            self._stream.write([frame(job)])

    def take_back(self, call_id: bytes) -> bool:
        """Count a job as not handed any more; False if it was not."""
        handed = self.handed.pop(call_id, None)
        if handed is None:
            return False
        self.waiting.discard(call_id)
        # Sums of fractions drift, so they begin anew.
        self.backlog_s = self.backlog_s - handed.cost_s if self.handed else 0.0
        return True

    def has_begun(self, call_id: bytes) -> bool:
        """Whether a handed job has begun."""
        return self.handed[call_id].number <= self.process.page.begun

    def recall(self, then: Callable[[list[bytes]], None]) -> None:
        """Have jobs back that have not begun; `then` is told which never will."""
        begun = self.process.page.begun
        wanted = [h for h in self.handed.values() if h.number > begun]
        if wanted:
            words = [word for handed in wanted for word in (RECALL, handed.job.id)]
            self.process.interrupt(*words)
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
        begun = page.begun  # read after `heard`: what has not begun now never will
        ids = [handed.job.id for handed in wanted if handed.number > begun]
        back = [call_id for call_id in ids if self.take_back(call_id)]
        self._recalled.update(back)
        then(back)

    def _sample(self) -> None:
        self._is_sampling = bool(self.handed) and not self._is_closed
        if self._is_sampling:
            self.process.sample()
            self._loop.call_later(SAMPLE_S, self._sample)

    # ------------------------------------------------------------------ answers

    def _received(self, received: list[Received[FromWorker]]) -> None:
        answers: list[Received[Answer]] = []
        for message, parts in received:
            if isinstance(message, Done | JobFailed):
                if message.run_us > 1000:
                    self._log.read()  # while it is the call's that wrote it
                if message.id in self._recalled and was_dropped(message):
                    self._recalled.discard(message.id)
                elif self.take_back(message.id):
                    answers.append((message, parts))
            elif isinstance(message, Printed):
                self._owner.printed(message, parts)
            elif isinstance(message, Parked):
                if message.waits and message.id in self.handed:
                    self.waiting.add(message.id)
                else:
                    self.waiting.discard(message.id)
                self._owner.waits(self)
            elif isinstance(message, Ready):
                self.is_ready = True
                self.process.sample()
                self._owner.became_ready(self)
        if answers:
            self._owner.answered(self, answers)

    def _logged(self, text: str, lines_cut: int, bytes_cut: int) -> None:
        """Give what went past Python to the call that runs, where only one can."""
        first = next(iter(self.handed.values()), None)
        if (
            first is not None
            and self.slots == 1
            and first.number <= self.process.page.begun
        ):
            self._owner.printed(
                Printed(
                    id=first.job.id,
                    stream="stdout",
                    text=text,
                    lines_cut=lines_cut,
                    characters_cut=bytes_cut,
                )
            )

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
        if not self._is_closed:
            self._stream.drain()
            self._log.drain()
            self._owner.died(self, end)
            self.close()
        self.gone.set()

    def close(self) -> None:
        """Let go of the worker; one that still runs ends itself."""
        if not self._is_closed:
            self._is_closed = True
            self._stream.close()
            self._log.close()
            self.process.close()


def _sized(message: "Code | Job", parts: "Parts") -> "Code | Job":
    """Return the message with the sizes of its parts."""
    if not parts or message.sizes:
        return message
    return msgspec.structs.replace(message, sizes=sizes(parts))


def was_dropped(answer: "Done | JobFailed") -> bool:
    """Return whether a worker says that it dropped a job before it began."""
    return (
        isinstance(answer, JobFailed)
        and answer.kind == "cancelled"
        and answer.executed == "no"
    )
