"""Files of this user's clusters: who started what, kept private to the user.

A cluster is recorded before its first node starts and removed after its last has
ended. Whatever happens in between, `mp.ps()` lists its nodes and `mp.down()` ends them.

A node that was started by hand (`mpreg-nb node`) is a record of its own, with its own
process as the owner. So `ps` lists it, `down NAME` ends it, and what a killed one
leaves is deleted like that of others.

The id of a cluster outlives its processes: what a node that is started by hand belongs
to is remembered in the user's folder for state, by its name and port. Nodes that are
all started again, after the reboot of a host too, are the same cluster then.
"""

import hashlib
import logging
import os
import platform
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from mpreg_nb.cures import cure
from mpreg_nb.errors import NoCluster
from mpreg_nb.launcher.pid import ProcessId, end_all, is_alive, stamp
from mpreg_nb.names import check_name, nearest
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport import local_socket
from mpreg_nb.user_files import (
    check_private_folder,
    locked,
    private_folder,
    read_private,
    runtime_folders,
    state_folder,
    write_private,
)

LONGEST_STEM = 100
"""Bytes; most systems end file names at 255, and suffixes come on top."""


CA_FILE = "ca.pem"
"""In the folder of a cluster: what certificates of its nodes are checked with."""


def file_stem(name: str) -> str:
    """Return a file name for `name`, whatever is in it; no two share one.

    >>> file_stem("calm-otter"), file_stem(".."), file_stem("ß")
    ('calm-otter', '%2E%2E', '%C3%9F')
    """
    # Without dots it is no hidden file, no way up, and its suffix is ours.
    stem = quote(name, safe=" ").replace(".", "%2E")
    if len(stem) <= LONGEST_STEM:
        return stem
    return hashlib.sha256(name.encode()).hexdigest()


class RecordedNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node process of a cluster."""

    name: str
    resources: tuple[str, ...]
    url: str
    process: ProcessId
    host: str = ""  # of another machine, as its launcher knows it
    launcher: str = ""  # what started it there; "": a process of this machine


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster; replace it as a whole with `ClusterFiles.record`."""

    cluster: str
    cluster_id: str
    host: str  # whose process ids these are: homes are shared between machines
    owner: ProcessId  # the process that started it
    keep: bool
    notebook: str  # path, or "" if it was no notebook
    started_at: Annotated[float, msgspec.Meta(ge=0, le=2.5e11)]  # seconds since 1970
    workers: int = 1
    slots: int = 1
    by_hand: bool = False  # one node, started with `mpreg-nb node`
    ca: str = ""  # what certificates of its nodes are checked with: PEM
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


def is_here(entry: ClusterRecord) -> bool:
    """Return whether the processes of `entry` are on this machine."""
    return entry.host == platform.node()


def owned(entry: ClusterRecord) -> bool:
    """Return whether the process that started the cluster still runs; if it is here."""
    return is_alive(entry.owner)


def stale(entry: ClusterRecord) -> bool:
    """Return whether `entry` has outlived its cluster.

    Then no node runs any more, nor the process that would start them again. Of
    another machine's clusters, and kept nodes there, that cannot be known.
    """
    here = [node.process for node in entry.nodes if not node.launcher]
    if not is_here(entry) or (entry.keep and len(here) < len(entry.nodes)):
        return False
    return not any(is_alive(process) for process in (entry.owner, *here))


def rows_of(entry: ClusterRecord) -> tuple[LedgerRow, ...]:
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


def read_entry(path: Path) -> ClusterRecord:
    """Return what is in a ledger file.

    Raises OSError when it must not be used, ValueError when it makes no sense.
    """
    content = read_private(path)
    try:
        entry = msgspec.json.decode(content, type=ClusterRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged and was ignored ({error}). The next start deletes it"
        ) from None
    if file_stem(entry.cluster) != path.stem:
        raise ValueError(f"{path} belongs to another cluster and was ignored")
    return entry


def _state(
    entry: ClusterRecord, node: RecordedNode
) -> Literal["alive", "dead", "elsewhere"]:
    if not is_here(entry) or node.launcher:
        return "elsewhere"
    return "alive" if is_alive(node.process) else "dead"


_FIRST = (
    "amber brave bright calm clear clever cosy crisp eager early fair fond gentle "
    "glad golden green keen kind lively lucky mellow merry misty noble patient plain "
    "proud quick quiet rapid silver steady sunny swift tidy warm wise young"
).split()
_SECOND = (
    "badger beaver bison crane curlew deer dove falcon finch fox gecko gull hare "
    "heron ibis jay kestrel lark lynx marten mole newt otter owl panda pike plover "
    "puffin raven robin seal shrew sparrow stork swan tern trout vole wren yak"
).split()


