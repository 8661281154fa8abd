"""How a cluster is watched. What shows it is imported when the first view is made."""

import weakref
from functools import cached_property
from typing import TYPE_CHECKING

from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.errors import ClusterDown
from mpreg_nb.wire.boundary import public

if TYPE_CHECKING:
    from mpreg_nb.cluster.live import LiveView
    from mpreg_nb.cluster.pictures import Pictures


@public
class Watching:
    """The live views of a cluster."""

    _thread: LoopThread
    _down: bool

    @cached_property
    def live_pictures(self) -> "Pictures":
        """What all its views show, made once for all."""
        from mpreg_nb.cluster.pictures import Pictures

        return Pictures(self, self._thread)  # type: ignore[arg-type]

    @cached_property
    def _views(self) -> "weakref.WeakSet[LiveView]":
        return weakref.WeakSet()

    def watch(self, *views: str) -> "LiveView":
        """Return a live panel: members, topology, routes, latency, calls and runs.

        views: show only these. "calls" is the task stream: what each slot of each node
        ran in the last minute, coloured by function. In a notebook the panel updates
        while cells run, until it is closed or the cluster goes down. Elsewhere it shows
        the state at the moment it is printed.

        Raises:
            ValueError: there is no view of such a name.
            NoCluster: this cluster is down.
        """
        from mpreg_nb.cluster.live import LiveView
        from mpreg_nb.view.live.panel import chosen_views

        if self._down:
            raise ClusterDown
        view = LiveView(self, chosen_views(views))  # type: ignore[arg-type]
        self._views.add(view)
        return view

    @property
    def live_views(self) -> "tuple[LiveView, ...]":
        """The views of this cluster that are still in use."""
        return tuple(self._views)

    def end_views(self) -> None:
        """End all views of this cluster; they keep showing the last state."""
        for view in self.live_views:
            view.close()
