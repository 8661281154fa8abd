"""How busy this node is: calls, event loop, processor and memory."""

import time
from collections.abc import Callable

import psutil

from mpreg_nb.node.counters import Counters
from mpreg_nb.wire.gossip import Load

NEWS_EVERY_S = 0.05
"""How often an answer also carries how busy this node is."""

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
    ) -> None:
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
        self.degraded = False
        self.loop_lag_ms = 0.0

    def measure(self) -> Load:
        """Return the load of this moment."""
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_S:
            self._sampled_at = now
            self._sample()
        return Load(
            running=self._running(),
            queued=self._queued(),
            slots=self._slots,
            latency_ms=round(self._counters.latency_us / 1e3, 3),
            loop_lag_ms=self.loop_lag_ms,
            degraded=self.degraded,
            cpu_percent=self._cpu_percent,
            memory_mb=self._memory_mb,
            uptime_s=int(now - self._started),
        )

    def news(self) -> Load | None:
        """Return the load if it was not told for a while."""
        now = time.monotonic()
        if now < self._news_due:
            return None
        self._news_due = now + NEWS_EVERY_S
        return self.measure()

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
