"""Runs of workflows as a frame."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mpreg_nb.view.columns import COUNT, MEASURE, TEXT, TIME, frame
from mpreg_nb.wire.ids import SHOWN
from mpreg_nb.wire.runs import RunSummary

if TYPE_CHECKING:
    import pandas as pd

RUNS = {
    "run": TEXT,
    "workflow": TEXT,
    "status": TEXT,
    "steps": COUNT,
    "done": COUNT,
    "failed": COUNT,
    "started_at": TIME,
    "duration_s": MEASURE,
}


def runs_frame(runs: Iterable[RunSummary]) -> "pd.DataFrame":
    """Return one row a run, in the order given."""
    return frame(
        RUNS,
        [
            (
                run.run.hex()[:SHOWN],
                run.workflow,
                run.status,
                run.steps,
                run.done,
                run.failed,
                datetime.fromtimestamp(run.started_at_s, UTC),
                run.duration_ms / 1e3,
            )
            for run in runs
        ],
    )
