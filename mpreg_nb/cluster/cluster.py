"""`Cluster`: nodes, functions, calls, workflows, frames and views of one cluster.

`Cluster` blocks; `cluster.async_cluster` has the same verbs as coroutines. Logs are
files of the machine that their node runs on, so they can be read for the nodes that
this user started here, by this process or an earlier one.
"""

import asyncio
import atexit
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, overload
from weakref import WeakSet

from mpreg_nb.boundary import public
from mpreg_nb.call_context import blocked_on_cluster
from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.client.calls import ActiveCall, CallOptions, Outcome
from mpreg_nb.client.client import Client
from mpreg_nb.client.future import Future, Over
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.outcome import Arrived
from mpreg_nb.client.output import current_writer, limit_lines, write_at_once
from mpreg_nb.client.runs import RunRecord
from mpreg_nb.client.statistics import CallRow
from mpreg_nb.cluster import current, joblib_backend
from mpreg_nb.cluster.call_progress import CallProgress, MapCount, MapProgress
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.executor import ClusterExecutor
from mpreg_nb.cluster.function import Function, FunctionNamespace, View, call_options
from mpreg_nb.cluster.planner import Planner, planned_diagram
from mpreg_nb.cluster.progress import ProgressReporter
from mpreg_nb.cluster.registration import (
    FunctionRegistry,
    narrowed,
    unwrapped,
    warn_stale_results,
)
from mpreg_nb.cluster.run import OnRun, RecentRuns, Run
from mpreg_nb.cluster.versions import Compared
from mpreg_nb.cures import cure
from mpreg_nb.errors import ClusterDown, MpregError, NoCluster, NoRun
from mpreg_nb.launcher.cluster_files import ClusterFiles, ClusterRecord, is_here
from mpreg_nb.launcher.fault_injection import LONGEST_S
from mpreg_nb.launcher.local_nodes import LocalNodes, Wanted, difference, read_spec
from mpreg_nb.launcher.pid import ProcessId, is_alive
from mpreg_nb.launcher.process import LogFile
from mpreg_nb.names import check_name, nearest
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.messages import (
    FunctionSnapshot,
    Partition,
    RunStart,
    RunSummary,
    Snapshot,
    summary_of,
)
from mpreg_nb.transport.token import Token, load_token
from mpreg_nb.units import count
from mpreg_nb.view.plain_mode import in_ipython_terminal
from mpreg_nb.workflows.builder import Flow
from mpreg_nb.workflows.graph import Diagram, Workflow

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

    from mpreg_nb.cluster.live import LiveView, ViewModels


Callee: TypeAlias = "Function[Any, Any] | Callable[..., Any] | str"

WINDOW = 512
"""Calls of one `map` that are under way at once; more would only wait in queues."""

BATCH = 64
"""Calls that `map` hands over to the loop in one go."""


