"""Latency of calls over time and by function, and the parts of their time."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec.structs import asdict, astuple

from mpreg_nb.units import duration
from mpreg_nb.view import palette
from mpreg_nb.view.frames import PERCENTILES, TEXT, Figures
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import WIDE
from mpreg_nb.view.live import charts
from mpreg_nb.view.live.charts import (
    Column,
    Plot,
    choice,
    empty,
    figure_cell,
    key_of,
    linear_ticks,
    log_ticks,
    name_cell,
    shares,
    spread,
    still_image,
    times_below,
    tip,
)
from mpreg_nb.view.markup import Element, element, number, percent
from mpreg_nb.view.palette import GRID, INK, PAGE
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

LINES = {"p99": "1.5 3.5", "p95": "6 3", "p50": None}
"""Percentiles -> how their lines are dashed."""

STACKED = {
    "run": None,
    "queued": "M-1 1l2-2M0 6l6-6M5 7l2-2",
    "waited": "M0 0l6 6M6 0l-6 6",
    "network": "M0 1.5h6M0 4.5h6",
    "serialize": "M1.5 0v6M4.5 0v6",
}
"""Parts of the time, from the bottom of a bar to its top -> how they are hatched."""

LINES_TOP, LINES_PX = 12.0, 170.0
BARS_TOP, BARS_PX = 222.0, 104.0
STILL_WIDTH = 640.0

_QUANTILES = {"p50_ms": 0.50, "p95_ms": 0.95, "p99_ms": 0.99}


class _Bucket(msgspec.Struct):
    """The calls that ended in one interval. Times in microseconds."""

    calls: int = 0
    totals_us: list[int] = []
    parts_us: list[int] = msgspec.field(default_factory=lambda: [0] * len(PARTS))

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
        """Add the calls since the last update; `rows` are the last calls."""
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
            if place > oldest and row.node:  # as in the table: not what was refused
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
        """A value that changes when the buckets change."""
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
    """Return the number of the bucket that a time belongs to."""
    return math.floor(at / BUCKET_S)


Row: TypeAlias = tuple[str, Figures]
"""A function, and how long its calls took."""


def table(latencies: Iterable[tuple[tuple[str, ...], Figures]]) -> list[Row]:
    """Return a row for each function."""
    return [(key[0], figures) for key, figures in latencies]


def picture(course: Course, functions: list[Row]) -> dict[str, Any]:
    """Return the course of the last minutes, and percentiles of all calls."""
    return {
        "bucket_s": BUCKET_S,
        "buckets": course.buckets(),
        "functions": functions,
    }


# -------------------------------------------------------------------- drawing


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return percentiles and parts of the time over time, and a table by function."""
    buckets, functions = picture["buckets"], picture["functions"]
    if not functions and not any(bucket["calls"] for bucket in buckets):
        return empty("No calls yet. Make one:", "train.call(rows)")
    legend = element("span", *_legend(), class_="mpreg-legend", aria_hidden="true")
    axes = choice("Axis", "axis", {"log": "log", "linear": "linear"})
    chart = _plot(buckets, ("log", "linear"), pointed=True).live(
        class_="mpreg-chart",
        tabindex="0",
        role="slider",
        aria_label="Latency over time: a moment",
        aria_orientation="horizontal",
    )
    return [
        element("div", axes, legend, class_="mpreg-toolbar"),
        element("div", chart, class_="mpreg-figure"),
        _live_table(functions),
    ]


def _plot(
    buckets: Sequence[dict[str, Any]], scales: Sequence[str], *, pointed: bool
) -> Plot:
    """Return the chart, its upper part once for each of `scales`.

    pointed: whether a moment can be pointed at.
    """
    moments = _moments(buckets, scales) if pointed else ()
    return Plot(
        left=58.0,
        right=40.0,
        height=BARS_TOP + BARS_PX + 26.0,
        content=[
            element("defs", *(_pattern(name) for name in STACKED if STACKED[name])),
            *_bars(buckets),
            *(_lines(buckets, scale) for scale in scales),
            *times_below(
                BARS_TOP + BARS_PX,
                range(0, BUCKET_S * len(buckets), 20),
                BUCKET_S * len(buckets),
                last="middle",
            ),
            element("g", *moments, data_row=True),
        ],
    )


def _middle(place: int, buckets: Sequence[Any]) -> float:
    return (place + 0.5) / len(buckets)


