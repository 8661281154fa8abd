"""Leases of workers on this machine: calls go straight to a worker and back.

A node leases an idle worker to a client that calls the same function again and again.
Calls of that version then go to the worker's own Unix socket, while the lease lasts.
How each ends stays with `calls/pending.py`: a lease is one more place where a call can
be. The node interrupts calls, and says what became of them when the worker is gone.

Who blocks a thread for each call reads the answers in that thread: a worker that takes
such calls alone is *lent* to the threads, one at a time. What is not answered at once
goes on in the loop, and so does all else; then the loop takes the worker back.
"""

import asyncio
import math
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import (
    Cancel,
    LeaseAnswer,
    LeasedCalls,
    LeasedCancel,
    LeaseRequest,
    LeaseRevoked,
    Recall,
)
from mpreg_nb.protocol.worker import (
    Greeting,
    Job,
    JobDone,
    JobFailed,
    JobFrameReader,
    Received,
    ToHolder,
    frame,
)
from mpreg_nb.routing.router import Wanted
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.local_socket import connected_to

AHEAD_S = 0.005
"""Expected time of the calls that a worker has; it gets no more of them at once."""

AHEAD_CALLS = 64
"""Calls that a worker has, at most."""

OVERHEAD_S = 10e-6
"""What a call takes in its worker besides the function."""

TOGETHER_S = 0.0001
"""Calls that a worker does in less go there together: to wake another takes longer."""

SHORT_S = 0.0005
"""Calls that take less wait here for their turn; others go to the node."""

RISE, FALL = 0.5, 0.1
"""How fast the expectation follows longer and shorter runs."""

PAUSE_S, LONGEST_PAUSE_S = 0.01, 2.0
"""After a lease that was refused or revoked, until the next is asked for."""

WORTH_CALLS = 64
"""A lease that took so many calls was worth its price: the next pause is short."""

EMPTY_S = 0.005
"""How long calls wait until those before them have left the node."""

ANSWER_S = 0.1
"""How long calls wait for the answer of a node that was asked for a worker."""

LEND, WAITED_FOR = 16, 4
"""Points: a call that a thread blocks for adds `WAITED_FOR`, any other call takes one
away. With `LEND` of them a worker is lent: threads block for more than a fifth of all.
"""

READ_S = 0.002
"""How long a thread reads; the loop waits for it, if it needs the worker."""

STUCK_S = 0.02
"""If a worker answers nothing for so long, calls that wait there go elsewhere."""

FUNCTIONS = 256
"""Functions of which is known that they were called, for each node."""

Key: TypeAlias = tuple[str, str, frozenset[str]]
"""Function, version and resources."""

Said: TypeAlias = Callable[["WorkerLink", Any, tuple[Buffer, ...]], None]


