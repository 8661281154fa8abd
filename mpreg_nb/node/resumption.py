"""Calls whose way to their caller is gone, and callers who come back for them.

A call may run here while the node that passed it on dies. Its caller takes another
entry and asks that one to go on with the call (`Resume`). So what runs is not cancelled
at once: for a while it runs on, or its outcome is kept, until somebody asks for it.
An outcome that was told to the node in between may die with that node, so it is kept
for a while too (`ToldOutcomes`): that it arrived there says nothing.

`OrphanedCalls` keeps them on the node that runs them. `Resumption` answers callers:
from what is kept here, or by asking all other nodes. If nobody has the call, nobody
knows whether it ran.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from mpreg_nb.node.peer_requests import PeerSender
from mpreg_nb.node.pending_call import PendingCall, Sink
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.messages import (
    PASSED_ON,
    Cancel,
    Failed,
    Failure,
    NotHeld,
    Reply,
    Resume,
    Started,
    Waiting,
)
from mpreg_nb.transport.connection import Connection

KEPT_S = 10.0
"""How long a call waits for its caller to come back."""

KEPT_BYTES = 64 << 20
"""Outcomes that are kept; one that does not fit is forgotten."""

TOLD_S = 20.0
"""How long an outcome is kept that was told to the node in between. A caller notices
that a link is silent within 10 s."""

MOST_TOLD = 10_000

ANSWER_S = 5.0
"""Nodes that do not say within this time whether they have a call may hang. Shorter
than `KEPT_S`, long enough for a busy machine: a call that is given up is lost."""


class _Kept:
    """Takes what becomes of a call in place of its caller."""

    __slots__ = ("outcome", "parts", "pending", "until_s")

    def __init__(self, pending: PendingCall, until_s: float) -> None:
        self.pending = pending
        self.until_s = until_s
        self.outcome: Reply | Failed | None = None
        self.parts: Parts = ()

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Keep the outcome; what the call prints is not heard."""
        if isinstance(message, Reply | Failed):
            self.outcome, self.parts = message, parts

    @property
    def size_bytes(self) -> int:
        """Return what is held for it."""
        return 0 if self.outcome is None else _size_bytes(self.outcome, self.parts)


class ToldOutcomes:
    """The last outcomes that went to nodes in between, the oldest first."""

    def __init__(self) -> None:
        self._told: OrderedDict[bytes, tuple[Reply | Failed, Parts, float]]
        self._told = OrderedDict()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._told)

    def add(self, outcome: Reply | Failed, parts: Parts, now: float) -> None:
        """Keep an outcome, unless it is larger than all may be together."""
        size_bytes = _size_bytes(outcome, parts)
        self._drop(outcome.id)
        if size_bytes > KEPT_BYTES:
            return
        self._told[outcome.id] = outcome, parts, now + TOLD_S
        self._held_bytes += size_bytes
        while self._held_bytes > KEPT_BYTES or len(self._told) > MOST_TOLD:
            self._drop(next(iter(self._told)))

    def get(self, call_id: bytes) -> tuple[Reply | Failed, Parts] | None:
        """Return the outcome of a call, if it is kept."""
        told = self._told.get(call_id)
        return None if told is None else told[:2]

    def forget_old(self, now: float) -> None:
        """Forget what nobody asks for any more."""
        while self._told:
            call_id, (_, _, until) = next(iter(self._told.items()))
            if until > now:
                break
            self._drop(call_id)

    def _drop(self, call_id: bytes) -> None:
        told = self._told.pop(call_id, None)
        if told is not None:
            self._held_bytes -= _size_bytes(*told[:2])


def _size_bytes(outcome: Reply | Failed, parts: Parts) -> int:
    return len(outcome.payload) + (sum(map(len, parts)) if parts else 0)


