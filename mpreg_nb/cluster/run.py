"""One execution of a workflow, as a notebook, a script or async code holds it.

`ClusterRuns` finds, starts and resumes the runs of a cluster. What a run does is
written once, in `BaseRun`: `AsyncRun` awaits its coroutines, `Run` runs them in the
thread of its caller (`client/loop_thread.py`).
"""

import asyncio
import os
import platform
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary, finalize

from mpreg_nb.boundary import public
from mpreg_nb.call_context import BlockedOnCluster
from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import ClientLoop, LoopThread, run_blocking
from mpreg_nb.client.outcome import awaited
from mpreg_nb.client.output import PrintState, Writer, current_writer
from mpreg_nb.client.runs import RunRecord
from mpreg_nb.cluster.call_progress import RunProgress
from mpreg_nb.cluster.planner import PlannedRun, planned_diagram
from mpreg_nb.cluster.progress import wait_shown
from mpreg_nb.errors import (
    CallCancelled,
    ClusterDown,
    ForkedProcess,
    MpregError,
    NoRun,
    NoStep,
    StepSkipped,
    WorkflowFailed,
)
from mpreg_nb.names import nearest
from mpreg_nb.protocol.messages import (
    RunSnapshot,
    RunSummary,
    StepSnapshot,
    summary_of,
)
from mpreg_nb.units import size
from mpreg_nb.view.diagram_text import clipped
from mpreg_nb.view.explain import Why
from mpreg_nb.view.report import (
    FailureSection,
    OutputSection,
    RunReport,
    report_page,
)
from mpreg_nb.workflows.graph import Diagram

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ENDED = ("done", "failed", "skipped", "cancelled", "fallback", "undone")
"""States of a step that change no more, but perhaps by its undo."""

Outcome: TypeAlias = Callable[[], Any] | Exception
"""Returns the value of a step or raises its error; or why it could not be fetched."""


