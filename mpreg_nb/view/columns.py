"""The columns of every frame: names with units, and dtypes that never change."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpreg_nb.view.data_frame import frame_class

if TYPE_CHECKING:
    import pandas as pd

TEXT = "str"
COUNT = "int64"
MAYBE = "Int64"  # a count that may be missing
MEASURE = "float64"
TIME = "datetime64[us, UTC]"

NODES = {
    "node": TEXT,
    "state": TEXT,
    "resources": TEXT,
    "functions": COUNT,
    "workers": COUNT,
    "slots": COUNT,
    "busy": MAYBE,
    "queued": MAYBE,
    "rtt_ms": MEASURE,
    "cpu_percent": MEASURE,
    "memory_mb": MAYBE,
    "host": TEXT,
    "python": TEXT,
    "uptime_s": MAYBE,
}
FUNCTIONS = {
    "function": TEXT,
    "version": TEXT,
    "resources": TEXT,
    "nodes": TEXT,
    "calls": COUNT,
    "errors": COUNT,
    "p50_ms": MEASURE,
    "signature": TEXT,
}
ROUTES = {
    "function": TEXT,
    "node": TEXT,
    "calls": COUNT,
    "errors": COUNT,
    "share": MEASURE,
    "p50_ms": MEASURE,
}
FINDINGS = {"about": TEXT, "state": TEXT, "found": TEXT, "cure": TEXT}
CALLS = {
    "call_id": TEXT,
    "function": TEXT,
    "run": TEXT,
    "step": TEXT,
    "node": TEXT,
    "via": TEXT,
    "status": TEXT,
    "waited_ms": MEASURE,
    "queued_ms": MEASURE,
    "run_ms": MEASURE,
    "network_ms": MEASURE,
    "serialize_ms": MEASURE,
    "total_ms": MEASURE,
    "sent_bytes": COUNT,
    "received_bytes": COUNT,
    "started_at": TIME,
}
PERCENTILES = {
    "count": COUNT,
    "mean_ms": MEASURE,
    "p50_ms": MEASURE,
    "p95_ms": MEASURE,
    "p99_ms": MEASURE,
    "max_ms": MEASURE,
}
EVENTS = {"time": TIME, "node": TEXT, "event": TEXT, "detail": TEXT}
STEPS = {
    "step": TEXT,
    "function": TEXT,
    "version": TEXT,
    "node": TEXT,
    "status": TEXT,
    "attempts": COUNT,
    "queued_ms": MEASURE,
    "run_ms": MEASURE,
    "result_bytes": MAYBE,
    "error": TEXT,
}
PLAN = {
    "step": TEXT,
    "function": TEXT,
    "version": TEXT,
    "resources": TEXT,
    "candidates": TEXT,
    "rejected": TEXT,
    "chosen": TEXT,
}
PROCESSES = {
    "cluster": TEXT,
    "node": TEXT,
    "state": TEXT,
    "resources": TEXT,
    "pid": COUNT,
    "notebook": TEXT,
    "started_at": TIME,
}


def frame(
    columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]
) -> "pd.DataFrame":
    """Return `rows` as a frame with these columns and dtypes, also if there are none.

    None becomes NaN or NA, so it may stand only where the dtype has one of them.
    """
    import pandas as pd

    series = {
        column: pd.Series([row[place] for row in rows], dtype=dtype)
        for place, (column, dtype) in enumerate(columns.items())
    }
    return frame_class()(series)
