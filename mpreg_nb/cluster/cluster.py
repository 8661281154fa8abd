"""`Cluster`: nodes, functions, calls, workflows, frames and views of one cluster.

`Cluster` blocks: it runs the verbs of an `AsyncCluster` in the thread of its caller,
while the client lives on the loop of a thread of its own. It adds the nodes that this
process started.
"""

import atexit
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload
from weakref import WeakSet

from mpreg_nb.boundary import public
from mpreg_nb.client.calls import PLAIN
from mpreg_nb.client.client import Client
from mpreg_nb.client.future import Future
from mpreg_nb.client.loop_thread import LoopThread, run_blocking
from mpreg_nb.client.output import write_at_once
from mpreg_nb.cluster import current, joblib_backend
from mpreg_nb.cluster.async_cluster import (
    AsyncCluster,
    ClusterParts,
    WatchedCluster,
)
from mpreg_nb.cluster.calling import Called, Calling
from mpreg_nb.cluster.connect import (
    SEEN_TIMEOUT_S,
    alive_nodes,
    alive_urls,
    engine_of,
    open_client,
    wait_for_states,
)
from mpreg_nb.cluster.executor import ClusterExecutor
from mpreg_nb.cluster.fault_injection import FaultInjection
from mpreg_nb.cluster.function import Function, FunctionNamespace, View, call_options
from mpreg_nb.cluster.logs import (
    LogSource,
    NodeLog,
    follow_logs,
    log_sources,
    read_logs,
)
from mpreg_nb.cluster.registration import warn_stale_results
from mpreg_nb.cluster.run import ClusterRuns, OnRun, Run
from mpreg_nb.cluster.versions import node_versions, warn_of
from mpreg_nb.errors import ClusterDown, HostsFailed, MpregError, NoCluster
from mpreg_nb.launcher.cluster_files import ClusterFiles, is_here
from mpreg_nb.launcher.kept_clusters import KeptCluster, end
from mpreg_nb.launcher.launcher import AS_FOUND, RemoteOptions
from mpreg_nb.launcher.node_spec import (
    NodeSpec,
    Wanted,
    check_host,
    difference,
    read_spec,
)
from mpreg_nb.launcher.started_nodes import StartedNodes
from mpreg_nb.protocol.messages import Snapshot, installed
from mpreg_nb.transport.token import Token, load_token
from mpreg_nb.units import count
from mpreg_nb.view.plain_mode import in_ipython_terminal
from mpreg_nb.workflows.builder import Flow
from mpreg_nb.workflows.graph import Workflow

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

    from mpreg_nb.cluster.live import LiveView, LiveViews


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@public
class Cluster:
    """A cluster of nodes: start and end nodes, call functions, run workflows.

    `up`, `connect` and `adopt` make one. Its methods block, except `submit` and
    `start`, and any thread may call them. After `down` they raise ClusterDown.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: Token,
        *,
        nodes: StartedNodes | None = None,
        direct: bool = True,
        ca: str = "",
    ) -> None:
        """Connect to the first of `urls` that answers.

        nodes: those that this process started; the gateway, where an engine runs the
            calls.

        Raises:
            NotTrusted: the token is not the cluster's, or a certificate not of `ca`.
            NodeLost: nobody listens there.
        """
        self._nodes = nodes
        self.ca = ca
        """What certificates of its nodes are checked with (PEM), for `connect(ca=)` in
        other programs; "" where none was given and none was made."""
        self._thread = thread = LoopThread()
        self._down = False
        try:
            client = thread.run(open_client(urls, token, direct, ca))
        except BaseException:
            thread.stop()
            raise
        self._client: Client = client
        # The engine whose workers run the calls; None: nodes of mpreg_nb.
        self._engine = engine_of(client)
        self._connected = parts = ClusterParts(
            client, thread, lambda: self, Calling, Run
        )
        self._verbs = AsyncCluster(parts=parts)
        self._registry = parts.registry
        self._runs: ClusterRuns[Run] = parts.runs
        self._calling: Calling = parts.calling
        self.fn = FunctionNamespace(self)
        """Functions of the catalog by name, with tab completion: `cluster.fn.train`."""
        self._executors: WeakSet[ClusterExecutor] = WeakSet()
        atexit.register(self._end_with_process)
        current.enter(self)
        joblib_backend.register()

    def __reduce__(self) -> tuple[Any, ...]:
        # A function that names it uses the cluster that it runs in.
        return current.CurrentCluster, ()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    def __repr__(self) -> str:
        about = ", down" if self._down else f" {alive_nodes(self._client)}"
        return f"<Cluster{about}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import chosen

        if self._down:
            return chosen({"text/plain": repr(self)}, include, exclude)
        return self.status()._repr_mimebundle_(include, exclude)

    # -------------------------------------------------------------------- nodes

    @property
    def name(self) -> str:
        """The name of the cluster for `ps`, `adopt` and `down`; "" if connected to."""
        return self._nodes.name if self._nodes is not None else ""

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the live nodes, sorted by the names of the nodes."""
        return alive_urls(self._client)

    @property
    def _started_here(self) -> bool:
        """Whether this process started its nodes."""
        return self._nodes is not None and self._engine is None

    @property
    def _is_served(self) -> bool:
        """Whether the gateway to the engine runs that this process started."""
        return self._nodes is not None and not self._nodes.dead

    @property
    def _start_options(self) -> dict[str, object]:
        """The options of `up` that the nodes were started with; none if connected."""
        return {} if self._nodes is None else self._nodes.options

    @property
    def own_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that this process started."""
        if self._nodes is None:
            return ()
        return tuple(spec.name for spec in self._nodes.specs)

    @property
    def waiting(self) -> dict[str, str]:
        """Nodes that wait for their turn in a queue, and what is known of each.

        They join when they start: `wait_for(name, timeout=3600)`.
        """
        return {} if self._nodes is None else self._nodes.waiting

    def grow(
        self,
        wanted: Wanted,
        timeout: float = 20.0,
        remote: RemoteOptions = AS_FOUND,
    ) -> bool:
        """Start the nodes of `wanted` that do not run; False if all of them run.

        Raises:
            StartFailed: a node did not start; nodes started before it continue to run.
            HostsFailed: nodes of other machines did not; all others run.
        """
        nodes = self._own_nodes(
            "add", "start nodes", "mpreg-nb node --name NAME --join URL"
        )
        specs = read_spec(wanted)
        with nodes.changing:
            nodes.ask_of_hosts(remote)
            nodes.end_silent()
            change = difference(specs, nodes.specs, dead=nodes.dead)
            if change.nothing:
                return False
            nodes.stop([spec.name for spec in change.restart])
            started = (*change.restart, *change.start)
            failures = nodes.start(started, timeout)
            running = nodes.urls
            urls = {s.name: running[s.name] for s in started if s.name in running}
        if urls:
            self._run(self._take_in(urls))
        if failures:
            raise HostsFailed(failures, tuple(running))
        return True

    async def _take_in(self, urls: dict[str, str]) -> None:
        """Return when the client sees the nodes at `urls`, and functions are back."""
        self._client.reach_also(tuple(urls.values()))
        states = dict.fromkeys(urls, "alive")
        await wait_for_states(self._client, states, SEEN_TIMEOUT_S, urls=urls)
        await self._client.registrations.restore(without=frozenset(urls))

    def add(
        self,
        name: str,
        resources: str | Iterable[str] = (),
        *,
        host: str = "",
        timeout: float = 20.0,
    ) -> None:
        """Start one more node; it receives the functions that fit it.

        resources: names of resources that the node holds.
        host: a machine that ssh reaches; by default this one.
        timeout: seconds in which the node must be ready.

        Raises:
            StartFailed: the node did not start; its last log lines are in the message.
            MpregError: this cluster was only connected to.
        """
        held = frozenset({resources} if isinstance(resources, str) else resources)
        node = NodeSpec(name, held)
        if host:
            node = NodeSpec(name, held, host=check_host(host), launcher="ssh")
        self.grow(node, timeout)

    def remove(self, *names: str) -> None:
        """End nodes that this process started; each finishes its running calls first.

        Raises:
            MpregError: this process did not start a node of that name.
        """
        nodes = self._own_nodes(
            "remove", "end nodes", "mpreg-nb down CLUSTER, or end its process"
        )
        known = {spec.name for spec in nodes.specs}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise MpregError(
                f"this process did not start a node named {unknown[0]!r}; it started: "
                f"{', '.join(sorted(known))}"
            )
        with nodes.changing:
            nodes.stop(names)
        self.refresh()

    def wait_for(
        self, *names: str, state: str = "alive", timeout: float = SEEN_TIMEOUT_S
    ) -> None:
        """Wait until all of these nodes are in `state`, as this client sees them.

        state: "alive", "suspect", "dead" or "left".
        timeout: seconds to wait.

        Raises:
            ValueError: there is no such state, or a state was given as a name.
            TimeoutError: a node is not in that state after `timeout` seconds.
        """
        run_blocking(self._verbs.wait_for(*names, state=state, timeout=timeout))

    def refresh(self) -> Snapshot:
        """Ask the connected node for the current state of the cluster."""
        return run_blocking(self._verbs.refresh())

    def down(self) -> None:
        """End the nodes that this process started, and disconnect. May be repeated.

        Nodes that this process only connected to continue to run.
        """
        if self._is_over:
            return
        self._down = True
        with ExitStack() as each:  # all of it, also when Stop comes in between
            current.leave(self)
            atexit.unregister(self._end_with_process)
            if self._nodes is not None:
                each.callback(self._nodes.close)
            each.callback(self._thread.stop)
            each.callback(lambda: self._thread.run(self._client.close()))
            if self._nodes is not None:
                each.callback(self._nodes.go_on)  # else its links end out of order
            if "_views" in vars(self):
                for view in self._views.held:
                    view.close()

    @property
    def _is_over(self) -> bool:
        """Whether it is down, or its parent's: a forked child leaves that alone."""
        return self._down or self._thread.is_of_parent

    def _end_with_process(self) -> None:
        """Disconnect when this process ends; called automatically.

        A script waits for the calls of its executors, as it does with Python's own.
        Other calls that still run are cancelled, with a line that lists them.
        """
        try:
            if not _in_kernel():  # Jupyter kills a kernel that does not end at once
                for executor in tuple(self._executors):
                    executor.shutdown()
                self._report_cancelled_calls()
        finally:
            goodbye = self._goodbye() if in_ipython_terminal() else ""
            self.disconnect()
            sys.stdout.write(goodbye)

    def _goodbye(self) -> str:
        """Return the line that is printed when IPython ends: whether the nodes end."""
        if self._nodes is not None and not self._nodes.keep:
            nodes = count(len(self.own_nodes), "node")
            return f"mpreg_nb: cluster {self.name} has ended, with its {nodes}\n"
        if self.name:
            adopt = f"mp.adopt({self.name!r})"
            return (
                f"mpreg_nb: cluster {self.name} continues to run. "
                f"Take it over: {adopt}\n"
            )
        return "mpreg_nb: disconnected; the nodes of the cluster continue to run\n"

    def _report_cancelled_calls(self) -> None:
        calls = self._run(self._functions_in_progress())
        if calls:
            names = ", ".join(sorted(set(calls)))
            one = len(calls) == 1
            what = "a call" if one else f"{len(calls)} calls"
            write_at_once(
                sys.stderr,
                f"mpreg_nb: the program ended while {what} ran ({names}), and "
                f"cancelled {'it' if one else 'them'}. Wait for results first: "
                "future.result()\n",
            )

    async def _functions_in_progress(self) -> tuple[str, ...]:
        return self._client.calls.functions  # on the loop: after calls just submitted

    def disconnect(self) -> None:
        """Disconnect; nodes of a kept cluster continue to run, others end."""
        if self._is_over:
            return
        if self._nodes is not None and not self._nodes.keep:
            self.down()
            return
        nodes, self._nodes = self._nodes, None
        self.down()
        if nodes is not None:
            nodes.release()

    def _own_nodes(self, verb: str, what: str, elsewhere: str) -> StartedNodes:
        self._thread.check()
        if self._down:
            raise ClusterDown
        if self._engine is not None:
            raise self._engine.refuse(verb)
        if self._nodes is None:
            raise MpregError(
                f"this process only connected to the cluster, so it cannot {what}. "
                f"On the machine of the node: {elsewhere}"
            )
        return self._nodes

    # ---------------------------------------------------------------- functions

    @overload
    def function(self, function: Callable[P, R], /) -> Function[P, R]: ...

    @overload
    def function(
        self,
        *,
        name: str | None = None,
        resources: str | Iterable[str] = (),
        idempotent: bool = False,
        isolation: str = "process",
    ) -> Callable[[Callable[P, R]], Function[P, R]]: ...

    def function(  # type: ignore[misc]  # the overloads say what it returns
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        resources: str | Iterable[str] = (),
        idempotent: bool = False,
        isolation: str = "process",
    ) -> Any:
        """Decorate a function so that it can be called here and on the cluster.

        resources: only nodes that hold all of these run the function.
        idempotent: running the function twice does no harm, so a call is retried if
            its node is lost.
        isolation: "process" runs it in a worker process. "thread" runs it in a thread
            of the node, which cannot be killed: for small, trusted functions.
        """

        @public
        def decorate(local: Callable[P, R]) -> Function[P, R]:
            made: Function[P, R] = self.register(
                local, name, resources, idempotent=idempotent, isolation=isolation
            )
            warn_stale_results(made)
            return made

        return decorate if function is None else decorate(function)

    def register(
        self,
        function: Any,
        name: str | None = None,
        resources: str | Iterable[str] = (),
        *,
        idempotent: bool = False,
        isolation: str = "process",
    ) -> "Function[Any, Any]":
        """Ship a function to every node that holds `resources`, now and later.

        name: the name in the catalog; by default that of the function.
        resources, idempotent, isolation: as in `function`.
        A decorated function keeps its own options where none is given here.

        Returns the function object; its repr is the card of the registration. Every
        call after this one runs this version or a newer one, on any node.

        Raises:
            NotPicklable: the function captures an object that cannot be pickled; the
                message names its path.
        """
        registering = self._registry.register(
            function,
            name=name,
            resources=resources,
            idempotent=idempotent,
            isolation=isolation,
        )
        return run_blocking(registering)

    # -------------------------------------------------------------------- calls

    def call(self, function: Called, /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` (a function, or the name of one) and return its result.

        A function runs as it is now, with its helpers and what they read. Captured
        data above 64 kB is compared by identity: after a change in place, assign the
        name again or register the function again.

        Interrupting the kernel (Stop) cancels the call.

        Raises:
            RemoteError: the function raised; also an instance of the class it raised.
            NoRoute: no live node has the function and all resources.
            CallTimeout, NodeLost, WorkerCrashed, Overloaded, NotPicklable,
                PayloadTooLarge: see `mpreg_nb.errors`.
        """
        return self._calling.call(function, args, kwargs, PLAIN)

    def submit(self, function: Called, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call of `function` and return its future at once.

        The future is a `concurrent.futures.Future` that can also be awaited. Its
        `result` raises the errors that `call` raises.
        """
        return self._calling.submit(function, args, kwargs, PLAIN)

    def map(self, function: Called, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` once for each item and return the results in order.

        Takes several iterables as the builtin `map` does. The first error cancels the
        remaining calls and is raised. Raises the same errors as `call`.
        """
        return self._calling.map(function, iterables, PLAIN)

    def on(
        self,
        *resources: str,
        node: str | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> View:
        """Restrict which nodes may run a call, and for how long.

        Returns a view with `call`, `submit` and `map`: `on("gpu").call("train")`.

        resources: only nodes that hold all of these.
        node: only the node of this name.
        timeout: seconds from now to the result, including time in queues; after that
            the call raises CallTimeout.
        wait: seconds that a call may wait for a node that fits; 0 by default, which
            raises NoRoute at once.
        """
        return View(self, call_options(resources, node, timeout, wait))

    def executor(
        self,
        *resources: str,
        node: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> ClusterExecutor:
        """Return a `concurrent.futures.Executor` whose calls run on this cluster.

        resources, node: which nodes may run the calls, as in `on`.
        initializer: called with `initargs` once in each worker, before its first call
            of this executor.

        A script that ends waits for the calls that its executors accepted.
        """
        options = call_options(resources, node, None, None)
        executor = ClusterExecutor(self, options, initializer, initargs)
        self._executors.add(executor)
        return executor

    # ---------------------------------------------------------------- workflows

    def workflow(self, name: str) -> "Flow[Run, Any]":
        """Create a workflow: add steps with `flow.step(...)`, then `flow.run()`."""
        from mpreg_nb.view.diagram_svg import Drawing

        return Flow(name, self, draw=Drawing, needs=self._registry.needs)

    def run(self, workflow: Workflow | Flow[Any, Any]) -> Run:
        """Execute a workflow and wait for its end; interrupting (Stop) cancels it."""
        run = self.start(workflow)
        try:
            return run.wait()
        except KeyboardInterrupt:
            run.cancel()
            raise

    def start(self, workflow: Workflow | Flow[Any, Any]) -> Run:
        """Start a workflow and return its run at once.

        Raises:
            InvalidWorkflow, NoRoute, NotPicklable: before any step runs.
        """
        run: Any = run_blocking(self._verbs.start(workflow))
        started: Run = run
        return started

    def plan(self, workflow: Workflow | Flow[Any, Any]) -> Any:
        """Return where each step would run now, as a pandas DataFrame.

        Columns: step, function, version, resources, candidates, rejected, chosen.
        """
        return run_blocking(self._verbs.plan(workflow))

    @property
    def own_runs(self) -> tuple[Run, ...]:
        """The last 50 runs started or adopted here, newest first."""
        return self._runs.recent.newest_first

    def on_run(self, listener: OnRun[Run]) -> Callable[[], None]:
        """Call `listener` with each run of `own_runs` that starts or changes.

        It is called on a separate thread and must not block. Returns a function that
        ends the subscription.
        """
        return self._runs.recent.listen(listener)

    def runs(self) -> "pd.DataFrame":
        """Return one row per run that a node coordinates or remembers, newest first.

        Columns: run, workflow, status, steps, done, failed, started_at, duration_s.
        Includes the runs of all clients. Each node remembers its last 100 ended runs.
        """
        return run_blocking(self._verbs.runs())

    def get_run(self, run: str) -> Run:
        """Return a run by its id, by 4 or more first characters of its id, or by the
        name of its workflow, which returns the newest.

        Other clients may have started it: its states, results, prints and drawing are
        fetched, and it is followed until it ends.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        found: Any = run_blocking(self._verbs.get_run(run))
        known: Run = found
        return known

    def _take_up_newest(self) -> None:
        """Add the newest runs of the cluster to `own_runs`; see `adopt`."""
        self._run(self._runs.follow_newest())

    # ------------------------------------------------------------ frames, figures

    def nodes(self) -> "pd.DataFrame":
        """Return one row per node, sorted by name.

        Columns: node, state, resources, functions, workers, slots, busy, queued,
        rtt_ms, cpu_percent, memory_mb, host, python, uptime_s.
        """
        return run_blocking(self._verbs.nodes())

    def functions(self, pattern: str = "*") -> "pd.DataFrame":
        """Return one row per function whose name matches `pattern`, such as "train*".

        Columns: function, version, resources, nodes, calls, errors, p50_ms,
        signature. Calls and errors count those of all clients since each node started.
        """
        return run_blocking(self._verbs.functions(pattern))

    def routes(self) -> "pd.DataFrame":
        """Return one row per function and node that this client called.

        Columns: function, node, calls, errors, share (of the function's calls), p50_ms.
        """
        return run_blocking(self._verbs.routes())

    def calls(self) -> "pd.DataFrame":
        """Return the last 10,000 calls of this client, newest last.

        Includes the steps of its runs.
        Columns: call_id, function, run, step, node, via, status (done, failed,
        cancelled, lost), waited_ms (for a node that fits), queued_ms, run_ms,
        network_ms, serialize_ms, total_ms, sent_bytes, received_bytes, started_at.
        """
        return run_blocking(self._verbs.calls())

    def latency(self, by: "str | tuple[str, ...]" = "function") -> "pd.DataFrame":
        """Return latency percentiles of the calls of this client.

        by: "function", "node", or both as a tuple.
        Columns: those of `by`, count, mean_ms, p50_ms, p95_ms, p99_ms, max_ms; from HDR
        histograms with three digits, over all calls since the client connected.
        """
        return run_blocking(self._verbs.latency(by))

    def events(self) -> "pd.DataFrame":
        """Return the events of the cluster, oldest first.

        Nodes that come, fail or leave are shown as the connected node saw them, all
        else as the nodes noted it that still run.

        Columns: time, node (to which it happened), event, detail.
        """
        return run_blocking(self._verbs.events())

    def versions(self) -> "pd.DataFrame":
        """Return one row for this process and one per live node.

        Columns: node, python, mpreg_nb, cloudpickle, msgspec, numpy, pandas, differs
        (names of the packages whose version is not the one here). For a node that
        cannot be reached from here only python is known.
        """
        return run_blocking(self._verbs.versions())

    def plot_latency(self) -> "matplotlib.figure.Figure":
        """Return a figure: latency percentiles by function, and the parts of a call."""
        return run_blocking(self._verbs.plot_latency())

    def plot_routes(self) -> "matplotlib.figure.Figure":
        """Return a heat map of calls by function and node.

        It shows the calls that `routes()` counts, with a column for each live node.
        """
        return run_blocking(self._verbs.plot_routes())

    def status(self) -> Any:
        """Return the card that `%mpreg` shows: nodes, functions, calls."""
        return run_blocking(self._verbs.status())

    def _warn_of_versions(self) -> None:
        """Warn, with a table, if a node has other versions than this process.

        `up`, `connect` and `adopt` call it. For Python only the minor version counts.
        Nodes that this process started import the installed packages, so they differ
        only in packages that were installed after this process imported them.
        """
        if self._started_here:
            warn_of(dict.fromkeys(self.own_nodes, installed()))
        else:
            warn_of(self._run(node_versions(self._client)))

    # ---------------------------------------------------------------- live views

    @cached_property
    def _views(self) -> "LiveViews":
        from mpreg_nb.cluster.live import LiveViews

        source = WatchedCluster(
            self._client,
            self._runs,
            refresh=self.refresh,
            kill_node=self.kill,
            started_here=self._started_here,
            started=lambda: self.own_nodes,
        )
        return LiveViews(source, self._thread)

    def watch(self, *views: str) -> "LiveView":
        """Return a live panel: members, topology, routes, latency, calls and runs.

        views: show only these. "calls" is the task stream: what each slot of each node
        ran in the last minute, coloured by function. In a notebook the panel updates
        while cells run, until it is closed or the cluster goes down. Elsewhere it shows
        the state at the moment it is printed.

        Raises:
            ValueError: there is no view of such a name.
            NoCluster: this cluster is down.
        """
        if self._down:
            raise ClusterDown
        return self._views.watch(views)

    # ------------------------------------------------------------------------ logs

    def logs(self, node: str | None = None, lines: int = 50) -> NodeLog:
        """Return the last lines of the log of `node`, or of all nodes.

        lines: at most this many per node. Prints of functions are not in the log: they
            appear in the cell that called the function. What a thread of a function
            prints after its call has ended is there.

        Raises:
            MpregError: the log is on another machine, or there is no such node.
        """
        return read_logs(self._log_sources(node), lines)

    def follow_logs(self, node: str | None = None, lines: int = 10) -> Iterator[str]:
        """Iterate over the last lines, then over each new line, as `tail -f` does.

        Ends when the nodes have ended. Raises the errors of `logs`.
        """
        return follow_logs(self._log_sources(node), lines)

    def _log_sources(self, node: str | None) -> list[LogSource]:
        if self._engine is not None and node not in (None, *self.own_nodes):
            raise self._engine.refuse("logs")
        return log_sources(self._client, self._nodes, node)

    # ------------------------------------------------------------- fault injection

    # Each fault ends by itself, also when this process ends before. Its effects show
    # in `nodes()`, `events()` and `watch()`.

    @property
    def _faults(self) -> FaultInjection:
        return FaultInjection(self._client, self._thread, self._nodes, self._engine)

    def kill(self, node: str) -> None:
        """End a node at once, as a crash would.

        Its workers end with it, and its running calls are lost. The other nodes are not
        told: they detect the failure within seconds. `up` starts the node again.

        Raises:
            MpregError: this process did not start a node of that name.
        """
        self._faults.kill(node)

    def pause(self, node: str, seconds: float) -> None:
        """Stop the processes of a node, and let them continue after some seconds.

        The other nodes get no answer from it: they suspect it, then consider it dead.
        When it continues, it is alive again within seconds. Pausing a paused node
        restarts its time.

        seconds: above 0, at most 600.

        Raises:
            MpregError: this process did not start a node of that name, or the node has
                ended.
        """
        self._faults.pause(node, seconds)

    def partition(
        self, a: str | Iterable[str], b: str | Iterable[str], seconds: float
    ) -> None:
        """Cut the network between two groups of nodes for some seconds.

        Nothing sent between the groups arrives, then or later, and no connection
        reports an error. Each group suspects the other, then considers it dead, and
        continues on its own; a node that is alone needs about 10 seconds for that,
        since no other node confirms its suspicion. Calls between the groups are lost.
        This client still reaches both, and shows the view of the node that it is
        connected to. Afterwards the groups join again within seconds.

        a, b: names of nodes; a node in neither group reaches both.
        seconds: above 0, at most 600.

        Raises:
            MpregError: this process did not start a node of that name, or a node does
                not run now.
            ValueError: a group is empty, or a node is in both.
        """
        self._faults.partition(a, b, seconds)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.run(work)


def _in_kernel() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()


DRAIN_S = 1.0
"""How long a node may take to leave; its running calls are not waited for."""


class AdoptedCluster(Cluster):
    """A cluster whose nodes this user's ledger knows.

    `down` ends its nodes, whoever started them; `disconnect`, and the end of this
    process, leave them running.
    """

    def __init__(self, kept: KeptCluster) -> None:
        """Connect to a cluster that was taken up, and take up its newest runs.

        Raises:
            NoCluster: it runs on another machine.
        """
        entry = kept.record
        if not is_here(entry):
            raise NoCluster(
                f"cluster {entry.cluster!r} runs on {entry.host}: adopt it there"
            )
        self._kept = kept
        self._entry = entry
        self._ended: tuple[str, ...] = ()
        urls = [node.url for node in entry.nodes]
        super().__init__(urls, load_token(), ca=entry.ca)
        try:
            self._take_up_newest()
        except BaseException:
            self.disconnect()
            raise

    @property
    def name(self) -> str:
        """The name by which `ps`, `adopt` and `down` know it."""
        return self._entry.cluster

    @property
    def ended_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that `down` has ended."""
        return self._ended

    def down(self) -> None:
        """End its nodes and all that they run, and disconnect; may be repeated."""
        if self._is_over:
            return
        self.disconnect()
        known = {entry.cluster for entry in ClusterFiles().entries()}
        if self._entry.cluster in known or "/" in self._entry.cluster:
            self._ended = end(self._entry.cluster, load_token(), drain_s=DRAIN_S)

    def disconnect(self) -> None:
        """Disconnect and leave its nodes running."""
        if self._is_over:
            return
        super().down()
        self._kept.close()
