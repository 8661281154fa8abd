"""The newest picture of each live view of one cluster, made again after changes.

Whether something changed is seen by comparing what a picture was made from, so
that an idle cluster costs next to nothing, and the call path nothing at all.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.client.traffic import TrafficPoll
from mpreg_nb.client.under_way import under_way
from mpreg_nb.view.live import calls, head, latency, members, routes, runs, topology
from mpreg_nb.view.live.lanes import Lanes
from mpreg_nb.view.live.pace import Pace
from mpreg_nb.view.live.panel import Picture
from mpreg_nb.view.measured import latencies
from mpreg_nb.wire.pictures import Snapshot

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster

PERIOD_S = 0.25
"""A picture is made at most so often."""

SHARE = 40
"""A picture is made at most once in so many times what it costs: 2.5 % of a core."""

LESS_OFTEN_S = {"calls": 1.0}
"""Of a view whose picture is large, and where a second is little."""

TABLE = "latency by function"
"""Not a view: part of one that costs more than the rest, and is made less often."""

NOTHING = Snapshot(id=b"", node="", nodes=(), offers=())


_Origin: TypeAlias = tuple[object, Callable[[], Picture]]
"""What a picture is made from, to be compared, and what makes it."""


@dataclass(slots=True)
class _Made:
    """A picture, what it was made from, and when it may be made again."""

    picture: Picture
    origin: object
    not_before: float


class Pictures:
    """Makes the pictures of one cluster. One thread at a time; others wait."""

    def __init__(self, cluster: "Cluster", thread: LoopThread) -> None:
        """`thread` is that of the cluster's client."""
        self._cluster = cluster
        self._thread = thread
        self._at_once = False
        self._lock = threading.Lock()
        self._made: dict[str, _Made] = {}
        self._readings = members.Readings()
        self._reading = 0
        self._read_from = NOTHING
        self._read_at = 0.0
        self._poll = TrafficPoll(cluster.client)
        self._round = 0
        self._rates = topology.Rates(cluster.client.links.name)
        self._course = latency.Course()
        self._pace = Pace()
        self._lanes = Lanes()
        self._makers: dict[str, Callable[[], _Origin]] = {
            "head": self._head,
            "members": self._members,
            "topology": self._topology,
            "routes": self._routes,
            "latency": self._latency,
            TABLE: self._table,
            "calls": self._calls,
            "runs": self._runs,
        }

    def look(
        self, views: Iterable[str], *, at_once: bool = False
    ) -> dict[str, Picture]:
        """Return the newest pictures of `views` and of the head.

        A picture that says the same as before is the same object.
        at_once: make them now, although they may have been made just before.
        """
        with self._lock:
            now = time.monotonic()
            self._read(now)
            self._at_once = at_once
            return {view: self._look(view, now) for view in ("head", *views)}

    def refresh(self, views: Iterable[str]) -> None:
        """Ask for what is needed to `look`; waits, so never on the live thread."""
        self._cluster.refresh()
        if "topology" in views:
            self._thread.run(self._poll.ask())

    def _look(self, view: str, now: float) -> Picture:
        made = self._made.get(view)
        if made is not None and now < made.not_before and not self._at_once:
            return made.picture
        origin, make = self._makers[view]()
        if made is not None and made.origin == origin:
            return made.picture
        began = time.thread_time()
        picture = make()
        if made is not None and made.picture == picture:
            picture = made.picture
        least_s = LESS_OFTEN_S.get(view, PERIOD_S)
        pause_s = max(least_s, SHARE * (time.thread_time() - began))
        self._made[view] = _Made(picture, origin, now + pause_s)
        return picture

    def _read(self, now: float) -> None:
        """Note the loads when there is news of them, so that both change at once."""
        news = self._snapshot is not self._read_from
        if not news and now < self._read_at + 2 * members.EVERY_S:
            return
        if self._readings.take(self._snapshot.nodes, now):
            self._reading += 1
            self._read_from, self._read_at = self._snapshot, now

    @property
    def _snapshot(self) -> Snapshot:
        return self._cluster.client.mirror.snapshot or NOTHING

    # ------------------------------------------------------------------ origins

    def _head(self) -> _Origin:
        snapshot, journal = self._snapshot, self._cluster.client.journal
        count, drills = journal.count, self._cluster.started_here
        self._pace.take(journal.rows, count, time.time())
        origin = (snapshot, count, drills, self._pace.origin)
        return origin, lambda: head.picture(snapshot, count, self._pace, drills=drills)

    def _members(self) -> _Origin:
        snapshot, own = self._snapshot, self._cluster.own_nodes
        origin = (snapshot, self._reading, own)
        return origin, lambda: members.picture(snapshot, self._readings, own)

    def _topology(self) -> _Origin:
        client = self._cluster.client
        if not client.links.lost:
            self._thread.call_soon(self._poll.begin)
        if self._poll.round != self._round:
            self._round = self._poll.round
            self._rates.take(self._poll.told, self._poll.told_at)
        link, snapshot = client.links.entry, self._snapshot
        entry = "" if link is None else link.peer.name

        def make() -> Picture:
            return topology.picture(snapshot, entry, self._rates.rates())

        return (snapshot, self._round, entry), make

    def _routes(self) -> _Origin:
        journal = self._cluster.client.journal
        return journal.last, lambda: routes.picture(journal.rows())

    def _latency(self) -> _Origin:
        rows = self._cluster.client.journal.rows()
        self._course.take(rows, time.time())
        table = self._look(TABLE, time.monotonic())
        origin = (self._course.origin, table)
        return origin, lambda: latency.picture(self._course, table["rows"])

    def _table(self) -> _Origin:
        journal = self._cluster.client.journal

        def make() -> Picture:
            found = latencies(journal.histograms(), ("function",))
            return {"rows": latency.table(found)}

        return journal.last, make

    def _calls(self) -> _Origin:
        client, snapshot, now = self._cluster.client, self._snapshot, time.time()
        running = under_way(
            client.calls.active, client.runs.open, now - time.monotonic()
        )
        rows = client.journal.rows()
        self._lanes.take(rows, running, calls.slots_of(snapshot), now)
        origin = (snapshot, self._lanes.origin)
        return origin, lambda: calls.picture(self._lanes, snapshot, now)

    def _runs(self) -> _Origin:
        own, now = self._cluster.own_runs, time.time()
        return runs.origin(own, now), lambda: runs.picture(own, now)
