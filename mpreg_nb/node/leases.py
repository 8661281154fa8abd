"""Leases: clients of this machine that call workers of this node directly.

The node stays the arbiter. It leases an idle worker to a client that asks, and takes it
back when a job finds no other worker, when the client has not used it for `TERM_S`, is
gone, or the node leaves. It counts what was called, interrupts calls when their client
asks for it, and knows what became of them when the worker is gone.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from mpreg_nb.node.dispatch import Handler, without_parts
from mpreg_nb.node.functions import Registry, ShippedFunction
from mpreg_nb.node.monitor import Counters
from mpreg_nb.node.pending_call import failure_of
from mpreg_nb.node.process_pool import ProcessPool
from mpreg_nb.node.worker_pool import Crashed, WorkerPool
from mpreg_nb.node.worker_process import LeaseRecord, WorkerLease
from mpreg_nb.protocol.messages import (
    LEASE_OVER,
    Failed,
    Failure,
    LeaseAnswer,
    LeasedCalls,
    LeasedCancel,
    LeaseRequest,
    LeaseRevoked,
    Output,
)
from mpreg_nb.protocol.worker import JobPrinted, RunRecord
from mpreg_nb.routing.router import Chosen, Router, Wanted
from mpreg_nb.transport.connection import Connection

TERM_S = 1.0
"""A lease that was not used for so long ends."""

LOOK_S = 0.05
"""Between looks at the leases there are: whether they are used."""

RECORDS_KEPT = 256
"""Leases that are over and can still be asked about."""


class Leased(msgspec.Struct, eq=False):
    """A lease, and who holds it."""

    lease: WorkerLease
    link: Connection
    asked: list[LeaseRequest] = []  # to answer once it is open
    begun: int = 0  # jobs, at the last look
    used_at: float = 0.0
    was_busy: bool = False


class Leases:
    """The leases of this node's workers, by number."""

    def __init__(
        self,
        me: str,
        *,
        registry: Registry,
        router: Router,
        counters: Counters,
        changed: Callable[[], None],
        make_pool: Callable[["Leases"], WorkerPool],
    ) -> None:
        """changed: hears that workers became busy, or idle.

        make_pool: returns the workers, which tell what happens to their leases. Only
        processes of this machine are leased.
        """
        self._me = me
        self._registry = registry
        self._router = router
        self._counters = counters
        self._changed = changed
        self._leases: dict[int, Leased] = {}
        self._records: OrderedDict[int, LeaseRecord] = OrderedDict()
        self._questions: dict[int, list[tuple[Connection, LeasedCalls]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        self.idle = asyncio.Event()
        """Set while there is no lease."""
        self.idle.set()
        self.workers = make_pool(self)
        self._pool: ProcessPool | None = None
        if isinstance(self.workers, ProcessPool):
            self._pool = self.workers
            counters.sources.append(self._pool.count_leased)

    def handlers(self) -> dict[type, Handler]:
        """Return what answers the messages of clients."""
        return {
            LeaseRequest: without_parts(self._asked),
            LeasedCancel: without_parts(self._cancel),
            LeasedCalls: without_parts(self._lost),
        }

    # ------------------------------------------------------------------- clients

    def _asked(self, link: Connection, message: LeaseRequest) -> None:
        pool = self._pool
        if pool is None or not self._fits(link, message):
            link.send(LeaseAnswer(id=message.id))
            return
        function, version = message.function, message.version
        held = next((h for h in self._leases.values() if h.link is link), None)
        if held is None:
            self._add_code(pool, version)
            lease = pool.lease(function, version)
            if lease is None:
                link.send(LeaseAnswer(id=message.id))
                return
            held = Leased(lease, link, used_at=time.monotonic())
            self._leases[lease.number] = held
            self.idle.clear()
            self._look_later()
        else:
            self._add_code(pool, version)
            if not pool.permit(held.lease, function, version):
                link.send(LeaseAnswer(id=message.id))
                return
        held.asked.append(message)
        if held.lease.is_open:
            self._answer(held)

    def _fits(self, link: Connection, message: LeaseRequest) -> bool:
        """Whether this node may lease a worker to this client for such calls."""
        if self._draining or link.peer.carrier != "unix" or not link.is_open:
            return False
        wanted = Wanted(message.function, message.version, message.resources, self._me)
        choice = self._router.choose(wanted, time.monotonic())
        if type(choice) is not Chosen or choice.offer.isolation != "process":
            return False
        return isinstance(self._registry.get(message.version), ShippedFunction)

    def _add_code(self, pool: ProcessPool, version: str) -> None:
        function = self._registry.get(version)
        if isinstance(function, ShippedFunction) and not pool.has_code(version):
            pool.add_code(version, function.name, function.parts)

    def _answer(self, held: Leased) -> None:
        lease = held.lease
        asked, held.asked = held.asked, []
        for request in asked:
            if lease.is_ending:
                held.link.send(LeaseAnswer(id=request.id))
            else:
                held.link.send(
                    LeaseAnswer(
                        id=request.id,
                        number=lease.number,
                        path=lease.path,
                        key=lease.key,
                    )
                )

    def _cancel(self, link: Connection, message: LeasedCancel) -> None:
        held, pool = self._leases.get(message.number), self._pool
        if held is not None and held.link is link and pool is not None:
            pool.cancel_leased(
                held.lease, message.id, message.place, unless_begun=message.unless_begun
            )

    def _lost(self, link: Connection, message: LeasedCalls) -> None:
        """Say what became of calls, once that is known."""
        held = self._leases.get(message.number)
        if held is not None:
            self._questions.setdefault(message.number, []).append((link, message))
            self._end(held)
        else:
            self._tell(link, message, self._records.get(message.number))

    def _tell(
        self, link: Connection, asked: LeasedCalls, record: LeaseRecord | None
    ) -> None:
        for call_id, place in asked.calls:
            link.send(Failed(id=call_id, failure=self._fate(call_id, place, record)))

    def _fate(self, call_id: bytes, place: int, record: LeaseRecord | None) -> Failure:
        if record is None or self._pool is None:
            text = "nothing is known any more of the call"
            return Failure(
                kind="node_lost", message=text, node=self._me, executed="unknown"
            )
        if place > record.begun:
            return Failure(kind="overloaded", node=self._me, cause=LEASE_OVER)
        if not record.is_gone and call_id not in record.cancelled:
            text = "it ran, and its answer was lost on the way from its worker"
            return Failure(
                kind="node_lost", message=text, node=self._me, executed="yes"
            )
        ended = self._pool.crash_of(call_id, place, record)
        if isinstance(ended, Crashed):
            self._counters.outcomes["worker_crashed"] += 1
        return failure_of(ended, self._me)  # type: ignore[arg-type]  # it has no result

    def sink_lost(self, sink: object) -> None:
        """End the leases of a client that is gone, and what runs for it."""
        for held in list(self._leases.values()):
            if held.link is sink:
                self._end(held, stop=True)

    def drain(self) -> None:
        """Give no leases any more, and end those there are; what runs goes on."""
        self._draining = True
        for held in list(self._leases.values()):
            self._end(held)

    def _end(self, held: Leased, *, stop: bool = False) -> None:
        if self._pool is not None:
            self._pool.end_lease(held.lease, stop=stop)

    def stop(self) -> None:
        """Look at nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    # ------------------------------------------------------------------- workers

    def opened(self, lease: WorkerLease) -> None:
        """Tell the client where the worker listens."""
        held = self._leases.get(lease.number)
        if held is not None:
            self._answer(held)

    def ending(self, lease: WorkerLease) -> None:
        """Tell the client to send its calls elsewhere."""
        held = self._leases.get(lease.number)
        if held is not None and lease.is_open:
            held.link.send(LeaseRevoked(number=lease.number))

    def fenced(self, lease: WorkerLease, begun: int) -> None:
        """Tell the client which of its calls it may send elsewhere."""
        held = self._leases.get(lease.number)
        if held is not None:
            held.link.send(LeaseRevoked(number=lease.number, begun=begun))

    def over(self, lease: WorkerLease, record: LeaseRecord) -> None:
        """Forget a lease, but for what became of its calls."""
        held = self._leases.pop(lease.number, None)
        self._records[lease.number] = record
        if len(self._records) > RECORDS_KEPT:
            self._records.popitem(last=False)
        if held is not None:
            self._answer(held)
            held.link.send(LeaseRevoked(number=lease.number, gone=record.is_gone))
        for link, asked in self._questions.pop(lease.number, ()):
            self._tell(link, asked, record)
        self._changed()
        if not self._leases:
            self.idle.set()

    def printed(self, lease: WorkerLease, message: JobPrinted) -> None:
        """Pass on what a call has written past Python."""
        held = self._leases.get(lease.number)
        if held is not None:
            held.link.send(
                Output(
                    id=message.id,
                    node=self._me,
                    stream=message.stream,
                    text=message.text,
                    lines_cut=message.lines_cut,
                    characters_cut=message.characters_cut,
                )
            )

    def counted(self, runs: list[tuple[str, str, RunRecord]]) -> None:
        """Count calls that clients made directly, as those that came through here."""
        counters = self._counters
        for function, version, (_, run_us, queued_us, end) in runs:
            counters.outcomes[end] += 1
            counters.count(
                function,
                version,
                run_us=run_us,
                queued_us=queued_us,
                failed=end not in ("ok", "cancelled"),
            )

    # ---------------------------------------------------------------------- time

    def _look_later(self) -> None:
        if self._timer is None and self._leases:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """End what is not used, and let others know how busy the workers are."""
        self._timer = None
        now = time.monotonic()
        is_changed = False
        for held in list(self._leases.values()):
            if self._pool is None:
                break
            begun, is_busy = self._pool.is_used(held.lease)
            if is_busy or begun != held.begun:
                held.begun, held.used_at = begun, now
            elif now - held.used_at >= TERM_S:
                self._end(held)
            is_changed = is_changed or is_busy != held.was_busy
            held.was_busy = is_busy
        if is_changed:
            self._changed()
        self._look_later()