@public
class BaseRun(ABC):
    """What a run does, for code that blocks and for code that awaits."""

    def __init__(
        self,
        client: Client,
        loop: ClientLoop,
        runs: "ClusterRuns[Any]",
        record: RunRecord,
        diagram: Diagram,
    ) -> None:
        self._client = client
        self._runs = runs
        self._record = record
        self._diagram = diagram
        self._loop = loop
        self._errors: dict[str, Exception] = {}  # of failed steps
        self._values: dict[str, Any] = {}  # of steps, once they were asked for

    @abstractmethod
    def _wake(self) -> None:
        """Wake those who wait for the run; called on the loop with each change."""

    def _raised(self, error: BaseException) -> BaseException:
        """Return what to raise for a StopIteration of a function."""
        return error

    @abstractmethod
    async def _until(self, met: Callable[[], bool]) -> None:
        """Wait until a condition is met, which is checked with each change."""

    def cancel(self) -> None:
        """Cancel the run, and its running steps on their nodes.

        It does not wait for that: `status` is running until the run has ended, and the
        run is shown as cancelling. Then finished steps that have an `undo` are undone,
        which cannot be cancelled.
        """
        self._loop.call_soon(self._client.runs.cancel, self._record)
        self._record.cancelling = True  # at once, for whoever reads it next

    # -------------------------------------------------------------------- state

    @property
    def id(self) -> str:
        """The hexadecimal id of the run, for `cluster.get_run`."""
        return self._record.id.hex()

    @property
    def name(self) -> str:
        """The name of its workflow."""
        return self._diagram.name

    @property
    def status(self) -> str:
        """Either running, done, failed or cancelled."""
        record = self._record
        return "failed" if record.lost is not None else record.status

    @property
    def steps(self) -> tuple[StepSnapshot, ...]:
        """The state of each step, in the order in which the steps were added."""
        return tuple(self._record.steps.values())

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end, or to the latest known state."""
        return self._record.duration_ms

    @property
    def started_at(self) -> datetime:
        """The time at which the run started, in UTC."""
        return datetime.fromtimestamp(self._record.started_at_s, UTC)

    @property
    def _snapshot(self) -> RunSnapshot:
        """The run as a row of `cluster.runs()`."""
        return self._record.snapshot

    # -------------------------------------------------------------------- shown

    def frame(self) -> Any:
        """Return one row per step, as a pandas DataFrame.

        Columns: step, function, version, node, status, attempts, queued_ms,
        run_ms, result_bytes, error (class and first line of the error that failed the
        step, that its fallback replaced, or that caused the current retry).
        """
        from mpreg_nb.view.frames import run_frame

        functions = {box.name: box.function for box in self._diagram.boxes}
        return run_frame(self.steps, functions)

    def log(self, step: str | None = None) -> str:
        """Return the prints and logs of a step, each line with the name of its node.

        step: None returns those of all steps, in the order in which they arrived.
        The last 64 KiB per run are kept, also for runs that other clients started.

        Raises:
            KeyError: the run has no such step.
        """
        if step is not None:
            self._check(step)
        texts: list[str] = []
        page = PrintState(lambda _, text: texts.append(text))
        for line in self._record.lines.all:
            if step in (None, line.step):
                if line.characters_cut:
                    page(
                        line.node,
                        "stdout",
                        f"… {line.lines_cut:,} lines are left out\n",
                    )
                page(line.node, "stdout", line.text)
        return "".join(texts)

    def plot(self) -> "Figure":
        """Return a Gantt chart: when each step waited and ran, by node."""
        from mpreg_nb.view.figures import gantt_figure

        return gantt_figure(self.name, self.steps, self.duration_ms)

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for state in self.steps:
            counts[state.status] = counts.get(state.status, 0) + 1
        said = ", ".join(f"{number} {status}" for status, number in counts.items())
        status = self.status
        if status == "running" and self._record.cancelling:
            status = "cancelling"
        return f"<run of {self.name}: {status} ({said})>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import run_bundle

        return run_bundle(repr(self), self.steps, self.diagram(), include, exclude)

    def diagram(self) -> Diagram:
        """Return the workflow as boxes and arrows."""
        return self._diagram

    def _check(self, step: str) -> None:
        if step not in self._record.steps:
            meant = nearest(str(step), self._record.steps)
            known = ", ".join(tuple(self._record.steps)[:10])
            hint = f"Did you mean {meant!r}?" if meant else f"It has: {known}"
            raise NoStep(f"the run has no step {step!r}. {hint}")

    def _was_unwanted(self, step: str) -> bool:
        """Return whether a condition, and not a failure, had the step skipped."""
        state = self._record.steps[step]
        if state.status != "skipped":
            return False
        return not state.cause or self._record.steps[state.cause].status == "skipped"

    @property
    def _last(self) -> list[str]:
        used = {arrow.source for arrow in self._diagram.arrows}
        return [step for step in self._record.steps if step not in used]

    # ------------------------------------------------------------------ outcome

    def _check_has_outcome(self, step: str) -> None:
        """Raise if a step that has ended did not run."""
        state = self._record.steps[step]
        if state.status == "skipped":
            raise StepSkipped(step, state.cause)
        if state.status == "cancelled":
            raise CallCancelled(f"step {step}")

    @property
    def _unknown_errors(self) -> list[str]:
        """The failed steps whose error was not fetched yet."""
        failed = [state.name for state in self.steps if state.status == "failed"]
        return [step for step in failed if step not in self._errors]

    async def _outcome(self, step: str) -> Callable[[], Any]:
        """Wait for a step; return what gives its value, or raises its error.

        It is called outside of this coroutine: the error may be a StopIteration.
        """
        self._check(step)
        if step in self._values:
            return partial(self._values.get, step)
        record = self._record
        await self._until(lambda: record.ended or record.steps[step].status in ENDED)
        self._check_has_outcome(step)
        return await self._loop.wait_for(self._client.runs.fetch(record, step))

    async def _last_outcomes(self) -> dict[str, Callable[[], Any]]:
        """Do the same for the steps that no other step uses, if they were wanted."""
        found = {}
        for step in self._last:
            try:
                found[step] = await self._outcome(step)
            except StepSkipped:
                if not self._was_unwanted(step):
                    raise
        return found

    def _value(self, step: str, outcome: Callable[[], Any]) -> Any:
        """Return the value of a step, or raise its error; keep the value."""
        try:
            value = self._values[step] = outcome()
        except StopIteration as error:
            raise self._raised(error)  # noqa: B904 - of the function, not of ours
        return value

    def _outputs(self, outcomes: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        return {step: self._value(step, each) for step, each in outcomes.items()}

    async def _fetch_all(self, steps: Iterable[str]) -> dict[str, Outcome]:
        """Return the outcomes of steps that have ended, as far as they can be had.

        It unpickles none of them.
        """
        known, missing = {}, []
        for step in steps:
            if step in self._values:
                known[step] = partial(self._values.get, step)
            else:
                missing.append(step)
        if not missing:
            return {**known}
        try:
            return {**known, **await self._loop.wait_for(self._fetched(missing))}
        except ClusterDown as error:
            return {**known, **dict.fromkeys(missing, error)}

    async def _fetched(self, steps: Iterable[str]) -> dict[str, Outcome]:
        fetched: dict[str, Outcome] = {}
        for step in steps:
            try:
                fetched[step] = await self._client.runs.fetch(self._record, step)
            except MpregError as error:  # it is all that is known of the step
                fetched[step] = error
        return fetched

    def _raise_for_status(self, fetched: Mapping[str, Outcome]) -> None:
        """Raise if the run, which has ended, did not succeed.

        fetched: the outcomes of `_unknown_errors`.
        """
        record = self._record
        if record.lost is not None:
            raise record.lost
        if record.status == "cancelled":
            raise CallCancelled(f"workflow {self.name}")
        if record.status != "failed":
            return
        for step, outcome in fetched.items():
            self._errors[step] = _error_of(step, outcome)
        raise self._failure(self._errors)

    def _failure(self, errors: Mapping[str, Exception]) -> WorkflowFailed:
        by_status: dict[str, list[str]] = {}
        for state in self.steps:
            by_status.setdefault(state.status, []).append(state.name)
        return WorkflowFailed.of(
            self.name,
            errors,
            done=(*by_status.get("done", ()), *by_status.get("fallback", ())),
            skipped=by_status.get("skipped", ()),
            undone=by_status.get("undone", ()),
            not_undone={s.name: s.undo_error for s in self.steps if s.undo_error},
            run=self,
        )

    async def _why(self, step: str) -> Why:
        self._check(step)
        record = self._record
        choices = await self._loop.wait_for(self._client.runs.why(record, step))
        needed = [a.source for a in self._diagram.arrows if a.target == step]
        states = {name: record.steps[name] for name in needed if name in record.steps}
        return Why(
            record.steps[step],
            choices,
            driver=record.node,
            waits_for=[n for n, state in states.items() if state.status not in ENDED],
        )

    # ------------------------------------------------------------------- report

    @property
    def _reported_steps(self) -> list[str]:
        """The steps whose outcome the report shows."""
        small_outputs = [
            step
            for step in self._last
            if self._record.steps[step].status in ("done", "fallback")
            and (self._record.steps[step].result_bytes or 0) <= MOST_OUTPUT_BYTES
        ]
        failed = [step.name for step in self.steps if step.status == "failed"]
        return [*failed, *small_outputs]

    async def _write_report(self, path: str | os.PathLike[str]) -> Path:
        report = self._report_of(await self._fetch_all(self._reported_steps))
        path = Path(path)
        path.write_text(report_page(report), encoding="utf-8")
        return path

    def _report_of(self, fetched: Mapping[str, Outcome]) -> RunReport:
        snapshot = self._client.state.snapshot
        finished = [step for step in self.steps if step.status in ("done", "fallback")]
        logs = {step.name: _last_lines(self.log(step.name)) for step in self.steps}
        return RunReport(
            workflow=self.name,
            run=self.id,
            status=self.status,
            started_at=self.started_at,
            duration_ms=self.duration_ms,
            steps=self.steps,
            diagram=self._diagram,
            failures={
                step.name: _failure_section(_error_of(step.name, fetched[step.name]))
                for step in self.steps
                if step.status == "failed" and step.name in fetched
            },
            outputs={
                step.name: _output_section(step, fetched.get(step.name))
                for step in finished
                if step.name in self._last
            },
            logs={name: log for name, log in logs.items() if log},
            nodes=() if snapshot is None else tuple(p.record for p in snapshot.nodes),
            made_by=(
                f"mpreg_nb {version('mpreg_nb')} on Python {platform.python_version()}"
            ),
        )


def _error_of(step: str, outcome: Outcome) -> Exception:
    """Return the error of a failed step. Runs code of the user's."""
    if isinstance(outcome, Exception):
        return outcome
    try:
        outcome()
    except Exception as error:  # noqa: BLE001 - it is the step's own outcome
        return error
    return MpregError(f"step {step!r} failed and gave a value after all")


