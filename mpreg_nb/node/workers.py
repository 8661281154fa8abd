"""The worker processes of a node: started, fed, interrupted, replaced.

Jobs wait here, where they can still be dropped. A worker gets a job when it has a
free slot; ahead of its slots it gets only as many short ones as keep it busy
while the next are on their way.
"""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mpreg_nb.errors import Executed
from mpreg_nb.node.endings import Crashed, Deaths, cancelled, overloaded
from mpreg_nb.node.expected import Expected
from mpreg_nb.node.staff import Staff
from mpreg_nb.node.threads import share_cores
from mpreg_nb.node.worker_link import Answer, WorkerLink, was_dropped
from mpreg_nb.node.worker_process import End
from mpreg_nb.wire.frames import Received
from mpreg_nb.wire.jobs import Code, Done, Job, JobFailed, Printed, Setup

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer, Parts

__all__ = ["Crashed", "DoneCallback", "Outcome", "Workers", "WorkersStatistics"]

AHEAD_S = 0.005
"""Expected time of the jobs that a worker has; it gets no more ahead of its slots."""

AHEAD_JOBS = 64
"""Jobs that a worker has ahead of its slots, at most."""

TERMINATE_S, KILL_S = 2.0, 4.5
"""After a cancel that is not followed: SIGTERM, then SIGKILL, with the worker. The
slot is promised back within 6 seconds, and the next worker needs time to start."""

Outcome: TypeAlias = Done | JobFailed | Crashed
DoneCallback: TypeAlias = "Callable[[Outcome, tuple[Buffer, ...]], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersStatistics:
    """Figures for pictures and metrics."""

    workers: int
    slots: int  # in all workers together
    running: int
    queued: int
    deaths: int
    finished: int


@dataclass(slots=True)
class _Item:
    """A job from its submission to its outcome."""

    job: Job
    parts: "Parts"
    code: "tuple[Code, Parts]"
    done: DoneCallback
    started: Callable[[bytes], None] | None
    link: WorkerLink | None = None  # None: it waits here
    cancelled: bool = False


