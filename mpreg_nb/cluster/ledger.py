"""Who started what: one file per cluster of this user on this machine.

A cluster is entered before its first node starts and struck out after its last
has ended, so that whatever happens in between, `mp.ps()` can list its nodes and
`mp.down()` can end them.
"""

import logging
import os
import platform
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from mpreg_nb.cluster.entry import (
    Entry,
    LedgerRow,
    is_here,
    owned,
    read_entry,
    rows_of,
    stale,
)
from mpreg_nb.cluster.friendly import free_name
from mpreg_nb.cluster.identity import end_all, stamp
from mpreg_nb.cluster.places import file_stem, ledger_folders
from mpreg_nb.cluster.private import (
    check_private_folder,
    locked,
    private_folder,
    write_private,
)
from mpreg_nb.cures import cure
from mpreg_nb.errors import NoCluster
from mpreg_nb.names import check_name, nearest

_LOG = logging.getLogger(__name__)


class Reading(NamedTuple):
    """All that the ledger says, and what of it could not be used."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]  # one sentence each, with the file's name


class Ledger:
    """The files in `folders`; new ones go to the first.

    Safe for any number of processes and threads at once. A file that cannot be
    used is reported in the log and never stops anything.

    Everything that writes raises OSError, with the cure, where neither folder is
    the user's own and private.
    """

    def __init__(self, folders: tuple[Path, ...] | None = None) -> None:
        """Use the user's own folders, unless given others."""
        self._folders = ledger_folders() if folders is None else folders

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
    ) -> Entry:
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
            entry = Entry(
                cluster=name or free_name(taken),
                cluster_id=cluster_id,
                host=platform.node(),
                owner=stamp(os.getpid()),
                keep=keep,
                notebook=notebook,
                started_at=time.time(),
                workers=workers,
                slots=slots,
                by_hand=by_hand,
            )
            self._write(entry)
        return entry

    def record(self, entry: Entry) -> None:
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

    def remove(self, entry: Entry) -> None:
        """Strike out `entry` and delete its folder; again changes nothing.

        Not done where its name has gone to another cluster by now.
        """
        with self._lock():
            self._remove(entry)

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

    def entries(self) -> tuple[Entry, ...]:
        """Return the clusters that are not stale, oldest first."""
        reading = self.read()
        for problem in reading.problems:
            _LOG.warning("%s", problem)
        return tuple(entry for entry in reading.entries if not stale(entry))

    def find(self, name: str | None = None, *, only_kept: bool = False) -> Entry:
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

    def abandoned(self) -> Entry:
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
        ended = end_all((node.process for node in entry.nodes), drain=drain)
        self.remove(entry)
        return tuple(node.name for node in entry.nodes if node.process in ended)

    def folder(self, cluster: str) -> Path:
        """Return the folder for the files of a cluster; `remove` deletes it."""
        # The last first: logs grow, and a folder for run-time files is in memory.
        return private_folder(_usable(self._folders[::-1]) / file_stem(cluster))

    def log_path(self, cluster: str, node: str) -> Path:
        """Return the file for the standard error of a node, in a folder that is."""
        return self.folder(cluster) / f"{file_stem(node)}.log"

    def _lock(self) -> AbstractContextManager[None]:
        return locked(_usable(self._folders))

    def _write(self, entry: Entry) -> None:
        path = _usable(self._folders) / f"{file_stem(entry.cluster)}.json"
        write_private(path, msgspec.json.encode(entry))
        for folder in self._folders:
            other = folder / path.name
            if other != path:
                other.unlink(missing_ok=True)

    def _remove(self, entry: Entry) -> None:
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


def _owner(entry: Entry) -> str:
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
