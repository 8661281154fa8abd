"""The newest runs: each workflow with how far it is, and when which step ran."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from mpreg_nb.protocol.messages import SHOWN, RunSnapshot, StepSnapshot, summary_of
from mpreg_nb.units import duration
from mpreg_nb.view.diagram_svg import scene
from mpreg_nb.view.diagram_text import MARKS
from mpreg_nb.view.format import counts, details, states
from mpreg_nb.view.frames import RUNS
from mpreg_nb.view.frames import frame as table_frame
from mpreg_nb.view.html import GREY, INKS, WIDE
from mpreg_nb.view.live.scenes import drawn
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
    """A run, as far as it is looked at here."""

    @property
    def picture(self) -> RunSnapshot:
        """How far it is."""

    def diagram(self) -> Diagram:
        """What it runs."""


def origin(runs: Iterable[RunView], now: float) -> tuple[object, ...]:
    """Return what changes when the picture of `runs` does; of running ones each second.

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
        "scene": scene(run.diagram(), states(steps), details(steps), counts(steps)),
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


def frame(picture: dict[str, Any]) -> "pd.DataFrame":
    """Return the newest rows of `cluster.runs()` that were begun here."""
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
    image = drawn(newest["scene"], f"run of {newest['workflow']}, {newest['status']}")
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
