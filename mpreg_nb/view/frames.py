"""All pandas frames: columns with units and fixed dtypes, filled from plain data.

Frames, figures and live views all take their numbers from here.

Columns are those of the methods of `Cluster`, `Run` and `Flow` that return them,
units in their names. Names in one cell are joined by ", ", which no name contains.
What is not known is NaN or NA, never a zero.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from mpreg_nb.protocol.gossip import MemberRecord, MemberState, Offer
from mpreg_nb.protocol.messages import (
    PACKAGES,
    SHOWN,
    FunctionSnapshot,
    RunSummary,
    Snapshot,
    StepSnapshot,
)
from mpreg_nb.view.data_frame import frame_class
from mpreg_nb.view.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from hdrh.histogram import HdrHistogram

    from mpreg_nb.client.statistics import CallRow
    from mpreg_nb.launcher.cluster_files import LedgerRow


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


KEYS = ("function", "node")
"""What latencies can be grouped by."""


class Route(NamedTuple):
    """The calls of one function that one node took; `node` is "" if none did."""

    function: str
    node: str
    calls: int
    errors: int
    share: float  # of the calls of the function, from 0 to 1
    p50_ms: float


class Figures(msgspec.Struct, frozen=True):
    """How long some calls took."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def routes(rows: "Iterable[CallRow]") -> list[Route]:
    """Return one route for each function and node, sorted by both.

    Calls that no node took are on the node "".
    """
    from statistics import median

    calls: dict[tuple[str, str], list[CallRow]] = {}
    for row in rows:
        calls.setdefault((row.function, row.node), []).append(row)
    all_calls: dict[str, int] = {}
    for (function, _), taken in calls.items():
        all_calls[function] = all_calls.get(function, 0) + len(taken)
    return [
        Route(
            function,
            node,
            len(taken),
            sum(call.status in ("failed", "lost") for call in taken),
            len(taken) / all_calls[function],
            median(call.total_us for call in taken) / 1e3,
        )
        for (function, node), taken in sorted(calls.items())
    ]


def latencies(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Figures]]:
    """Yield (key, figures) for each value of `keys`, sorted.

    histograms: (function, node) -> microseconds.
    keys: "function", "node" or both.

    Raises:
        ValueError: a key is neither of the two, or there is none.
    """
    if not keys or not set(keys) <= set(KEYS) or len(set(keys)) < len(keys):
        raise ValueError(
            "by must be 'function', 'node' or ('function', 'node'), "
            f"not {', '.join(map(repr, keys)) or 'empty'}"
        )
    for key, histogram in sorted(merged(histograms, keys).items()):
        percentiles = histogram.get_percentile_to_value_dict([50, 95, 99, 100])
        measures_us = (_mean_us(histogram), *percentiles.values())
        count = histogram.get_total_count()
        yield key, Figures(count, *(us / 1e3 for us in measures_us))


def merged(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", keys: Sequence[str]
) -> "dict[tuple[str, ...], HdrHistogram]":
    """Return new histograms, one for each value of `keys`; the given are left."""
    places = [KEYS.index(key) for key in keys]
    together: dict[tuple[str, ...], HdrHistogram] = {}
    for pair, histogram in histograms.items():
        key = tuple(pair[place] for place in places)
        if key not in together:
            together[key] = type(histogram)(
                histogram.lowest_trackable_value,
                histogram.highest_trackable_value,
                histogram.significant_figures,
            )
        together[key].add(histogram)
    return together


def _mean_us(histogram: "HdrHistogram") -> float:
    # As get_mean_value of the library, which goes over all its empty places too.
    total: int = histogram.get_total_count()
    left, sum_us = total, 0.0
    for index in range(histogram.counts_len):
        count = histogram.get_count_at_index(index)
        if count:
            lowest_us = histogram.get_value_from_index(index)
            highest_us = histogram.get_highest_equivalent_value(lowest_us)
            sum_us += count * (lowest_us + highest_us) / 2
            left -= count
            if not left:
                break
    return sum_us / total


# ------------------------------------------------------------------- cluster


