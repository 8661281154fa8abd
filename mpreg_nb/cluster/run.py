"""One execution of a workflow, as a notebook, a script or async code holds it."""

import asyncio
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import ref

from mpreg_nb.boundary import public
from mpreg_nb.call_context import blocked_on_cluster
from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.output import PrintState, current_writer
from mpreg_nb.client.runs import RunRecord
from mpreg_nb.cluster.call_progress import RunProgress
from mpreg_nb.cluster.planner import planned_diagram
from mpreg_nb.cluster.progress import wait_shown
from mpreg_nb.errors import (
    CallCancelled,
    MpregError,
    NoStep,
    StepSkipped,
    WorkflowFailed,
)
from mpreg_nb.names import nearest
from mpreg_nb.protocol.messages import RunSnapshot, Snapshot, StepChoice, StepSnapshot
from mpreg_nb.units import size
from mpreg_nb.view.diagram_text import clipped
from mpreg_nb.view.report import FailureSection, OutputSection, RunReport
from mpreg_nb.workflows.graph import Diagram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mpreg_nb.view.explain import Why


ENDED = ("done", "failed", "skipped", "cancelled", "fallback", "undone")
"""What a step is when nothing more will happen to it, but perhaps its undo."""


@public
class ShownRun:
    """What can be said of a run without asking a node."""

    _diagram: Diagram
    _record: RunRecord | None

    # -------------------------------------------------------------------- state

    @property
    def id(self) -> str:
        """The hexadecimal id of the run, for `cluster.get_run`."""
        return self._known.id.hex()

    @property
    def name(self) -> str:
        """The name of its workflow."""
        return self._diagram.name

    @property
    def status(self) -> str:
        """Either running, done, failed or cancelled."""
        record = self._known
        return "failed" if record.lost is not None else record.status

    @property
    def steps(self) -> tuple[StepSnapshot, ...]:
        """The state of each step, in the order in which the steps were added."""
        return tuple(self._known.steps.values())

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end, or to the latest known state."""
        return self._known.duration_ms

    @property
    def started_at(self) -> datetime:
        """The time at which the run started, in UTC."""
        return datetime.fromtimestamp(self._known.started_at_s, UTC)

    @property
    def picture(self) -> RunSnapshot:
        """The run as a row of `cluster.runs()`."""
        return self._known.picture

    @property
    def _known(self) -> RunRecord:
        if self._record is None:
            raise MpregError("the run has not started")
        return self._record

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
        for line in self._known.lines.all:
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
        return f"<run of {self.name}: {self.status} ({said})>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import run_bundle

        return run_bundle(repr(self), self.steps, self.diagram(), include, exclude)

    def diagram(self) -> Diagram:
        """Return the workflow as boxes and arrows."""
        return self._diagram

    def _check(self, step: str) -> None:
        if step not in self._known.steps:
            meant = nearest(str(step), self._known.steps)
            known = ", ".join(tuple(self._known.steps)[:10])
            hint = f"Did you mean {meant!r}?" if meant else f"It has: {known}"
            raise NoStep(f"the run has no step {step!r}. {hint}")

    @property
    def _last(self) -> list[str]:
        used = {arrow.source for arrow in self._diagram.arrows}
        return [step for step in self._known.steps if step not in used]

    @property
    def _failed(self) -> list[str]:
        return [state.name for state in self.steps if state.status == "failed"]

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

    def _why(self, step: str, choices: Sequence[StepChoice]) -> "Why":
        from mpreg_nb.view.explain import Why

        record = self._known
        needed = [a.source for a in self._diagram.arrows if a.target == step]
        states = {name: record.steps[name] for name in needed if name in record.steps}
        return Why(
            record.steps[step],
            choices,
            driver=record.node,
            waits_for=[n for n, state in states.items() if state.status not in ENDED],
        )


@public
class AsyncRun(ShownRun):
    """One execution of a workflow; `await run` waits for its end and returns it.

    It belongs to the event loop of its cluster. Cancelling an await does not cancel
    the run, since another client may have started it; `cancel` does.
    """

    def __init__(
        self, client: Client, record: RunRecord, diagram: Diagram | None = None
    ) -> None:
        """Made by `AsyncCluster.get_run` or a flow of it, on the loop."""
        self._client = client
        self._record = record
        self._diagram = diagram or planned_diagram(
            record.workflow, record.plans, client.resources
        )
        self._news = asyncio.Event()
        record.listeners.append(self._changed)

    def __await__(self) -> Generator[Any, None, "AsyncRun"]:
        return self._ended().__await__()

    async def _ended(self) -> "AsyncRun":
        record = self._known
        await self._until(lambda: record.ended)
        if record.lost is not None:
            raise record.lost
        if record.status == "cancelled":
            raise CallCancelled(f"workflow {self.name}")
        if record.status == "failed":
            raise self._failure(
                {step: await self._error(step) for step in self._failed}
            )
        return self

    async def result(self, step: str) -> Any:
        """Wait for a step and return its value, fetched from its node.

        Raises the error of the step if it failed, StepSkipped if it did not run.
        """
        self._check(step)
        record = self._known
        await self._until(lambda: record.ended or record.steps[step].status in ENDED)
        state = record.steps[step]
        if state.status == "skipped":
            raise StepSkipped(step, state.cause)
        if state.status == "cancelled":
            raise CallCancelled(f"step {step}")
        return (await self._client.runs.fetch(record, step))()

    async def outputs(self) -> dict[str, Any]:
        """Return the values of the steps that no other step uses, by step name."""
        return {step: await self.result(step) for step in self._last}

    async def why(self, step: str) -> "Why":
        """Return which nodes could run a step and why one was chosen; see `Run.why`."""
        self._check(step)
        return self._why(step, await self._client.runs.why(self._known, step))

    async def resume(self) -> "AsyncRun":
        """Start a new run of the steps without a result; see `Run.resume`."""
        record = await self._client.runs.resume(self._known, current_writer())
        return AsyncRun(self._client, record, self._diagram)

    def cancel(self) -> None:
        """Cancel the run, and its running steps on their nodes."""
        self._client.runs.cancel(self._known)

    async def _error(self, step: str) -> Exception:
        try:
            (await self._client.runs.fetch(self._known, step))()
        except Exception as error:  # noqa: BLE001 - it is the step's own outcome
            return error
        return MpregError(f"step {step!r} failed and gave a value after all")

    async def _until(self, met: Callable[[], bool]) -> None:
        while not met():
            await self._news.wait()

    def _changed(self, record: RunRecord) -> None:
        self._news.set()
        self._news = asyncio.Event()


OWN_RUNS = 50
"""How many are kept at hand, the newest."""

OnRun: TypeAlias = Callable[["Run"], None]
"""Hears of a run; called on the client's own thread, so it must be quick."""


