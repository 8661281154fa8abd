"""The cluster that this process started or connected to last."""

from typing import TYPE_CHECKING

from mpreg_nb.errors import NoCluster

if TYPE_CHECKING:
    from mpreg_nb.cluster.cluster import Cluster

_stack: list["Cluster"] = []
"""The newest last; the only state of this package that belongs to the process."""


def current() -> "Cluster":
    """Return the cluster that this process started or connected to last.

    Raises:
        NoCluster: there is none (any more); says how to get one.
    """
    if not _stack:
        raise NoCluster
    return _stack[-1]


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
