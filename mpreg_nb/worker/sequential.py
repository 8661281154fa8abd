"""One call at a time, in the main thread: the shortest way from job to answer."""

import math
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from threading import get_ident
from time import monotonic, perf_counter_ns
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from mpreg_nb.call_context import running_call
from mpreg_nb.output.capture import OutputCapture
from mpreg_nb.protocol.worker import (
    END_LEASE,
    RECALL,
    JobBlocked,
    SharedStatus,
    WorkerUnfit,
    frame,
    lease_read,
)
from mpreg_nb.worker.channel import AnswerSender, Task
from mpreg_nb.worker.chunks import run_chunk
from mpreg_nb.worker.cleanup import Folder, StateRestorer, is_importing
from mpreg_nb.worker.door import DirectReceiver
from mpreg_nb.worker.execution import Answers, Frames, arguments, call_of

if TYPE_CHECKING:
    import asyncio


SHORT_NS = 300_000
"""An answer is held only while the next job is expected to take less than this."""

HOLD_NS = 1_000_000
"""And only for so long, as seen from the job that was answered first."""

HOLD_DIRECT_NS = 200_000
"""For who holds a lease: it works on these answers while the next jobs run here."""

IMPORT_S = 0.02
"""Before the next try to interrupt a function that imports a module."""

CANCELS = 4096
"""Ids to cancel that are kept until their call arrives; some calls have ended."""


