"""What this node counts of the functions that it ran, and of its own work."""

import statistics
from collections import deque
from dataclasses import dataclass, field

from mpreg_nb.wire.pictures import FunctionPicture

RECENT_CALLS = 512
"""Run times that are kept per function, for the median."""


@dataclass(slots=True)
class FunctionCounter:
    """One version of one function."""

    calls: int = 0
    errors: int = 0
    run_us: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_CALLS))


class Counters:
    """Counts by (function, version)."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._functions: dict[tuple[str, str], FunctionCounter] = {}
        self.latency_us = 0.0  # moving average of queue and run, all functions

    def count(
        self, function: str, version: str, *, run_us: int, queued_us: int, failed: bool
    ) -> None:
        """Count one call that ran to its end, well or badly."""
        key = (function, version)
        counter = self._functions.get(key)
        if counter is None:
            counter = self._functions[key] = FunctionCounter()
        counter.calls += 1
        counter.errors += failed
        counter.run_us.append(run_us)
        self.latency_us += 0.1 * (run_us + queued_us - self.latency_us)

    def pictures(self) -> tuple[FunctionPicture, ...]:
        """Return what was counted so far."""
        return tuple(
            FunctionPicture(
                function=function,
                version=version,
                node=self._me,
                calls=counter.calls,
                errors=counter.errors,
                p50_ms=statistics.median(counter.run_us) / 1e3,
            )
            for (function, version), counter in self._functions.items()
        )