class RecentRuns:
    """The last runs that this client began or took up, and who hears of them.

    What is known of them is kept, not the values that a `Run` has fetched: these go
    with the `Run`. Of one that nobody holds any more another is made when asked for.
    """

    def __init__(self) -> None:
        self._runs: deque[_StartedRun] = deque(maxlen=OWN_RUNS)
        self._listeners: tuple[OnRun, ...] = ()

    @property
    def newest_first(self) -> "tuple[Run, ...]":
        """The runs at hand."""
        return tuple(held.run for held in reversed(self._runs.copy()))

    def listen(self, listener: OnRun) -> Callable[[], None]:
        """Call `listener` with each run that begins or changes; returns what ends it.

        A listener may be added and ended on any thread.
        """
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            left = [heard for heard in self._listeners if heard is not listener]
            self._listeners = tuple(left)

        return end

    def add(self, run: "Run", record: "RunRecord") -> None:
        """Take in a run that has just begun, and follow what its record tells."""
        held = _StartedRun(run, run.revival())
        self._runs.append(held)
        record.listeners.append(lambda _: self._changed(held))
        self._tell(run)

    def _changed(self, held: "_StartedRun") -> None:
        if held.is_used:
            held.run.changed()
        if self._listeners:
            self._tell(held.run)

    def _tell(self, run: "Run") -> None:
        for listener in self._listeners:
            listener(run)


