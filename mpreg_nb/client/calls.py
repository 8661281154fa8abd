"""Calls of this client: where each is sent, when it is retried, how it ends.

The client owns its calls: it keeps the request until there is an outcome, and
only it tries again. A call goes straight to a node that fits where there is a
link, else through the node of the entry.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from mpreg_nb.calls.deadlines import Deadlines
from mpreg_nb.calls.retry import OVERLOAD_PATIENCE_S, RetryBudget, backoff_s, judge
from mpreg_nb.calls.work_stealing import Stealing
from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.client.connections import Connections
from mpreg_nb.client.output import OutputBuffer, Writer
from mpreg_nb.errors import Executed, PayloadTooLarge
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Load, MemberState
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
from mpreg_nb.routing.router import Chosen, Router, Wanted
from mpreg_nb.serialize.pickle import size_bytes
from mpreg_nb.settings import INLINE_BYTES, Limits
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.timer import DeadlineTimer

Outcome: TypeAlias = Reply | Failed


QUEUE_REPORT_S = 0.1
"""A node reports within this time that a call waits in its queue."""


@dataclass(slots=True, eq=False)
class ActiveCall:
    """One call of this client, until its outcome."""

    id: bytes
    function: str
    payload: bytes
    parts: tuple[Buffer, ...]
    done: Callable[["ActiveCall", Outcome, tuple[Buffer, ...]], None]
    writer: Writer
    version: str | None = None
    resources: frozenset[str] = frozenset()
    node: str | None = None
    holder: str | None = None
    timeout_s: float | None = None
    wait_s: float = 0.0
    idempotent: bool = False
    json: bool = False
    folder: bytes = b""  # that the caller works in
    space: bytes = b""
    label: str = ""  # names the call where `function` only carries another function
    prints: OutputBuffer | None = None  # from its first print on
    at: str = ""  # the node that runs it, where that is known
    began: float = 0.0  # on the monotonic clock
    attempts: int = 0
    crashes: int = 0
    link: Connection | None = None
    to: str = ""  # the node it was sent to directly, "" through the entry
    sent: float = 0.0
    started: float = 0.0  # when a node said that it left the queue
    waiting: bool = False
    cancelled: bool = False
    withdrawn: bool = False  # it is to end unless it runs
    pack_us: int = 0
    avoid: tuple[str, ...] = ()
    shipment: object = None  # of its function: held until it has ended

    @property
    def wanted(self) -> Wanted:
        """What it asks of a node."""
        return Wanted(self.function, self.version, self.resources, self.node)

    def let_go(self) -> None:
        """Hold neither the arguments nor who waited, now that it has ended."""
        self.payload, self.parts, self.done = b"", (), _ended

    @property
    def is_running(self) -> bool:
        """Whether a node runs the call, as far as the client knows.

        A node does not report each start. It reports a call that waits in its queue.
        """
        if self.link is None or self.waiting:
            return False
        is_seen = bool(self.started or self.at)
        return is_seen or time.monotonic() - self.sent >= QUEUE_REPORT_S

    @property
    def shown_name(self) -> str:
        """The name of the function for errors and progress."""
        return self.label or self.function


def _ended(call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]) -> None:
    """Stand for who waited for a call that has its one outcome."""
    raise AssertionError(f"the call {call.id.hex()} has ended already")


_ASK_ENTRY = ("no_route", "no_code", "draining", "overloaded", "node_lost")
"""Refusals of a node that was called directly, after which the entry is asked."""

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
        mirror: ClusterState,
        *,
        direct: bool,
        reregister: Reregister,
    ) -> None:
        self._links = links
        self._mirror = mirror
        self._direct = direct
        self._reregister = reregister
        self._calls: dict[bytes, ActiveCall] = {}
        self._homeless: list[ActiveCall] = []  # wait for any link at all
        self._deadlines = Deadlines()
        self._budget = RetryBudget()
        self._chance = random.Random()  # noqa: S311 - spreads load, guards nothing
        self._loads = Loads()
        self._epochs: dict[str, bytes] = {}  # of the process behind each name
        self.router = Router(None, mirror, self._loads, Breakers(), self._chance)
        self._several = False  # whether there is anything to choose
        self._only = ""  # the one node that is alive, "" if it is not the only one
        self._stealing = Stealing(self.router, self._loads)
        self._waiters = self._stealing.waiters
        self._loop = asyncio.get_running_loop()
        self._alarm = DeadlineTimer(self._ring)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of the calls under way that nobody has cancelled."""
        calls = self._calls.values()
        return tuple(call.function for call in calls if not call.cancelled)

    @property
    def active(self) -> tuple[ActiveCall, ...]:
        """The calls that are under way. May be read on any thread."""
        return tuple(self._calls.values())

    def __len__(self) -> int:
        return len(self._calls)

    # ------------------------------------------------------------ what happens

    def start(self, call: ActiveCall) -> None:
        """Send a call; `call.done` hears of its outcome, exactly once."""
        now = call.began = time.monotonic()
        self._calls[call.id] = call
        self._budget.count_call(now)
        if call.timeout_s is not None:
            self._deadlines.add(call.id, now + call.timeout_s)
            self._alarm.set(self._deadlines.next)
        self._send(call, now)

    def cancel(self, call_id: bytes) -> None:
        """Ask for the end of a call; its outcome tells whether it came to that."""
        call = self._calls.get(call_id)
        if call is None or call.cancelled:
            return
        call.cancelled = True
        self._stealing.drop(call_id, time.monotonic())
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
            if call is None or call.cancelled or call.withdrawn:
                continue
            call.withdrawn = True
            self._stealing.drop(call_id, now)
            if call.link is None:
                self._end(call, Failure(kind="cancelled", executed="no"))
            else:
                asked.setdefault(call.link, []).append(call_id)
        for link, ids in asked.items():
            link.send(Recall(ids=tuple(ids)))

    def routes_changed(self) -> dict[str, Load]:
        """Take the members, offers and loads of the mirror anew.

        Returns the newest load of each node, as far as it is known.
        """
        alive = self._mirror.resources(MemberState.ALIVE)
        self._several = self._direct and len(alive) > 1
        self._only = next(iter(alive)) if len(alive) == 1 else ""
        suspect = self._mirror.resources(MemberState.SUSPECT)
        mirror = self._mirror
        self.router.update(alive, suspect, mirror.pythons, mirror.workerless)
        for picture in self._mirror.nodes:
            record = picture.record
            if self._epochs.get(record.name, record.epoch) != record.epoch:
                self._loads.forget(record.name)  # another process has the name now
            self._epochs[record.name] = record.epoch
        return self.loads_told(
            (picture.record.name, picture.load)
            for picture in self._mirror.nodes
            if picture.load is not None
        )

    def loads_told(self, loads: Iterable[tuple[str, Load]]) -> dict[str, Load]:
        """Take what the entry says of nodes, and return what is the newest of them."""
        now = time.monotonic()
        newest: dict[str, Load] = {}
        for node, load in loads:
            self._loads.report(node, load, now)
            newest[node] = self._loads.reported(node) or load
        self._steal(now)
        return newest

    def receive(
        self, link: Connection, message: Any, parts: tuple[Buffer, ...]
    ) -> bool:
        """Take in what a node says of a call; False if it is of none here."""
        if type(message) is Waiting:
            self._told_waiting(link, message)
            return True
        call = self._calls.get(message.id)
        if call is None:
            return False
        if type(message) is Reply or type(message) is Failed:
            node = call.to
            self._count_answer(call, message)
            if type(message) is Failed:
                self._failed(call, message, parts)
            else:
                self._finish(call, message, parts)
            if self._waiters and node:
                self._steal(time.monotonic(), node)
        elif type(message) is Output:
            call.at = message.node
            if call.prints is None:
                call.prints = OutputBuffer(call.writer)
            call.prints.add(message, parts)
        elif type(message) is Started:
            call.waiting = False
            call.at = message.node
            call.started = time.monotonic()
            self._stealing.drop(call.id, call.started)
        return True

    def link_lost(self, link: Connection, reason: str) -> None:
        """Decide about every call that was on a link that is gone."""
        for call in [c for c in self._calls.values() if c.link is link]:
            self._loads.answered(call.to, None, time.monotonic())
            failure = Failure(
                kind="node_lost",
                message=reason,
                node=link.peer.name,
                executed="no" if call.waiting else "unknown",
            )
            self._failed(call, Failed(id=call.id, failure=failure), ())

    def entry_found(self) -> None:
        """Send what waited for a link."""
        homeless, self._homeless = self._homeless, []
        now = time.monotonic()
        for call in homeless:
            if call.id in self._calls:
                self._send(call, now)

    def cut_off(self, reason: str) -> None:
        """End what waited for a link that does not come."""
        homeless, self._homeless = self._homeless, []
        for call in homeless:
            if call.id in self._calls:
                failure = Failure(kind="node_lost", message=reason, executed="no")
                self._end(call, failure)

    def stop(self) -> None:
        """End every call and set no timer any more."""
        for call in list(self._calls.values()):
            failure = Failure(
                kind="node_lost", message="the client was closed", executed="unknown"
            )
            self._end(call, failure)
        self._alarm.stop()
        for task in self._tasks:
            task.cancel()

    def _told_waiting(self, link: Connection, message: Waiting) -> None:
        now = time.monotonic()
        if message.load is not None:
            self._loads.report(link.peer.name, message.load, now)
        # Where nothing is queued, a call waits for data, and would elsewhere too.
        movable = self._several and message.load is not None and message.load.queued
        for call_id in message.ids:
            call = self._calls.get(call_id)
            if call is not None and call.link is link:
                call.waiting = True
                if movable and call.to and call.node is None and not call.cancelled:
                    self._stealing.waits(call_id, call.wanted, call.to)
        self._steal(now)

    def _steal(self, now: float, target: str = "") -> None:
        for call_ids in self._stealing.recalls(now, target).values():
            link = self._calls[call_ids[0]].link
            if link is not None:
                link.send(Recall(ids=tuple(call_ids)))

    # --------------------------------------------------------------- the course

    def _send(self, call: ActiveCall, now: float, target: str = "") -> None:
        entry = self._links.entry
        if entry is None:
            call.link = None
            self._homeless.append(call)
            return
        link, hops_left, call.to, call.at = entry, 1, "", self._only
        if self._several and (not call.attempts or call.to):
            if not target:
                wanted = Wanted(call.function, call.version, call.resources, call.node)
                choice = self.router.choose(wanted, now, avoid=call.avoid)
                target = choice.node if type(choice) is Chosen else ""
            if target:
                record = self._mirror.record(target)
                urls = record.urls if record is not None else ()
                straight = self._links.direct(target, urls)
                if straight is not None:
                    link, hops_left, call.to = straight, 0, target
                    self._loads.sent(target)
        remaining_ms: int | None = None
        if call.timeout_s is not None:
            remaining_ms = max(0, int((call.began + call.timeout_s - now) * 1e3))
        call.attempts += 1
        call.waiting = False
        call.started = 0.0
        call.link = link
        call.sent = now
        link.send(
            Call(
                id=call.id,
                function=call.function,
                payload=call.payload,
                version=call.version,
                resources=call.resources,
                node=call.node,
                remaining_ms=remaining_ms,
                wait_ms=int(call.wait_s * 1e3),
                hops_left=hops_left,
                holder=call.holder,
                attempt=min(call.attempts - 1, 255),
                json=call.json,
                folder=call.folder,
                space=call.space,
            ),
            call.parts,
        )

    def _failed(
        self, call: ActiveCall, failed: Failed, parts: tuple[Buffer, ...]
    ) -> None:
        failure = failed.failure
        now = time.monotonic()
        returned = failure.kind == "overloaded" and failure.executed == "no"
        returned = returned or (call.withdrawn and failure.executed == "no")
        if call.cancelled or (call.withdrawn and returned):
            if returned:  # it was asked back a moment before
                failed = Failed(id=call.id, failure=Failure(kind="cancelled"))
            self._finish(call, failed, parts)
            return
        target = self._stealing.given_back(call.id, now)
        if target is not None and returned:
            call.attempts -= 1  # it was none
            self._send(call, now, target.node)
            return
        self._stealing.drop(call.id, now)
        if call.to and failure.executed == "no" and failure.kind in _ASK_ENTRY:
            # The mirror was late; the entry knows better, or says why not.
            call.avoid = (*call.avoid, call.to)
            call.to = ""
            self._send(call, now)
            return
        if failure.kind == "worker_crashed":
            call.crashes += 1
        verdict = judge(
            failure,
            idempotent=call.idempotent,
            attempts=call.attempts,
            crashes=call.crashes,
        )
        if verdict == "give up" or not self._budget.take(now):
            self._finish(call, failed, parts)
        elif verdict == "register first":
            self._spawn(self._register_and_send(call, failed))
        elif verdict == "again":
            call.avoid = (*call.avoid, failure.node)
            self._send(call, now)
        else:
            pause_s = backoff_s(call.attempts, self._chance)
            pause_s += failure.retry_after_ms / 1e3
            patience_s = call.timeout_s or OVERLOAD_PATIENCE_S
            if now + pause_s - call.began > patience_s:
                self._finish(call, failed, parts)
                return
            call.link = None
            self._loop.call_later(pause_s, self._send_again, call)

    def _send_again(self, call: ActiveCall) -> None:
        if call.id in self._calls:
            self._send(call, time.monotonic())

    async def _register_and_send(self, call: ActiveCall, failed: Failed) -> None:
        known = call.version is not None and call.attempts < 3
        if known and await self._reregister(call.version or ""):
            self._send_again(call)
        elif call.id in self._calls:
            self._finish(call, failed, ())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_answer(self, call: ActiveCall, outcome: Outcome) -> None:
        if not call.to:
            return
        now = time.monotonic()
        elsewhere_s = (outcome.queued_us + outcome.run_us) / 1e6
        self._loads.answered(call.to, now - call.sent - elsewhere_s, now)
        if outcome.load is not None:
            self._loads.report(call.to, outcome.load, now)

    def _end(self, call: ActiveCall, failure: Failure) -> None:
        self._finish(call, Failed(id=call.id, failure=failure), ())

    def _finish(
        self, call: ActiveCall, outcome: Outcome, parts: tuple[Buffer, ...]
    ) -> None:
        if self._calls.pop(call.id, None) is None:
            return
        if call.timeout_s is not None:
            self._deadlines.drop(call.id)
        if self._waiters:
            self._stealing.drop(call.id, time.monotonic())
        if call.prints is not None:
            call.prints.end()
        call.done(call, outcome, parts)
        call.let_go()

    def _ring(self, now: float) -> None:
        for call_id in self._deadlines.tick(now):
            call = self._calls[call_id]
            if call.link is not None:
                call.link.send(Cancel(id=call_id))
            idle = call.waiting or call.link is None
            executed: Executed = "no" if idle else "unknown"
            self._end(call, Failure(kind="deadline", executed=executed))
        self._alarm.set(self._deadlines.next)


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