def served(snapshot: Snapshot) -> dict[str, tuple[Offer, tuple[str, ...]]]:
    """Return function -> newest registration, and the nodes that serve it.

    A node that should serve it and does not have the code yet counts: it pulls the
    code before the first call. So gossip that is on its way changes nothing here.
    """
    present = list(_present(snapshot))
    there = {record.name: record.resources for record in present}
    workerless = {record.name for record in present if not record.workers}
    offers: dict[str, list[tuple[str, Offer]]] = {}
    for owner, offer in snapshot.offers:
        if offer.version and not offer.removed:
            offers.setdefault(offer.function, []).append((owner, offer))
    fitting: dict[tuple[frozenset[str], bool], tuple[str, ...]] = {}
    found = {}
    for function in sorted(offers):
        newest = max((o for _, o in offers[function]), key=_rank)
        if newest.placed:
            asked = newest.resources, newest.needs_worker
            if asked not in fitting:  # many functions ask for the same
                nodes = {node for node in there if newest.resources <= there[node]}
                nodes -= workerless if newest.needs_worker else set()
                fitting[asked] = tuple(sorted(nodes))
            found[function] = newest, fitting[asked]
        else:  # only those that have it, and of the nodes that have it only these
            nodes = {
                owner
                for owner, offer in offers[function]
                if owner in there and offer.version == newest.version
            }
            found[function] = newest, tuple(sorted(nodes))
    return found


def nodes_frame(snapshot: Snapshot) -> "pd.DataFrame":
    """Return one row a node, sorted by name; those that are gone too."""
    serving = Counter(n for _, nodes in served(snapshot).values() for n in nodes)
    rows = []
    for picture in sorted(snapshot.nodes, key=lambda picture: picture.record.name):
        record, load = picture.record, picture.load
        rows.append(
            (
                record.name,
                record.state.name.lower(),
                _names(record.resources),
                serving[record.name],
                record.workers,
                record.slots if record.workers else 0,
                None if load is None else load.running,
                None if load is None else load.queued,
                picture.rtt_ms,
                None if load is None else load.cpu_percent,
                None if load is None else load.memory_mb,
                record.host,
                record.python,
                None if load is None else load.uptime_s,
            )
        )
    return frame(NODES, rows)


def functions_frame(
    snapshot: Snapshot, pictures: Iterable[FunctionSnapshot], pattern: str = "*"
) -> "pd.DataFrame":
    """Return one row a function whose name fits `pattern`, sorted by name.

    Each row is of the newest version, and so are its calls: all nodes' sums, and
    for the median a mean of theirs, weighted by calls.
    """
    counted: dict[tuple[str, str], list[FunctionSnapshot]] = {}
    for picture in pictures:
        counted.setdefault((picture.function, picture.version), []).append(picture)
    rows = []
    for function, (offer, nodes) in served(snapshot).items():
        if not fnmatchcase(function, pattern):
            continue
        found = counted.get((function, offer.version), [])
        rows.append(
            (
                function,
                offer.version[:6],
                _names(offer.resources),
                _names(nodes),
                sum(picture.calls for picture in found),
                sum(picture.errors for picture in found),
                _weighted(found),
                offer.signature,
            )
        )
    return frame(FUNCTIONS, rows)


_OF_MEMBERSHIP = frozenset({"joined", "suspect", "alive", "dead", "left"})
"""Events that every node sees, each in its own way."""


def events_frame(snapshot: Snapshot, others: Iterable[Snapshot] = ()) -> "pd.DataFrame":
    """Return one row an event, oldest first.

    others: what other nodes know. Of that are taken the events that only they saw.
    """
    events = list(snapshot.events)
    for other in others:
        if other.node != snapshot.node:
            events += [e for e in other.events if e.event not in _OF_MEMBERSHIP]
    rows = [
        (_time(event.at_s), event.node, event.event, event.detail)
        for event in sorted(events, key=lambda event: event.at_s)
    ]
    return frame(EVENTS, rows)


def ps_frame(rows: "Iterable[LedgerRow]") -> "pd.DataFrame":
    """Return one row a node that the user started, in the order of the ledger."""
    return frame(
        PROCESSES,
        [
            (
                row.cluster,
                row.node,
                row.state,
                _names(row.resources),
                row.pid,
                row.notebook,
                row.started_at,
            )
            for row in rows
        ],
    )


