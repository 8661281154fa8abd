"""A fake cluster for live views: no node, no socket, values from the test."""

import queue
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.client.statistics import CallLog
from mpreg_nb.cluster.live import LiveView, LiveViews, ViewUpdates
from mpreg_nb.errors import MpregError
from mpreg_nb.protocol.gossip import MemberState
from mpreg_nb.protocol.messages import Snapshot
from mpreg_nb.view.live.panel import Picture
from tests.support.builders import node, snapshot

WAIT_S = 60.0


class Loop:
    """A loop that runs nothing: no node is asked for its traffic."""

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Forget it."""

    def run(self, work: Any, timeout_s: float | None = None) -> None:
        """Forget it."""
        work.close()


class Watched:
    """What live views read of a cluster."""

    def __init__(self, *names: str) -> None:
        self.client: Any = SimpleNamespace(
            state=ClusterState(),
            call_log=CallLog(),
            links=SimpleNamespace(lost=False, entry=None, name="client-1-1"),
            requests=None,
            now=lambda: 0.0,
            calls=SimpleNamespace(active=()),
            runs=SimpleNamespace(open=()),
        )
        self.names = names
        self.own_nodes = names
        self.own_runs: tuple[Any, ...] = ()
        self.started_here = True
        self.killed: list[str] = []
        self.refreshed = 0
        self.views = LiveViews(self, Loop())
        self.tell()

    def watch(self, *names: str) -> LiveView:
        """Return a view of these names."""
        return self.views.watch(names)

    @property
    def live_views(self) -> tuple[ViewUpdates, ...]:
        """The views that are still in use."""
        return self.views.held

    def end_views(self) -> None:
        """End all views, as when the cluster goes down."""
        self.views.end()

    def tell(self, *dead: str) -> None:
        """Publish the members again, these of them as dead."""
        alive, gone = MemberState.ALIVE, MemberState.DEAD
        nodes = (node(n, state=gone if n in dead else alive) for n in self.names)
        self.client.state.update(snapshot(*nodes))

    def refresh(self) -> Snapshot:
        """Count the refreshes."""
        self.refreshed += 1
        found: Snapshot = self.client.state.snapshot
        return found

    def kill(self, name: str) -> None:
        """Record it."""
        if name not in self.names:
            raise MpregError(f"there is no node {name!r}")
        self.killed.append(name)


class Drawn:
    """A front end: what it was given, to be waited for."""

    def __init__(self) -> None:
        self.given: queue.SimpleQueue[dict[str, Picture]] = queue.SimpleQueue()
        self.times = 0
        self.last: dict[str, Picture] = {}
        self.ended: queue.SimpleQueue[dict[str, Picture]] = queue.SimpleQueue()

    def take(self, pictures: Mapping[str, Picture]) -> None:
        """Record the new pictures."""
        self.times += 1
        if any(self.last.get(name) is not value for name, value in pictures.items()):
            self.last = dict(pictures)
            self.given.put(self.last)

    def end(self, pictures: Mapping[str, Picture]) -> None:
        """Record the last pictures."""
        self.ended.put(dict(pictures))

    def wait(self, fits: Callable[[dict[str, Picture]], bool]) -> dict[str, Picture]:
        """Return the first pictures that fulfil a condition."""
        while not fits(pictures := self.given.get(timeout=WAIT_S)):
            continue
        return pictures
