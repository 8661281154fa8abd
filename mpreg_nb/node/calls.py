"""Calls that this node accepted: admission, routing, outcomes, and work stealing.

A call comes from a link or from a run of this node. It is run here, forwarded to a
node that fits (one hop), or rejected with the reason. Until it runs, it may still be
sent elsewhere. Each call ends in exactly one outcome, sent to where it came from.
`calls/pending.py` decides; here are the links, the timers, and who runs calls.

Work stealing: a call that waits can be asked back by who sent it, and moves to a node
that becomes idle once it is given back. For calls that came through it, or that are
steps of its runs, a node looks for idle nodes itself; calls that wait only for a
moment are not reported.

A node that leaves runs what has begun to its end and gives back what waits, so that it
runs elsewhere: leaving costs no call.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.calls.outcome_cache import OutcomeCache, fingerprint
from mpreg_nb.calls.pending import (
    AS_HEARD,
    ASK_ENTRY,
    Elsewhere,
    Finish,
    Outcome,
    PendingCalls,
    RouterRules,
    Stop,
    Verdict,
)
from mpreg_nb.node.executor import Executor
from mpreg_nb.node.monitor import Counters
from mpreg_nb.node.peer_requests import PeerSender
from mpreg_nb.node.pending_call import (
    Followers,
    PendingCall,
    Sink,
    broken,
    no_route,
)
from mpreg_nb.node.resumption import OrphanedCalls
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.gossip import Load
from mpreg_nb.protocol.messages import (
    PASSED_ON,
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
from mpreg_nb.protocol.worker import JobDone
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, NoCandidate, Router, UnknownVersion, Wanted
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.timer import DeadlineTimer, run_each

LEAST_TIME_MS = 5
"""A call with less time left than this is refused: it could not be answered."""

OFFERS_AGAIN_S = 0.1
"""How soon a call with time to wait is routed again that its node did not offer."""

SWEEP_S = 0.02
"""A call that is in the queue this long is reported to its caller."""

KEPT_KINDS = frozenset(("ok", "application", "too_large", "not_picklable"))
"""Outcomes that another run would not change; the call that had one runs no more."""

Payload: TypeAlias = tuple[Buffer, ...]


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
        self._credited: dict[Sink, int] = {}  # calls of each link of a client

    def credit(self, pending: PendingCall) -> bool:
        """Count a call of a client; False: it has as many on its link as it may.

        Our clients hold the others back. Nodes may pass on what many clients sent.
        """
        sink = pending.sink
        if type(sink) is not Connection or sink.peer.role == "node":
            return True
        under_way = self._credited.get(sink, 0)
        if under_way >= self._limits.calls_per_link:
            return False
        self._credited[sink] = under_way + 1
        pending.credited = sink
        return True

    def give_back(self, pending: PendingCall) -> None:
        """Count a call no more: it has ended, or its client does not wait for it."""
        sink, pending.credited = pending.credited, None
        if sink is not None:
            left = self._credited[sink] - 1
            if left:
                self._credited[sink] = left
            else:
                del self._credited[sink]

    def refusal(self, pending: PendingCall) -> Failure | None:
        """Return why a call is not taken in, if it is not."""
        waiting = len(self._pending)
        held_bytes = self.held_bytes + pending.size_bytes
        too_much = waiting and held_bytes > self._limits.queued_bytes
        if too_much or waiting >= self._limits.calls_per_node:
            return Failure(
                kind="overloaded", node=self._me, size_bytes=waiting, retry_after_ms=50
            )
        left_ms = pending.call.remaining_ms
        if left_ms is not None and left_ms <= LEAST_TIME_MS:
            return Failure(kind="deadline", node=self._me)
        return None


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
        peer_sender: PeerSender,
        executor: Executor,
        measure: Callable[[], Load],
        news: Callable[[], Load | None],
        changed: Callable[[], None],
        limits: Limits,
        counters: Counters,
        on_event: Callable[[str, str, str], None],
        engine: str = "",
    ) -> None:
        """Have no calls yet.

        engine: URL of what runs the calls, if that is not this node.
        measure, news: the load of this node, now and where it says anything new.
        changed: hears of each call that comes or goes here.
        """
        self._me = me
        self._engine = engine
        self._on_event = on_event  # of a node: what, and details
        self.router = router
        self._loads = loads
        self._peer_sender = peer_sender
        self._executor = executor
        self._measure = measure
        self._counters = counters
        self.news = news
        self._changed = changed
        self._pending: PendingCalls[PendingCall] = PendingCalls(
            RouterRules(),
            router,
            loads,
            breakers,
            here=me,
            on_breaker=self._breaker_changed,
        )
        self._calls = self._pending.calls
        self._waiters = self._pending.waiters
        self.admission = Admission(me, self._calls, limits)
        self._loop = asyncio.get_running_loop()
        self._alarm = DeadlineTimer(self._ring)
        self._sweep: asyncio.TimerHandle | None = None
        self._outcomes = OutcomeCache()
        self.orphans = OrphanedCalls(me, find=self._calls.get, cancel=self.cancel)
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._calls)

    # ------------------------------------------------------------ what happens

    def receive(
        self,
        sink: Sink,
        call: Call,
        parts: Payload = (),
        then: Followers | None = None,
    ) -> str:
        """Take in a call, return the node it went to; its outcome goes to `sink`.

        then: calls of a run, each of which needs nothing but the result of the one
            before. They come by themselves when that is there; a worker here may have
            gone on with them then, see `go_on`.
        """
        now = time.monotonic()
        pending = PendingCall(call, parts, sink, self)
        pending.began = now
        if then is not None:
            pending.then = then
        if call.id in self._calls or (call.idempotent and call.id in self._outcomes):
            return self._repeat(pending)
        refusal = self.admission.refusal(pending)
        if self.admission.draining and refusal is None:
            # A run of this node goes on elsewhere; others know another node to ask.
            if not (pending.is_own and self._fits_elsewhere(pending, now)):
                refusal = Failure(kind="draining", node=self._me)
            pending.avoid = (self._me,)
        if refusal is None and not self.admission.credit(pending):
            refusal = Failure(kind="overloaded", node=self._me, retry_after_ms=50)
        if refusal is not None:
            self._counters.refusals[refusal.kind] += 1
            sink.send(pending.failed(refusal))
            return ""
        if not self._calls:
            self.idle.clear()
        self.admission.held_bytes += pending.size_bytes
        if call.remaining_ms is None:
            self._pending.add(pending, now)
        else:
            self._pending.add(pending, now, now + call.remaining_ms / 1e3)
            self._alarm.set(pending.due)
        self._route(pending, now)
        return pending.to

    def catch_up(self) -> None:
        """Take in now what workers here have said, so that all of it is known."""
        self._executor.catch_up()

    def take_answer(self, call: Call) -> tuple[str, JobDone] | None:
        """Return version and result of a call that a worker here went on with.

        None: there is no answer yet, or one for `finish`. Else the call is over.
        """
        return self._executor.take_answer(call)

    def go_on(self, sink: Sink, call: Call) -> bool:
        """Take in a call that a worker here has gone on with; False: none has."""
        version = self._executor.goes_on_with(call.id)
        if version is None:
            return False
        now = time.monotonic()
        pending = PendingCall(call, (), sink, self)
        pending.version = version
        if not self._calls:
            self.idle.clear()
        self.admission.held_bytes += pending.size_bytes
        self._pending.add(pending, now)
        self._pending.sent(pending, self._me, self._me, now)
        self._pending.started(pending, now)
        self._changed()
        self._executor.keep(pending)
        return True

    def _repeat(self, repeat: PendingCall) -> str:
        """Take in a call whose id is known: its caller lost the link, and asks again.

        It gets the outcome that there is or will be. Where the call before is being
        ended, since its caller had gone, it begins after that, if it may run twice.
        """
        call = repeat.call
        known = self._calls.get(call.id)
        kept = self._outcomes.get(call.id)
        was = kept and kept.fingerprint
        if known is not None:
            was = fingerprint(known.call, known.parts)
        if was != fingerprint(call, repeat.parts):
            text = "another call has this id"
            failure = Failure(kind="bad_request", message=text)
            repeat.sink.send(repeat.failed(failure))
        elif known is None:
            if kept is not None:
                repeat.sink.send(kept.outcome, kept.parts)
        elif not (known.answered or known.cancelled):
            known.sink = repeat.sink
        elif call.idempotent:
            known.again = repeat
        else:
            text = "the call is being ended there, since its caller had gone"
            failure = Failure(
                kind="node_lost", message=text, node=self._me, executed="unknown"
            )
            repeat.sink.send(repeat.failed(failure))
        return "" if known is None else known.to

    def cancel(self, call_id: bytes) -> None:
        """End a call early; its caller hears of it as of any other end."""
        pending = self._calls.get(call_id)
        if pending is None:
            return
        again, pending.again = pending.again, None
        if again is not None:  # it was to begin once the call before has ended
            again.sink.send(again.failed(Failure(kind="cancelled", node=self._me)))
        self._cancel(pending)

    def _cancel(self, pending: PendingCall) -> None:
        if not self._pending.cancel(pending, time.monotonic()):
            return
        self.admission.give_back(pending)
        if pending.place is None:
            self._end(pending, Failure(kind="cancelled", executed="no"))
        else:
            self._stop(pending)

    def give_back(self, sink: Sink, message: Recall) -> None:
        """End those calls of `sink` that no node runs yet."""
        for call_id in message.ids:
            pending = self._calls.get(call_id)
            if pending is None or pending.sink is not sink or pending.cancelled:
                continue
            if pending.place not in (None, self._me):  # who has it knows if it runs
                pending.returning = True
                self._peer_sender.send(pending.to, Recall(ids=(call_id,)))
            elif pending.place is None or self._withdraw(pending):
                failure = Failure(kind="overloaded", node=self._me)
                self.finish(pending, pending.failed(failure, self.news()))

    def drain(self) -> None:
        """Take no calls of others any more, and give back what has not begun.

        That is what waits here, and what waits at the nodes it was passed on to: its
        caller asks another entry. What runs goes on, and so does what no other node
        could do.
        """
        self.admission.draining = True
        now = time.monotonic()
        recalled: dict[str, list[bytes]] = {}

        def give_back(pending: PendingCall) -> None:
            if pending.started or pending.cancelled:
                return
            if pending.place is self._me:
                if self._fits_elsewhere(pending, now) and self._withdraw(pending):
                    self._send_away(pending, now)
            elif pending.is_own:
                pass  # its run is here, and goes on for as long as this node does
            elif pending.place is None:
                self._send_away(pending, now)
            else:  # who has it knows if it runs
                pending.returning = True
                recalled.setdefault(pending.to, []).append(pending.id)

        run_each(give_back, self._pending)
        for node, ids in recalled.items():
            self._peer_sender.send(node, Recall(ids=tuple(ids)))

    def _send_away(self, pending: PendingCall, now: float) -> None:
        """Have a call of a node that leaves run elsewhere; it has not begun."""
        if pending.is_own:
            self._pending.took_back(pending, now)
            pending.avoid = (*pending.avoid, self._me)
            self._route_anew(pending, now)
        else:
            failure = Failure(kind="draining", node=self._me)
            self.finish(pending, pending.failed(failure, self.news()))

    def _fits_elsewhere(self, pending: PendingCall, now: float) -> bool:
        """Whether another node could run a call that is not bound to this one."""
        call = pending.call
        wanted = Wanted(call.function, call.version, call.resources, call.node)
        return any(c.node != self._me for c in self.router.fitting(wanted, now))

    def sink_lost(self, sink: Sink) -> None:
        """Cancel what came over a link that is gone: nobody waits for it."""

        def drop(pending: PendingCall) -> None:
            if pending.sink is sink and not self._outlives(pending):
                self._pending.answer_early(pending)
                self._cancel(pending)
            if pending.again is not None and pending.again.sink is sink:
                pending.again = None

        run_each(drop, self._pending)

    def _outlives(self, pending: PendingCall) -> bool:
        """Whether a call goes on for a while without its sink, a link that is lost.

        A node in between died, then, and the caller may come back by another one. A
        call that waits is given back instead: it certainly has not run.
        """
        passed_on = self._was_passed_on(pending)
        if not passed_on or pending.call.keep or pending.cancelled:
            return False
        self.orphans.keep(pending)
        held = pending.place is None
        if held or (pending.place is self._me and self._withdraw(pending)):
            text = "the call waited there, and was dropped"
            self._end(pending, Failure(kind="node_lost", node=self._me, message=text))
        return True

    def peer_said(self, link: Connection | None, message: Any, parts: Payload) -> bool:
        """Pass on what another node says of a call; False if it is of none here."""
        if isinstance(message, Waiting):
            self._told_waiting(link, message)
            return True
        pending = self._calls.get(message.id)
        if pending is None or pending.place is None:
            return False
        if not self._pending.has(link, pending):
            return True  # it is about an attempt that is over
        match message:
            case Reply() | Failed():
                node, now = pending.to, time.monotonic()
                self._pending.answered(pending, message, now)
                if isinstance(message, Failed):
                    self._failed(pending, message, parts, now)
                else:
                    self.finish(pending, message, parts)
                if self._waiters:
                    self.look_for_idle(node)
            case Started():
                self._pending.started(pending, time.monotonic())
                pending.sink.send(message)
            case Output() if not pending.answered:
                pending.sink.send(message, parts)
            case _:
                pass
        return True

    def link_opened(self, link: Connection) -> None:
        """Note that calls are written now which waited for a link to their node."""
        name = link.peer.name
        if self._pending.under_way(name) and self._peer_sender.link(name) is link:
            for pending in self._pending:
                if pending.place == name:
                    self._pending.arrived(pending, link, link.written)

    def link_lost(self, link: Connection, reason: str) -> None:
        """End, or send elsewhere, all that went over a link to a node."""
        now = time.monotonic()
        name = link.peer.name
        lost = self._pending.lost(
            link, now, node=name, reason=reason, received=link.received
        )

        def decide(one: tuple[PendingCall, Failed]) -> None:
            pending, failed = one
            self._failed(pending, pending.failed(failed.failure), (), now)

        run_each(decide, lost)

    def unsent(self, call_id: bytes, node: str, reason: str) -> None:
        """Find another node for a call that never reached `node`."""
        pending = self._calls.get(call_id)
        if pending is not None and pending.place == node:
            now = time.monotonic()
            failed = self._pending.unsent(pending, now, node=node, reason=reason)
            self._failed(pending, pending.failed(failed.failure), (), now)

    def look_at_own_load(self, now: float) -> None:
        """Let the router know how busy this node is at this moment."""
        self._loads.report(self._me, self._measure(), now)

    def routes_changed(self) -> None:
        """Try again what waits for a node that fits."""
        now = time.monotonic()
        run_each(lambda one: self._route(one, now), self._pending.unpark())
        self.look_for_idle()

    def look_for_idle(self, target: str = "") -> None:
        """Ask for what idle nodes could do; `target`: only for what this one could."""
        if not self._waiters:
            return
        now = time.monotonic()
        for node, calls in self._pending.recalls(now, target):
            if node != self._me:
                ids = tuple(pending.id for pending in calls)
                self._peer_sender.send(node, Recall(ids=ids))
                continue
            for pending in calls:
                chosen = self._pending.target(pending, now)
                if chosen is not None and self._withdraw(pending):
                    self._pending.took_back(pending, now)
                    self._route_anew(pending, now, chosen)

    # --------------------------------------------------------------- the course

    def _route(
        self, pending: PendingCall, now: float, target: Chosen | None = None
    ) -> None:
        try:
            self._send_where_it_fits(pending, now, target)
        except Exception as error:
            if pending.place is self._me:
                self._executor.withdraw(pending)
            self._end(pending, broken(error, self._me))
            raise  # to the handler of the loop: it costs this call, and no other

    def _send_where_it_fits(
        self, pending: PendingCall, now: float, target: Chosen | None
    ) -> None:
        call = pending.call
        node = self._me if call.hops_left == 0 else call.node
        wanted = Wanted(call.function, call.version, call.resources, node)
        choice = target or self.router.choose(wanted, now, avoid=pending.avoid)
        if type(choice) is Chosen:
            pending.version = choice.version
            if call.wait_ms and call.hops_left:  # before, there was none
                pending.waited_us = int((now - pending.began) * 1e6)
            if choice.node == self._me:
                self._pending.sent(pending, self._me, self._me, now)
                self._changed()
                if pending.then is not None:
                    pending.then = self._fitting_here(pending.then, now)
                self._executor.run(pending, choice.offer)
                if self._sweep is None:
                    self._look_soon()
            else:
                self._forward(pending, choice.node, now)
            return
        match choice:
            case UnknownVersion() if pending.sought:
                self._end(pending, Failure(kind="no_code", node=self._me))
            case UnknownVersion():
                pending.sought = True
                self._executor.obtain_then_route(pending, self._route_again)
            case NoCandidate() as refused:
                self._refuse(pending, refused, now)

    def _fitting_here(self, then: Followers, now: float) -> Followers | None:
        """Return the first of them, as far as workers of this node may run them."""
        if self.admission.draining:
            return None
        fitting: list[Call] = []
        for call in then.calls:
            wanted = Wanted(call.function, call.version, call.resources, self._me)
            found = self.router.fitting(wanted, now)
            elsewhere = call.node not in (None, self._me)
            if elsewhere or not found or found[0].offer.isolation != "process":
                break
            if call.version is None:
                call = _replace(call, version=found[0].version)
            fitting.append(call)
        return Followers(tuple(fitting), then.limit_s) if fitting else None

    def _route_again(self, pending: PendingCall, found: bool) -> None:
        if not found:
            self._end(pending, Failure(kind="no_code", node=self._me))
        elif pending.id in self._calls:  # else it was cancelled meanwhile
            self._route(pending, time.monotonic())

    def _forward(self, pending: PendingCall, node: str, now: float) -> None:
        call = pending.call
        if pending.waiting:  # that node reports only what waits in its queue
            pending.sink.send(Started(id=call.id, node=node))
        onward = _replace(
            call,
            hops_left=call.hops_left - 1,
            remaining_ms=pending.remaining_ms(now),
            holder=call.holder or (self._me if call.version is not None else None),
        )
        link = self._peer_sender.link(node)
        if link is None:  # it is dialled, see `link_opened`
            self._pending.sent(pending, node, node, now)
        else:
            self._pending.sent(pending, link, node, now, link.written)
        self._peer_sender.send(node, onward, pending.parts)

    def _refuse(self, pending: PendingCall, refused: NoCandidate, now: float) -> None:
        left_s = self._wait_left_s(pending, now)
        if left_s > 0:
            self._wait(pending, now + left_s)
        else:
            self._end(pending, no_route(refused, self._me, self._engine))

    def _wait_left_s(self, pending: PendingCall, now: float) -> float:
        """Return for how long a call still waits here for a node that fits."""
        call = pending.call
        if call.hops_left == 0 or pending.cancelled or pending.returning:
            return 0.0
        if self.admission.draining:  # its caller asks another entry
            return 0.0
        return call.wait_ms / 1e3 - (now - pending.began)

    def _wait(self, pending: PendingCall, until: float) -> None:
        if not pending.waiting:
            pending.waiting = True
            pending.sink.send(Waiting(ids=(pending.id,)))
        self._pending.park(pending, until)
        self._alarm.set(until)

    def _failed(
        self, pending: PendingCall, failed: Failed, parts: Payload, now: float
    ) -> None:
        """Decide about a call whose attempt at another node failed."""
        verdict = self._pending.failed(pending, failed.failure, now)
        left_s = self._wait_left_s(pending, now)
        if failed.failure.kind == "no_route" and verdict is AS_HEARD and left_s > 0:
            # That node does not offer it yet, or no longer: this one learns of it late.
            pending.avoid = ()
            self._wait(pending, now + min(left_s, OFFERS_AGAIN_S))
            return
        if self.admission.draining and not pending.is_own:
            why = failed.failure
            refused = why.kind in ASK_ENTRY and why.executed == "no"
            returned = pending.returning and refused and verdict is AS_HEARD
            if returned or isinstance(verdict, Elsewhere):
                # Its caller asks another entry, which finds a node for it.
                verdict = Finish(Failure(kind="draining", node=self._me))
        match verdict:
            case Elsewhere(target):
                self._route_anew(pending, now, target)
            case Finish(failure) if failure is not None:
                self._end(pending, failure)
            case _:
                self.finish(pending, failed, parts)

    def retry_elsewhere(self, pending: PendingCall) -> None:
        """Route a call anew that could not begin here after all."""
        now = time.monotonic()
        self._changed()
        failure = Failure(kind="no_route", node=self._me)
        self._failed(pending, pending.failed(failure), (), now)

    def _route_anew(
        self, pending: PendingCall, now: float, target: Chosen | None = None
    ) -> None:
        if pending.waiting:  # it may begin elsewhere without another word
            node = pending.to if target is None else target.node
            pending.sink.send(Started(id=pending.id, node=node))
        pending.waiting = False
        pending.started = 0.0
        pending.place = None
        self._route(pending, now, target)

    def _withdraw(self, pending: PendingCall) -> bool:
        """Take a call back that waits here; False: it has begun."""
        if not self._executor.withdraw(pending):
            return False
        self._changed()
        return True

    def _stop(self, pending: PendingCall) -> None:
        """Have who has a call end it."""
        if pending.place is self._me:
            self._executor.cancel(pending)
        else:
            self._peer_sender.send(pending.to, Cancel(id=pending.id))

    def began(self, pending: PendingCall) -> None:
        """Note that a call has left the queue and runs."""
        told = pending.waiting or pending.call.keep
        self._pending.started(pending, time.monotonic())
        if told:
            pending.sink.send(Started(id=pending.id, node=self._me))

    def given_back(self, pending: PendingCall) -> None:
        """Note that a call has not begun after all, and is in the queue again."""
        pending.started = 0.0
        self._look_soon()

    def finish(
        self, pending: PendingCall, outcome: Outcome, parts: Payload = ()
    ) -> None:
        """Deliver the outcome of a call and forget it."""
        if pending.id not in self._calls:
            return
        kind = outcome.failure.kind if type(outcome) is Failed else "ok"
        self._counters.outcomes[kind] += pending.call.items or 1
        here = pending.place is self._me
        owed = self._pending.end(pending, time.monotonic())
        self.admission.held_bytes -= pending.size_bytes
        self.admission.give_back(pending)
        if here:
            self._changed()
        if owed:
            if pending.expired and type(outcome) is Failed:
                outcome = pending.failed(self._pending.late(outcome.failure))
            if pending.waited_us:
                outcome = _with_wait(outcome, waited_us=pending.waited_us)
            pending.sink.send(outcome, parts)
            if here and not pending.call.keep and self._was_passed_on(pending):
                self.orphans.told(outcome, parts)
            if here and pending.call.idempotent and kind in KEPT_KINDS:
                self._outcomes.add(
                    pending.call, pending.parts, outcome, parts, time.monotonic()
                )
        if pending.again is not None:
            again = pending.again
            self.receive(again.sink, again.call, again.parts)
        if self._waiters and here:
            self.look_for_idle(self._me)
        if not self._calls:
            self.idle.set()

    def _was_passed_on(self, pending: PendingCall) -> bool:
        """Whether another node passed a call on, and is to pass its outcome on."""
        sink = pending.sink
        return isinstance(sink, Connection) and sink.peer.role == "node"

    def _end(self, pending: PendingCall, failure: Failure) -> None:
        self.finish(pending, pending.failed(failure))

    def _breaker_changed(self, node: str, event: str, function: str) -> None:
        self._on_event(node, event, f"for {function}, in calls that {self._me} routes")

    # ------------------------------------------------------ what waits in queues

    def _told_waiting(self, link: Connection | None, message: Waiting) -> None:
        """Pass on that calls wait where they were sent, and look for other nodes."""
        # Where nothing is queued, a call waits for data, and would elsewhere too.
        load = message.load
        movable = load is not None and load.queued > 0
        told = self._pending.told_waiting(message.ids, link, movable=movable)
        for pending in told:
            pending.sink.send(Waiting(ids=(pending.id,)))
        if told and load is not None:
            self._loads.report(told[0].to, load, time.monotonic())
        self.look_for_idle()

    def _look_soon(self) -> None:
        """Look at the queue in a while, if there is one and no look is due."""
        if self._sweep is None and self._executor.queued:
            self._sweep = self._loop.call_later(SWEEP_S, self._look_at_queue)

    def _look_at_queue(self) -> None:
        """Tell callers of the calls that wait here, and look for idle nodes."""
        self._sweep = None
        edge = time.monotonic() - SWEEP_S
        waiting: dict[Sink, list[bytes]] = {}
        for one in self._pending:
            if (
                one.place is self._me
                and not (one.started or one.waiting or one.answered)
                and one.began <= edge
            ):
                waiting.setdefault(one.sink, []).append(one.id)
        load = self._measure() if waiting else None
        for sink, ids in waiting.items():
            movable = load is not None and load.queued > 0
            self._pending.told_waiting(ids, self._me, movable=movable)
            sink.send(Waiting(ids=tuple(ids), load=load))
        if waiting:
            self.look_for_idle()
        self._look_soon()

    # ------------------------------------------------------------------- timers

    def _ring(self, now: float) -> None:
        run_each(lambda one: self._follow(*one, now), self._pending.tick(now))
        self._alarm.set(self._pending.deadline)

    def _follow(self, pending: PendingCall, verdict: Verdict, now: float) -> None:
        """Do what the machine says is to be done about a call by now."""
        match verdict:
            case Elsewhere():
                self._route(pending, now)
            case Stop():
                self._stop(pending)
            case Finish(failure) if failure is not None:
                if self._pending.answer_early(pending):
                    pending.sink.send(pending.failed(failure))
                self._cancel(pending)
            case _:
                raise AssertionError(f"{verdict} does not come with time")

    def end_all(self, reason: str) -> None:
        """End what is left when this node stops: nobody may wait for it in vain.

        What was passed on may run elsewhere, and its caller can ask for it there.
        """

        def end(pending: PendingCall) -> None:
            here = pending.place is self._me
            waits = pending.place is None or (here and self._withdraw(pending))
            failure = Failure(
                kind="node_lost",
                message=reason,
                node=self._me,
                executed="no" if waits else "unknown",
                cause="" if waits or here else PASSED_ON,
            )
            self._end(pending, failure)

        run_each(end, self._pending)

    def stop(self) -> None:
        """Set no timer any more."""
        self._alarm.stop()
        self.orphans.stop()
        if self._sweep is not None:
            self._sweep.cancel()
