"""What was measured by `bench`: as text, as a frame and as a figure."""

import math
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpreg_nb.view.figures import GRID, INK, new_axes, new_figure, say_empty, subtitle
from mpreg_nb.view.frames import MEASURE, TEXT, frame
from mpreg_nb.view.html import chosen
from mpreg_nb.view.palette import BAD, BUSY
from mpreg_nb.view.plain_mode import asked
from mpreg_nb.view.tables import safe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


COLUMNS = {
    "row": TEXT,
    "mean_us": MEASURE,
    "p50_us": MEASURE,
    "p95_us": MEASURE,
    "p99_us": MEASURE,
    "p50_echoes": MEASURE,
    "p99_echoes": MEASURE,
    "p50_echoes_min": MEASURE,
    "p50_echoes_max": MEASURE,
    "goal_echoes": MEASURE,
    "per_s": MEASURE,
    "per_s_min": MEASURE,
    "per_s_max": MEASURE,
    "goal_per_s": MEASURE,
    "most_per_s": MEASURE,
    "times_one": MEASURE,
    "share": MEASURE,
    "speed_share": MEASURE,
    "gb_per_s": MEASURE,
    "gb_per_s_min": MEASURE,
    "gb_per_s_max": MEASURE,
    "times_tcp": MEASURE,
    "goal_times_tcp": MEASURE,
    "memory_mb": MEASURE,
    "memory_mb_min": MEASURE,
    "memory_mb_max": MEASURE,
    "mpreg_mean_us": MEASURE,
    "mpreg_p95_us": MEASURE,
    "mpreg_p99_us": MEASURE,
    "mpreg_per_s": MEASURE,
}
MEDIANS, TAILS = (BUSY.ink.middle, 0.55), BAD.ink.middle
MEDIAN = "median, and its spread over the rounds"


class LatencyRow(msgspec.Struct, frozen=True, kw_only=True):
    """How long one thing took; medians of all rounds. In bare echoes of the round."""

    row: str
    mean_us: float
    p50_us: float
    p95_us: float
    p99_us: float
    p50_echoes: float
    p99_echoes: float
    p50_echoes_min: float  # of the rounds
    p50_echoes_max: float
    goal_echoes: float
    mpreg_us: tuple[float, float, float] | None = None
    """Mean, p95 and p99 that MPREG gives for itself."""

    @property
    def mpreg_mean_us(self) -> float | None:
        """The mean that MPREG gives for itself."""
        return self.mpreg_us and self.mpreg_us[0]

    @property
    def mpreg_p95_us(self) -> float | None:
        """The p95 that MPREG gives for itself."""
        return self.mpreg_us and self.mpreg_us[1]

    @property
    def mpreg_p99_us(self) -> float | None:
        """The p99 that MPREG gives for itself."""
        return self.mpreg_us and self.mpreg_us[2]


class RateRow(msgspec.Struct, frozen=True, kw_only=True):
    """How many calls or workflows were done in a second; median of all rounds."""

    row: str
    per_s: float
    per_s_min: float
    per_s_max: float
    goal_per_s: float | None = None
    mpreg_per_s: float | None = None


class ScalingRow(msgspec.Struct, frozen=True, kw_only=True):
    """How many pauses of equal length so many nodes did in a second."""

    row: str
    nodes: int
    per_s: float
    per_s_min: float
    per_s_max: float
    times_one: float  # of the rate of one node
    work_ms: float  # of each pause


class NodeShare(msgspec.Struct, frozen=True, kw_only=True):
    """The share of one node in all operations, and in the speed of all nodes."""

    node: str
    share: float
    speed_share: float


