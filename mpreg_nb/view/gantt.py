"""The figure of a run: which step ran when, on which node."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mpreg_nb.view.figures import (
    COLOURS,
    GRID,
    SOFT,
    new_figure,
    say_empty,
    short,
    subtitle,
)
from mpreg_nb.view.steps import items
from mpreg_nb.view.text import MARKS, clipped
from mpreg_nb.view.units import count, duration
from mpreg_nb.wire.runs import StepState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 11.0
LANE_INCHES = 0.3
TALLEST_INCHES = 16.0
DPI = 100
LETTER_PX = 7.3  # mean width at the size of the labels, rather too wide
MOST_LABELS = 80
"""With more bars, only those that hold their label have one."""

TOUCHING_MS = 0.01
"""Bars that overlap by less follow each other: times are of several clocks."""

BLUE, ORANGE, _, VERMILION, SKY, PURPLE, GREY, _ = COLOURS
DARK_BLUE = "#003a5d"
LOOKS = {
    "done": (BLUE, "white"),
    "running": (SKY, "black"),
    "failed": (VERMILION, "black"),
    "cancelled": (ORANGE, "black"),
    "fallback": (PURPLE, "black"),
    "undone": (GREY, "black"),
}
"""Status -> colour of the bar, and of what is written in it."""

UNITS = ((1_500.0, 1.0, "ms"), (90_000.0, 1e3, "s"), (float("inf"), 60e3, "min"))
"""Until how many milliseconds, milliseconds of one, and its sign."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One step that began, in milliseconds after the start of the run."""

    step: StepState
    sent_ms: float
    begin_ms: float
    end_ms: float
    label: str

    @property
    def status(self) -> str:
        """The status that its look says."""
        return self.step.status if self.step.status in LOOKS else "running"