# --------------------------------------------------------------------- calls


def routes_frame(rows: "Iterable[CallRow]") -> "pd.DataFrame":
    """Return one row for each function and node, sorted by both.

    `share` is the part of the function's calls that this node took, from 0 to 1.
    Calls that no node took are under the node "".
    """
    return frame(ROUTES, [tuple(route) for route in routes(rows)])


def calls_frame(rows: "Iterable[CallRow]") -> "pd.DataFrame":
    """Return one row a call, in the order in which they ended."""
    return frame(
        CALLS,
        [
            (
                row.call_id,
                row.function,
                row.run,
                row.step,
                row.node,
                row.via,
                row.status,
                row.waited_us / 1e3,
                row.queued_us / 1e3,
                row.run_us / 1e3,
                row.network_us / 1e3,
                row.serialize_us / 1e3,
                row.total_us / 1e3,
                row.sent_bytes,
                row.received_bytes,
                _time(row.started_at),
            )
            for row in rows
        ],
    )


def latency_frame(
    histograms: "Mapping[tuple[str, str], HdrHistogram]", keys: Sequence[str]
) -> "pd.DataFrame":
    """Return percentiles by `keys` ("function", "node" or both), sorted by them.

    histograms: (function, node) -> microseconds.

    Raises:
        ValueError: a key is neither of the two, or there is none.
    """
    rows = [(*key, *astuple(figures)) for key, figures in latencies(histograms, keys)]
    return frame({**dict.fromkeys(keys, TEXT), **PERCENTILES}, rows)


# ----------------------------------------------------------------- workflows


def run_frame(
    steps: Iterable[StepSnapshot], functions: Mapping[str, str]
) -> "pd.DataFrame":
    """Return one row a step, in the order in which they were written.

    functions: step -> the function that it calls.
    """
    return frame(
        STEPS,
        [
            (
                step.name,
                functions.get(step.name, ""),
                step.version[:6],
                step.node,
                step.status,
                step.attempts,
                step.queued_ms,
                step.run_ms,
                step.result_bytes,
                step.error,
            )
            for step in steps
        ],
    )


# -------------------------------------------------------------------- pieces


def _present(snapshot: Snapshot) -> list[MemberRecord]:
    records = [picture.record for picture in snapshot.nodes]
    present = (MemberState.ALIVE, MemberState.SUSPECT)
    return [record for record in records if record.state in present]


def _rank(offer: Offer) -> tuple[int, str]:
    return offer.counter, offer.origin


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _weighted(pictures: Iterable[FunctionSnapshot]) -> float | None:
    known = [(p.p50_ms, p.calls) for p in pictures if p.p50_ms is not None and p.calls]
    if not known:
        return None
    return sum(ms * calls for ms, calls in known) / sum(calls for _, calls in known)


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


HERE = "this process"


def versions_frame(
    here: Mapping[str, str],
    nodes: Mapping[str, Mapping[str, str]],
    differing: Mapping[str, Sequence[str]],
) -> "pd.DataFrame":
    """Return one row for this process, then one a node, sorted by name."""
    names = ("python", *PACKAGES)
    columns = {name: TEXT for name in ("node", *names, "differs")}
    rows = [
        (node, *(versions.get(name, "") for name in names), ", ".join(differ))
        for node, versions, differ in (
            (HERE, here, ()),
            *((n, nodes[n], differing.get(n, ())) for n in sorted(nodes)),
        )
    ]
    return frame(columns, rows)


def versions_table(
    here: Mapping[str, str],
    nodes: Mapping[str, Mapping[str, str]],
    differing: Mapping[str, Sequence[str]],
) -> Table:
    """Return what differs, and of whom, and nothing else."""
    shown = [name for name in here if any(name in one for one in differing.values())]
    rows = [(HERE, *(here[name] for name in shown))]
    for node in sorted(differing):
        versions = (nodes[node].get(name) or "none" for name in shown)
        rows.append((node, *versions))
    return Table(head=("node", *shown), rows=rows)