@public
class AsyncRun(BaseRun):
    """One execution of a workflow; `await run` waits for its end and returns it.

    It belongs to the event loop of its cluster. Cancelling an await does not cancel
    the run, since another client may have started it; `cancel` does.
    """

    def __init__(
        self,
        client: Client,
        loop: ClientLoop,
        runs: "ClusterRuns[AsyncRun]",
        record: RunRecord,
        diagram: Diagram,
    ) -> None:
        """Made by the workflows and by `get_run` of an `AsyncCluster`."""
        super().__init__(client, loop, runs, record, diagram)
        self._news = asyncio.Event()

    def __await__(self) -> Generator[Any, None, "AsyncRun"]:
        return self._ended().__await__()

    async def _ended(self) -> "AsyncRun":
        await self._until(lambda: self._record.ended)
        self._raise_for_status(await self._fetch_all(self._unknown_errors))
        return self

    def __getitem__(self, step: str) -> Coroutine[Any, Any, Any]:
        """`await run[step]` is `await run.result(step)`."""
        return self.result(step)

    async def result(self, step: str) -> Any:
        """Wait for a step and return its value; see `Run.__getitem__`."""
        return self._value(step, await self._outcome(step))

    async def outputs(self) -> dict[str, Any]:
        """Return the values of the steps that no other step uses, by step name.

        Steps that were skipped because of a condition (`when`) are left out.
        """
        return self._outputs(await self._last_outcomes())

    async def why(self, step: str) -> Why:
        """Return which nodes could run a step and why one was chosen; see `Run.why`."""
        return await self._why(step)

    async def resume(self) -> "AsyncRun":
        """Start a new run of the steps without a result; see `Run.resume`."""
        run: AsyncRun = await self._runs.resume(self._record, self._diagram)
        return run

    async def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the run, and return its path; see `Run.report`."""
        return await self._write_report(path)

    def _raised(self, error: BaseException) -> BaseException:
        return awaited(error)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, met: Callable[[], bool]) -> None:
        with BlockedOnCluster():
            while not met():
                await self._news.wait()


@public
class Run(BaseRun):
    """One execution of a workflow, running or ended.

    `run[step]` is the value of a step. Results stay on their nodes until they are
    asked for.
    """

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        runs: "ClusterRuns[Run]",
        record: RunRecord,
        diagram: Diagram,
    ) -> None:
        """Made by the workflows and by `get_run` of a `Cluster`."""
        super().__init__(client, thread, runs, record, diagram)
        self._thread = thread
        self._changed = threading.Condition()
        self._awaiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._record.ended:
            for loop, event in self._awaiting:
                loop.call_soon_threadsafe(event.set)

    # ------------------------------------------------------------------ waiting

    async def _until(self, met: Callable[[], bool]) -> None:
        with self._changed, BlockedOnCluster():
            self._changed.wait_for(met)

    def wait(self, timeout: float | None = None) -> "Run":
        """Wait for the end of the run and return it; interrupting (Stop) cancels it.

        timeout: seconds to wait; None waits without limit.

        Raises:
            WorkflowFailed: steps failed after all retries; one entry per failed step.
            CallCancelled: the run was cancelled.
            TimeoutError: the run has not ended in time; it continues.
        """
        if not self._record.ended:
            self._thread.check()
        with BlockedOnCluster():
            ended = wait_shown(RunProgress(self), self.has_ended, timeout)
        if not ended:
            raise TimeoutError(
                f"workflow {self.name!r} is still running after {timeout:g} s and "
                "continues. See run.frame()"
            )
        self._raise_for_status(run_blocking(self._fetch_all(self._unknown_errors)))
        return self

    def has_ended(self, seconds: float | None = 0.0) -> bool:
        """Wait at most `seconds`; return whether the run has ended. Stop cancels it."""
        try:
            with self._changed:
                return self._changed.wait_for(lambda: self._record.ended, seconds)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def __await__(self) -> Generator[Any, None, "Run"]:
        return self._wait_async().__await__()

    async def _wait_async(self) -> "Run":
        event = asyncio.Event()
        self._awaiting.append((asyncio.get_running_loop(), event))
        if not self._record.ended:
            try:
                with BlockedOnCluster():
                    await event.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        # Errors are fetched by blocking, which the loop of the caller must not do.
        fetching = self._fetch_all(self._unknown_errors)
        self._raise_for_status(await asyncio.to_thread(run_blocking, fetching))
        return self

    def resume(self) -> "Run":
        """Start a new run of the steps that have no result, and return it.

        These are the failed, skipped, cancelled and unstarted steps. Finished steps do
        not run again: their results are reused where they are. A result that was lost
        with its node is computed again if a step needs it. Each function runs in its
        newest registration: fix the function, register it, and resume. Runs that other
        clients started can be resumed too.

        Raises:
            BadRequest: the run has not ended; wait for it, or cancel it.
            NoRun: the node that coordinated the run is unreachable, or no longer
                remembers it.
        """
        resuming = self._runs.resume(self._record, self._diagram)
        run: Run = run_blocking(self._loop.wait_for(resuming))
        return run

    # ------------------------------------------------------------------ results

    def __getitem__(self, step: str) -> Any:
        """Return the value of a step, waiting for it; fetched on first use.

        Raises the step's error if it failed, StepSkipped if it did not run.
        """
        return self._value(step, run_blocking(self._outcome(step)))

    @property
    def outputs(self) -> dict[str, Any]:
        """The values of the steps that no other step uses, by step name.

        Steps that were skipped because of a condition (`when`) are left out.
        """
        return self._outputs(run_blocking(self._last_outcomes()))

    def why(self, step: str) -> Why:
        """Return which nodes could run a step, their load, and why one was chosen.

        All as it was when the step was sent; one choice per attempt.
        `.frame()` has the columns attempt, part, node, fits, reason, running, queued,
        slots, in_flight, score, chosen.

        Raises:
            KeyError: the run has no such step.
            NoRun: the node that coordinates the run is unreachable, or no longer
                remembers it.
        """
        return run_blocking(self._why(step))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page about the run, and return its path.

        The page shows the workflow, its steps, errors, outputs up to 1 MB, prints and
        nodes. An existing file is overwritten.
        """
        return run_blocking(self._write_report(path))


