"""One execution of a workflow, as the notebook holds it."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.output import current_writer
from mpreg_nb.client.run_record import RunRecord
from mpreg_nb.cluster.own_runs import OwnRuns
from mpreg_nb.cluster.progress import wait_shown
from mpreg_nb.cluster.run_shown import ENDED, ShownRun
from mpreg_nb.cluster.watched import RunWatched
from mpreg_nb.errors import (
    CallCancelled,
    MpregError,
    StepSkipped,
)
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.running import waiting_elsewhere
from mpreg_nb.workflow.diagram import Diagram

if TYPE_CHECKING:
    from mpreg_nb.view.why import Why

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
        own_runs: OwnRuns,
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
        with waiting_elsewhere():
            ended = wait_shown(RunWatched(self), self.has_ended, timeout)
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
        from mpreg_nb.cluster.reporting import report_of
        from mpreg_nb.view.report import report_page

        page = report_page(report_of(self, self._client.mirror.snapshot))
        path = Path(path)
        path.write_text(page, encoding="utf-8")
        return path
