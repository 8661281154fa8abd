"""The figure of latencies: percentiles of calls, and where their time went."""

from collections.abc import Sequence
from math import log10
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.figures import (
    GRID,
    IN_BAR,
    INK,
    new_axes,
    new_figure,
    say_empty,
    short,
    subtitle,
)
from mpreg_nb.view.labels import BESIDE, Label, placed
from mpreg_nb.view.measured import merged
from mpreg_nb.view.palette import FUNCTIONS, PARTS
from mpreg_nb.view.units import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hdrh.histogram import HdrHistogram
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from mpreg_nb.client.journal import CallRow

MOST_FUNCTIONS = 8
"""Curves in one plot; more could not be told apart."""

FEW = 30
"""Fewer calls are drawn as points, one for each: they have no percentiles."""

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 2)), (0, (1, 3)), "-", "--")
MARKERS = "osD^vP*X"
PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
STEPS_PER_TEN = 12
"""Points of a curve on the way from 90 to 99 percent, and on each such way."""

LABEL_POINTS = 9.0
"""Size of the letters of a label."""


def latency_figure(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", rows: "Sequence[CallRow]"
) -> "Figure":
    """Return percentile curves per function, and bars of where the time went.

    The calls of a function with few of them are points.
    histograms: (function, node) -> microseconds of all calls.
    rows: the calls that the bars are means of.
    """
    by_function = {k[0]: h for k, h in merged(histograms, ("function",)).items()}
    busiest = sorted(by_function, key=lambda f: (-by_function[f].get_total_count(), f))
    shown = sorted(busiest[:MOST_FUNCTIONS])
    said = []
    if len(busiest) > len(shown):
        said.append(f"the {len(shown)} most called of {len(busiest)} functions")
    if any(by_function[name].get_total_count() < FEW for name in shown):
        said.append(f"fewer than {FEW} calls: a point each")
    figure = new_figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    left, right = new_axes(figure, 2, width_ratios=(3, 2))
    lines = _curves(left, [(name, by_function[name]) for name in shown])
    subtitle(left, "Latency of calls by percentile", "; ".join(said))
    _bars(right, shown, rows)
    mean = "mean of each function" if shown else ""
    subtitle(right, "Where the time of a call goes", mean)
    handles, labels = right.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower right",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handlelength=1.4,
            columnspacing=1.2,
        )
    if lines:
        _label(figure, left, lines)
    return figure


def _curves(
    axes: "Axes", named: "Sequence[tuple[str, HdrHistogram]]"
) -> "list[Line2D]":
    axes.set_xlabel("percentile of calls, %")
    axes.set_ylabel("latency, ms")
    if not named:
        say_empty(axes, "no calls yet")
        return []
    axes.set_yscale("log")
    furthest = 1.0
    lines = []
    for place, (name, histogram) in enumerate(named):
        count = histogram.get_total_count()
        few = count < FEW
        known = _each(histogram) if few else _percentiles(histogram)
        lines += axes.plot(
            [_tens(percentile) for percentile, _ in known],
            [value_us / 1e3 for _, value_us in known],
            label=f"{short(name)} ({count:,})",
            color=FUNCTIONS.of(name).middle,
            linestyle="" if few else DASHES[place],
            linewidth=2,
            marker=MARKERS[place] if few else "",
            markersize=5,
        )
        furthest = max(furthest, _tens(known[-1][0]))
    marked = [p for p in PERCENTILES if _tens(p) <= furthest + 0.05]
    axes.set_xticks([_tens(p) for p in marked], [f"{p:g}" for p in marked])
    axes.set_xlim(0, furthest)
    _number_decades(axes)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return lines


def _each(histogram: "HdrHistogram") -> list[tuple[float, float]]:
    """Return (percentile, microseconds) of each call, in the middle of its share."""
    values: list[float] = []
    for item in histogram.get_recorded_iterator():
        values += [item.value_iterated_to] * item.count_at_value_iterated_to
    return [
        (100 * (number + 0.5) / len(values), value_us)
        for number, value_us in enumerate(values)
    ]


