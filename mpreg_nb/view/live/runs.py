"""The newest runs: their progress, their drawings, and their steps over time."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from mpreg_nb.protocol.messages import SHOWN, RunSnapshot, StepSnapshot, summary_of
from mpreg_nb.units import count, duration
from mpreg_nb.view.diagram_svg import Drawing
from mpreg_nb.view.diagram_text import MARKS, printable
from mpreg_nb.view.format import cut, text_width
from mpreg_nb.view.frames import RUNS
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import GREY, INKS, WIDE
from mpreg_nb.view.images import document_image
from mpreg_nb.view.live import charts
from mpreg_nb.view.live.charts import (
    NOTHING,
    Plot,
    empty,
    linear_ticks,
    name_at,
    name_cell,
    names_beside,
    scrolled,
    tip,
)
from mpreg_nb.view.marks import RUN_LOOKS, STEP_LOOKS, UNKNOWN, badge
from mpreg_nb.view.markup import Element, element, percent
from mpreg_nb.view.palette import CARD, GRID, INK
from mpreg_nb.view.plain_mode import plain
from mpreg_nb.view.tables import Cell, Marked, Table
from mpreg_nb.workflows.graph import Diagram

if TYPE_CHECKING:
    import pandas as pd


MOST_RUNS = 5
"""Runs that are shown, the newest."""

MOST_BARS = 600
"""Steps of a run that have a bar."""


class RunView(Protocol):
    """A run, as this view reads it."""

    @property
    def picture(self) -> RunSnapshot:
        """The state of the run."""

    def diagram(self) -> Diagram:
        """The diagram of the workflow."""


def origin(runs: Iterable[RunView], now: float) -> tuple[object, ...]:
    """Return a value that changes with the picture; each second while a run runs.

    now: the wall clock.
    """
    pictures = [run.picture for run in runs][:MOST_RUNS]
    running = any(one.status == "running" for one in pictures)
    seconds = int(now) if running else 0
    return seconds, *((one.run, one.status, one.steps) for one in pictures)


def picture(runs: Iterable[RunView], now: float) -> dict[str, Any]:
    """Return the newest of `runs`, which are newest first.

    now: the wall clock, by which what is running goes on when there is no news.
    """
    return {"runs": [_run(run, now) for run in list(runs)[:MOST_RUNS]]}


def _run(run: RunView, now: float) -> dict[str, Any]:
    picture = run.picture
    steps, summary = picture.steps, summary_of(picture)
    duration_ms = picture.duration_ms
    if picture.status == "running":
        duration_ms = max(duration_ms, (now - picture.started_at_s) * 1e3)
    return {
        "run": picture.run.hex(),
        "workflow": picture.workflow,
        "status": picture.status,
        "steps": summary.steps,
        "done": summary.done,
        "failed": summary.failed,
        "started_at_s": picture.started_at_s,
        "duration_ms": round(duration_ms, 2),
        "drawing": Drawing.of_run(run.diagram(), steps),
        "bars": [_bar(step) for step in steps if step.started_ms is not None][
            :MOST_BARS
        ],
    }


def _bar(step: StepSnapshot) -> dict[str, Any]:
    """Return when a step ran, in milliseconds since the run began."""
    start_ms = step.started_ms or 0.0
    ended = step.status not in ("waiting", "running")
    return {
        "step": step.name,
        "node": step.node,
        "status": step.status,
        "start_ms": round(start_ms, 2),
        "end_ms": round(start_ms + (step.run_ms or 0.0), 2) if ended else None,
    }


# -------------------------------------------------------------------- drawing

ROW_PX, BAR_PX, TOP_PX, AXIS_PX = 24.0, 18.0, 8.0, 34.0
BAR_TEXT = 11.0
USUAL_PX = 700.0
"""How wide a chart of bars mostly is: so wide names of steps are placed for."""

TICKS = 7


def drawing(picture: dict[str, Any]) -> list[Element]:
    """Return a card for each run, and the drawing and the bars of each."""
    runs = picture["runs"]
    if not runs:
        return empty("No runs yet. Start one:", "flow.start()")
    return [
        element(
            "div",
            *map(_card, runs),
            class_="mpreg-runs",
            role="radiogroup",
            aria_label="Runs, newest first",
            data_walk="choose",
        ),
        *map(_detail, runs),
    ]


def _card(run: dict[str, Any]) -> Element:
    done = f"{run['done']:,}/{run['steps']:,} steps"
    return element(
        "button",
        name_cell(run["workflow"], title=run["workflow"]),
        badge(RUN_LOOKS.get(run["status"], UNKNOWN), run["status"]),
        charts.bar(run["done"], run["steps"], done),
        element("span", duration(run["duration_ms"]), class_="mpreg-soft mpreg-number"),
        type="button",
        role="radio",
        class_="mpreg-run-card",
        data_choose=f"run={run['run']}",
        data_item=run["run"],
        key=run["run"],
    )


def _detail(run: dict[str, Any]) -> Element:
    failed = f" \N{MIDDLE DOT} {run['failed']:,} failed" if run["failed"] else ""
    facts = (
        f"{run['status']} \N{MIDDLE DOT} {run['done']:,} of "
        f"{count(run['steps'], 'step')} done{failed} \N{MIDDLE DOT} "
        f"{duration(run['duration_ms'])}"
    )
    cancel = None
    if run["status"] == "running":
        ask = {
            "word": "Cancel run",
            "question": f"Cancel {run['workflow']}?",
            "label": f"Cancel run of {run['workflow']}",
            "send": {"do": "cancel", "run": run["run"]},
        }
        key = f"cancel {run['run']}"
        cancel = element("span", class_="mpreg-act", key=key, ask=ask)
    drawn = run["drawing"].live()
    return element(
        "div",
        element(
            "div",
            element("strong", run["workflow"], class_="mpreg-name"),
            element("span", facts, class_="mpreg-soft"),
            cancel,
            class_="mpreg-toolbar",
        ),
        None if drawn is None else scrolled(drawn, "Drawing", key="drawing"),
        _gantt(run["bars"], run["duration_ms"]),
        class_="mpreg-run",
        # Without a key: the newest run takes the place of the one before, step by step,
        # so that focus and hover stay on a step when a workflow is run again.
        data_of=f"run={run['run']}",
    )


def _gantt(bars: list[dict[str, Any]], duration_ms: float) -> Element | None:
    """Return when each step ran and where: a row for each node, a bar for each step."""
    if not bars:
        return None
    ends = {id(bar): max(bar["start_ms"], _end(bar, duration_ms)) for bar in bars}
    most_ms = max(duration_ms, *ends.values(), 1.0)
    nodes = sorted({bar["node"] for bar in bars}, key=charts.natural)
    names, left = names_beside([node or NOTHING for node in nodes], 150.0)
    plot_px = USUAL_PX - left
    grid: list[Element] = []
    drawn: list[Element] = []
    y = TOP_PX
    for place, (node, name) in enumerate(zip(nodes, names, strict=True)):
        lanes = _lanes([bar for bar in bars if bar["node"] == node], ends)
        height = len(lanes) * ROW_PX
        if place % 2 == 0:
            stripe = {"y": y, "width": "100%", "height": height, "fill": CARD.light}
            grid.append(element("rect", **stripe))
        grid.append(name_at(y + height / 2 + 4, name))
        seen: dict[str, int] = {}
        for lane in lanes:
            for at, bar in enumerate(lane):
                after = lane[at + 1]["start_ms"] if at + 1 < len(lane) else most_ms
                seen[bar["step"]] = seen.get(bar["step"], 0) + 1
                key = f"{node}|{bar['step']}|{seen[bar['step']]}"
                end_ms = ends[id(bar)]
                shares = bar["start_ms"] / most_ms, end_ms / most_ms, after / most_ms
                took = duration(end_ms - bar["start_ms"])
                top = y + (ROW_PX - BAR_PX) / 2
                drawn.append(_step_bar(bar, shares, top, plot_px, key, took))
            y += ROW_PX
    unit, divisor = ("s", 1e3) if most_ms >= 2_000 else ("ms", 1.0)
    for tick in linear_ticks(most_ms, TICKS):
        if tick <= most_ms * 1.001:
            x = percent(tick / most_ms)
            words = f"{tick / divisor:,g} {unit}" if tick else "0"
            line = {"x1": x, "x2": x, "y1": TOP_PX, "y2": y + 4}
            grid += [
                element("line", **line, stroke=GRID.light),
                charts.text(x, y + 17, words, text_anchor="middle"),
            ]
    title = "time since the run started"
    grid.append(charts.text("100%", y + 31, title, text_anchor="end"))
    content = [element("g", *grid), element("g", *drawn, data_walk="list")]
    plot = Plot(left=left, right=14.0, height=y + AXIS_PX, content=content)
    chart = plot.live(
        class_="mpreg-gantt", role="group", aria_label="Steps by node over time"
    )
    return element("div", chart, class_="mpreg-figure", key="bars")


def _end(bar: dict[str, Any], duration_ms: float) -> float:
    """Return when a bar ends; a step that runs has run until now."""
    return float(duration_ms if bar["end_ms"] is None else bar["end_ms"])


def _lanes(
    bars: list[dict[str, Any]], ends: dict[int, float]
) -> list[list[dict[str, Any]]]:
    """Return the bars of a node, those that overlap in different lanes."""
    lanes: list[list[dict[str, Any]]] = []
    for bar in sorted(bars, key=lambda bar: bar["start_ms"]):
        free = (ln for ln in lanes if ends[id(ln[-1])] <= bar["start_ms"])
        lane = next(free, None)
        if lane is None:
            lanes.append(lane := [])
        lane.append(bar)
    return lanes


def _step_bar(
    bar: dict[str, Any],
    shares: tuple[float, float, float],
    top: float,
    plot_px: float,
    key: str,
    took: str,
) -> Element:
    """Return the bar of a step, with its name in the bar or, if needed, beside it.

    shares: where it starts and ends, and where the next one starts, of the plot.
    """
    start, end, after = shares
    look = STEP_LOOKS.get(bar["status"], UNKNOWN)
    width = max(0.004, end - start)
    where = bar["node"] or NOTHING
    within, beside = width * plot_px - 24, (after - start - width) * plot_px - 24
    needed = text_width(bar["step"], BAR_TEXT)
    inside = needed <= within or (beside < needed and within >= beside)
    room = within if inside else beside
    label = None
    if room > 24:
        label = element(
            "svg",
            look.drawn(transform=f"translate(5 {BAR_PX / 2 - 4.5:g}) scale(.75)"),
            charts.text(
                19, BAR_PX / 2 + 4, cut(bar["step"], BAR_TEXT, room), fill=INK.light
            ),
            x=percent(start if inside else start + width),
            y=top,
            overflow="visible",
            key="label",
        )
    return element(
        "g",
        element(
            "rect",
            x=percent(start),
            y=top,
            width=percent(width),
            height=BAR_PX,
            rx=3,
            fill=look.ground,
            stroke=look.ink,
            stroke_width="1.2",
            stroke_dasharray="4 2" if bar["status"] == "running" else None,
            class_="mpreg-gantt-bar",
            key="bar",
        ),
        label,
        role="img",
        class_="mpreg-gantt-step",
        data_item=key,
        data_status=bar["status"],
        aria_label=f"{bar['step']} on {where}: {bar['status']}, {took}",
        tip=tip(
            bar["step"],
            ("status", bar["status"]),
            ("node", where),
            ("started after", duration(bar["start_ms"])),
            ("took", took),
            note="Still running." if bar["end_ms"] is None else "",
        ),
        key=key,
    )


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the newest rows of `cluster.runs()` that were started here."""
    rows = [
        (
            run["run"][:SHOWN],
            run["workflow"],
            run["status"],
            run["steps"],
            run["done"],
            run["failed"],
            datetime.fromtimestamp(run["started_at_s"], UTC),
            run["duration_ms"] / 1e3,
        )
        for run in picture["runs"]
    ]
    return table_frame(RUNS, rows)


def text(picture: dict[str, Any]) -> str:
    """Return the runs as a table of text."""
    return str(_table(picture)) if picture["runs"] else "no runs yet"


def html(picture: dict[str, Any]) -> str:
    """Return the runs as a table, and a drawing of the newest."""
    if not picture["runs"]:
        return "<div>no runs yet</div>"
    newest = picture["runs"][0]
    title = printable(f"run of {newest['workflow']}, {newest['status']}")
    image = document_image(newest["drawing"].svg, title)
    return f'<div style="{WIDE}">{_table(picture).html}{image}</div>'


def _table(picture: dict[str, Any]) -> Table:
    hidden = plain()
    rows = []
    for run in picture["runs"]:
        row: list[Cell] = [
            run["workflow"],
            Marked(
                MARKS.get(run["status"], "○"),
                run["status"],
                INKS.get(run["status"], GREY),
            ),
            f"{run['done']:,} of {run['steps']:,}",
            f"{run['failed']:,}",
        ]
        rows.append(row if hidden else [*row, duration(run["duration_ms"])])
    return Table(
        head=["workflow", "status", "done", "failed", *([] if hidden else ["time"])],
        rows=rows,
        numbers=["done", "failed", "time"],
    )
