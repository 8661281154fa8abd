"""The pool of worker processes: queues jobs, starts and replaces workers.

A worker with one slot whose function waits for another call of the cluster can
run nothing else. So as long as it waits, another worker is lent in its place if
there is something to run; otherwise calls of calls could wait for each other.

Jobs wait here, where they can still be dropped. A worker gets a job when it has a
free slot; ahead of its slots it gets only as many short ones as keep it busy
while the next are on their way.
"""

import asyncio
import logging
import math
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from mpreg_nb.call_context import Home
from mpreg_nb.calls.waiting_line import DeepestFirst
from mpreg_nb.errors import Executed
from mpreg_nb.node.environment import share_cores
from mpreg_nb.node.worker_pool import (
    Crashed,
    DoneCallback,
    Outcome,
    PoolStatistics,
    StartedCallback,
)
from mpreg_nb.node.worker_process import (
    Answer,
    Answers,
    End,
    Handed,
    LeaseRecord,
    Owner,
    WorkerHandle,
    WorkerLease,
    was_dropped,
)
from mpreg_nb.protocol.worker import (
    Code,
    Job,
    JobDone,
    JobFailed,
    JobPrinted,
    RunRecord,
    Setup,
    SharedStatus,
    following,
)
from mpreg_nb.settings import RIDE_ALONG_BYTES
from mpreg_nb.transport.timer import run_each

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts

START_FAILURES = 3
"""Workers in a row that end before they are ready; then waiting jobs are refused."""

