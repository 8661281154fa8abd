"""`AsyncCluster`: the verbs of a cluster as coroutines on the caller's event loop."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mpreg_nb.boundary import public
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.output import current_writer, limit_lines
from mpreg_nb.client.registrations import Card
from mpreg_nb.cluster.cluster import chosen_run
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.function import Function, call_options
from mpreg_nb.cluster.planner import Planner
from mpreg_nb.cluster.registration import FunctionRegistry, narrowed, unwrapped
from mpreg_nb.cluster.run import AsyncRun
from mpreg_nb.cluster.versions import node_versions, warn_of
from mpreg_nb.errors import ForkedProcess, NoCluster, NotPicklable
from mpreg_nb.names import check_name
from mpreg_nb.transport.token import load_token
from mpreg_nb.workflows.builder import Flow
from mpreg_nb.workflows.graph import Diagram, Needs, StepFunction, Workflow

if TYPE_CHECKING:
    import pandas as pd


Callee: TypeAlias = Callable[[StepFunction], Awaitable[tuple[str, CallOptions]]]

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
        from mpreg_nb.view.explain import plan_frame

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


_NOT_CONNECTED = (
    "not connected. Connect first: async with mp.connect_async(url) as cluster"
)


@public
class AsyncCluster:
    """A cluster for async code; `connect_async` makes one.

    Use it as an async context manager, on the event loop that makes the calls.
    Cancelling an await cancels its call.
    """

    def __init__(
        self, *urls: str, token: str | None = None, direct: bool = True
    ) -> None:
        self._urls = urls
        self._token = load_token(token)
        self._direct = direct
        self._client: Client | None = None
        self._process = os.getpid()
        self._shipping: FunctionRegistry | None = None

    async def __aenter__(self) -> "AsyncCluster":
        limit_lines(lambda: CONFIG.output_lines)
        client = Client(self._urls, self._token, direct=self._direct)
        try:
            await client.open()
            warn_of(await node_versions(client))
        except BaseException:
            await client.close()
            raise
        self._client = client
        self._shipping = FunctionRegistry(client, _blocking)
        return self

    async def __aexit__(self, *error: object) -> None:
        client, self._client = self._client, None
        self._shipping = None
        if client is not None:
            await client.close()

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            "an AsyncCluster",
            "it belongs to the event loop that opened it",
            "Inside the function, use the cluster that runs it: mp.current()",
        )

    @property
    def client(self) -> Client:
        """The client underneath.

        Raises:
            NoCluster: outside of `async with`.
            ForkedProcess: in a child process that was forked from this one.
        """
        if os.getpid() != self._process:
            raise ForkedProcess
        if self._client is None:
            raise NoCluster(_NOT_CONNECTED)
        return self._client

    async def call(
        self, function: str | Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Run `function` (a function, or the name of one) and return its result.

        Raises the errors of `Cluster.call`. Cancelling the await cancels the call.
        """
        return await self.on().call(function, *args, **kwargs)

    def submit(
        self, function: str | Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> "asyncio.Task[Any]":
        """Send a call of `function` and return its task at once."""
        return asyncio.ensure_future(self.call(function, *args, **kwargs))

    async def map(
        self, function: str | Callable[..., Any], /, *iterables: Iterable[Any]
    ) -> list[Any]:
        """Run `function` once for each item and return the results in order.

        The first error cancels the remaining calls and is raised.
        """
        return await self.on().map(function, *iterables)

    def on(
        self,
        *resources: str,
        node: str | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> "AsyncView":
        """Restrict which nodes may run a call, and for how long; see `Cluster.on`."""
        return AsyncView(self, call_options(resources, node, timeout, wait))

    async def register(
        self,
        function: Any,
        name: str | None = None,
        resources: str | Iterable[str] = (),
        *,
        idempotent: bool = False,
        isolation: str = "process",
    ) -> Card:
        """Ship a function to every node that holds `resources`; return its card.

        The options are those of `Cluster.register`.
        """
        made = Function(
            function.local if isinstance(function, Function) else function,
            name=name,
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,
            cluster=_blocking,
        )
        await self._ship(made)
        if made.card is None:
            raise AssertionError("a registration gives a card")
        return made.card

    def workflow(self, name: str) -> AsyncFlow:
        """Create a workflow: add steps with `flow.step(...)`, then `await flow.run()`.

        `await flow.start()` returns the run at once; `await run` waits for its end.
        """
        from mpreg_nb.view.diagram_svg import Drawing

        needs = self._shipped.needs
        runner = AsyncRunner(self.client, self.callee, needs)
        return Flow(name, runner, draw=Drawing, needs=needs)

    async def runs(self) -> "pd.DataFrame":
        """Return one row per run, newest first; see `Cluster.runs`.

        Columns: run, workflow, status, steps, done, failed, started_at, duration_s.
        """
        from mpreg_nb.view.frames import runs_frame

        return runs_frame(run for _, run in await self.client.runs.everywhere())

    async def get_run(self, run: str) -> AsyncRun:
        """Return a run by its id, first characters of its id, or workflow.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        found = await self.client.runs.everywhere()
        wanted = chosen_run(run, [each for _, each in found])
        node = next(node for node, each in found if each is wanted)
        writer = current_writer()
        record = await self.client.runs.take_up(node, wanted.run, writer)
        return AsyncRun(self.client, record)

    async def callee(self, function: Any) -> tuple[str, CallOptions]:
        """Return name and version of `function`, registering it at first use."""
        if isinstance(function, str):
            return check_name("function", function), CallOptions()
        shipping = self._shipped
        known = shipping.registered(function)
        if known is not None:
            return known
        return await self._ship(shipping.function(function), stands_for=function)

    async def _ship(
        self, function: Function[Any, Any], *, stands_for: Any = None
    ) -> tuple[str, CallOptions]:
        shipping = self._shipped
        shipped = shipping.pack(function)
        return await shipping.send(function, shipped, stands_for=stands_for)

    @property
    def _shipped(self) -> FunctionRegistry:
        if self._shipping is None:
            raise NoCluster(_NOT_CONNECTED)
        return self._shipping


@public
class AsyncView:
    """An `AsyncCluster` narrowed to some of its nodes."""

    def __init__(self, cluster: AsyncCluster, options: CallOptions) -> None:
        self._cluster = cluster
        self._options = options

    async def call(
        self, function: str | Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Run `function` and return what it returned."""
        function, args, given = unwrapped(function, args, kwargs)
        kwargs = dict(given)
        name, options = await self._narrowed(function)
        return await self._cluster.client.call(name, args, kwargs, options)

    async def map(
        self, function: str | Callable[..., Any], /, *iterables: Iterable[Any]
    ) -> list[Any]:
        """Run `function` for each item and return the results in order.

        The first error ends it and is raised; what is under way is cancelled.
        """
        function, first, kwargs = unwrapped(function, (), {})
        name, options = await self._narrowed(function)
        client = self._cluster.client
        tasks = [
            asyncio.ensure_future(client.call(name, (*first, *args), kwargs, options))
            for args in zip(*iterables, strict=False)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _narrowed(
        self, function: str | Callable[..., Any]
    ) -> tuple[str, CallOptions]:
        name, known = await self._cluster.callee(function)
        return name, narrowed(self._options, known)


@public
def connect_async(
    *urls: str, token: str | None = None, direct: bool = True
) -> AsyncCluster:
    """Connect from async code: `async with mp.connect_async(url) as cluster`.

    The arguments and errors are those of `connect`; errors are raised on entering.
    """
    if not urls:
        raise TypeError("connect_async needs the URL of a node")
    return AsyncCluster(*urls, token=token, direct=direct)


def _blocking() -> Any:
    raise NoCluster("this function belongs to an AsyncCluster: await cluster.call(...)")
