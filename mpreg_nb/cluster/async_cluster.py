"""`AsyncCluster`: the verbs of a cluster as coroutines on the caller's event loop."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mpreg_nb.boundary import public
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.registrations import Card
from mpreg_nb.cluster.calling import AsyncCalling, Called
from mpreg_nb.cluster.connect import (
    SEEN_TIMEOUT_S,
    alive_nodes,
    alive_urls,
    open_client,
    wait_for_nodes,
)
from mpreg_nb.cluster.frames import ClusterFrames
from mpreg_nb.cluster.function import FunctionNamespace, call_options
from mpreg_nb.cluster.logs import NodeLog, log_sources, read_logs
from mpreg_nb.cluster.planner import Callees, Planner, functions_of
from mpreg_nb.cluster.registration import FunctionRegistry
from mpreg_nb.cluster.run import AsyncRun, ClusterRuns, OnRun
from mpreg_nb.cluster.versions import node_versions, warn_of
from mpreg_nb.engines.engine import is_dask_url
from mpreg_nb.errors import ForkedProcess, MpregError, NoCluster, NotPicklable
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.transport.tls import load_ca
from mpreg_nb.transport.token import load_token
from mpreg_nb.workflows.builder import Flow
from mpreg_nb.workflows.graph import Workflow

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

    from mpreg_nb.cluster.live import LiveView, LiveViews


AsyncFlow: TypeAlias = Flow[
    Coroutine[Any, Any, AsyncRun], "Coroutine[Any, Any, pd.DataFrame]"
]
"""A flow of which `run`, `start` and `plan` are awaited."""


class _Connected:
    """The parts of an `AsyncCluster` while it is connected."""

    def __init__(self, client: Client, cluster: "AsyncCluster") -> None:
        self.client = client
        self.registry = FunctionRegistry(client, lambda: cluster)
        self.calling = AsyncCalling(client, self.registry)
        self.runs: ClusterRuns[AsyncRun] = ClusterRuns(
            client, partial(AsyncRun, client)
        )
        self.planner = Planner(client, self.registry.needs)
        self.frames = ClusterFrames(client, self.planner, self.runs)
        self.fn = FunctionNamespace(cluster)
        self.views: LiveViews | None = None


@public
class AsyncCluster:
    """A cluster for async code; `connect_async` makes one.

    Use it as an async context manager, on the event loop that makes the calls.
    Cancelling an await cancels its call. The verbs are those of `Cluster`, which
    documents them in full; those that start and end nodes, or inject faults, are for
    the process that started the nodes.
    """

    def __init__(
        self,
        *urls: str,
        token: str | None = None,
        direct: bool = True,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        self._urls = urls
        self._token = load_token(token)
        self._ca = load_ca(ca)
        self._direct = direct
        self._parts: _Connected | None = None
        self._process = os.getpid()

    async def __aenter__(self) -> "AsyncCluster":
        client = await open_client(self._urls, self._token, self._direct, self._ca)
        try:
            warn_of(await node_versions(client))
        except BaseException:
            await client.close()
            raise
        self._parts = _Connected(client, self)
        return self

    async def __aexit__(self, *error: object) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            if parts.views is not None:
                parts.views.end()
            await parts.client.close()

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            "an AsyncCluster",
            "it belongs to the event loop that opened it",
            "Inside the function, use the cluster that runs it: mp.current()",
        )

    def __repr__(self) -> str:
        if self._parts is None:
            return "<AsyncCluster, not connected>"
        return f"<AsyncCluster {alive_nodes(self._parts.client)}>"

    @property
    def _connected(self) -> _Connected:
        if os.getpid() != self._process:
            raise ForkedProcess
        if self._parts is None:
            raise NoCluster(
                "not connected. Connect first: "
                "async with mp.connect_async(url) as cluster"
            )
        return self._parts

    @property
    def client(self) -> Client:
        """The client underneath.

        Raises:
            NoCluster: outside of `async with`.
            ForkedProcess: in a child process that was forked from this one.
        """
        return self._connected.client

    @property
    def calling(self) -> AsyncCalling:
        """Makes the calls; for views and `fn`."""
        return self._connected.calling

    # -------------------------------------------------------------------- calls

    async def call(self, function: Called, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` (a function, or the name of one) and return its result.

        Raises the errors of `Cluster.call`. Cancelling the await cancels the call.
        """
        return await self.calling.call(function, args, kwargs, CallOptions())

    def submit(
        self, function: Called, /, *args: Any, **kwargs: Any
    ) -> "asyncio.Task[Any]":
        """Send a call of `function` and return its task at once."""
        return self.calling.submit(function, args, kwargs, CallOptions())

    async def map(self, function: Called, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` once for each item and return the results in order.

        The first error cancels the remaining calls and is raised.
        """
        return await self.calling.map(function, iterables, CallOptions())

    def on(
        self,
        *resources: str,
        node: str | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> "AsyncView":
        """Restrict which nodes may run a call, and for how long; see `Cluster.on`."""
        return AsyncView(self, call_options(resources, node, timeout, wait))

    @property
    def fn(self) -> FunctionNamespace:
        """Functions of the catalog by name: `await cluster.fn.train(rows)`."""
        return self._connected.fn

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
        registry = self._connected.registry
        made = registry.declared(
            function,
            name=name,
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,
        )
        await registry.register(made)
        if made.card is None:
            raise AssertionError("a registration gives a card")
        return made.card

    # ---------------------------------------------------------------- workflows

    def workflow(self, name: str) -> AsyncFlow:
        """Create a workflow: add steps with `flow.step(...)`, then `await flow.run()`.

        `await flow.start()` returns the run at once; `await run` waits for its end.
        """
        from mpreg_nb.view.diagram_svg import Drawing

        return Flow(name, self, draw=Drawing, needs=self._connected.registry.needs)

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
        """Start a workflow and return its run, which can be awaited.

        Raises:
            InvalidWorkflow, NoRoute, NotPicklable: before any step runs.
        """
        parts = self._connected
        planned = parts.planner.prepared(workflow, await self._callees(workflow))
        return await parts.runs.start(planned)

    async def plan(self, workflow: Workflow) -> "pd.DataFrame":
        """Return where each step would run now; see `Cluster.plan`."""
        callees = await self._callees(workflow)
        return (await self._connected.frames.plan(workflow, callees))()

    async def _callees(self, workflow: Workflow) -> Callees:
        return await self.calling.callees(functions_of(workflow))

    @property
    def own_runs(self) -> tuple[AsyncRun, ...]:
        """The last 50 runs started or fetched here, newest first."""
        return self._connected.runs.recent.newest_first

    def on_run(self, listener: OnRun[AsyncRun]) -> Callable[[], None]:
        """Call `listener` with each run of `own_runs` that starts or changes.

        Returns a function that ends the subscription.
        """
        return self._connected.runs.recent.listen(listener)

    async def runs(self) -> "pd.DataFrame":
        """Return one row per run, newest first; see `Cluster.runs`."""
        return (await self._connected.frames.runs())()

    async def get_run(self, run: str) -> AsyncRun:
        """Return a run by its id, first characters of its id, or workflow.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        return await self._connected.runs.find(run)

    # -------------------------------------------------------------------- nodes

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the live nodes, sorted by the names of the nodes."""
        return alive_urls(self.client)

    async def refresh(self) -> Snapshot:
        """Ask the connected node for the current state of the cluster."""
        return await self.client.snapshot()

    async def wait_for(
        self,
        *names: str,
        state: str = "alive",
        timeout: float = SEEN_TIMEOUT_S,  # noqa: ASYNC109 - as in `Cluster.wait_for`
    ) -> None:
        """Wait until all of these nodes are in `state`; see `Cluster.wait_for`."""
        await wait_for_nodes(self.client, names, state, timeout)

    async def logs(self, node: str | None = None, lines: int = 50) -> NodeLog:
        """Return the last lines of the log of a node; see `Cluster.logs`."""
        return read_logs(log_sources(self.client, None, node), lines)

    # ------------------------------------------------------------ frames, figures

    async def nodes(self) -> "pd.DataFrame":
        """Return one row per node; see `Cluster.nodes`."""
        return (await self._connected.frames.nodes())()

    async def functions(self, pattern: str = "*") -> "pd.DataFrame":
        """Return one row per function; see `Cluster.functions`."""
        return (await self._connected.frames.functions(pattern))()

    async def routes(self) -> "pd.DataFrame":
        """Return one row per function and node called here; see `Cluster.routes`."""
        return self._connected.frames.routes()

    async def calls(self) -> "pd.DataFrame":
        """Return the last 10,000 calls of this client; see `Cluster.calls`."""
        return self._connected.frames.calls()

    async def latency(self, by: "str | tuple[str, ...]" = "function") -> "pd.DataFrame":
        """Return latency percentiles of the calls; see `Cluster.latency`."""
        return self._connected.frames.latency(by)

    async def events(self) -> "pd.DataFrame":
        """Return the events of the cluster, oldest first; see `Cluster.events`."""
        return (await self._connected.frames.events())()

    async def versions(self) -> "pd.DataFrame":
        """Return the versions of packages here and on nodes; see `Cluster.versions`."""
        return (await self._connected.frames.versions())()

    async def plot_latency(self) -> "matplotlib.figure.Figure":
        """Return a figure of latency; see `Cluster.plot_latency`."""
        return self._connected.frames.plot_latency()

    async def plot_routes(self) -> "matplotlib.figure.Figure":
        """Return a heat map of calls; see `Cluster.plot_routes`."""
        return (await self._connected.frames.plot_routes())()

    async def status(self) -> Any:
        """Return the card that `%mpreg` shows: nodes, functions, calls."""
        return (await self._connected.frames.status())()

    # --------------------------------------------------------------- live views

    async def watch(self, *views: str) -> "LiveView":
        """Return a live panel; see `Cluster.watch`."""
        from mpreg_nb.cluster.live import LiveViews

        parts = self._connected
        await parts.client.snapshot()
        if parts.views is None:
            loop = _OwnLoop(asyncio.get_running_loop())
            parts.views = LiveViews(_ViewSource(parts.client, parts.runs), loop)
        return parts.views.watch(views)


@dataclass(frozen=True, slots=True)
class _ViewSource:
    """An `AsyncCluster` as its live views need it; nodes report changes to it."""

    client: Client
    runs: ClusterRuns[AsyncRun]
    started_here: bool = False
    own_nodes: tuple[str, ...] = ()

    @property
    def own_runs(self) -> tuple[AsyncRun, ...]:
        return self.runs.recent.newest_first

    def refresh(self) -> None:
        """Do nothing: nodes report changes by themselves."""

    def kill(self, node: str) -> None:
        raise MpregError("only the program that started a node can kill it")


@dataclass(frozen=True, slots=True)
class _OwnLoop:
    """The event loop of an `AsyncCluster`, which live views cannot wait for."""

    loop: asyncio.AbstractEventLoop

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.call_soon_threadsafe(function, *args)

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        work.close()


@public
class AsyncView:
    """An `AsyncCluster` restricted by `on`: its calls go only to nodes that fit."""

    def __init__(self, cluster: AsyncCluster, options: CallOptions) -> None:
        self._cluster = cluster
        self._options = options

    async def call(self, function: Called, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` and return its result."""
        return await self._cluster.calling.call(function, args, kwargs, self._options)

    def submit(
        self, function: Called, /, *args: Any, **kwargs: Any
    ) -> "asyncio.Task[Any]":
        """Send a call of `function` and return its task at once."""
        return self._cluster.calling.submit(function, args, kwargs, self._options)

    async def map(self, function: Called, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` for each item and return the results in order."""
        return await self._cluster.calling.map(function, iterables, self._options)


@public
def connect_async(
    *urls: str,
    token: str | None = None,
    direct: bool = True,
    ca: str | os.PathLike[str] | None = None,
) -> AsyncCluster:
    """Connect from async code: `async with mp.connect_async(url) as cluster`.

    The arguments and errors are those of `connect`; errors are raised on entering.
    """
    if not urls:
        raise TypeError("connect_async needs the URL of a node")
    if is_dask_url(urls[0]):
        raise ValueError(
            f"connect_async needs the URL of a node. Start a gateway to this Dask "
            f"cluster first, and connect to its URL: mpreg-nb gateway {urls[0]}"
        )
    return AsyncCluster(*urls, token=token, direct=direct, ca=ca)
