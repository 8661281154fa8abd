"""What `GET /metrics` answers: figures of one node, in the text format of Prometheus.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from mpreg_nb.node.monitor import Histogram
from mpreg_nb.node.results import StoreStatistics
from mpreg_nb.node.worker_pool import PoolStatistics
from mpreg_nb.protocol.gossip import Load, MemberState
from mpreg_nb.protocol.messages import FunctionSnapshot


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All that `/metrics` shows, as of one moment."""

    load: Load
    pool: PoolStatistics
    store: StoreStatistics
    shared_memory_bytes: int
    pending_calls: int
    outcomes: Mapping[str, int]  # by kind
    refused_calls: Mapping[str, int]  # by reason
    refused_connections: int
    connections: Mapping[str, int]  # by role
    members: Iterable[MemberState]
    gossip_sent_bytes: int
    gossip_received_bytes: int
    latency: Histogram
    functions: Iterable[FunctionSnapshot]


def metrics_text(figures: NodeFigures) -> str:
    """Return the figures in the text format of Prometheus."""
    return "\n".join(_lines(figures)) + "\n"


def _lines(figures: NodeFigures) -> Iterator[str]:
    load, pool, store = figures.load, figures.pool, figures.store
    functions = tuple(figures.functions)
    states = Counter(figures.members)
    yield from _gauge(
        "pending_calls", "Calls in progress on this node.", figures.pending_calls
    )
    yield from _gauge("queued_calls", "Calls that wait for a slot.", load.queued)
    yield from _gauge("busy_slots", "Slots in which a call runs.", load.running)
    yield from _gauge("slots", "Calls that can run at the same time.", load.slots)
    yield from _gauge("workers", "Worker processes.", pool.workers)
    yield from _counter("worker_deaths", "Worker processes that died.", pool.deaths)
    yield from _gauge(
        "event_loop_lag_seconds",
        "By how much the event loop was late when it was last measured.",
        load.loop_lag_ms / 1e3,
    )
    yield from _gauge(
        "memory_bytes",
        "Resident memory of the node and its workers.",
        load.memory_mb * 1_000_000,
    )
    yield from _gauge(
        "shared_memory_bytes",
        "Memory of large values that this node shares with its workers and others.",
        figures.shared_memory_bytes,
    )
    yield from _gauge(
        "cpu_ratio", "Cores in use by the node and its workers.", load.cpu_percent / 100
    )
    yield from _gauge("result_bytes", "Results that are held here.", store.held_bytes)
    yield from _counter(
        "results_evicted",
        "Results that were dropped at the limit in bytes.",
        store.evicted,
    )
    yield from _family(
        "members",
        "gauge",
        "Members by state, this node included.",
        ((f'{{state="{s.name.lower()}"}}', states[s]) for s in MemberState),
    )
    yield from _family(
        "connections",
        "gauge",
        "Open connections by the role of the other end.",
        _labelled("role", figures.connections),
    )
    yield from _family(
        "gossip_bytes_total",
        "counter",
        "Bytes on the control connections between nodes.",
        (
            ('{direction="sent"}', figures.gossip_sent_bytes),
            ('{direction="received"}', figures.gossip_received_bytes),
        ),
    )
    yield from _counter(
        "connections_refused",
        "Connections that were refused before they proved the token.",
        figures.refused_connections,
    )
    yield from _family(
        "calls_refused_total",
        "counter",
        "Calls that this node did not accept, by reason.",
        _labelled("reason", figures.refused_calls),
    )
    yield from _family(
        "outcomes_total",
        "counter",
        "Outcomes of calls that this node accepted, run here or elsewhere.",
        _labelled("outcome", figures.outcomes),
    )
    yield from _family(
        "calls_total",
        "counter",
        "Calls that ran here, by function.",
        ((_function(each), each.calls) for each in functions),
    )
    yield from _family(
        "errors_total",
        "counter",
        "Calls that ran here and failed, by function.",
        ((_function(each), each.errors) for each in functions),
    )
    yield from _latency(figures.latency)


def _latency(latency: Histogram) -> Iterator[str]:
    buckets = [*latency.cumulative()]
    samples: list[tuple[str, float]] = [
        (f'_bucket{{le="{_number(bound)}"}}', count) for bound, count in buckets
    ]
    samples += [("_sum", latency.sum), ("_count", buckets[-1][1])]
    yield from _family(
        "call_duration_seconds",
        "histogram",
        "Time of calls that ran here, from their arrival to their end.",
        samples,
    )


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    return _family(name, "gauge", text, [("", value)])


def _counter(name: str, text: str, value: float) -> Iterator[str]:
    return _family(f"{name}_total", "counter", text, [("", value)])


def _family(
    name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]
) -> Iterator[str]:
    yield f"# HELP mpreg_{name} {text}"
    yield f"# TYPE mpreg_{name} {kind}"
    for suffix, value in samples:
        yield f"mpreg_{name}{suffix} {_number(value)}"


def _labelled(label: str, counts: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    for value, count in sorted(counts.items()):
        yield f'{{{label}="{_escaped(value)}"}}', count


def _function(one: FunctionSnapshot) -> str:
    function, version = _escaped(one.function), _escaped(one.version)
    return f'{{function="{function}",version="{version}"}}'


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
