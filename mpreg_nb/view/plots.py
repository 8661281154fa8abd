"""The figure of latencies: percentiles of calls, and where their time went."""

from collections.abc import Sequence
from math import log10
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.figures import COLOURS, new_figure, say_empty, short
from mpreg_nb.view.measured import merged
from mpreg_nb.view.units import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hdrh.histogram import HdrHistogram
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mpreg_nb.client.journal import CallRow

MOST_FUNCTIONS = 8
"""Curves in one plot; more could not be told apart."""

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 2)), (0, (1, 3)), "-", "--")
PARTS = (
    ("queue", "queued_us", "#e69f00", ""),
    ("run", "run_us", "#0072b2", ""),
    ("network", "network_us", "#56b4e9", "///"),
    ("serialize", "serialize_us", "#cc79a7", "..."),
)
PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
STEPS_PER_TEN = 12
"""Points of a curve on the way from 90 to 99 percent, and on each such way."""


def latency_figure(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", rows: "Sequence[CallRow]"
) -> "Figure":
    """Return percentile curves per function, and bars of where the time went.

    histograms: (function, node) -> microseconds of all calls.
    rows: the calls that the bars are means of.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    by_function = {k[0]: h for k, h in merged(histograms, ("function",)).items()}
    busiest = sorted(by_function, key=lambda f: (-by_function[f].get_total_count(), f))
    shown = sorted(busiest[:MOST_FUNCTIONS])
    title = "function (calls)"
    if len(busiest) > len(shown):
        title += f", the {len(shown)} most called of {len(busiest)}"
    columns = 2 if max(map(len, shown), default=0) > 14 else 3
    legend_inches = 0.45 + 0.2 * max(-(-len(shown) // columns), 2)
    height = 3.9 + legend_inches
    bottom = legend_inches / height
    layout = ConstrainedLayoutEngine(rect=(0, bottom, 1, 1 - bottom))
    figure = new_figure(figsize=(11, height), dpi=100, layout=layout)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _curves(left, [(name, by_function[name]) for name in shown])
    _bars(right, shown, rows)
    _legend(figure, left, title, columns, place=(0.04, bottom))
    _legend(figure, right, "part", 2, place=(0.68, bottom))
    return figure


def _legend(
    figure: "Figure",
    axes: "Axes",
    title: str,
    columns: int,
    *,
    place: tuple[float, float],
) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    legend = figure.legend(
        handles,
        labels,
        title=title,
        frameon=False,
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=place,
        fontsize=9,
        title_fontsize=9,
        alignment="left",
    )
    legend.set_in_layout(False)  # its room is kept free; it must not squeeze the plots


def _curves(axes: "Axes", named: "Sequence[tuple[str, HdrHistogram]]") -> None:
    axes.set_title("Latency of calls by percentile")
    axes.set_xlabel("percentile of calls, %")
    axes.set_ylabel("latency, ms")
    if not named:
        say_empty(axes, "no calls yet")
        return
    axes.set_yscale("log")
    furthest = 1.0
    for place, (name, histogram) in enumerate(named):
        count = histogram.get_total_count()
        # Of 99 calls each is one percent: beyond that there is nothing to know.
        ticks = range(round(STEPS_PER_TEN * log10(count + 1)) + 1)
        percentiles = [100 - 100 * 10 ** (-tick / STEPS_PER_TEN) for tick in ticks]
        known = histogram.get_percentile_to_value_dict(percentiles)
        axes.plot(
            [_tens(percentile) for percentile in known],
            [value_us / 1e3 for value_us in known.values()],
            label=f"{short(name)} ({count:,})",
            color=COLOURS[place],
            linestyle=DASHES[place],
            linewidth=2,
            marker="o" if count < 5 else "",
        )
        furthest = max(furthest, len(ticks) / STEPS_PER_TEN)
    marked = [p for p in PERCENTILES if _tens(p) <= furthest + 0.05]
    axes.set_xticks([_tens(p) for p in marked], [f"{p:g}" for p in marked])
    _number_decades(axes)
    axes.grid(color="#d0d7de", linewidth=0.6)


def _bars(axes: "Axes", functions: "Sequence[str]", rows: "Sequence[CallRow]") -> None:
    axes.set_title("Where the time of a call goes")
    axes.set_xlabel("share of the mean time, %")
    calls = {name: [row for row in rows if row.function == name] for name in functions}
    calls = {name: taken for name, taken in calls.items() if taken}
    if not calls:
        say_empty(axes, "no calls yet")
        return
    means_ms = {
        name: [
            sum(getattr(row, field) for row in taken) / len(taken) / 1e3
            for _, field, _, _ in PARTS
        ]
        for name, taken in calls.items()
    }
    places = range(len(calls))
    begin = [0.0] * len(calls)
    for part, (label, _, colour, hatch) in enumerate(PARTS):
        shares = [100 * m[part] / (sum(m) or 1.0) for m in means_ms.values()]
        axes.barh(
            places,
            shares,
            left=begin,
            height=0.6,
            label=label,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
        )
        begin = [done + share for done, share in zip(begin, shares, strict=True)]
    axes.set_yticks(
        places, [f"{short(name)}\n{duration(sum(m))}" for name, m in means_ms.items()]
    )
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
