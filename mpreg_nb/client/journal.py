"""What this client's calls took: a row each, and histograms of all."""

import threading
import time
from collections import deque

import msgspec
from hdrh.histogram import HdrHistogram

KEPT_CALLS = 10_000

LONGEST_US = 24 * 3600 * 1_000_000
"""Histograms end here; a longer call counts as this long."""

DIGITS = 3
"""Decimal digits that a percentile is right to."""


class CallRow(msgspec.Struct, gc=False):
    """One call that has ended. Times in microseconds."""

    call_id: str
    function: str
    node: str  # that took it, "" if none did
    via: str  # the node of the link that it went through, "" if directly
    status: str  # done, failed, cancelled or lost
    queued_us: int
    run_us: int
    serialize_us: int
    total_us: int
    sent_bytes: int
    received_bytes: int
    started_at: float  # wall clock
    waited_us: int = 0  # for a node that fits, or that has room
    run: str = ""  # of which run, if it was a call of a step
    step: str = ""

    @property
    def network_us(self) -> int:
        """What is left when waits, queue, run and serialisation are taken off."""
        known_us = self.waited_us + self.queued_us + self.run_us + self.serialize_us
        return max(0, self.total_us - known_us)

    def add_unpacking(self, unpack_us: int) -> None:
        """Count the time in which the result was rebuilt, where it was asked for."""
        self.serialize_us += unpack_us
        self.total_us += unpack_us


class Journal:
    """The last calls, and a histogram per function and node."""

    def __init__(self) -> None:
        self._rows: deque[CallRow] = deque(maxlen=KEPT_CALLS)
        self._fresh: list[CallRow] = []
        self._histograms: dict[tuple[str, str], HdrHistogram] = {}
        self._digesting = threading.Lock()  # two threads may ask at the same time
        self._digested = 0
        self.results: dict[tuple[str, str], int] = {}
        """How many results came of each (function, version), steps of runs included."""
        self.wall_offset_s = time.time() - time.perf_counter()
        """Added to a reading of perf_counter, gives the wall time of a row."""

    def add(self, row: CallRow) -> None:
        """Note a call that has ended."""
        self._rows.append(row)
        self._fresh.append(row)
        if len(self._fresh) >= KEPT_CALLS:
            self._digest()

    def add_result(self, function: str, version: str) -> None:
        """Count one result of one version of a function."""
        key = (function, version)
        self.results[key] = self.results.get(key, 0) + 1

    def rows(self) -> tuple[CallRow, ...]:
        """Return the last calls, oldest first."""
        return tuple(self._rows)

    @property
    def count(self) -> int:
        """How many calls were noted since the beginning, those not kept included."""
        with self._digesting:
            return self._digested + len(self._fresh)

    @property
    def last(self) -> CallRow | None:
        """The call that ended last."""
        return self._rows[-1] if self._rows else None

    def histograms(self) -> dict[tuple[str, str], HdrHistogram]:
        """Return (function, node) -> histogram of total microseconds."""
        self._digest()
        return dict(self._histograms)

    def _digest(self) -> None:
        with self._digesting:
            fresh, self._fresh = self._fresh, []
            self._digested += len(fresh)
            for row in fresh:
                if not row.node:
                    continue
                key = (row.function, row.node)
                histogram = self._histograms.get(key)
                if histogram is None:
                    histogram = HdrHistogram(1, LONGEST_US, DIGITS)
                    self._histograms[key] = histogram
                histogram.record_value(min(max(1, row.total_us), LONGEST_US))
