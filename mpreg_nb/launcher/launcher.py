"""The seam between a cluster and what starts its nodes, here or on other machines.

`ProcessLauncher` starts processes of this machine, `SshLauncher` those of hosts that
ssh reaches, `SlurmLauncher` jobs of a batch queue; `launchers` finds those of other
packages. What a launcher must do is tested by `tests/support/launcher_contract.py`.
"""

import concurrent.futures
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from mpreg_nb.errors import HostFailure, StartFailed
from mpreg_nb.launcher.node_spec import NodeSpec, read_spec
from mpreg_nb.launcher.pid import KILLED_S, ProcessId
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.tls import TlsMaterial
from mpreg_nb.transport.token import Token

LOG_LINES = 20
"""Last lines of the log that an error carries."""


class ReadyLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a node reports once it serves."""

    name: str
    url: str
    pid: int
    cluster_id: str


class LogReader(Protocol):
    """Reads what one node wrote, from the end or line by line."""

    def last(self, lines: int) -> tuple[str, ...]:
        """Return the last lines that are there; `more` goes on after them."""

    def more(self) -> tuple[str, ...]:
        """Return the lines that were finished since it was read last."""


class LaunchedNode(Protocol):
    """One node, from its start to its end; its methods may be called in any thread."""

    @property
    def name(self) -> str:
        """The name of the node."""

    @property
    def url(self) -> str:
        """Where it will listen: known before it is ready, for others to join."""

    @property
    def stamp(self) -> ProcessId:
        """Its process, on its own machine; known once it is ready."""

    @property
    def ready(self) -> "Future[ReadyLine]":
        """Becomes its ready line, or StartFailed if it ended before that."""

    @property
    def ended(self) -> "Future[int]":
        """Becomes its exit code, minus the number of the signal that ended it.

        By then its workers have ended too.
        """

    @property
    def is_running(self) -> bool:
        """Whether its process is there, as far as can be known at once."""

    def log(self, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that it wrote, also after its end."""

    def log_reader(self) -> LogReader:
        """Return what reads its lines, from the first on."""

    def terminate(self, drain: float = 10.0) -> None:
        """Ask it to drain and leave; after `drain` seconds it is ended by force."""

    def kill(self) -> None:
        """End it and its workers at once, without waiting for the end."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code once it has ended, or None after `timeout`."""

    def pause(self, seconds: float) -> None:
        """Stop it and its workers for `seconds`; again: for so long from now.

        Returns when they stand still; they go on by themselves, also when this
        process ends.

        Raises:
            MpregError: it has ended, or its machine cannot stop processes.
        """

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""

    def resume(self) -> None:
        """End a pause; nothing happens where it runs."""


NodeT_co = TypeVar("NodeT_co", bound=LaunchedNode, covariant=True)


class RemoteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an interpreter is chosen on other machines."""

    python: str = ""
    """The interpreter; "" looks for one that fits."""

    install: bool = False
    """Whether an environment is made there."""

    packages: Sequence[str] | str = ()
    """What that environment has besides mpreg_nb; "kernel": what this process uses."""


IssueCertificate: TypeAlias = Callable[[str, Iterable[str]], TlsMaterial]
"""Makes key and certificate for a node, by its name and the hosts it is dialled at."""

AS_FOUND = RemoteOptions()
"""One that fits, of those that are there."""


class LaunchContext(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that a launcher starts nodes for, and what its user asked for."""

    token: Token
    cluster: str
    """Its name, by which `ps`, `adopt` and `down` know it."""

    cluster_id: str
    keep: bool = False
    """Its nodes outlive this process. Else each holds a lease on it: it ends within 5 s
    of the end of this process, however that ends."""

    notebook: str = ""
    """Path of the notebook that starts it, where it is one."""

    lease_s: float = 30.0
    """Silence after which nodes on other machines end, unless they are kept."""

    issue: IssueCertificate | None = None
    """Makes certificates for nodes, which then listen with TLS at an address that the
    others reach; None: they listen on loopback, and tunnels lead there."""

    ca: str = ""
    """What these certificates are checked with: PEM."""


class Launcher(Protocol[NodeT_co]):
    """Starts nodes somewhere.

    `launchers` calls its class with a LaunchContext. Only `start` must be written.
    """

    is_queue: bool = False
    """Whether its nodes wait for their turn, perhaps for hours. Then each fails alone,
    and one that is not ready in time joins later; its URL is known when it is ready."""

    @staticmethod
    def read(wanted: Any) -> tuple[NodeSpec, ...]:
        """Return the nodes that `wanted`, the argument of a user, asks for.

        Raises:
            TypeError, ValueError: it makes no sense; the message says what would.
        """
        return read_spec(wanted)

    def prepare(
        self, hosts: Collection[str], options: RemoteOptions
    ) -> "Future[Mapping[str, HostFailure]]":
        """Make `hosts` ready, at the same time; becomes what failed, by host."""
        nothing: Future[Mapping[str, HostFailure]] = Future()
        nothing.set_result({})
        return nothing

    @property
    def stages(self) -> Mapping[str, str]:
        """What happens on each host that is being prepared, in a few words."""
        return {}

    @property
    def address_here(self) -> str:
        """The address of this machine as its hosts see it; "" where none is known."""
        return ""

    def start(
        self,
        settings: NodeSettings,
        *,
        host: str,
        log: Path,
        workers: int,
    ) -> NodeT_co:
        """Start a node and return at once; `ready` tells whether it came up.

        host: one of those that were prepared; "" where there is only one place.
        log: the file on this machine that its log goes to, or is copied to.
        workers: of all nodes that share the machine of this one.

        Raises:
            StartFailed: no process could be started.
        """

    def expose(self, urls: Collection[str]) -> Mapping[str, HostFailure]:
        """Let nodes that this has started reach `urls`, those of all other nodes.

        Returns what failed, by host.
        """
        return {}

    def close(self) -> None:
        """Let go of what it holds; its nodes have ended, or are kept."""
        return


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
                reason = f"it was not ready within {timeout:.3g} s"
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
