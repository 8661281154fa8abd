"""The figure of a run: which step ran when, on which node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpreg_nb.view.bars import LOOKS, Bar, Lane, bars_of, lanes_of, not_begun, unit_of
from mpreg_nb.view.figures import (
    GRID,
    IN_BAR,
    INK,
    SOFT,
    new_axes,
    new_figure,
    say_empty,
    short,
    subtitle,
)
from mpreg_nb.view.text import MARKS
from mpreg_nb.view.units import count, duration
from mpreg_nb.wire.runs import StepState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 11.0
LANE_INCHES = 0.3
TALLEST_INCHES = 16.0
DPI = 100
LETTERS = 128.0  # how many the axis has room for, rather too few


def gantt_figure(
    workflow: str, steps: Sequence[StepState], duration_ms: float
) -> "Figure":
    """Return a bar a step, by node: light and hatched while it waited there.

    duration_ms: milliseconds from the start of the run until now or its end; bars
    of steps that are under way end there. Steps that did not begin have no bar and
    are named below the title.
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
                _label(axes, bar, place, unit_ms, inside=inside)
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
        linewidth=0.8,  # so that what took no time is a line at least
    )


def _label(axes: "Axes", bar: Bar, place: int, unit_ms: float, *, inside: bool) -> None:
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