def _lines(buckets: Sequence[dict[str, Any]], scale: str) -> Element:
    """Return a line for each percentile, with its axis and its name."""
    height_of, ticks = _scale(buckets, scale)
    ends: list[tuple[str, float]] = []
    drawn: list[Element] = []
    for name, dash in LINES.items():
        points = [
            None if bucket[f"{name}_ms"] is None else height_of(bucket[f"{name}_ms"])
            for bucket in buckets
        ]
        way, alone = _way(points)
        ink = palette.PERCENTILES[name].light
        path = element(
            "path",
            d=way,
            fill="none",
            stroke=ink,
            stroke_width="2",
            stroke_dasharray=dash,
            stroke_linejoin="round",
            vector_effect="non-scaling-stroke",
        )
        # Its width is that of the page; the line keeps its own.
        drawn.append(
            element(
                "svg",
                path,
                viewBox=f"0 0 1000 {BARS_TOP:.0f}",
                width="100%",
                height=BARS_TOP,
                preserveAspectRatio="none",
                overflow="visible",
            )
        )
        drawn += [
            element("circle", cx=percent(_middle(at, buckets)), cy=y, r=2.4, fill=ink)
            for at, y in alone
        ]
        seen = [y for y in points if y is not None]
        ends += [(name, seen[-1])] if seen else []
    heights = spread([y for _, y in ends], 13.0, LINES_TOP + 4.0, LINES_TOP + LINES_PX)
    for (name, _), y in zip(ends, heights, strict=True):
        ink = palette.PERCENTILES[name].light
        bold = {"font_size": 12, "font_weight": "600", "fill": ink}
        drawn.append(charts.text("100%", y + 4, name, dx="6", **bold))
    axis = _grid(ticks, height_of, "time of a call")
    return element("g", *axis, *drawn, class_=f"mpreg-of-{scale}")


def _scale(
    buckets: Sequence[dict[str, Any]], scale: str
) -> tuple[Callable[[float], float], list[float]]:
    """Return a function from times to heights, and the ticks of the axis."""
    values = [bucket[f"{name}_ms"] or 0.0 for bucket in buckets for name in LINES]
    values = [value for value in values if value > 0]
    logarithmic = scale == "log" and bool(values)
    most = max(values, default=0.0)
    ticks = log_ticks(min(values), most) if logarithmic else linear_ticks(most, 5)

    def height_of(ms: float) -> float:
        share = shares(ticks, ms, logarithmic=logarithmic)
        return LINES_TOP + LINES_PX * (1 - share)

    return height_of, ticks


def _way(points: Sequence[float | None]) -> tuple[str, list[tuple[int, float]]]:
    """Return a path that breaks where there were no calls, and single points."""
    way, alone = [], []
    for place, y in enumerate(points):
        if y is None:
            continue
        before = points[place - 1] if place else None
        after = points[place + 1] if place + 1 < len(points) else None
        x = 1000 * _middle(place, points)
        way.append(f"{'M' if before is None else 'L'}{number(x)} {number(y)}")
        if before is None and after is None:
            alone.append((place, y))
    return "".join(way), alone


def _bars(buckets: Sequence[dict[str, Any]]) -> list[Element]:
    """Return the mean time of a call in each bucket, divided into its parts."""
    sums = (sum(bucket[f"{part}_ms"] or 0.0 for part in PARTS) for bucket in buckets)
    ticks = linear_ticks(max(sums, default=0.0), 3)

    def height_of(ms: float) -> float:
        return BARS_TOP + BARS_PX * (1 - shares(ticks, ms, logarithmic=False))

    width = 0.76 / max(1, len(buckets))
    drawn = _grid(ticks, height_of, "mean time of a call, by part")
    for place, bucket in enumerate(buckets):
        low_ms = 0.0
        for part in STACKED:
            ms = bucket[f"{part}_ms"] or 0.0
            top, bottom = height_of(low_ms + ms), height_of(low_ms)
            low_ms += ms
            if bottom - top >= 0.2:
                drawn.append(
                    element(
                        "rect",
                        x=percent(_middle(place, buckets) - width / 2),
                        y=top,
                        width=percent(width),
                        height=bottom - top,
                        **_paint(part),
                    )
                )
    return drawn


def _paint(part: str) -> dict[str, str]:
    ink = palette.PARTS[part].fill.light
    fill = ink if STACKED[part] is None else f"url(#part-{part})"
    return {"fill": fill, "stroke": PAGE.light, "stroke_width": "0.75"}


def _pattern(part: str) -> Element:
    ink = palette.PARTS[part].fill.light
    lines = {"fill": "none", "stroke": INK.light, "stroke_opacity": "0.45"}
    return element(
        "pattern",
        element("rect", width=6, height=6, fill=ink),
        element("path", d=STACKED[part], **lines),
        id=f"part-{part}",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )


def _grid(
    ticks: Sequence[float], height_of: Callable[[float], float], title: str
) -> list[Element]:
    """Return lines at the ticks, their times on the left, and the title on top."""
    drawn = [
        charts.text(0, height_of(ticks[-1]) - 4, title, font_size=11.5, fill=INK.light)
    ]
    last = math.inf
    for tick in ticks:
        y = height_of(tick)
        drawn.append(element("line", x2="100%", y1=y, y2=y, stroke=GRID.light))
        if last - y >= 14:
            last = y
            words = f"{tick:,g} ms" if tick < 1000 else f"{tick / 1000:,g} s"
            drawn.append(charts.text(-7, y + 4, words, text_anchor="end"))
    return drawn