class UnequalRow(msgspec.Struct, frozen=True, kw_only=True):
    """How many operations of mixed length nodes of unequal speed did in a second."""

    row: str
    per_s: float
    per_s_min: float
    per_s_max: float
    most_per_s: float  # if no node ever waited
    mpreg_per_s: float
    shares: tuple[NodeShare, ...]


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a node and its worker hold, shared memory divided; median of the nodes."""

    row: str
    memory_mb: float
    memory_mb_min: float
    memory_mb_max: float
    processes: int


class TransferRow(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a large array moved, there and back together; median of all rounds."""

    row: str
    gb_per_s: float
    gb_per_s_min: float
    gb_per_s_max: float
    times_tcp: float  # of the rate of raw TCP in the same round
    goal_times_tcp: float


class PeerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one program took for a row that all of them ran; median of all rounds."""

    row: str
    peer: str
    unit: str  # "us", "/s", "GB/s", "MB" or "s"
    value: float
    value_min: float
    value_max: float


class Answer(NamedTuple):
    """One figure that MPREG gives for itself, and what was measured here."""

    what: str
    mpreg: str
    here: str
    times: float | None = None  # as good; None: MPREG gives no number


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """Measured cost of calls, in units of a bare WebSocket echo of the same run.

    unit_us: median of the echo, in microseconds.
    one_core: how often both ends of the echo were on one processor, from 0 to 1; None
        where the system does not say. An echo is cheaper there, so ratios are higher.
    quiet: whether the processors were kept awake, so that the ratios compare
        programs and not the wake-up time of a processor.
    """

    unit_us: float
    quiet: bool
    latencies: tuple[LatencyRow, ...]
    rates: tuple[RateRow, ...]
    transfers: tuple[TransferRow, ...] = ()
    scaling: tuple[ScalingRow, ...] = ()
    unequal: tuple[UnequalRow, ...] = ()
    memory: tuple[MemoryRow, ...] = ()
    one_core: float | None = None
    peers: tuple[PeerRow, ...] = ()

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What was measured of the figures that MPREG gives for itself."""
        found: list[Answer] = []
        for row in self.latencies:
            here = row.mean_us, row.p95_us, row.p99_us
            names = "latency, mean", "latency, p95", "latency, p99"
            found += map(_time_answer, names, row.mpreg_us or (), here)
        rates: tuple[RateRow | UnequalRow, ...] = (*self.rates, *self.unequal)
        for rate in rates:
            if rate.mpreg_per_s is not None:
                found.append(_rate_answer(rate.row, rate.mpreg_per_s, rate.per_s))
        if self.scaling:
            last = self.scaling[-1]
            here_text = f"{last.times_one:.2f}x one node"
            found.append(Answer(last.row, "linear", here_text))
        for memory in self.memory:
            found.append(
                Answer(memory.row, "low overhead", f"{memory.memory_mb:.0f} MB")
            )
        return tuple(found)

    @property
    def _measured(self) -> "tuple[Any, ...]":
        return (
            *self.latencies,
            *self.rates,
            *self.transfers,
            *self.scaling,
            *self.unequal,
            *self.memory,
            *map(_PeerFrameRow.of, self.peers),
        )

    def frame(self) -> "pd.DataFrame":
        """Return one row per measurement, in the order of the table.

        Columns: row, mean_us, p50_us, p95_us, p99_us, p50_echoes, p99_echoes,
        p50_echoes_min, p50_echoes_max, goal_echoes, per_s, per_s_min, per_s_max,
        goal_per_s, most_per_s, times_one, share, speed_share, gb_per_s, gb_per_s_min,
        gb_per_s_max, times_tcp, goal_times_tcp, memory_mb, memory_mb_min,
        memory_mb_max, mpreg_mean_us, mpreg_p95_us, mpreg_p99_us, mpreg_per_s.

        A row has a latency, a rate, a share or a size; its other columns are NaN.
        "echoes" are times in units of the bare echo, which is the first row;
        "times_one" is a rate in units of that of one node; "mpreg" is what MPREG gives
        for itself. Rows of peers are named "map of 2,000: joblib".
        """
        unit = {"row": "bare echo", "p50_us": self.unit_us, "p50_echoes": 1.0}
        rows: list[Any] = [tuple(map(unit.get, COLUMNS))]
        rows += [
            tuple(getattr(row, column, None) for column in COLUMNS)
            for measured in self._measured
            for row in (measured, *_shares_of(measured))
        ]
        return frame(COLUMNS, rows)

    def plot(self) -> "Figure":
        """Return charts of the latencies and rates, and of what MPREG has figures for.

        The second line of charts is there if any of that was measured.
        """
        lines = max(len(self.latencies), 3 * len(self.rates), 4)
        height, below = 1.9 + 0.34 * lines, 3.6 if self.answers else 0.0
        figure = new_figure(figsize=(11, height + below), dpi=100, layout="constrained")
        upper: Figure | SubFigure = figure
        if below:
            heights = (height, below)
            parts = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)
            for part in parts[:, 0]:
                part.set_facecolor("none")
            upper = parts[0, 0]
            self._plot_answers(parts[1, 0])
        left, right = new_axes(upper, 2, width_ratios=(3, 2))
        _latencies(left, self.latencies, self.unit_us)
        _rates(right, self.rates)
        handles, labels = left.get_legend_handles_labels()
        upper.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=3,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )
        return figure

    def _plot_answers(self, figure: "SubFigure") -> None:
        drawn: list[Callable[[Axes], None]] = [partial(_answers, bench=self)]
        drawn += [partial(_scaling, rows=self.scaling)] if self.scaling else []
        drawn += [partial(_shares, measured=each) for each in self.unequal]
        for draw, axes in zip(drawn, new_axes(figure, len(drawn)), strict=True):
            draw(axes)

    def __str__(self) -> str:
        lines = [f"unit: a bare websockets echo, p50 {self.unit_us:.0f} µs"]
        if self.one_core is not None:
            lines.append(
                f"mode: the echo stayed on one core in {self.one_core:.0%} of the looks"
            )
        if not self.quiet:
            lines.append(
                "(this system cannot keep its processors awake: ratios are too low)"
            )
        if self.latencies:
            lines.append(
                f"{'ms':26} {'mean':>7} {'p50':>7} {'p95':>7} {'p99':>7} "
                f"{'p50':>7} {'its spread':>15} {'p99':>7} {'goal':>6}"
            )
        lines += [
            f"{row.row:26} {row.mean_us / 1e3:7.3f} {row.p50_us / 1e3:7.3f} "
            f"{row.p95_us / 1e3:7.3f} {row.p99_us / 1e3:7.3f} {row.p50_echoes:6.2f}x "
            f"{row.p50_echoes_min:6.2f} - {row.p50_echoes_max:5.2f}x "
            f"{row.p99_echoes:6.2f}x {row.goal_echoes:5.1f}x"
            for row in self.latencies
        ]
        lines += [
            _rate_line(row)
            + (f"  goal {row.goal_per_s:,.0f}/s" if row.goal_per_s is not None else "")
            for row in self.rates
        ]
        lines += [
            f"{row.row:28} {row.gb_per_s:5.2f} GB/s  {row.gb_per_s_min:.2f} - "
            f"{row.gb_per_s_max:.2f}  {row.times_tcp:.1f}x raw TCP, "
            f"goal {row.goal_times_tcp:.1f}x"
            for row in self.transfers
        ]
        lines += [
            f"{_rate_line(row)}  {row.times_one:.2f}x one node, pauses of "
            f"{row.work_ms:.0f} ms"
            for row in self.scaling
        ]
        for unequal in self.unequal:
            lines.append(
                f"{_rate_line(unequal)}  of {unequal.most_per_s:,.0f}/s that "
                "the nodes can do"
            )
            lines += [
                f"  {share.node:26} {share.share:8.0%} of the operations, "
                f"{share.speed_share:.0%} of the speed"
                for share in unequal.shares
            ]
        lines += [
            f"{row.row:28} {row.memory_mb:5.1f} MB  {row.memory_mb_min:.1f} - "
            f"{row.memory_mb_max:.1f}  in {row.processes} processes"
            for row in self.memory
        ]
        if self.answers:
            lines.append(f"{'':28} {'MPREG says':>12} {'here':>15}")
        lines += [
            f"{answer.what:28} {answer.mpreg:>12} {answer.here:>15}"
            + (f"  {answer.times:6.1f}x" if answer.times is not None else "")
            for answer in self.answers
        ]
        return "\n".join([*lines, *peers_table(self.peers)])

    def __repr__(self) -> str:
        if asked():  # plain mode, and the figures are all times
            return f"<bench of {len(self._measured)} rows: .frame() has the figures>"
        return str(self)

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> dict[str, str]:
        text = repr(self)
        lines = "\n".join(map(safe, text.splitlines()))
        html = f'<pre style="overflow-x:auto">{lines}</pre>'
        return chosen({"text/plain": text, "text/html": html}, include, exclude)


