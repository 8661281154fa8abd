"""What the notebook holds: nodes, functions, calls and workflows of one cluster."""

import atexit
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar, overload
from weakref import WeakSet

from mpreg_nb.client.client import Client
from mpreg_nb.client.future import Future
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.options import CallOptions
from mpreg_nb.client.output import write_at_once
from mpreg_nb.cluster import current, joblib_backend
from mpreg_nb.cluster.calling import Callee, Calling
from mpreg_nb.cluster.drills import Drills
from mpreg_nb.cluster.executor import ClusterExecutor
from mpreg_nb.cluster.functions import Function, View, call_options
from mpreg_nb.cluster.history import History
from mpreg_nb.cluster.logs import Logs
from mpreg_nb.cluster.names import Names
from mpreg_nb.cluster.nodes import LocalNodes
from mpreg_nb.cluster.notice import tell_stale
from mpreg_nb.cluster.opening import STATES, open_client, seen
from mpreg_nb.cluster.own_runs import OwnRuns
from mpreg_nb.cluster.run import Run
from mpreg_nb.cluster.shipping import Shipping
from mpreg_nb.cluster.shown import Shown
from mpreg_nb.cluster.spec import Wanted, difference, read_spec
from mpreg_nb.cluster.versions import Compared
from mpreg_nb.cluster.watching import Watching
from mpreg_nb.cluster.workflows import Planner
from mpreg_nb.errors import ClusterDown, MpregError
from mpreg_nb.transport.token import Token
from mpreg_nb.view.plain import in_ipython_terminal
from mpreg_nb.view.units import count
from mpreg_nb.wire.boundary import public
from mpreg_nb.workflow.builder import Flow
from mpreg_nb.workflow.diagram import Diagram
from mpreg_nb.workflow.graph import Workflow

P = ParamSpec("P")
R = TypeVar("R")

SEEN_TIMEOUT_S = 10.0
"""How long `up` waits until the client sees all nodes alive."""


