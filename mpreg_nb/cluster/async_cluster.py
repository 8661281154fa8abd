"""`AsyncCluster`: the verbs of a cluster as coroutines.

They are written once, here: `Cluster` has an `AsyncCluster` over its own parts, and
runs its coroutines in the thread of its caller (`client/loop_thread.py`).
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import msgspec

from mpreg_nb.boundary import public
from mpreg_nb.client.calls import PLAIN, CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.loop_thread import ClientLoop, OwnLoop
from mpreg_nb.client.registrations import Card
from mpreg_nb.client.statistics import CallRow
from mpreg_nb.cluster.calling import AsyncCalling, Called
from mpreg_nb.cluster.connect import (
    SEEN_TIMEOUT_S,
    alive_nodes,
    alive_urls,
    open_client,
    wait_for_nodes,
)
from mpreg_nb.cluster.current import CallingCluster
from mpreg_nb.cluster.function import FunctionNamespace, call_options
from mpreg_nb.cluster.logs import NodeLog, log_sources, read_logs
from mpreg_nb.cluster.planner import Callees, Planner, functions_of
from mpreg_nb.cluster.registration import FunctionRegistry
from mpreg_nb.cluster.run import AsyncRun, ClusterRuns, OnRun
from mpreg_nb.cluster.versions import compare, node_versions, warn_of
from mpreg_nb.engines.engine import is_dask_url
from mpreg_nb.errors import ForkedProcess, MpregError, NoCluster, NotPicklable
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.transport.tls import load_ca
from mpreg_nb.transport.token import load_token
from mpreg_nb.view import explain, frames
from mpreg_nb.view.explain import PlanRow
from mpreg_nb.workflows.builder import Flow, frozen
from mpreg_nb.workflows.graph import Workflow

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

    from mpreg_nb.cluster.live import LiveView, LiveViews

T = TypeVar("T")

AsyncFlow: TypeAlias = Flow[
    Coroutine[Any, Any, AsyncRun], "Coroutine[Any, Any, pd.DataFrame]"
]
"""A flow of which `run`, `start` and `plan` are awaited."""


class ClusterParts:
    """What the verbs of one connected cluster are made of."""

    def __init__(
        self,
        client: Client,
        loop: ClientLoop,
        cluster: Callable[[], CallingCluster],
        calling: Callable[[Client, Any, FunctionRegistry], Any],
        run: Callable[..., Any],
    ) -> None:
        """cluster: the one that functions call which are registered here.

        calling, run: what makes calls, and a run, for code that awaits or blocks.
        """
        self.client = client
        self.loop = loop
        self.registry = FunctionRegistry(client, loop, cluster)
        self.calling = calling(client, loop, self.registry)
        self.runs: ClusterRuns[Any] = ClusterRuns(
            client, loop, partial(run, client, loop)
        )
        self.planner = Planner(client, self.registry.needs)


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
        connect: Callable[[], Coroutine[Any, Any, Client]] | None = None,
        parts: ClusterParts | None = None,
    ) -> None:
        """Give either what connects it, or the parts of a cluster that is connected."""
        self._connect = connect
        self._parts = parts
        self._process = os.getpid()
        self._views: LiveViews | None = None

    async def __aenter__(self) -> "AsyncCluster":
        if self._connect is None:
            raise AssertionError("it was made over a cluster that is connected")
        client = await self._connect()
        try:
            warn_of(await node_versions(client))
        except BaseException:
            await client.close()
            raise
        self._parts = ClusterParts(
            client, OwnLoop(), lambda: self, AsyncCalling, AsyncRun
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        parts, self._parts = self._parts, None
        views, self._views = self._views, None
        if views is not None:
            views.end()
        if parts is not None:
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
    def _connected(self) -> ClusterParts:
        if os.getpid() != self._process:
            raise ForkedProcess
        if self._parts is None:
            raise NoCluster(
                "not connected. Connect first: "
                "async with mp.connect_async(url) as cluster"
            )
        return self._parts

    async def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run what asks the client on its loop; all else runs where the verb does."""
        return await self._connected.loop.wait_for(work)

    @property
    def _client(self) -> Client:
        return self._connected.client

    @property
    def _calling(self) -> AsyncCalling:
        """Makes the calls; for views and `fn`."""
        calling: AsyncCalling = self._connected.calling
        return calling

    # -------------------------------------------------------------------- calls

    async def call(self, function: Called, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` (a function, or the name of one) and return its result.

        Raises the errors of `Cluster.call`. Cancelling the await cancels the call.
        """
        return await self._calling.call(function, args, kwargs, PLAIN)

    def submit(
        self, function: Called, /, *args: Any, **kwargs: Any
    ) -> "asyncio.Task[Any]":
        """Send a call of `function` and return its task at once."""
        return self._calling.submit(function, args, kwargs, PLAIN)

    async def map(self, function: Called, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` once for each item and return the results in order.

        The first error cancels the remaining calls and is raised.
        """
        return await self._calling.map(function, iterables, PLAIN)

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
        return FunctionNamespace(self)

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
        made = await self._connected.registry.register(
            function,
            name=name,
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,
        )
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

    async def run(self, workflow: Workflow | Flow[Any, Any]) -> AsyncRun:
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

    async def start(self, workflow: Workflow | Flow[Any, Any]) -> AsyncRun:
        """Start a workflow and return its run, which can be awaited.

        Raises:
            InvalidWorkflow, NoRoute, NotPicklable: before any step runs.
        """
        parts, workflow = self._connected, frozen(workflow)
        planned = parts.planner.prepared(workflow, await self._callees(workflow))
        try:
            run: AsyncRun = await self._wait_for(parts.runs.start(planned))
        except (KeyboardInterrupt, asyncio.CancelledError):
            # The run may have started, and nobody has it.
            parts.loop.call_soon(parts.runs.cancel, planned.request.id)
            raise
        return run

    async def plan(self, workflow: Workflow | Flow[Any, Any]) -> "pd.DataFrame":
        """Return where each step would run now; see `Cluster.plan`."""
        workflow = frozen(workflow)
        callees = await self._callees(workflow)
        rows = await self._wait_for(_planned(self._connected, workflow, callees))
        return explain.plan_frame(rows)

    async def _callees(self, workflow: Workflow) -> Callees:
        return await self._connected.registry.callees(functions_of(workflow))

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
        return frames.runs_frame(await self._wait_for(self._connected.runs.summaries()))

    async def get_run(self, run: str) -> AsyncRun:
        """Return a run by its id, first characters of its id, or workflow.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        runs = self._connected.runs
        found: Any = runs.recent.get(run)
        if found is None:
            found = await self._wait_for(runs.find(run))
        known: AsyncRun = found
        return known

    # -------------------------------------------------------------------- nodes

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the live nodes, sorted by the names of the nodes."""
        return alive_urls(self._client)

    async def refresh(self) -> Snapshot:
        """Ask the connected node for the current state of the cluster."""
        return await self._wait_for(self._client.snapshot())

    async def wait_for(
        self,
        *names: str,
        state: str = "alive",
        timeout: float = SEEN_TIMEOUT_S,  # noqa: ASYNC109 - as in `Cluster.wait_for`
    ) -> None:
        """Wait until all of these nodes are in `state`; see `Cluster.wait_for`."""
        await self._wait_for(wait_for_nodes(self._client, names, state, timeout))

    async def logs(self, node: str | None = None, lines: int = 50) -> NodeLog:
        """Return the last lines of the log of a node; see `Cluster.logs`."""
        return read_logs(log_sources(self._client, None, node), lines)

    # ------------------------------------------------------------ frames, figures

    async def nodes(self) -> "pd.DataFrame":
        """Return one row per node; see `Cluster.nodes`."""
        return frames.nodes_frame(await self.refresh())

    async def functions(self, pattern: str = "*") -> "pd.DataFrame":
        """Return one row per function; see `Cluster.functions`."""
        here, there = await self._wait_for(_snapshots(self._client))
        counted = [function for each in there for function in each.functions]
        return frames.functions_frame(here, counted, pattern)

    async def routes(self) -> "pd.DataFrame":
        """Return one row per function and node called here; see `Cluster.routes`."""
        return frames.routes_frame(self._call_rows())

    async def calls(self) -> "pd.DataFrame":
        """Return the last 10,000 calls of this client; see `Cluster.calls`."""
        return frames.calls_frame(self._call_rows())

    async def latency(self, by: "str | tuple[str, ...]" = "function") -> "pd.DataFrame":
        """Return latency percentiles of the calls; see `Cluster.latency`."""
        keys = (by,) if isinstance(by, str) else tuple(by)
        return frames.latency_frame(self._client.call_log.histograms(), keys)

    async def events(self) -> "pd.DataFrame":
        """Return the events of the cluster, oldest first; see `Cluster.events`."""
        return frames.events_frame(*await self._wait_for(_snapshots(self._client)))

    async def versions(self) -> "pd.DataFrame":
        """Return the versions of packages here and on nodes; see `Cluster.versions`."""
        return frames.versions_frame(*await self._wait_for(compare(self._client)))

    async def plot_latency(self) -> "matplotlib.figure.Figure":
        """Return a figure of latency; see `Cluster.plot_latency`."""
        from mpreg_nb.view.figures import latency_figure

        histograms = self._client.call_log.histograms()
        return latency_figure(histograms, self._call_rows())

    async def plot_routes(self) -> "matplotlib.figure.Figure":
        """Return a heat map of calls; see `Cluster.plot_routes`."""
        from mpreg_nb.view.figures import routes_figure

        records = [node.record for node in (await self.refresh()).nodes]
        alive = [each.name for each in records if each.state is MemberState.ALIVE]
        return routes_figure(self._call_rows(), alive)

    async def status(self) -> Any:
        """Return the card that `%mpreg` shows: nodes, functions, calls."""
        from mpreg_nb.view.html import StatusCard

        client = self._client
        snapshot, carried = await self._wait_for(_carried(client))
        return StatusCard(snapshot, client.call_log.count, carried)

    def _call_rows(self) -> tuple[CallRow, ...]:
        """Return the measurements of each of the last calls, oldest first."""
        return self._client.call_log.rows()

    # --------------------------------------------------------------- live views

    async def watch(self, *views: str) -> "LiveView":
        """Return a live panel; see `Cluster.watch`."""
        from mpreg_nb.cluster.live import LiveViews

        parts = self._connected
        await self.refresh()
        if self._views is None:
            source = WatchedCluster(
                parts.client, parts.runs, refresh=_no_refresh, kill_node=_refuse_kill
            )
            self._views = LiveViews(source, OwnLoop())
        return self._views.watch(views)


async def _snapshots(client: Client) -> tuple[Snapshot, list[Snapshot]]:
    """Return what the entry knows now, and what each node that can be reached knows."""
    here = await client.snapshot()
    nodes = [node.record.name for node in client.state.nodes]
    answers = await asyncio.gather(*map(client.snapshot_of, nodes))
    return here, [snapshot for snapshot in answers if snapshot is not None]


async def _carried(client: Client) -> tuple[Snapshot, str]:
    """Return what the entry knows now, and what carries the links of this client."""
    return await client.snapshot(), client.links.carried()


async def _planned(
    parts: ClusterParts, workflow: Workflow, callees: Callees
) -> tuple[PlanRow, ...]:
    """Return where each step would run, by what the entry knows now."""
    await parts.client.snapshot()
    return parts.planner.rows(workflow, callees)


class WatchedCluster(msgspec.Struct, frozen=True):
    """A cluster as its live views need it: a `ViewSource`."""

    client: Client
    runs: ClusterRuns[Any]
    refresh: Callable[[], object]
    kill_node: Callable[[str], object]
    started_here: bool = False
    started: Callable[[], tuple[str, ...]] = tuple

    @property
    def own_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that this process started."""
        return self.started()

    @property
    def own_runs(self) -> tuple[Any, ...]:
        """Runs that are at hand in this process, newest first."""
        return self.runs.recent.newest_first

    def kill(self, node: str) -> None:
        """Kill a node that this process started."""
        self.kill_node(node)


def _no_refresh() -> None:
    """Do nothing: nodes report changes by themselves."""


def _refuse_kill(node: str) -> NoReturn:
    raise MpregError("only the program that started a node can kill it")


@public
class AsyncView:
    """An `AsyncCluster` restricted by `on`: its calls go only to nodes that fit."""

    def __init__(self, cluster: AsyncCluster, options: CallOptions) -> None:
        self._cluster = cluster
        self._options = options

    async def call(self, function: Called, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` and return its result."""
        return await self._cluster._calling.call(function, args, kwargs, self._options)

    def submit(
        self, function: Called, /, *args: Any, **kwargs: Any
    ) -> "asyncio.Task[Any]":
        """Send a call of `function` and return its task at once."""
        return self._cluster._calling.submit(function, args, kwargs, self._options)

    async def map(self, function: Called, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` for each item and return the results in order."""
        return await self._cluster._calling.map(function, iterables, self._options)


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
    return AsyncCluster(
        partial(open_client, urls, load_token(token), direct, load_ca(ca))
    )