class Workers:
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
        on_output: "Callable[[Printed, Parts], None]",
        on_event: Callable[[str, str], None],
        *,
        max_payload_bytes: int = 1 << 30,
        environment: Mapping[str, str] = os.environ,
        lends: bool = True,
    ) -> None:
        """`lends`: others help out while calls of a worker wait for the cluster."""
        self._lends = lends
        self.count = count
        self.slots = slots
        self._setup = Setup(
            scratch=str(scratch), slots=slots, max_payload_bytes=max_payload_bytes
        )
        self._on_output = on_output
        self._on_event = on_event
        environment = dict(environment)
        share_cores(environment, count)
        self._staff = Staff(self, count, environment, on_event, self._give_up)
        self._codes: dict[str, tuple[Code, Parts]] = {}
        self._expected = Expected()
        self._items: dict[bytes, _Item] = {}
        self._queue: deque[_Item] = deque()  # those dropped are still in it
        self._deaths = Deaths()
        self._finished = 0

    def tell_home(self, url: str, token: str) -> None:
        """Say where functions find this node; to be called before `start`."""
        self._setup = msgspec.structs.replace(
            self._setup, home_url=url, home_token=token
        )

    async def start(self) -> None:
        """Start the processes; returns when they run, not yet when they are ready."""
        self._staff.start(self._setup)

    async def stop(
        self, timeout_s: float = 2.0, *, cause: str = "the node is stopping"
    ) -> None:
        """End all processes; jobs that are left get a Crashed. Kills after timeout."""
        stopping = asyncio.ensure_future(self._staff.stop(timeout_s))
        await asyncio.sleep(0)  # until nothing is read from workers any more
        for item in list(self._items.values()):
            begun: Executed = "no" if item.link is None else "unknown"
            crashed = Crashed(id=item.job.id, cause=cause, executed=begun)
            self._end(item, crashed, ())
        await stopping

    def kill(self) -> None:
        """End all processes at once; what they run gets no outcome."""
        self._staff.kill()

    @property
    def links(self) -> tuple[WorkerLink, ...]:
        """The workers of this moment, lent ones included."""
        return tuple(self._staff.links)

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

    # --------------------------------------------------------------------- jobs

    @property
    def running(self) -> int:
        """Jobs that have a slot."""
        return sum(min(len(link.handed), self.slots) for link in self._staff.links)

    @property
    def queued(self) -> int:
        """Jobs that wait, here or ahead of the slots of a worker."""
        return len(self._items) - self.running

    def statistics(self) -> WorkersStatistics:
        """Return the figures of this moment."""
        return WorkersStatistics(
            workers=len(self._staff.links),
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
        started: Callable[[bytes], None] | None = None,
    ) -> None:
        """Queue `job`; its `sizes` are filled in here from `parts`.

        `started` is told the id when the job is handed to a worker: from there on
        it may have effects. `add_code` must have been called for its version.
        """
        if job.version not in self._codes:
            raise LookupError(f"no code for version {job.version}; call add_code first")
        item = _Item(job, parts, self._codes[job.version], done, started)
        self._items[job.id] = item
        self._queue.append(item)
        self._feed()

    def _feed(self) -> None:
        """Hand out what fits."""
        while self._queue:
            item = self._queue[0]
            if item.cancelled:  # and has its outcome
                self._queue.popleft()
                continue
            link = self._place(item.job.version)
            if link is None and not self._lends:
                return
            if link is None:
                self._staff.lend()
                if self._staff.is_stuck:
                    self._refuse(overloaded)
                return
            self._queue.popleft()
            self._hand(item, link)

    def _place(self, version: str) -> WorkerLink | None:
        """Return the worker that should have the next job, if there is one."""
        best: WorkerLink | None = None
        for link in self._staff.links:
            if link.is_ready and not link.is_blocked:
                if best is None or link.load < best.load:
                    best = link
        if best is None or best.free_slots > 0:
            return best
        cost_s = self._expected.get(version)
        full = best.free_slots <= -AHEAD_JOBS
        if cost_s is None or full or best.backlog_s + cost_s > AHEAD_S:
            return None
        return best

    def _hand(self, item: _Item, link: WorkerLink) -> None:
        job = item.job
        item.link = link
        if link.needs_code(job.version):
            link.give_code(*item.code)
        expected_s = self._expected.get(job.version)
        # After an unknown function nothing more is sent before its answer.
        link.hand(job, item.parts, AHEAD_S if expected_s is None else expected_s)
        started, item.started = item.started, None  # told once, also if handed twice
        if started is not None:
            started(job.id)

    def answered(self, link: WorkerLink, answers: list[Received[Answer]]) -> None:
        """Pass on answers; what `Owner` asks for."""
        for answer, parts in answers:
            item = self._items.get(answer.id)
            if item is not None and was_dropped(answer) and not item.cancelled:
                # Recalled a moment after the worker had counted it as begun.
                item.link = None
                self._queue.appendleft(item)
            elif item is not None:
                if isinstance(answer, Done) and not item.job.split:
                    self._expected.learn(item.job.version, answer.run_us)
                self._end(item, answer, parts)
        self._feed()

    def _end(self, item: _Item, outcome: Outcome, parts: "tuple[Buffer, ...]") -> None:
        del self._items[item.job.id]
        self._finished += 1
        item.done(outcome, parts)

    def printed(self, message: Printed, parts: "Parts" = ()) -> None:
        """Pass on what a call wrote; what `Owner` asks for."""
        item = self._items.get(message.id)
        if item is not None and not item.job.quiet:
            self._on_output(message, parts)

    def waits(self, link: WorkerLink) -> None:
        """Find places for what a call that waits is in the way of; for `Owner`."""
        if link.is_blocked:
            link.recall(self._queue_again)
        self._feed()

    def _queue_again(self, call_ids: list[bytes]) -> None:
        items = [self._items[call_id] for call_id in call_ids]
        for item in items:
            item.link = None
            if item.cancelled:
                self._end(item, cancelled(item.job, begun=False), ())
        self._queue.extendleft(item for item in reversed(items) if not item.cancelled)
        self._feed()

    # ------------------------------------------------------------------- cancel

    def cancel(self, call_id: bytes) -> None:
        """Drop a job if it is queued, else interrupt it, and later kill its worker.

        Its `done` is called as always; unknown ids and second cancels do nothing.
        """
        item = self._items.get(call_id)
        if item is None or item.cancelled:
            return
        item.cancelled = True
        if item.link is None:
            self._end(item, cancelled(item.job, begun=False), ())
            return
        item.link.process.interrupt(call_id)
        later = asyncio.get_running_loop().call_later
        later(TERMINATE_S, self._insist, item, signal.SIGTERM)
        later(KILL_S, self._insist, item, signal.SIGKILL)

    def _insist(self, item: _Item, number: signal.Signals) -> None:
        """Kill the worker of a cancelled job that still runs."""
        call_id, link = item.job.id, item.link
        if self._items.get(call_id) is not item or link is None:
            return
        if link.has_begun(call_id):
            link.process.kill(number)
        else:  # another job is in its way; it will be dropped when its turn comes
            asyncio.get_running_loop().call_later(1.0, self._insist, item, number)

    # --------------------------------------------------------------------- ends

    def became_ready(self, link: WorkerLink) -> None:
        """Feed a worker that has started; what `Owner` asks for."""
        self._staff.became_ready()
        self._feed()

    def died(self, link: WorkerLink, end: End) -> None:
        """Settle the jobs of a dead worker and replace it; what `Owner` asks for."""
        self._staff.links.remove(link)
        self._deaths.count += 1
        again: list[_Item] = []
        names: list[str] = []
        for handed in link.handed.values():
            item = self._items[handed.job.id]
            item.link = None
            begun = handed.number <= link.process.page.begun
            if item.cancelled:
                self._end(item, cancelled(item.job, begun=begun), ())
            elif begun:
                names.append(item.job.function)
                # One that had ended lost only its answer: it did not kill the worker.
                guilty = handed.number > link.process.page.ended
                crashed = self._deaths.crashed(
                    item.job.id, end, link.last_lines(), guilty=guilty
                )
                self._end(item, crashed, ())
            else:
                again.append(item)
        self._queue.extendleft(reversed(again))
        doing = f" while it ran {', '.join(names)}" if names else ""
        self._on_event("worker died", f"{end.cause}{doing}")
        self._staff.replace(link, end)
        self._feed()

    def _give_up(self, cause: str, lines: tuple[str, ...]) -> None:
        self._refuse(
            lambda job: Crashed(id=job.id, cause=cause, executed="no", last_lines=lines)
        )

    def _refuse(self, outcome: Callable[[Job], Outcome]) -> None:
        """Tell all that wait that they will not run here."""
        waiting = [item for item in self._queue if not item.cancelled]
        self._queue.clear()
        for item in waiting:
            self._end(item, outcome(item.job), ())
