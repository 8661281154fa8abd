"""The registry of open clusters of this process, the current one among them."""

import atexit
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from mpreg_nb.boundary import public
from mpreg_nb.call_context import connect_home, home
from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.errors import ForkedProcess, NoCluster

if TYPE_CHECKING:
    from mpreg_nb.client.calls import CallOptions
    from mpreg_nb.client.client import Client
    from mpreg_nb.client.loop_thread import ClientLoop
    from mpreg_nb.protocol.gossip import Offer


class Caller(Protocol):
    """Makes calls, as functions and views need it.

    That of an `AsyncCluster` returns what has to be awaited.
    """

    def call(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: "CallOptions",
    ) -> Any:
        """Run a function and return its result."""

    def submit(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: "CallOptions",
    ) -> Any:
        """Send a call and return its future or task."""

    def map(
        self,
        function: Any,
        iterables: tuple[Iterable[Any], ...],
        options: "CallOptions",
    ) -> Any:
        """Run a function for each item and return the results in order."""

    @property
    def functions(self) -> set[str]:
        """The names of all registered functions."""

    def offer(self, function: str) -> "Offer | None":
        """Return the newest registration of a name."""


class CallingCluster(Protocol):
    """A cluster, as functions and views need it."""

    @property
    def _calling(self) -> Caller:
        """The caller of the cluster."""


class ConnectedParts(Protocol):
    """What a connected cluster is made of, as other rooms need it."""

    @property
    def client(self) -> "Client":
        """The client of the cluster."""

    @property
    def loop(self) -> "ClientLoop":
        """The event loop of the client."""

    @property
    def calling(self) -> Any:
        """Makes the calls."""


class ConnectedCluster(Protocol):
    """A `Cluster` or an `AsyncCluster`."""

    @property
    def _connected(self) -> ConnectedParts:
        """The parts of the cluster."""


def parts_of(cluster: ConnectedCluster) -> ConnectedParts:
    """Return what a cluster is made of, for what none of its verbs does.

    Raises:
        NoCluster: an `AsyncCluster` is not connected.
        ForkedProcess: an `AsyncCluster` belongs to the parent of this process.
    """
    return cluster._connected


class OpenCluster(CallingCluster, Protocol):
    """A cluster that this process is connected to, as this registry needs it."""

    def _end_with_process(self) -> None:
        """Disconnect when this process ends."""


_connecting = threading.Lock()

_stack: list[OpenCluster] = []
"""The newest last; the only state of this package that belongs to the process."""

_of_parent: list[OpenCluster] = []
"""In a forked child: the clusters of the parent process."""


@public
def current() -> Any:
    """Return the cluster that this process started or connected to last.

    Inside a function that runs on a cluster, it is this cluster.

    Raises:
        NoCluster: there is none, or it was ended; the message says how to get one.
        ForkedProcess: the cluster belongs to the parent of this forked process.
    """
    if _stack:
        return _stack[-1]
    if home() is None:
        raise ForkedProcess if _of_parent else NoCluster
    with _connecting:
        if not _stack:
            # In a worker: functions call the cluster that they run in.
            connect_home()
    return _stack[-1]


class CurrentCluster:
    """Stands for a notebook's cluster in a function: the cluster that runs it.

    It connects at its first use, so that a function may name it at no cost.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by pickle, copy and their like
            raise AttributeError(name)
        return getattr(current(), name)

    def __reduce__(self) -> tuple[Any, ...]:
        return CurrentCluster, ()

    def __repr__(self) -> str:
        return "<the cluster that runs this>"


def enter(cluster: OpenCluster) -> None:
    """Make `cluster` the current one."""
    leave(cluster)
    _stack.append(cluster)


def leave(cluster: OpenCluster) -> None:
    """Forget `cluster`; the one before it is current again."""
    if cluster in _stack:
        _stack.remove(cluster)


def all_clusters() -> tuple[Any, ...]:
    """Return the open clusters, the current one last."""
    return tuple(_stack)


def _forked() -> None:
    """Leave the clusters of the parent alone: their threads do not exist here."""
    global _connecting
    _connecting = threading.Lock()
    CALLBACKS.forget()
    for cluster in _stack:
        atexit.unregister(cluster._end_with_process)
    _of_parent[:], _stack[:] = _stack, []


os.register_at_fork(after_in_child=_forked)