def gantt_figure(
    workflow: str, steps: Sequence[StepState], duration_ms: float
) -> "Figure":
    """Return a bar a step, by node: light and hatched while it waited there.

    duration_ms: milliseconds from the start of the run until now or its end; bars
    of steps that are under way end there. Steps that did not begin have no bar and
    are named below the title.
    """
    bars = [_bar(step, duration_ms) for step in steps if step.started_ms is not None]
    unit_ms, sign = _unit(max([duration_ms, *(bar.end_ms for bar in bars)]))
    labelled = len(bars) <= MOST_LABELS
    lanes = _lanes(bars, duration_ms, labelled=labelled)
    number = sum(map(len, lanes.values()))
    height = min(TALLEST_INCHES, 1.75 + LANE_INCHES * max(number, 2))
    figure = new_figure(figsize=(INCHES, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    said = count(len(steps), "step")
    if bars:
        said += f", {duration(duration_ms)}"
    subtitle(axes, f"Run of {short(workflow, 60)} by node", _without(steps, said))
    axes.set_xlabel(f"time since the run began, {sign}")
    axes.set_ylabel("node")
    _draw(axes, lanes, unit_ms)
    furthest = [end for row in lanes.values() for lane in row for _, end in lane]
    axes.set_xlim(0, (max([duration_ms, *furthest]) or 1.0) * 1.01 / unit_ms)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, bars)
    return figure


Lane = list[tuple[Bar, float]]
"""Bars that follow each other, each with where it ends, its label included."""


def _bar(step: StepState, duration_ms: float) -> Bar:
    begin_ms = step.started_ms or 0.0
    end_ms = duration_ms if step.run_ms is None else begin_ms + step.run_ms
    label = short(step.name, 28)
    said = items(step) if step.status == "running" else ""
    if step.status != "done":
        said = ", ".join(filter(None, (step.status, said)))
        label = f"{MARKS.get(step.status, '')} {label}: {said}"
    return Bar(
        step=step,
        sent_ms=max(0.0, begin_ms - (step.queued_ms or 0.0)),
        begin_ms=begin_ms,
        end_ms=max(begin_ms, end_ms),
        label=label,
    )


def _lanes(
    bars: Iterable[Bar], duration_ms: float, *, labelled: bool
) -> dict[str, list[Lane]]:
    """Give each node as many lanes as its bars and their labels need.

    A label that its bar cannot hold stands behind it and takes room there, or is
    cut to its mark if not all bars are to be `labelled`.
    """
    px_ms = max(duration_ms, 1e-6) / (INCHES * DPI * 0.86)
    lanes: dict[str, list[Lane]] = {}
    for bar in sorted(bars, key=lambda bar: (bar.step.node, bar.sent_ms)):
        label_ms = (LETTER_PX * len(bar.label) + 8) * px_ms
        if label_ms <= bar.end_ms - bar.begin_ms:
            label_ms = 0.0
        elif not labelled:
            mark = "" if bar.step.status == "done" else MARKS[bar.step.status]
            bar, label_ms = replace(bar, label=mark), 0.0
        end_ms = bar.end_ms + label_ms
        row = lanes.setdefault(bar.step.node, [])
        for lane in row:
            if lane[-1][1] <= bar.sent_ms + TOUCHING_MS:
                lane.append((bar, end_ms))
                break
        else:
            row.append([(bar, end_ms)])
    return lanes


def _draw(axes: "Axes", lanes: dict[str, list[Lane]], unit_ms: float) -> None:
    place = 0
    ticks: list[tuple[float, str]] = []
    for node, row in lanes.items():
        ticks.append((place + (len(row) - 1) / 2, short(node) if node else "several"))
        if place:
            axes.axhline(place - 0.5, color=SOFT, linewidth=0.6)
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
        say_empty(axes, "no step has begun")


def _draw_bar(axes: "Axes", bar: Bar, place: int, unit_ms: float) -> None:
    colour, _ = LOOKS[bar.status]
    if bar.begin_ms > bar.sent_ms:
        axes.barh(
            place,
            (bar.begin_ms - bar.sent_ms) / unit_ms,
            left=bar.sent_ms / unit_ms,
            height=0.62,
            facecolor="#ffffff",
            edgecolor=GREY,
            hatch="/////",
            linewidth=0.8,
        )
    axes.barh(
        place,
        (bar.end_ms - bar.begin_ms) / unit_ms,
        left=bar.begin_ms / unit_ms,
        height=0.62,
        color=colour,
        edgecolor=DARK_BLUE if bar.status == "done" else "black",
        linewidth=0.8,  # so that what took no time is a line at least
    )


def _label(axes: "Axes", bar: Bar, place: int, unit_ms: float, *, inside: bool) -> None:
    axes.annotate(
        bar.label,
        ((bar.begin_ms if inside else bar.end_ms) / unit_ms, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=9,
        color=LOOKS[bar.status][1] if inside else "black",
    )


def _legend(figure: "Figure", bars: Sequence[Bar]) -> None:
    from matplotlib.patches import Patch

    shown = {bar.status for bar in bars}
    patches = [
        Patch(facecolor=colour, label=f"{MARKS[status]} {status}")
        for status, (colour, _) in LOOKS.items()
        if status in shown
    ]
    if any(bar.begin_ms > bar.sent_ms for bar in bars):
        waited = "waited on its node"
        patches.append(
            Patch(facecolor="white", edgecolor=GREY, hatch="/////", label=waited)
        )
    if patches:
        figure.legend(
            handles=patches,
            loc="outside lower left",
            ncols=len(patches),
            frameon=False,
            fontsize=9,
        )


def _without(steps: Iterable[StepState], said: str) -> str:
    """Add to what is said the steps that have no bar."""
    idle = [
        f"{short(step.name, 24)} ({step.status})"
        for step in steps
        if step.started_ms is None
    ]
    if not idle:
        return said
    more = f" and {len(idle) - 6} more" if len(idle) > 6 else ""
    return f"{said}; not begun: {clipped(', '.join(idle[:6]), 120)}{more}"


def _unit(most_ms: float) -> tuple[float, str]:
    return next((unit, sign) for until, unit, sign in UNITS if most_ms < until)
