"""What a cluster shows: frames of pandas, figures of matplotlib, a card."""

import asyncio
from typing import TYPE_CHECKING, Any

from mpreg_nb.client.client import Client
from mpreg_nb.client.journal import CallRow
from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.wire.boundary import public
from mpreg_nb.wire.pictures import FunctionPicture, Snapshot

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd


@public
class Shown:
    """The frames of a cluster. Each is a picture of the moment it is asked for."""

    client: Client
    _thread: LoopThread
    _down: bool

    def refresh(self) -> Snapshot:
        """Ask the connected node for the current state of the cluster."""
        return self._thread.run(self.client.snapshot())

    def nodes(self) -> "pd.DataFrame":
        """Return one row per node, sorted by name.

        Columns: node, state, resources, functions, workers, slots, busy, queued,
        rtt_ms, cpu_percent, memory_mb, host, python, uptime_s.
        """
        from mpreg_nb.view.frames import nodes_frame

        return nodes_frame(self.refresh())

    def functions(self, pattern: str = "*") -> "pd.DataFrame":
        """Return one row per function whose name matches `pattern`, such as "train*".

        Columns: function, version, resources, nodes, calls, errors, p50_ms,
        signature. Calls and errors count those of all clients since each node started.
        """
        from mpreg_nb.view.frames import functions_frame

        snapshot = self.refresh()
        return functions_frame(snapshot, self._counted(), pattern)

    def routes(self) -> "pd.DataFrame":
        """Return one row per function and node that this client called.

        Columns: function, node, calls, errors, share (of the function's calls), p50_ms.
        """
        from mpreg_nb.view.frames import routes_frame

        return routes_frame(self.call_rows())

    def calls(self) -> "pd.DataFrame":
        """Return the last 10,000 calls of this client, newest last.

        Includes the steps of its runs.
        Columns: call_id, function, run, step, node, via, status (done, failed,
        cancelled, lost), waited_ms (for a node that fits), queued_ms, run_ms,
        network_ms, serialize_ms, total_ms, sent_bytes, received_bytes, started_at.
        """
        from mpreg_nb.view.frames import calls_frame

        return calls_frame(self.call_rows())

    def latency(self, by: "str | tuple[str, ...]" = "function") -> "pd.DataFrame":
        """Return latency percentiles of the calls of this client.

        by: "function", "node", or both as a tuple.
        Columns: those of `by`, count, mean_ms, p50_ms, p95_ms, p99_ms, max_ms; from HDR
        histograms with three digits, over all calls since the client connected.
        """
        from mpreg_nb.view.frames import latency_frame

        keys = (by,) if isinstance(by, str) else tuple(by)
        return latency_frame(self.client.journal.histograms(), keys)

    def events(self) -> "pd.DataFrame":
        """Return the events of the cluster, oldest first.

        Nodes that come, fail or leave are shown as the connected node saw them, all
        else as the nodes noted it that still run.

        Columns: time, node (to which it happened), event, detail.
        """
        from mpreg_nb.view.frames import events_frame

        return events_frame(self.refresh(), self._snapshots())

    def plot_latency(self) -> "matplotlib.figure.Figure":
        """Return a figure: latency percentiles by function, and the parts of a call."""
        from mpreg_nb.view.plots import latency_figure

        return latency_figure(self.client.journal.histograms(), self.call_rows())

    def plot_routes(self) -> "matplotlib.figure.Figure":
        """Return a heat map of calls by function and node.

        It shows the calls that `routes()` counts, with a column for each live node.
        """
        from mpreg_nb.view.heat import routes_figure

        nodes = [
            picture.record.name
            for picture in self.refresh().nodes
            if picture.record.state.name == "ALIVE"
        ]
        return routes_figure(self.call_rows(), nodes)

    def status(self) -> Any:
        """Return the card that `%mpreg` shows: nodes, functions, calls."""
        from mpreg_nb.view.html import StatusCard

        return StatusCard(self.refresh(), self.client.journal.count)

    def call_rows(self) -> tuple[CallRow, ...]:
        """Return the measurements of each of the last calls, oldest first."""
        return self.client.journal.rows()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import chosen

        if self._down:
            return chosen({"text/plain": repr(self)}, include, exclude)
        return self.status()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        if self._down:
            return "<Cluster, down>"
        nodes = self.client.mirror.nodes
        alive = sum(node.record.state.name == "ALIVE" for node in nodes)
        return f"<Cluster {alive} of {len(nodes)} nodes alive>"

    def _counted(self) -> tuple[FunctionPicture, ...]:
        """Return what all nodes that can be reached counted of their functions."""
        return tuple(
            picture for snapshot in self._snapshots() for picture in snapshot.functions
        )

    def _snapshots(self) -> tuple[Snapshot, ...]:
        """Return what each node that can be reached knows now."""

        async def gather() -> list[Snapshot | None]:
            nodes = [picture.record.name for picture in self.client.mirror.nodes]
            asked = (self.client.snapshot_of(node) for node in nodes)
            return await asyncio.gather(*asked)

        answers = self._thread.run(gather())
        return tuple(snapshot for snapshot in answers if snapshot is not None)
