"""The caller's side of a call: where it is sent, when again, how it ends.

The client owns its calls: it keeps the request until there is an outcome, and
only it tries again. A call goes straight to a node that fits where there is a
link, else through the node of the entry.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mpreg_nb.calls.deadlines import Deadlines
from mpreg_nb.calls.retry import OVERLOAD_PATIENCE_S, RetryBudget, backoff_s, judge
from mpreg_nb.client.links import Links
from mpreg_nb.client.mirror import Mirror
from mpreg_nb.client.output import Prints, Writer
from mpreg_nb.errors import Executed
from mpreg_nb.routing.breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted
from mpreg_nb.transport.alarm import Alarm
from mpreg_nb.transport.connection import Connection
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.gossip import MemberState
from mpreg_nb.wire.messages import (
    Call,
    Cancel,
    Failed,
    Failure,
    Output,
    Reply,
    Started,
    Waiting,
)

Outcome: TypeAlias = Reply | Failed

_ASK_ENTRY = ("no_route", "no_code", "draining", "overloaded", "node_lost")
"""Refusals of a node that was called directly, after which the entry is asked."""


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
    prints: Prints | None = None  # from its first print on
    at: str = ""  # the node that runs it, where that is known
    began: float = 0.0  # on the monotonic clock
    attempts: int = 0
    crashes: int = 0
    link: Connection | None = None
    to: str = ""  # the node it was sent to directly, "" through the entry
    sent: float = 0.0
    waiting: bool = False
    cancelled: bool = False
    pack_us: int = 0
    avoid: tuple[str, ...] = ()


class Reregister(Protocol):
    """Registers again what a cluster has lost, and says whether it could."""

    async def __call__(self, version: str) -> bool:
        """Say whether `version` is registered again."""
        ...


class ClientCalls:
    """The calls of one client, by id. Everything here runs on the loop's thread."""

    def __init__(
        self, links: Links, mirror: Mirror, *, direct: bool, reregister: Reregister
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
        self.router = Router(None, mirror, self._loads, Breakers(), self._chance)
        self._several = False  # whether there is anything to choose
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._ring)
        self._tasks: set[asyncio.Task[None]] = set()

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
        if call.link is None:
            self._end(call, Failure(kind="cancelled", executed="no"))
        else:
            call.link.send(Cancel(id=call_id))

    def routes_changed(self) -> None:
        """Take the members and offers of the mirror anew."""
        alive = self._mirror.resources(MemberState.ALIVE)
        self._several = self._direct and len(alive) > 1
        suspect = self._mirror.resources(MemberState.SUSPECT)
        self.router.update(alive, suspect, self._mirror.pythons)
        for picture in self._mirror.nodes:
            if picture.load is not None:
                self._loads.report(picture.record.name, picture.load, time.monotonic())

    def receive(
        self, link: Connection, message: Any, parts: tuple[Buffer, ...]
    ) -> bool:
        """Take in what a node says of a call; False if it is of none here."""
        if type(message) is Waiting:
            for call_id in message.ids:
                waiting = self._calls.get(call_id)
                if waiting is not None:
                    waiting.waiting = True
            return True
        call = self._calls.get(message.id)
        if call is None:
            return False
        if type(message) is Reply:
            self._count_answer(call, message)
            self._finish(call, message, parts)
        elif type(message) is Failed:
            self._count_answer(call, message)
            self._failed(call, message, parts)
        elif type(message) is Output:
            call.at = message.node
            if call.prints is None:
                call.prints = Prints(call.writer)
            call.prints.add(message)
        elif type(message) is Started:
            call.waiting = False
            call.at = message.node
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

    # --------------------------------------------------------------- the course

    def _send(self, call: ActiveCall, now: float) -> None:
        entry = self._links.entry
        if entry is None:
            call.link = None
            self._homeless.append(call)
            return
        link, hops_left, call.to = entry, 1, ""
        if self._several and (not call.attempts or call.to):
            wanted = Wanted(call.function, call.version, call.resources, call.node)
            choice = self.router.choose(wanted, now, avoid=call.avoid)
            if type(choice) is Chosen:
                record = self._mirror.record(choice.node)
                urls = record.urls if record is not None else ()
                straight = self._links.direct(choice.node, urls)
                if straight is not None:
                    link, hops_left, call.to = straight, 0, choice.node
                    self._loads.sent(choice.node)
        remaining_ms: int | None = None
        if call.timeout_s is not None:
            remaining_ms = max(0, int((call.began + call.timeout_s - now) * 1e3))
        call.attempts += 1
        call.waiting = False
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
            ),
            call.parts,
        )

    def _failed(
        self, call: ActiveCall, failed: Failed, parts: tuple[Buffer, ...]
    ) -> None:
        failure = failed.failure
        now = time.monotonic()
        if call.cancelled:
            self._finish(call, failed, parts)
            return
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
            pause_s = failure.retry_after_ms / 1e3 + backoff_s(
                call.attempts, self._chance
            )
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
        if call.prints is not None:
            call.prints.end()
        call.done(call, outcome, parts)

    # ------------------------------------------------------------------- timers

    def _ring(self, now: float) -> None:
        for call_id in self._deadlines.tick(now):
            call = self._calls[call_id]
            if call.link is not None:
                call.link.send(Cancel(id=call_id))
            executed: Executed = (
                "no" if call.waiting or call.link is None else "unknown"
            )
            self._end(call, Failure(kind="deadline", executed=executed))
        self._alarm.set(self._deadlines.next)