RESTART_S = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Pause before the next start after so many failed ones."""

LENT = 32
"""Workers that are lent at once, at most: each holds memory."""

LENT_IDLE_S = 10.0
"""How long a lent worker stays for the next such call."""

_log = logging.getLogger(__name__)


class WorkerSupervisor:
    """The workers of a node.

    `on_hopeless` gets the cause and the last lines when workers do not start.
    """

    def __init__(
        self,
        owner: Owner,
        count: int,
        environment: Mapping[str, str],
        on_event: Callable[[str, str], None],
        on_hopeless: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        self._owner = owner
        self._count = count
        self._environment = environment
        self._on_event = on_event
        self._on_hopeless = on_hopeless
        self.links: list[WorkerHandle] = []
        self._leaving: set[WorkerHandle] = set()
        self._failed_starts = 0
        self._is_shrinking = False
        self._stopping = False

    def start(self, setup: Setup) -> None:
        """Start all workers."""
        self._setup = setup
        for _ in range(self._count):
            self._start_one()

    @property
    def _wanted(self) -> int:
        extra = sum(link.is_blocked or link.is_leaving for link in self.links)
        return self._count + min(extra, LENT)

    @property
    def is_stuck(self) -> bool:
        """Whether every worker waits for the cluster, and no more can be lent."""
        blocked = sum(link.is_blocked for link in self.links)
        return blocked >= self._count + LENT

    def lend(self) -> None:
        """Start a worker in the place of one that waits, if there is none yet."""
        if len(self.links) < self._wanted:
            self._start_one()

    def _start_one(self) -> None:
        if self._stopping or len(self.links) >= self._wanted:
            return
        try:
            os.makedirs(self._setup.scratch, exist_ok=True)
            link = WorkerHandle(self._owner, self._setup, self._environment)
        except OSError as error:  # no processes, files or memory to be had now
            self._on_event("worker died", f"it could not be started: {error}")
            self._start_failed(str(error), ())
            return
        self.links.append(link)
        if len(self.links) > self._count and not self._is_shrinking:
            self._is_shrinking = True
            asyncio.get_running_loop().call_later(LENT_IDLE_S, self._shrink)

    def _shrink(self) -> None:
        """Let lent workers go that have nothing to do."""
        for link in list(self.links):
            is_free = not link.handed and link.lease is None
            if len(self.links) > self._wanted and is_free:
                self.links.remove(link)
                self._leaving.add(link)
                link.close()
        self._leaving = {link for link in self._leaving if not link.gone.is_set()}
        self._is_shrinking = len(self.links) > self._count
        if self._is_shrinking:
            asyncio.get_running_loop().call_later(LENT_IDLE_S, self._shrink)

    def became_ready(self) -> None:
        """Note that workers can be started."""
        self._failed_starts = 0

    def replace(self, link: WorkerHandle, end: End) -> None:
        """Start another worker for one that has died and is not among `links`."""
        if link.is_ready:
            self._start_one()
        else:
            self._start_failed(end.cause, link.last_lines())

    def _start_failed(self, cause: str, lines: tuple[str, ...]) -> None:
        self._failed_starts += 1
        _log.error("a worker did not start: %s\n%s", cause, "\n".join(lines))
        if self._failed_starts >= START_FAILURES and not self.links:
            self._on_hopeless(f"workers do not start: {cause}", lines)
        pause_s = RESTART_S[min(self._failed_starts, len(RESTART_S) - 1)]
        asyncio.get_running_loop().call_later(pause_s, self._start_one)

    @property
    def has_leaving(self) -> bool:
        """Whether a worker only ends what it runs; another took its place."""
        return len(self.links) > self._count and any(e.is_leaving for e in self.links)

    def retire(self, link: WorkerHandle) -> None:
        """Kill a worker that runs nothing, and start another in its place."""
        self.links.remove(link)
        self._leaving = {each for each in self._leaving if not each.gone.is_set()}
        self._leaving.add(link)
        link.process.kill(signal.SIGKILL)
        link.close()
        self._start_one()

    def kill(self) -> None:
        """Kill all workers and start no other."""
        self._stopping = True
        for link in (*self.links, *self._leaving):
            link.process.kill(signal.SIGKILL)

    async def stop(self, timeout_s: float) -> None:
        """End all workers; kills what is left after the timeout."""
        self._stopping = True
        links, self.links = [*self.links, *self._leaving], []
        for link in links:
            link.close()
        ends = [asyncio.ensure_future(link.gone.wait()) for link in links]
        if ends:
            _, pending = await asyncio.wait(ends, timeout=timeout_s)
            for link in links:
                link.process.kill(signal.SIGKILL)
            if pending:
                await asyncio.wait(pending)


DEATHS_KEPT = 10_000
"""Calls whose deaths are remembered."""


class CrashHistory:
    """How many workers died, and how many of them under each call.

    A call may be tried again on another worker; one that kills that too is not to
    be tried a third time.
    """

    def __init__(self) -> None:
        self.count = 0
        self._by_call: OrderedDict[bytes, int] = OrderedDict()

    def crashed(
        self,
        call_id: bytes,
        end: End,
        lines: Iterable[str],
        *,
        guilty: bool,
        executed: Executed,
        ran: int | None = None,
    ) -> Crashed:
        """Return the outcome of a call that had started when its worker died."""
        if guilty:
            self._by_call[call_id] = self._by_call.get(call_id, 0) + 1
            if len(self._by_call) > DEATHS_KEPT:
                self._by_call.popitem(last=False)
        return Crashed(
            id=call_id,
            cause=end.cause,
            executed=executed,
            memory_mb=end.memory_mb,
            last_lines=tuple(lines),
            deaths=self._by_call.get(call_id, 0),
            ran=ran,
        )


def cancelled(job: Job, *, executed: Executed = "no") -> JobFailed:
    """Return the outcome of a job that was dropped, or killed with its worker."""
    return JobFailed(
        id=job.id,
        kind="cancelled",
        message=f"{job.function} was cancelled",
        executed=executed,
    )


def overloaded(job: Job) -> JobFailed:
    """Return the outcome where all workers wait for calls, maybe for just this one."""
    return JobFailed(
        id=job.id,
        kind="overloaded",
        message="every worker waits for calls that its own calls made",
        executed="no",
    )


OVERHEAD_S = 10e-6
"""What a job takes in its worker besides the function."""

RISE, FALL = 0.5, 0.1
"""How fast the expectation follows longer and shorter runs."""


class RuntimeEstimates:
    """The expected time of each version.

    Follows upward fast: to take a long call for a short one makes others wait
    behind it, the other mistake only makes a short one wait for its turn.

    In the first run of a version in a worker, modules are imported. It stands until
    there was another one.
    """

    def __init__(self) -> None:
        self._times_s: dict[str, float] = {}
        self._of_first_runs: set[str] = set()

    def get(self, job: Job) -> float | None:
        """Return the expected time in seconds; None before the first run."""
        expected_s = self._times_s.get(job.version)
        if expected_s is None:
            return None
        if job.items:
            return expected_s * job.items
        for follower in job.then:
            expected_s += self._times_s.get(follower.version, 0.0)
        return expected_s

    def learn(self, job: Job, run_us: int, *, is_first: bool = False) -> None:
        """Take a run into account; is_first: of this version in its worker.

        >>> expected = RuntimeEstimates()
        >>> job = Job(id=b"", version="v", function="f")
        >>> expected.learn(job, 100)
        >>> round(expected.get(job) * 1e6)
        110
        """
        version = job.version
        run_s = (run_us / 1e6 + OVERHEAD_S) / (job.items or 1)
        before_s = self._times_s.get(version, run_s)
        if is_first and version in self._times_s:
            return
        if is_first:
            self._of_first_runs.add(version)
        elif version in self._of_first_runs:
            self._of_first_runs.discard(version)
            before_s = run_s
        weight = RISE if run_s > before_s else FALL
        self._times_s[version] = before_s + weight * (run_s - before_s)

    def forget(self, version: str) -> None:
        """Drop what is known of a version."""
        self._times_s.pop(version, None)
        self._of_first_runs.discard(version)


AHEAD_S = 0.005
"""Expected time of the jobs that a worker has; it gets no more ahead of its slots."""

AHEAD_JOBS = 64
"""Jobs that a worker has ahead of its slots, at most."""

TERMINATE_S, KILL_S = 2.0, 4.5
"""After a cancel that is not followed: SIGTERM, then SIGKILL, with the worker. The
slot is promised back within 6 seconds, and the next worker needs time to start."""

IMPORT_PATIENCE_S, IMPORTED_S = 30.0, 1.0
"""An import is not interrupted: so long its worker is not replaced for a cancelled call
while it says, at least so often, that the import goes on."""


NOTHING: frozenset[str] = frozenset()


class _Item(msgspec.Struct):
    """A job from its submission to its outcome."""

    job: Job
    parts: "Parts"
    codes: "tuple[tuple[Code, Parts], ...]"  # of the job, and of those that follow it
    done: DoneCallback
    started: StartedCallback | None
    began: float = 0.0  # when it came here
    due: float = math.inf  # when nobody needs its outcome any longer
    link: WorkerHandle | None = None  # None: it waits here
    opened: frozenset[str] = frozenset()  # versions that are new to its worker
    cancelled: bool = False
    cancelled_s: float = 0.0  # when

    @property
    def depth(self) -> int:
        """How many calls wait for it."""
        return self.job.depth


def _is_cancelled(item: _Item) -> bool:
    return item.cancelled


class LeaseEvents(Protocol):
    """Receives what happens to the leases of workers."""

    def opened(self, lease: WorkerLease) -> None:
        """The worker listens for who holds the lease."""

    def ending(self, lease: WorkerLease) -> None:
        """No job of the lease begins any more; one may run."""

    def fenced(self, lease: WorkerLease, begun: int) -> None:
        """No job of the lease after the one with this number has begun, or will."""

    def over(self, lease: WorkerLease, record: LeaseRecord) -> None:
        """No job of the lease runs, and none will."""

    def printed(self, lease: WorkerLease, message: JobPrinted) -> None:
        """A job of a lease has written something past Python."""

    def counted(self, runs: list[tuple[str, str, RunRecord]]) -> None:
        """Jobs of leases have ended: function and version of each, and what it took."""


class ProcessPool:
    """`count` processes with `slots` calls at once in each; all in one loop.

    Every job that was submitted gets exactly one outcome through its `done`.
    `on_output` gets what calls print, `on_event` names and details of what
    happened to workers. All of these are called in the loop.
    """

    def __init__(
        self,
        count: int,
        slots: int,
        scratch: Path,
        on_output: "Callable[[JobPrinted, Parts], None]",
        on_event: Callable[[str, str], None],
        *,
        max_payload_bytes: int = 1 << 30,
        home: Home | None = None,
        environment: Mapping[str, str] = os.environ,
        keeps: bool = False,
        shared_memory_bytes: int = 0,
        leases: LeaseEvents | None = None,
        on_given_back: Callable[[bytes], None] | None = None,
    ) -> None:
        """Take settings; nothing runs before `start`.

        on_given_back: gets the id of a job that was handed to a worker, did not begin
            there and waits here again; `started` is called again then, later.

        leases: hears of leases; None: there will be none.

        home: how functions find the node that they run on.
        shared_memory_bytes: that each worker may own; with 0, values go by sockets.
        keeps: what a call leaves in its process is there for the next. Then no other
            worker helps out while a call waits for the cluster.
        """
        self._keeps = keeps
        self._leases = leases
        self._on_given_back = on_given_back
        self._leases_made = 0
        self.count = count
        self.slots = slots
        self._setup = Setup(
            scratch=str(scratch),
            slots=slots,
            max_payload_bytes=max_payload_bytes,
            home_url=home.url if home else "",
            home_token=home.token if home else "",
            home_ca=home.ca if home else "",
            keeps=keeps,
            shared_memory_bytes=shared_memory_bytes,
        )
        self._on_output = on_output
        self._on_event = on_event
        environment = dict(environment)
        share_cores(environment, count)
        self._supervisor = WorkerSupervisor(
            self, count, environment, on_event, self._give_up
        )
        self._codes: dict[str, tuple[Code, Parts]] = {}
        self._expected = RuntimeEstimates()
        self._items: dict[bytes, _Item] = {}
        # Behind the answer that is passed on now; the next is the last of the list.
        self._unheard: Answers = []
        self._queue: DeepestFirst[_Item] = DeepestFirst(_is_cancelled)
        self._deaths = CrashHistory()
        self._finished = 0

    async def start(self) -> None:
        """Start the processes; returns when they run, not yet when they are ready."""
        self._supervisor.start(self._setup)

    async def stop(
        self, timeout_s: float = 2.0, *, cause: str = "the node is stopping"
    ) -> None:
        """End all processes; jobs that are left get a Crashed. Kills after timeout."""
        stopping = asyncio.ensure_future(self._supervisor.stop(timeout_s))
        await asyncio.sleep(0)  # until no more messages of workers are read

        def end(item: _Item) -> None:
            begun: Executed = "no" if item.link is None else "unknown"
            crashed = Crashed(id=item.job.id, cause=cause, executed=begun)
            self._end(item, crashed, ())

        run_each(end, list(self._items.values()))
        await stopping

    def kill(self) -> None:
        """End all processes at once; what they run gets no outcome."""
        self._supervisor.kill()

    @property
    def links(self) -> tuple[WorkerHandle, ...]:
        """The workers of this moment, lent ones included."""
        return tuple(self._supervisor.links)

    # --------------------------------------------------------------------- code

    def add_code(self, version: str, function: str, parts: "Parts") -> None:
        """Keep the code of a version; workers get it with their first job for it."""
        if len(parts) == 1:
            code = Code(version=version, function=function, payload=bytes(parts[0]))
            self._codes[version] = code, ()
        else:
            self._codes[version] = Code(version=version, function=function), parts

    def has_code(self, version: str) -> bool:
        """Whether jobs may name `version`."""
        return version in self._codes

    def forget_code(self, version: str) -> None:
        """Drop the code of a version; jobs that are queued have it."""
        self._codes.pop(version, None)
        self._expected.forget(version)
        for link in self._supervisor.links:
            if link.lease is not None and version in link.lease.versions:
                link.end_lease()

    # --------------------------------------------------------------------- jobs

    @property
    def running(self) -> int:
        """Jobs that have a slot."""
        running = self._running
        for link in self._supervisor.links:
            if link.lease is not None:
                leased: Collection[int] = link.leased_running
                if link.is_leaving:  # what is cancelled has no slot any more
                    leased = link.lease.wanted_of(leased)
                free = max(0, self.slots - len(link.handed))
                running += min(len(leased), free)
        return running

    @property
    def _running(self) -> int:
        slots, running = self.slots, 0
        for link in self._supervisor.links:  # a sum over them takes twice as long
            jobs = len(link.handed)
            if link.is_leaving:
                jobs -= self._cancelled_in(link)  # these have no slot any more
            running += jobs if jobs < slots else slots
        return running

    def _cancelled_in(self, link: WorkerHandle) -> int:
        return sum(self._items[call_id].cancelled for call_id in link.handed)

    @property
    def queued(self) -> int:
        """Jobs that wait, here or ahead of the slots of a worker."""
        return len(self._items) - self._running

    def statistics(self) -> PoolStatistics:
        """Return the figures of this moment."""
        return PoolStatistics(
            workers=len(self._supervisor.links),
            slots=self.count * self.slots,
            running=self.running,
            queued=self.queued,
            deaths=self._deaths.count,
            finished=self._finished,
        )

    def submit(
        self,
        job: Job,
        parts: "Parts",
        done: DoneCallback,
        started: StartedCallback | None = None,
        chain_s: float = 0.0,
    ) -> None:
        """Queue `job`; its `sizes` are filled in here from `parts`.

        `started` is told the id when the job is handed to a worker: from there on
        it may have effects. `add_code` must have been called for its version.
        """
        if job.version not in self._codes:
            raise LookupError(f"no code for version {job.version}; call add_code first")
        if job.then:
            job = self._shortened(job, chain_s)
        codes = tuple(self._codes[each.version] for each in (job, *job.then))
        item = _Item(job, parts, codes, done, started)
        if job.remaining_ms is not None:
            item.began = time.monotonic()
            item.due = item.began + job.remaining_ms / 1e3
        self._items[job.id] = item
        if not self._queue and (link := self._place(job)) is not None:
            self._hand(item, link)
        else:
            self._queue.add(item)
            self._feed()

    def _shortened(self, job: Job, limit_s: float) -> Job:
        """Return a job with those that follow it, as far as all of them are short.

        Longer ones would keep the worker from what others want of it.
        """
        alone = replace(job, then=())
        all_s = self._expected.get(alone)
        if self.slots > 1 or self._keeps or all_s is None:
            return alone
        count = 0
        for follower in job.then:
            expected_s = self._expected.get(follower)
            if expected_s is None or follower.version not in self._codes:
                break
            all_s += expected_s
            if all_s > limit_s:
                break
            count += 1
        return job if count == len(job.then) else replace(job, then=job.then[:count])

    def _feed(self) -> None:
        """Hand out what fits."""
        while self._queue and (item := self._queue.next(time.monotonic())) is not None:
            link = self._place(item.job)
            if link is None and self._keeps:
                return
            if link is None:
                self.end_leases()
                self._supervisor.lend()
                if self._supervisor.is_stuck:
                    # For what they wait. The others may wait until some have ended.
                    self._refuse(overloaded, least=1)
                return
            self._queue.take(item)
            self._hand(item, link)

    def _place(self, job: Job) -> WorkerHandle | None:
        """Return the worker that should have the next job, if there is one."""
        best: WorkerHandle | None = None
        free, backlog_s = 0, 0.0
        if self._supervisor.has_leaving and self.running >= self.count * self.slots:
            return None
        for link in self._supervisor.links:
            if link.takes_jobs:
                slots = link.free_slots
                if (
                    best is None
                    or slots > free
                    or (slots == free and link.backlog_s < backlog_s)
                ):
                    best, free, backlog_s = link, slots, link.backlog_s
        if best is None or free > 0:
            return best
        cost_s = self._expected.get(job)
        if cost_s is None or free <= -AHEAD_JOBS or backlog_s + cost_s > AHEAD_S:
            return None
        return best

    def _hand(self, item: _Item, link: WorkerHandle) -> None:
        job = item.job
        item.link = link
        item.opened = NOTHING
        for code, parts in item.codes:
            if link.needs_code(code.version):
                item.opened |= {code.version}
                link.give_code(code, parts)
        if job.then and any(link.needs_code(code.version) for code, _ in item.codes):
            # Together they are more than a worker keeps.
            item.job = job = replace(job, then=())
            item.codes = item.codes[:1]
            if link.needs_code(job.version):
                link.give_code(*item.codes[0])
        expected_s = self._expected.get(job)
        # After an unknown function nothing more is sent before its answer.
        link.hand(job, item.parts, AHEAD_S if expected_s is None else expected_s)
        if item.started is not None:
            item.started(job.id)

    def answered(self, link: WorkerHandle, answers: Answers) -> None:
        """Pass on answers; what `Owner` asks for."""
        came = answers[::-1]

        def pass_on(_: object) -> None:
            if not came:  # some were taken with those before
                return
            answer, parts = came.pop()
            item = self._items.get(answer.id)
            if item is not None and was_dropped(answer) and not item.cancelled:
                # Recalled just after the worker had counted it as started.
                self._wait_again([item])
            elif item is not None:
                done = item.done
                self._unheard = came
                self._advance(item, answer)
                try:
                    done(answer, parts)
                finally:
                    self._unheard = []

        run_each(pass_on, answers)
        self._retire_if_done(link)
        self._feed()

    def _retire_if_done(self, link: WorkerHandle) -> None:
        is_done = not link.handed and link.lease is None
        if link.is_leaving and is_done and link in self._supervisor.links:
            self._supervisor.retire(link)

    def _advance(self, item: _Item, answer: Answer) -> None:
        """Note that a job has ended, and with which its worker goes on, if it does."""
        if isinstance(answer, JobDone) and not item.job.split:
            is_first = item.job.version in item.opened
            self._expected.learn(item.job, answer.run_us, is_first=is_first)
        del self._items[item.job.id]
        self._finished += 1
        if isinstance(answer, JobDone) and answer.goes_on:
            item.job, item.parts = following(item.job, answer.payload), ()
            item.codes = item.codes[1:]
            self._items[item.job.id] = item

    def take_answer(self, call_id: bytes) -> tuple[str, JobDone] | None:
        """Return version and small result of a job that followed, if both are here.

        The answers of such jobs come together, and in order.
        """
        if not self._unheard or self._unheard[-1][0].id != call_id:
            return None
        item = self._items.get(call_id)
        answer, parts = self._unheard[-1]
        if (
            item is None
            or item.cancelled
            or not isinstance(answer, JobDone)
            or parts
            or len(answer.payload) > RIDE_ALONG_BYTES
        ):
            return None
        self._unheard.pop()
        version = item.job.version
        self._advance(item, answer)
        return version, answer

    def catch_up(self) -> None:
        """Take in now what workers have said."""
        for link in self.links:
            link.catch_up()

    def version_of(self, call_id: bytes) -> str | None:
        """Return the version of a job that is here and was not cancelled, if one is."""
        item = self._items.get(call_id)
        return None if item is None or item.cancelled else item.job.version

    def _end(self, item: _Item, outcome: Outcome, parts: "tuple[Buffer, ...]") -> None:
        del self._items[item.job.id]
        self._finished += 1
        item.done(outcome, parts)

    def printed(self, message: JobPrinted, parts: "Parts" = ()) -> None:
        """Pass on what a call wrote; what `Owner` asks for."""
        item = self._items.get(message.id)
        if item is not None and not item.job.quiet:
            self._on_output(message, parts)

    def waits(self, link: WorkerHandle) -> None:
        """Find places for what a call that waits is in the way of; for `Owner`."""
        if link.is_blocked:
            link.recall(self._queue_again)
            link.end_lease()  # what waits there goes elsewhere
        self._feed()

    def _queue_again(self, call_ids: list[bytes]) -> None:
        items = [self._items[call_id] for call_id in call_ids]
        self._wait_again([item for item in items if not item.cancelled])
        dropped = [item for item in items if item.cancelled]
        run_each(lambda item: self._end(item, cancelled(item.job), ()), dropped)
        self._feed()

    def _wait_again(self, items: list[_Item]) -> None:
        """Queue jobs again that a worker had, and that did not begin there."""
        for item in items:
            item.link = None
        self._queue.put_back(items)
        if self._on_given_back is not None:
            given_back = self._on_given_back
            run_each(lambda item: given_back(item.job.id), items)

    # ------------------------------------------------------------------- leases

    def lease(self, function: str, version: str) -> WorkerLease | None:
        """Lease a worker for calls of this version, which `add_code` was called for.

        None where none is idle, or jobs wait. A lease counts as a busy slot: it ends
        as soon as a job finds no other.
        """
        if self._leases is None or self._items:
            return None
        if len(self._supervisor.links) > self.count:  # some are lent: calls wait
            return None
        for link in self._supervisor.links:
            is_idle = link.takes_jobs and not link.handed and not link.waiting
            if is_idle and link.lease is None:
                self._leases_made += 1
                lease = link.open_lease(self._leases_made)
                if lease is not None:
                    self._permit(link, lease, function, version)
                return lease
        return None

    def permit(self, lease: WorkerLease, function: str, version: str) -> bool:
        """Let the jobs of a lease name this version too; False: it is ending."""
        link = self._leased(lease)
        if link is None or lease.is_ending:
            return False
        if version not in lease.versions:
            self._permit(link, lease, function, version)
        return True

    def _permit(
        self, link: WorkerHandle, lease: WorkerLease, function: str, version: str
    ) -> None:
        if link.needs_code(version):
            link.give_code(*self._codes[version])
        link.permit(lease, function, version)

    def end_leases(self) -> None:
        """Have no job of any lease begin from now on; `LeaseEvents.over` follows."""
        for link in self._supervisor.links:
            link.end_lease()

    def end_lease(self, lease: WorkerLease, *, stop: bool = False) -> None:
        """Have no job of a lease begin from now on; stop: and what runs be ended."""
        link = self._leased(lease)
        if link is not None:
            link.end_lease(stop=stop)
            if stop:
                self._end_leased_later(lease, 0)

    def cancel_leased(
        self, lease: WorkerLease, call_id: bytes, place: int, *, unless_begun: bool
    ) -> None:
        """Drop a job of a lease if it has not begun, else interrupt it, if wanted.

        place: the number of the job in the lease.
        """
        link = self._leased(lease)
        if link is None:
            return
        if unless_begun:
            link.recall_leased(call_id)
            return
        lease.cancelled[call_id] = place
        link.process.interrupt(call_id)
        self._end_leased_later(lease, place)

    def _end_leased_later(self, lease: WorkerLease, place: int) -> None:
        since_s = time.monotonic()
        later = asyncio.get_running_loop().call_later
        later(TERMINATE_S, self._insist_leased, lease, place, signal.SIGTERM, since_s)
        later(KILL_S, self._insist_leased, lease, place, signal.SIGKILL, since_s)

    def _insist_leased(
        self, lease: WorkerLease, place: int, number: signal.Signals, since_s: float
    ) -> None:
        """End the worker of a cancelled job of a lease that still runs.

        All of them are, of a lease that is stopped, also those that began meanwhile.
        """
        link = self._leased(lease)
        if link is None:
            return
        begun, running = link.process.page.leased(lease.number)
        again = partial(self._insist_leased, lease, place, number, since_s)
        if place in running or (running and lease.is_stopped):
            self._end_worker(link, number, since_s, again)
        elif begun < place:  # another job is in its way; it will be dropped
            asyncio.get_running_loop().call_later(1.0, again)

    def is_used(self, lease: WorkerLease) -> tuple[int, bool]:
        """Return how many jobs of a lease have begun, and whether one runs."""
        link = self._leased(lease)
        if link is None:
            return 0, False
        begun, running = link.process.page.leased(lease.number)
        return begun, bool(running)

    def count_leased(self) -> None:
        """Tell now what jobs of leases took; else that is told once in a while."""
        for link in self._supervisor.links:
            link.count_leased()

    def crash_of(self, call_id: bytes, place: int, record: LeaseRecord) -> Outcome:
        """Return the outcome of a leased job that had begun when its worker ended."""
        ended = place not in record.running
        ran = ended or place == record.called
        executed: Executed = "yes" if ran else "unknown"
        if call_id in record.cancelled:
            return JobFailed(
                id=call_id,
                kind="cancelled",
                message="the call was cancelled",
                executed=executed,
            )
        return self._deaths.crashed(
            call_id,
            record.end or End(-signal.SIGKILL, None),
            record.lines,
            guilty=not ended,
            executed=executed,
        )

    def _leased(self, lease: WorkerLease) -> WorkerHandle | None:
        for link in self._supervisor.links:
            if link.lease is lease:
                return link
        return None

    def lease_opened(self, link: WorkerHandle, lease: WorkerLease) -> None:
        """Pass it on; what `Owner` asks for."""
        if self._leases is not None:
            self._leases.opened(lease)

    def lease_ending(self, link: WorkerHandle, lease: WorkerLease) -> None:
        """Pass it on; what `Owner` asks for."""
        if self._leases is not None:
            self._leases.ending(lease)

    def lease_fenced(self, lease: WorkerLease, begun: int) -> None:
        """Pass it on; what `Owner` asks for."""
        if self._leases is not None:
            self._leases.fenced(lease, begun)

    def lease_shared(self, link: WorkerHandle) -> None:
        """Use the slots that the lease has left; what `Owner` asks for."""
        self._feed()

    def lease_over(
        self, link: WorkerHandle, lease: WorkerLease, record: LeaseRecord
    ) -> None:
        """Give the worker jobs of this node again; what `Owner` asks for."""
        if self._leases is not None:
            self._leases.over(lease, record)
        if not record.is_gone:
            self._retire_if_done(link)
        self._feed()

    def leased_printed(self, lease: WorkerLease, message: JobPrinted) -> None:
        """Pass it on; what `Owner` asks for."""
        if self._leases is not None:
            self._leases.printed(lease, message)

    def counted(self, runs: list[tuple[str, str, RunRecord]]) -> None:
        """Learn from what was run, and pass it on; what `Owner` asks for."""
        for function, version, (_, run_us, _, end) in runs:
            if end == "ok":
                job = Job(id=b"", version=version, function=function)
                self._expected.learn(job, run_us)
        self._finished += len(runs)
        if self._leases is not None:
            self._leases.counted(runs)

    # ------------------------------------------------------------------- cancel

    def cancel(self, call_id: bytes) -> None:
        """Drop a job if it is queued, else interrupt it, and later kill its worker.

        Its `done` is called as always; unknown ids and second cancels do nothing.
        """
        item = self._items.get(call_id)
        if item is None or item.cancelled:
            return
        item.cancelled = True
        item.cancelled_s = time.monotonic()
        if item.link is None:
            self._end(item, cancelled(item.job), ())
            return
        # The worker may have gone on to what follows; no word of that has come yet.
        followers = [follower.id for follower in item.job.then]
        item.link.process.interrupt(call_id, *followers)
        later = asyncio.get_running_loop().call_later
        later(TERMINATE_S, self._insist, item, signal.SIGTERM)
        later(KILL_S, self._insist, item, signal.SIGKILL)

    def _insist(self, item: _Item, number: signal.Signals) -> None:
        """End the worker of a cancelled job that still runs."""
        call_id, link = item.job.id, item.link
        if self._items.get(call_id) is not item or link is None:
            return
        again = partial(self._insist, item, number)
        if link.has_begun(call_id):
            self._end_worker(link, number, item.cancelled_s, again)
        else:
            # Another job is in its way; it will be dropped when its turn comes.
            asyncio.get_running_loop().call_later(1.0, again)

    def _end_worker(
        self,
        link: WorkerHandle,
        number: signal.Signals,
        since_s: float,
        again: Callable[[], None],
    ) -> None:
        """Kill a worker, or replace it: the calls beside go on. Look again then."""
        if not self._runs_beside(link):
            link.process.kill(number)
            return
        now = time.monotonic()
        imports = now - link.process.page.put_off_s < IMPORTED_S
        if not imports or now - since_s > IMPORT_PATIENCE_S:
            self._replace(link)
        asyncio.get_running_loop().call_later(IMPORTED_S / 2, again)

    def _runs_beside(self, link: WorkerHandle) -> bool:
        """Whether a worker runs calls that nobody has cancelled."""
        if link.lease is not None and link.lease.wanted_of(link.leased_running):
            return True
        return any(
            link.has_begun(call_id) and not self._items[call_id].cancelled
            for call_id in link.handed
        )

    def _replace(self, link: WorkerHandle) -> None:
        """Start another worker for one that only ends the calls that it runs.

        So the slot of a call that ignores its cancel is free again, and the calls
        beside it need not die for it.
        """
        if not link.is_leaving:
            link.is_leaving = True
            self.end_leases()  # those of others would take what has no slot now
            self._on_event("worker replaced", "it runs a call that ignores its cancel")

            def recalled(call_ids: list[bytes]) -> None:
                self._queue_again(call_ids)
                self._retire_if_done(link)  # all others may have ended before

            link.recall(recalled)
            self._supervisor.lend()

    # --------------------------------------------------------------------- ends

    def became_ready(self, link: WorkerHandle) -> None:
        """Feed a worker that has started; what `Owner` asks for."""
        self._supervisor.became_ready()
        self._feed()

    def became_unfit(self, link: WorkerHandle, reason: str) -> None:
        """Replace a worker that takes no more jobs; what `Owner` asks for."""
        steps: tuple[Callable[[], None], ...] = (
            lambda: self._supervisor.retire(link),
            lambda: self._queue_again(list(link.handed)),
            lambda: self._on_event("worker replaced", reason),
        )
        run_each(lambda step: step(), steps)

    def died(self, link: WorkerHandle, end: End) -> None:
        """Settle the jobs of a dead worker and replace it; what `Owner` asks for."""
        self._supervisor.links.remove(link)
        self._deaths.count += 1
        leased = link.leased_functions
        names: list[str] = []

        def tell() -> None:
            doing = f" while it ran {', '.join(names)}" if names else ""
            self._on_event("worker died", f"{end.cause}{doing}")

        steps: tuple[Callable[[], None], ...] = (
            lambda: link.settle_lease(end),
            lambda: names.extend(self._settle(link, end, at_work=len(leased))),
            lambda: names.extend(leased),
            tell,
            lambda: self._supervisor.replace(link, end),
            self._feed,
        )
        run_each(lambda step: step(), steps)

    def _settle(self, link: WorkerHandle, end: End, at_work: int) -> list[str]:
        """Tell what became of the jobs of a dead worker; return which it ran.

        at_work: jobs of a lease that it ran beside them.
        """
        again: list[_Item] = []
        names: list[str] = []
        page = link.process.page
        at_work += sum(
            page.ended < handed.number <= page.begun for handed in link.handed.values()
        )

        def settle(handed: Handed) -> None:
            item = self._items[handed.job.id]
            item.link = None
            begun = handed.number <= page.begun
            # One that had ended lost only its answer: it did not kill the worker.
            guilty = handed.number > page.ended
            # Its arguments may have ended the process, or another job of several,
            # before it had reached its function.
            sure = not guilty or (at_work == 1 and page.called == handed.number)
            executed: Executed = "no" if not begun else "yes" if sure else "unknown"
            if item.cancelled:
                self._end(item, cancelled(item.job, executed=executed), ())
            elif begun:
                names.append(item.job.function)
                crashed = self._deaths.crashed(
                    item.job.id,
                    end,
                    link.last_lines(),
                    guilty=guilty,
                    executed=executed,
                    ran=self._items_ended(handed, page) if item.job.items else None,
                )
                self._end(item, crashed, ())
            else:
                again.append(item)

        # First the one that killed it: of a map, the first that fails is named.
        handed = sorted(link.handed.values(), key=lambda h: h.number <= page.ended)
        run_each(settle, handed)
        self._wait_again(again)
        return names

    def _items_ended(self, handed: Handed, page: SharedStatus) -> int | None:
        """Return how many items of a chunk had ended when its worker did, if known."""
        if self.slots > 1:
            return None
        if handed.number <= page.ended:
            return handed.job.items
        return page.items_ended(handed.number)

    def _give_up(self, cause: str, lines: tuple[str, ...]) -> None:
        self._refuse(
            lambda job: Crashed(id=job.id, cause=cause, executed="no", last_lines=lines)
        )

    def _refuse(self, outcome: Callable[[Job], Outcome], *, least: int = 0) -> None:
        """Tell all that wait, and are so deep, that they will not run here."""
        refused = self._queue.clear(least)
        run_each(lambda item: self._end(item, outcome(item.job), ()), refused)
