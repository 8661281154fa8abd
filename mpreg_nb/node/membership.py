"""The driver of the membership state machine, and the events that it publishes.

`MembershipDriver` passes messages, link changes and the time to `Swim` and performs
the effects that `Swim` returns. One timer follows the next deadline. The driver
applies catalog changes itself; `MembershipEvents` publishes all other events.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, assert_never

import msgspec

from mpreg_nb.membership import events as membership_events
from mpreg_nb.membership.events import (
    CatalogAnnounced,
    Close,
    Confirmed,
    Dial,
    Died,
    Effect,
    JoinCompleted,
    Joined,
    LeaveSpread,
    Left,
    LinkEvent,
    LoadChanged,
    NameFree,
    NameReplaced,
    NameTaken,
    Notify,
    Restarted,
    Send,
    Suspected,
)
from mpreg_nb.membership.swim import Swim
from mpreg_nb.node.events import Event
from mpreg_nb.protocol.gossip import CatalogPull, CatalogPush, Load, MemberState, Offer
from mpreg_nb.protocol.messages import minor_of
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.transport.connection import FailureKind, Lane
from mpreg_nb.transport.timer import DeadlineTimer

LAG_SAMPLE_S = 0.5
"""How often the lateness of the event loop is measured."""


class PeerConnections(Protocol):
    """The connections that the driver uses; `ConnectionPool` implements it."""

    def send(self, node: str, lane: Lane, message: msgspec.Struct, /) -> None:
        """Send on the connection, or queue for the dial in progress."""
        ...

    def reach(self, node: str, urls: tuple[str, ...], lane: Lane, /) -> None:
        """Dial `node` unless there is a connection or a dial in progress."""
        ...

    def close_link(self, node: str, /, *, lane: Lane) -> None:
        """Close every connection to `node` on this lane."""
        ...


class DriverTimer(Protocol):
    """The timer that the driver uses; `DeadlineTimer` implements it."""

    def set(self, due: float, /) -> None:
        """Ring at `due` or before."""
        ...

    def stop(self) -> None:
        """Never ring again."""
        ...


class MembershipDriver:
    """Connects `Swim` and the catalog of one node to its connections and a clock."""

    def __init__(
        self,
        swim: Swim,
        catalog: Catalog,
        peers: PeerConnections,
        *,
        dial_seed: Callable[[str], None],
        on_event: Callable[[membership_events.Event], None],
        on_catalog: Callable[[], None],
        measure: Callable[[], Load],
        on_lag: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[Callable[[float], None]], DriverTimer] = DeadlineTimer,
    ) -> None:
        """Send nothing before `start`.

        measure: returns the current load of this node.
        on_lag: receives how late the event loop was, in seconds, at each measurement.
        clock, timer: a simulation passes its own.
        """
        self.swim = swim
        self._catalog = catalog
        self._peers = peers
        self._dial_seed = dial_seed
        self._on_event = on_event
        self._on_catalog = on_catalog
        self._measure = measure
        self._on_lag = on_lag
        self._clock = clock
        self._alarm = timer(self._ring)
        self._sample_due = 0.0
        self._stopped = False

    # ------------------------------------------------------------ what happens

    def start(self, seeds: tuple[str, ...]) -> None:
        """Join through `seeds`, or begin a cluster without them."""
        now = self._clock()
        self._sample_due = now + LAG_SAMPLE_S
        self.perform(self.swim.join(seeds, now))

    def receive(self, message: Any, sender: str) -> None:
        """Handle a message of the control lane."""
        match message:
            case CatalogPull():
                for push in self._catalog.answer(message):
                    self._peers.send(sender, "control", push)
            case CatalogPush():
                if self._catalog.receive(message):
                    self._on_catalog()
                self._pull(self._clock())
                self._set_alarm()
            case _:
                self.swim.set_load(self._measure())  # it may ride on what is answered
                self.perform(self.swim.receive(message, sender, self._clock()))

    def link_up(self, peer: str) -> None:
        """Report that the control link to `peer` is open."""
        self.perform(self.swim.link(peer, LinkEvent.UP, self._clock()))

    def link_lost(self, peer: str, in_order: bool) -> None:
        """Report that the control link to `peer` is lost."""
        event = LinkEvent.CLOSED if in_order else LinkEvent.DOWN
        self.perform(self.swim.link(peer, event, self._clock()))

    def dial_failed(self, to: str, kind: FailureKind) -> None:
        """Report that a dial which `Swim` requested failed."""
        event = LinkEvent.REFUSED if kind == "refused" else LinkEvent.TIMED_OUT
        self.perform(self.swim.link(to, event, self._clock()))

    def announce(self, delta: tuple[Offer, ...]) -> None:
        """Announce a change of the own catalog."""
        now = self._clock()
        self.perform(self.swim.announce(self._catalog.version, delta, now))
        self._on_catalog()

    def tell_load(self, load: Load) -> None:
        """Send the load of this node to the other members."""
        self.perform(self.swim.tell_load(load, self._clock()))

    def claim(self, name: str, epoch: bytes) -> None:
        """Ping the holder of `name`, since another process claims the name."""
        self.perform(self.swim.claim(name, epoch, self._clock()))

    def leave(self, drain_s: float, reason: str) -> None:
        """Announce that this node leaves."""
        self.perform(self.swim.leave(self._clock(), drain_s=drain_s, reason=reason))

    def stop(self) -> None:
        """Stop the timer and perform no further effects."""
        self._stopped = True
        self._alarm.stop()

    # ----------------------------------------------------------------- the work

    def perform(self, effects: Iterable[Effect]) -> None:
        """Perform the effects that `Swim` returned, and set the timer again."""
        if self._stopped:
            return
        self._perform(effects)
        self._set_alarm()

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    self._peers.send(peer, "control", message)
                case Dial(to, urls):
                    if ":" in to:  # a seed: its name is not known yet
                        self._dial_seed(to)
                    else:
                        self._peers.reach(to, urls, "control")
                case Close(peer):
                    # Only its own: who leaves still answers calls on the other.
                    self._peers.close_link(peer, lane="control")
                case Notify(event):
                    self._tell(event)
                case _:
                    assert_never(effect)

    def _tell(self, event: membership_events.Event) -> None:
        now = self._clock()
        match event:
            case CatalogAnnounced(owner, generation, version, delta, heard_from):
                if delta is None:
                    self._catalog.heard(
                        owner,
                        generation=generation,
                        version=version,
                        heard_from=heard_from,
                    )
                elif self._catalog.apply(
                    owner,
                    generation=generation,
                    version=version,
                    from_version=version - 1,
                    offers=delta,
                    heard_from=heard_from,
                ):
                    self._on_catalog()
                self._pull(now)
            case Died(name) | Left(name) | Restarted(name):
                self._catalog.forget(name)
                self._on_event(event)
                self._on_catalog()
            case _:
                self._on_event(event)

    def _pull(self, now: float) -> None:
        for node, pull in self._catalog.pulls(now):
            member = self.swim.member(node)
            if member is not None:  # what is sent waits for the dial
                self._peers.reach(node, member.record.urls, "control")
            self._peers.send(node, "control", pull)

    def _set_alarm(self) -> None:
        self._alarm.set(
            min(self.swim.deadline, self._catalog.deadline, self._sample_due)
        )

    def _ring(self, now: float) -> None:
        if self._stopped:
            return
        if now >= self._sample_due:
            lag_s = now - self._sample_due
            self._sample_due = now + LAG_SAMPLE_S
            if self._on_lag is not None:
                self._on_lag(lag_s)
            self._perform(self.swim.loop_lag(lag_s, now))
        if now >= self._catalog.deadline:
            self._pull(now)
        if now >= self.swim.deadline:
            self.swim.set_load(self._measure())
            self._perform(self.swim.tick(now))
        self._set_alarm()


class Members:
    """The current members, as views for the other parts of this node."""

    def __init__(self, swim: Swim) -> None:
        self._swim = swim

    def urls_of(self, node: str) -> tuple[str, ...]:
        """Return where `node` can be reached."""
        member = self._swim.member(node)
        return member.record.urls if member is not None else ()

    def alive(self) -> dict[str, frozenset[str]]:
        """Return node -> resources of the members that are alive."""
        return self._resources(MemberState.ALIVE)

    def suspect(self) -> dict[str, frozenset[str]]:
        """Return node -> resources of the members that are suspect."""
        return self._resources(MemberState.SUSPECT)

    def not_dead(self) -> frozenset[str]:
        """Return the members that are alive or suspect: each may still hold calls."""
        return frozenset(
            member.name
            for member in self._swim.members
            if member.state <= MemberState.SUSPECT
        )

    def pythons(self) -> dict[str, str]:
        """Return node -> minor version of its Python."""
        return {
            member.name: minor_of(member.record.python) for member in self._swim.members
        }

    def workerless(self) -> frozenset[str]:
        """Return the nodes without worker processes."""
        return frozenset(
            member.name for member in self._swim.members if not member.record.workers
        )

    def holder(self, name: str) -> bytes | None:
        """Return the epoch of the process that has `name`, if it is thought alive."""
        member = self._swim.member(name)
        if member is None or member.state > MemberState.SUSPECT:
            return None
        return member.record.epoch

    def _resources(self, state: MemberState) -> dict[str, frozenset[str]]:
        return {
            member.name: member.record.resources
            for member in self._swim.members
            if member.state is state
        }


class MembershipEvents:
    """The events of membership to which the other parts of the node subscribe."""

    def __init__(self) -> None:
        self.joined = asyncio.Event()
        """Set once this node has joined others."""
        self.spread = asyncio.Event()
        """Set once others know that this node leaves."""
        self.members_changed: Event[()] = Event()
        """A member came, went, or is in doubt."""
        self.catalog_changed: Event[()] = Event()
        """What nodes offer has changed."""
        self.node_died: Event[str, str] = Event()
        """A node is dead, with the reason."""
        self.node_gone: Event[str, str] = Event()
        """A node is dead, has left or was started again, with the reason."""
        self.load_changed: Event[str, Load] = Event()
        """A node reported its load."""
        self.came: Event[str, str] = Event()
        """A node joined, with the version of its Python."""
        self.happened: Event[str, str, str] = Event()
        """For people: the node, what happened to it, and details."""
        self.name_free: Event[str, bytes] = Event()
        """The process of this epoch may have the name."""
        self.name_taken: Event[str, bytes] = Event()
        """Another live process has the name."""
        self.replaced: Event[()] = Event()
        """Another process has taken this node's name."""

    def publish(self, event: membership_events.Event) -> None:
        """Publish what the membership machine tells."""
        match event:
            case LoadChanged(name, load):
                self.load_changed(name, load)
                return
            case Joined(member):
                urls = ", ".join(sorted(member.record.urls))
                self.happened(member.name, "joined", urls)
                self.came(member.name, member.record.python)
            case Suspected(name, by):
                self.happened(name, "suspect", "by " + ", ".join(by))
            case Confirmed(name):
                self.happened(name, "alive", "")
            case Died(name, by):
                self.happened(name, "dead", "by " + ", ".join(by))
                self.node_died(name, "declared dead")
                self.node_gone(name, "declared dead")
            case Left(name, reason):
                self.happened(name, "left", reason)
                self.node_gone(name, "left")
            case Restarted(name):
                self.node_gone(name, "restarted")
            case JoinCompleted():
                self.joined.set()
            case LeaveSpread():
                self.spread.set()
            case NameFree(name, epoch):
                self.name_free(name, epoch)
                return
            case NameTaken(name, epoch):
                self.name_taken(name, epoch)
                return
            case NameReplaced():
                self.replaced()
                return
            case _:
                return
        self.members_changed()
