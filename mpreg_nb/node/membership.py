"""Drives the membership machine, and reacts to members that come, go or change.

The machine says until when to sleep; one timer of the event loop follows it.
What the machine tells is passed to the node, but for the catalog's entries,
which are followed here.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, assert_never

from mpreg_nb.membership.events import (
    CatalogAnnounced,
    Close,
    Confirmed,
    Dial,
    Died,
    Effect,
    Event,
    JoinCompleted,
    Joined,
    LeaveSpread,
    Left,
    LinkEvent,
    LoadChanged,
    NameFree,
    NameTaken,
    Replaced,
    Restarted,
    Send,
    Suspected,
    Tell,
)
from mpreg_nb.membership.swim import Swim
from mpreg_nb.protocol.gossip import CatalogPull, CatalogPush, Load, MemberState, Offer
from mpreg_nb.protocol.messages import minor_of
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.load import Loads
from mpreg_nb.transport.connection import FailureKind
from mpreg_nb.transport.pool import Peers
from mpreg_nb.transport.timer import Alarm

if TYPE_CHECKING:
    from mpreg_nb.node.node import Node


LAG_SAMPLE_S = 0.5
"""How often the lateness of the event loop is measured."""


class Gossiping:
    """The control lane of one node."""

    def __init__(
        self,
        swim: Swim,
        catalog: Catalog,
        peers: Peers,
        *,
        dial_seed: Callable[[str], None],
        on_event: Callable[[Event], None],
        on_catalog: Callable[[], None],
        measure: Callable[[], Load],
    ) -> None:
        self.swim = swim
        self._catalog = catalog
        self._peers = peers
        self._dial_seed = dial_seed
        self._on_event = on_event
        self._on_catalog = on_catalog
        self._measure = measure
        self._alarm = Alarm(self._ring)
        self._sample_due = 0.0
        self._stopped = False

    # ------------------------------------------------------------ what happens

    def start(self, seeds: tuple[str, ...]) -> None:
        """Join through `seeds`, or begin a cluster without them."""
        now = time.monotonic()
        self._sample_due = now + LAG_SAMPLE_S
        self.perform(self.swim.join(seeds, now))

    def receive(self, message: Any, sender: str) -> None:
        """Take in a message of the control lane."""
        match message:
            case CatalogPull():
                for push in self._catalog.answer(message):
                    self._peers.send(sender, "control", push)
            case CatalogPush():
                if self._catalog.receive(message):
                    self._on_catalog()
                self._pull(time.monotonic())
            case _:
                self.swim.set_load(self._measure())  # it may ride on what is answered
                self.perform(self.swim.receive(message, sender, time.monotonic()))

    def link_up(self, peer: str) -> None:
        """Say that the control link to `peer` is proven and open."""
        self.perform(self.swim.link(peer, LinkEvent.UP, time.monotonic()))

    def link_lost(self, peer: str, *, in_order: bool) -> None:
        """Say that the control link to `peer` is gone."""
        event = LinkEvent.CLOSED if in_order else LinkEvent.DOWN
        self.perform(self.swim.link(peer, event, time.monotonic()))

    def dial_failed(self, to: str, kind: FailureKind) -> None:
        """Say that a dial that the machine asked for led to no link."""
        event = LinkEvent.REFUSED if kind == "refused" else LinkEvent.TIMED_OUT
        self.perform(self.swim.link(to, event, time.monotonic()))

    def announce(self, delta: tuple[Offer, ...]) -> None:
        """Tell all that the own catalog has changed by `delta`."""
        now = time.monotonic()
        self.perform(self.swim.announce(self._catalog.version, delta, now))
        self._on_catalog()

    def tell_load(self, load: Load) -> None:
        """Tell all that calls came or went here."""
        self.perform(self.swim.tell_load(load, time.monotonic()))

    def leave(self, drain_s: float, reason: str) -> None:
        """Say goodbye to all."""
        self.perform(self.swim.leave(time.monotonic(), drain_s=drain_s, reason=reason))

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True
        self._alarm.stop()

    # ----------------------------------------------------------------- the work

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry out what the machine asked for, and set the alarm anew."""
        if self._stopped:
            return
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
                    self._peers.close_link(peer)
                case Tell(event):
                    self._tell(event)
                case _:
                    assert_never(effect)
        self._set_alarm()

    def _tell(self, event: Event) -> None:
        now = time.monotonic()
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
        self._set_alarm()

    def _set_alarm(self) -> None:
        self._alarm.set(
            min(self.swim.deadline, self._catalog.deadline, self._sample_due)
        )

    def _ring(self, now: float) -> None:
        if now >= self._sample_due:
            lag_s = now - self._sample_due
            self._sample_due = now + LAG_SAMPLE_S
            self.perform(self.swim.loop_lag(lag_s, now))
        if now >= self._catalog.deadline:
            self._pull(now)
        if now >= self.swim.deadline:
            self.swim.set_load(self._measure())
            self.perform(self.swim.tick(now))
        self._set_alarm()


