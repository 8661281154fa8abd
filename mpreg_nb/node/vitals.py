"""How busy this node is: calls, event loop, processor and memory."""

import asyncio
import time
from collections.abc import Callable

import psutil

from mpreg_nb.node.counters import Counters
from mpreg_nb.wire.gossip import Load

NEWS_EVERY_S = 0.05
"""How often an answer also carries how busy this node is. One that leaves it idle
always does, where others were told that it is busy."""

TELL_S, TELL_PEER_S = 0.1, 0.004
"""So long after a change all are told; more seldom where many peers are to be told."""

SAMPLE_S = 1.0
"""How often processor and memory are looked at; a look costs about 0.2 ms."""


class Vitals:
    """Measures the load that is told to others."""

    def __init__(
        self,
        *,
        running: Callable[[], int],
        queued: Callable[[], int],
        slots: int,
        counters: Counters,
        tell: Callable[[Load], int],
    ) -> None:
        """`tell` tells the cluster, and returns how many peers heard of it."""
        self._running = running
        self._queued = queued
        self._slots = slots
        self._counters = counters
        self._process = psutil.Process()
        self._started = time.monotonic()
        self._sampled_at = -SAMPLE_S
        self._cpu_percent = 0.0
        self._memory_mb = 0
        self._news_due = 0.0
        self._tell = tell
        self._tell_s = TELL_S
        # Running and queued, where all that were told anything were told the same.
        self._told: tuple[int, int] | None = (0, 0)
        self._told_busy = False  # somebody was, and not yet that it is idle
        self._serial = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.degraded = False
        self.loop_lag_ms = 0.0

    def measure(self) -> Load:
        """Return the load of this moment."""
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_S:
            self._sampled_at = now
            self._sample()
        self._serial += 1
        running, queued = self._running(), self._queued()
        if (running, queued) != self._told:
            self._told = None  # whoever it is for knows more than others
        return Load(
            running=running,
            queued=queued,
            slots=self._slots,
            latency_ms=round(self._counters.latency_us / 1e3, 3),
            loop_lag_ms=self.loop_lag_ms,
            degraded=self.degraded,
            cpu_percent=self._cpu_percent,
            memory_mb=self._memory_mb,
            uptime_s=int(now - self._started),
            serial=self._serial,
        )

    def news(self) -> Load | None:
        """Return the load for an answer, unless it was told and is not over."""
        now = time.monotonic()
        if now < self._news_due:
            if not self._told_busy or self._queued() or self._running():
                return None
        self._news_due = now + NEWS_EVERY_S
        load = self.measure()
        self._told_busy = load.running + load.queued > 0
        return load

    def changed(self) -> None:
        """Note that a call came or went; the cluster is told of it soon."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._tell_s, self._tell_change)

    def stop(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell_change(self) -> None:
        self._timer = None
        told, load = self._told, self.measure()
        if told == (load.running, load.queued):
            return
        self._told = load.running, load.queued
        self._told_busy = load.running + load.queued > 0
        self._tell_s = max(TELL_S, TELL_PEER_S * self._tell(load))

    def _sample(self) -> None:
        """Add up this process and its workers."""
        cpu_percent, memory = 0.0, 0
        for process in (self._process, *self._process.children()):
            try:
                with process.oneshot():
                    cpu_percent += process.cpu_percent()
                    memory += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended between the list and the look
        self._cpu_percent = round(cpu_percent, 1)
        self._memory_mb = memory // 1_000_000
