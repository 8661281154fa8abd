"""The cluster that this process started or connected to last."""

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from mpreg_nb.boundary import public
from mpreg_nb.call_context import home
from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.errors import ForkedProcess, NoCluster
from mpreg_nb.transport.token import Token

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster


_connecting = threading.Lock()

_stack: list["Cluster"] = []
"""The newest last; the only state of this package that belongs to the process."""

_of_parent: list["Cluster"] = []
"""In a forked child: what the process that it was forked from had."""


@public
def current() -> "Cluster":
    """Return the cluster that this process started or connected to last.

    Inside a function that runs on a cluster, it is this cluster.

    Raises:
        NoCluster: there is none, or it was ended; the message says how to get one.
        ForkedProcess: the cluster belongs to the parent of this forked process.
    """
    if _stack:
        return _stack[-1]
    node = home()
    if node is None:
        raise ForkedProcess if _of_parent else NoCluster
    with _connecting:
        if not _stack:
            # In a worker: functions call the cluster that they run in.
            from mpreg_nb.cluster.cluster import Cluster

            Cluster([node.url], Token(node.token, source="the node of this worker"))
    return _stack[-1]


class CurrentCluster:
    """The cluster that code runs in: what a notebook's cluster is in a function.

    It connects when it is first used: naming a cluster costs nothing.
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


def enter(cluster: "Cluster") -> None:
    """Make `cluster` the current one."""
    leave(cluster)
    _stack.append(cluster)


def leave(cluster: "Cluster") -> None:
    """Forget `cluster`; the one before it is current again."""
    if cluster in _stack:
        _stack.remove(cluster)


def all_clusters() -> tuple["Cluster", ...]:
    """Return all that are open, the current one last."""
    return tuple(_stack)


def _forked() -> None:
    """Leave the clusters of the parent alone: their threads do not exist here."""
    global _connecting
    _connecting = threading.Lock()
    CALLBACKS.forget()
    for cluster in _stack:
        atexit.unregister(cluster.end_with_process)
    _of_parent[:], _stack[:] = _stack, []


os.register_at_fork(after_in_child=_forked)