def peers_table(rows: Sequence[PeerRow]) -> list[str]:
    """Return the lines of a table with a column for each peer; none without rows."""
    peers = list(dict.fromkeys(row.peer for row in rows))
    units = {row.row: row.unit.replace("us", "µs") for row in rows}
    values = {(row.row, row.peer): _figure(row.value) for row in rows}
    head = ["two workers each, the same loop", *peers]
    table = [
        [f"{row}, {unit}", *(values.get((row, peer), "-") for peer in peers)]
        for row, unit in units.items()
    ]
    if not table:
        return []
    return [
        f"{first:31}" + "".join(f"{cell:>13}" for cell in cells)
        for first, *cells in (head, *table)
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


class _PeerFrameRow(msgspec.Struct, frozen=True):
    """What one peer took, as a row of the frame."""

    row: str
    p50_us: float | None = None
    per_s: float | None = None
    per_s_min: float | None = None
    per_s_max: float | None = None
    gb_per_s: float | None = None
    gb_per_s_min: float | None = None
    gb_per_s_max: float | None = None
    memory_mb: float | None = None
    memory_mb_min: float | None = None
    memory_mb_max: float | None = None

    @classmethod
    def of(cls, measured: PeerRow) -> "_PeerFrameRow":
        row = f"{measured.row}: {measured.peer}"
        if measured.unit in ("us", "s"):
            scale = 1.0 if measured.unit == "us" else 1e6
            return cls(row, p50_us=measured.value * scale)
        name = {"/s": "per_s", "GB/s": "gb_per_s", "MB": "memory_mb"}[measured.unit]
        found = {
            name: measured.value,
            f"{name}_min": measured.value_min,
            f"{name}_max": measured.value_max,
        }
        return cls(row, **found)


def _rate_line(row: RateRow | ScalingRow | UnequalRow) -> str:
    return (
        f"{row.row:28} {row.per_s:8,.0f}/s  {row.per_s_min:,.0f} - {row.per_s_max:,.0f}"
    )


def _time_answer(name: str, there_us: float, us: float) -> Answer:
    there, here = f"{there_us / 1e3:.2f} ms", f"{us / 1e3:.2f} ms"
    return Answer(name, there, here, there_us / us)


def _rate_answer(name: str, there_per_s: float, per_s: float) -> Answer:
    return Answer(name, f"{there_per_s:,.0f}/s", f"{per_s:,.0f}/s", per_s / there_per_s)


class _ShareRow(msgspec.Struct, frozen=True):
    """The share of one node as a row of the frame."""

    row: str
    share: float
    speed_share: float


def _shares_of(row: object) -> list[_ShareRow]:
    if not isinstance(row, UnequalRow):
        return []
    return [
        _ShareRow(f"{row.row}: {each.node}", each.share, each.speed_share)
        for each in row.shares
    ]


def _answers(axes: "Axes", bench: Bench) -> None:
    memory = [f"a node and its worker hold {m.memory_mb:.0f} MB" for m in bench.memory]
    subtitle(axes, "Beside MPREG's own figures", "".join(memory))
    axes.set_xlabel("times as good; 1 is equal")
    rows = [(row.what, row.times) for row in bench.answers if row.times is not None]
    if not rows:
        say_empty(axes, "no number to compare was measured")
        return
    times = [each for _, each in rows]
    axes.barh(range(len(rows)), times, height=0.6, color=MEDIANS)
    axes.axvline(1.0, color=INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(left=min(0.5, *times))
    _name(axes, [what.replace(", ", ",\n", 1) for what, _ in rows])
    axes.tick_params(axis="y", labelsize=8)


def _scaling(axes: "Axes", rows: Sequence[ScalingRow]) -> None:
    work = f"pauses of {rows[0].work_ms:.0f} ms; dashed: linear"
    subtitle(axes, "Rate by number of nodes", work)
    axes.set_xlabel("nodes")
    axes.set_ylabel("times the rate of one node")
    nodes = [row.nodes for row in rows]
    axes.plot(nodes, nodes, "--", color=INK, linewidth=1)
    axes.plot(nodes, [row.times_one for row in rows], "o-", color=MEDIANS[0])
    axes.set_xticks(nodes)
    axes.set_xlim(0.5, nodes[-1] + 0.5)
    axes.set_ylim(0, nodes[-1] + 0.5)


def _shares(axes: "Axes", measured: UnequalRow) -> None:
    rate = f"{measured.per_s:,.0f} operations/s; line: share of the speed"
    subtitle(axes, "Unequal nodes", rate)
    axes.set_xlabel("share of the operations, %")
    shares, places = measured.shares, range(len(measured.shares))
    axes.barh(places, [100 * s.share for s in shares], height=0.5, color=MEDIANS)
    fair = [100 * share.speed_share for share in shares]
    axes.plot(fair, places, "|", color=INK, markersize=26)
    axes.set_xlim(left=0)
    _name(axes, [share.node for share in shares])


def _latencies(axes: "Axes", rows: Sequence[LatencyRow], unit_us: float) -> None:
    subtitle(
        axes,
        "Time of calls and workflows",
        f"one after the other; 1 echo = {unit_us:.0f} µs",
    )
    axes.set_xlabel("time, bare echoes")
    if not rows:
        say_empty(axes, "not measured")
        return
    places = range(len(rows))
    medians = [row.p50_echoes for row in rows]
    spread = [
        [max(0.0, row.p50_echoes - row.p50_echoes_min) for row in rows],
        [max(0.0, row.p50_echoes_max - row.p50_echoes) for row in rows],
    ]
    axes.barh(
        places,
        medians,
        height=0.6,
        color=MEDIANS,
        xerr=spread,
        ecolor=INK,
        capsize=3,
        label=MEDIAN,
    )
    tails = [row.p99_echoes for row in rows]
    axes.plot(tails, places, "D", color=TAILS, markersize=5, label="p99")
    goals = [row.goal_echoes for row in rows]
    axes.plot(goals, places, "|", color=INK, markersize=15, label="goal of the median")
    axes.set_xscale("log")
    axes.set_xlim(left=min(0.5, *medians, *goals))
    _name(axes, [row.row for row in rows])


def _rates(axes: "Axes", rows: Sequence[RateRow]) -> None:
    subtitle(axes, "Rate of calls and workflows", "many at once")
    axes.set_xlabel("rate, per second")
    if not rows:
        say_empty(axes, "not measured")
        return
    places = range(len(rows))
    spread = [
        [max(0.0, row.per_s - row.per_s_min) for row in rows],
        [max(0.0, row.per_s_max - row.per_s) for row in rows],
    ]
    axes.barh(
        places,
        [row.per_s for row in rows],
        height=0.5,
        color=MEDIANS,
        xerr=spread,
        ecolor=INK,
        capsize=3,
    )
    goals = [math.nan if row.goal_per_s is None else row.goal_per_s for row in rows]
    axes.plot(goals, places, "|", color=INK, markersize=26)
    _name(axes, [row.row.replace(", ", ",\n") for row in rows])
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=4)


def _name(axes: "Axes", names: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(names), 4) - 0.5, -0.5)  # few bars are not walls
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