def _moments(
    buckets: Sequence[dict[str, Any]], scales: Sequence[str]
) -> Iterator[Element]:
    """Yield the marks of each bucket: a line and dots, visible under the pointer."""
    heights = {scale: _scale(buckets, scale)[0] for scale in scales}
    for place, bucket in enumerate(buckets):
        x = percent(_middle(place, buckets))
        dots = [
            element(
                "circle",
                cx=x,
                cy=height_of(bucket[f"{name}_ms"]),
                r=3.4,
                fill=palette.PERCENTILES[name].light,
                class_=f"mpreg-of-{scale}",
            )
            for scale, height_of in heights.items()
            for name in LINES
            if bucket[f"{name}_ms"] is not None
        ]
        area = {"y": LINES_TOP, "height": BARS_TOP + BARS_PX - LINES_TOP}
        yield element(
            "g",
            element(
                "rect",
                x=percent(place / len(buckets)),
                width=percent(1 / len(buckets)),
                fill="transparent",
                **area,
            ),
            element("line", x1=x, x2=x, y1=LINES_TOP, y2=BARS_TOP + BARS_PX),
            *dots,
            class_="mpreg-moment",
            tip=_told(bucket),
        )


def _told(bucket: dict[str, Any]) -> list[Any]:
    title = f"{-bucket['at_s']} s ago" if bucket["at_s"] else "now"
    if not bucket["calls"]:
        return tip(title, note="No calls.")
    return tip(
        title,
        ("calls", f"{bucket['calls']:,}"),
        *((name, duration(bucket[f"{name}_ms"])) for name in ("p50", "p95", "p99")),
        *((part, duration(bucket[f"{part}_ms"])) for part in STACKED),
    )


def _legend() -> Iterator[Element]:
    for part in STACKED:
        yield key_of(
            part, element("rect", width=14, height=12, **_paint(part)), width=14
        )


COLUMNS = (
    Column("function", "Function", "Sort by name"),
    Column("count", "Calls", "Calls of this notebook", number=True),
    Column("mean_ms", "Mean", "Arithmetic mean", number=True),
    Column("p50_ms", "p50", "Half of the calls were faster", number=True),
    Column("p95_ms", "p95", "95 of 100 calls were faster", number=True),
    Column("p99_ms", "p99", "99 of 100 calls were faster", number=True),
    Column("max_ms", "Max", "The slowest call", number=True),
)


def _live_table(functions: Sequence[Row]) -> Element:
    rows = [
        charts.table_row(
            COLUMNS,
            name,
            [
                name_cell(name, title=name),
                figure_cell(f"{figures.count:,}"),
                *(figure_cell(duration(ms)) for ms in astuple(figures)[1:]),
            ],
            {"function": name, **asdict(figures)},
        )
        for name, figures in functions
    ]
    return charts.table("Latency by function", COLUMNS, rows)


def _image(buckets: list[dict[str, Any]]) -> str:
    if not any(bucket["calls"] for bucket in buckets):
        return ""
    keys, x = [], 58.0
    for part in STACKED:
        mark = element("rect", width=14, height=12, **_paint(part))
        keys += [
            element("g", mark, transform=f"translate({x:.0f} 2)"),
            charts.text(x + 19.0, 12.0, part),
        ]
        x += 38.0 + 7.0 * len(part)
    legend = Plot(left=0.0, right=0.0, height=20.0, content=keys)
    chart = _plot(buckets, ("log",), pointed=False)
    title = "percentiles and mean of each part, in the last two minutes"
    return still_image([legend, chart], STILL_WIDTH, title)


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the rows of `cluster.latency()`."""
    rows = [(name, *astuple(figures)) for name, figures in picture["functions"]]
    return table_frame({"function": TEXT, **PERCENTILES}, rows)


def text(picture: dict[str, Any]) -> str:
    """Return percentiles by function as a table of text."""
    return str(_table(picture)) if picture["functions"] else "no calls yet"


def html(picture: dict[str, Any]) -> str:
    """Return the course as a curve, and percentiles by function as a table."""
    if not picture["functions"]:
        return "<div>no calls yet</div>"
    chart = "" if plain() else _image(picture["buckets"])
    return f'<div style="{WIDE}">{chart}{_table(picture).html}</div>'


def _table(picture: dict[str, Any]) -> Table:
    hidden = plain()
    measures = [] if hidden else ["mean", "p50", "p95", "p99", "max"]
    rows = []
    for function, figures in picture["functions"][:MOST_ROWS]:
        cells: list[Cell] = [function, f"{figures.count:,}"]
        measured = [getattr(figures, f"{name}_ms") for name in measures]
        rows.append(cells + list(map(duration, measured)))
    more = len(picture["functions"]) - MOST_ROWS
    return Table(
        head=["function", "calls", *measures],
        rows=rows,
        numbers=["calls", *measures],
        more=f"… and {more:,} more: cluster.latency()" if more > 0 else "",
    )