def petname(
    taken: Collection[str], *, choose: Callable[[list[str]], str] = secrets.choice
) -> str:
    """Return a name of two words that is not among `taken`.

    >>> petname({"amber-badger"}, choose=lambda words: words[0])[:13]
    'amber-badger-'
    """
    name = ""
    for _ in range(20):
        name = f"{choose(_FIRST)}-{choose(_SECOND)}"
        if name not in taken:
            return name
    return f"{name}-{secrets.token_hex(2)}"


_LOG = logging.getLogger(__name__)


class Reading(NamedTuple):
    """All that the ledger says, and what of it could not be used."""

    entries: tuple[ClusterRecord, ...]
    problems: tuple[str, ...]  # one sentence each, with the file's name


class ClusterFiles:
    """The files in `folders`; new ones go to the first.

    Safe for any number of processes and threads at once. A file that cannot be
    used is reported in the log and never stops anything.

    Everything that writes raises OSError, with the cure, where neither folder is
    the user's own and private.
    """

    def __init__(self, folders: tuple[Path, ...] | None = None) -> None:
        """Use the user's own folders, unless given others."""
        self._folders = runtime_folders() if folders is None else folders

    def claim(
        self,
        cluster_id: str,
        *,
        name: str = "",
        keep: bool = False,
        notebook: str = "",
        workers: int = 1,
        slots: int = 1,
        by_hand: bool = False,
        ca: str = "",
    ) -> ClusterRecord:
        """Enter a cluster of this process that has no nodes yet.

        Without `name` it gets one that is free. Of several processes that claim
        the same name one gets it, for the others FileExistsError says what to do.
        """
        if name:
            check_name("cluster", name)
        with self._lock():
            self._prune()
            taken = {entry.cluster for entry in self.read().entries}
            if name in taken:
                raise FileExistsError(
                    f"a cluster named {name!r} runs already. Take it over: "
                    f"mp.adopt({name!r}); or end it: mp.down({name!r})"
                )
            entry = ClusterRecord(
                cluster=name or petname(taken),
                cluster_id=cluster_id,
                host=platform.node(),
                owner=stamp(os.getpid()),
                keep=keep,
                notebook=notebook,
                started_at=time.time(),
                workers=workers,
                slots=slots,
                by_hand=by_hand,
                ca=ca,
            )
            self._write(entry)
        return entry

    def record(self, entry: ClusterRecord) -> None:
        """Write down what `entry` says now.

        Raises FileExistsError when its name has gone to another cluster.
        """
        with self._lock():
            for present in self.read().entries:
                if (
                    present.cluster == entry.cluster
                    and present.cluster_id != entry.cluster_id
                ):
                    raise FileExistsError(
                        f"the name {entry.cluster!r} now belongs to another cluster"
                    )
            self._write(entry)

    def remove(self, entry: ClusterRecord) -> None:
        """Strike out `entry` and delete its folder; again changes nothing.

        Not done where its name has gone to another cluster by now.
        """
        with self._lock():
            self._remove(entry)
        local_socket.sweep()  # a node that was killed could not remove its own

    def prune(self) -> tuple[str, ...]:
        """Strike out stale clusters and unusable files; return their names."""
        with self._lock():
            return self._prune()

    def read(self) -> Reading:
        """Return what all files say, oldest cluster first; raises nothing."""
        entries, problems = [], []
        for folder in self._folders:
            try:
                paths = _files(folder)
            except OSError as error:
                problems.append(str(error))
                continue
            for path in paths:
                try:
                    entries.append(read_entry(path))
                except FileNotFoundError:
                    continue  # struck out while we read
                except (OSError, ValueError) as error:
                    problems.append(str(error))
        entries.sort(key=lambda entry: (entry.started_at, entry.cluster))
        return Reading(tuple(entries), tuple(problems))

    def entries(self) -> tuple[ClusterRecord, ...]:
        """Return the clusters that are not stale, oldest first."""
        reading = self.read()
        for problem in reading.problems:
            _LOG.warning("%s", problem)
        return tuple(entry for entry in reading.entries if not stale(entry))

    def find(
        self, name: str | None = None, *, only_kept: bool = False
    ) -> ClusterRecord:
        """Return the cluster of this name, or the only one there is.

        Raises NoCluster, which lists what there is, when there is none or, without
        a name, several.
        """
        entries = [e for e in self.entries() if e.keep or not only_kept]
        names = [entry.cluster for entry in entries]
        kind = "kept cluster" if only_kept else "cluster"
        if name is not None:
            for entry in entries:
                if entry.cluster == name:
                    return entry
            meant = nearest(name, names)
            raise NoCluster(
                f"you have no {kind} named {name!r}."
                + (f" Did you mean {meant!r}?" if meant else "")
                + (f" {_listed(kind, names)}" if names else "")
            )
        if len(entries) == 1:
            return entries[0]
        start = cure(
            magic="%mpreg up --keep" if only_kept else "%mpreg up",
            python="mp.up(3, keep=True)" if only_kept else "mp.up(3)",
            command="mpreg-nb node --name n1",
        )
        raise NoCluster(
            f"{_listed(kind, names)} "
            + ("Give its name." if names else f"Start one: {start}")
        )

    def rows(self) -> tuple[LedgerRow, ...]:
        """Return every node of this user, oldest cluster first."""
        return tuple(row for entry in self.entries() for row in rows_of(entry))

    def abandoned(self) -> ClusterRecord:
        """Return the only cluster that may be ended without its name.

        That is the only kept one whose owner has ended. Raises NoCluster, which
        says whose the others are, when there is none or several.
        """
        entries = self.entries()
        ownerless = [e for e in entries if e.keep and is_here(e) and not owned(e)]
        if len(ownerless) == 1:
            return ownerless[0]
        if not entries:
            raise NoCluster("you have no running cluster")
        listed = "; ".join(f"{e.cluster} ({_owner(e)})" for e in entries)
        first = (ownerless or entries)[0].cluster
        by_name = cure(
            magic=f"mp.down({first!r})",
            python=f"mp.down({first!r})",
            command=f"mpreg-nb down {shlex.quote(first)}",
        )
        raise NoCluster(
            "without a name, only a kept cluster whose owner has ended can be ended, "
            f"and {'there are several' if ownerless else 'there is none'}. Your "
            f"clusters: {listed}. End one by its name: {by_name}"
        )

    def end(self, name: str | None = None, *, drain: float = 10.0) -> tuple[str, ...]:
        """End the cluster of this name, else `abandoned`; return its live nodes.

        Each node gets `drain` seconds to finish what it runs, then it and its
        workers are killed. Blocks until they are gone.

        Raises NoCluster as `find` and `abandoned` do, or when it runs on another
        machine.
        """
        entry = self.abandoned() if name is None else self.find(name)
        if not is_here(entry):
            raise NoCluster(
                f"cluster {entry.cluster!r} runs on {entry.host}. End it there: "
                f"mpreg-nb down '{entry.cluster}'"
            )
        here = [node for node in entry.nodes if not node.launcher]
        ended = end_all((node.process for node in here), drain=drain)
        self.remove(entry)
        return tuple(node.name for node in here if node.process in ended)

    def folder(self, cluster: str) -> Path:
        """Return the folder for the files of a cluster; `remove` deletes it."""
        # The last first: logs grow, and a folder for run-time files is in memory.
        return private_folder(_usable(self._folders[::-1]) / file_stem(cluster))

    def log_path(self, cluster: str, node: str) -> Path:
        """Return the file for the standard error of a node, in a folder that is."""
        return self.folder(cluster) / f"{file_stem(node)}.log"

    def _lock(self) -> AbstractContextManager[None]:
        return locked(_usable(self._folders))

    def _write(self, entry: ClusterRecord) -> None:
        path = _usable(self._folders) / f"{file_stem(entry.cluster)}.json"
        write_private(path, msgspec.json.encode(entry))
        for folder in self._folders:
            other = folder / path.name
            if other != path:
                other.unlink(missing_ok=True)

    def _remove(self, entry: ClusterRecord) -> None:
        name = f"{file_stem(entry.cluster)}.json"
        for folder in self._folders:
            try:
                if read_entry(folder / name).cluster_id != entry.cluster_id:
                    return
            except (OSError, ValueError):
                continue  # gone already, or of no use to anybody
        for folder in self._folders:
            self._delete(folder / name)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        for folder in self._folders:
            if (folder / path.stem).is_dir():
                # What cannot be deleted now is found again under the same name.
                shutil.rmtree(folder / path.stem, ignore_errors=True)

    def _prune(self) -> tuple[str, ...]:
        pruned = []
        for path in self._own_files():
            try:
                if not stale(read_entry(path)):
                    continue
            except FileNotFoundError:
                continue
            except OSError as error:  # not ours to delete
                _LOG.warning("%s", error)
                continue
            except ValueError as error:
                _LOG.warning("%s", error)
            self._delete(path)
            pruned.append(unquote(path.stem))
        local_socket.sweep()
        for unready in _usable(self._folders).glob(".*.tmp"):
            unready.unlink(missing_ok=True)  # who held the lock has died over it
        return tuple(pruned)

    def _own_files(self) -> list[Path]:
        found = []
        for folder in self._folders:
            try:
                found.extend(_files(folder))
            except OSError as error:
                _LOG.warning("%s", error)
        return found


