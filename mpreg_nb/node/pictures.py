"""What this node shows of the cluster, and to whom it shows it again on change."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from mpreg_nb.membership.member import Member
from mpreg_nb.node.counters import Counters
from mpreg_nb.node.pending import Source
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.wire.gossip import Load, MemberState
from mpreg_nb.wire.pictures import (
    EventPicture,
    LoadsTold,
    NodePicture,
    Snapshot,
    Watch,
)

LOG = logging.getLogger("mpreg_nb.node")

REMEMBERED_EVENTS = 1000

LOADS_EVERY_S = 0.1
"""Loads alone are sent by themselves, at most this often."""

WHOLE_EVERY_S = 2.0
"""Round trips change all the time, with the loads; all is sent again this often."""


class Pictures:
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
        self._events: deque[EventPicture] = deque(maxlen=REMEMBERED_EVENTS)
        self._watchers: dict[Source, Watch] = {}
        self._timers: dict[Source, asyncio.TimerHandle] = {}
        self._loads_timer: asyncio.TimerHandle | None = None
        self._whole_timer: asyncio.TimerHandle | None = None
        self._loads_of: set[str] = set()  # nodes whose loads are to be sent
        self._loop = asyncio.get_running_loop()

    def happened(self, node: str, event: str, detail: str = "") -> None:
        """Note an event of the cluster, with the wall time that people read."""
        picture = EventPicture(
            at_s=time.time(), node=node, event=event, detail=detail[:500]
        )
        self._events.append(picture)
        LOG.info("%s: %s %s", node, event, " ".join(picture.detail.split()))
        self.changed()

    def watch(self, source: Source, request: Watch) -> None:
        """Send a snapshot now, and again after changes if that was asked."""
        if request.period_ms:
            self._watchers[source] = request
        source.send(self.take(request.id, whole=not request.period_ms))

    def cancel(self, source: Source, request_id: bytes) -> None:
        """Send no more to a watcher that looks elsewhere now."""
        request = self._watchers.get(source)
        if request is not None and request.id == request_id:
            self.source_lost(source)

    def source_lost(self, source: Source) -> None:
        """Stop sending to a link that is gone."""
        self._watchers.pop(source, None)
        timer = self._timers.pop(source, None)
        if timer is not None:
            timer.cancel()

    def changed(self) -> None:
        """Let every watcher see what changed, each at its own pace."""
        for source, request in self._watchers.items():
            if source not in self._timers:
                self._timers[source] = self._loop.call_later(
                    request.period_ms / 1e3, self._send, source
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

    def take(self, request_id: bytes, *, whole: bool) -> Snapshot:
        """Return what this node knows now; `whole` with counts and events."""
        nodes = [self._node(member) for member in self._members()]
        return Snapshot(
            id=request_id,
            node=self._me,
            nodes=tuple(sorted(nodes, key=lambda node: node.record.name)),
            offers=self._catalog.entries(),
            functions=self._counters.pictures() if whole else (),
            events=tuple(self._events) if whole else (),
        )

    def _node(self, member: Member) -> NodePicture:
        record = member.record
        if record.state > MemberState.SUSPECT:  # what it said last is no news of it
            return NodePicture(record=record)
        return NodePicture(
            record=record,
            load=self._load(member.name),
            rtt_ms=None if not member.rtt_s else member.rtt_s * 1e3,
        )

    def _load(self, node: str) -> Load | None:
        return self._own_load() if node == self._me else self._load_of(node)

    def stop(self) -> None:
        """Send nothing any more."""
        for source in list(self._watchers):
            self.source_lost(source)
        for timer in (self._loads_timer, self._whole_timer):
            if timer is not None:
                timer.cancel()

    def _send_loads(self) -> None:
        self._loads_timer = None
        nodes, self._loads_of = sorted(self._loads_of), set()
        known = ((node, self._load(node)) for node in nodes)
        loads = tuple((node, load) for node, load in known if load is not None)
        for source, request in self._watchers.items():
            source.send(LoadsTold(id=request.id, loads=loads))

    def _send_whole(self) -> None:
        self._whole_timer = None
        self.changed()

    def _send(self, source: Source) -> None:
        self._timers.pop(source, None)
        request = self._watchers.get(source)
        if request is not None:
            source.send(self.take(request.id, whole=False))
