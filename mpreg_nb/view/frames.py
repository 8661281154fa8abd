"""Plain data to pandas frames: the same columns and dtypes whatever comes in.

Columns are those of the methods of `Cluster`, `Run` and `Flow` that return them,
units in their names. Names in one cell are joined by ", ", which no name contains.
What is not known is NaN or NA, never a zero.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple
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
from mpreg_nb.view.measured import latencies, routes
from mpreg_nb.wire.gossip import MemberRecord, MemberState, Offer
from mpreg_nb.wire.pictures import FunctionPicture, Snapshot
from mpreg_nb.wire.runs import StepState

if TYPE_CHECKING:
    import pandas as pd
    from hdrh.histogram import HdrHistogram

    from mpreg_nb.client.journal import CallRow
    from mpreg_nb.cluster.entry import LedgerRow

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
    found = {}
    for function in sorted(offers):
        newest = max((o for _, o in offers[function]), key=_rank)
        if newest.placed:
            nodes = {node for node in there if newest.resources <= there[node]}
            if newest.needs_worker:
                nodes -= workerless
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


def _weighted(pictures: Iterable[FunctionPicture]) -> float | None:
    known = [(p.p50_ms, p.calls) for p in pictures if p.p50_ms is not None and p.calls]
    if not known:
        return None
    return sum(ms * calls for ms, calls in known) / sum(calls for _, calls in known)
