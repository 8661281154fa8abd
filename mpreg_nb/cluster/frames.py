"""The frames and figures of a cluster.

What has to be asked is asked by a coroutine on the loop of the client. It returns what
makes the frame, to be called in the thread of the caller: pandas and matplotlib would
hold up the loop.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from mpreg_nb.client.client import Client
from mpreg_nb.client.statistics import CallRow
from mpreg_nb.cluster.planner import Callees, Planner
from mpreg_nb.cluster.run import ClusterRuns
from mpreg_nb.cluster.versions import compare
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.view import explain, frames
from mpreg_nb.workflows.graph import Workflow

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd

MakeFrame: TypeAlias = Callable[[], "pd.DataFrame"]
MakeFigure: TypeAlias = Callable[[], "matplotlib.figure.Figure"]


class ClusterFrames:
    """Makes the frames of one cluster; `Cluster` documents each."""

    def __init__(
        self, client: Client, planner: Planner, runs: ClusterRuns[Any]
    ) -> None:
        self._client = client
        self._planner = planner
        self._runs = runs

    # ------------------------------------------------------- of what nodes know

    async def nodes(self) -> MakeFrame:
        """Of the nodes."""
        return partial(frames.nodes_frame, await self._client.snapshot())

    async def functions(self, pattern: str) -> MakeFrame:
        """Of the functions whose name matches `pattern`."""
        snapshot = await self._client.snapshot()
        counted = [f for each in await self._snapshots() for f in each.functions]
        return partial(frames.functions_frame, snapshot, counted, pattern)

    async def events(self) -> MakeFrame:
        """Of the events that any node remembers."""
        snapshot = await self._client.snapshot()
        return partial(frames.events_frame, snapshot, await self._snapshots())

    async def runs(self) -> MakeFrame:
        """Of the runs of all clients."""
        return partial(frames.runs_frame, await self._runs.summaries())

    async def plan(self, workflow: Workflow, callees: Callees) -> MakeFrame:
        """Of the node where each step would run now."""
        await self._client.snapshot()
        return partial(explain.plan_frame, self._planner.rows(workflow, callees))

    async def versions(self) -> MakeFrame:
        """Of the versions of packages, here and on the nodes."""
        return partial(frames.versions_frame, *await compare(self._client))

    async def status(self) -> Callable[[], Any]:
        """Of nodes, functions and calls together: a card."""
        from mpreg_nb.view.html import StatusCard

        snapshot = await self._client.snapshot()
        carried = self._client.links.carried()
        return partial(StatusCard, snapshot, self._client.call_log.count, carried)

    async def plot_routes(self) -> MakeFigure:
        """A heat map of calls by function and node."""
        from mpreg_nb.view.figures import routes_figure

        nodes = [
            node.record.name
            for node in (await self._client.snapshot()).nodes
            if node.record.state.name == "ALIVE"
        ]
        return partial(routes_figure, self.call_rows, nodes)

    async def _snapshots(self) -> list[Snapshot]:
        """Return what each node that can be reached knows now."""
        nodes = [node.record.name for node in self._client.state.nodes]
        answers = await asyncio.gather(*map(self._client.snapshot_of, nodes))
        return [snapshot for snapshot in answers if snapshot is not None]

    # --------------------------------------------------- of the calls of this client

    @property
    def call_rows(self) -> tuple[CallRow, ...]:
        """The measurements of each of the last calls, oldest first."""
        return self._client.call_log.rows()

    def routes(self) -> "pd.DataFrame":
        """Of the functions and the nodes that ran them."""
        return frames.routes_frame(self.call_rows)

    def calls(self) -> "pd.DataFrame":
        """Of the last calls."""
        return frames.calls_frame(self.call_rows)

    def latency(self, by: str | tuple[str, ...]) -> "pd.DataFrame":
        """Of latency percentiles."""
        keys = (by,) if isinstance(by, str) else tuple(by)
        return frames.latency_frame(self._client.call_log.histograms(), keys)

    def plot_latency(self) -> "matplotlib.figure.Figure":
        """Latency percentiles by function, and the parts of a call."""
        from mpreg_nb.view.figures import latency_figure

        return latency_figure(self._client.call_log.histograms(), self.call_rows)
