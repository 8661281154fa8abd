"""Statistics of this client: a row and histograms for its calls, traffic of links.

Nodes count the traffic of links anyway, and are asked for it only while a view shows
it. All of this belongs to the event loop of its client.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec
from hdrh.histogram import HdrHistogram

from mpreg_nb.client.connections import Connections, Requests
from mpreg_nb.errors import MpregError
from mpreg_nb.protocol.messages import Traffic, TrafficRequest

KEPT_CALLS = 10_000

SPARE_CALLS = 200
"""So many more are kept, so that not each call has to look for what is to go."""

FRESH_CALLS = 2_000
"""From so many on, calls are counted in histograms; that takes a millisecond."""

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


class ChunkRow(msgspec.Struct, frozen=True, gc=False):
    """The calls of a chunk that have a result. Their rows are made for who asks."""

    whole: CallRow
    run_us: list[int]

    def rows(self) -> Iterator[CallRow]:
        """Yield the row of each call: those before it were its queue."""
        before_us, after_us = 0, sum(self.run_us)
        for number, run_us in enumerate(self.run_us):
            after_us -= run_us
            yield self._row(number, before_us, after_us)
            before_us += run_us

    @property
    def last(self) -> CallRow:
        """The row of the last call."""
        return self._row(len(self.run_us) - 1, sum(self.run_us[:-1]), 0)

    def _row(self, number: int, before_us: int, after_us: int) -> CallRow:
        whole, count, run_us = self.whole, len(self.run_us), self.run_us[number]
        return msgspec.structs.replace(
            whole,
            call_id=f"{whole.call_id}[{number}]",
            queued_us=whole.queued_us + before_us,
            run_us=run_us,
            serialize_us=whole.serialize_us // count,
            total_us=max(run_us, whole.total_us - after_us),
            sent_bytes=whole.sent_bytes // count,
            received_bytes=whole.received_bytes // count,
        )


def _calls(row: CallRow | ChunkRow) -> int:
    return len(row.run_us) if type(row) is ChunkRow else 1


class CallLog:
    """The last calls, and a histogram per function and node."""

    def __init__(self) -> None:
        self._rows: deque[CallRow | ChunkRow] = deque()
        self._kept = 0  # calls in these rows
        self._fresh: list[CallRow | ChunkRow] = []
        self._histograms: dict[tuple[str, str], HdrHistogram] = {}
        self._noting = threading.Lock()  # threads that block note their calls too
        self._digesting = threading.Lock()  # two threads may ask at the same time
        self.count = 0
        """How many calls were noted since the beginning, those not kept included."""
        self.results: dict[tuple[str, str], int] = {}
        """How many results came of each (function, version), steps of runs included."""
        self.wall_offset_s = time.time() - time.perf_counter()
        """Added to a reading of perf_counter, gives the wall time of a row."""

    def add(self, row: CallRow) -> None:
        """Note a call that has ended."""
        self._add(row, 1)

    def add_chunk(self, chunk: ChunkRow) -> None:
        """Note the calls of a chunk that have a result."""
        self._add(chunk, len(chunk.run_us))

    def _add(self, row: CallRow | ChunkRow, calls: int) -> None:
        with self._noting:
            rows = self._rows
            rows.append(row)
            self.count += calls
            self._kept += calls
            if self._kept > KEPT_CALLS + SPARE_CALLS:
                self._forget_oldest()
            self._fresh.append(row)
        if len(self._fresh) >= FRESH_CALLS:
            self._digest()

    def _forget_oldest(self) -> None:
        rows, kept = self._rows, self._kept
        while kept - _calls(rows[0]) >= KEPT_CALLS:
            kept -= _calls(rows.popleft())
        self._kept = kept

    def add_result(self, function: str, version: str, count: int = 1) -> None:
        """Count results of one version of a function."""
        key = (function, version)
        with self._noting:
            self.results[key] = self.results.get(key, 0) + count

    def rows(self) -> tuple[CallRow, ...]:
        """Return the last calls, oldest first."""
        found: list[CallRow] = []
        for row in tuple(self._rows):
            if type(row) is ChunkRow:
                found += row.rows()
            else:
                found.append(row)  # type: ignore[arg-type]
        return tuple(found[-KEPT_CALLS:])

    @property
    def last(self) -> CallRow | None:
        """The call that ended last."""
        if not self._rows:
            return None
        row = self._rows[-1]
        return row.last if isinstance(row, ChunkRow) else row

    def histograms(self) -> dict[tuple[str, str], HdrHistogram]:
        """Return (function, node) -> histogram of total microseconds."""
        self._digest()
        return dict(self._histograms)

    def _digest(self) -> None:
        with self._digesting:
            with self._noting:
                fresh, self._fresh = self._fresh, []
            counts: dict[tuple[str, str, int], int] = {}
            for each in fresh:
                row, calls = each, 1
                if isinstance(row, ChunkRow):
                    calls = len(row.run_us)
                    row = msgspec.structs.replace(
                        row.whole, total_us=row.whole.total_us - sum(row.run_us) // 2
                    )
                if not row.node:
                    continue
                value = (row.function, row.node, row.total_us)
                counts[value] = counts.get(value, 0) + calls
            # Many calls take the same number of microseconds.
            for (function, node, total_us), calls in counts.items():
                histogram = self._histograms.get((function, node))
                if histogram is None:
                    histogram = HdrHistogram(1, LONGEST_US, DIGITS)
                    self._histograms[function, node] = histogram
                histogram.record_value(min(max(1, total_us), LONGEST_US), calls)


EVERY_S = 2.0
"""Nodes are asked at most so often."""

PER_NODE_S = 0.05
"""And more seldom if there are many: a hundred nodes every five seconds."""

PATIENCE_S = 2.0
"""A node that is paused or lost does not answer; it is left out."""


class LinkStatsPoll:
    """Asks all nodes that can be reached, and keeps what they told last."""

    def __init__(
        self,
        links: Connections,
        requests: Requests,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._requests = requests
        self._now = now
        self._asking: asyncio.Task[None] | None = None
        self._due = -math.inf
        self.round = 0
        """How often they were asked; what they told is of the last round."""
        self.told: tuple[Traffic, ...] = ()
        self.told_at = -math.inf
        """When the last round ended, by its clock."""

    def begin(self) -> None:
        """Begin to ask, unless that was done just before. Returns at once."""
        now = self._now()
        if self._asking is None and now >= self._due:
            nodes = len(self._links.open_links)
            self._due = now + max(EVERY_S, PER_NODE_S * nodes)
            self._asking = asyncio.ensure_future(self._ask())

    async def ask(self) -> None:
        """Ask all nodes, and return when all that will answer have done so."""
        self.begin()
        if self._asking is not None:
            await self._asking

    async def _ask(self) -> None:
        try:
            nodes = self._links.open_links
            answers = await asyncio.gather(*map(self._ask_node, nodes))
            self.told = tuple(answer for answer in answers if answer is not None)
            self.told_at = self._now()
            self.round += 1
        finally:
            self._asking = None

    async def _ask_node(self, node: str) -> Traffic | None:
        link = self._links.direct(node, ())
        if link is None:
            return None
        request = TrafficRequest(id=self._requests.new_id())
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer, _ = await self._requests.ask(request, link=link)
        except (MpregError, TimeoutError):
            return None
        return answer if isinstance(answer, Traffic) else None
