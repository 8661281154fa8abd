"""Calls that this node accepted: admission, routing, outcomes, and work stealing.

A call comes from a link or from a run of this node. It is run here, forwarded to a
node that fits (one hop), or rejected with the reason. Until it runs, it may still be
sent elsewhere. Each call ends in exactly one outcome, sent to where it came from.

Work stealing: a call that is known to wait has not run, so it can move to a node that
becomes idle, and be sent elsewhere without a doubt when its node is lost. For calls
that came through it, or that are steps of its runs, a node looks for idle nodes
itself; calls that wait only for a moment are not reported.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mpreg_nb.calls.deadlines import Deadlines
from mpreg_nb.calls.work_stealing import Stealing
from mpreg_nb.errors import Executed
from mpreg_nb.node.executor import Executor
from mpreg_nb.node.peer_requests import PeerSender
from mpreg_nb.node.pending_call import Outcome, PendingCall, Sink, no_route
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.gossip import Load
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    Failed,
    Failure,
    Output,
    Recall,
    Reply,
    Started,
    Waiting,
)
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, NoCandidate, Router, UnknownVersion, Wanted
from mpreg_nb.settings import Limits
from mpreg_nb.transport.timer import DeadlineTimer

LEAST_TIME_MS = 5
"""A call with less time left than this is refused: it could not be answered."""


class Admission:
    """The limits of one node, and what it holds."""

    def __init__(
        self, me: str, pending: Mapping[bytes, PendingCall], limits: Limits
    ) -> None:
        self._me = me
        self._pending = pending
        self._limits = limits
        self.held_bytes = 0  # arguments of all calls under way
        self.draining = False

    def refusal(self, pending: PendingCall) -> Failure | None:
        """Return why a call is not taken in, if it is not."""
        waiting = len(self._pending)
        if pending.call.id in self._pending:
            text = "a call with this id is already running"
            return Failure(kind="bad_request", message=text)
        held_bytes = self.held_bytes + pending.size_bytes
        too_much = waiting and held_bytes > self._limits.queued_bytes
        if too_much or waiting >= self._limits.calls_per_node:
            return Failure(
                kind="overloaded", node=self._me, size_bytes=waiting, retry_after_ms=50
            )
        left_ms = pending.call.remaining_ms
        if left_ms is not None and left_ms <= LEAST_TIME_MS:
            return Failure(kind="deadline", node=self._me)
        return Failure(kind="draining", node=self._me) if self.draining else None


Route = Callable[[PendingCall, float, Chosen], None]


class StealCoordinator:
    """The waiting calls of one node."""

    def __init__(
        self,
        me: str,
        pending: Mapping[bytes, PendingCall],
        router: Router,
        loads: Loads,
        lane: PeerSender,
        running: Executor,
    ) -> None:
        self._me = me
        self._pending = pending
        self._loads = loads
        self._lane = lane
        self._running = running
        self.stealing = Stealing(router, loads)

    def bind(self, route: Route, finish: Callable[[PendingCall, Failed], None]) -> None:
        """Say who sends a call to a node, and who ends it."""
        self._route = route
        self._finish = finish

    def give_back(self, source: Sink, message: Recall) -> None:
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
        movable: list[PendingCall] = []
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

    def wait(self, calls: list[PendingCall]) -> None:
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

    def came_back(self, pending: PendingCall, outcome: Failed) -> bool:
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

    def _move(self, pending: PendingCall, now: float) -> None:
        """Send a call on that waits here."""
        target = self.stealing.given_back(pending.call.id, now)
        if target is not None and self._running.withdraw(pending):
            self._loads.answered(self._me, None, now)
            self._send_on(pending, target, now)

    def _send_on(self, pending: PendingCall, target: Chosen, now: float) -> None:
        if pending.waiting_told:  # it may begin there without another word
            pending.source.send(Started(id=pending.call.id, node=target.node))
        pending.waiting_told = pending.started = False
        self._route(pending, now, target)


SWEEP_S = 0.02
"""A call that is in the queue this long is reported to its caller."""


class QueueNotifier:
    """Looks at the queue every now and then, while there is one."""

    def __init__(
        self,
        me: str,
        pending: Mapping[bytes, PendingCall],
        *,
        running: Executor,
        recalls: StealCoordinator,
        measure: Callable[[], Load],
    ) -> None:
        self._me = me
        self._pending = pending
        self._running = running
        self._recalls = recalls
        self._measure = measure
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def look_soon(self) -> None:
        """Look at the queue in a while, if there is one and no look is due."""
        if self._timer is None and self._running.queued:
            self._timer = self._loop.call_later(SWEEP_S, self._look)

    def stop(self) -> None:
        """Set no timer any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        edge = time.monotonic() - SWEEP_S
        by_source: dict[Sink, list[bytes]] = {}
        waiting: list[PendingCall] = []
        for pending in self._pending.values():
            if (
                pending.node == self._me
                and not pending.started
                and not pending.waiting_told
                and not pending.answered
                and pending.arrived <= edge
            ):
                pending.waiting_told = True
                waiting.append(pending)
                by_source.setdefault(pending.source, []).append(pending.call.id)
        if waiting:
            load = self._measure()
            for source, ids in by_source.items():
                source.send(Waiting(ids=tuple(ids), load=load))
            if load.queued:
                self._recalls.wait(waiting)
        self.look_soon()


