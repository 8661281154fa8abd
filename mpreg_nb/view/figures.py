"""All matplotlib figures: latencies, routes, and the Gantt chart of a run.

None of them uses pyplot, so a figure at the end of a cell is shown only once. The
background is transparent, and the colours can be seen on light and dark pages.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from math import log10, nan
from typing import TYPE_CHECKING, Any

from mpreg_nb.protocol.messages import StepSnapshot
from mpreg_nb.units import count, duration
from mpreg_nb.view import palette
from mpreg_nb.view.curve_labels import BESIDE, Label, placed
from mpreg_nb.view.data_frame import three_digits
from mpreg_nb.view.diagram_text import MARKS, clipped, printable
from mpreg_nb.view.frames import Route, merged, routes
from mpreg_nb.view.palette import FUNCTIONS, PARTS
from mpreg_nb.view.timeline import (
    LOOKS,
    Bar,
    Lane,
    bars_of,
    lanes_of,
    not_begun,
    unit_of,
)

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

    from mpreg_nb.client.statistics import CallRow


INK, SOFT = palette.INK.middle, palette.SOFT.middle
"""Colours of titles and names, and of notes next to the data."""

GRID = (palette.LINE.middle, 0.3)
"""Colour and opacity of grid lines."""

IN_BAR = "#ffffff"
"""Colour of text inside a filled bar."""


def new_figure(**options: Any) -> "Figure":
    """Return a figure that Jupyter displays, with and without pyplot."""
    made: Figure = _figure_class()(facecolor="none", **options)
    return made


def new_axes(
    figure: "Figure | SubFigure", columns: int = 1, **options: Any
) -> "list[Axes]":
    """Return this many axes next to each other, in colours for light and dark pages."""
    grid = figure.subplots(1, columns, squeeze=False, **options)
    made: list[Axes] = list(grid[0])
    for axes in made:
        dress(axes)
    return made


def dress(axes: "Axes") -> None:
    """Set colours that can be seen on light and dark pages; hide needless lines."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette.LINE.middle)
    axes.tick_params(which="both", color=palette.LINE.middle, labelcolor=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(SOFT)


def say_empty(axes: "Axes", text: str) -> None:
    """Write in the centre of `axes` why nothing is drawn."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        color=SOFT,
        transform=axes.transAxes,
    )


def short(name: str, most: int = 20) -> str:
    """Return the name of a user, shortened and escaped for the text of a figure."""
    # matplotlib would read text between two dollar signs as a formula.
    return clipped(printable(name), most).replace("$", r"\$")


def subtitle(axes: "Axes", title: str, more: str) -> None:
    """Set the title of `axes`, and a note in smaller letters below it."""
    pad = 22 if more else 8
    axes.set_title(title, loc="left", pad=pad, fontsize=12, color=INK)
    if more:
        axes.annotate(
            more,
            (0, 1),
            xytext=(0, 7),
            xycoords="axes fraction",
            textcoords="offset points",
            color=SOFT,
            fontsize=9,
        )


@cache
def _figure_class() -> "type[Figure]":
    from matplotlib.figure import Figure

    class Shown(Figure):
        def _repr_png_(self) -> bytes:
            file = BytesIO()
            with warnings.catch_warnings():
                # A letter that the font lacks is drawn as a box; one warning per
                # letter would bury the figure.
                warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
                self.savefig(file, format="png")
            return file.getvalue()

    Shown.__name__ = Shown.__qualname__ = "Figure"  # shown by its repr
    return Shown


MOST_CURVES = 8
"""Curves in one plot; more could not be distinguished."""

FEW = 30
"""Fewer calls are drawn as one point each: they are too few for percentiles."""

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (7, 2)), (0, (1, 3)), "-", "--")
MARKERS = "osD^vP*X"
PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
STEPS_PER_TEN = 12
"""Points of a curve between 90 and 99 percent, between 99 and 99.9, and so on."""

LABEL_POINTS = 9.0
"""Font size of a label."""


def latency_figure(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", rows: "Sequence[CallRow]"
) -> "Figure":
    """Return latency curves by percentile, and bars with the parts of a call.

    A function with few calls has one point per call instead of a curve.
    histograms: (function, node) -> microseconds of all calls.
    rows: the calls whose mean times the bars show.
    """
    by_function = {k[0]: h for k, h in merged(histograms, ("function",)).items()}
    busiest = sorted(by_function, key=lambda f: (-by_function[f].get_total_count(), f))
    shown = sorted(busiest[:MOST_CURVES])
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
    """Return (percentile, microseconds) of each call; each has an equal share."""
    values: list[float] = []
    for item in histogram.get_recorded_iterator():
        values += [item.value_iterated_to] * item.count_at_value_iterated_to
    return [
        (100 * (number + 0.5) / len(values), value_us)
        for number, value_us in enumerate(values)
    ]


def _percentiles(histogram: "HdrHistogram") -> list[tuple[float, float]]:
    """Return (percentile, microseconds), up to what this many calls can tell."""
    count = histogram.get_total_count()
    # With 99 calls each is one percent, so there is no percentile above 99.
    ticks = range(round(STEPS_PER_TEN * log10(count + 1)) + 1)
    percentiles = [100 - 100 * 10 ** (-tick / STEPS_PER_TEN) for tick in ticks]
    return list(histogram.get_percentile_to_value_dict(percentiles).items())


def _label(figure: "Figure", axes: "Axes", lines: "Sequence[Line2D]") -> None:
    """Label the end of each curve with the name of its function."""
    from matplotlib.textpath import TextPath

    names = [str(line.get_label()) for line in lines]
    points = figure.dpi / 72
    widths = [
        TextPath((0, 0), name, size=LABEL_POINTS).get_extents().width * points
        for name in names
    ]
    figure.draw_without_rendering()  # computes the size of the axes
    box = axes.get_window_extent()
    # Widen the axis, so that the labels fit after the ends of the curves.
    ends = [line.get_path().get_extents().x1 for line in lines]
    room = [box.width - BESIDE - 4 - width for width in widths]
    axes.set_xlim(
        0, max(end * box.width / has for end, has in zip(ends, room, strict=True))
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.08)  # room for labels above curves
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
    sent = [row for row in rows if row.node]  # as in the curves: not what was refused
    calls = {name: [row for row in sent if row.function == name] for name in functions}
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
    axes.set_ylim(max(len(calls), 3) - 0.5, -0.5)  # else one bar fills the plot
    axes.set_xlim(0, 100)


def _tens(percentile: float) -> float:
    """Return the place of a percentile on the axis: 90 at 1, 99 at 2, 99.9 at 3."""
    return -log10(1 - percentile / 100)


def _number_decades(axes: "Axes") -> None:
    """Label a logarithmic axis with plain numbers; a short one also at 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lowest, highest = axes.get_ylim()
    subs = (1.0,) if highest > 100 * lowest else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


MOST_FUNCTIONS = 30
MOST_NODES = 40
"""More rows or columns would be unreadable."""

MOST_WRITTEN = 12
"""With more columns, cells have a colour but no numbers."""

WEAKEST, STRONGEST = "#c6dff2", "#0b5a97"
"""Ends of the scale: one hue from light to dark, safe for colour-blind readers.

Both can be seen on light and dark pages. A cell without calls has no colour.
"""

DARK = 0.45
"""From this part of the scale on, white text is easier to read than black."""

SCALES = (10.0, 20.0, 50.0, 100.0)
"""Percent of the darkest colour: with many nodes the shares are small."""


def routes_figure(rows: "Iterable[CallRow]", nodes: Collection[str] = ()) -> "Figure":
    """Return a heat map of functions by nodes, coloured by share of the calls.

    rows: the calls, as in the frame of routes.
    nodes: have a column even if they got no call.
    """
    from matplotlib.colors import LinearSegmentedColormap

    taken = {(route.function, route.node): route for route in routes(rows)}
    totals: Counter[str] = Counter()
    for route in taken.values():
        totals[route.function] += route.calls
    busiest = sorted(totals, key=lambda name: (-totals[name], name))
    functions = sorted(busiest[:MOST_FUNCTIONS])
    columns = _columns({node for _, node in taken}, set(nodes))
    written = len(columns) <= MOST_WRITTEN
    height = 1.9 + (0.5 if written else 0.28) * max(len(functions), 2)
    width = max(6.5, 3.4 + (0.95 if written else 0.3) * len(columns))
    figure = new_figure(figsize=(width, height), dpi=100, layout="constrained")
    (axes,) = new_axes(figure)
    said = ["in each cell: calls and their median time"] if written else []
    if len(busiest) > len(functions):
        said.append(f"the {len(functions)} most called of {len(busiest)} functions")
    subtitle(axes, "Calls by function and node", "; ".join(said) if taken else "")
    axes.set_xlabel("node")
    axes.set_ylabel("function")
    if not taken:
        say_empty(axes, "no calls yet")
        return figure
    axes.spines[:].set_visible(False)
    shares = [
        [
            100 * taken[name, node].share if (name, node) in taken else nan
            for node in columns
        ]
        for name in functions
    ]
    most = 100 * max(
        route.share for (name, _), route in taken.items() if name in functions
    )
    scale = next(percent for percent in SCALES if most <= percent + 1e-9)
    colours = LinearSegmentedColormap.from_list("shares", [WEAKEST, STRONGEST])
    image = axes.imshow(shares, cmap=colours, vmin=0, vmax=scale, aspect="auto")
    label = "share of the function's calls, %"
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    dress(bar.ax)
    _name(axes, functions, columns, totals)
    for (name, node), route in taken.items():
        if written and name in functions:
            place = columns.index(node), functions.index(name)
            _write_share(axes, place, route, dark=100 * route.share >= DARK * scale)
    return figure


def _columns(taking: Collection[str], present: Collection[str]) -> list[str]:
    """Return the nodes to show; if there are too many, first those with calls."""
    columns = sorted(taking)[:MOST_NODES]
    columns += sorted(set(present) - set(taking))[: MOST_NODES - len(columns)]
    return sorted(columns)


def _name(
    axes: "Axes",
    functions: Sequence[str],
    columns: Sequence[str],
    totals: Mapping[str, int],
) -> None:
    slanted = sum(len(node) for node in columns) > 60
    axes.set_xticks(
        range(len(columns)),
        [short(node, 16) or "no node" for node in columns],
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(
        range(len(functions)),
        [f"{short(name, 24)} ({totals[name]:,})" for name in functions],
    )
    axes.tick_params(length=0)
    # Lines around the cells separate neighbours of the same colour.
    axes.set_xticks([place - 0.5 for place in range(len(columns) + 1)], minor=True)
    axes.set_yticks([place - 0.5 for place in range(len(functions) + 1)], minor=True)
    axes.grid(which="minor", color=GRID, linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _write_share(
    axes: "Axes", place: tuple[int, int], route: Route, *, dark: bool
) -> None:
    lines = [f"{route.calls:,}", f"{three_digits(route.p50_ms)} ms"]
    if route.errors:
        lines[0] += f"  {MARKS['failed']} {route.errors:,} failed"
    axes.text(
        *place,
        "\n".join(lines),
        ha="center",
        va="center",
        fontsize=8.5,
        color=IN_BAR if dark else "black",
    )


INCHES = 11.0
LANE_INCHES = 0.3
TALLEST_INCHES = 16.0
DPI = 100
LETTERS = 128.0  # that fit along the axis, at least


def gantt_figure(
    workflow: str, steps: Sequence[StepSnapshot], duration_ms: float
) -> "Figure":
    """Return a Gantt chart: one bar per step, by node, hatched while the step waited.

    duration_ms: milliseconds from the start of the run to now or its end; bars of
    running steps end there. Steps that have not begun have no bar and are named below
    the title.
    """
    bars = bars_of(steps, duration_ms)
    until_ms = max([duration_ms, *(bar.end_ms for bar in bars)])
    unit_ms, sign = unit_of(until_ms)
    lanes = lanes_of(bars, until_ms=until_ms, letters=LETTERS)
    number = sum(map(len, lanes.values()))
    height = min(TALLEST_INCHES, 1.75 + LANE_INCHES * max(number, 2))
    figure = new_figure(figsize=(INCHES, height), dpi=DPI, layout="constrained")
    (axes,) = new_axes(figure)
    said = count(len(steps), "step")
    if bars:
        said += f", {duration(duration_ms)}"
    idle = not_begun(steps).replace("$", r"\$")
    title = f"Run of {short(workflow, 60)} by node"
    subtitle(axes, title, "; ".join(filter(None, (said, idle))))
    axes.set_xlabel(f"time since the run started, {sign}")
    axes.set_ylabel("node")
    _draw(axes, lanes, unit_ms)
    furthest = [end for row in lanes.values() for lane in row for _, end in lane]
    axes.set_xlim(0, (max([until_ms, *furthest]) or 1.0) * 1.01 / unit_ms)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, bars)
    return figure


def _draw(axes: "Axes", lanes: dict[str, list[Lane]], unit_ms: float) -> None:
    place = 0
    ticks: list[tuple[float, str]] = []
    for node, row in lanes.items():
        ticks.append((place + (len(row) - 1) / 2, short(node)))
        if place:
            axes.axhline(place - 0.5, color=GRID, linewidth=0.8)
        for lane in row:
            for bar, end_ms in lane:
                _draw_bar(axes, bar, place, unit_ms)
                inside = end_ms == bar.end_ms
                _bar_label(axes, bar, place, unit_ms, inside=inside)
            place += 1
    axes.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(place, 1) - 0.5, -0.5)
    if not lanes:
        say_empty(axes, "no step has started")


def _draw_bar(axes: "Axes", bar: Bar, place: int, unit_ms: float) -> None:
    colour = LOOKS[bar.status].middle
    if bar.begin_ms > bar.sent_ms:
        axes.barh(
            place,
            (bar.begin_ms - bar.sent_ms) / unit_ms,
            left=bar.sent_ms / unit_ms,
            height=0.62,
            facecolor="none",
            edgecolor=SOFT,
            hatch="/////",
            linewidth=0.8,
        )
    axes.barh(
        place,
        (bar.end_ms - bar.begin_ms) / unit_ms,
        left=bar.begin_ms / unit_ms,
        height=0.62,
        color=colour,
        edgecolor=colour,
        linewidth=0.8,  # so that a bar without duration is still a line
    )


def _bar_label(
    axes: "Axes", bar: Bar, place: int, unit_ms: float, *, inside: bool
) -> None:
    axes.annotate(
        bar.label.replace("$", r"\$"),
        ((bar.begin_ms if inside else bar.end_ms) / unit_ms, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=9,
        color=IN_BAR if inside else INK,
    )


def _legend(figure: "Figure", bars: Sequence[Bar]) -> None:
    from matplotlib.patches import Patch

    shown = {bar.status for bar in bars}
    patches = [
        Patch(facecolor=colour.middle, label=f"{MARKS[status]} {status}")
        for status, colour in LOOKS.items()
        if status in shown
    ]
    if any(bar.begin_ms > bar.sent_ms for bar in bars):
        waited = "waited on its node"
        patches.append(
            Patch(facecolor="none", edgecolor=SOFT, hatch="/////", label=waited)
        )
    if patches:
        figure.legend(
            handles=patches,
            loc="outside lower left",
            ncols=len(patches),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )
