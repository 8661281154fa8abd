"""What a node does when members come, go, or offer something else."""

import asyncio
import time
from typing import TYPE_CHECKING

from mpreg_nb.membership.effects import (
    Confirmed,
    Died,
    Event,
    JoinCompleted,
    Joined,
    LeaveSpread,
    Left,
    LoadChanged,
    NameFree,
    NameTaken,
    Replaced,
    Restarted,
    Suspected,
)
from mpreg_nb.routing.load import Loads
from mpreg_nb.wire.gossip import Load, MemberState
from mpreg_nb.wire.versions import minor_of

if TYPE_CHECKING:
    from mpreg_nb.node.node import Node


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
