"""Statistics of a node: load, counters, snapshots for clients, traffic of its links."""

import asyncio
import logging
import math
import statistics
import time
from bisect import bisect_left
from collections import Counter as CollectionsCounter
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from uuid import uuid4

import msgspec
import psutil
from msgspec.structs import replace

from mpreg_nb.membership.member import Member
from mpreg_nb.node.pending_call import Sink
from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import (
    EventSnapshot,
    FunctionSnapshot,
    LinkSnapshot,
    LoadsReport,
    NodeSnapshot,
    Snapshot,
    Traffic,
    Watch,
)
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport.connection import Connection, LinkStatistics

LOG = logging.getLogger("mpreg_nb.node")

MOST_VERSIONS = 1000
"""Versions of functions that are counted; those unused for longest are dropped."""

RECENT_CALLS = 512
"""Run times that are kept per function, for the median."""


LATENCY_BOUNDS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""Upper bounds of the buckets of the latency histogram."""


class Histogram:
    """Counts values by buckets with fixed upper bounds.

    >>> latency = Histogram((0.1, 1.0))
    >>> for seconds in (0.05, 0.1, 0.5, 7.0):
    ...     latency.observe(seconds)
    >>> list(latency.cumulative())
    [(0.1, 2), (1.0, 3), (inf, 4)]
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value; one that equals a bound is in the bucket of that bound."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each upper bound, and how many values are not above it."""
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            yield bound, total


class FunctionCounter(msgspec.Struct):
    """One version of one function."""

    calls: int = 0
    errors: int = 0
    last: int = 0  # number of the last call, of all that were counted
    run_us: deque[int] = msgspec.field(
        default_factory=lambda: deque(maxlen=RECENT_CALLS)
    )


class Counters:
    """Counts by (function, version)."""

    def __init__(self, me: str) -> None:
        self._me = me
        self.sources: list[Callable[[], None]] = []
        """Each counts what it knows of and has not counted yet."""
        self._functions: dict[tuple[str, str], FunctionCounter] = {}
        self._counted = 0
        self.latency_us = 0.0  # moving average of queue and run, all functions
        self.latency = Histogram(LATENCY_BOUNDS_S)  # of queue and run, all functions
        self.outcomes: CollectionsCounter[str] = CollectionsCounter()
        """By kind, of all calls that this node accepted; "ok" is a result."""
        self.refusals: CollectionsCounter[str] = CollectionsCounter()
        """By reason, of calls that this node did not accept."""

    def count(
        self,
        function: str,
        version: str,
        *,
        run_us: int,
        queued_us: int,
        failed: bool,
        calls: int = 1,
    ) -> None:
        """Count one call that ran to its end, well or badly; or a chunk of calls."""
        if calls > 1:
            run_us //= calls
        key = (function, version)
        counter = self._functions.get(key)
        if counter is None:
            counter = self._add(key)
        self._counted = counter.last = self._counted + 1
        counter.calls += calls
        counter.errors += failed
        counter.run_us.append(run_us)
        taken_us = run_us + queued_us
        self.latency_us += 0.1 * (taken_us - self.latency_us)
        self.latency.observe(taken_us / 1e6, calls)

    def _add(self, key: tuple[str, str]) -> FunctionCounter:
        if len(self._functions) >= MOST_VERSIONS:  # of cells that are edited all day
            del self._functions[min(self._functions, key=self._last_use)]
        counter = self._functions[key] = FunctionCounter()
        return counter

    def _last_use(self, key: tuple[str, str]) -> int:
        return self._functions[key].last

    def snapshots(self) -> tuple[FunctionSnapshot, ...]:
        """Return what was counted so far."""
        for count in self.sources:
            count()
        return tuple(
            FunctionSnapshot(
                function=function,
                version=version,
                node=self._me,
                calls=counter.calls,
                errors=counter.errors,
                p50_ms=statistics.median(counter.run_us) / 1e3,
            )
            for (function, version), counter in self._functions.items()
        )


NEWS_EVERY_S = 0.05
"""How often an answer also carries how busy this node is. One that leaves it idle
always does, if others know it as busy."""

TELL_S, TELL_PEER_S = 0.1, 0.004
"""From a change to its report to all peers; longer with many peers. That the node is
idle is told at once where they know it as busy."""

SAMPLE_S = 1.0
"""How often processor and memory are looked at; a look costs about 0.2 ms."""