MOST_REROUTES = 3
"""Of a call that has not run; after that its caller hears why."""

_REFUSALS = ("no_route", "draining", "overloaded", "no_code")
"""Answers of a node that did not run the call; another one may."""

_replace: Callable[..., Call] = msgspec.structs.replace
_with_wait: Callable[..., Outcome] = msgspec.structs.replace


class Calls:
    """The calls under way on one node, by id."""

    def __init__(
        self,
        me: str,
        *,
        router: Router,
        loads: Loads,
        breakers: Breakers,
        lane: PeerSender,
        running: Executor,
        measure: Callable[[], Load],
        limits: Limits,
        on_event: Callable[[str, str, str], None],
    ) -> None:
        self._me = me
        self._on_event = on_event  # of a node: what, and details
        self.router = router
        self._loads = loads
        self._breakers = breakers
        self._lane = lane
        self._running = running
        self._measure = measure
        self._pending: dict[bytes, PendingCall] = {}
        self.admission = Admission(me, self._pending, limits)
        self._parked: dict[bytes, None] = {}  # ids that wait for a node that fits
        self._deadlines = Deadlines()
        self._waits = Deadlines()
        self._alarm = DeadlineTimer(self._ring)
        self.recalls = StealCoordinator(me, self._pending, router, loads, lane, running)
        self.recalls.bind(self._route, self.finish)
        self._waiters = self.recalls.stealing.waiters
        self._waiting = QueueNotifier(
            me, self._pending, running=running, recalls=self.recalls, measure=measure
        )
        self.idle = asyncio.Event()
        self.idle.set()
        running.bind(self.finish, self.began, self.retry_elsewhere)

    def __len__(self) -> int:
        return len(self._pending)

    # ------------------------------------------------------------ what happens

    def receive(self, source: Sink, call: Call, parts: tuple[Buffer, ...] = ()) -> str:
        """Take in a call, return the node it went to; its outcome goes to `source`."""
        now = time.monotonic()
        pending = PendingCall(call, parts, source, now)
        refusal = self.admission.refusal(pending)
        if refusal is not None:
            source.send(pending.failed(refusal))
            return ""
        if not self._pending:
            self.idle.clear()
        self._pending[call.id] = pending
        self.admission.held_bytes += pending.size_bytes
        if call.remaining_ms is not None:
            due = now + call.remaining_ms / 1e3
            self._deadlines.add(call.id, due)
            self._alarm.set(due)
        self._route(pending, now)
        return pending.node

    def cancel(self, call_id: bytes) -> None:
        """End a call early; its caller hears of it as of any other end."""
        pending = self._pending.get(call_id)
        if pending is None or pending.cancelled:
            return
        pending.cancelled = True
        self.recalls.drop(call_id)
        if pending.node == self._me:
            self._running.cancel(pending)
        elif pending.node:
            self._lane.send(pending.node, Cancel(id=call_id))
        else:
            self._end(pending, Failure(kind="cancelled", executed="no"))

    def source_lost(self, source: Sink) -> None:
        """Cancel what came over a link that is gone: nobody waits for it."""
        gone = [p for p in self._pending.values() if p.source is source]
        for pending in gone:
            pending.answered = True
            self.cancel(pending.call.id)

    def peer_said(self, message: Any, parts: tuple[Buffer, ...]) -> bool:
        """Pass on what another node says of a call; False if it is of none here."""
        if isinstance(message, Waiting):
            self.recalls.told_waiting(message)
            return True
        pending = self._pending.get(message.id)
        if pending is None or pending.node in ("", self._me):
            return False
        match message:
            case Reply() | Failed():
                node = pending.node
                self._count_answer(pending, message)
                if isinstance(message, Failed):
                    self._peer_failed(pending, message, parts)
                else:
                    self.finish(pending, message, parts)
                if self._waiters:
                    self.recalls.look(node)
            case Started():
                pending.started = True
                self.recalls.drop(message.id)
                pending.source.send(message)
            case Output() if not pending.answered:
                pending.source.send(message, parts)
            case _:
                pass
        return True

    def unsent(self, call_id: bytes, node: str, reason: str) -> None:
        """Find another node for a call that never reached `node`."""
        pending = self._pending.get(call_id)
        if pending is not None and pending.node == node:
            self._loads.answered(node, None, time.monotonic())
            self._failed_there(pending, node, reason, executed="no")

    def peer_lost(self, node: str, reason: str) -> None:
        """End, or send elsewhere, all that `node` had."""
        for pending in [p for p in self._pending.values() if p.node == node]:
            waited = pending.waiting_told and not pending.started
            self._failed_there(
                pending, node, reason, executed="no" if waited else "unknown"
            )

    def look_at_own_load(self, now: float) -> None:
        """Let the router know how busy this node is at this moment."""
        self._loads.report(self._me, self._measure(), now)

    def routes_changed(self) -> None:
        """Try again what waits for a node that fits."""
        now = time.monotonic()
        for call_id in list(self._parked):
            del self._parked[call_id]
            self._route(self._pending[call_id], now)
        self.recalls.look()

    # --------------------------------------------------------------- the course

    def _route(
        self, pending: PendingCall, now: float, target: Chosen | None = None
    ) -> None:
        call = pending.call
        node = self._me if call.hops_left == 0 else call.node
        wanted = Wanted(call.function, call.version, call.resources, node)
        match target or self.router.choose(wanted, now, avoid=pending.avoid):
            case Chosen(chosen, version, offer):
                pending.version = version
                if call.wait_ms and call.hops_left:  # before, there was none
                    pending.waited_us = int((now - pending.arrived) * 1e6)
                if self._breakers:
                    self._breakers.sent(chosen, call.function, now)
                self._loads.sent(chosen)
                pending.node = chosen
                if chosen == self._me:
                    self._running.run(pending, offer)
                    self._waiting.look_soon()
                else:
                    self._forward(pending, chosen, now)
            case UnknownVersion() if pending.sought:
                self._end(pending, Failure(kind="no_code", node=self._me))
            case UnknownVersion():
                pending.sought = True
                self._running.obtain_then_route(pending, self._route_again)
            case NoCandidate() as refused:
                self._refuse(pending, refused, now)

    def _route_again(self, pending: PendingCall, found: bool) -> None:
        if not found:
            self._end(pending, Failure(kind="no_code", node=self._me))
        elif pending.call.id in self._pending:  # else it was cancelled meanwhile
            self._route(pending, time.monotonic())

    def _forward(self, pending: PendingCall, node: str, now: float) -> None:
        call = pending.call
        pending.sent = now
        if pending.waiting_told:  # that node reports only what waits in its queue
            pending.waiting_told = False
            pending.source.send(Started(id=call.id, node=node))
        onward = _replace(
            call,
            hops_left=call.hops_left - 1,
            remaining_ms=pending.remaining_ms(now),
            holder=call.holder or (self._me if call.version is not None else None),
        )
        self._lane.send(node, onward, pending.parts)

    def _refuse(self, pending: PendingCall, refused: NoCandidate, now: float) -> None:
        call = pending.call
        left_s = call.wait_ms / 1e3 - (now - pending.arrived)
        if left_s > 0 and call.hops_left > 0:
            pending.node = ""
            if not pending.waiting_told:
                pending.waiting_told = True
                pending.source.send(Waiting(ids=(call.id,)))
            self._parked[call.id] = None
            self._waits.add(call.id, now + left_s)
            self._alarm.set(now + left_s)
            return
        self._end(pending, no_route(refused, self._me))

    def _peer_failed(
        self, pending: PendingCall, message: Failed, parts: tuple[Buffer, ...]
    ) -> None:
        if self.recalls.came_back(pending, message):
            return
        refused = message.failure.kind in _REFUSALS and not pending.withdrawn
        if refused and pending.reroutes < MOST_REROUTES and not pending.cancelled:
            self._try_elsewhere(pending, pending.node)
        else:
            self.finish(pending, message, parts)

    def _failed_there(
        self, pending: PendingCall, node: str, reason: str, *, executed: Any
    ) -> None:
        now = time.monotonic()
        if self._breakers.failed(node, pending.call.function, now):
            self._breaker_changed("breaker open", node, pending.call.function)
        lost = Failure(kind="node_lost", message=reason, node=node, executed=executed)
        again = executed == "no" and pending.reroutes < MOST_REROUTES
        if again and not pending.cancelled:
            self._try_elsewhere(pending, node)
        else:
            self._end(pending, lost)

    def retry_elsewhere(self, pending: PendingCall) -> None:
        """Route a call anew that could not begin here after all."""
        self._loads.answered(self._me, None, time.monotonic())
        self._try_elsewhere(pending, self._me)

    def _try_elsewhere(self, pending: PendingCall, not_at: str) -> None:
        self.recalls.drop(pending.call.id)
        if pending.waiting_told:  # it may begin elsewhere without another word
            pending.source.send(Started(id=pending.call.id, node=not_at))
        pending.reroutes += 1
        pending.node = ""
        pending.started = pending.waiting_told = False
        pending.avoid = (*pending.avoid, not_at)
        self._route(pending, time.monotonic())

    def began(self, pending: PendingCall) -> None:
        """Note that a call has left the queue and runs."""
        pending.started = True
        if self._waiters:
            self.recalls.drop(pending.call.id)
        if pending.waiting_told or pending.call.keep:
            pending.source.send(Started(id=pending.call.id, node=self._me))

    def finish(
        self, pending: PendingCall, outcome: Outcome, parts: tuple[Buffer, ...] = ()
    ) -> None:
        """Deliver the outcome of a call and forget it."""
        call = pending.call
        if self._pending.pop(call.id, None) is None:
            return
        if self._waiters:
            self.recalls.drop(call.id)
        if pending.node == self._me:
            self._loads.answered(self._me, None, time.monotonic())
        self.admission.held_bytes -= pending.size_bytes
        if call.remaining_ms is not None:
            self._deadlines.drop(call.id)
        if self._parked:
            self._parked.pop(call.id, None)
        if self._waits:
            self._waits.drop(call.id)
        if not pending.answered:
            pending.answered = True
            if pending.waited_us:
                outcome = _with_wait(outcome, waited_us=pending.waited_us)
            pending.source.send(outcome, parts)
        if self._waiters and pending.node == self._me:
            self.recalls.look(self._me)
        if not self._pending:
            self.idle.set()

    def _end(self, pending: PendingCall, failure: Failure) -> None:
        self.finish(pending, pending.failed(failure))

    def _count_answer(self, pending: PendingCall, outcome: Outcome) -> None:
        now = time.monotonic()
        elsewhere_s = (outcome.queued_us + outcome.run_us) / 1e6
        self._loads.answered(pending.node, now - pending.sent - elsewhere_s, now)
        if outcome.load is not None:
            self._loads.report(pending.node, outcome.load, now)
        if self._breakers and self._breakers.succeeded(
            pending.node, pending.call.function
        ):
            self._breaker_changed("breaker closed", pending.node, pending.call.function)

    def _breaker_changed(self, event: str, node: str, function: str) -> None:
        self._on_event(node, event, f"for {function}, in calls that {self._me} routes")

    # ------------------------------------------------------------------- timers

    def _ring(self, now: float) -> None:
        for call_id in self._deadlines.tick(now):
            self._deadline_passed(self._pending[call_id])
        for call_id in self._waits.tick(now):
            if call_id in self._parked:
                del self._parked[call_id]
                self._route(self._pending[call_id], now)
        self._alarm.set(min(self._deadlines.next, self._waits.next))

    def _deadline_passed(self, pending: PendingCall) -> None:
        begun = bool(pending.node) and (pending.started or not pending.waiting_told)
        executed: Executed = "unknown" if begun else "no"
        if not pending.answered:
            pending.answered = True
            failure = Failure(kind="deadline", executed=executed, node=pending.node)
            pending.source.send(pending.failed(failure))
        self.cancel(pending.call.id)

    def stop(self) -> None:
        """Set no timer any more."""
        self._alarm.stop()
        self._waiting.stop()
