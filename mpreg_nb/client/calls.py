"""Calls of this client: where each is sent, when it is retried, how it ends.

The client owns its calls: it keeps the request until there is an outcome, and
only it tries again. A call goes straight to a node that fits where there is a
link, else through the node of the entry. `calls/pending.py` decides; here are the
links, the timer, and who waits for outcomes.

On each link only so many calls are on their way at once; the others wait here, where
they cost a node nothing and can still go to any.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from msgspec.structs import replace

from mpreg_nb.calls.pending import (
    AS_HEARD,
    CallerRules,
    CallState,
    Elsewhere,
    Finish,
    Outcome,
    PendingCalls,
    RegisterAgain,
    Stop,
    Verdict,
)
from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.client.connections import Connections
from mpreg_nb.client.leases import Key, LeasedWorkers, WorkerLink
from mpreg_nb.client.output import OutputBuffer, Writer
from mpreg_nb.errors import Executed, PayloadTooLarge
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import (
    LEASE_OVER,
    PASSED_ON,
    Call,
    Cancel,
    EngineRef,
    Failed,
    Failure,
    LeaseAnswer,
    LeasedCalls,
    LeaseRevoked,
    Output,
    Recall,
    Reply,
    ResultRef,
    Resume,
    Started,
    Waiting,
)
from mpreg_nb.protocol.worker import Job, JobDone, JobFailed, JobPrinted, Returned
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted
from mpreg_nb.serialize.chunks import Items, job_failure
from mpreg_nb.serialize.pickle import size_bytes
from mpreg_nb.settings import INLINE_BYTES, Limits
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.timer import DeadlineTimer, run_each

LATE_PRINTS = 64
"""Calls that have ended, and whose prints past Python may still come."""

STOPPED = "the client was closed"

QUEUE_REPORT_S = 0.1
"""A node reports within this time that a call waits in its queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What narrows a call. Times in seconds; None: no limit."""

    resources: frozenset[str] = frozenset()
    node: str | None = None
    timeout_s: float | None = None
    wait_s: float = 0.0
    version: str | None = None
    holder: str | None = None
    idempotent: bool = False
    space: bytes = b""  # in whose worker it runs
    label: str = ""  # names the call in errors, instead of its function
    inputs: tuple[ResultRef | EngineRef, ...] = ()  # that its arguments refer to
    # Held, so that it can be registered again for as long as somebody may call it.
    shipment: object = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere nobody needs the code of a function to narrow a call.
        values = [getattr(self, each.name) for each in fields(self)]
        return _remade, (*values[:-1],)


def _remade(*values: Any) -> CallOptions:
    return CallOptions(
        **{each.name: v for each, v in zip(fields(CallOptions), values, strict=False)}
    )


PLAIN = CallOptions()


@dataclass(eq=False, kw_only=True)
class ActiveCall(CallState):
    """One call of this client, until its outcome.

    Python reads attributes fast as long as an object has at most 30 of its own.
    """

    function: str
    payload: bytes
    parts: tuple[Buffer, ...]
    done: Callable[["ActiveCall", Outcome, tuple[Buffer, ...]], None]
    writer: Writer
    # Holds the code of its function, too, until the call has ended.
    options: CallOptions = PLAIN
    folder: bytes = b""  # that the caller works in
    # From its first print on.
    prints: OutputBuffer | None = field(default=None, init=False)
    # The node that runs it, where that is known.
    at: str = field(default="", init=False)
    pack_us: int = 0
    items: Items = ()  # of a chunk, see serialize.chunks
    # Of calls that wait for it.
    depth: int = field(default=0, init=False)
    # No worker is to have it directly.
    by_node: bool = field(default=False, init=False)
    blocks: bool = False  # a thread waits for it, and for nothing else
    # A worker that has it from this thread, until the loop goes on with it.
    asked: WorkerLink | None = field(default=None, init=False)
    holds: object = field(default=None, init=False)  # keeps some of its inputs

    @property
    def wanted(self) -> Wanted:
        """What it asks of a node."""
        options = self.options
        return Wanted(self.function, options.version, options.resources, options.node)

    @property
    def version(self) -> str | None:
        """The version of the function; None: the newest."""
        return self.options.version

    @property
    def node(self) -> str | None:
        """The one node that may run it; None: any."""
        return self.options.node

    @property
    def is_movable(self) -> bool:
        """Whether this client chose its node, and may choose another."""
        return bool(self.to) and self.node is None

    @property
    def link(self) -> Connection | None:
        """Where it was sent, or what stands for it: `WorkerLink`; None: it is held."""
        return self.place  # type: ignore[return-value]  # no other places here

    @property
    def shown_node(self) -> str:
        """The node that has it, or the one that it is meant for; "" if unknown."""
        return self.at or self.to or self.node or ""

    def let_go(self) -> None:
        """Hold neither the arguments nor who waited, now that it has ended."""
        self.payload, self.parts, self.done = b"", (), _ended
        self.items, self.holds = (), None

    @property
    def is_running(self) -> bool:
        """Whether a node runs the call, as far as the client knows.

        A node does not report each start. It reports a call that waits in its queue.
        """
        if self.place is None or self.waiting:
            return False
        is_seen = bool(self.started or self.at)
        return is_seen or time.monotonic() - self.sent >= QUEUE_REPORT_S

    @property
    def shown_name(self) -> str:
        """The name of the function for errors and progress."""
        return self.options.label or self.function


def _ended(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
    """Stand for who waited for a call that has its one outcome."""
    raise AssertionError(f"the call {call.id.hex()} has ended already")


Reregister: TypeAlias = Callable[[str], Awaitable[bool]]
"""Registers a version again that a cluster has lost, and says whether it could."""


def inline(parts: Parts, limits: Limits) -> tuple[bytes, tuple[Buffer, ...]]:
    """Return (payload, ()) for what travels inside a message, else (b"", parts).

    Raises:
        PayloadTooLarge: the parts are larger than one message may carry.
    """
    if len(parts) == 1:
        part = parts[0]
        if type(part) is bytes and len(part) <= INLINE_BYTES:
            return part, ()
    size = size_bytes(parts)
    if size > limits.max_payload_bytes:
        raise PayloadTooLarge("what is sent", size, limits.max_payload_bytes)
    return b"", tuple(parts)


class ClientCalls:
    """The calls of one client, by id. Everything here runs on the loop's thread."""

    def __init__(
        self,
        links: Connections,
        state: ClusterState,
        *,
        direct: bool,
        reregister: Reregister,
        new_id: Callable[[], bytes],
        to_workers: Callable[[], bool],
        calls_per_link: int = 256,
    ) -> None:
        """to_workers: whether calls may go straight to workers of this machine."""
        self._links = links
        self._state = state
        self._direct = direct
        self._reregister = reregister
        self._calls_per_link = calls_per_link
        self._loads = Loads()
        self._epochs: dict[str, bytes] = {}  # of the process behind each name
        chance = random.Random()  # noqa: S311 - spreads load, guards nothing
        breakers = Breakers()
        self.router = Router(None, state, self._loads, breakers, chance)
        self._breakers = breakers
        self._pending: PendingCalls[ActiveCall] = PendingCalls(
            CallerRules(chance), self.router, self._loads, breakers
        )
        self._calls = self._pending.calls
        self._waiters = self._pending.waiters
        self._lines = self._pending.lines
        self._leases = LeasedWorkers(
            is_wanted=to_workers,
            workers_of=lambda node: self._workers.get(node, (1, 1)),
            new_id=new_id,
            said=self._worker_said,
            returned=self._worker_returned,
            lost=self._worker_lost,
            decided=lambda: self._send_held(time.monotonic()),
        )
        self._late_prints: deque[tuple[bytes, Writer]] = deque(maxlen=LATE_PRINTS)
        # The worker that had the last call of a kind, if it can have more.
        self._last_worker: dict[Wanted, WorkerLink] = {}
        self._several = False  # whether there is anything to choose
        self._only = ""  # the one node that is alive, "" if it is not the only one
        # Of each node: how many workers, and the slots of each.
        self._workers: dict[str, tuple[int, int]] = {}
        self._loop = asyncio.get_running_loop()
        self._alarm = DeadlineTimer(self._ring)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._sends_held = False  # just now
        self._has_room = False  # maybe, for what is held

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of the calls under way that nobody has cancelled."""
        return tuple(call.function for call in self._pending if not call.cancelled)

    @property
    def active(self) -> tuple[ActiveCall, ...]:
        """The calls that are under way. May be read on any thread."""
        return tuple(self._pending)

    def __len__(self) -> int:
        return len(self._calls)

    # ------------------------------------------------------------ what happens

    def start(self, call: ActiveCall) -> None:
        """Send a call; `call.done` hears of its outcome, exactly once."""
        now = time.monotonic()
        pending = self._pending
        timeout_s = call.options.timeout_s
        if timeout_s is None:
            pending.add(call, now)
        else:
            pending.add(call, now, now + timeout_s)
            self._alarm.set(call.due)
        if self._is_stopped:  # another thread called while the client was closed
            self._closed(call)
        elif self._lines and pending.is_held(call.wanted):
            pending.hold(call)
        elif not self._try_to_send(call, now):
            pending.hold(call)

    def start_all(self, calls: list[ActiveCall]) -> None:
        """Send calls that came together, so that their answers may come so, too."""
        if len(calls) > 1:
            self._leases.several_follow()
        run_each(self.start, calls)

    # Calls of threads that block, and read the answer themselves.

    def ask(self, call: ActiveCall, hand_over: Callable[[], object]) -> Reply | None:
        """Make a call in this thread, if a worker is lent for it.

        None: it is to be made in the loop, unless it was handed over: then a worker
        has it, and the loop goes on with it by `adopt`.
        """
        worker = self._leases.lent.get(call.wanted)
        if worker is None or not worker.is_at_hand() or worker.using.locked():
            return None
        options = call.options
        if call.parts or options.space or options.timeout_s is not None:
            return None
        if self._breakers or not self._leases.is_wanted():
            return None
        with worker.using:
            if not worker.is_at_hand():  # any more
                return None
            call.began = call.sent = time.monotonic()
            call.to = worker.node
            call.asked = worker
            try:
                answer = worker.ask(_job(call, None))
            except BaseException:
                worker.is_over = True  # what came may be lost, see `tear`
                raise
            if answer is None:
                worker.handed_over = call
                hand_over()
                return None
        call.asked = None
        self._late_prints.append((call.id, call.writer))
        return _reply(answer, worker.node, options.version or "", answer.queued_us)

    def adopt(self, call: ActiveCall) -> None:
        """Go on with a call that a thread has sent to a worker."""
        worker, call.asked = call.asked, None
        if worker is None:
            return
        worker.handed_over = None
        self._pending.add(call, call.began)
        self._pending.sent(call, worker, worker.node, time.monotonic())
        call.at = worker.node
        worker.take_back()
        if self._is_stopped:
            self._closed(call)
        elif worker.is_closed:
            self._worker_lost(worker)

    def tear(self, call: ActiveCall) -> None:
        """Cancel a call whose thread was interrupted, maybe while it read."""
        worker = call.asked
        if worker is None:
            return
        if call.id in worker.calls:
            self.adopt(call)
            self.cancel(call.id)
        call.asked = None
        self._leases.give_up(worker)

    def cancel(self, call_id: bytes) -> None:
        """Ask for the end of a call; its outcome tells whether it came to that."""
        call = self._calls.get(call_id)
        if call is None or not self._pending.cancel(call, time.monotonic()):
            return
        if call.link is None:
            self._end(call, Failure(kind="cancelled", executed="no"))
        else:
            call.link.send(Cancel(id=call_id))

    def withdraw(self, call_ids: Iterable[bytes]) -> None:
        """End those calls that no node runs yet, as cancelled; the others go on."""
        now = time.monotonic()
        asked: dict[Connection, list[bytes]] = {}
        for call_id in call_ids:
            call = self._calls.get(call_id)
            if call is None or not self._pending.withdraw(call, now):
                continue
            if call.link is None:
                self._end(call, Failure(kind="cancelled", executed="no"))
            else:
                asked.setdefault(call.link, []).append(call_id)
        for link, ids in asked.items():
            link.send(Recall(ids=tuple(ids)))

    def routes_changed(self) -> dict[str, Load]:
        """Take the members, offers and loads of the cluster state anew.

        Returns the newest load of each node, as far as it is known.
        """
        alive = self._state.resources(MemberState.ALIVE)
        self._several = self._direct and len(alive) > 1
        self._only = next(iter(alive)) if len(alive) == 1 else ""
        suspect = self._state.resources(MemberState.SUSPECT)
        state = self._state
        self.router.update(alive, suspect, state.pythons, state.workerless)
        self._leases.routes_changed(self._fits)
        self._last_worker.clear()
        self._workers.clear()
        for snapshot in self._state.nodes:
            record = snapshot.record
            count = max(1, record.workers)
            self._workers[record.name] = count, max(1, record.slots // count)
            if self._epochs.get(record.name, record.epoch) != record.epoch:
                self._loads.forget(record.name)  # another process has the name now
                self._breakers.forget(record.name)
            self._epochs[record.name] = record.epoch
        return self.loads_told(
            (snapshot.record.name, snapshot.load)
            for snapshot in self._state.nodes
            if snapshot.load is not None
        )

    def _fits(self, wanted: Wanted, node: str) -> bool:
        """Whether a live node may run such calls."""
        fitting = self.router.fitting(wanted, time.monotonic())
        return any(chosen.node == node for chosen in fitting)

    def loads_told(self, loads: Iterable[tuple[str, Load]]) -> dict[str, Load]:
        """Take what the entry says of nodes, and return what is the newest of them."""
        now = time.monotonic()
        newest: dict[str, Load] = {}
        for node, load in loads:
            self._loads.report(node, load, now)
            newest[node] = self._loads.reported(node) or load
        self._steal(now)
        self._send_held(now)
        return newest

    def receive(
        self, link: Connection, message: Any, parts: tuple[Buffer, ...]
    ) -> bool:
        """Take in what a node says of a call; False if it is of none here."""
        kind = type(message)
        if kind is Waiting:
            self._told_waiting(link, message)
            return True
        if kind is LeaseRevoked or kind is LeaseAnswer:
            self._leases.receive(link, message)
            return True
        call = self._calls.get(message.id)
        if call is None:
            return kind is Output and self._printed_late(message)
        place = call.place
        if place is not link:  # it is about an attempt that is over, or of a worker
            if type(place) is WorkerLink and place.node_link is link:
                self._printed(call, message, parts)
            return True
        if kind is Reply or kind is Failed:
            node, now = call.to, time.monotonic()
            if kind is Reply and self._direct:
                self._leases.learn(message.version, message.run_us)
            if kind is Failed and message.failure.cause == LEASE_OVER:
                self._given_back(call, now)
                return True
            self._pending.answered(call, message, now)
            if kind is Failed and message.failure.cause == PASSED_ON:
                self._lost(call, message, now, link)
            elif kind is Failed:
                self._failed(call, message, parts, now)
            else:
                self._finish(call, message, parts, now)
            if self._waiters or self._lines:
                self._room_made(node, now)
        elif kind is Output:
            self._printed(call, message, parts)
        elif kind is Started:
            call.at = message.node
            self._pending.started(call, time.monotonic())
        return True

    def _room_made(self, node: str, now: float) -> None:
        """Use the room at a node that has answered a call."""
        if self._waiters and node:
            self._steal(now, node)
        if self._lines:
            self._send_held(now)

    def _printed(
        self, call: ActiveCall, message: Output, parts: tuple[Buffer, ...] = ()
    ) -> None:
        call.at = message.node
        if call.prints is None:
            call.prints = OutputBuffer(call.writer)
        call.prints.add(message, parts)

    def _printed_late(self, message: Output) -> bool:
        """Show what a call wrote past Python, and what came after its answer.

        The node reads that, and the answer comes from the worker.
        """
        for call_id, writer in self._late_prints:
            if call_id == message.id:
                prints = OutputBuffer(writer)
                prints.add(message, ())
                prints.end()
                return True
        return False

    # -------------------------------------------------- workers that are leased

    def _worker_said(
        self, worker: WorkerLink, message: Any, parts: tuple[Buffer, ...]
    ) -> None:
        """Take in what a worker says of a call that it was sent directly."""
        kind = type(message)
        call = self._calls.get(message.id)
        if call is None and worker.handed_over is not None:
            self.adopt(worker.handed_over)
            call = self._calls.get(message.id)
        if kind is JobPrinted:
            if call is not None and call.place is worker:
                self._printed(call, _output(message, worker.node), parts)
            return
        if call is not None and call.place is worker:
            now = time.monotonic()
            if kind is Returned:
                worker.ended(message.id)
                self._given_back(call, now)
                return
            self._late_prints.append((call.id, call.writer))
            queued_us = worker.queued_us(message, call.sent, now)
            version = call.version or ""
            outcome = _outcome_of(message, worker.node, version, queued_us)
            self._pending.answered(call, outcome, now)
            worker.ended(message.id)
            if parts:
                self._leases.is_large(worker, _key(call))
            if type(outcome) is Failed:
                self._failed(call, outcome, parts, now)
            else:
                self._finish(call, outcome, parts, now)
            if self._waiters or self._lines:
                self._room_made(worker.node, now)
            self._lend(worker, call)
        else:
            worker.ended(message.id)

    def _worker_returned(self, worker: WorkerLink, call_ids: list[bytes]) -> None:
        """Send calls elsewhere that a worker has, and will not begin."""
        now = time.monotonic()
        for call_id in call_ids:
            call = self._calls.get(call_id)
            if call is not None and call.place is worker:  # else a thread has it
                worker.ended(call_id)
                self._given_back(call, now)

    def _lend(self, worker: WorkerLink, call: ActiveCall) -> None:
        """Lend a worker without calls, if threads that block make enough of them."""
        worker.count(blocking=call.blocks, others=not call.blocks)
        if worker.is_to_be_lent and not self._lines:
            self._leases.lend(worker, call.wanted)

    def _given_back(self, call: ActiveCall, now: float) -> None:
        call.by_node = True
        verdict = self._pending.returned(call, now)
        if verdict is AS_HEARD:
            failure = Failure(kind="cancelled", node=call.to)
            self._finish(call, Failed(id=call.id, failure=failure), (), now)
        else:
            self._follow(call, verdict, now)

    def _worker_lost(self, worker: WorkerLink) -> None:
        """Ask the node what became of the calls of a worker that is gone."""
        now = time.monotonic()
        link = worker.node_link
        if not link.is_open:
            lost = self._pending.lost(
                worker, now, node=worker.node, reason="the connection was lost"
            )
            run_each(lambda one: self._failed(*one, (), now), lost)
            return
        asked: list[tuple[bytes, int]] = []
        for call_id, place in worker.calls.items():
            call = self._calls.get(call_id)
            if call is not None and call.place is worker and call.under_way:
                # That the link is lost then, even in order, tells nothing of the run.
                self._pending.arrived(call, link, -math.inf)
                asked.append((call_id, place))
        if asked:
            link.send(LeasedCalls(number=worker.number, calls=tuple(asked)))
        self._send_held(now)

    def link_lost(self, link: Connection, reason: str) -> None:
        """Decide about every call that was on a link that is gone."""
        now = time.monotonic()
        self._leases.link_lost(link)
        lost = self._pending.lost(
            link, now, node=link.peer.name, reason=reason, received=link.received
        )
        run_each(lambda one: self._lost(*one, now), lost)
        self._send_held(now)

    def _lost(
        self,
        call: ActiveCall,
        failed: Failed,
        now: float,
        leaving: Connection | None = None,
    ) -> None:
        """Look for a call that a lost node had passed on; it may run elsewhere.

        leaving: the link to that node, if it is still open. If it is the entry, another
        one will soon be: a node that ends cannot say what becomes of the call.
        """
        if not self._pending.resume(call, failed.failure):
            self._failed(call, failed, (), now)
        elif leaving is not None and leaving is self._links.entry:
            self._pending.park(call)
        else:
            self._send(call, now)

    def entry_found(self) -> None:
        """Send what waited for a link."""
        now = time.monotonic()
        run_each(lambda call: self._send(call, now), self._pending.unpark())
        self._send_held(now)

    def cut_off(self, reason: str) -> None:
        """End what waited for a link that does not come."""
        failure = Failure(kind="node_lost", message=reason, executed="no")
        homeless = [call for call in self._pending if call.link is None]
        run_each(lambda call: self._end(call, failure), homeless)

    def stop(self) -> None:
        """End every call and set no timer any more."""
        self._is_stopped = True
        run_each(self._closed, self._pending)
        self._leases.stop()
        self._alarm.stop()
        for task in self._tasks:
            task.cancel()

    def _closed(self, call: ActiveCall) -> None:
        executed: Executed = "no" if call.link is None else "unknown"
        failure = Failure(kind="node_lost", message=STOPPED, executed=executed)
        self._end(call, failure)

    def _told_waiting(self, link: Connection, message: Waiting) -> None:
        now = time.monotonic()
        if message.load is not None:
            self._loads.report(link.peer.name, message.load, now)
        # Where nothing is queued, a call waits for data, and would elsewhere too.
        movable = self._several and message.load is not None and message.load.queued
        self._pending.told_waiting(message.ids, link, movable=bool(movable))
        self._steal(now)

    def _steal(self, now: float, target: str = "") -> None:
        for _, calls in self._pending.recalls(now, target):
            link = calls[0].link
            if link is not None:
                link.send(Recall(ids=tuple(call.id for call in calls)))

    # --------------------------------------------------------------- the course

    def _send(self, call: ActiveCall, now: float, target: str = "") -> None:
        """Send a call, or hold it until that is possible."""
        if not self._try_to_send(call, now, target):
            self._pending.hold(call)

    def _send_held(self, now: float) -> None:
        """Send what waits for room, as far as there is some."""
        self._has_room = True
        if self._sends_held:  # a worker that is taken back for a call answers others
            return
        self._sends_held = True
        try:
            while self._has_room:
                self._has_room = False
                for wanted in tuple(self._lines):
                    self._send_line(wanted, now)
        finally:
            self._sends_held = False

    def _send_line(self, wanted: Wanted, now: float) -> None:
        while (call := self._pending.next_held(wanted, now)) is not None:
            if not self._try_to_send(call, now):
                break
            self._pending.release(call)

    def _try_to_send(self, call: ActiveCall, now: float, target: str = "") -> bool:
        """Send a call or park it without a link; False: its link carries enough."""
        entry = self._links.entry
        if entry is None:
            self._pending.park(call)
            return True
        if call.resuming:
            lost = call.resuming
            self._pending.resumed(call, entry, now)
            entry.send(Resume(ids=(call.id,), entry=lost))
            return True
        link, hops_left, to = entry, 1, ""
        options, attempts = call.options, call.attempts
        again = attempts and not call.to and entry.peer.name not in call.avoid
        last = self._last_worker.get(call.wanted) if self._several else None
        if last is not None and not target and self._goes_along(call, last):
            self._send_to_worker(call, last, None, now)
            return True
        if self._several and not again:
            if not target:
                choice = self.router.choose(call.wanted, now, avoid=call.avoid)
                target = choice.node if type(choice) is Chosen else ""
            if target:
                straight = self._links.get(target)
                if straight is None:
                    straight = self._links.direct(target, self._state.urls_of(target))
                if straight is not None:
                    link, hops_left, to = straight, 0, target
        remaining_ms: int | None = None
        if options.timeout_s is not None:
            remaining_ms = max(0, int((call.due - now) * 1e3))
        under_way = self._pending.under_way(link)
        if self._direct and self._may_go_to_worker(call, link, to):
            key = _key(call)
            worker = self._leases.find(link, key)
            if worker is not None and worker.is_lent:
                worker.take_back()  # that may end it
                worker = self._leases.find(link, key)
            if worker is None:
                if self._leases.is_awaited(link, key, under_way, now):
                    return False  # until there is one, or there will be none
            elif worker.has_room:
                # Else it would have to be said in time whether it ran.
                if options.timeout_s is None or not worker.calls:
                    self._send_to_worker(call, worker, remaining_ms, now)
                    return True
            elif worker.is_short and worker.is_sole:
                return False  # its node has no other worker that could have it
        if under_way >= self._calls_per_link:
            return False
        call.at = self._only
        self._pending.sent(call, link, to, now, link.written)
        # Python takes three times as long for a call with more than 15 keywords.
        message = Call(
            id=call.id,
            function=call.function,
            payload=call.payload,
            version=options.version,
            resources=options.resources,
            node=options.node,
            remaining_ms=remaining_ms,
            hops_left=hops_left,
            holder=options.holder,
            attempt=attempts if attempts < 255 else 255,
            folder=call.folder,
            idempotent=call.idempotent,
            items=len(call.items),
        )
        if options.wait_s or options.space or options.inputs or call.depth:
            message = replace(
                message,
                wait_ms=int(options.wait_s * 1e3),
                space=options.space,
                inputs=options.inputs,
                depth=call.depth,
            )
        link.send(message, call.parts)
        return True

    def _may_go_to_worker(self, call: ActiveCall, link: Connection, to: str) -> bool:
        """Whether a worker may have a call directly that is to go to a node.

        What is large goes through the node, and so does what it alone can do.
        """
        options = call.options
        if options.version is None or options.space:
            return False
        if options.inputs:
            return False
        if call.attempts or call.by_node or call.parts or call.items:
            return False
        # Without a link to each node, the one of the entry would choose.
        return bool(to) or link.peer.name in (options.node, self._only)

    def _goes_along(self, call: ActiveCall, worker: WorkerLink) -> bool:
        """Whether a short call may follow others to a worker, without a choice."""
        if self._breakers or call.options.timeout_s is not None:
            return False
        key = _key(call)
        if not worker.is_soon_free(key) or not self._leases.is_wanted():
            return False
        if not self._may_go_to_worker(call, worker.node_link, worker.node):
            return False
        worker.take_back()  # that may end it
        return worker.is_soon_free(key)

    def _send_to_worker(
        self,
        call: ActiveCall,
        worker: WorkerLink,
        remaining_ms: int | None,
        now: float,
    ) -> None:
        call.at = worker.node
        if self._several:
            self._last_worker[call.wanted] = worker
        self._pending.sent(call, worker, worker.node, now)
        worker.call(_job(call, remaining_ms))

    def _failed(
        self,
        call: ActiveCall,
        failed: Failed,
        parts: tuple[Buffer, ...],
        now: float,
    ) -> None:
        verdict = self._pending.failed(call, failed.failure, now)
        if verdict is AS_HEARD:
            self._finish(call, failed, parts, now)
        elif type(verdict) is RegisterAgain:
            self._spawn(self._register_and_send(call, failed))
        else:
            self._follow(call, verdict, now)

    def _follow(self, call: ActiveCall, verdict: Verdict, now: float) -> None:
        """Do what the machine says is to be done about a call."""
        match verdict:
            case Elsewhere(target):
                self._send(call, now, "" if target is None else target.node)
            case Stop() if call.link is not None:
                call.link.send(Cancel(id=call.id))
            case Finish(failure) if failure is not None:
                if call.link is not None and call.under_way:
                    call.link.send(Cancel(id=call.id))
                self._end(call, failure)
            case _:  # it is held: the timer tells when it goes on
                pass
        self._alarm.set(self._pending.deadline)

    async def _register_and_send(self, call: ActiveCall, failed: Failed) -> None:
        known = call.version is not None and call.attempts < 3
        renewed = known and await self._reregister(call.version or "")
        now = time.monotonic()
        if call.id not in self._calls:
            return
        if renewed:
            self._send(call, now)
        else:
            self._finish(call, failed, (), now)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, call: ActiveCall, failure: Failure) -> None:
        now = time.monotonic()
        self._finish(call, Failed(id=call.id, failure=failure), (), now)

    def _finish(
        self,
        call: ActiveCall,
        outcome: Outcome,
        parts: tuple[Buffer, ...],
        now: float,
    ) -> None:
        if not self._pending.end(call, now):
            return
        if type(outcome) is Failed:
            outcome = self._pending.truth(call, outcome)
        try:
            if call.prints is not None:
                call.prints.end()
            call.done(call, outcome, parts)
        except Exception as error:  # noqa: BLE001 - one caller's, see the module head
            text = f"the outcome of the call of {call.function} could not be delivered"
            self._loop.call_exception_handler({"message": text, "exception": error})
        call.let_go()

    def _ring(self, now: float) -> None:
        run_each(lambda one: self._follow(*one, now), self._pending.tick(now))
        self._alarm.set(self._pending.deadline)
        self._send_held(now)


def _key(call: ActiveCall) -> Key:
    options = call.options
    return call.function, options.version or "", options.resources


def _output(printed: JobPrinted, node: str) -> Output:
    """Return what a worker has printed as its node would pass it on."""
    return Output(
        id=printed.id,
        node=node,
        stream=printed.stream,
        text=printed.text,
        lines_cut=printed.lines_cut,
        characters_cut=printed.characters_cut,
    )


def _job(call: ActiveCall, remaining_ms: int | None) -> Job:
    """Return a call as its node would give it to a worker."""
    return Job(
        id=call.id,
        version=call.options.version or "",
        function=call.function,
        payload=call.payload,
        remaining_ms=remaining_ms,
        folder=call.folder,
        depth=call.depth,
    )


def _reply(answer: JobDone, node: str, version: str, queued_us: int) -> Reply:
    """Return a result of a worker as its node would pass it on."""
    return Reply(
        id=answer.id,
        payload=answer.payload,
        node=node,
        version=version,
        queued_us=queued_us,
        run_us=answer.run_us,
    )


def _outcome_of(
    answer: JobDone | JobFailed, node: str, version: str, queued_us: int
) -> Outcome:
    """Return the answer of a worker as its node would pass it on."""
    if type(answer) is JobDone:
        return _reply(answer, node, version, queued_us)
    failed: JobFailed = answer  # type: ignore[assignment]
    return Failed(
        id=failed.id,
        failure=job_failure(failed, node),
        payload=failed.payload,
        version=version,
        queued_us=queued_us,
        run_us=failed.run_us,
    )