class SequentialRunner:
    """The loop of a worker with one slot."""

    def __init__(
        self,
        inbox: DirectReceiver,
        outbox: AnswerSender,
        page: SharedStatus,
        capture: OutputCapture,
        answers: Answers,
        restorer: StateRestorer,
        folder: Folder,
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._page = page
        self._capture = capture
        self._answers = answers
        self._restorer = restorer
        self._folder = folder
        self._cancelled: dict[bytes, None] = {}
        self._running: bytes | None = None  # set while a call can be interrupted
        self._interrupted = False
        self._has_words = False  # ids came that nobody has read
        self._is_hearing = False  # a signal handler reads them
        self._recalls = False  # the next id is to be dropped, not interrupted
        self._ends_lease = False  # the next id is a word about a lease
        self._is_leased = False  # what runs came by a lease
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awaited: asyncio.Task[Any] | None = None
        self._holding_since_ns = 0

    def run(self) -> None:
        """Run jobs until the node is gone, which raises ConnectionError."""
        self._main = get_ident()
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._restorer.begin()
        waiting = self._inbox.waiting
        while True:
            if not waiting:
                self._outbox.flush()
                self._inbox.flush()
                self._inbox.wait()
            first = waiting.popleft()
            task = first if first.holder is None or self._inbox.admits(first) else None
            del first  # its arguments would stay until the next job comes
            while task is not None:
                task = self._perform(task)
                if self._restorer.unfit:
                    self._leave()

    def _leave(self) -> None:
        """Run no more calls; the node takes back those that wait, and ends this."""
        self._outbox.send([frame(WorkerUnfit(reason=self._restorer.unfit))])
        while True:
            self._inbox.read()

    def _perform(self, task: Task) -> Task | None:
        """Run a task and answer it; return the one that follows and begins now."""
        job, holder = task.job, task.holder
        self._is_leased = holder is not None
        self._page.note_anew()
        if holder is None:
            self._page.begin(task.number)
        else:
            self._page.begin_leased(task.number, job.id, task.place)
            if not self._inbox.admits(task):  # the lease has ended this moment
                self._page.end_leased()
                return None
        call = call_of(job, self._tell_waiting)
        call.outbox = holder
        self._capture.sole = call
        running_call.set(call)
        self._interrupted = False
        started = perf_counter_ns()
        try:
            try:
                self._running = job.id
                frames = self._work(task, started)
            finally:
                self._running = None
        except BaseException as error:  # noqa: BLE001  the border of user code
            self._running = None
            task.follower = None
            frames = self._broken(task, error, perf_counter_ns() - started)
        self._capture.sole = None
        if self._cancelled:
            self._cancelled.pop(job.id, None)  # it came too late
        ended = perf_counter_ns()
        is_first = not task.code.has_run
        task.code.took((ended - started) // (job.items or 1))
        outbox = self._outbox if holder is None else holder
        if not task.is_called:
            # Now: who has ended without an answer is said to have run.
            self._restorer.leave_copy()
            outbox.send(frames, lambda: self._capture.finish(call))
        if holder is None:
            self._page.end(task.number)
        else:
            self._page.end_leased()
            self._inbox.count(task, ended - started, started - task.read_ns, frames[0])
        self._restorer.leave_copy()
        if self._restorer.children.copies:
            self._restorer.end_copies()
        follower = task.follower
        if follower is not None and follower.before is None:
            follower = None
        if not task.is_called:
            pass  # it is answered
        elif call.output is not None:
            outbox.send(frames, lambda: self._capture.finish(call))
        elif follower is not None:
            # Whatever becomes of this process then, the node knows of this result.
            outbox.send(frames)
        else:
            self._answer(outbox, frames, ended)
        self._restorer.after(ended, ended - started, is_first=is_first)
        return follower

    def _work(self, task: Task, started: int) -> Frames:
        job = task.job
        if self._cancelled and job.id in self._cancelled:
            del self._cancelled[job.id]
            return self._answers.cancelled(job, begun=False)
        try:
            self._folder.enter(job.folder)
            function = task.code.function
            if not job.items:
                args, kwargs = arguments(task)
        except Exception as error:  # noqa: BLE001  user code runs in there
            return self._answers.unusable(job, error)
        if job.items:
            value: object = self._run_chunk(task, function)
        else:
            if task.holder is None:
                self._page.call(task.number)
            else:
                self._page.call_leased(task.number)
            task.is_called = True  # last: who is interrupted before it has not begun
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                value = self._await(value)
        self._end_figures(are_shown=True)
        run_ns = perf_counter_ns() - started
        if task.holder is None:
            return self._answers.done(job, value, run_ns, follower=task.follower)
        queued_ns = started - task.read_ns
        return self._answers.done(
            job, value, run_ns, queued_ns=queued_ns, is_direct=True
        )

    def _run_chunk(self, task: Task, function: Callable[..., Any]) -> bytes:
        def invoke(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
            self._page.call(task.number)
            value = function(*args, **kwargs)
            return self._await(value) if type(value) is CoroutineType else value

        self._page.begin_items(task.number)

        def between(run_ns: int) -> None:
            self._page.end_items()
            self._page.note_anew()
            self._end_figures(are_shown=True)
            restorer, code = self._restorer, task.code
            restorer.leave_copy()
            if restorer.children.copies:
                restorer.end_copies()
            restorer.after(perf_counter_ns(), run_ns, is_first=not code.has_run)
            if not code.has_run:
                code.took(run_ns)
            self._folder.enter(task.job.folder)

        def is_interrupted() -> bool:
            return self._interrupted

        return run_chunk(
            task,
            function,
            invoke,
            self._answers,
            between,
            is_interrupted,
            self._page.end_items,
        )

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            import asyncio  # a third of a worker's memory, for those that need it

            self._loop = asyncio.new_event_loop()
        self._awaited = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(self._awaited)
        finally:
            self._awaited = None

    def _broken(self, task: Task, error: BaseException, run_ns: int) -> Frames:
        self._end_figures(are_shown=not self._interrupted)
        if self._interrupted:
            begun = task.is_called
            return self._answers.cancelled(task.job, begun=begun, run_ns=run_ns)
        return self._answers.raised(task, error, run_ns)

    def _end_figures(self, *, are_shown: bool) -> None:
        call = self._capture.sole
        if call is not None and call.has_figures:
            from mpreg_nb.output.figures import end_figures

            end_figures(call, are_shown=are_shown)

    def _answer(self, outbox: AnswerSender, frames: Frames, now_ns: int) -> None:
        waiting = self._inbox.waiting
        hold_ns = HOLD_NS if outbox is self._outbox else HOLD_DIRECT_NS
        if (
            waiting
            and len(frames) == 1
            and waiting[0].code.expected_ns < SHORT_NS
            and (not outbox.is_holding or now_ns < self._holding_since_ns + hold_ns)
            and not outbox.is_full
        ):
            if not outbox.is_holding:
                self._holding_since_ns = now_ns
            outbox.hold(frames[0])
        else:
            outbox.send(frames)

    def _tell_waiting(self, call_id: bytes, waits: bool) -> None:
        # Only held: a write from here could be interrupted half-way.
        self._outbox.hold(frame(JobBlocked(id=call_id, waits=waits)))

    def _on_interrupt(self, _signal: int, frame: FrameType | None) -> None:
        """Read ids of cancelled calls; interrupt the running call if it is among them.

        A signal handler: it comes between any two instructions of the main thread,
        those of this method too. Then the one below goes on with what has come.
        """
        self._has_words = True
        while self._has_words:
            if self._is_hearing:
                return
            self._is_hearing = True
            try:
                self._has_words = False
                self._hear(self._inbox.cancels())
            finally:
                self._is_hearing = False
        self._interrupt_running(frame)

    def _hear(self, words: list[bytes]) -> None:
        for call_id in words:
            if call_id == RECALL:
                self._recalls = True
                continue
            if call_id == END_LEASE:
                self._ends_lease = True
                continue
            if self._ends_lease:
                self._ends_lease = False
                lease, stop = lease_read(call_id)
                self._inbox.end_lease(lease)
                if stop and self._is_leased and self._running is not None:
                    self._cancelled[self._running] = None
                continue
            let_be = self._recalls and call_id == self._running
            self._recalls = False
            if not let_be:
                self._cancelled[call_id] = None
        self._page.hear(len(words))
        while len(self._cancelled) > CANCELS:
            del self._cancelled[next(iter(self._cancelled))]

    def _interrupt_running(self, frame: FrameType | None) -> None:
        running = self._running
        if running is None or running not in self._cancelled:
            return
        if self._loop is not None and self._awaited is not None:
            interrupt: Callable[[], object] = partial(
                self._loop.call_soon_threadsafe, self._awaited.cancel
            )
        elif is_importing(frame):
            self._outbox.call_by(monotonic() + IMPORT_S, self._signal_again)
            return
        else:
            interrupt = _interrupt
        if self._cancelled.pop(running, 0) is not None:
            return  # another signal came in between, and did it
        self._interrupted = True
        interrupt()

    def _signal_again(self, _now: float) -> float:
        signal.pthread_kill(self._main, signal.SIGINT)
        return math.inf


def _interrupt() -> None:
    raise KeyboardInterrupt
