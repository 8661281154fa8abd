"""Several calls at a time: sync functions in threads, async ones in one loop.

The main thread reads. Jobs begin in the order in which they came, so that a
number tells which have begun.
"""

import asyncio
import ctypes
import math
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from time import monotonic, perf_counter_ns
from types import CoroutineType, FrameType
from typing import Any, TypeAlias

from mpreg_nb.call_context import running_call
from mpreg_nb.output.capture import OutputCapture, PrintingCall
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
from mpreg_nb.worker.cleanup import (
    Folders,
    StateRestorer,
    ThreadState,
    is_importing,
)
from mpreg_nb.worker.door import DirectReceiver
from mpreg_nb.worker.execution import Answers, Frames, arguments, call_of
from mpreg_nb.worker.lifetime import essential, start_essential

IMPORT_S = 0.02
"""Before the next try to interrupt a function that imports a module."""

CANCELS = 4096
"""Ids to cancel that are kept until their call arrives; some calls have ended."""

Interrupt: TypeAlias = Callable[[], object]

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)
_NOTHING = ctypes.py_object()


def _end_figures(*, are_shown: bool) -> None:
    call = running_call.get()
    if isinstance(call, PrintingCall) and call.has_figures:
        from mpreg_nb.output.figures import end_figures

        end_figures(call, are_shown=are_shown)


def _nothing_to_note(_ended: int) -> None:
    """Stand in for what says how many items have ended: several chunks run at once."""


def _nothing() -> None:
    """Interrupt a call that has no thread yet: its thread checks before it starts."""