class WorkerLink:
    """A worker that is leased to this client: jobs out, answers in."""

    def __init__(
        self,
        entry: Connection,
        answer: LeaseAnswer,
        said: Said,
        broken: Callable[["WorkerLink"], None],
        expected_s: float,
        slots: int,
        *,
        is_sole: bool,
    ) -> None:
        """Connect to the worker. expected_s: what a call takes.

        slots: how many calls it runs at once. is_sole: its node has no other worker.

        Raises:
            OSError: it does not listen any more.
        """
        self.node_link = entry
        self.node = entry.peer.name
        self.number = answer.number
        self.permitted: set[Key] = set()
        self.is_over = False  # it takes no calls any more
        self.calls: dict[bytes, int] = {}  # that it has: their numbers
        self.sent = 0  # calls so far
        self._said = said
        self._broken = broken
        self._expected_s = expected_s  # of one call
        self._slots = slots
        self.is_sole = is_sole
        # Where there are other workers, calls that are not short go to these.
        self._most_long = slots if is_sole else 1
        self._unwritten: list[bytes] = []  # jobs of this turn of the loop
        self._writes = 0  # jobs since the worker last said something
        self._at_once = True  # whether the next job need not wait for others
        self._answered = -math.inf  # when it last answered
        self._watch: asyncio.TimerHandle | None = None  # while calls wait there
        self._unsent = b""  # what the system did not take
        self._reader: JobFrameReader[ToHolder] = JobFrameReader(ToHolder)
        self._loop = asyncio.get_running_loop()
        self._end = connected_to(Path(answer.path))
        self.is_closed = False
        self.using = threading.Lock()
        """Held by the thread that uses a lent worker."""
        self.is_lent = False
        self._points = 0  # see `LEND`
        self._sent_unlent = 0  # calls until it was lent
        self.handed_over: Any = None  # a call that the loop does not know yet
        self._early: list[Received[ToHolder]] = []  # read by a thread, for the loop
        seconds = struct.pack("ll", 0, int(READ_S * 1e6))
        self._end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        self._end.send(frame(Greeting(lease=answer.number, key=answer.key)))
        self._loop.add_reader(self._end.fileno(), self._readable)

    @property
    def has_room(self) -> bool:
        """Whether one more call would begin at once, or very soon."""
        calls = len(self.calls)
        if self._unsent or calls >= AHEAD_CALLS:
            return False
        return calls < self._most_long or (calls + 1) * self._expected_s <= AHEAD_S

    def is_soon_free(self, key: Key) -> bool:
        """Whether one more call would wait there for less than another wake-up takes.

        key: what it calls.
        """
        if self.is_over or self._unsent or key not in self.permitted:
            return False
        return (len(self.calls) + 1) * self._expected_s <= TOGETHER_S

    @property
    def is_short(self) -> bool:
        """Whether it is worth while to wait for room."""
        return self._expected_s <= SHORT_S

    def call(self, job: Job) -> None:
        """Send a job, with all others of this turn; what becomes of it is told.

        A caller that waits for each answer before the next call saves the turn.
        """
        self.sent += 1
        self.calls[job.id] = self.sent
        if len(self.calls) > self._slots and self._watch is None:
            self._watch = self._loop.call_later(STUCK_S, self._look)
        self._writes += 1
        unwritten = self._unwritten
        unwritten.append(frame(job))
        if len(unwritten) > 1:
            return
        if self._at_once:
            self._at_once = False
            self._write()
        else:
            self._loop.call_soon(self._write)

    def queued_us(self, answer: JobDone | JobFailed, sent: float, now: float) -> int:
        """Return how long a call waited for its turn at the worker.

        That one reads the next call when it has answered the one before, and does not
        know since when it was there. sent: when it was sent; now: it is answered.
        """
        said_us = answer.queued_us if type(answer) is JobDone else 0
        before, self._answered = self._answered, now
        if before <= sent or self._slots > 1:
            return said_us
        longest_us = int((now - sent) * 1e6) - answer.run_us
        return max(said_us, min(int((before - sent) * 1e6), longest_us))

    def _look(self) -> None:
        """Give the worker back if calls wait there behind one that takes long.

        Its node then has them run where there is room, or tells that they wait.
        """
        self._watch = None
        if self.is_over or len(self.calls) <= self._slots:
            return
        silent_s = time.monotonic() - self._answered
        if silent_s >= STUCK_S:
            self.node_link.send(LeasedCalls(number=self.number, calls=()))
        else:
            self._watch = self._loop.call_later(STUCK_S - silent_s, self._look)

    def several_follow(self) -> None:
        """Write the calls that follow together."""
        self._at_once = False

    def _write(self) -> None:
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        if self.is_closed:  # what became of them was asked already
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._end.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the reading side learns of it, after what had come
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.add_writer(self._end.fileno(), self._writable)

    # ------------------------------------------------------- lent to a thread

    def is_at_hand(self) -> bool:
        """Say whether a thread may use it now."""
        return self.is_lent and not self.is_over and self.handed_over is None

    def count(self, *, blocking: int = 0, others: int = 0) -> None:
        """Count calls: those that a thread blocked for, and the others."""
        points = self._points + WAITED_FOR * blocking - others
        self._points = min(max(points, 0), 2 * LEND)

    @property
    def is_to_be_lent(self) -> bool:
        """Whether threads should have it, until the loop needs it again."""
        if self.calls or self.is_over or self.is_lent:
            return False
        return self._points >= LEND and self.is_short

    def lend(self) -> None:
        """Let threads use it; it has no calls."""
        self._sent_unlent = self.sent
        self.is_lent = True
        self._loop.remove_reader(self._end.fileno())
        self._end.setblocking(True)

    def ask(self, job: Job) -> JobDone | None:
        """Send a job and return its answer, in the thread that has it lent.

        None: that takes long, or is no plain result. The loop goes on with it.
        """
        self.sent += 1
        self.calls[job.id] = self.sent
        data = frame(job)
        try:
            sent = self._end.send(data, socket.MSG_DONTWAIT)
            if sent < len(data):
                self._unsent = data[sent:]
                return None
            count = self._end.recv_into(self._reader.space())
            received = self._reader.received(count) if count else []
        except (OSError, ValueError, msgspec.MsgspecError):
            return None  # it takes long, or is gone: the loop learns which
        if len(received) == 1:
            ((answer, parts),) = received
            if type(answer) is JobDone and answer.id == job.id and not parts:
                del self.calls[job.id]
                self._learn(answer.run_us / 1e6 + OVERHEAD_S)
                return answer
        self._early += received
        return None

    def take_back(self) -> None:
        """Let the loop alone use it from now on; waits for a thread that does."""
        if not self.is_lent:
            return
        with self.using:
            self.is_lent = False
            self.count(blocking=self.sent - self._sent_unlent)
        self._end.setblocking(False)
        if self.is_closed:
            return
        self._loop.add_reader(self._end.fileno(), self._readable)
        if self._unsent:
            self._loop.add_writer(self._end.fileno(), self._writable)
        early, self._early = self._early, []
        for message, parts in early:
            self._said(self, message, parts)

    # --------------------------------------------------------------------- its end

    def send(self, message: Cancel | Recall) -> None:
        """Have the node end calls, or only those that have not begun."""
        unless_begun = isinstance(message, Recall)
        for call_id in message.ids if isinstance(message, Recall) else (message.id,):
            place = self.calls.get(call_id)
            if place is not None:
                self.node_link.send(
                    LeasedCancel(
                        number=self.number,
                        id=call_id,
                        place=place,
                        unless_begun=unless_begun,
                    )
                )

    def ended(self, call_id: bytes) -> None:
        """Note that a call has its answer."""
        self.calls.pop(call_id, None)
        if self.is_over and not self.calls:
            self.close()

    def revoked(self) -> None:
        """Send no calls any more; those that are there have their answers to come."""
        self.is_over = True
        self.take_back()
        if not self.calls:
            self.close()

    def given_back(self, begun: int) -> list[bytes]:
        """Return the calls that will not begin, since the lease is over.

        begun: the number of the last call that has. The worker answers the others, too,
        once it reads them: by then nobody waits for it.
        """
        return [call_id for call_id, place in self.calls.items() if place > begun]

    def drain(self) -> None:
        """Take what the worker had written, before it is given up."""
        self.take_back()
        while not self.is_closed and self._receive():
            pass

    def close(self) -> None:
        """Let go of the worker."""
        self.is_over = True
        self.take_back()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self.is_closed:
            self.is_closed = True
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._end.close()

    def _writable(self) -> None:
        try:
            sent = self._end.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._end.fileno())

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Take what has come; False: there is no more."""
        try:
            count = self._end.recv_into(self._reader.space())
            received = self._reader.received(count) if count else None
        except BlockingIOError:
            return False
        except (OSError, ValueError, msgspec.MsgspecError):
            received = None
        if received is None:
            self.close()
            self._broken(self)
            return False
        # What was sent since the last word went together; what comes may be alone.
        self._at_once = self._writes <= 1
        self._writes = 0
        for message, parts in received:
            kind = type(message)
            if kind is JobDone:
                self._learn(message.run_us / 1e6 + OVERHEAD_S)  # type: ignore[union-attr]
            self._said(self, message, parts)
        return True

    def _learn(self, run_s: float) -> None:
        before_s = self._expected_s
        weight = RISE if run_s > before_s else FALL
        self._expected_s = before_s + weight * (run_s - before_s)


class LeasedWorkers:
    """The leases of one client, one for each link to a node of this machine."""

    def __init__(
        self,
        *,
        is_wanted: Callable[[], bool],
        workers_of: Callable[[str], tuple[int, int]],
        new_id: Callable[[], bytes],
        said: Said,
        returned: Callable[[WorkerLink, list[bytes]], None],
        lost: Callable[[WorkerLink], None],
        decided: Callable[[], None],
    ) -> None:
        """is_wanted: whether calls may go straight to workers at all.

        workers_of: how many workers a node has, and how many slots each.

        said: hears each message of a worker; returned: that calls there will not begin;
        lost: that one is gone; decided: that calls need not wait for the answer of a
        node any more.
        """
        self.is_wanted = is_wanted
        self._workers_of = workers_of
        self._new_id = new_id
        self._said = said
        self._returned = returned
        self._lost = lost
        self._decided = decided
        self._links: dict[Connection, WorkerLink] = {}  # that take calls
        # Those whose end is not known, by the number of the lease.
        self._open: dict[tuple[Connection, int], WorkerLink] = {}
        self.lent: dict[Wanted, WorkerLink] = {}
        """Read by all threads: the worker that calls of this kind may use alone."""
        self._called: dict[Connection, dict[Key, None]] = {}
        self._large: dict[Key, None] = {}  # whose results were
        self._run_s: dict[str, float] = {}  # of versions, as their nodes told
        self._asked: dict[bytes, tuple[Connection, Key]] = {}
        self._asking: set[Connection] = set()  # links of these
        self._emptying: set[Connection] = set()  # their calls are to end first
        self._loop = asyncio.get_running_loop()
        self._pauses: dict[Connection, tuple[float, float]] = {}  # until, how long

    def find(self, link: Connection, key: Key) -> WorkerLink | None:
        """Return the worker of a node that takes such calls, if one does."""
        leased = self._links.get(link)
        if leased is None or leased.is_over or key not in leased.permitted:
            return None
        return leased if self.is_wanted() else None

    def lend(self, worker: WorkerLink, wanted: Wanted) -> None:
        """Lend a worker without calls to the threads that make calls of one kind."""
        self.lent = {w: one for w, one in self.lent.items() if one.is_lent}
        self.lent[wanted] = worker
        worker.lend()

    def routes_changed(self, fits: Callable[[Wanted, str], bool]) -> None:
        """Send no calls straight to a worker whose node must not run them any more.

        fits: whether a node may run such calls.
        """
        for worker in self._links.values():
            worker.permitted = {
                key for key in worker.permitted if fits(Wanted(*key), worker.node)
            }
        for wanted, worker in self.lent.items():
            if not fits(wanted, worker.node):
                worker.take_back()
        self.lent = {w: one for w, one in self.lent.items() if one.is_lent}

    def give_up(self, worker: WorkerLink) -> None:
        """Let go of a worker whose answers may be lost; its calls are asked about."""
        worker.close()
        self._broken(worker)

    def several_follow(self) -> None:
        """Write the calls that follow together."""
        for worker in self._links.values():
            worker.several_follow()

    def is_large(self, worker: WorkerLink, key: Key) -> None:
        """Send such calls through the node: it shares memory for large results."""
        worker.permitted.discard(key)
        self._large[key] = None
        if len(self._large) > FUNCTIONS:
            del self._large[next(iter(self._large))]

    def learn(self, version: str, run_us: int) -> None:
        """Note how long a call took that a node ran."""
        run_s = self._run_s
        if version not in run_s and len(run_s) >= FUNCTIONS:
            del run_s[next(iter(run_s))]
        run_s[version] = run_us / 1e6 + OVERHEAD_S

    def is_awaited(
        self, link: Connection, key: Key, under_way: int, now: float
    ) -> bool:
        """Say whether a call is to wait for a worker, and ask for one if it is time.

        under_way: how many calls the node has. It leases a worker that is idle, so the
        client lets short ones end first.
        """
        if link in self._asking:
            return True
        if link.peer.carrier != "unix" or not self.is_wanted() or key in self._large:
            return False
        # One that is leased takes another function at its first call: through the
        # node, that call would end the lease.
        if link not in self._links:
            until, _ = self._pauses.get(link, (-math.inf, 0.0))
            if now < until or not self._is_called_again(link, key):
                return False
            if under_way:
                return self._is_emptied(link, key)
        self._emptying.discard(link)
        function, version, resources = key
        request = LeaseRequest(
            id=self._new_id(), function=function, version=version, resources=resources
        )
        self._asked[request.id] = link, key
        self._asking.add(link)
        link.send(request)
        self._loop.call_later(ANSWER_S, self._unanswered, request.id)
        return link in self._asking  # the send may have ended the link

    def _is_called_again(self, link: Connection, key: Key) -> bool:
        called = self._called.setdefault(link, {})
        is_first = key not in called
        called[key] = None
        if len(called) > FUNCTIONS:
            del called[next(iter(called))]
        return not is_first

    def _is_emptied(self, link: Connection, key: Key) -> bool:
        """Whether calls wait until the node has none; not for long."""
        if link not in self._emptying:
            if self._run_s.get(key[1], math.inf) > SHORT_S:
                return False
            self._emptying.add(link)
            self._loop.call_later(EMPTY_S, self._not_emptied, link)
        return True

    def _not_emptied(self, link: Connection) -> None:
        if link in self._emptying:
            self._emptying.discard(link)
            self._pause(link)
            self._decided()

    def _unanswered(self, request_id: bytes) -> None:
        """Go on without a worker: the node is slow, or of a version without leases."""
        if request_id in self._asked:
            self._answered(LeaseAnswer(id=request_id))
            self._decided()

    def receive(self, link: Connection, message: LeaseAnswer | LeaseRevoked) -> None:
        """Take what a node says of leases."""
        if isinstance(message, LeaseAnswer):
            self._answered(message)
            self._decided()
            return
        leased = self._open.get((link, message.number))
        if leased is None:
            return
        if self._links.get(link) is leased:
            del self._links[link]
            self._pause(link, leased)
            self._decided()
        if message.gone:
            leased.drain()
            self._give_up(leased)
        leased.revoked()
        if message.begun is not None:
            self._returned(leased, leased.given_back(message.begun))

    def _answered(self, answer: LeaseAnswer) -> None:
        link, key = self._asked.pop(answer.id, (None, None))
        if link is None or key is None:
            return
        self._asking.discard(link)
        leased = self._links.get(link)
        if not answer.number:
            self._pause(link)
            return
        if leased is None or leased.number != answer.number:
            try:
                expected_s = self._run_s.get(key[1], AHEAD_S)
                count, slots = self._workers_of(link.peer.name)
                leased = WorkerLink(
                    link,
                    answer,
                    self._said,
                    self._broken,
                    expected_s,
                    slots,
                    is_sole=count == 1,
                )
            except OSError:  # the worker ended just now
                self._pause(link)
                return
            self._forget_closed()
            self._links[link] = self._open[link, answer.number] = leased
        leased.permitted.add(key)

    def _forget_closed(self) -> None:
        for key, leased in list(self._open.items()):
            if leased.is_closed and not leased.calls:
                del self._open[key]

    def _pause(self, link: Connection, leased: WorkerLink | None = None) -> None:
        """Ask for nothing for a while.

        Longer each time, unless the last time is long ago, or the lease that ended was
        worth its price.
        """
        now = time.monotonic()
        until, pause_s = self._pauses.get(link, (-math.inf, 0.0))
        again = now - until < LONGEST_PAUSE_S
        if leased is not None and leased.sent >= WORTH_CALLS:
            again = False
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if again else PAUSE_S
        self._pauses[link] = now + pause_s, pause_s

    def _broken(self, leased: WorkerLink) -> None:
        if self._links.get(leased.node_link) is leased:
            del self._links[leased.node_link]
            self._pause(leased.node_link, leased)
        self._give_up(leased)

    def _give_up(self, leased: WorkerLink) -> None:
        leased.close()
        if self._open.pop((leased.node_link, leased.number), None) is not None:
            self._lost(leased)

    def link_lost(self, link: Connection) -> None:
        """Give up the workers of a node that is lost, after what they have answered."""
        self._links.pop(link, None)
        self._called.pop(link, None)
        self._asking.discard(link)
        self._emptying.discard(link)
        for call_id in [c for c, (one, _) in self._asked.items() if one is link]:
            del self._asked[call_id]
        for leased in [one for one in self._open.values() if one.node_link is link]:
            leased.drain()
            self._give_up(leased)
        self._pauses.pop(link, None)

    def stop(self) -> None:
        """Let go of all workers."""
        for leased in self._open.values():
            leased.close()
        self._links.clear()
        self._open.clear()