@public
class Cluster(Shown, History, Logs, Watching, Drills, Compared):
    """A cluster of nodes: start and end nodes, call functions, run workflows.

    `up`, `connect` and `adopt` make one. Its methods block, except `submit` and
    `start`, and any thread may call them. After `down` they raise ClusterDown.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: Token,
        *,
        nodes: LocalNodes | None = None,
        direct: bool = True,
    ) -> None:
        """Connect to the first of `urls` that answers.

        Raises:
            NotTrusted: the token is not the cluster's.
            NodeLost: nobody listens there.
        """
        self._nodes = nodes
        self._thread = LoopThread()
        self._down = False
        try:
            self.client: Client = self._thread.run(open_client(urls, token, direct))
        except BaseException:
            self._thread.stop()
            raise
        shipping = Shipping(self.client, lambda: self)
        self._needs = shipping.needs
        self.calling = Calling(self.client, self._thread, shipping)
        self._runs = OwnRuns()
        self._planner = Planner(
            self.client, lambda: self.client.calls.router, self.calling.registered
        )
        self.fn = Names(self)
        """Functions of the catalog by name, with tab completion: `cluster.fn.train`."""
        self._executors: WeakSet[ClusterExecutor] = WeakSet()
        atexit.register(self.end_with_process)
        current.enter(self)
        joblib_backend.register()

    def __reduce__(self) -> tuple[Any, ...]:
        # A function that names it uses the cluster that it runs in.
        return current.CurrentCluster, ()

    # -------------------------------------------------------------------- nodes

    @property
    def name(self) -> str:
        """The name of the cluster for `ps`, `adopt` and `down`; "" if connected to."""
        return self._nodes.name if self._nodes is not None else ""

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the live nodes, sorted by the names of the nodes."""
        return tuple(
            picture.record.urls[0]
            for picture in self.client.mirror.nodes
            if picture.record.state.name == "ALIVE" and picture.record.urls
        )

    @property
    def started_here(self) -> bool:
        """Whether this process started its nodes."""
        return self._nodes is not None

    @property
    def own_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that this process started."""
        if self._nodes is None:
            return ()
        return tuple(spec.name for spec in self._nodes.specs)

    def grow(self, wanted: Wanted, timeout: float = 20.0) -> bool:
        """Start the nodes of `wanted` that do not run; False if all of them run.

        Raises:
            StartFailed: a node did not start; nodes started before it continue to run.
        """
        nodes = self._own_nodes("start nodes", "mpreg-nb node --name NAME --join URL")
        specs = read_spec(wanted)
        with nodes.changing:
            nodes.end_silent()
            change = difference(specs, nodes.specs, dead=nodes.dead)
            if change.nothing:
                return False
            nodes.stop([spec.name for spec in change.restart])
            started = (*change.restart, *change.start)
            nodes.start(started, timeout)
            urls = {spec.name: nodes.urls[spec.name] for spec in started}
        self._thread.run(self._take_in(urls))
        return True

    async def _take_in(self, urls: dict[str, str]) -> None:
        """Return when the client sees the nodes at `urls`, and functions are back."""
        self.client.reach_also(tuple(urls.values()))
        states = dict.fromkeys(urls, "alive")
        await seen(self.client, states, SEEN_TIMEOUT_S, urls=urls)
        await self.client.registrations.restore(without=frozenset(urls))

    def add(
        self, name: str, resources: str | Iterable[str] = (), *, timeout: float = 20.0
    ) -> None:
        """Start one more node on this machine; it receives the functions that fit it.

        resources: names of resources that the node holds.
        timeout: seconds in which the node must be ready.

        Raises:
            StartFailed: the node did not start; its last log lines are in the message.
            MpregError: this cluster was only connected to.
        """
        held = {resources} if isinstance(resources, str) else set(resources)
        self.grow({name: held}, timeout)

    def remove(self, *names: str) -> None:
        """End nodes that this process started; each finishes its running calls first.

        Raises:
            MpregError: this process did not start a node of that name.
        """
        nodes = self._own_nodes(
            "end nodes", "mpreg-nb down CLUSTER, or end its process"
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
        known = {node.record.name for node in self.client.mirror.nodes}
        for word in names:
            if word in STATES and word not in known:
                node = next((name for name in names if name not in STATES), "NODE")
                raise ValueError(
                    f"no node is named {word!r}. To wait for that state: "
                    f"cluster.wait_for({node!r}, state={word!r})"
                )
        self._thread.run(seen(self.client, dict.fromkeys(names, state), timeout))

    def down(self) -> None:
        """End the nodes that this process started, and disconnect. May be repeated.

        Nodes that this process only connected to continue to run.
        """
        if self._down or self._thread.is_of_parent:
            return  # a forked child leaves the nodes of its parent alone
        with ExitStack() as each:  # all of it, also when Stop comes in between
            if self._nodes is not None:
                each.callback(self._nodes.close)
            each.callback(self._thread.stop)
            each.callback(lambda: self._thread.run(self.client.close()))
            if self._nodes is not None:
                each.callback(self._nodes.go_on)  # else its links end out of order
            self.end_views()
            self._down = True
            current.leave(self)
            atexit.unregister(self.end_with_process)

    def end_with_process(self) -> None:
        """Disconnect when this process ends; called automatically.

        A script waits for the calls of its executors, as it does with Python's own.
        Other calls that still run are cancelled, with a line that lists them.
        """
        try:
            if not _in_kernel():  # Jupyter kills a kernel that does not end at once
                for executor in tuple(self._executors):
                    executor.shutdown()
                self._say_what_ends()
        finally:
            goodbye = self._goodbye() if in_ipython_terminal() else ""
            self.disconnect()
            sys.stdout.write(goodbye)

    def _goodbye(self) -> str:
        """Return the line that tells what becomes of the nodes when IPython ends."""
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

    def _say_what_ends(self) -> None:
        calls = self._thread.run(self._under_way())
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

    async def _under_way(self) -> tuple[str, ...]:
        return self.client.calls.functions  # on the loop: after what was just sent

    def disconnect(self) -> None:
        """Disconnect; nodes of a kept cluster continue to run, others end."""
        if self._nodes is not None and not self._nodes.keep:
            self.down()
            return
        self._nodes = None
        self.down()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    def _own_nodes(self, what: str, elsewhere: str) -> LocalNodes:
        if self._down:
            raise ClusterDown
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

    def function(  # type: ignore[misc]  # the overloads say which options
        self, function: Any = None, /, **options: Any
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
            made: Function[P, R] = self.register(local, **options)
            tell_stale(made)
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

        Returns the function object; its repr is the card of the registration. Every
        call after this one runs this version or a newer one, on any node.

        Raises:
            NotPicklable: the function captures an object that cannot be pickled; the
                message names its path.
        """
        if not isinstance(function, Function):
            function = Function(
                function,
                name=name,
                resources=resources,
                idempotent=idempotent,
                isolation=isolation,
                cluster=lambda: self,
            )
        made: Function[Any, Any] = function
        self.calling.ship(made)
        return made

    # -------------------------------------------------------------------- calls

    def call(self, function: Callee, /, *args: Any, **kwargs: Any) -> Any:
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
        return self.calling.call(function, args, kwargs, CallOptions())

    def submit(self, function: Callee, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call of `function` and return its future at once.

        The future is a `concurrent.futures.Future` that can also be awaited. Its
        `result` raises the errors that `call` raises.
        """
        return self.calling.submit(function, args, kwargs, CallOptions())

    def map(self, function: Callee, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` once for each item and return the results in order.

        Takes several iterables as the builtin `map` does. The first error cancels the
        remaining calls and is raised. Raises the same errors as `call`.
        """
        return self.calling.map(function, iterables, CallOptions())

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
        from mpreg_nb.view.drawing import Drawing

        return Flow(name, self, draw=Drawing, needs=self._needs)

    def run(self, workflow: Workflow) -> Run:
        """Execute a workflow and wait for its end; interrupting (Stop) cancels it."""
        run = self.start(workflow)
        try:
            return run.wait()
        except KeyboardInterrupt:
            run.cancel()
            raise

    def start(self, workflow: Workflow) -> Run:
        """Start a workflow and return its run at once.

        Raises:
            InvalidWorkflow, NoRoute, NotPicklable: before any step runs.
        """
        request, parts = self._planner.request(workflow)
        diagram = Diagram.of(
            workflow.name, workflow.steps, workflow.inputs, self._needs
        )
        return self.launch(diagram, request, parts)

    def plan(self, workflow: Workflow) -> Any:
        """Return where each step would run now, as a pandas DataFrame.

        Columns: step, function, version, resources, candidates, rejected, chosen.
        """
        from mpreg_nb.view.plan import plan_frame

        self.refresh()
        return plan_frame(self._planner.rows(workflow))


def _in_kernel() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing for that."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()
