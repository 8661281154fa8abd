"""The nodes of one cluster on this machine: from a specification to processes."""

import operator
import os
import selectors
import shlex
import socket
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias
from urllib.parse import urlsplit

import msgspec

from mpreg_nb.cures import cure
from mpreg_nb.launcher.cluster_files import ClusterFiles, ClusterRecord, RecordedNode
from mpreg_nb.launcher.launcher import Launcher, end_now, wait_all_ready
from mpreg_nb.launcher.paused_node import PausedNode
from mpreg_nb.launcher.pid import is_alive
from mpreg_nb.launcher.process import NodeProcess, ProcessLauncher
from mpreg_nb.names import check_name, check_resources
from mpreg_nb.settings import NodeSettings
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport.token import Token

MOST_NODES = 256
"""Nodes that one `up` starts on this machine; a typing slip must not fell it."""

ACCEPTED = (
    'up takes a number of nodes (3), a dict {"gpu-1": {"gpu", "ml-models"}}, '
    'or words: "gpu-1:gpu,ml-models cpu-1"'
)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node that is wanted or runs: its name and what it holds.

    >>> str(NodeSpec("gpu-1", frozenset({"ml-models", "gpu"})))
    'gpu-1:gpu,ml-models'
    """

    name: str
    resources: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_name("node", self.name)
        object.__setattr__(self, "resources", check_resources(self.resources))

    def __str__(self) -> str:
        held = ",".join(sorted(self.resources))
        return f"{self.name}:{held}" if held else self.name


Wanted: TypeAlias = (
    SupportsIndex
    | str
    | NodeSpec
    | Mapping[str, str | Iterable[str]]
    | Iterable[str | NodeSpec]
)
"""What `up` accepts."""


def read_spec(wanted: Wanted) -> tuple[NodeSpec, ...]:
    """Return the nodes that `wanted` names, in its order; sets are sorted.

    A number n means n1 … nn without resources. A dict maps a node's name to its
    resources: several, or one as a plain string. A string holds words as
    `%mpreg up` takes them, `NAME` or `NAME:RESOURCE,RESOURCE`; a list holds such
    words or NodeSpecs.

    Raises:
        TypeError: `wanted`, or a part of it, is none of these.
        ValueError: no node or too many, a name given twice or against the rule.

    >>> [str(node) for node in read_spec("gpu-1:gpu,ml-models cpu-1")]
    ['gpu-1:gpu,ml-models', 'cpu-1']
    """
    match wanted:
        case bool() | bytes() | bytearray():
            raise _not_accepted(wanted)
        case str():
            nodes = [_read_one(word) for word in _words(wanted)]
        case NodeSpec():
            nodes = [wanted]
        case Mapping():
            nodes = [_read_pair(name, held) for name, held in wanted.items()]
        case Iterable():
            nodes = [_read_one(word) for word in wanted]
            if isinstance(wanted, set | frozenset):
                nodes.sort(key=lambda node: node.name)
        case SupportsIndex():
            return _numbered(operator.index(wanted))
        case _:
            raise _not_accepted(wanted)
    return _checked(nodes)


def _words(text: str) -> list[str]:
    """Return the words of `text`; quotes hold those together that have spaces."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} names no nodes: {error}") from None


def _numbered(count: int) -> tuple[NodeSpec, ...]:
    if not 1 <= count <= MOST_NODES:
        raise ValueError(
            f"cannot start {count} nodes: the number must be from 1 to {MOST_NODES}. "
            "To end nodes: cluster.remove(name) or cluster.down()"
        )
    return tuple(NodeSpec(f"n{number}") for number in range(1, count + 1))


def _checked(nodes: list[NodeSpec]) -> tuple[NodeSpec, ...]:
    names = [node.name for node in nodes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"node {twice[0]!r} is given twice; each needs its own name")
    if not 1 <= len(nodes) <= MOST_NODES:
        raise ValueError(
            f"{len(nodes)} nodes are given; up starts 1 to {MOST_NODES}. {ACCEPTED}"
        )
    return tuple(nodes)


def _read_one(word: object) -> NodeSpec:
    if isinstance(word, NodeSpec):
        return word
    if not isinstance(word, str):
        raise _not_accepted(word)
    name, colon, listed = word.partition(":")
    if not colon and name.isdecimal():
        raise ValueError(
            f"{name!r} would name one node. For {name} nodes: "
            + cure(
                magic=f"%mpreg up -n {name}",
                python=f"mp.up({name})",
                command=f"%mpreg up -n {name}",
            )
        )
    if not colon:
        return NodeSpec(check_name("node", name))
    if not listed:
        raise ValueError(
            f"{word!r} has a colon but no resource; write {name!r} for a node "
            f"without resources, '{name}:gpu' for one with"
        )
    return NodeSpec(check_name("node", name), check_resources(listed.split(",")))


def _read_pair(name: object, held: object) -> NodeSpec:
    checked = check_name("node", name)
    if isinstance(held, bytes | bytearray | Mapping) or not isinstance(held, Iterable):
        raise TypeError(
            f"the resources of node {checked!r} are one name or several, "
            f'"gpu" or {{"gpu", "ml-models"}}, not {_shown(held)}'
        )
    return NodeSpec(checked, check_resources(held))


