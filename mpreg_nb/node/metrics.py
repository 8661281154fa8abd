"""What this node counts, in the text format of Prometheus."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpreg_nb.node.node import Node


def metrics_text(node: "Node") -> str:
    """Return the body of GET /metrics."""
    load = node.vitals.measure()
    workers = node.workers.statistics()
    store = node.store.statistics()
    lines = [
        *_gauge(
            "mpreg_calls_pending", "Calls in progress on this node", len(node.calls)
        ),
        *_gauge("mpreg_jobs_running", "Calls that run in a slot", load.running),
        *_gauge("mpreg_jobs_queued", "Calls that wait for a slot", load.queued),
        *_gauge("mpreg_slots", "Calls that can run at once", load.slots),
        *_gauge("mpreg_loop_lag_ms", "Lag of the event loop", load.loop_lag_ms),
        *_gauge(
            "mpreg_memory_mb",
            "Resident memory of the node and its workers",
            load.memory_mb,
        ),
        *_gauge("mpreg_store_bytes", "Results of steps held here", store.held_bytes),
        *_gauge("mpreg_members_alive", "Live nodes", len(node.gossiping.swim.alive)),
        "# HELP mpreg_worker_deaths_total Worker processes that died",
        "# TYPE mpreg_worker_deaths_total counter",
        f"mpreg_worker_deaths_total {workers.deaths}",
        "# HELP mpreg_calls_total Calls that ended on this node",
        "# TYPE mpreg_calls_total counter",
    ]
    pictures = node.counters.pictures()
    for kind in ("calls", "errors"):
        if kind == "errors":
            lines += [
                "# HELP mpreg_errors_total Calls that ended with an error on this node",
                "# TYPE mpreg_errors_total counter",
            ]
        for one in pictures:
            labels = f'function="{_escaped(one.function)}",version="{one.version}"'
            count = one.calls if kind == "calls" else one.errors
            lines.append(f"mpreg_{kind}_total{{{labels}}} {count}")
    return "\n".join(lines) + "\n"


def _gauge(name: str, text: str, value: float) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value:g}"]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