class OrphanedCalls:
    """The calls of this node whose caller is out of reach, or may be."""

    def __init__(
        self,
        me: str,
        *,
        find: Callable[[bytes], PendingCall | None],
        cancel: Callable[[bytes], object],
    ) -> None:
        """Keep none yet.

        find: returns a call that is in progress here.
        cancel: ends a call for which nobody came back in time.
        """
        self._me = me
        self._find = find
        self._cancel = cancel
        self._kept: dict[bytes, _Kept] = {}  # the oldest first
        self.idle = asyncio.Event()
        """Set while no call waits for its caller."""
        self.idle.set()
        self._told = ToldOutcomes()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._kept) + len(self._told)

    def keep(self, pending: PendingCall) -> None:
        """Take what becomes of a call from now on."""
        kept = self._kept[pending.id] = _Kept(pending, self._loop.time() + KEPT_S)
        pending.sink = kept
        self.idle.clear()
        self._look_at(kept.until_s)

    def told(self, outcome: Reply | Failed, parts: Parts) -> None:
        """Keep an outcome that went to a node in between, which may be gone.

        Not that a call did not run here: the node in between may have heard that, and
        have sent the call to another node, where it runs.
        """
        if isinstance(outcome, Failed) and outcome.failure.executed == "no":
            return
        now = self._loop.time()
        self._told.add(outcome, parts, now)
        if self._timer is None:
            self._look_at(now + KEPT_S)

    def _look_at(self, when_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_at(when_s, self._look)

    def hand_over(self, call_id: bytes, caller: Sink, entry: str) -> bool:
        """Let `caller` hear of the call from now on; False: it is not here.

        entry: the node that had passed it on. That it is lost may be news here.
        """
        told = self._told.get(call_id)
        if told is not None:
            caller.send(*told)
            return True
        kept = self._drop(call_id)
        pending = self._find(call_id) if kept is None else kept.pending
        if kept is not None and kept.outcome is not None:
            caller.send(kept.outcome, kept.parts)
        elif pending is not None and (kept is not None or _came_by(pending, entry)):
            pending.sink = caller
            if pending.started or pending.place != self._me:
                caller.send(Started(id=call_id, node=self._me))
            else:
                caller.send(Waiting(ids=(call_id,)))
        else:
            return False
        return True

    def stop(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Give up the calls for which nobody came, and outcomes that are too large."""
        self._timer = None
        now, held_bytes = self._loop.time(), 0
        for call_id, kept in list(self._kept.items()):
            held_bytes += kept.size_bytes
            if now >= kept.until_s:
                self._drop(call_id)
                if kept.outcome is None and kept.pending.sink is kept:
                    self._cancel(call_id)  # else its caller sent it again
            elif held_bytes > KEPT_BYTES:
                held_bytes -= kept.size_bytes
                self._drop(call_id)
        self._told.forget_old(now)
        if self._kept:
            self._look_at(next(iter(self._kept.values())).until_s)
        elif len(self._told):
            self._look_at(now + KEPT_S)

    def _drop(self, call_id: bytes) -> _Kept | None:
        kept = self._kept.pop(call_id, None)
        if not self._kept:
            self.idle.set()
        return kept


def _came_by(pending: PendingCall, node: str) -> bool:
    sink = pending.sink
    return isinstance(sink, Connection) and sink.peer.name == node


class _Sought(msgspec.Struct, eq=False):
    """A call that another node may have."""

    caller: Connection
    entry: str  # the node that its caller lost
    asked: set[str] = set()  # have not said that they lack it
    holder: str = ""
    is_cancelled: bool = False  # all that may have it were told


class Resumption:
    """Answers the callers that lost the node by which they had sent calls."""

    def __init__(
        self,
        me: str,
        *,
        peer_sender: PeerSender,
        members: Callable[[], Collection[str]],
        orphans: OrphanedCalls,
    ) -> None:
        self._me = me
        self._peer_sender = peer_sender
        self._members = members
        self._orphans = orphans
        self._sought: dict[bytes, _Sought] = {}
        self._ended = ""  # why this node asks no others any more
        self._loop = asyncio.get_running_loop()

    def receive(self, link: Connection, message: Resume) -> None:
        """Go on with calls of a client, or say to another node which are not here."""
        missing = tuple(
            call_id
            for call_id in message.ids
            if not self._orphans.hand_over(call_id, link, message.entry)
        )
        if not missing:
            return
        if link.peer.role == "node":
            link.send(NotHeld(ids=missing))
            return
        if self._ended:
            for call_id in missing:
                self._send_on(link, call_id)
            return
        others = set(self._members()) - {self._me, message.entry}
        for call_id in missing:
            self._sought[call_id] = _Sought(link, message.entry, set(others))
        for node in others:
            self._peer_sender.send(node, Resume(ids=missing, entry=message.entry))
        if others:
            self._loop.call_later(ANSWER_S, self._give_up, missing)
        else:
            self._give_up(missing)

    def unsent(self, node: str, message: Resume) -> None:
        """Note that a node cannot be asked for calls."""
        for call_id in message.ids:
            self._lacks(call_id, node)

    def answered(self, link: Connection | None, message: Any, parts: Parts) -> bool:
        """Pass on what the node says that has a call; False: none here asked for it."""
        if link is None:
            return False
        node = link.peer.name
        if isinstance(message, NotHeld):
            for call_id in message.ids:
                self._lacks(call_id, node)
            return True
        sought = self._sought.get(message.id)
        if sought is None:
            return False
        sought.holder = node
        if isinstance(message, Reply | Failed):
            del self._sought[message.id]
        sought.caller.send(message, parts)
        return True

    def waiting(self, link: Connection | None, message: Waiting, parts: Parts) -> bool:
        """Pass on that calls wait where they were found; others hear of it too."""
        for call_id in message.ids:
            sought = self._sought.get(call_id)
            if sought is not None and link is not None:
                sought.holder = link.peer.name
                sought.caller.send(Waiting(ids=(call_id,)))
        return False

    def cancel(self, call_id: bytes) -> None:
        """Have the node end a call that has it, or each that may have it."""
        sought = self._sought.get(call_id)
        if sought is None or sought.is_cancelled:
            return
        sought.is_cancelled = True
        # Behind `Resume`, after which who has the call heeds what this node says of it.
        for node in (sought.holder,) if sought.holder else sorted(sought.asked):
            self._peer_sender.send(node, Cancel(id=call_id))

    def node_lost(self, link: Connection, reason: str) -> None:
        """End what a node had that is gone."""
        node = link.peer.name
        for call_id, sought in list(self._sought.items()):
            if sought.holder == node:
                self._end(call_id, node, reason)
            elif not sought.holder:
                self._lacks(call_id, node)

    def sink_lost(self, sink: Sink) -> None:
        """Forget the calls of a client that is gone too."""
        for call_id, sought in list(self._sought.items()):
            if sought.caller is sink:
                self.cancel(call_id)
                del self._sought[call_id]

    def end_all(self, reason: str) -> None:
        """Have the callers ask another node: this one stops."""
        self._ended = reason
        for call_id, sought in self._sought.items():
            self._send_on(sought.caller, call_id)
        self._sought.clear()

    def _send_on(self, caller: Connection, call_id: bytes) -> None:
        """Have a client look for its call by another node."""
        failure = Failure(
            kind="node_lost",
            message=self._ended,
            node=self._me,
            executed="unknown",
            cause=PASSED_ON,
        )
        caller.send(Failed(id=call_id, failure=failure))

    def _lacks(self, call_id: bytes, node: str) -> None:
        sought = self._sought.get(call_id)
        if sought is None or sought.holder:
            return
        sought.asked.discard(node)
        if not sought.asked:
            self._give_up((call_id,))

    def _give_up(self, call_ids: Iterable[bytes]) -> None:
        for call_id in call_ids:
            sought = self._sought.get(call_id)
            if sought is not None and not sought.holder:
                reason = "it had passed the call on, and no other node has it"
                self._end(call_id, sought.entry, reason)

    def _end(self, call_id: bytes, node: str, reason: str) -> None:
        sought = self._sought.pop(call_id)
        failure = Failure(
            kind="node_lost", message=reason, node=node, executed="unknown"
        )
        sought.caller.send(Failed(id=call_id, failure=failure))
