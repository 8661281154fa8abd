"""The client's cached view of the cluster, and which node it subscribes to.

The entry node sends a snapshot after each change. A node that hangs sends none, so its
link is watched: when it is silent, all other nodes are asked, and the first that
answers becomes the entry. The silent one keeps its link, as calls may be in progress
there, until it is declared dead and the link is silent too. An entry that says that
it leaves is treated alike, but it is not waited for.

The cached state may be late; a call that it routes wrongly is rejected by the node and
sent through the entry. Own registrations are never forgotten.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from msgspec.structs import replace

from mpreg_nb.client.connections import Connections, Requests
from mpreg_nb.errors import MpregError
from mpreg_nb.protocol.gossip import Load, MemberRecord, MemberState, Offer
from mpreg_nb.protocol.messages import (
    Cancel,
    CatalogMark,
    LoadsReport,
    NodeSnapshot,
    Snapshot,
    Watch,
    minor_of,
)
from mpreg_nb.transport.connection import Connection, Keepalive

WATCH_PERIOD_MS = 250
"""The node of the entry tells of changes at most this often."""

ENTRY_PULSE_S = 1.0
"""Silence of the entry before a ping, and again before another is looked for."""

DOUBT_PULSE_S = 0.5
"""The same for a node that others hold suspect or dead."""

ASKED_AT_ONCE = 8
"""Nodes of which the first to answer becomes the entry."""

ANSWER_S = 3.0
"""How long those have to answer; the old entry may have come back by then."""


class ClusterView:
    """The newest snapshot, where it comes from, and who wants to hear of it."""

    def __init__(
        self,
        links: Connections,
        requests: Requests,
        state: "ClusterState",
        *,
        routes_changed: Callable[[], Mapping[str, Load]],
        loads_changed: Callable[[Iterable[tuple[str, Load]]], Mapping[str, Load]],
    ) -> None:
        """Both callables take what changed, and return the newest load of nodes."""
        self._links = links
        self._requests = requests
        self._state = state
        self._routes_changed = routes_changed
        self._loads_changed = loads_changed
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._watch_id = b""
        self._entry: Connection | None = None
        self._entry_pulse: Keepalive | None = None
        self._doubted: dict[Connection, Keepalive] = {}
        self._absent: frozenset[str] = frozenset()  # nodes that are not alive
        self._leaving: set[Connection] = set()
        self._search: asyncio.Task[None] | None = None
        self.first = asyncio.Event()
        """Set once there is a snapshot."""

    def listen(self, listener: Callable[[Snapshot], None]) -> Callable[[], None]:
        """Call `listener` with each new snapshot; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def entered(self, link: Connection) -> None:
        """Look through the node at the other end of `link` from now on."""
        if self._entry is not None and self._entry.is_open:
            self._entry.send(Cancel(id=self._watch_id))
        self._entry = link
        self._watch_id = self._requests.new_id()
        known = self._state.mark
        link.send(Watch(id=self._watch_id, period_ms=WATCH_PERIOD_MS, known=known))
        self._feel(link)

    def leaves(self, link: Connection) -> None:
        """Look through another node: the one at the other end of `link` goes."""
        self._leaving.add(link)
        if link is self._entry:
            self._silent(link)

    def lost(self, link: Connection) -> None:
        """Forget a link that is gone."""
        self._leaving.discard(link)
        if link is self._entry:
            self._entry = None
            self._stop_feeling()
        pulse = self._doubted.pop(link, None)
        if pulse is not None:
            pulse.stop()

    def stop(self) -> None:
        """Look no more."""
        self._stop_feeling()
        for pulse in self._doubted.values():
            pulse.stop()
        if self._search is not None:
            self._search.cancel()

    async def ask(self) -> Snapshot:
        """Return what the node of the entry knows now, whichever node that is.

        Raises:
            NodeLost: no node can be reached.
        """
        snapshot = await self._ask_entry(known=self._state.mark)
        if not self._state.continues(snapshot):  # it has another entry by now
            snapshot = await self._ask_entry()
        return self.take(snapshot)

    def receive(self, snapshot: Snapshot) -> None:
        """Take in a snapshot that nobody asked for, if it is from the entry."""
        if snapshot.id != self._watch_id:
            return
        if self._state.continues(snapshot):
            self.take(snapshot)
        elif self._entry is not None:
            self.entered(self._entry)  # and learn all of it anew

    def loads_told(self, told: LoadsReport) -> None:
        """Take in how busy nodes are, as the entry says."""
        if told.id != self._watch_id:
            return
        snapshot = self._state.loads_told(self._loads_changed(told.loads))
        if snapshot is not None:
            self._tell(replace(snapshot, changed=()))

    def take(self, snapshot: Snapshot) -> Snapshot:
        """Make `snapshot` the newest; return it whole, with loads that are newer here.

        Listeners are told the same, with the names that changed.
        """
        self._state.update(snapshot)
        said = self._routes_changed()
        newest = self._state.loads_told(said) or snapshot
        self._doubt(newest.nodes)
        entry = self._entry
        if entry in self._leaving and (self._search is None or self._search.done()):
            # When it said that it leaves, no other node may have been known yet.
            self._silent(entry)
        self.first.set()
        self._tell(newest)
        return newest

    def _tell(self, snapshot: Snapshot) -> None:
        for listener in tuple(self._listeners):
            listener(snapshot)

    async def _ask_entry(
        self, link: Connection | None = None, known: CatalogMark = ("", 0)
    ) -> Snapshot:
        request = Watch(id=self._requests.new_id(), known=known)
        answer, _ = await self._requests.ask(request, link=link)
        snapshot: Snapshot = answer
        return snapshot

    # ---------------------------------------------------------- the entry's pulse

    def _feel(self, link: Connection) -> None:
        self._stop_feeling()
        self._entry_pulse = link.pulse(ENTRY_PULSE_S, lambda reason: self._silent(link))
        self._entry_pulse.start()

    def _stop_feeling(self) -> None:
        if self._entry_pulse is not None:
            self._entry_pulse.stop()

    def _silent(self, link: Connection) -> None:
        self._search = asyncio.ensure_future(self._look_elsewhere(link))

    async def _look_elsewhere(self, silent: Connection) -> None:
        """Make the first node that answers the entry, or go on with the silent one."""
        tries = {
            asyncio.ensure_future(self._try(snapshot))
            for snapshot in self._others(silent)[:ASKED_AT_ONCE]
        }
        try:
            for first in asyncio.as_completed(tries, timeout=ANSWER_S):
                found = await first
                if found is not None and found.is_open and self._entry is silent:
                    self._links.enter(found)
                    return
        except TimeoutError:
            pass  # none answers; the silent one may yet
        finally:
            for one in tries:
                one.cancel()
        if self._entry is silent:
            self._feel(silent)

    def _others(self, silent: Connection) -> list[NodeSnapshot]:
        """Return whom to ask, the likeliest first."""
        linked = self._links.open_links
        leaving = {link.peer.name for link in self._leaving}
        found = [
            snapshot
            for snapshot in self._state.nodes
            if snapshot.record.name not in (silent.peer.name, *leaving)
            and snapshot.record.state <= MemberState.SUSPECT
        ]
        found.sort(key=lambda one: (one.record.state, one.record.name not in linked))
        return found

    async def _try(self, snapshot: NodeSnapshot) -> Connection | None:
        record = snapshot.record
        link = await self._links.reach(record.name, record.urls)
        if link is not None:
            try:
                await self._ask_entry(link)
            except MpregError:
                return None  # another may answer
        return link

    # --------------------------------------------------- nodes that others doubt

    def _doubt(self, nodes: tuple[NodeSnapshot, ...]) -> None:
        """Feel the pulse of links to nodes that are suspect or dead; end the dead."""
        before, self._absent = (
            self._absent,
            frozenset(
                one.record.name
                for one in nodes
                if one.record.state is not MemberState.ALIVE
            ),
        )
        for name in before - self._absent:
            self._links.is_back(name)
        for snapshot in nodes:
            link = self._links.get(snapshot.record.name)
            if link is None:
                continue
            if snapshot.record.state is MemberState.ALIVE:
                pulse = self._doubted.pop(link, None)
                if pulse is not None:
                    pulse.stop()
            elif link not in self._doubted:
                self._feel_doubted(link)

    def _feel_doubted(self, link: Connection) -> None:
        def silent(reason: str) -> None:
            record = self._state.record(link.peer.name)
            if record is None or record.state > MemberState.SUSPECT:
                link.give_up("it was declared dead and does not answer")
            else:
                self._feel_doubted(link)

        self._doubted[link] = link.pulse(DOUBT_PULSE_S, silent)
        self._doubted[link].start()


