"""The seam between a cluster and what starts its nodes, here or on another machine.

`ProcessLauncher` starts processes of this machine. What a launcher must do is tested
by `tests/support/launcher_contract.py`.
"""

import concurrent.futures
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from mpreg_nb.errors import StartFailed
from mpreg_nb.launcher.pid import KILLED_S
from mpreg_nb.settings import NodeSettings

LOG_LINES = 20
"""Last lines of the log that an error carries."""


class ReadyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a node reports once it serves."""

    name: str
    url: str
    pid: int
    cluster_id: str


class LaunchedNode(Protocol):
    """One node, from its start to its end; its methods may be called in any thread."""

    @property
    def name(self) -> str:
        """The name of the node."""

    @property
    def url(self) -> str:
        """Where it will listen: known before it is ready, for others to join."""

    @property
    def ready(self) -> "Future[ReadyLine]":
        """Becomes its ready line, or StartFailed if it ended before that."""

    @property
    def ended(self) -> "Future[int]":
        """Becomes its exit code, minus the number of the signal that ended it.

        By then its workers have ended too.
        """

    def log(self, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that it wrote, also after its end."""

    def terminate(self, drain: float = 10.0) -> None:
        """Ask it to drain and leave; after `drain` seconds it is ended by force."""

    def kill(self) -> None:
        """End it and its workers at once, without waiting for the end."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code once it has ended, or None after `timeout`."""


NodeT_co = TypeVar("NodeT_co", bound=LaunchedNode, covariant=True)


class Launcher(Protocol[NodeT_co]):
    """Starts nodes somewhere."""

    def start(
        self, settings: NodeSettings, *, log: Path, keep: bool, workers: int
    ) -> NodeT_co:
        """Start a node and return at once; `ready` tells whether it came up.

        log: the file on this machine that its log goes to, or is copied to.
        keep: without it, the node holds a lease on this process: it ends within 5 s
            of the end of this process, however that ends.
        workers: of all nodes that share the machine of this one.

        Raises:
            StartFailed: no process could be started.
        """


def wait_all_ready(
    nodes: Sequence[LaunchedNode], timeout: float = 20.0
) -> tuple[ReadyLine, ...]:
    """Return the ready lines of `nodes`, in their order.

    When one ends instead, or `timeout` seconds pass, or the wait is interrupted,
    all of them are killed and waited for.

    Raises StartFailed, with the last lines of the log of the node at fault.
    """
    waited = [node.ready for node in nodes]
    try:
        concurrent.futures.wait(
            waited, timeout, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        # A failure before a silence: the silent one may wait for the failed one.
        for future in waited:
            if future.done():
                future.result()
        for node in nodes:
            if not node.ready.done():
                reason = f"it was not ready within {timeout:g} s"
                raise StartFailed(node.name, reason, node.log(LOG_LINES))
        return tuple(future.result() for future in waited)
    except BaseException:
        end_now(nodes)
        raise


def end_now(nodes: Sequence[LaunchedNode]) -> None:
    """Kill all of `nodes` with their workers, and wait until they are gone."""
    for node in nodes:
        node.kill()
    for node in nodes:
        node.wait(KILLED_S)