class LoadMonitor:
    """Measures the load of this node and reports it to others."""

    def __init__(
        self,
        *,
        running: Callable[[], int],
        queued: Callable[[], int],
        is_idle: Callable[[], bool],
        slots: int,
        counters: Counters,
        tell: Callable[[Load], int],
    ) -> None:
        """`tell` sends a load to the cluster, and returns to how many peers.

        is_idle: whether no call is here. Asked for each call, so it counts nothing.
        """
        self._running = running
        self._queued = queued
        self._is_idle = is_idle
        self._slots = slots
        self._counters = counters
        self._process = psutil.Process()
        self._workers: dict[psutil.Process, psutil.Process] = {}
        self._started = time.monotonic()
        self._sampled_at = -SAMPLE_S
        self._cpu_percent = 0.0
        self._memory_mb = self._shared_memory_mb = 0
        self._news_due = 0.0
        self._tell = tell
        self._tell_s = TELL_S
        # Running and queued as last reported; None if peers know different values.
        self._told: tuple[int, int] | None = (0, 0)
        self._told_busy = False  # somebody was, and not yet that it is idle
        self._peers_see_busy = False  # one was told so, and not all that it is idle
        self._idle_told_at = -math.inf
        self._serial = 0
        self._timer: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()
        self.degraded = False
        self.loop_lag_ms = 0.0

    def measure(self) -> Load:
        """Return the load of this moment."""
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_S:
            self._sampled_at = now
            self._sample()
        self._serial += 1
        running, queued = self._running(), self._queued()
        if (running, queued) != self._told:
            self._told = None  # whoever it is for knows more than others
        if running or queued:
            self._told_busy = True  # a caller may hear of it by way of others
        return Load(
            running=running,
            queued=queued,
            slots=self._slots,
            latency_ms=round(self._counters.latency_us / 1e3, 3),
            loop_lag_ms=self.loop_lag_ms,
            degraded=self.degraded,
            cpu_percent=self._cpu_percent,
            memory_mb=self._memory_mb,
            uptime_s=int(now - self._started),
            serial=self._serial,
            shared_memory_mb=self._shared_memory_mb,
        )

    def measure_for_peer(self) -> Load:
        """Return the load of this moment, which may ride on a message to a peer."""
        load = self.measure()
        if load.running or load.queued:
            self._peers_see_busy = True
        return load

    def lagged(self, lag_s: float) -> None:
        """Note by how much the event loop was late."""
        self.loop_lag_ms = round(max(0.0, lag_s) * 1e3, 3)

    def news(self) -> Load | None:
        """Return the load for an answer, or None if the last report still holds."""
        now = time.monotonic()
        if now < self._news_due:
            if not (self._told_busy and self._is_idle()):
                return None
        self._news_due = now + NEWS_EVERY_S
        load = self.measure()
        self._told_busy = load.running + load.queued > 0
        return load

    def changed(self) -> None:
        """Note that a call came or went, and report the load soon."""
        if self._peers_see_busy and self._is_idle() and self._may_tell_idle:
            # Else a caller that has its results goes on with a peer that is not right.
            self.stop()
            self._timer = self._loop.call_soon(self._tell_idle)
        elif self._timer is None:
            self._timer = self._loop.call_later(self._tell_s, self._tell_change)

    @property
    def _may_tell_idle(self) -> bool:
        return time.monotonic() - self._idle_told_at >= self._tell_s

    def stop(self) -> None:
        """Send no more reports."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell_idle(self) -> None:
        if self._is_idle():
            self._idle_told_at = time.monotonic()
            self._tell_change()
        else:
            self._timer = self._loop.call_later(self._tell_s, self._tell_change)

    def _tell_change(self) -> None:
        self._timer = None
        told, load = self._told, self.measure()
        if told == (load.running, load.queued):
            return
        self._told = load.running, load.queued
        self._told_busy = self._peers_see_busy = load.running + load.queued > 0
        self._tell_s = max(TELL_S, TELL_PEER_S * self._tell(load))

    def _sample(self) -> None:
        """Look at this process and its workers; no call may fail for that."""
        try:
            self._add_up()
        except (psutil.Error, OSError) as error:  # such as no descriptor left
            LOG.info("the load is that of the last look: %s", error)

    def _add_up(self) -> None:
        cpu_percent, memory = 0.0, 0
        # Each object counts processor time from the time that it was asked before.
        known = self._workers
        self._workers = {one: known.get(one, one) for one in self._process.children()}
        for process in (self._process, *self._workers.values()):
            try:
                with process.oneshot():
                    cpu_percent += process.cpu_percent()
                    memory += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended between the list and the look
        self._cpu_percent = round(cpu_percent, 1)
        self._memory_mb = memory // 1_000_000
        self._shared_memory_mb = MEMORY.statistics().mapped_bytes // 1_000_000


REMEMBERED_EVENTS = 1000

LOADS_EVERY_S = 0.1
"""Loads alone are sent by themselves, at most this often."""

WHOLE_EVERY_S = 2.0
"""Round trips change all the time, with the loads; all is sent again this often."""


class SnapshotPublisher:
    """Makes snapshots, and sends them to watchers at their pace."""

    def __init__(
        self,
        me: str,
        *,
        members: Callable[[], Iterable[Member]],
        own_load: Callable[[], Load],
        load_of: Callable[[str], Load | None],
        catalog: Catalog,
        counters: Counters,
    ) -> None:
        self._me = me
        self._members = members
        self._own_load = own_load
        self._load_of = load_of
        self._catalog = catalog
        self._counters = counters
        self._process = uuid4().hex
        self._events: deque[EventSnapshot] = deque(maxlen=REMEMBERED_EVENTS)
        self._watchers: dict[Sink, Watch] = {}
        self._timers: dict[Sink, asyncio.TimerHandle] = {}
        self._loads_timer: asyncio.TimerHandle | None = None
        self._whole_timer: asyncio.TimerHandle | None = None
        self._loads_of: set[str] = set()  # nodes whose loads are to be sent
        self._loop = asyncio.get_running_loop()

    def happened(self, node: str, event: str, detail: str = "") -> None:
        """Note an event of the cluster, with the wall time that people read."""
        snapshot = EventSnapshot(
            at_s=time.time(), node=node, event=event, detail=detail[:500]
        )
        self._events.append(snapshot)
        LOG.info("%s: %s %s", node, event, " ".join(snapshot.detail.split()))
        self.changed()

    def watch(self, sink: Sink, request: Watch) -> None:
        """Send a snapshot now, and again after changes if that was asked."""
        if request.period_ms:
            self._watchers[sink] = request
            self._tell(sink, request)
        else:
            sink.send(self.take(request, whole=True))

    def cancel(self, sink: Sink, request_id: bytes) -> None:
        """Send no more to a watcher that looks elsewhere now."""
        request = self._watchers.get(sink)
        if request is not None and request.id == request_id:
            self.sink_lost(sink)

    def sink_lost(self, sink: Sink) -> None:
        """Stop sending to a link that is gone."""
        self._watchers.pop(sink, None)
        timer = self._timers.pop(sink, None)
        if timer is not None:
            timer.cancel()

    def changed(self) -> None:
        """Let every watcher see what changed, each at its own pace."""
        for sink, request in self._watchers.items():
            if sink not in self._timers:
                self._timers[sink] = self._loop.call_later(
                    request.period_ms / 1e3, self._send, sink
                )

    def loads_changed(self, node: str) -> None:
        """Let every watcher see soon how busy `node` is."""
        if not self._watchers:
            return
        self._loads_of.add(node)
        later = self._loop.call_later
        if self._loads_timer is None:
            self._loads_timer = later(LOADS_EVERY_S, self._send_loads)
        if self._whole_timer is None:
            self._whole_timer = later(WHOLE_EVERY_S, self._send_whole)

    def take(self, request: Watch, *, whole: bool) -> Snapshot:
        """Return what this node knows now; `whole` with counts and events.

        Of functions only those that changed since the snapshot which the watcher has.
        """
        nodes = [self._node(member) for member in self._members()]
        process, revision = request.known
        changed = None
        if process == self._process:
            changed = self._catalog.changed_since(revision)
        return Snapshot(
            id=request.id,
            node=self._me,
            nodes=tuple(sorted(nodes, key=lambda node: node.record.name)),
            offers=self._catalog.entries(changed),
            functions=self._counters.snapshots() if whole else (),
            events=tuple(self._events) if whole else (),
            mark=(self._process, self._catalog.revision),
            changed=changed,
        )

    def _node(self, member: Member) -> NodeSnapshot:
        record = member.record
        if record.state > MemberState.SUSPECT:  # what it said last is no news of it
            return NodeSnapshot(record=record)
        return NodeSnapshot(
            record=record,
            load=self._load(member.name),
            rtt_ms=None if not member.rtt_s else member.rtt_s * 1e3,
        )

    def _load(self, node: str) -> Load | None:
        return self._own_load() if node == self._me else self._load_of(node)

    def stop(self) -> None:
        """Send no more snapshots."""
        for sink in list(self._watchers):
            self.sink_lost(sink)
        for timer in (self._loads_timer, self._whole_timer):
            if timer is not None:
                timer.cancel()

    def _send_loads(self) -> None:
        self._loads_timer = None
        nodes, self._loads_of = sorted(self._loads_of), set()
        known = ((node, self._load(node)) for node in nodes)
        loads = tuple((node, load) for node, load in known if load is not None)
        for sink, request in self._watchers.items():
            sink.send(LoadsReport(id=request.id, loads=loads))

    def _send_whole(self) -> None:
        self._whole_timer = None
        self.changed()

    def _send(self, sink: Sink) -> None:
        self._timers.pop(sink, None)
        request = self._watchers.get(sink)
        if request is not None:
            self._tell(sink, request)

    def _tell(self, sink: Sink, request: Watch) -> None:
        """Send what a watcher does not know yet, and note what it knows then."""
        snapshot = self.take(request, whole=False)
        self._watchers[sink] = replace(request, known=snapshot.mark)
        sink.send(snapshot)


def link_statistics(
    request_id: bytes, node: str, links: Iterable[Connection]
) -> Traffic:
    """Return one row for each peer; JSON clients, which have no name, have none."""
    counts: dict[tuple[bool, str], list[LinkStatistics]] = {}
    for link in links:
        if link.peer.name:
            key = (link.peer.role == "node", link.peer.name)
            counts.setdefault(key, []).append(link.statistics())
    return Traffic(
        id=request_id,
        node=node,
        links=tuple(
            LinkSnapshot(
                peer=peer,
                role="node" if is_node else "client",
                sent_bytes=sum(one.bytes_out for one in each),
                received_bytes=sum(one.bytes_in for one in each),
                sent_messages=sum(one.messages_out for one in each),
                received_messages=sum(one.messages_in for one in each),
            )
            for (is_node, peer), each in sorted(counts.items())
        ),
    )