class ClusterState:
    """The newest snapshot, with the own registrations on top."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        """With all offers; `changed` names those that were new in it."""
        self.mark: CatalogMark = ("", 0)
        self._told: dict[str, list[tuple[str, Offer]]] = {}  # what snapshots had
        # Own registrations: those that no snapshot has told of, and the newest.
        self._own: dict[str, list[Offer]] = {}
        self._newest: dict[str, Offer | None] = {}

    @property
    def engine(self) -> str:
        """The URL of what runs the calls; "" where nodes of mpreg_nb do."""
        engines = (picture.record.engine for picture in self.nodes)
        return next(filter(None, engines), "")

    def continues(self, snapshot: Snapshot) -> bool:
        """Whether `snapshot` has all offers, or what changed in those known here."""
        return snapshot.changed is None or snapshot.mark[0] == self.mark[0]

    def update(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot, which continues what is known here."""
        self.mark = snapshot.mark
        if snapshot.changed is None:
            self._told = {}
            self._newest.clear()
        for function in snapshot.changed or ():
            self._told.pop(function, None)
            self._newest.pop(function, None)
        for owner, offer in snapshot.offers:
            self._told.setdefault(offer.function, []).append((owner, offer))
        for function in self._own if snapshot.changed is None else snapshot.changed:
            self._forget_told(function)
        if snapshot.changed is not None and self.snapshot is not None:
            offers = self.snapshot.offers
            if snapshot.changed:
                offers = tuple(chain.from_iterable(self._told.values()))
            snapshot = replace(snapshot, offers=offers)
        self.snapshot = snapshot

    def is_told_of(self, function: str) -> bool:
        """Whether the newest snapshot has a node that serves a placed function."""
        return any(offer.placed for _, offer in self._told.get(function, ()))

    def loads_told(self, loads: Mapping[str, Load]) -> Snapshot | None:
        """Return the snapshot with newer loads of some nodes; it is the newest now."""
        if self.snapshot is not None:
            nodes = tuple(_with(snapshot, loads) for snapshot in self.snapshot.nodes)
            self.snapshot = replace(self.snapshot, nodes=nodes)
        return self.snapshot

    def registered(self, offer: Offer) -> None:
        """Note an own registration, of which no snapshot may tell yet."""
        self._own.setdefault(offer.function, []).append(offer)
        self._newest.pop(offer.function, None)

    def offers(self, function: str) -> Sequence[tuple[str, Offer]]:
        """Return (owner, offer) of every version of `function`."""
        told = self._told.get(function, [])
        own = [(offer.origin, offer) for offer in self._own.get(function, ())]
        untold = [pair for pair in own if pair not in told]
        return [*told, *untold] if untold else told

    def _forget_told(self, function: str) -> None:
        """Forget own registrations of a name, but not the newest, once told of them."""
        own = self._own.get(function, [])
        if len(own) < 2:
            return
        last: dict[str, int] = {}  # a node tells of its registrations in their order
        for _, offer in self._told.get(function, ()):
            last[offer.origin] = max(last.get(offer.origin, 0), offer.counter)
        own[:-1] = [o for o in own[:-1] if o.counter > last.get(o.origin, 0)]

    def entries(self) -> Iterable[tuple[str, Offer]]:
        """Return (owner, offer) of all that is offered."""
        return chain.from_iterable(map(self.offers, self.functions))

    @property
    def functions(self) -> set[str]:
        """The names of all registered functions."""
        return {*self._told, *self._own}

    def newest(self, function: str) -> Offer | None:
        """Return the newest registration of a name that was ever heard of."""
        if function not in self._newest:
            self._newest[function] = max(
                (offer for _, offer in self.offers(function)),
                key=lambda offer: (offer.counter, offer.origin),
                default=None,
            )
        return self._newest[function]

    @property
    def nodes(self) -> tuple[NodeSnapshot, ...]:
        """The members, sorted by name, also those that are dead or left."""
        return () if self.snapshot is None else self.snapshot.nodes

    @property
    def urls(self) -> tuple[str, ...]:
        """Return where members can be reached, those that are gone last.

        A node that is started again listens where it did before, as a rule.
        """
        return tuple(
            url
            for snapshot in sorted(self.nodes, key=lambda one: one.record.state)
            for url in snapshot.record.urls
        )

    def standing(self, node: str) -> int | None:
        """Return how doubtful a node is, 0 if it is alive; None if it is unknown."""
        record = self.record(node)
        return None if record is None else int(record.state)

    def record(self, node: str) -> MemberRecord | None:
        """Return what is known of `node`."""
        for snapshot in self.nodes:
            if snapshot.record.name == node:
                return snapshot.record
        return None

    def urls_of(self, node: str) -> tuple[str, ...]:
        """Return where `node` can be reached."""
        record = self.record(node)
        return () if record is None else record.urls

    def resources(self, state: MemberState) -> dict[str, frozenset[str]]:
        """Return node -> resources of the members in `state`."""
        return {
            snapshot.record.name: snapshot.record.resources
            for snapshot in self.nodes
            if snapshot.record.state is state
        }

    @property
    def pythons(self) -> dict[str, str]:
        """Return node -> minor version of its Python."""
        return {
            snapshot.record.name: minor_of(snapshot.record.python)
            for snapshot in self.nodes
        }

    @property
    def workerless(self) -> frozenset[str]:
        """Return the nodes without worker processes."""
        return frozenset(
            snapshot.record.name
            for snapshot in self.nodes
            if not snapshot.record.workers
        )


def _with(snapshot: NodeSnapshot, loads: Mapping[str, Load]) -> NodeSnapshot:
    """Return the snapshot with a newer load, unless the node is gone."""
    load = loads.get(snapshot.record.name)
    if load is None or snapshot.record.state > MemberState.SUSPECT:
        return snapshot
    return replace(snapshot, load=load)
