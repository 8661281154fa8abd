"""What was measured by `bench`: as text, as a frame and as a figure."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.figures import GRID, INK, new_axes, new_figure, say_empty, subtitle
from mpreg_nb.view.frames import MEASURE, TEXT, frame
from mpreg_nb.view.html import chosen
from mpreg_nb.view.palette import BAD, BUSY
from mpreg_nb.view.plain_mode import asked
from mpreg_nb.view.tables import safe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    "calls_per_s": MEASURE,
    "calls_per_s_min": MEASURE,
    "calls_per_s_max": MEASURE,
    "goal_calls_per_s": MEASURE,
    "gb_per_s": MEASURE,
    "gb_per_s_min": MEASURE,
    "gb_per_s_max": MEASURE,
    "times_tcp": MEASURE,
    "goal_times_tcp": MEASURE,
}
MEDIANS, TAILS = (BUSY.ink.middle, 0.55), BAD.ink.middle
MEDIAN = "median, and its spread over the rounds"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRow:
    """How many calls were done in a second; median of all rounds."""

    row: str
    calls_per_s: float
    calls_per_s_min: float
    calls_per_s_max: float
    goal_calls_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRow:
    """How fast a large array moved, there and back together; median of all rounds."""

    row: str
    gb_per_s: float
    gb_per_s_min: float
    gb_per_s_max: float
    times_tcp: float  # of the rate of raw TCP in the same round
    goal_times_tcp: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
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
    one_core: float | None = None

    def frame(self) -> "pd.DataFrame":
        """Return one row per measurement, in the order of the table.

        Columns: row, mean_us, p50_us, p95_us, p99_us, p50_echoes, p99_echoes,
        p50_echoes_min, p50_echoes_max, goal_echoes, calls_per_s, calls_per_s_min,
        calls_per_s_max, goal_calls_per_s, gb_per_s, gb_per_s_min, gb_per_s_max,
        times_tcp, goal_times_tcp. A row has a latency or a rate; its other columns are
        NaN. "echoes" are times in units of the bare echo, which is the first row.
        """
        unit = {"row": "bare echo", "p50_us": self.unit_us, "p50_echoes": 1.0}
        rows: list[Any] = [tuple(map(unit.get, COLUMNS))]
        rows += [
            tuple(getattr(row, column, None) for column in COLUMNS)
            for row in (*self.latencies, *self.rates, *self.transfers)
        ]
        return frame(COLUMNS, rows)

    def plot(self) -> "Figure":
        """Return bar charts of the latencies and of the rates, with their goals."""
        lines = max(len(self.latencies), 3 * len(self.rates), 4)
        figure = new_figure(
            figsize=(11, 1.9 + 0.34 * lines), dpi=100, layout="constrained"
        )
        left, right = new_axes(figure, 2, width_ratios=(3, 2))
        _latencies(left, self.latencies, self.unit_us)
        _rates(right, self.rates)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=3,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )
        return figure

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
            f"{row.row:28} {row.calls_per_s:8,.0f}/s  {row.calls_per_s_min:,.0f} - "
            f"{row.calls_per_s_max:,.0f}  goal {row.goal_calls_per_s:,.0f}/s"
            for row in self.rates
        ]
        lines += [
            f"{row.row:28} {row.gb_per_s:5.2f} GB/s  {row.gb_per_s_min:.2f} - "
            f"{row.gb_per_s_max:.2f}  {row.times_tcp:.1f}x raw TCP, "
            f"goal {row.goal_times_tcp:.1f}x"
            for row in self.transfers
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        if asked():  # plain mode, and the figures are all times
            rows = len(self.latencies) + len(self.rates) + len(self.transfers)
            return f"<bench of {rows} rows: .frame() has the figures>"
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
    subtitle(axes, "Rate of calls", "many at once")
    axes.set_xlabel("rate, calls per second")
    if not rows:
        say_empty(axes, "not measured")
        return
    places = range(len(rows))
    spread = [
        [max(0.0, row.calls_per_s - row.calls_per_s_min) for row in rows],
        [max(0.0, row.calls_per_s_max - row.calls_per_s) for row in rows],
    ]
    axes.barh(
        places,
        [row.calls_per_s for row in rows],
        height=0.5,
        color=MEDIANS,
        xerr=spread,
        ecolor=INK,
        capsize=3,
    )
    goals = [row.goal_calls_per_s for row in rows]
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