class _StartedRun:
    """A run that is made again from what is known of it, when nobody holds it."""

    def __init__(self, run: "Run", revive: "Callable[[], Run]") -> None:
        self._run = ref(run)
        self._revive = revive

    @property
    def is_used(self) -> bool:
        return self._run() is not None

    @property
    def run(self) -> "Run":
        run = self._run()
        if run is None:
            run = self._revive()
            self._run = ref(run)
        return run


T = TypeVar("T")


@public
class Run(ShownRun):
    """One execution of a workflow, running or ended.

    `run[step]` is the value of a step. Results stay on their nodes until they are
    asked for.
    """

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        diagram: Diagram,
        own_runs: RecentRuns,
        record: RunRecord | None = None,
    ) -> None:
        self._client = client
        self._thread = thread
        self._diagram = diagram
        self._own_runs = own_runs
        self._record = record
        self._changed = threading.Condition()
        self._values: dict[str, Any] = {}
        self._awaiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def started(self, record: RunRecord) -> None:
        """Take the record that the client keeps; called once, on the loop's thread."""
        self._record = record
        self._own_runs.add(self, record)

    def revival(self) -> "Callable[[], Run]":
        """Return what makes another of this run, without the values it has fetched."""
        made = (self._client, self._thread, self._diagram, self._own_runs, self._known)
        return partial(Run, *made)

    def changed(self) -> None:
        """Wake all waiting threads; called on the loop's thread with each change."""
        with self._changed:
            self._changed.notify_all()
        if self._known.ended:
            for loop, event in self._awaiting:
                loop.call_soon_threadsafe(event.set)

    # ------------------------------------------------------------------ waiting

    def wait(self, timeout: float | None = None) -> "Run":
        """Wait for the end of the run and return it; interrupting (Stop) cancels it.

        timeout: seconds to wait; None waits without limit.

        Raises:
            WorkflowFailed: steps failed after all retries; one entry per failed step.
            CallCancelled: the run was cancelled.
            TimeoutError: the run has not ended in time; it continues.
        """
        if not self._known.ended:
            self._thread.check()
        with blocked_on_cluster():
            ended = wait_shown(RunProgress(self), self.has_ended, timeout)
        if not ended:
            raise TimeoutError(
                f"workflow {self.name!r} is still running after {timeout:g} s and "
                "continues. See run.frame()"
            )
        self._raise_for_status()
        return self

    def has_ended(self, seconds: float | None = 0.0) -> bool:
        """Wait at most `seconds`; return whether the run has ended. Stop cancels it."""
        try:
            with self._changed:
                return self._changed.wait_for(lambda: self._known.ended, seconds)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def __await__(self) -> Generator[Any, None, "Run"]:
        return self._wait_async().__await__()

    async def _wait_async(self) -> "Run":
        event = asyncio.Event()
        self._awaiting.append((asyncio.get_running_loop(), event))
        if not self._known.ended:
            try:
                await event.wait()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self.status == "failed":
            # Errors are fetched by blocking; not on the loop of who awaits.
            await asyncio.to_thread(self._raise_for_status)
        self._raise_for_status()
        return self

    def cancel(self) -> None:
        """Cancel the run, and its running steps on their nodes.

        Then finished steps that have an `undo` are undone, which cannot be cancelled.
        """
        self._thread.call_soon(self._client.runs.cancel, self._known)

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
        run = Run(self._client, self._thread, self._diagram, self._own_runs)
        writer = current_writer()

        async def begin() -> None:
            run.started(await self._client.runs.resume(self._known, writer))

        self._run(begin())
        return run

    # ------------------------------------------------------------------ results

    def __getitem__(self, step: str) -> Any:
        """Return the value of a step, waiting for it; fetched on first use.

        Raises the step's error if it failed, StepSkipped if it did not run.
        """
        self._check(step)
        if step in self._values:
            return self._values[step]
        with self._changed:
            self._changed.wait_for(
                lambda: self._known.ended or self._known.steps[step].status in ENDED
            )
        state = self._known.steps[step]
        if state.status == "skipped":
            raise StepSkipped(step, state.cause)
        if state.status == "cancelled":
            raise CallCancelled(f"step {step}")
        value = self._run(self._client.runs.fetch(self._known, step))()
        self._values[step] = value
        return value

    @property
    def outputs(self) -> dict[str, Any]:
        """The values of the steps that no other step uses, by step name."""
        return {step: self[step] for step in self._last}

    def _raise_for_status(self) -> None:
        record = self._known
        if record.lost is not None:
            raise record.lost
        if record.status == "cancelled":
            raise CallCancelled(f"workflow {self.name}")
        if record.status != "failed":
            return
        raise self._failure({step: self._error(step) for step in self._failed})

    def _error(self, step: str) -> Exception:
        known = self._values.get(f"\0{step}")
        if known is None:
            try:
                self._run(self._client.runs.fetch(self._known, step))()
            except Exception as error:  # noqa: BLE001 - it is the step's own outcome
                known = error
            else:
                known = MpregError(f"step {step!r} failed and gave a value after all")
            self._values[f"\0{step}"] = known
        error_: Exception = known
        return error_

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.run(work)

    def why(self, step: str) -> "Why":
        """Return which nodes could run a step, their load, and why one was chosen.

        All as it was when the step was sent; one choice per attempt.
        `.frame()` has the columns attempt, part, node, fits, reason, running, queued,
        slots, in_flight, score, chosen.

        Raises:
            KeyError: the run has no such step.
            NoRun: the node that coordinates the run is unreachable, or no longer
                remembers it.
        """
        self._check(step)
        return self._why(step, self._run(self._client.runs.why(self._known, step)))

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page about the run, and return its path.

        The page shows the workflow, its steps, errors, outputs up to 1 MB, prints and
        nodes. An existing file is overwritten.
        """

        from mpreg_nb.view.report import report_page

        page = report_page(report_of(self, self._client.mirror.snapshot))
        path = Path(path)
        path.write_text(page, encoding="utf-8")
        return path


MOST_OUTPUT_BYTES = 1_000_000
"""Larger results stay where they are: a page is not the place to read them."""

MOST_CHARACTERS = 4_000
"""Of the text of one output."""

MOST_LOG_LINES = 400
"""Of what one step printed; the last ones."""


def report_of(run: "Run", snapshot: Snapshot | None) -> RunReport:
    """Return all that the page about `run` tells, fetching small outputs.

    snapshot: the newest picture of the cluster, None if there is none.
    """
    diagram = run.diagram()
    used = {arrow.source for arrow in diagram.arrows}
    finished = [step for step in run.steps if step.status in ("done", "fallback")]
    logs = {step.name: _last_lines(run.log(step.name)) for step in run.steps}
    nodes = () if snapshot is None else snapshot.nodes
    return RunReport(
        workflow=run.name,
        run=run.id,
        status=run.status,
        started_at=run.started_at,
        duration_ms=run.duration_ms,
        steps=run.steps,
        diagram=diagram,
        failures={
            step.name: _failure(run, step.name)
            for step in run.steps
            if step.status == "failed"
        },
        outputs={s.name: _output(run, s) for s in finished if s.name not in used},
        logs={name: log for name, log in logs.items() if log},
        nodes=tuple(picture.record for picture in nodes),
        made_by=f"mpreg_nb {version('mpreg_nb')} on Python {platform.python_version()}",
    )


def _failure(run: "Run", step: str) -> FailureSection:
    try:
        run[step]
    except Exception as error:  # noqa: BLE001 - it is the step's own outcome
        return FailureSection(
            type_name=_type_name(error),
            message=_text(error, str),
            traceback=getattr(error, "remote_traceback", ""),
        )
    return FailureSection(type_name="", message="it failed and gave a value after all")


def _type_name(error: Exception) -> str:
    name: str = getattr(error, "type_name", "") or type(error).__name__
    return name.removeprefix("builtins.")


def _output(run: "Run", step: StepSnapshot) -> OutputSection:
    if (step.result_bytes or 0) > MOST_OUTPUT_BYTES:
        large = size(step.result_bytes or 0)
        return OutputSection(omitted=f"{large}, kept on {step.node or 'its node'}")
    try:
        value = run[step.name]
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