class ConcurrentRunner:
    """The threads and the loop of a worker with several slots."""

    def __init__(
        self,
        slots: int,
        inbox: DirectReceiver,
        outbox: AnswerSender,
        page: SharedStatus,
        capture: OutputCapture,
        answers: Answers,
        restorer: StateRestorer,
        folders: Folders,
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._page = page
        self._capture = capture
        self._answers = answers
        self._restorer = restorer
        self._folders = folders
        self._slots = slots
        self._state = inbox.taking  # of all that follows, too
        self._busy: set[bytes] = set()  # calls that have started and not ended
        self._answering = 0  # calls that have ended, and whose answer is not sent
        self._elsewhere: set[bytes] = set()  # those of them that need no slot now
        self._running: dict[bytes, Interrupt] = {}  # call -> how to interrupt it
        self._interrupted: set[bytes] = set()
        self._early: dict[bytes, None] = {}  # cancelled before they were read
        self._recalls = False  # the next id is to be dropped, not interrupted
        self._ends_lease = False  # the next id is a word about a lease
        self._leased: set[bytes] = set()  # those of the busy calls that came by one
        self._threads = 0
        self._for_threads: SimpleQueue[Task] = SimpleQueue()
        # What signal handlers and functions may not do themselves: they could be
        # interrupted half-way, or hold up the call that they came upon.
        self._chores: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._to_retry: list[bytes] = []  # calls that import something just now
        self._loop = asyncio.new_event_loop()

    def run(self) -> None:
        """Run jobs until the node is gone, which raises ConnectionError."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._restorer.begin()
        start_essential(self._run_loop, "loop")
        start_essential(self._do_chores, "chores")
        while True:
            self._inbox.read()
            self._begin_what_fits()

    def _run_loop(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # A function, or what it left in the loop, means to end the process. The
                # call that it is of has failed with that; those beside it go on.
                traceback.print_exc()

    @property
    def _has_free_slot(self) -> bool:
        return len(self._busy) - len(self._elsewhere) < self._slots

    def _begin_what_fits(self) -> None:
        with self._state:
            while (
                self._has_free_slot and self._inbox.waiting and not self._restorer.unfit
            ):
                task = self._inbox.waiting.popleft()
                if self._early and self._early.pop(task.job.id, 0) is None:
                    self._drop(task)
                    continue
                if not self._busy:
                    self._page.note_anew()
                if task.holder is None:
                    self._page.begin(task.number)
                elif self._inbox.begin(task, task.holder):
                    self._leased.add(task.job.id)
                else:
                    continue
                self._busy.add(task.job.id)
                task.started_ns = perf_counter_ns()
                self._running[task.job.id] = _nothing
                if task.code.is_async and not task.job.items:
                    self._start_async(task)
                else:
                    self._hand_to_thread(task)

    def _drop(self, task: Task) -> None:
        outbox = task.holder or self._outbox
        outbox.send(self._answers.cancelled(task.job, begun=False))

    def _hand_to_thread(self, task: Task) -> None:
        # Who reads slowly holds up the thread that answers, and no other call.
        if self._threads < len(self._running) + self._answering:
            self._threads += 1
            start_essential(self._serve, f"slot-{self._threads}")
        self._for_threads.put(task)

    def _tell_waiting(self, call_id: bytes, waits: bool) -> None:
        """Free the slot of a call while it waits for the cluster."""
        with self._state:
            if waits and call_id in self._busy:
                self._elsewhere.add(call_id)
            else:
                self._elsewhere.discard(call_id)
        self._outbox.hold(frame(JobBlocked(id=call_id, waits=waits)))
        self._chores.put(self._begin_what_fits)

    def _ended(self, task: Task, call: PrintingCall, frames: Frames) -> None:
        now_ns = perf_counter_ns()
        with self._state:
            self._busy.discard(call.id)
            self._interrupted.discard(call.id)
            self._elsewhere.discard(call.id)
            is_first = not task.code.has_run
            run_ns = now_ns - task.started_ns
            task.code.took(run_ns // (task.job.items or 1))
            if not self._busy:
                # Before the answer, after which the next call may come and begin.
                self._restorer.end_copies()
                self._restorer.after(now_ns, run_ns, is_first=is_first)
            self._leased.discard(call.id)
            self._answering += 1
        outbox = task.holder or self._outbox
        if task.holder is None:
            outbox.send(frames, lambda: self._capture.finish(call))
        else:
            queued_ns = task.started_ns - task.read_ns
            if task.is_called:
                self._inbox.end(task, run_ns, queued_ns, frames[0])
            outbox.send(frames, lambda: self._capture.finish(call))
            if not task.is_called:
                # Now: who has ended without an answer is said to have run.
                self._inbox.end(task, run_ns, queued_ns, frames[0])
            self._inbox.answered()
        with self._state:
            self._answering -= 1
            # What has no answer when the node hears of it would begin a second time.
            is_last = not self._busy and not self._answering
            leaves = self._restorer.unfit if is_last else ""
        if leaves:  # the node takes back the calls that wait, and ends this process
            self._outbox.send([frame(WorkerUnfit(reason=leaves))])
        else:
            self._begin_what_fits()

    # ------------------------------------------------------------------ threads

    def _serve(self) -> None:
        state = ThreadState()
        while True:
            task: Task | None = None  # arguments of the last one need not stay
            task = self._for_threads.get()
            try:
                function = task.code.function
            except BaseException as error:  # noqa: BLE001  user code runs in there
                answer = self._answers.unusable(task.job, error)
                with self._state:
                    self._running.pop(task.job.id)
                self._ended(task, self._call_of(task), answer)
                continue
            # Known only now that it is opened.
            if task.code.is_async and not task.job.items:
                self._start_async(task)
            else:
                self._perform(task, function)
                state.restore()
                state.restore_priority()

    def _call_of(self, task: Task) -> PrintingCall:
        call = call_of(task.job, self._tell_waiting)
        call.outbox = task.holder
        return call

    def _perform(self, task: Task, function: Callable[..., Any]) -> None:
        call = self._call_of(task)
        running_call.set(call)
        me = threading.get_ident()
        try:
            outcome = self._attempt(task, function, me)
        except BaseException as error:  # noqa: BLE001  interrupted as it handled another
            outcome = error
        try:
            self._close(task.job.id, me)
        except KeyboardInterrupt:  # interrupted in the last moment before that is over
            self._close(task.job.id, me)
        self._restorer.leave_copy()
        if isinstance(outcome, BaseException):
            outcome = self._broken(task, outcome)
        running_call.set(None)
        self._ended(task, call, outcome)

    def _attempt(
        self, task: Task, function: Callable[..., Any], me: int
    ) -> Frames | BaseException:
        try:
            with self._state:
                if task.job.id in self._interrupted:
                    raise KeyboardInterrupt
                self._running[task.job.id] = partial(self._raise, task.job.id, me)
            self._folders.enter(task.job.folder)
            started = perf_counter_ns()
            if task.job.items:
                value: object = self._run_chunk(task, function)
            else:
                try:
                    args, kwargs = arguments(task)
                except Exception as error:  # noqa: BLE001  user code runs in there
                    return self._answers.unusable(task.job, error)
                value = self._invoke(task, function, args, kwargs)
            _end_figures(are_shown=True)
            return self._done(task, value, perf_counter_ns() - started)
        except BaseException as error:  # noqa: BLE001  the border of user code
            return error

    def _done(self, task: Task, value: object, run_ns: int) -> Frames:
        if task.holder is None:
            return self._answers.done(task.job, value, run_ns)
        queued_ns = task.started_ns - task.read_ns
        return self._answers.done(
            task.job, value, run_ns, queued_ns=queued_ns, is_direct=True
        )

    def _note_called(self, task: Task) -> None:
        if task.holder is None:
            self._page.call(task.number)
        else:
            self._page.call_leased(task.number)
        task.is_called = True  # last: who is interrupted before it has not begun

    def _invoke(
        self,
        task: Task,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Any,
    ) -> object:
        self._note_called(task)
        value = function(*args, **kwargs)
        if type(value) is not CoroutineType:
            return value
        course = asyncio.run_coroutine_threadsafe(value, self._loop)
        try:
            return course.result()
        except KeyboardInterrupt:
            course.cancel()
            raise

    def _run_chunk(self, task: Task, function: Callable[..., Any]) -> bytes:
        def between(_run_ns: int) -> None:
            _end_figures(are_shown=True)
            self._restorer.leave_copy()
            self._folders.enter(task.job.folder)

        invoke = partial(self._invoke, task, function)

        def is_interrupted() -> bool:
            with self._state:
                return task.job.id in self._interrupted

        return run_chunk(
            task,
            function,
            invoke,
            self._answers,
            between,
            is_interrupted,
            _nothing_to_note,
        )

    def _close(self, call_id: bytes, me: int) -> None:
        """End the time in which the call can be interrupted."""
        with self._state:
            if self._running.pop(call_id, None) is not None:
                _raise_in_thread(me, _NOTHING)  # withdraws what is not raised yet

    def _broken(self, task: Task, error: BaseException) -> Frames:
        with self._state:
            interrupted = task.job.id in self._interrupted
            self._interrupted.discard(task.job.id)
        _end_figures(are_shown=not interrupted)
        if interrupted:
            return self._answers.cancelled(task.job, begun=task.is_called)
        return self._answers.raised(task, error)

    # --------------------------------------------------------------------- loop

    def _start_async(self, task: Task) -> None:
        course = asyncio.run_coroutine_threadsafe(self._course(task), self._loop)
        course.add_done_callback(lambda done: essential(done.result))

    async def _course(self, task: Task) -> None:
        call = self._call_of(task)
        running_call.set(call)
        user = asyncio.ensure_future(self._user(task))
        with self._state:
            if task.job.id in self._interrupted:
                user.cancel()
            self._running[task.job.id] = lambda: self._loop.call_soon_threadsafe(
                user.cancel
            )
        await asyncio.wait((user,))
        with self._state:
            self._running.pop(task.job.id)
        if user.cancelled():
            frames = self._broken(task, asyncio.CancelledError())
        else:
            error = user.exception()
            frames = user.result() if error is None else self._broken(task, error)
        if len(frames) == 1:
            self._ended(task, call, frames)
        else:  # large, and the node may take its time
            await asyncio.to_thread(self._ended, task, call, frames)

    async def _user(self, task: Task) -> Frames:
        try:
            self._folders.enter(task.job.folder)
            function: Callable[..., Awaitable[Any]] = task.code.function
            args, kwargs = arguments(task)
        except BaseException as error:  # noqa: BLE001  user code runs in there
            return self._answers.unusable(task.job, error)
        started = perf_counter_ns()
        self._note_called(task)
        try:
            value = await function(*args, **kwargs)
            _end_figures(are_shown=True)
            return self._done(task, value, perf_counter_ns() - started)
        except (SystemExit, KeyboardInterrupt) as error:  # these would end the loop
            return self._broken(task, error)

    # ------------------------------------------------------------------- cancel

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Pass on which calls are cancelled; a signal handler may take no lock."""
        # It may come upon itself, so it reads nothing: the order would be lost.
        self._chores.put(self._hear)

    def _do_chores(self) -> None:
        while True:
            self._chores.get()()

    def _raise(self, call_id: bytes, thread: int) -> None:
        """Raise KeyboardInterrupt in a thread, but not while it imports a module."""
        if is_importing(sys._current_frames().get(thread)):
            self._page.put_off()
            self._to_retry.append(call_id)
            self._outbox.call_by(monotonic() + IMPORT_S, self._retry)
        else:
            _raise_in_thread(thread, ctypes.py_object(KeyboardInterrupt))

    def _retry(self, _now: float) -> float:
        while self._to_retry:
            self._chores.put(partial(self._cancel, self._to_retry.pop()))
        return math.inf

    def _hear(self) -> None:
        words = self._inbox.cancels()
        for word in words:
            if word == RECALL:
                self._recalls = True
                continue
            if word == END_LEASE:
                self._ends_lease = True
                continue
            if self._ends_lease:
                self._ends_lease = False
                self._end_lease(*lease_read(word))
                continue
            is_recall, self._recalls = self._recalls, False
            self._cancel(word, is_recall=is_recall)
        # Not before: a job that the node takes back now must not begin here, too.
        self._page.hear(len(words))

    def _end_lease(self, number: int, stop: bool) -> None:
        self._inbox.end_lease(number)
        if stop:
            with self._state:  # what may begin just now has begun then
                leased = tuple(self._leased)
            for call_id in leased:
                self._cancel(call_id)

    def _cancel(self, call_id: bytes, *, is_recall: bool = False) -> None:
        """Drop a call, or interrupt it; what is recalled goes on if it has begun."""
        with self._state:
            if is_recall and call_id in self._busy:
                return
            interrupt = self._running.get(call_id)
            if interrupt is not None:
                self._interrupted.add(call_id)
                interrupt()
                return
            waiting = self._inbox.waiting
            dropped = [task for task in list(waiting) if task.job.id == call_id]
            for task in dropped:
                waiting.remove(task)
            if not dropped:
                self._early[call_id] = None
            while len(self._early) > CANCELS:
                del self._early[next(iter(self._early))]
        for task in dropped:
            self._drop(task)
