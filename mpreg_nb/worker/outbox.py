"""Answers and prints on their way to the node.

Answers of short jobs are held while further short jobs wait, and written
together: one system call and one wake-up of the node for many. A thread writes
them when a job takes longer than expected, so that no answer waits for another.
"""

import math
import socket
from collections.abc import Callable, Sequence
from threading import Lock, RLock
from time import monotonic
from typing import TYPE_CHECKING

from mpreg_nb.worker.watch import start_essential

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer

HOLD_S = 0.002
"""Longest time that an answer is held."""

HOLD_BYTES = 64 * 1024
_IDLE_TICKS = 10
_BUFFERS = 512  # given to one sendmsg; the system takes at most 1024


class Outbox:
    """Frames to the node; complete frames, whichever thread sends them."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = Lock()
        self._held: list[Buffer] = []
        self._held_bytes = 0
        self._held_since = math.inf
        self._idle_ticks = 0
        self._alarm = _Alarm()

    def send(
        self,
        frames: "Sequence[Buffer]",
        before: "Callable[[], Sequence[Buffer]] | None" = None,
    ) -> None:
        """Write what is held, then what `before` returns, then `frames`.

        `before` is called when nobody else writes, so that what it takes from
        somewhere and what others take from there are written in that order.
        """
        with self._lock:
            if before is not None:
                frames = (*before(), *frames)
            if self._held:
                frames = (*self._held, *frames)
                self._held = []
                self._held_bytes = 0
                self._held_since = math.inf
            if frames:
                self._write(frames)

    def hold(self, frame: "Buffer") -> None:
        """Write `frame` soon, if nothing else is written before; waits for nothing."""
        with self._lock:
            self._held.append(frame)
            self._held_bytes += len(frame)
            if len(self._held) == 1:
                self._held_since = now = monotonic()
                self._alarm.set(now + HOLD_S, self._flush_due)

    @property
    def is_full(self) -> bool:
        """Whether so much is held that it should be written now."""
        return self._held_bytes > HOLD_BYTES

    @property
    def is_holding(self) -> bool:
        """Whether something is held."""
        return bool(self._held)

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            self.send(())

    def _flush_due(self, now: float) -> float:
        if self._held:
            self._idle_ticks = 0
            if self._held_since + HOLD_S <= now:
                self.flush()
        else:
            self._idle_ticks += 1
        # To keep ticking for a while is cheaper than to be woken for each batch.
        return now + HOLD_S if self._idle_ticks < _IDLE_TICKS else math.inf

    def call_by(self, when: float, tick: Callable[[float], float]) -> None:
        """Have `tick(now)` called in a thread by `when`; it returns when again."""
        self._alarm.set(when, tick)

    def _write(self, frames: "Sequence[Buffer]") -> None:
        if len(frames) == 1:
            self._stream.sendall(frames[0])
            return
        if sum(map(len, frames)) <= HOLD_BYTES:
            self._stream.sendall(b"".join(frames))
            return
        views = [memoryview(part).cast("B") for part in frames if len(part)]
        while views:
            sent = self._stream.sendmsg(views[:_BUFFERS])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]


class _Alarm:
    """A thread that calls functions at their times; it starts with the first."""

    def __init__(self) -> None:
        self._due: dict[Callable[[float], float], float] = {}
        self._next = math.inf  # when the thread wakes by itself
        self._changing = RLock()  # a signal handler may come upon itself
        self._asleep = Lock()  # held, but for a moment in which the thread is woken
        self._started = False

    def set(self, when: float, tick: Callable[[float], float]) -> None:
        """Call `tick` by `when`, or before if it is due before."""
        with self._changing:
            self._due[tick] = min(when, self._due.get(tick, math.inf))
            if when >= self._next:
                return
            self._next = when
            if not self._started:
                self._started = True
                self._asleep.acquire()
                start_essential(self._run, "alarm")
            elif self._asleep.locked():
                self._asleep.release()

    def _run(self) -> None:
        while True:
            now = monotonic()
            for tick in [tick for tick, due in self._due.items() if due <= now]:
                with self._changing:
                    self._due[tick] = math.inf
                again = tick(now)
                with self._changing:
                    self._due[tick] = min(again, self._due[tick])
            with self._changing:
                self._next = min(self._due.values())
                pause = self._next - monotonic()
            if pause > 0:
                self._asleep.acquire(timeout=min(pause, 3600.0))
