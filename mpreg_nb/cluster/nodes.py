"""The node processes that this process started for one cluster."""

import os
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mpreg_nb.cluster.entry import Entry, RecordedNode
from mpreg_nb.cluster.health import silent
from mpreg_nb.cluster.identity import is_alive
from mpreg_nb.cluster.ledger import Ledger
from mpreg_nb.cluster.pausing import Pause
from mpreg_nb.cluster.process import NodeProcess, end_now, wait_all_ready
from mpreg_nb.cluster.spec import NodeSpec
from mpreg_nb.node.options import Options
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.token import Token

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
    ) -> None:
        self.cluster_id = os.urandom(16).hex()
        self.keep = keep
        self._token = token
        self._ledger = Ledger()
        self._processes: dict[str, NodeProcess] = {}
        self._pauses: dict[str, Pause] = {}
        self._pausing = threading.Lock()  # of `_pauses`
        self.changing = threading.RLock()
        """Held by whoever looks which nodes there are, then starts or ends some."""

        self._resources: dict[str, frozenset[str]] = {}
        self._urls: dict[str, str] = {}
        self._entry: Entry = self._ledger.claim(
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
        sockets = [_listening() for _ in specs]
        processes: list[NodeProcess] = []
        try:
            for spec, listening in zip(specs, sockets, strict=True):
                url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
                processes.append(self._spawn(spec, listening, join, workers))
                join = join or (url,)
        except BaseException:
            end_now(processes)
            raise
        finally:
            for listening in sockets:
                listening.close()
        ready = wait_all_ready(processes, timeout_s)
        for spec, process, said in zip(specs, processes, ready, strict=True):
            self._processes[spec.name] = process
            self._resources[spec.name] = spec.resources
            self._urls[spec.name] = said.url
        self._record()

    def _spawn(
        self,
        spec: NodeSpec,
        listening: socket.socket,
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
        )
        return NodeProcess.start(
            Options(settings=settings),
            log=log,
            token=self._token.reveal(),
            keep=self.keep,
            listening=listening,
            workers=workers,
        )

    def kill(self, name: str) -> None:
        """End a node and its workers at once, as a crash would."""
        self._processes[name].kill()
        self.go_on((name,))  # what is left of its session must hear that it ended

    def pause(self, name: str, seconds: float) -> None:
        """Stop a node and its workers for `seconds`; again: for so long from now.

        Raises:
            MpregError: it has ended.
        """
        process = self._processes[name]
        with self._pausing:
            pause = Pause(name, process.stamp, seconds, process.log_path)
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


def _listening() -> socket.socket:
    """Return a socket that listens on a free port, for a node to inherit.

    So its URL is known before it runs, nobody can take the port in between, and
    whoever connects early is served as soon as the node is up.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening
