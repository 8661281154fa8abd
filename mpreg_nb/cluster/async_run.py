"""One execution of a workflow, as async code holds it."""

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from mpreg_nb.client.client import Client
from mpreg_nb.client.output import current_writer
from mpreg_nb.client.run_record import RunRecord
from mpreg_nb.cluster.planned import planned_diagram
from mpreg_nb.cluster.run_shown import ENDED, ShownRun
from mpreg_nb.errors import CallCancelled, MpregError, StepSkipped
from mpreg_nb.wire.boundary import public
from mpreg_nb.workflow.diagram import Diagram

if TYPE_CHECKING:
    from mpreg_nb.view.why import Why


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