def _files(folder: Path) -> list[Path]:
    """Return the ledger files in `folder`.

    Raises PermissionError when others could have put them there.
    """
    if not os.path.lexists(folder):
        return []
    check_private_folder(folder)
    return sorted(folder.glob("[!.]*.json"))


def _usable(folders: Sequence[Path]) -> Path:
    """Return the first of `folders` that is, or can be made, private."""
    reasons = []
    for folder in folders:
        try:
            return private_folder(folder)
        except OSError as error:
            reasons.append(str(error))
    raise PermissionError(
        f"the list of started nodes cannot be saved: {'; '.join(reasons)}. Set "
        "XDG_STATE_HOME to a folder that you can write"
    )


def _owner(entry: ClusterRecord) -> str:
    if not is_here(entry):
        return f"on {entry.host}"
    if entry.by_hand:
        return "a node started by hand"
    if owned(entry):
        return f"in use by {entry.notebook or 'another running program'}"
    return "its owner has ended"


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return f"you have no {kind}."
    if len(names) == 1:
        return f"Your {kind}: {names[0]}."
    return f"Your {kind}s: {', '.join(names)}."


class RememberedNode(msgspec.Struct, frozen=True, kw_only=True):
    """What a node of this host belongs to, or belonged to before it ended."""

    cluster_id: str
    port: int
    process: ProcessId


