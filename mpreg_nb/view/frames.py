"""Plain data to pandas frames: the same columns and dtypes whatever comes in.

Columns are those of the methods of `Cluster`, `Run` and `Flow` that return them,
units in their names. Names in one cell are joined by ", ", which no name contains.
What is not known is NaN or NA, never a zero.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mpreg_nb.view.columns import (
    CALLS,
    EVENTS,
    FUNCTIONS,
    NODES,
    PERCENTILES,
    PROCESSES,
    ROUTES,
    STEPS,
    TEXT,
    frame,
)
from mpreg_nb.wire.gossip import MemberRecord, MemberState, Offer
from mpreg_nb.wire.pictures import FunctionPicture, Snapshot
from mpreg_nb.wire.runs import StepState

if TYPE_CHECKING:
    import pandas as pd
    from hdrh.histogram import HdrHistogram

    from mpreg_nb.client.journal import CallRow
    from mpreg_nb.cluster.entry import LedgerRow

KEYS = ("function", "node")
"""What latencies can be grouped by."""


# ------------------------------------------------------------------- cluster


def served(snapshot: Snapshot) -> dict[str, tuple[Offer, tuple[str, ...]]]:
    """Return function -> newest registration, and the nodes that serve it.

    A node that should serve it and does not have the code yet counts: it pulls the
    code before the first call. So gossip that is on its way changes nothing here.
    """
    there = {record.name: record.resources for record in _present(snapshot)}
    offers: dict[str, list[tuple[str, Offer]]] = {}
    for owner, offer in snapshot.offers:
        if offer.version and not offer.removed:
            offers.setdefault(offer.function, []).append((owner, offer))
    found = {}
    for function in sorted(offers):
        newest = max((o for _, o in offers[function]), key=_rank)
        if newest.placed:
            nodes = {node for node in there if newest.resources <= there[node]}
        else:  # only those that have it, and of the nodes that have it only these
            nodes = {
                owner
                for owner, offer in offers[function]
                if owner in there and offer.version == newest.version
            }
        found[function] = (newest, tuple(sorted(nodes)))
    return found


def nodes_frame(snapshot: Snapshot) -> "pd.DataFrame":
    """Return one row a node, sorted by name; those that are gone too."""
    serving = [nodes for _, nodes in served(snapshot).values()]
    rows = []
    for picture in sorted(snapshot.nodes, key=lambda picture: picture.record.name):
        record, load = picture.record, picture.load
        rows.append(
            (
                record.name,
                record.state.name.lower(),
                _names(record.resources),
                sum(record.name in nodes for nodes in serving),
                record.workers,
                record.slots,
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
    snapshot: Snapshot, pictures: Iterable[FunctionPicture], pattern: str = "*"
) -> "pd.DataFrame":
    """Return one row a function whose name fits `pattern`, sorted by name.

    Each row is of the newest version, and so are its calls: all nodes' sums, and
    for the median a mean of theirs, weighted by calls.
    """
    counted: dict[tuple[str, str], list[FunctionPicture]] = {}
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


def events_frame(snapshot: Snapshot) -> "pd.DataFrame":
    """Return one row an event, oldest first."""
    rows = [
        (_time(event.at_s), event.node, event.event, event.detail)
        for event in sorted(snapshot.events, key=lambda event: event.at_s)
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
    from statistics import median

    calls: dict[tuple[str, str], list[CallRow]] = {}
    for row in rows:
        calls.setdefault((row.function, row.node), []).append(row)
    all_calls: dict[str, int] = {}
    for (function, _), taken in calls.items():
        all_calls[function] = all_calls.get(function, 0) + len(taken)
    return frame(
        ROUTES,
        [
            (
                function,
                node,
                len(taken),
                sum(call.status != "ok" for call in taken),
                len(taken) / all_calls[function],
                median(call.total_us for call in taken) / 1e3,
            )
            for (function, node), taken in sorted(calls.items())
        ],
    )


def calls_frame(rows: "Iterable[CallRow]") -> "pd.DataFrame":
    """Return one row a call, in the order in which they ended."""
    return frame(
        CALLS,
        [
            (
                row.call_id,
                row.function,
                row.node,
                row.via,
                row.status,
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
    if not keys or not set(keys) <= set(KEYS) or len(set(keys)) < len(keys):
        raise ValueError(
            "latency is by 'function', by 'node' or by both, ('function', 'node'), "
            f"not by {', '.join(map(repr, keys)) or 'nothing'}"
        )
    rows = []
    for key, histogram in sorted(merged(histograms, keys).items()):
        percentiles = histogram.get_percentile_to_value_dict([50, 95, 99, 100])
        measures_us = (_mean_us(histogram), *percentiles.values())
        count = histogram.get_total_count()
        rows.append((*key, count, *(us / 1e3 for us in measures_us)))
    return frame({**dict.fromkeys(keys, TEXT), **PERCENTILES}, rows)


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


# ----------------------------------------------------------------- workflows


def run_frame(
    steps: Iterable[StepState], functions: Mapping[str, str]
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
            )
            for step in steps
        ],
    )


# -------------------------------------------------------------------- pieces


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


def _weighted(pictures: Iterable[FunctionPicture]) -> float | None:
    known = [(p.p50_ms, p.calls) for p in pictures if p.p50_ms is not None and p.calls]
    if not known:
        return None
    return sum(ms * calls for ms, calls in known) / sum(calls for _, calls in known)
