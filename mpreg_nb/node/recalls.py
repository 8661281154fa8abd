"""Moves calls that wait in a queue to nodes that are idle, and gives calls back.

A node is asked for calls by those who sent them. For the calls that it may send
elsewhere itself, because they came through it or are steps of its runs, it looks
for idle nodes: whether they wait here or where it sent them.
"""

import time
from collections.abc import Callable, Mapping

from mpreg_nb.node.lane import DataLane
from mpreg_nb.node.pending import Pending, Source
from mpreg_nb.node.running import Running
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted
from mpreg_nb.routing.stealing import Stealing
from mpreg_nb.wire.messages import Failed, Failure, Recall, Started, Waiting

Route = Callable[[Pending, float, Chosen], None]


class Recalls:
    """The waiting calls of one node."""

    def __init__(
        self,
        me: str,
        pending: Mapping[bytes, Pending],
        router: Router,
        loads: Loads,
        lane: DataLane,
        running: Running,
    ) -> None:
        self._me = me
        self._pending = pending
        self._loads = loads
        self._lane = lane
        self._running = running
        self.stealing = Stealing(router, loads)

    def bind(self, route: Route, finish: Callable[[Pending, Failed], None]) -> None:
        """Say who sends a call to a node, and who ends it."""
        self._route = route
        self._finish = finish

    def give_back(self, source: Source, message: Recall) -> None:
        """End those calls of `source` that no node runs yet."""
        for call_id in message.ids:
            pending = self._pending.get(call_id)
            if pending is None or pending.source is not source or pending.cancelled:
                continue
            if pending.node not in ("", self._me):  # that node knows whether it runs
                pending.withdrawn = True
                self._lane.send(pending.node, Recall(ids=(call_id,)))
            elif not pending.node or self._running.withdraw(pending):
                failure = Failure(kind="overloaded", node=self._me)
                self._finish(pending, pending.failed(failure, self._running.news))

    def told_waiting(self, message: Waiting) -> None:
        """Pass on that calls wait where they were sent, and look for other nodes."""
        now = time.monotonic()
        movable: list[Pending] = []
        for call_id in message.ids:
            pending = self._pending.get(call_id)
            if pending is None or pending.waiting_told:
                continue
            pending.waiting_told = True
            pending.source.send(Waiting(ids=(call_id,)))
            if message.load is not None and not movable:
                self._loads.report(pending.node, message.load, now)
            movable.append(pending)
        # Where nothing is queued, a call waits for data, and would elsewhere too.
        if message.load is not None and message.load.queued:
            self.wait(movable)

    def wait(self, calls: list[Pending]) -> None:
        """Look for idle nodes for calls that wait in a queue, here or elsewhere."""
        for pending in calls:
            call = pending.call
            if call.hops_left and call.node is None and not pending.cancelled:
                wanted = Wanted(call.function, call.version, call.resources)
                self.stealing.waits(call.id, wanted, pending.node, pending.avoid)
        self.look()

    def look(self, target: str = "") -> None:
        """Ask for what idle nodes could do; `target`: only for what this one could."""
        if not self.stealing.waiters:
            return
        now = time.monotonic()
        for node, call_ids in self.stealing.recalls(now, target).items():
            if node != self._me:
                self._lane.send(node, Recall(ids=tuple(call_ids)))
                continue
            for call_id in call_ids:
                self._move(self._pending[call_id], now)

    def came_back(self, pending: Pending, outcome: Failed) -> bool:
        """Send a call on that was asked back; False if `outcome` is its end."""
        failure = outcome.failure
        if failure.kind != "overloaded" or failure.executed != "no":
            return False
        if pending.cancelled:
            cancelled = Failure(kind="cancelled", node=failure.node)
            self._finish(pending, pending.failed(cancelled))
            return True
        now = time.monotonic()
        target = self.stealing.given_back(pending.call.id, now)
        if target is not None:
            self._send_on(pending, target, now)
        return target is not None

    def drop(self, call_id: bytes) -> None:
        """Forget a call that has begun, has ended, or is not to be moved."""
        self.stealing.drop(call_id, time.monotonic())

    def _move(self, pending: Pending, now: float) -> None:
        """Send a call on that waits here."""
        target = self.stealing.given_back(pending.call.id, now)
        if target is not None and self._running.withdraw(pending):
            self._loads.answered(self._me, None, now)
            self._send_on(pending, target, now)

    def _send_on(self, pending: Pending, target: Chosen, now: float) -> None:
        if pending.waiting_told:  # it may begin there without another word
            pending.source.send(Started(id=pending.call.id, node=target.node))
        pending.waiting_told = pending.started = False
        self._route(pending, now, target)