class ClusterMemory:
    """Remembers the cluster of one node, while it does not run too."""

    def __init__(self, settings: NodeSettings, folder: Path | None = None) -> None:
        """Know which node it is about. folder: in place of the user's own."""
        self._port = settings.port
        self._folder = folder or state_folder() / "nodes"
        # The homes of several hosts may be one.
        self._file = f"{file_stem(f'{settings.name}@{platform.node()}')}.json"
        self._is_mine = False

    def recall(self) -> str:
        """Return the id of the cluster to begin with, which no other process has.

        Raises OSError when nothing can be remembered.
        """
        cluster_id = os.urandom(16).hex()
        with locked(private_folder(self._folder)):
            before = self._read()
            self._is_mine = before is None or not is_alive(before.process)
            if before is not None and self._is_mine:
                if self._port in (0, before.port):
                    cluster_id = before.cluster_id
            if self._is_mine:
                self._write(cluster_id, self._port)
        return cluster_id

    def keep(self, cluster_id: str, port: int) -> None:
        """Remember which cluster the node belongs to, now that it runs."""
        if self._is_mine:
            with locked(self._folder):
                self._write(cluster_id, port)

    def _read(self) -> RememberedNode | None:
        try:
            content = read_private(self._folder / self._file)
            return msgspec.json.decode(content, type=RememberedNode)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, ValueError) as error:
            path = self._folder / self._file
            _LOG.warning("%s is damaged and is written anew (%s)", path, error)
            return None

    def _write(self, cluster_id: str, port: int) -> None:
        node = RememberedNode(
            cluster_id=cluster_id, port=port, process=stamp(os.getpid())
        )
        write_private(self._folder / self._file, msgspec.json.encode(node))


@contextmanager
def entered(settings: NodeSettings, ca: str = "") -> Iterator[None]:
    """Keep an entry for the node that this process runs, until the block ends.

    ca: what its certificate is checked with; "": it has none.
    A node runs without an entry where the user has no place for a ledger.
    """
    ledger = ClusterFiles()
    try:
        entry = ledger.claim(
            settings.cluster_id or f"of {settings.name}",
            workers=settings.workers,
            slots=settings.slots,
            by_hand=True,
            ca=ca,
        )
        node = RecordedNode(
            name=settings.name,
            resources=tuple(sorted(settings.resources)),
            url="",  # its port is known once it listens; only `adopt` asks for it
            process=stamp(os.getpid()),
        )
        entry = msgspec.structs.replace(entry, nodes=(node,))
        ledger.record(entry)
    except OSError as error:
        sys.stderr.write(f"mpreg-nb ps will not list this node: {error}\n")
        yield
        return
    try:
        yield
    finally:
        ledger.remove(entry)