# ------------------------------------------------------------- runs of a cluster


OWN_RUNS = 50
"""Runs that are kept at hand, the newest."""

OWN_BYTES = 64 << 20
"""Of results that came with the ends of those; the oldest are asked for anew."""

NEWEST_ADOPTED = 10
"""Runs that are followed at once when a cluster is adopted, the newest."""

LEAST_PREFIX = 4
"""Characters of an id that identify a run, at least."""

RunT = TypeVar("RunT", bound=BaseRun)

OnRun: TypeAlias = Callable[[RunT], None]
"""Called with a run on the client's own thread, so it must be quick."""


class RecentRuns(Generic[RunT]):
    """The last runs that this client started or follows, and their listeners.

    It keeps the records, not the values that a `Run` has fetched: these go with the
    `Run`. If nobody holds the `Run` any longer, another one is made on request.
    """

    def __init__(
        self,
        make: Callable[[RunRecord, Diagram], RunT],
        unhold: Callable[[RunRecord], object],
    ) -> None:
        """unhold: called, on any thread, with the record of a run nobody holds now."""
        self._make = make
        self._unhold = unhold
        self._held: WeakValueDictionary[str, RunT] = WeakValueDictionary()
        self._runs: deque[_RecentRun[RunT]] = deque(maxlen=OWN_RUNS)
        self._listeners: tuple[OnRun[RunT], ...] = ()

    @property
    def newest_first(self) -> tuple[RunT, ...]:
        """The runs at hand."""
        return tuple(recent.run for recent in reversed(self._runs.copy()))

    def get(self, run_id: str) -> RunT | None:
        """Return the run of an id, if it is at hand or somebody holds it."""
        held = self._held.get(run_id)
        if held is not None:
            return held
        found = [r for r in self._runs.copy() if r.record.id.hex() == run_id]
        return found[-1].run if found else None

    def listen(self, listener: OnRun[RunT]) -> Callable[[], None]:
        """Call `listener` with each run that starts or changes; returns what ends it.

        A listener may be added and removed on any thread.
        """
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            left = [each for each in self._listeners if each is not listener]
            self._listeners = tuple(left)

        return end

    def add(self, record: RunRecord, diagram: Diagram) -> RunT:
        """Follow a run that has just started; return it."""
        make = partial(self._make, record, diagram)
        recent = _RecentRun(record, make, self._held, self._unhold)
        self._runs.append(recent)
        if not record.ended:
            record.listeners.append(lambda _: self._changed(recent))
        self._notify(run := recent.run)
        return run

    def _changed(self, recent: "_RecentRun[RunT]") -> None:
        if recent.is_held:
            recent.run._wake()
        if self._listeners:
            self._notify(recent.run)
        if recent.record.ended:
            self._drop_results()
            if not recent.is_held:
                self._unhold(recent.record)

    def _drop_results(self) -> None:
        """Let the oldest results go that are too many, but for those of held runs."""
        size_bytes = 0
        for recent in reversed(self._runs.copy()):
            size_bytes += recent.record.results_bytes
            if size_bytes > OWN_BYTES and not recent.is_held:
                size_bytes -= recent.record.results_bytes
                recent.record.drop_results()

    def _notify(self, run: RunT) -> None:
        for listener in self._listeners:
            listener(run)