def _not_accepted(given: object) -> TypeError:
    return TypeError(f"{_shown(given)} does not describe nodes. {ACCEPTED}")


def _shown(given: object) -> str:
    return f"{given!r:.60} ({type(given).__name__})"


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns the running nodes into the wanted ones."""

    start: tuple[NodeSpec, ...]  # wanted, not there
    restart: tuple[NodeSpec, ...]  # wanted, there, but dead or with other resources
    keep: tuple[NodeSpec, ...]  # alive and right, or not spoken of: left alone

    @property
    def nothing(self) -> bool:
        """Whether all that is wanted runs already."""
        return not self.start and not self.restart


def difference(
    wanted: Iterable[NodeSpec],
    running: Iterable[NodeSpec],
    *,
    dead: Collection[str] = (),
) -> Difference:
    """Return what `up(wanted)` has to do in a cluster that has `running`.

    Nodes that are not wanted are left as they are, never ended. `dead` names
    those of `running` whose process has ended: started again where wanted.
    """
    wanted = tuple(wanted)
    present = {node.name: node for node in running}
    right = {
        node.name
        for node in wanted
        if present.get(node.name) == node and node.name not in dead
    }
    asked = {node.name for node in wanted}
    return Difference(
        start=tuple(node for node in wanted if node.name not in present),
        restart=tuple(
            node for node in wanted if node.name in present and node.name not in right
        ),
        keep=tuple(
            node
            for node in present.values()
            if node.name in right or (node.name not in asked and node.name not in dead)
        ),
    )


_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"


def silent(urls: Mapping[str, str], timeout_s: float) -> tuple[str, ...]:
    """Return the names of the nodes of `urls` that do not answer in time.

    A node whose port is closed counts at once.
    """
    quiet: list[str] = []
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as waiting:
        for name, url in urls.items():
            try:
                link = _asked(url, timeout_s)
            except OSError:  # nobody listens there any more
                quiet.append(name)
            else:
                waiting.register(link, selectors.EVENT_READ, name)
        while waiting.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left_s):
                link = waiting.unregister(key.fileobj).fileobj  # type: ignore[assignment]
                if not _answers(link):
                    quiet.append(key.data)
        for key in list(waiting.get_map().values()):
            quiet.append(key.data)
            key.fileobj.close()  # type: ignore[union-attr]  # a socket
    return tuple(quiet)


def _asked(url: str, timeout_s: float) -> socket.socket:
    parts = urlsplit(url)
    link = socket.create_connection((parts.hostname, parts.port), timeout_s)
    link.sendall(_REQUEST % parts.netloc.encode())
    return link


def _answers(link: socket.socket) -> bool:
    with link:
        try:
            return bool(link.recv(1))
        except OSError:  # it ended before it could answer
            return False


KILLED_S = 2.0
"""So long a killed process may take to be gone, on a machine that is very busy."""

SILENT_S = 5.0
"""A node that runs answers within milliseconds; on a machine that swaps, later."""

DRAIN_S = 10.0
"""How long a node that is asked to leave may finish what it runs."""


class LocalNodes:
    """Starts and ends node processes, and keeps the ledger true about them."""

    def __init__(
        self,
        token: Token,
        *,
        name: str,
        keep: bool,
        notebook: str,
        workers: int,
        slots: int,
        launcher: Launcher[NodeProcess] | None = None,
    ) -> None:
        """launcher: of other nodes than `mpreg-nb node` runs."""
        self.cluster_id = os.urandom(16).hex()
        self.keep = keep
        self._launcher = launcher or ProcessLauncher(token)
        self._ledger = ClusterFiles()
        self._processes: dict[str, NodeProcess] = {}
        self._pauses: dict[str, PausedNode] = {}
        self._pausing = threading.Lock()  # of `_pauses`
        self.changing = threading.RLock()
        """Held by whoever looks which nodes there are, then starts or ends some."""

        self._resources: dict[str, frozenset[str]] = {}
        self._urls: dict[str, str] = {}
        self._entry: ClusterRecord = self._ledger.claim(
            self.cluster_id,
            name=name,
            keep=keep,
            notebook=notebook,
            workers=workers,
            slots=slots,
        )
        self._workers = workers
        self._slots = slots

    @property
    def name(self) -> str:
        """The cluster's name, by which `ps`, `adopt` and `down` know it."""
        return self._entry.cluster

    @property
    def options(self) -> dict[str, object]:
        """The options of `up` that hold for all nodes of the cluster."""
        return {
            "workers": self._workers,
            "slots": self._slots,
            "keep": self.keep,
            "name": self.name,
        }

    @property
    def specs(self) -> tuple[NodeSpec, ...]:
        """The nodes that were started and not removed, dead ones too."""
        return tuple(NodeSpec(n, r) for n, r in self._resources.items())

    @property
    def dead(self) -> frozenset[str]:
        """Names of the nodes whose process has ended by itself."""
        return frozenset(
            name
            for name, process in self._processes.items()
            if process.poll() is not None or not is_alive(process.stamp)
        )

    def end_silent(self, timeout_s: float = SILENT_S) -> None:
        """Kill the nodes that do not answer in time; `dead` names them then.

        Those that a drill has paused are left alone. One that was killed a moment
        ago may still look alive to the system, but does not answer any more.
        """
        asked = {n: url for n, url in self.urls.items() if n not in self.paused}
        processes = [self._processes[name] for name in silent(asked, timeout_s)]
        end_now(processes)

    @property
    def urls(self) -> dict[str, str]:
        """Node -> URL of those that run."""
        dead = self.dead
        return {n: url for n, url in self._urls.items() if n not in dead}

    def process(self, node: str) -> NodeProcess:
        """Return the process of a node that was started here.

        Raises:
            KeyError: none was started under this name.
        """
        return self._processes[node]

    def start(self, specs: Sequence[NodeSpec], timeout_s: float) -> None:
        """Start all of `specs` at the same time; all join, or none is left.

        Raises:
            StartFailed: a node did not come up; with the last lines of its log.
        """
        if not specs:
            return
        join = tuple(self.urls.values())
        workers = self._workers * (len(join) + len(specs))
        processes: list[NodeProcess] = []
        try:
            for spec in specs:
                process = self._spawn(spec, join, workers)
                processes.append(process)
                join = join or (process.url,)
        except BaseException:
            end_now(processes)
            raise
        ready = wait_all_ready(processes, timeout_s)
        for spec, process, said in zip(specs, processes, ready, strict=True):
            self._processes[spec.name] = process
            self._resources[spec.name] = spec.resources
            self._urls[spec.name] = said.url
        self._record()

    def _spawn(
        self,
        spec: NodeSpec,
        join: tuple[str, ...],
        workers: int,  # of all nodes of this cluster
    ) -> NodeProcess:
        log = self._ledger.log_path(self.name, spec.name)
        settings = NodeSettings(
            name=spec.name,
            scratch=str(log.with_suffix(".files")),
            resources=spec.resources,
            join=join,
            cluster_id=self.cluster_id,
            workers=self._workers,
            slots=self._slots,
            shared_memory_mb=MEMORY.limit_bytes >> 20,
        )
        return self._launcher.start(settings, log=log, keep=self.keep, workers=workers)

    def kill(self, name: str) -> None:
        """End a node and its workers, as a crash would; returns when they are gone."""
        process = self._processes[name]
        process.kill()
        self.go_on((name,))  # what is left of its session must hear that it ended
        process.wait(KILLED_S)

    def pause(self, name: str, seconds: float) -> None:
        """Stop a node and its workers for `seconds`; again: for so long from now.

        Raises:
            MpregError: it has ended.
        """
        process = self._processes[name]
        with self._pausing:
            pause = PausedNode(name, process.stamp, seconds, process.log_path)
            if name in self._pauses:
                pause.take_over_from(self._pauses[name])
            self._pauses[name] = pause

    @property
    def paused(self) -> frozenset[str]:
        """Names of the nodes that stand still."""
        with self._pausing:
            return frozenset(n for n, p in self._pauses.items() if not p.is_over)

    def go_on(self, names: Iterable[str] | None = None) -> None:
        """End the pauses of these nodes, or all: who stands still cannot end in order.

        Does nothing for nodes that run.
        """
        names = tuple(self._processes if names is None else names)
        with self._pausing:
            pauses = [self._pauses.pop(n) for n in names if n in self._pauses]
        for pause in pauses:
            pause.end()

    def stop(self, names: Iterable[str], drain_s: float = DRAIN_S) -> None:
        """End these nodes, each after what it runs, and wait until they are gone."""
        ending = [(name, self._processes[name]) for name in names]
        self.go_on(name for name, _ in ending)
        for _, process in ending:
            process.terminate(drain_s)
        for name, process in ending:
            process.wait()
            del self._processes[name], self._resources[name], self._urls[name]
        self._record()

    def close(self, drain_s: float = 0.0) -> None:
        """End all nodes and strike the cluster out of the ledger."""
        try:
            self.go_on()
            for process in self._processes.values():
                process.terminate(drain_s)
            for process in self._processes.values():
                process.wait()
        except KeyboardInterrupt:  # who stops this wants it sooner, not undone
            for process in self._processes.values():
                process.kill()
            for process in self._processes.values():
                process.wait()
            raise
        finally:
            self._processes.clear()
            self._ledger.remove(self._entry)

    def log(self, node: str, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that a node wrote."""
        return self.process(node).log(lines)

    def _record(self) -> None:
        nodes = tuple(
            RecordedNode(
                name=name,
                resources=tuple(sorted(self._resources[name])),
                url=self._urls[name],
                process=process.stamp,
            )
            for name, process in self._processes.items()
        )
        replace: Any = msgspec.structs.replace
        self._entry = replace(self._entry, nodes=nodes)
        self._ledger.record(self._entry)
