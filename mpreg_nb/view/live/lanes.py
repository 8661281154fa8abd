"""Calls of the last minute, assigned to lanes that stand for the slots of nodes.

A node does not say in which of its slots a call ran. Calls that overlap were in
different slots, so each gets a lane that was free when it began.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mpreg_nb.client.statistics import CallRow
    from mpreg_nb.client.under_way import UnderWay


WINDOW_S = 60.0

SHORT_S = 0.1
"""Shorter calls that follow each other are one bar."""

LONGEST_CHAIN_S = 1.0
"""So long is a bar of short calls at most: more of them are several bars."""

MOST_BARS = 1_500
"""In all. With many lanes, more calls count as short."""

MOST_LANES = 64
"""Of one node."""

SLACK_S = 0.005
FULL_SLACK_S = 0.5
"""When a call began and ended is estimated: overlaps up to this are none, where there
is a lane to choose, and where all slots of the node have one."""


class LaneBar(msgspec.Struct):
    """One call, or several short ones in a row. Times are of the wall clock."""

    function: str
    status: str
    begin: float
    end: float
    busy_s: float
    calls: int = 1
    failed: int = 0
    run: str = ""
    step: str = ""
    of: dict[str, float] = {}  # function -> busy, if several

    @property
    def main(self) -> str:
        """The function that took most of the time."""
        return max(self.of, key=self.of.__getitem__) if self.of else self.function


class _Lane(msgspec.Struct):
    bars: deque[LaneBar] = msgspec.field(default_factory=deque)
    free_at: float = 0.0
    taken_by: str = ""  # the key of a call that runs in it now


class _Count(msgspec.Struct):
    calls: int = 0
    failed: int = 0
    busy_s: float = 0.0


class Lanes:
    """The calls of the last minute in lanes, as many for a node as it used slots."""

    def __init__(self) -> None:
        self._nodes: dict[str, list[_Lane]] = {}
        self._running: dict[str, tuple[_Lane, LaneBar]] = {}  # key -> where it runs
        self._last: CallRow | None = None
        self._now = 0.0

    def take(
        self,
        rows: "Sequence[CallRow]",
        running: "Iterable[UnderWay]",
        slots: Mapping[str, int],
        now: float,
    ) -> None:
        """Add the calls since the last update.

        rows: the last calls that ended, oldest first.
        running: the calls that run now.
        slots: of each node that is there.
        """
        self._now = now
        running = list(running)
        fresh = []
        for row in reversed(rows):
            if row is self._last:
                break
            fresh.append(row)
        if rows:
            self._last = rows[-1]
        for row in reversed(fresh):
            self._ended(row, slots.get(row.node, 0))
        keys = {_key(call) for call in running}
        for key in self._running.keys() - keys:
            self._release(key)
        for call in running:
            self._runs(call, slots.get(call.node, 0))
        self._forget(slots)

    def of(self, node: str) -> list[list[LaneBar]]:
        """Return the bars of each lane of a node, oldest first; running calls last."""
        shown = {id(lane): bar for lane, bar in self._running.values()}
        return [
            [
                *sorted(lane.bars, key=lambda bar: bar.begin),
                *([shown[id(lane)]] if id(lane) in shown else []),
            ]
            for lane in self._nodes.get(node, ())
        ]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that ran something in the last minute."""
        return tuple(self._nodes)

    @property
    def origin(self) -> tuple[object, int]:
        """A value that changes with the lanes: once a second if there are any."""
        return self._last, int(self._now) if self._nodes else 0

    def functions(self) -> dict[str, tuple[int, int, float]]:
        """Return function -> (calls, failed calls, seconds), the busiest first."""
        counts: dict[str, _Count] = {}
        for node in self._nodes:
            for bar in (bar for lane in self.of(node) for bar in lane):
                for function, busy_s in (bar.of or {bar.function: bar.busy_s}).items():
                    count = counts.setdefault(function, _Count())
                    count.busy_s += busy_s
                count = counts[bar.main]
                count.calls += bar.calls
                count.failed += bar.failed
        busiest = sorted(counts.items(), key=lambda item: (-item[1].busy_s, item[0]))
        return {
            name: (count.calls, count.failed, count.busy_s) for name, count in busiest
        }

    # ------------------------------------------------------------------ one call

    def _ended(self, row: "CallRow", slots: int) -> None:
        key = f"{row.run}/{row.step}" if row.run else row.call_id
        seen = self._running.get(key)
        self._release(key)
        begin, end = _span(row, None if seen is None else seen[1].begin)
        failed = row.status in ("failed", "lost")
        if not row.node or not (end > begin or failed):
            return  # it never had a slot
        if end <= self._now - WINDOW_S:
            return
        bar = LaneBar(
            function=row.function,
            status=row.status,
            begin=begin,
            end=end,
            busy_s=end - begin,
            failed=int(failed),
            run=row.run,
            step=row.step,
        )
        own = seen[0] if seen is not None else None
        lane = self._lane(row.node, bar, slots) if own is None else own
        if lane is None:
            raise AssertionError("a call that has ended always finds a lane")
        lane.free_at = max(lane.free_at, bar.end)
        if not (lane.bars and self._joined(lane.bars[-1], bar)):
            lane.bars.append(bar)

    def _runs(self, call: "UnderWay", slots: int) -> None:
        key = _key(call)
        seen = self._running.get(key)
        if seen is not None and seen[1].function == call.function:
            bar = seen[1]
            bar.end, bar.busy_s = self._now, max(0.0, self._now - bar.begin)
            return
        bar = LaneBar(
            function=call.function,
            status="running",
            begin=min(call.started_at, self._now),
            end=self._now,
            busy_s=max(0.0, self._now - call.started_at),
            run=call.run,
            step=call.step,
        )
        lane = self._lane(call.node, bar, slots)
        if lane is None:
            return  # it waits for a slot
        bar.begin = max(bar.begin, min(lane.free_at, self._now))
        lane.taken_by = key
        self._running[key] = (lane, bar)

    def _release(self, key: str) -> None:
        seen = self._running.pop(key, None)
        if seen is not None:
            seen[0].taken_by = ""

    def _lane(self, node: str, bar: LaneBar, slots: int) -> _Lane | None:
        """Return a lane that was free when the bar began; None if all are taken.

        Of several the one that was free for the shortest time: so each call finds one,
        if there is a way to give one to all. A node has no more lanes than slots,
        unless calls overlap by more than the estimates of their times may be wrong by:
        threads of the node itself need no slot.
        """
        lanes = self._nodes.setdefault(node, [])
        idle = [lane for lane in lanes if not lane.taken_by]
        free = [lane for lane in idle if lane.free_at <= bar.begin + SLACK_S]
        if free:
            return max(free, key=lambda lane: lane.free_at)
        if len(lanes) < (slots or MOST_LANES):
            lanes.append(_Lane())
            return lanes[-1]
        soonest = min(idle, key=lambda lane: lane.free_at, default=None)
        if bar.status == "running":
            return soonest
        near = [lane for lane in lanes if _overlap(lane, bar) <= FULL_SLACK_S]
        if near:
            nearest = min(near, key=lambda lane: (bool(lane.taken_by), lane.free_at))
            self._began_after(nearest, bar.end)
            return nearest
        if len(lanes) < MOST_LANES:
            lanes.append(_Lane())
        return lanes[-1]

    def _began_after(self, lane: _Lane, ended: float) -> None:
        """Move the start of the running call of a lane to when a slot was free."""
        if lane.taken_by:
            bar = self._running[lane.taken_by][1]
            bar.begin = max(bar.begin, ended)
            bar.end = max(bar.end, ended)

    def _joined(self, last: LaneBar, bar: LaneBar) -> bool:
        """Join two short successive bars; return whether they were joined."""
        lanes = sum(map(len, self._nodes.values()))
        short_s = max(SHORT_S, WINDOW_S * lanes / MOST_BARS)
        alike = last.function == bar.function and not last.of
        longest_s = max(LONGEST_CHAIN_S, short_s) if alike else short_s
        last_is_short = last.calls > 1 or last.end - last.begin < short_s
        if (
            not last_is_short
            or bar.end - bar.begin >= short_s
            or bar.end - last.begin >= longest_s
            or bar.begin - last.end >= short_s
            or (last.failed > 0) != (bar.failed > 0)
        ):
            return False
        if not alike:
            last.of = last.of or {last.function: last.busy_s}
            last.of[bar.function] = last.of.get(bar.function, 0.0) + bar.busy_s
        last.begin, last.end = min(last.begin, bar.begin), max(last.end, bar.end)
        last.busy_s += bar.busy_s
        last.calls += bar.calls
        last.failed += bar.failed
        return True

    def _forget(self, slots: Mapping[str, int]) -> None:
        """Drop bars older than the window, and nodes without bars."""
        oldest = self._now - WINDOW_S
        for node, lanes in list(self._nodes.items()):
            for lane in lanes:
                while lane.bars and lane.bars[0].end <= oldest:
                    lane.bars.popleft()
            while lanes and not (lanes[-1].bars or lanes[-1].taken_by):
                lanes.pop()
            if not lanes:
                del self._nodes[node]


def _overlap(lane: _Lane, bar: LaneBar) -> float:
    """Return for how many seconds a lane was busy while a bar ran."""
    busy_s = 0.0
    for other in reversed(lane.bars):
        if other.end <= bar.begin:
            break
        busy_s += max(0.0, min(other.end, bar.end) - max(other.begin, bar.begin))
    return busy_s


def _span(row: "CallRow", seen_at: float | None) -> tuple[float, float]:
    """Return when a call ran; estimated for lost and cancelled calls.

    seen_at: when it began, if it was seen while it ran.
    """
    waited_us = row.waited_us + row.queued_us
    begin = row.started_at + (waited_us + row.network_us / 2) / 1e6
    if row.run_us:
        return begin, begin + row.run_us / 1e6
    ended_at = row.started_at + row.total_us / 1e6
    if seen_at is not None:
        return seen_at, max(seen_at, ended_at)
    if row.status == "lost":
        return row.started_at + waited_us / 1e6, ended_at
    return begin, begin


def _key(call: "UnderWay") -> str:
    return f"{call.run}/{call.step}" if call.run else call.call_id