class _RecentRun(Generic[RunT]):
    """A run that is made again from its record when nobody holds it."""

    def __init__(
        self,
        record: RunRecord,
        make: Callable[[], RunT],
        held: WeakValueDictionary[str, RunT],
        unhold: Callable[[RunRecord], object],
    ) -> None:
        """held: by id, all that somebody holds: one `Run` for each."""
        self.record = record
        self._id = record.id.hex()
        self._make = make
        self._held = held
        self._unhold = unhold

    @property
    def is_held(self) -> bool:
        return self._held.get(self._id) is not None

    @property
    def run(self) -> RunT:
        run = self._held.get(self._id)
        if run is None:
            run = self._held.setdefault(self._id, made := self._make())
            if run is made:
                finalize(run, self._let_go).atexit = False
        return run

    def _let_go(self) -> None:
        if not self.is_held:  # by whoever made it again meanwhile
            self._unhold(self.record)


class ClusterRuns(Generic[RunT]):
    """The runs of a cluster: those of this client, and those that nodes remember.

    Its methods return coroutines of the client's loop. They note at once which cell
    asks, so that prints of the run appear there.
    """

    def __init__(
        self,
        client: Client,
        loop: ClientLoop,
        make: Callable[["ClusterRuns[RunT]", RunRecord, Diagram], RunT],
    ) -> None:
        """make: makes the runs, for code that blocks or for coroutines."""
        self._client = client
        self._loop = loop
        self.recent: RecentRuns[RunT] = RecentRuns(partial(make, self), self._unhold)

    async def summaries(self) -> list[RunSummary]:
        """Return the runs that nodes coordinate or remember, newest first."""
        found = await self._client.runs.everywhere()
        return with_own([run for _, run in found], self.recent.newest_first)

    def start(self, planned: PlannedRun) -> Coroutine[Any, Any, RunT]:
        """Send a run to the entry node; return it."""
        return self._start(planned, current_writer())

    def find(self, key: str) -> Coroutine[Any, Any, RunT]:
        """Return a run by its id, first characters of its id, or workflow.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        return self._find(key, current_writer())

    def follow_newest(self) -> Coroutine[Any, Any, None]:
        """Follow the newest runs of the cluster; see `adopt`."""
        return self._follow_newest(current_writer())

    def resume(self, record: RunRecord, diagram: Diagram) -> Coroutine[Any, Any, RunT]:
        """Start a run of the steps that have no result in that of `record`."""
        return self._resume(record, diagram, current_writer())

    def cancel(self, run_id: bytes) -> None:
        """Cancel a run if it is at hand."""
        for record in self._client.runs.open:
            if record.id == run_id:
                self._client.runs.cancel(record)

    def _unhold(self, record: RunRecord) -> None:
        if record.ended and record.is_stored and record.link.is_open:
            # The loop may close between this look and the call: then no node has a
            # link to this client. In a forked child the parent holds the run.
            with suppress(ClusterDown, ForkedProcess, RuntimeError):
                self._loop.call_soon(self._client.runs.unhold, record)

    async def _start(self, planned: PlannedRun, writer: Writer) -> RunT:
        runs = self._client.runs
        record = runs.start(planned.request, planned.parts, writer=writer)
        record.holds = planned.holds
        return self.recent.add(record, planned.diagram)

    async def _find(self, key: str, writer: Writer) -> RunT:
        known = self.recent.get(key)
        if known is not None:
            return known
        own = self.recent.newest_first
        found = await self._client.runs.everywhere()
        chosen = chosen_run(key, with_own([each for _, each in found], own))
        known = self.recent.get(chosen.run.hex())
        if known is not None:
            return known
        node = next(node for node, each in found if each is chosen)
        return self._followed(await self._client.runs.take_up(node, chosen.run, writer))

    async def _follow_newest(self, writer: Writer) -> None:
        newest = (await self._client.runs.everywhere())[:NEWEST_ADOPTED]
        for node, run in reversed(newest):
            try:
                record = await self._client.runs.take_up(node, run.run, writer)
            except NoRun:  # its node has just ended, or forgotten it
                continue
            self._followed(record)

    async def _resume(
        self, record: RunRecord, diagram: Diagram, writer: Writer
    ) -> RunT:
        resumed = await self._client.runs.resume(record, writer)
        resumed.holds = record.holds
        return self.recent.add(resumed, diagram)

    def _followed(self, record: RunRecord) -> RunT:
        diagram = planned_diagram(record.workflow, record.plans, self._client.resources)
        return self.recent.add(record, diagram)


def with_own(found: Sequence[RunSummary], own: Iterable[BaseRun]) -> list[RunSummary]:
    """Return `found` and the runs of `own` that no node remembers, newest first."""
    known = {picture.run.hex() for picture in found}
    gone = [summary_of(run._snapshot) for run in own if run.id not in known]
    return sorted([*found, *gone], key=lambda picture: -picture.started_at_s)


def chosen_run(key: str, runs: Sequence[RunSummary]) -> RunSummary:
    """Return the run of `runs`, newest first, that `key` identifies.

    Raises:
        NoRun: no run or several runs match.
    """
    for run in runs:
        if key in (run.run.hex(), run.workflow):
            return run
    alike = [run for run in runs if run.run.hex().startswith(key.lower())]
    if len(key) >= LEAST_PREFIX and len(alike) == 1:
        return alike[0]
    if len(key) >= LEAST_PREFIX and alike:
        ids = ", ".join(run.run.hex()[: len(key) + 4] for run in alike)
        raise NoRun(
            f"the ids of several runs begin with {key!r}: {ids}. Give more characters "
            "of the id"
        )
    if not runs:
        raise NoRun("the cluster has no runs yet. Start one: flow.run()")
    meant = nearest(key, {run.workflow for run in runs})
    hint = f"Did you mean {meant!r}? " if meant else ""
    raise NoRun(
        f"no run has the id {key!r}, and no workflow of that name was run. {hint}List "
        "the known runs: cluster.runs()"
    )


# --------------------------------------------------------------------- its report


MOST_OUTPUT_BYTES = 1_000_000
"""Larger results are left out of a report."""

MOST_CHARACTERS = 4_000
"""Of the text of one output in a report."""

MOST_LOG_LINES = 400
"""Of the prints of one step in a report; the last ones."""


def _failure_section(error: Exception) -> FailureSection:
    name: str = getattr(error, "type_name", "") or type(error).__name__
    return FailureSection(
        type_name=name.removeprefix("builtins."),
        message=_text(error, str),
        traceback=getattr(error, "remote_traceback", ""),
    )


def _output_section(step: StepSnapshot, outcome: Outcome | None) -> OutputSection:
    if outcome is None:
        large = size(step.result_bytes or 0)
        return OutputSection(omitted=f"{large}, kept on {step.node or 'its node'}")
    try:
        if isinstance(outcome, Exception):
            raise outcome
        value = outcome()
    except Exception as error:  # noqa: BLE001 - loading runs code of the value's class
        return OutputSection(omitted=f"not available: {_text(error, str)}")
    return OutputSection(type_name=type(value).__name__, text=_text(value, repr))


def _text(value: Any, to_text: Any) -> str:
    try:
        return clipped(str(to_text(value)), MOST_CHARACTERS)
    except Exception as error:  # noqa: BLE001 - code of the value's class
        return f"<{type(value).__name__} whose repr failed: {error!r}>"


def _last_lines(log: str) -> str:
    lines = log.splitlines()
    more = len(lines) - MOST_LOG_LINES
    head = [f"… {more:,} lines before"] if more > 0 else []
    return "\n".join([*head, *lines[-MOST_LOG_LINES:]])
