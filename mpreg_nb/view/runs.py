"""Runs of workflows as a frame."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mpreg_nb.view.columns import COUNT, MEASURE, TEXT, TIME, frame
from mpreg_nb.wire.runs import RunPicture

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

WITH_RESULT = ("done", "fallback")
"""What a step is that has a result."""


def runs_frame(runs: Iterable[RunPicture]) -> "pd.DataFrame":
    """Return one row a run, in the order given."""
    return frame(
        RUNS,
        [
            (
                run.run.hex(),
                run.workflow,
                run.status,
                len(run.steps),
                sum(step.status in WITH_RESULT for step in run.steps),
                sum(step.status == "failed" for step in run.steps),
                datetime.fromtimestamp(run.started_at_s, UTC),
                run.duration_ms / 1e3,
            )
            for run in runs
        ],
    )
