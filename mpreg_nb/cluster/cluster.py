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
    """Some nodes, and everything that can be asked of them. Blocking; thread-safe.

    Made by `up`, `connect` and `adopt`. Frames and figures are in `Shown`.
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
        """The name by which `ps`, `adopt` and `down` know it; "" if not ours."""
        return self._nodes.name if self._nodes is not None else ""

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs of the nodes that are alive, sorted by node name."""
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
        """Start what of `wanted` does not run yet; False if there was nothing to do.

        Raises:
            StartFailed: a node did not come up; those before it stay.
        """
        nodes = self._own_nodes("start nodes")
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
        """Start one more node on this machine; it joins and gets its functions."""
        held = {resources} if isinstance(resources, str) else set(resources)
        self.grow({name: held}, timeout)

    def remove(self, *names: str) -> None:
        """End nodes that this process started, each after what it runs."""
        nodes = self._own_nodes("end nodes")
        known = {spec.name for spec in nodes.specs}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise MpregError(
                f"this process started no node named {unknown[0]!r}; it started: "
                f"{', '.join(sorted(known))}"
            )
        with nodes.changing:
            nodes.stop(names)
        self.refresh()

    def wait_for(
        self, *names: str, state: str = "alive", timeout: float = SEEN_TIMEOUT_S
    ) -> None:
        """Return when the client sees all of these nodes alive, suspect, dead or left.

        Raises:
            ValueError: there is no such state, or one was given as a name.
            TimeoutError: one of them is not so after `timeout` seconds.
        """
        known = {node.record.name for node in self.client.mirror.nodes}
        for word in names[1:]:
            if word in STATES and word not in known:
                raise ValueError(
                    f"no node is named {word!r}. To wait for that state: "
                    f"cluster.wait_for({names[0]!r}, state={word!r})"
                )
        self._thread.run(seen(self.client, dict.fromkeys(names, state), timeout))

    def down(self) -> None:
        """End the nodes that this process started and disconnect; may be repeated.

        Nodes that were only connected to are left alone.
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
        """Disconnect when this process ends; happens by itself.

        A script waits for what its executors took, as with those of Python. Of other
        calls that are still under way it says that they end.
        """
        try:
            if not _in_kernel():  # Jupyter kills a kernel that does not end at once
                for executor in tuple(self._executors):
                    executor.shutdown()
                self._say_what_ends()
        finally:
            self.disconnect()

    def _say_what_ends(self) -> None:
        calls = self._thread.run(self._under_way())
        if calls:
            names = ", ".join(sorted(set(calls)))
            what = "a call was" if len(calls) == 1 else f"{len(calls)} calls were"
            sys.stderr.write(
                f"mpreg_nb: the program ended while {what} under way ({names}), "
                "which ends with it. Wait for results before: future.result()\n"
            )

    async def _under_way(self) -> tuple[str, ...]:
        return self.client.calls.functions  # on the loop: after what was just sent

    def disconnect(self) -> None:
        """Disconnect, and leave own nodes running if the cluster is kept."""
        if self._nodes is not None and not self._nodes.keep:
            self.down()
            return
        self._nodes = None
        self.down()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self.down()

    def _own_nodes(self, what: str) -> LocalNodes:
        if self._down:
            raise ClusterDown
        if self._nodes is None:
            raise MpregError(
                f"this cluster was only connected to, so it cannot {what}. On the "
                "machine in question: mpreg-nb node --name NAME --join URL"
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

        resources: it runs on nodes that hold all of these.
        idempotent: running it twice does no harm, so it is tried again when a node
            is lost under it.
        isolation: "process" (a worker process), or "thread" (of the node itself,
            for small trusted functions; it cannot be killed).
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

        Returns the function object; its repr is the card of the registration. Every
        call after this runs this version or a newer one.

        Raises:
            NotPicklable: it captures what cannot travel; the path is named.
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
        """Run `function` (a name or a function), wait, return what it returned.

        A function runs as it is now, with its helpers and what they read. Of data
        above 64 kB that it captures, a change in place is not seen: assign the name
        anew, or register the function again.

        Raises what it raised, as a RemoteError that is also of that class; NoRoute,
        NodeLost and the others of `mpreg_nb.errors`. Stop cancels it.
        """
        return self.calling.call(function, args, kwargs, CallOptions())

    def submit(self, function: Callee, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `function`; return a future at once. It can also be awaited."""
        return self.calling.submit(function, args, kwargs, CallOptions())

    def map(self, function: Callee, /, *iterables: Iterable[Any]) -> list[Any]:
        """Run `function` for each item, return the results in order.

        The first error ends it and is raised; what is under way is cancelled.
        """
        return self.calling.map(function, iterables, CallOptions())

    def on(
        self,
        *resources: str,
        node: str | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> View:
        """Narrow where and for how long calls may run: `on("gpu").call("train")`.

        timeout: seconds from now to the result, queueing included.
        wait: seconds that a call may wait for a node that fits.
        """
        return View(self, call_options(resources, node, timeout, wait))

    def executor(
        self,
        *resources: str,
        node: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> ClusterExecutor:
        """Return a `concurrent.futures.Executor` over nodes that fit, as `on` does.

        initializer: called with `initargs` in each worker, before the first of its
            calls there. A script that ends waits for what its executors took.
        """
        options = call_options(resources, node, None, None)
        executor = ClusterExecutor(self, options, initializer, initargs)
        self._executors.add(executor)
        return executor

    # ---------------------------------------------------------------- workflows

    def workflow(self, name: str) -> "Flow[Run, Any]":
        """Begin a workflow: `flow.step(...)`, then `flow.run()`."""
        from mpreg_nb.view.drawing import Drawing

        return Flow(name, self, draw=Drawing)

    def run(self, workflow: Workflow) -> Run:
        """Execute a workflow and wait for its end. Stop cancels it."""
        run = self.start(workflow)
        try:
            return run.wait()
        except KeyboardInterrupt:
            run.cancel()
            raise

    def start(self, workflow: Workflow) -> Run:
        """Begin to execute a workflow and return the run at once.

        Raises:
            InvalidWorkflow, NoRoute, NotPicklable: before anything runs.
        """
        request, parts = self._planner.request(workflow)
        diagram = Diagram.of(workflow.name, workflow.steps, workflow.inputs)
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
