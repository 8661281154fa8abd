"""How long calls took, over time and by function, and where the time went."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mpreg_nb.units import duration
from mpreg_nb.view import palette
from mpreg_nb.view.frames import PERCENTILES, TEXT, Figures
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import WIDE
from mpreg_nb.view.live.curves import stacked
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Table

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.client.statistics import CallRow


BUCKET_S = 2
KEPT = 60
"""Buckets that are kept: two minutes."""

MOST_SAMPLES = 5_000
"""Calls of one bucket that its percentiles are taken from, the first of them."""

MOST_ROWS = 40
"""Functions of a still table; the frame has all."""

PARTS = tuple(palette.PARTS)

_QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}


@dataclass(slots=True)
class _Bucket:
    """The calls that ended in one stretch of time. Times in microseconds."""

    calls: int = 0
    totals_us: list[int] = field(default_factory=list)
    parts_us: list[int] = field(default_factory=lambda: [0] * len(PARTS))

    def add(self, row: "CallRow") -> None:
        self.calls += 1
        if len(self.totals_us) < MOST_SAMPLES:
            self.totals_us.append(row.total_us)
        for place, part in enumerate(PARTS):
            self.parts_us[place] += getattr(row, f"{part}_us")

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.totals_us)
        means = (us / self.calls / 1e3 if self.calls else None for us in self.parts_us)
        return {
            "calls": self.calls,
            **{name: _quantile(ordered, share) for name, share in _QUANTILES.items()},
            **dict(zip((f"{part}_ms" for part in PARTS), means, strict=True)),
        }


def _quantile(ordered_us: Sequence[int], share: float) -> float | None:
    """Return the smallest value that is not below `share` of all, in milliseconds."""
    if not ordered_us:
        return None
    return ordered_us[max(0, math.ceil(share * len(ordered_us)) - 1)] / 1e3


class Course:
    """The calls of the last two minutes, in buckets of two seconds.

    Holds at most `KEPT` buckets; only the open one holds single calls. All times
    are of the wall clock that calls are noted by.
    """

    def __init__(self) -> None:
        self._closed: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT)
        self._open = _Bucket()
        self._place = 0  # of the open bucket, counted since 1970
        self._last: CallRow | None = None

    def take(self, rows: "Sequence[CallRow]", now: float) -> None:
        """Take in what came since the last time; `rows` are the last calls."""
        fresh = []
        for row in reversed(rows):
            if row is self._last:
                break
            fresh.append(row)
        if rows:
            self._last = rows[-1]
        oldest = place_of(now) - KEPT
        for row in reversed(fresh):
            place = place_of(row.started_at + row.total_us / 1e6)
            if place > oldest:
                self._move(max(place, self._place))
                self._open.add(row)
        self._move(max(place_of(now), self._place))

    def buckets(self) -> list[dict[str, Any]]:
        """Return the buckets, oldest first, as seconds before the newest."""
        summaries = dict(self._closed)
        summaries[self._place] = self._open.summary()
        empty = _Bucket().summary()
        return [
            {"at_s": BUCKET_S * back, **summaries.get(self._place + back, empty)}
            for back in range(1 - KEPT, 1)
        ]

    @property
    def origin(self) -> tuple[object, int]:
        """What changes when the buckets do."""
        moving = self._open.calls or any(
            place > self._place - KEPT for place, _ in self._closed
        )
        return self._last, self._place if moving else 0

    def _move(self, place: int) -> None:
        if place == self._place:
            return
        if self._open.calls:
            self._closed.append((self._place, self._open.summary()))
        self._open, self._place = _Bucket(), place


def place_of(at: float) -> int:
    """Return which bucket a time belongs to."""
    return math.floor(at / BUCKET_S)


def table(
    latencies: Iterable[tuple[tuple[str, ...], Figures]],
) -> list[dict[str, Any]]:
    """Return the rows of `cluster.latency()`, by function."""
    return [{"function": key[0], **asdict(figures)} for key, figures in latencies]


def picture(course: Course, functions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the course of the last minutes, and percentiles of all calls."""
    return {
        "bucket_s": BUCKET_S,
        "buckets": course.buckets(),
        "functions": functions,
    }


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the rows of `cluster.latency()`."""
    rows = [tuple(row.values()) for row in picture["functions"]]
    return table_frame({"function": TEXT, **PERCENTILES}, rows)


def text(picture: dict[str, Any]) -> str:
    """Return percentiles by function as a table of text."""
    return str(_table(picture)) if picture["functions"] else "no calls yet"


def html(picture: dict[str, Any]) -> str:
    """Return the course as a curve, and percentiles by function as a table."""
    if not picture["functions"]:
        return "<div>no calls yet</div>"
    curves = "" if plain() else _curves(picture["buckets"])
    return f'<div style="{WIDE}">{curves}{_table(picture).html}</div>'


def _curves(buckets: list[dict[str, Any]]) -> str:
    called = [bucket for bucket in buckets if bucket["calls"]]
    if not called:
        return ""
    return stacked(
        [[bucket[f"{part}_ms"] or 0.0 for part in PARTS] for bucket in buckets],
        PARTS,
        [bucket["p95_ms"] for bucket in buckets],
        "mean of each part, and the 95th percentile, in the last two minutes",
    )


def _table(picture: dict[str, Any]) -> Table:
    hidden = plain()
    measures = [] if hidden else ["mean", "p50", "p95", "p99", "max"]
    rows = []
    for row in picture["functions"][:MOST_ROWS]:
        cells: list[Cell] = [row["function"], f"{row['count']:,}"]
        rows.append(cells + [duration(row[f"{name}_ms"]) for name in measures])
    more = len(picture["functions"]) - MOST_ROWS
    return Table(
        head=["function", "calls", *measures],
        rows=rows,
        numbers=["calls", *measures],
        more=f"… and {more:,} more: cluster.latency()" if more > 0 else "",
    )