class Calling:
    """Calls of one cluster. Arguments are pickled in the thread of the caller."""

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        shipping: FunctionRegistry,
    ) -> None:
        self._client = client
        self._thread = thread
        self._shipping = shipping
        limit_lines(lambda: CONFIG.output_lines)

    def call(
        self,
        function: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Any:
        """Run it, wait, and return what it returned. Stop cancels it."""
        future, active = self._prepare(function, args, kwargs, options)
        try:
            self._thread.call_soon(self._client.calls.start, active)
            return future.result()
        except KeyboardInterrupt:
            future.cancel()  # wherever Stop came
            raise

    def submit(
        self,
        function: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> Future[Any]:
        """Send it and return a future at once.

        Raises:
            NotPicklable, PayloadTooLarge: before anything is sent.
        """
        future, active = self._prepare(function, args, kwargs, options)
        self._thread.call_soon(self._client.calls.start, active)
        return future

    @property
    def after_s(self) -> float | None:
        """From when on a future shows how far it is; None: never."""
        after_s = CONFIG.progress_after_s
        return None if after_s == math.inf else after_s

    def open_space(self, node: str) -> bytes:
        """Start a worker on `node` for calls that keep something; return its id.

        Raises:
            NodeLost: the node cannot be reached, or is leaving.
        """
        return self._thread.run(self._client.open_space(node))

    def close_space(self, node: str, space: bytes) -> None:
        """End such a worker with all that it keeps.

        Raises:
            NodeLost: the node cannot be reached.
        """
        self._thread.run(self._client.close_space(node, space))

    def check(self) -> None:
        """Raise ForkedProcess where nothing would ever come."""
        self._thread.check()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that makes the calls."""
        return self._thread.is_of_parent

    def wait_for_callbacks(self, owner: object) -> None:
        """Wait for all callbacks of those futures of `owner` that have ended."""
        try:
            # A future has ended a moment before its callbacks are handed over.
            self._thread.run(asyncio.sleep(0))
        except ClusterDown:  # then all have been
            pass
        CALLBACKS.wait_for(owner)

    def withdraw(self, futures: Iterable[Future[Any]]) -> None:
        """End those calls that no node runs yet; the others go on."""
        ids = [bytes.fromhex(future.call_id) for future in futures]
        self._thread.call_soon(self._client.calls.withdraw, ids)

    def wait(self, call: ActiveCall, over: Over, timeout: float | None) -> bool:
        """Wait for a call that takes long, and show where it is."""
        with ProgressReporter(
            CallProgress(self._client, call), after_s=0.0
        ) as patience:
            return patience.wait(over, timeout)

    def _prepare(
        self,
        function: Callee,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
    ) -> tuple[Future[Any], ActiveCall]:
        function, args, given = unwrapped(function, args, kwargs)
        name, options = self._callee(function, options)
        client = self._client

        def done(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
            client.deliver(future, call, outcome, parts)

        def cancel() -> None:
            self._thread.call_soon(client.calls.cancel, active.id)

        active = client.prepare(name, args, given, options, done)
        future: Future[Any] = Future(cancel, self, active)
        return future, active

    def map(
        self,
        function: Callee,
        iterables: tuple[Iterable[Any], ...],
        options: CallOptions,
    ) -> list[Any]:
        """Run it for each tuple of items; return the results in order.

        As `map` of Python, it ends with the shortest iterable. The first error ends
        it: calls that are under way are cancelled. So does Stop.
        """
        if not iterables:
            raise TypeError("map needs at least one iterable: f.map(items)")
        function, first, kwargs = unwrapped(function, (), {})
        name, options = self._callee(function, options)
        sized = [len(items) for items in iterables if isinstance(items, Sized)]
        given = first, dict(kwargs)
        return _MapCall(self._client, self._thread, name, options, given).run(
            zip(*iterables, strict=False),  # as map of Python
            total=min(sized) if len(sized) == len(iterables) else None,
        )

    def _callee(
        self, function: Callee, options: CallOptions
    ) -> tuple[str, CallOptions]:
        if isinstance(function, str):
            return check_name("function", function), options
        name, known = self.registered(function)
        return name, narrowed(options, known)

    def registered(self, function: Any) -> tuple[str, CallOptions]:
        """Return name and version of what `function` is now; register it if needed.

        Raises:
            NotPicklable: it captures what cannot travel.
        """
        return self._shipping.registered(function) or self.ship(
            self._shipping.function(function), stands_for=function
        )

    def ship(
        self, function: "Function[Any, Any]", *, stands_for: Any = None
    ) -> tuple[str, CallOptions]:
        """Register the code that `function` holds now; see `FunctionRegistry.send`."""
        shipped = self._shipping.pack(function)  # in the thread of the caller
        sending = self._shipping.send(function, shipped, stands_for=stands_for)
        return self._thread.run(sending)


_PENDING: Any = None
"""In the place of a result that has not come."""


class _MapCall:
    """One `map`: results by place, a window of calls under way."""

    def __init__(
        self,
        client: Client,
        thread: LoopThread,
        name: str,
        options: CallOptions,
        given: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        self._first, self._kwargs = given  # arguments that all calls have
        self._client = client
        self._thread = thread
        self._name = name
        self._options = options
        self._results: list[Arrived] = []
        self._active: dict[bytes, tuple[int, ActiveCall]] = {}  # place in the results
        self._first_error: Arrived | None = None
        self._changed = threading.Condition()
        self._sent = 0
        self._ended = 0
        self._failed = 0

    def run(self, items: Iterable[tuple[Any, ...]], total: int | None) -> list[Any]:
        """total: how many items there are, None where they do not say."""
        watched = MapProgress(self._name, lambda: self._count(total))
        try:
            with ProgressReporter(watched) as patience:
                self._send_all(items, patience)
        except BaseException:
            self._thread.call_soon(self._cancel)
            raise
        return list(map(_value, self._results))

    def _send_all(
        self, items: Iterable[tuple[Any, ...]], patience: ProgressReporter
    ) -> None:
        batch: list[ActiveCall] = []
        for args in items:
            batch.append(self._prepare(args))
            if len(batch) >= BATCH:
                self._send(batch)
                batch = []
                self._wait(WINDOW, patience)
        self._send(batch)
        self._wait(0, patience)

    def _count(self, total: int | None) -> MapCount:
        active = [call for _, call in list(self._active.values())]
        return MapCount(
            ended=self._ended, failed=self._failed, total=total, active=active
        )

    def _prepare(self, args: tuple[Any, ...]) -> ActiveCall:
        call = self._client.prepare(
            self._name,
            (*self._first, *args),
            self._kwargs,
            self._options,
            self._done,
        )
        self._active[call.id] = len(self._results), call
        self._results.append(_PENDING)
        return call

    def _send(self, batch: list[ActiveCall]) -> None:
        self._sent += len(batch)
        self._thread.call_soon(self._start, batch)

    def _start(self, batch: list[ActiveCall]) -> None:
        for call in batch:
            self._client.calls.start(call)

    def _wait(self, most: int, patience: ProgressReporter) -> None:
        """Return when at most `most` calls are under way; raise the first error."""

        def is_over() -> bool:
            return self._first_error is not None or self._sent - self._ended <= most

        def over(seconds: float | None) -> bool:
            with self._changed:
                return self._changed.wait_for(is_over, seconds)

        with blocked_on_cluster():
            patience.wait(over)
        if self._first_error is not None:
            _value(self._first_error)

    def _done(
        self, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
    ) -> None:
        place, _ = self._active.pop(call.id)
        arrived = self._client.arrive(call, outcome, parts)
        self._results[place] = arrived
        self._ended += 1
        self._failed += arrived.failed
        first_error = arrived.failed and self._first_error is None
        if first_error:
            self._first_error = arrived
        left = self._sent - self._ended
        if first_error or left == 0 or left == WINDOW - BATCH:
            with self._changed:
                self._changed.notify_all()

    def _cancel(self) -> None:
        for call_id in list(self._active):
            self._client.calls.cancel(call_id)


def _value(arrived: Arrived) -> Any:
    """Return the value of one item, or raise its error."""
    value, error = arrived.rebuild()
    if error is not None:
        try:
            raise error
        finally:
            del error, arrived  # else the traceback would hold itself
    return value


@public
class ClusterFrames:
    """The frames of a cluster. Each is a picture of the moment it is asked for."""

    client: Client
    _thread: LoopThread
    _down: bool

    def refresh(self) -> Snapshot:
        """Ask the connected node for the current state of the cluster."""
        return self._thread.run(self.client.snapshot())

    def nodes(self) -> "pd.DataFrame":
        """Return one row per node, sorted by name.

        Columns: node, state, resources, functions, workers, slots, busy, queued,
        rtt_ms, cpu_percent, memory_mb, host, python, uptime_s.
        """
        from mpreg_nb.view.frames import nodes_frame

        return nodes_frame(self.refresh())

    def functions(self, pattern: str = "*") -> "pd.DataFrame":
        """Return one row per function whose name matches `pattern`, such as "train*".

        Columns: function, version, resources, nodes, calls, errors, p50_ms,
        signature. Calls and errors count those of all clients since each node started.
        """
        from mpreg_nb.view.frames import functions_frame

        snapshot = self.refresh()
        return functions_frame(snapshot, self._counted(), pattern)

    def routes(self) -> "pd.DataFrame":
        """Return one row per function and node that this client called.

        Columns: function, node, calls, errors, share (of the function's calls), p50_ms.
        """
        from mpreg_nb.view.frames import routes_frame

        return routes_frame(self.call_rows())

    def calls(self) -> "pd.DataFrame":
        """Return the last 10,000 calls of this client, newest last.

        Includes the steps of its runs.
        Columns: call_id, function, run, step, node, via, status (done, failed,
        cancelled, lost), waited_ms (for a node that fits), queued_ms, run_ms,
        network_ms, serialize_ms, total_ms, sent_bytes, received_bytes, started_at.
        """
        from mpreg_nb.view.frames import calls_frame

        return calls_frame(self.call_rows())

    def latency(self, by: "str | tuple[str, ...]" = "function") -> "pd.DataFrame":
        """Return latency percentiles of the calls of this client.

        by: "function", "node", or both as a tuple.
        Columns: those of `by`, count, mean_ms, p50_ms, p95_ms, p99_ms, max_ms; from HDR
        histograms with three digits, over all calls since the client connected.
        """
        from mpreg_nb.view.frames import latency_frame

        keys = (by,) if isinstance(by, str) else tuple(by)
        return latency_frame(self.client.journal.histograms(), keys)

    def events(self) -> "pd.DataFrame":
        """Return the events of the cluster, oldest first.

        Nodes that come, fail or leave are shown as the connected node saw them, all
        else as the nodes noted it that still run.

        Columns: time, node (to which it happened), event, detail.
        """
        from mpreg_nb.view.frames import events_frame

        return events_frame(self.refresh(), self._snapshots())

    def plot_latency(self) -> "matplotlib.figure.Figure":
        """Return a figure: latency percentiles by function, and the parts of a call."""
        from mpreg_nb.view.figures import latency_figure

        return latency_figure(self.client.journal.histograms(), self.call_rows())

    def plot_routes(self) -> "matplotlib.figure.Figure":
        """Return a heat map of calls by function and node.

        It shows the calls that `routes()` counts, with a column for each live node.
        """
        from mpreg_nb.view.figures import routes_figure

        nodes = [
            picture.record.name
            for picture in self.refresh().nodes
            if picture.record.state.name == "ALIVE"
        ]
        return routes_figure(self.call_rows(), nodes)

    def status(self) -> Any:
        """Return the card that `%mpreg` shows: nodes, functions, calls."""
        from mpreg_nb.view.html import StatusCard

        return StatusCard(self.refresh(), self.client.journal.count)

    def call_rows(self) -> tuple[CallRow, ...]:
        """Return the measurements of each of the last calls, oldest first."""
        return self.client.journal.rows()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import chosen

        if self._down:
            return chosen({"text/plain": repr(self)}, include, exclude)
        return self.status()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        if self._down:
            return "<Cluster, down>"
        nodes = self.client.mirror.nodes
        alive = sum(node.record.state.name == "ALIVE" for node in nodes)
        return f"<Cluster {alive} of {len(nodes)} nodes alive>"

    def _counted(self) -> tuple[FunctionSnapshot, ...]:
        """Return what all nodes that can be reached counted of their functions."""
        return tuple(
            picture for snapshot in self._snapshots() for picture in snapshot.functions
        )

    def _snapshots(self) -> tuple[Snapshot, ...]:
        """Return what each node that can be reached knows now."""

        async def gather() -> list[Snapshot | None]:
            nodes = [picture.record.name for picture in self.client.mirror.nodes]
            asked = (self.client.snapshot_of(node) for node in nodes)
            return await asyncio.gather(*asked)

        answers = self._thread.run(gather())
        return tuple(snapshot for snapshot in answers if snapshot is not None)


@public
class Watching:
    """The live views of a cluster."""

    _thread: LoopThread
    _down: bool

    @cached_property
    def live_pictures(self) -> "ViewModels":
        """What all its views show, made once for all."""
        from mpreg_nb.cluster.live import ViewModels

        return ViewModels(self, self._thread)  # type: ignore[arg-type]

    @cached_property
    def _views(self) -> "weakref.WeakSet[LiveView]":
        return weakref.WeakSet()

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
        from mpreg_nb.cluster.live import LiveView
        from mpreg_nb.view.live.panel import chosen_views

        if self._down:
            raise ClusterDown
        view = LiveView(self, chosen_views(views))  # type: ignore[arg-type]
        self._views.add(view)
        return view

    @property
    def live_views(self) -> "tuple[LiveView, ...]":
        """The views of this cluster that are still in use."""
        return tuple(self._views)

    def end_views(self) -> None:
        """End all views of this cluster; they keep showing the last state."""
        for view in self.live_views:
            view.close()


async def open_client(urls: Sequence[str], token: Token, direct: bool) -> Client:
    """Return a client that is connected, or leave nothing open."""
    client = Client(urls, token, direct=direct)
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    return client


STATES = ("alive", "suspect", "dead", "left")


async def wait_for_states(
    client: Client,
    wanted: dict[str, str],
    timeout_s: float,
    *,
    urls: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Return when the client sees every node of `wanted` in its state.

    urls: where some of them are. What the client knows of a node of the same name
        that ran elsewhere before does not count.

    Raises:
        ValueError: there is no such state.
        TimeoutError: it is not so after `timeout_s`; says how it is.
    """
    for state in wanted.values():
        if state not in STATES:
            raise ValueError(
                f"a state is {', '.join(STATES[:-1])} or {STATES[-1]}, not {state!r}"
            )
    reached = asyncio.Event()
    states: dict[str, str] = {}

    def look(snapshot: Snapshot) -> None:
        states.clear()
        for picture in snapshot.nodes:
            record = picture.record
            if urls.get(record.name, "") in ("", *record.urls):
                states[record.name] = record.state.name.lower()
        if all(states.get(node) == state for node, state in wanted.items()):
            reached.set()

    stop = client.on_snapshot(look)
    # The entry may be just the node that does not answer: what others tell counts too.
    asked = asyncio.ensure_future(client.snapshot())
    waiting = asyncio.ensure_future(reached.wait())
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait({asked, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            await waiting
    except TimeoutError:
        raise TimeoutError(
            "; ".join(
                f"{node} is {states.get(node, 'unknown')}, not {state}"
                for node, state in wanted.items()
                if states.get(node) != state
            )
            + f" (after {timeout_s:g} s). See cluster.events()"
        ) from None
    finally:
        stop()
        asked.cancel()
        waiting.cancel()


LOOK_S = 0.2
"""Between two looks whether a log that is followed has grown."""


@dataclass(frozen=True, slots=True, repr=False)
class NodeLog:
    """Lines that nodes wrote; shows itself as text."""

    nodes: tuple[str, ...]
    lines: tuple[str, ...]  # after the node's name where there are several nodes

    def __repr__(self) -> str:
        if self.lines:
            return "\n".join(self.lines)
        return f"no log lines from {', '.join(self.nodes)}"


@dataclass(frozen=True, slots=True)
class _Source:
    node: str
    file: LogFile
    process: ProcessId
    kept: Callable[[int], tuple[str, ...]]  # the last lines, where the file is gone

    def last(self, lines: int) -> tuple[str, ...]:
        try:
            return self.file.last(lines)
        except OSError:
            return self.kept(lines)

    def more(self) -> tuple[str, ...]:
        try:
            return self.file.more()
        except OSError:  # the folder went with the cluster
            return ()


@public
class Logs:
    """The logs of a cluster."""

    client: Client
    _nodes: "LocalNodes | None"

    def logs(self, node: str | None = None, lines: int = 50) -> NodeLog:
        """Return the last lines of the log of `node`, or of all nodes.

        lines: at most this many per node. Prints of functions are not in the log: they
            appear in the cell that called the function.

        Raises:
            MpregError: the log is on another machine, or there is no such node.
        """
        sources = self._sources(node)
        _check_lines(lines)
        found = tuple(
            _prefixed(source.node, line, sources)
            for source in sources
            for line in source.last(lines)
        )
        return NodeLog(tuple(source.node for source in sources), found)

    def follow_logs(self, node: str | None = None, lines: int = 10) -> Iterator[str]:
        """Iterate over the last lines, then over each new line, as `tail -f` does.

        Ends when the nodes have ended. Raises the errors of `logs`.
        """
        sources = self._sources(node)
        _check_lines(lines)
        return _follow(sources, lines)

    def _sources(self, node: str | None) -> list[_Source]:
        found = {source.node: source for source in self._all_sources()}
        if node is not None and node in found:
            return [found[node]]
        known = {picture.record.name for picture in self.client.mirror.nodes}
        if node is not None and node not in known:
            meant = nearest(node, {*known, *found})
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise MpregError(f"the cluster has no node {node!r}.{hint}")
        if found and node is None:
            return [found[name] for name in sorted(found)]
        whose = f"node {node!r} was" if node is not None else "its nodes were"
        raise MpregError(
            f"{whose} started by another program or on another machine, where its "
            "log is: see the output of `mpreg-nb node` there"
        )

    def _all_sources(self) -> Iterator[_Source]:
        if self._nodes is not None:
            for spec in self._nodes.specs:
                process = self._nodes.process(spec.name)
                log = process.log_file()
                yield _Source(spec.name, log, process.stamp, process.log)
            return
        # Adopted, or joined by URL: perhaps another process of this user began it.
        ledger = ClusterFiles()
        urls = {url for p in self.client.mirror.nodes for url in p.record.urls}
        for entry in ledger.entries():
            for recorded in entry.nodes:
                if recorded.url in urls and is_here(entry):
                    path = ledger.log_path(entry.cluster, recorded.name)
                    log, stamp = LogFile(path), recorded.process
                    yield _Source(recorded.name, log, stamp, lambda lines: ())


def _follow(sources: list[_Source], lines: int) -> Iterator[str]:
    for source in sources:
        for line in source.last(lines):
            yield _prefixed(source.node, line, sources)
    following = list(sources)
    while following:
        time.sleep(LOOK_S)  # no system call tells of a file that grows everywhere
        # Looked at before the file is: what a node wrote at its end is there.
        ended = [source for source in following if not is_alive(source.process)]
        for source in following:
            for line in source.more():
                yield _prefixed(source.node, line, sources)
        following = [source for source in following if source not in ended]


def _prefixed(node: str, line: str, sources: list[_Source]) -> str:
    return f"[{node}] {line}" if len(sources) > 1 else line


def _check_lines(lines: object) -> None:
    if isinstance(lines, bool) or not isinstance(lines, int):
        raise TypeError(f"lines must be a whole number, not {lines!r}")
    if lines < 0:
        raise ValueError(f"lines must be 0 or more, not {lines}")


TOLD_WITHIN_S = 5.0
"""Every node of a partition has answered that it takes part."""


@public
class Drills:
    """The drills of a cluster, for nodes that this process started.

    Each returns when it has begun, and ends by itself, also when this process ends
    before. What the cluster makes of it shows in `nodes()`, `events()` and `watch()`.
    """

    client: Client
    _nodes: LocalNodes | None
    _thread: LoopThread

    def kill(self, node: str) -> None:
        """End a node at once, as a crash would.

        Its workers end with it, and its running calls are lost. The other nodes are not
        told: they detect the failure within seconds. `up` starts the node again.

        Raises:
            MpregError: this process did not start a node of that name.
        """
        nodes = self._for_drill(node)
        nodes.kill(node)

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
        nodes = self._for_drill(node)
        nodes.pause(node, _checked(seconds))

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
        sides = [_names(a), _names(b)]
        nodes = self._for_drill(*sides[0], *sides[1])
        if not all(sides):
            raise ValueError("a partition has two sides, with at least one node each")
        if both := sorted(set(sides[0]) & set(sides[1])):
            raise ValueError(f"node {both[0]!r} cannot be on both sides")
        for state, found in (("has ended", nodes.dead), ("is paused", nodes.paused)):
            if stuck := sorted(found & {*sides[0], *sides[1]}):
                raise MpregError(
                    f"node {stuck[0]!r} {state}, so it cannot be partitioned"
                )
        for_ms = max(1, round(_checked(seconds) * 1e3))
        self._thread.run(
            self._cut(nodes.urls, (sides[0], sides[1]), for_ms), TOLD_WITHIN_S
        )

    async def _cut(
        self,
        urls: dict[str, str],
        sides: tuple[tuple[str, ...], tuple[str, ...]],
        for_ms: int,
    ) -> None:
        client = self.client
        # All links first: then all nodes hear of it at nearly the same moment.
        links = {}
        for node in (*sides[0], *sides[1]):
            client.links.is_back(node)  # it runs, whatever was met there before
            links[node] = await client.links.reach(node, (urls[node],))
            if links[node] is None:
                raise MpregError(f"node {node!r} is not reachable now; try again")
        await asyncio.gather(
            *(
                client.requests.ask(
                    Partition(id=client.requests.new_id(), nodes=others, for_ms=for_ms),
                    link=links[node],
                )
                for side, others in (sides, sides[::-1])
                for node in side
            )
        )

    def _for_drill(self, *names: str) -> LocalNodes:
        if self._nodes is None:
            raise MpregError(
                "failures can be tested only on clusters that this notebook started, "
                "and this notebook only connected to this one. Start one: "
                + cure(magic="%mpreg up", python="mp.up(3)", command="mp.up(3)")
            )
        known = [spec.name for spec in self._nodes.specs]
        for name in names:
            if name not in known:
                meant = nearest(name, known)
                raise MpregError(
                    f"this notebook did not start a node named {name!r}."
                    + (f" Did you mean {meant!r}?" if meant else "")
                    + f" It started: {', '.join(sorted(known)) or 'none'}"
                )
        return self._nodes


def _names(side: str | Iterable[str]) -> tuple[str, ...]:
    return (side,) if isinstance(side, str) else tuple(dict.fromkeys(side))


def _checked(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"seconds must be a number, not {seconds!r}")
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(
            f"seconds must be above 0 and at most {LONGEST_S:g}, not {seconds:g}"
        )
    return seconds


LEAST_PREFIX = 4
"""Characters of an id that a run is found by, at least."""

TAKEN_UP = 10
"""Runs that are at hand at once where a cluster is adopted, the newest."""


@public
class History:
    """What a cluster knows of runs, of this client and of others."""

    client: Client
    _thread: LoopThread
    _runs: RecentRuns

    @property
    def own_runs(self) -> tuple[Run, ...]:
        """The last 50 runs started or adopted here, newest first."""
        return self._runs.newest_first

    def on_run(self, listener: OnRun) -> Callable[[], None]:
        """Call `listener` with each run of `own_runs` that starts or changes.

        It is called on a separate thread and must not block. Returns a function that
        ends the subscription.
        """
        return self._runs.listen(listener)

    def runs(self) -> "pd.DataFrame":
        """Return one row per run that a node coordinates or remembers, newest first.

        Columns: run, workflow, status, steps, done, failed, started_at, duration_s.
        Includes the runs of all clients. Each node remembers its last 100 ended runs.
        """
        from mpreg_nb.view.frames import runs_frame

        found = self._thread.run(self.client.runs.everywhere())
        return runs_frame(with_own([run for _, run in found], self.own_runs))

    def get_run(self, run: str) -> Run:
        """Return a run by its id, by 4 or more first characters of its id, or by the
        name of its workflow, which returns the newest.

        Other clients may have started it: its states, results, prints and drawing are
        fetched, and it is followed until it ends.

        Raises:
            NoRun: no run or several runs match, or the node that coordinates it is
                unreachable.
        """
        own = {mine.id: mine for mine in self.own_runs}
        if run in own:
            return own[run]
        found = self._thread.run(self.client.runs.everywhere())
        wanted = chosen_run(run, with_own([each for _, each in found], own.values()))
        if wanted.run.hex() in own:
            return own[wanted.run.hex()]
        node = next(node for node, each in found if each is wanted)
        return self._take_up(node, wanted.run)

    def take_up_newest(self) -> None:
        """Add the newest runs of the cluster to `own_runs`; see `adopt`."""
        writer = current_writer()
        client_runs = self.client.runs

        async def take_up() -> None:
            for node, run in reversed((await client_runs.everywhere())[:TAKEN_UP]):
                try:
                    record = await client_runs.take_up(node, run.run, writer)
                except NoRun:  # it went, or was forgotten, at this moment
                    continue
                self._taken_up(record)

        self._thread.run(take_up())

    def _take_up(self, node: str, run_id: bytes) -> Run:
        writer = current_writer()

        async def take_up() -> Run:
            record = await self.client.runs.take_up(node, run_id, writer)
            return self._taken_up(record)

        return self._thread.run(take_up())

    def _taken_up(self, record: RunRecord) -> Run:
        diagram = planned_diagram(record.workflow, record.plans, self.client.resources)
        run = Run(self.client, self._thread, diagram, self._runs)
        run.started(record)
        return run

    def launch(self, diagram: Diagram, request: RunStart, parts: Parts) -> Run:
        """Send a run to the connected node and return the run at once."""
        run = Run(self.client, self._thread, diagram, self._runs)
        writer = current_writer()
        begun: list[RunRecord] = []

        async def begin() -> None:
            begun.append(self.client.runs.start(request, parts, writer=writer))
            run.started(*begun)

        def give_up() -> None:
            for record in begun:
                self.client.runs.cancel(record)

        try:
            self._thread.run(begin())
        except KeyboardInterrupt:  # it may have begun all the same, and nobody has it
            self._thread.call_soon(give_up)
            raise
        return run


def with_own(found: Sequence[RunSummary], own: Iterable[Run]) -> list[RunSummary]:
    """Return `found` and those of `own` that no node knows any more, newest first."""
    known = {picture.run.hex() for picture in found}
    gone = [summary_of(run.picture) for run in own if run.id not in known]
    return sorted([*found, *gone], key=lambda picture: -picture.started_at_s)


def chosen_run(key: str, runs: Sequence[RunSummary]) -> RunSummary:
    """Return the run of `runs`, newest first, that `key` says.

    Raises:
        NoRun: it says none, or several.
    """
    for run in runs:
        if key in (run.run.hex(), run.workflow):
            return run
    alike = [run for run in runs if run.run.hex().startswith(key.lower())]
    if len(key) >= LEAST_PREFIX and len(alike) == 1:
        return alike[0]
    if len(key) >= LEAST_PREFIX and alike:
        ids = ", ".join(run.run.hex()[: len(key) + 4] for run in alike)
        raise NoRun(
            f"the ids of several runs begin with {key!r}: {ids}. Give more characters "
            "of the id"
        )
    if not runs:
        raise NoRun("the cluster has no runs yet. Start one: flow.run()")
    meant = nearest(key, {run.workflow for run in runs})
    hint = f"Did you mean {meant!r}? " if meant else ""
    raise NoRun(
        f"no run has the id {key!r}, and no workflow of that name was run. {hint}List "
        "the known runs: cluster.runs()"
    )


P = ParamSpec("P")
R = TypeVar("R")

SEEN_TIMEOUT_S = 10.0
"""How long `up` waits until the client sees all nodes alive."""


@public
class Cluster(ClusterFrames, History, Logs, Watching, Drills, Compared):
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
        shipping = FunctionRegistry(self.client, lambda: self)
        self._needs = shipping.needs
        self.calling = Calling(self.client, self._thread, shipping)
        self._runs = RecentRuns()
        self._planner = Planner(
            self.client, lambda: self.client.calls.router, self.calling.registered
        )
        self.fn = FunctionNamespace(self)
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
        """FunctionNamespace of the nodes that this process started."""
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
        await wait_for_states(self.client, states, SEEN_TIMEOUT_S, urls=urls)
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
        self._thread.run(
            wait_for_states(self.client, dict.fromkeys(names, state), timeout)
        )

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
        from mpreg_nb.view.diagram_svg import Drawing

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
        from mpreg_nb.view.explain import plan_frame

        self.refresh()
        return plan_frame(self._planner.rows(workflow))


def _in_kernel() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing for that."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()


DRAIN_S = 1.0
"""How long a node has to leave in order; what it runs is not waited for."""


class AdoptedCluster(Cluster):
    """A cluster whose nodes this user's ledger knows.

    `down` ends its nodes, whoever started them; `disconnect`, and the end of this
    process, leave them running.
    """

    def __init__(self, entry: ClusterRecord) -> None:
        """Connect to a cluster of this machine, and take up its newest runs.

        Raises:
            NoCluster: it runs on another machine.
        """
        if not is_here(entry):
            raise NoCluster(
                f"cluster {entry.cluster!r} runs on {entry.host}: adopt it there"
            )
        self._entry = entry
        self._ended: tuple[str, ...] = ()
        super().__init__([node.url for node in entry.nodes], load_token())
        try:
            self.take_up_newest()
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
        if self._down:
            return
        super().down()
        if self._entry.cluster in {entry.cluster for entry in ClusterFiles().entries()}:
            self._ended = ClusterFiles().end(self._entry.cluster, drain=DRAIN_S)

    def disconnect(self) -> None:
        """Disconnect and leave its nodes running."""
        super().down()