class NodeMembers:
    """Follows membership and the catalog for routing, placement and pictures."""

    def __init__(self, node: "Node", loads: Loads) -> None:
        self._node = node
        self._loads = loads
        self.joined = asyncio.Event()
        self.spread = asyncio.Event()

    def urls_of(self, node: str) -> tuple[str, ...]:
        """Return where `node` can be reached."""
        member = self._node.gossiping.swim.member(node)
        return member.record.urls if member is not None else ()

    def alive(self) -> dict[str, frozenset[str]]:
        """Return node -> resources of the members that are alive."""
        return {
            member.name: member.record.resources
            for member in self._node.gossiping.swim.members
            if member.state is MemberState.ALIVE
        }

    def pythons(self) -> dict[str, str]:
        """Return node -> minor version of its Python."""
        return {
            member.name: minor_of(member.record.python)
            for member in self._node.gossiping.swim.members
        }

    def workerless(self) -> frozenset[str]:
        """Return the nodes without worker processes."""
        return frozenset(
            member.name
            for member in self._node.gossiping.swim.members
            if not member.record.workers
        )

    def changed(self) -> None:
        """Route anew: a member came, went, or is in doubt."""
        suspect = {
            member.name: member.record.resources
            for member in self._node.gossiping.swim.members
            if member.state is MemberState.SUSPECT
        }
        self._node.router.update(
            self.alive(), suspect, self.pythons(), self.workerless()
        )
        self._node.calls.routes_changed()
        self._node.pictures.changed()

    def catalog_changed(self) -> None:
        """Route anew: what nodes offer has changed."""
        self._node.router.catalog_changed()
        self._node.placement.serve_missing()
        self._node.calls.routes_changed()
        self._node.pictures.changed()

    def holder(self, name: str) -> bytes | None:
        """Return the epoch of the process that has `name`, if it is thought alive."""
        member = self._node.gossiping.swim.member(name)
        if member is None or member.state > MemberState.SUSPECT:
            return None
        return member.record.epoch

    def claim(self, name: str, epoch: bytes) -> None:
        """Ask the process that has `name` whether it lives, for one that wants it."""
        gossiping = self._node.gossiping
        gossiping.perform(gossiping.swim.claim(name, epoch, time.monotonic()))

    def happened(self, event: Event) -> None:
        """Take in what membership tells."""
        note = self._node.pictures.happened
        match event:
            case LoadChanged(name, load):
                self._load_changed(name, load)
                return
            case Joined(member):
                note(member.name, "joined", ", ".join(sorted(member.record.urls)))
            case Suspected(name, by):
                note(name, "suspect", "by " + ", ".join(by))
            case Confirmed(name):
                note(name, "alive")
            case Died(name, by):
                note(name, "dead", "by " + ", ".join(by))
                self._forget(name, "declared dead")
            case Left(name, reason):
                note(name, "left", reason)
                self._forget(name, "left")
            case Restarted(name):
                self._forget(name, "restarted")
            case JoinCompleted():
                self.joined.set()
            case LeaveSpread():
                self.spread.set()
            case NameFree(name, epoch):
                self._node.links.doorman.free(name, epoch)
                return
            case NameTaken(name, epoch):
                self._node.links.doorman.taken(name, epoch)
                return
            case Replaced():
                self._node.spawn(self._node.stop(drain_s=0))
                return
            case _:
                return
        self.changed()

    def _forget(self, name: str, reason: str) -> None:
        self._node.links.node_gone(name, reason)
        self._loads.forget(name)

    def _load_changed(self, name: str, load: Load) -> None:
        self._loads.report(name, load, time.monotonic())
        self._node.calls.recalls.look()
        self._node.pictures.loads_changed(name)

    def own_load_changed(self, load: Load) -> int:
        """Tell all that calls came or went here; return how many peers were told."""
        self._loads.report(self._node.name, load, time.monotonic())
        self._node.gossiping.tell_load(load)
        self._node.pictures.loads_changed(self._node.name)
        return len(self._node.gossiping.swim.alive) - 1
