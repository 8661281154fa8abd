"""Passes on what clients and the drivers of runs say that have no link of their own.

Ids are unique in the world, so nothing is renamed on the way: an answer goes to who
asked with its id, news of a run to all who follow it through here.
"""

from typing import Any

from mpreg_nb.node.lane import DataLane
from mpreg_nb.node.pending import Source
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.history import RunResume, RunTold, RunWatch
from mpreg_nb.wire.messages import (
    Cancel,
    Failed,
    Failure,
    Relay,
    SpaceClose,
    SpaceOpen,
)
from mpreg_nb.wire.runs import RunState


class Relays:
    """The questions that are under way through this node, and the runs followed."""

    def __init__(self, lane: DataLane) -> None:
        self._lane = lane
        self._asked: dict[bytes, tuple[str, Source]] = {}  # question -> node, who
        self._spaces: dict[bytes, tuple[str, Source]] = {}  # space -> node, whose
        self._followed: dict[bytes, tuple[str, list[Source]]] = {}  # run -> node, who

    def pass_on(self, source: Source, relay: Relay) -> None:
        """Send what a client said to the node that it is for."""
        message = relay.message
        if not isinstance(message, Cancel | SpaceClose):
            self._asked[message.id] = (relay.node, source)
        match message:
            case SpaceOpen(id=space):
                self._spaces[space] = (relay.node, source)
            case SpaceClose(id=space):
                self._spaces.pop(space, None)
            case RunWatch(run=run) | RunResume(new=run):
                _, sources = self._followed.setdefault(run, (relay.node, []))
                if source not in sources:
                    sources.append(source)
            case _:
                pass
        self._lane.send(relay.node, message)

    def answered(self, message: Any, parts: tuple[Buffer, ...]) -> bool:
        """Pass on what a node said; False if nobody waits for it here."""
        _, followers = self._followed.get(message.id, ("", []))
        _, asker = self._asked.pop(message.id, ("", None))
        for source in followers if asker is None else (asker,):
            source.send(message, parts)
        if isinstance(message, RunTold) and message.run.status != "running":
            self._followed.pop(message.run.run, None)
        elif isinstance(message, RunState) and message.status != "running":
            self._followed.pop(message.id, None)
        return asker is not None or bool(followers)

    def source_lost(self, source: Source) -> None:
        """Tell a client that is gone nothing more."""
        self._asked = {
            key: pair for key, pair in self._asked.items() if pair[1] is not source
        }
        for space, (node, owner) in list(self._spaces.items()):
            if owner is source:
                del self._spaces[space]
                self._lane.send(node, SpaceClose(id=space))
        for run, (_, sources) in list(self._followed.items()):
            if source in sources:
                sources.remove(source)
            if not sources:
                del self._followed[run]

    def node_gone(self, node: str, reason: str) -> None:
        """Answer all that `node` was asked, and all who follow its runs."""
        failure = Failure(kind="node_lost", message=reason, node=node)
        asked = [key for key, (to, _) in self._asked.items() if to == node]
        followed = [run for run, (to, _) in self._followed.items() if to == node]
        for key in (*asked, *followed):
            self.answered(Failed(id=key, failure=failure), ())
        for space in [key for key, (to, _) in self._spaces.items() if to == node]:
            del self._spaces[space]
        for run in followed:
            self._followed.pop(run, None)