def _percentiles(histogram: "HdrHistogram") -> list[tuple[float, float]]:
    """Return (percentile, microseconds), as far as there is something to know."""
    count = histogram.get_total_count()
    # Of 99 calls each is one percent: beyond that there is nothing to know.
    ticks = range(round(STEPS_PER_TEN * log10(count + 1)) + 1)
    percentiles = [100 - 100 * 10 ** (-tick / STEPS_PER_TEN) for tick in ticks]
    return list(histogram.get_percentile_to_value_dict(percentiles).items())


def _label(figure: "Figure", axes: "Axes", lines: "Sequence[Line2D]") -> None:
    """Write the name of each function at the end of its curve."""
    from matplotlib.textpath import TextPath

    names = [str(line.get_label()) for line in lines]
    points = figure.dpi / 72
    widths = [
        TextPath((0, 0), name, size=LABEL_POINTS).get_extents().width * points
        for name in names
    ]
    figure.draw_without_rendering()  # so that the size of the axes is known
    box = axes.get_window_extent()
    # As much longer as the labels behind the ends of the curves need.
    ends = [line.get_path().get_extents().x1 for line in lines]
    room = [box.width - BESIDE - 4 - width for width in widths]
    axes.set_xlim(
        0, max(end * box.width / has for end, has in zip(ends, room, strict=True))
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.08)  # labels may stand over curves
    curves = []
    for line in lines:
        pixels = axes.transData.transform(line.get_xydata())
        curves.append([(x - box.x0, y - box.y0) for x, y in pixels.tolist()])
    where = placed(curves, widths, high=LABEL_POINTS * 1.35 * points, top=box.height)
    for line, name, curve, label in zip(lines, names, curves, where, strict=True):
        _write(axes, line, name, curve[-1], label, points)


def _write(
    axes: "Axes",
    line: "Line2D",
    name: str,
    end: tuple[float, float],
    label: Label,
    points: float,
) -> None:
    colour = line.get_color()
    moved = (label.y - end[1]) / points
    leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0}
    axes.annotate(
        name,
        line.get_xydata()[-1],  # type: ignore[index,arg-type]
        xytext=((label.x - end[0]) / points, moved),
        textcoords="offset points",
        va="center",
        fontsize=LABEL_POINTS,
        color=colour,
        arrowprops=leader if abs(moved) > LABEL_POINTS else None,
    ).set_in_layout(False)


def _bars(axes: "Axes", functions: "Sequence[str]", rows: "Sequence[CallRow]") -> None:
    axes.set_xlabel("share of the mean time, %")
    calls = {name: [row for row in rows if row.function == name] for name in functions}
    calls = {name: taken for name, taken in calls.items() if taken}
    if not calls:
        say_empty(axes, "no calls yet")
        return
    means_ms = {
        name: [
            sum(getattr(row, f"{part}_us") for row in taken) / len(taken) / 1e3
            for part in PARTS
        ]
        for name, taken in calls.items()
    }
    places = range(len(calls))
    begin = [0.0] * len(calls)
    for at, (name, part) in enumerate(PARTS.items()):
        shares = [100 * m[at] / (sum(m) or 1.0) for m in means_ms.values()]
        axes.barh(
            places,
            shares,
            left=begin,
            height=0.6,
            label=name,
            color=part.fill.middle,
            hatch=part.hatch,
            edgecolor=(IN_BAR, 0.6),
            linewidth=0.0,
        )
        begin = [done + share for done, share in zip(begin, shares, strict=True)]
    axes.set_yticks(
        places, [f"{short(name)}\n{duration(sum(m))}" for name, m in means_ms.items()]
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(calls), 3) - 0.5, -0.5)  # one bar alone is not a wall
    axes.set_xlim(0, 100)


def _tens(percentile: float) -> float:
    """Return how many tens of percent are left out: 90 is at 1, 99 at 2."""
    return -log10(1 - percentile / 100)


def _number_decades(axes: "Axes") -> None:
    """Write plain numbers on a logarithmic axis, and between tens where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lowest, highest = axes.get_ylim()
    subs = (1.0,) if highest > 100 * lowest else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
