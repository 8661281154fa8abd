"""Workflows of async code: what a flow asks for is a coroutine."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from mpreg_nb.client.client import Client
from mpreg_nb.client.options import CallOptions
from mpreg_nb.client.output import current_writer
from mpreg_nb.cluster.async_run import AsyncRun
from mpreg_nb.cluster.shipping import unwrapped
from mpreg_nb.cluster.workflows import Planner
from mpreg_nb.workflow.builder import Flow
from mpreg_nb.workflow.diagram import Diagram, Needs
from mpreg_nb.workflow.graph import Function, Workflow

if TYPE_CHECKING:
    import pandas as pd

Callee: TypeAlias = Callable[[Function], Awaitable[tuple[str, CallOptions]]]

AsyncFlow: TypeAlias = Flow[
    Coroutine[Any, Any, AsyncRun], "Coroutine[Any, Any, pd.DataFrame]"
]
"""A flow of which `run`, `start` and `plan` are awaited."""


class AsyncRunner:
    """Executes workflows for async code, on the loop of its cluster."""

    def __init__(self, client: Client, callee: Callee, needs: Needs) -> None:
        self._client = client
        self._needs = needs
        self._callee = callee

    async def run(self, workflow: Workflow) -> AsyncRun:
        """Execute a workflow and wait for its end. Cancelling this cancels it.

        Raises:
            WorkflowFailed: a step failed for good; an entry for each.
            InvalidWorkflow, NoRoute, NotPicklable: before anything runs.
        """
        run = await self.start(workflow)
        try:
            return await run
        except asyncio.CancelledError:
            run.cancel()
            raise

    async def start(self, workflow: Workflow) -> AsyncRun:
        """Begin to execute a workflow and return the run, which can be awaited.

        Raises:
            InvalidWorkflow, NoRoute, NotPicklable: before anything runs.
        """
        planner = await self._planner(workflow)
        request, parts = planner.request(workflow)
        diagram = Diagram.of(
            workflow.name, workflow.steps, workflow.inputs, self._needs
        )
        record = self._client.runs.start(request, parts, writer=current_writer())
        return AsyncRun(self._client, record, diagram)

    async def plan(self, workflow: Workflow) -> "pd.DataFrame":
        """Return where each step would run now; see `Cluster.plan`."""
        from mpreg_nb.view.plan import plan_frame

        planner = await self._planner(workflow)
        await self._client.snapshot()
        return plan_frame(planner.rows(workflow))

    async def _planner(self, workflow: Workflow) -> Planner:
        """Return what prepares `workflow`, once its functions are registered."""
        known: dict[int, tuple[str, CallOptions]] = {}
        for function in _functions(workflow):
            plain, _, _ = unwrapped(function, (), {})
            known[id(plain)] = await self._callee(plain)
        return Planner(
            self._client, lambda: self._client.calls.router, lambda f: known[id(f)]
        )


def _functions(workflow: Workflow) -> Iterator[Callable[..., Any]]:
    for step in workflow.steps:
        undo = None if step.undo is None else step.undo.function
        for function in (step.function, step.fallback, undo):
            if callable(function):
                yield function
