"""What the ledger says of one cluster, and whether that still holds."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from mpreg_nb.cluster.identity import Stamp, is_alive
from mpreg_nb.cluster.places import file_stem
from mpreg_nb.cluster.private import read_private


class RecordedNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node process of a cluster."""

    name: str
    resources: tuple[str, ...]
    url: str
    process: Stamp


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster; replace it as a whole with `Ledger.record`."""

    cluster: str
    cluster_id: str
    host: str  # whose process ids these are: homes are shared between machines
    owner: Stamp  # the process that started it
    keep: bool
    notebook: str  # path, or "" if it was no notebook
    started_at: Annotated[float, msgspec.Meta(ge=0, le=2.5e11)]  # seconds since 1970
    workers: int = 1
    slots: int = 1
    by_hand: bool = False  # one node, started with `mpreg-nb node`
    nodes: tuple[RecordedNode, ...] = ()


class LedgerRow(NamedTuple):
    """One node, as `mp.ps()` shows it."""

    cluster: str
    node: str
    state: Literal["alive", "dead", "elsewhere"]  # elsewhere: on another machine
    resources: tuple[str, ...]
    pid: int
    notebook: str
    started_at: datetime
    by_hand: bool


def is_here(entry: Entry) -> bool:
    """Return whether the processes of `entry` are on this machine."""
    return entry.host == platform.node()


def owned(entry: Entry) -> bool:
    """Return whether the process that started the cluster still runs; if it is here."""
    return is_alive(entry.owner)


def stale(entry: Entry) -> bool:
    """Return whether `entry` has outlived its cluster.

    Then no node runs any more, nor the process that would start them again. Of
    another machine's clusters that cannot be known.
    """
    processes = (entry.owner, *(node.process for node in entry.nodes))
    return is_here(entry) and not any(is_alive(process) for process in processes)


def rows_of(entry: Entry) -> tuple[LedgerRow, ...]:
    """Return every node of a cluster, in the order of its start."""
    return tuple(
        LedgerRow(
            cluster=entry.cluster,
            node=node.name,
            state=_state(entry, node),
            resources=node.resources,
            pid=node.process.pid,
            notebook=entry.notebook,
            started_at=datetime.fromtimestamp(entry.started_at, UTC),
            by_hand=entry.by_hand,
        )
        for node in entry.nodes
    )


def read_entry(path: Path) -> Entry:
    """Return what is in a ledger file.

    Raises OSError when it must not be used, ValueError when it makes no sense.
    """
    content = read_private(path)
    try:
        entry = msgspec.json.decode(content, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged and was ignored ({error}). The next start deletes it"
        ) from None
    if file_stem(entry.cluster) != path.stem:
        raise ValueError(f"{path} belongs to another cluster and was ignored")
    return entry


def _state(entry: Entry, node: RecordedNode) -> Literal["alive", "dead", "elsewhere"]:
    if not is_here(entry):
        return "elsewhere"
    return "alive" if is_alive(node.process) else "dead"
