"""The cluster that this process started or connected to last."""

import atexit
import os
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from mpreg_nb.boundary import public
from mpreg_nb.call_context import home
from mpreg_nb.client.callbacks import CALLBACKS
from mpreg_nb.errors import ForkedProcess, NoCluster
from mpreg_nb.transport.token import Token

if TYPE_CHECKING:
    from mpreg_nb.client.calls import CallOptions
    from mpreg_nb.client.client import Client
    from mpreg_nb.client.future import Future
    from mpreg_nb.protocol.messages import Snapshot


class Caller(Protocol):
    """Makes calls, as functions, executors and joblib need it."""

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that makes the calls."""

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
    ) -> "Future[Any]":
        """Send a call and return its future."""

    def map(
        self,
        function: Any,
        iterables: tuple[Iterable[Any], ...],
        options: "CallOptions",
    ) -> list[Any]:
        """Run a function for each item and return the results in order."""

    def withdraw(self, futures: "Iterable[Future[Any]]") -> None:
        """End those calls that no node runs yet."""

    def wait_for_callbacks(self, owner: object) -> None:
        """Wait for the callbacks of ended futures of `owner`."""


class OpenCluster(Protocol):
    """A cluster that this process is connected to, as this registry needs it."""

    @property
    def calling(self) -> Caller:
        """What makes its calls."""

    @property
    def client(self) -> "Client":
        """Its client."""

    def refresh(self) -> "Snapshot":
        """Ask the cluster for its current state."""

    def end_with_process(self) -> None:
        """Disconnect when this process ends."""


_connecting = threading.Lock()

_stack: list[OpenCluster] = []
"""The newest last; the only state of this package that belongs to the process."""

_of_parent: list[OpenCluster] = []
"""In a forked child: what the process that it was forked from had."""


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
    node = home()
    if node is None:
        raise ForkedProcess if _of_parent else NoCluster
    with _connecting:
        if not _stack:
            # In a worker: functions call the cluster that they run in.
            connect(node.url, Token(node.token, source="the node of this worker"))
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


def connect(url: str, token: Token) -> None:
    """Connect to the cluster at `url`, which becomes the current one.

    By name: a worker loads the class only for functions that call the cluster.
    """
    made: Callable[..., object] = import_module("mpreg_nb.cluster.cluster").Cluster
    made([url], token)


def enter(cluster: OpenCluster) -> None:
    """Make `cluster` the current one."""
    leave(cluster)
    _stack.append(cluster)


def leave(cluster: OpenCluster) -> None:
    """Forget `cluster`; the one before it is current again."""
    if cluster in _stack:
        _stack.remove(cluster)


def all_clusters() -> tuple[Any, ...]:
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
