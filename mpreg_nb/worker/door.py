"""Jobs that come to this worker directly, from who holds a lease of it.

The node leases the worker to a client of its machine: until the lease ends, that client
sends its jobs to a Unix socket of this worker, and gets the answers there. A call then
costs two processes instead of three. The node has the last word: it opens leases and
ends them, and hands no jobs of its own meanwhile.

With several slots, other threads than the one that reads begin and end these jobs.
When the lease ends, those that run keep their slots, and the node uses the others.
"""

import hmac
import select
import socket
from pathlib import Path
from threading import Lock
from time import perf_counter_ns
from typing import TYPE_CHECKING

from mpreg_nb.protocol.worker import (
    LEASED_AT_ONCE,
    Greeting,
    Job,
    Lease,
    LeaseEnd,
    LeaseOpen,
    LeaseOver,
    Permit,
    Received,
    Returned,
    SharedStatus,
    ToWorker,
    end_of,
    frame,
)
from mpreg_nb.transport.local_socket import is_own, listening_at
from mpreg_nb.worker.channel import AnswerSender, Holder, JobReceiver, Task

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer

GREETING_S = 1
"""In which who connects must show the key of a lease."""


class DirectReceiver(JobReceiver):
    """Tasks of the node, and of who holds a lease. Only the main thread reads."""

    def __init__(self, stream: socket.socket, cancels: int) -> None:
        super().__init__(stream, cancels)
        self._node = stream.fileno()
        self._listening: socket.socket | None = None
        self._holder: Holder | None = None
        self._lease: Lease | None = None
        self._permitted: dict[str, int] = {}  # version -> its place in records
        self._over = 0  # the newest lease that has ended; set by a signal handler too
        self._changing = Lock()  # of what runs, where several do
        self._free = list(range(LEASED_AT_ONCE))  # slots of tasks of the lease
        self._unanswered = (
            0  # tasks of it that have ended, and whose answer is not sent
        )
        self._closing = 0  # a lease that is over, but for tasks that run
        self._poll = select.poll()
        self._poll.register(self._node, select.POLLIN)

    def serve(self, page: SharedStatus, outbox: AnswerSender) -> None:
        """Set what leases need, before the first task."""
        self._page = page
        self._outbox = outbox

    # ------------------------------------------------------------------- reading

    def read(self) -> None:
        """Receive once from each who has sent something."""
        if self._listening is None:
            super().read()
            return
        holder = self._holder
        for end, _ in self._poll.poll():
            if end == self._node:
                super().read()
            elif holder is not None and end == holder.stream.fileno():
                self._hear(holder)
            elif end == self._listening.fileno():
                self._accept(self._listening)

    def _sort(self, received: list[Received[ToWorker]]) -> None:
        for one in received:
            message = one[0]
            if isinstance(message, Lease):
                self._open(message)
            elif isinstance(message, Permit):
                self.codes.use(message.version)
                self._permitted[message.version] = message.place
            elif isinstance(message, LeaseEnd):
                self._end(message.number)
            else:
                super()._sort([one])

    def _hear(self, holder: Holder) -> None:
        for message, parts in holder.receive():
            if not isinstance(message, Job):
                continue
            holder.jobs += 1
            code = self.codes.find(message.version)
            place = self._permitted.get(message.version)
            if code is None or place is None or holder.lease <= self._over:
                holder.send([frame(Returned(id=message.id))])
                continue
            task = Task(message, parts, code, holder.jobs)
            task.holder = holder
            task.place = place
            task.read_ns = perf_counter_ns()
            self.waiting.append(task)
        if holder.is_gone:
            self._let_go(holder)

    def _accept(self, listening: socket.socket) -> None:
        """Take in who shows the key of the lease; the one before is let go."""
        try:
            stream, _ = listening.accept()
        except OSError:  # it left again
            return
        lease = self._lease
        if lease is None or not is_own(stream) or not _shows(stream, lease):
            stream.close()
            return
        if self._holder is not None:
            self._let_go(self._holder)
        self._holder = Holder(stream, lease.number, self._outbox)
        self._poll.register(stream, select.POLLIN)

    def _let_go(self, holder: Holder) -> None:
        """Forget a client that is gone; what of it waits will not begin."""
        holder.is_gone = True
        self._poll.unregister(holder.stream)
        holder.let_go()
        if self._holder is holder:
            self._holder = None

    # -------------------------------------------------------------------- leases

    def _open(self, lease: Lease) -> None:
        if self._holder is not None:
            self._let_go(self._holder)
        self._permitted.clear()
        self._lease = lease
        self._page.open_lease(lease.number)
        error = ""
        if self._listening is None:
            try:
                self._listening = listening_at(Path(lease.path))
                self._poll.register(self._listening, select.POLLIN)
            except OSError as problem:
                error = str(problem)
        self._outbox.send([frame(LeaseOpen(number=lease.number, error=error))])

    def end_lease(self, number: int) -> None:
        """Begin no more jobs of a lease; may be called in a signal handler."""
        self._over = max(self._over, number)

    def _end(self, number: int) -> None:
        """Give back what waits, and tell whether something runs."""
        self.end_lease(number)
        over: list[tuple[Holder, Task]] = []
        with self.taking:
            for task in list(self.waiting):
                holder = task.holder
                if holder is not None and not self._may_begin(holder):
                    self.waiting.remove(task)
                    over.append((holder, task))
        for holder, task in over:
            holder.send([frame(Returned(id=task.job.id))])
        with self._changing:
            self._tell_over(number)

    def _tell_over(self, number: int) -> None:
        """Tell that a lease is over, again with each slot that becomes free then."""
        # Who hears that nothing runs may end this process: answers go before.
        runs = len(self._free) < LEASED_AT_ONCE or self._unanswered > 0
        self._closing = number if runs else 0
        self._outbox.send([frame(LeaseOver(number=number, runs=runs))])

    def _may_begin(self, holder: Holder) -> bool:
        return not holder.is_gone and holder.lease > self._over

    def admits(self, task: Task) -> bool:
        """Whether a task may begin; who holds a lease that is over hears if not."""
        holder = task.holder
        if holder is None or self._may_begin(holder):
            return True
        holder.send([frame(Returned(id=task.job.id))])
        return False

    # Where several tasks run at once.

    def begin(self, task: Task, holder: Holder) -> bool:
        """Begin a task of a lease, if it may; who holds the lease hears if not."""
        with self._changing:
            if self._may_begin(holder) and self._free:
                task.slot = self._free.pop()
                job_id, place, slot = task.job.id, task.place, task.slot
                self._page.begin_leased(task.number, job_id, place, slot)
                if self._may_begin(holder):  # the lease may have ended this moment
                    return True
                self._page.end_leased(slot)
                self._free.append(slot)
        holder.send([frame(Returned(id=task.job.id))])
        return False

    def end(self, task: Task, run_ns: int, queued_ns: int, answer: "Buffer") -> None:
        """Note that a task of a lease has ended, and what it took."""
        with self._changing:
            self._page.end_leased(task.slot)
            self._free.append(task.slot)
            self._unanswered += 1
            self.count(task, run_ns, queued_ns, answer)
            if self._closing:
                self._tell_over(self._closing)

    def answered(self) -> None:
        """Note that the answer of a task that has ended is sent."""
        with self._changing:
            self._unanswered -= 1
            if self._closing and not self._unanswered:
                self._tell_over(self._closing)

    def count(self, task: Task, run_ns: int, queued_ns: int, answer: "Buffer") -> None:
        """Note what a leased task took, for the node."""
        told = self._page.count(
            task.place, run_ns // 1000, queued_ns // 1000, end_of(answer)
        )
        if told is not None:
            self._outbox.hold(frame(told))

    def flush(self) -> None:
        """Write what is held for who holds the lease."""
        if self._holder is not None:
            self._holder.flush()


def _shows(stream: socket.socket, lease: Lease) -> bool:
    """Whether who has connected shows the key of the lease, in time."""
    stream.settimeout(GREETING_S)
    expected = frame(Greeting(lease=lease.number, key=lease.key))
    shown = b""
    try:
        while len(shown) < len(expected):
            data = stream.recv(len(expected) - len(shown))
            if not data:
                return False
            shown += data
    except OSError:  # it took too long, or left
        return False
    stream.settimeout(None)
    return hmac.compare_digest(shown, expected)
