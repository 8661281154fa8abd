"""What the starter of nodes and the program that starts them on a host say.

One line of JSON each: `Command` on the standard input of `mpreg-nb host`, `Report` on
its standard output.
"""

from typing import Literal, TypeAlias

import msgspec

from mpreg_nb.launcher.cluster_files import RecordedNode
from mpreg_nb.launcher.pid import ProcessId
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.tls import TlsMaterial


class HostMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of all lines; never sent by itself."""


class EnterCluster(HostMessage, frozen=True, kw_only=True, tag="open"):
    """Enter a cluster; the first command, unless the ledger alone is asked."""

    cluster: str
    cluster_id: str
    keep: bool
    notebook: str
    lease_s: float
    ca: str = ""  # of its nodes


class TakeUpCluster(HostMessage, frozen=True, kw_only=True, tag="attach"):
    """Take up a kept cluster, as `EnterCluster` does, by its name alone."""

    cluster: str
    lease_s: float


class ReservePort(HostMessage, frozen=True, kw_only=True, tag="reserve"):
    """Hold a free port for a node that `StartNode` names later.

    is_open: at the address that others reach this host at; else on loopback.
    """

    id: int
    is_open: bool = False


class ReleasePort(HostMessage, frozen=True, kw_only=True, tag="release"):
    """Let a port go that is of no use."""

    port: int


class StartNode(HostMessage, frozen=True, kw_only=True, tag="start"):
    """Start a node on a port that was reserved."""

    settings: NodeSettings
    port: int
    workers: int
    tls: TlsMaterial | None = None


class TerminateNode(HostMessage, frozen=True, kw_only=True, tag="terminate"):
    """Ask a node to drain and leave."""

    node: str
    drain_s: float


class KillNode(HostMessage, frozen=True, kw_only=True, tag="kill"):
    """End a node and its workers at once."""

    node: str


class PauseNode(HostMessage, frozen=True, kw_only=True, tag="pause"):
    """Stop a node for some seconds; 0 lets it go on."""

    id: int
    node: str
    seconds: float


class ExposeSocket(HostMessage, frozen=True, kw_only=True, tag="expose"):
    """Make room for the socket of a tunnel, and remove it at the end."""

    id: int
    socket: str


class ListNodes(HostMessage, frozen=True, kw_only=True, tag="list"):
    """List the nodes of this user on the host."""

    id: int


class EndCluster(HostMessage, frozen=True, kw_only=True, tag="end"):
    """End a cluster of this user on the host."""

    id: int
    cluster: str
    drain_s: float


class Heartbeat(HostMessage, frozen=True, kw_only=True, tag="beat"):
    """Say that the starter is there."""


Command: TypeAlias = (
    EnterCluster
    | TakeUpCluster
    | ReservePort
    | ReleasePort
    | StartNode
    | TerminateNode
    | KillNode
    | PauseNode
    | ExposeSocket
    | ListNodes
    | EndCluster
    | Heartbeat
)


class ClusterEntered(HostMessage, frozen=True, kw_only=True, tag="opened"):
    """The cluster was entered; `nodes` run since an earlier connection."""

    sockets: str
    """The folder of Unix sockets, where links of this user look first."""

    machine: str
    cluster: str
    cluster_id: str
    ca: str = ""
    nodes: tuple[RecordedNode, ...] = ()


class ClusterRefused(HostMessage, frozen=True, kw_only=True, tag="refused"):
    """The cluster was not entered."""

    reason: str


class PortReserved(HostMessage, frozen=True, kw_only=True, tag="reserved"):
    """A free port of this host."""

    id: int
    port: int
    address: str


class CommandDone(HostMessage, frozen=True, kw_only=True, tag="done"):
    """A command was carried out, or says why not."""

    id: int
    error: str = ""
    is_missing: bool = False  # the cluster that was asked for


class NodeReady(HostMessage, frozen=True, kw_only=True, tag="ready"):
    """A node serves."""

    node: str
    url: str
    process: ProcessId


class NodeFailed(HostMessage, frozen=True, kw_only=True, tag="failed"):
    """A node did not come up."""

    node: str
    reason: str
    log: tuple[str, ...] = ()


class NodeEnded(HostMessage, frozen=True, kw_only=True, tag="ended"):
    """A node has ended, and so have its workers."""

    node: str
    code: int


class NodeLogged(HostMessage, frozen=True, kw_only=True, tag="logged"):
    """Lines that a node wrote."""

    node: str
    lines: tuple[str, ...]


class HostRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node of `mp.ps`."""

    cluster: str
    node: str
    state: Literal["alive", "dead", "elsewhere"]
    resources: tuple[str, ...]
    pid: int
    notebook: str
    started_s: float  # since 1970
    by_hand: bool


class Listed(HostMessage, frozen=True, kw_only=True, tag="listed"):
    """The nodes of this user on the host."""

    id: int
    rows: tuple[HostRow, ...]


class ClusterEnded(HostMessage, frozen=True, kw_only=True, tag="cluster_ended"):
    """The names of the nodes that ended."""

    id: int
    nodes: tuple[str, ...]


Report: TypeAlias = (
    ClusterEntered
    | ClusterRefused
    | PortReserved
    | CommandDone
    | NodeReady
    | NodeFailed
    | NodeEnded
    | NodeLogged
    | Listed
    | ClusterEnded
)
