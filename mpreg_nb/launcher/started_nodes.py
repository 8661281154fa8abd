"""The nodes of one cluster that this process starts, here and on other machines."""

import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from mpreg_nb.errors import ClusterDown, HostFailure, HostsFailed, StartFailed
from mpreg_nb.launcher import launchers
from mpreg_nb.launcher.cluster_files import (
    CA_FILE,
    ClusterFiles,
    ClusterRecord,
    RecordedNode,
)
from mpreg_nb.launcher.launcher import (
    AS_FOUND,
    LOG_LINES,
    LaunchContext,
    LaunchedNode,
    Launcher,
    RemoteOptions,
    end_now,
    wait_all_ready,
)
from mpreg_nb.launcher.node_spec import NodeSpec
from mpreg_nb.launcher.process import LOOPBACK, ProcessLauncher
from mpreg_nb.settings import NodeSettings
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.transport import local_socket
from mpreg_nb.transport.tls import dialling
from mpreg_nb.transport.token import Token
from mpreg_nb.user_files import write_private

if TYPE_CHECKING:
    from mpreg_nb.transport.certificates import Authority

_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"


def silent(urls: Mapping[str, str], timeout_s: float, ca: str = "") -> tuple[str, ...]:
    """Return the names of the nodes of `urls` that do not answer in time.

    A node whose port is closed counts at once.

    ca: what certificates of nodes are checked with: PEM.
    """
    quiet: list[str] = []
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as waiting:
        for name, url in urls.items():
            try:
                link = _asked(url, timeout_s, ca)
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


def _asked(url: str, timeout_s: float, ca: str) -> socket.socket:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    if parts.scheme == "wss":
        link = socket.create_connection((host, port), timeout_s)
        link.sendall(_client_hello(host, ca))  # that it begins TLS is answer enough
        return link
    # First as links find it: a node of another machine has a tunnel there.
    near = local_socket.connect(host, port)
    if near is not None:
        near.settimeout(timeout_s)
    link = near or socket.create_connection((host, port), timeout_s)
    link.sendall(_REQUEST % parts.netloc.encode())
    return link


def _client_hello(host: str, ca: str) -> bytes:
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):  # it waits for the answer
        dialling(ca).wrap_bio(received, sent, server_hostname=host).do_handshake()
    return sent.read()


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

MOST_SEEDS = 3
"""Nodes that a new one joins where all start together: the first may die at once."""


Preparing: TypeAlias = "Future[Mapping[str, HostFailure]]"

AwaitHosts: TypeAlias = Callable[[Preparing, Callable[[], Mapping[str, str]]], object]
"""Waits for hosts that are being prepared; the second argument tells their stages."""


Via: TypeAlias = Literal["tunnel", "tls"]
"""How links get from machine to machine."""

VIA: tuple[Via, ...] = ("tunnel", "tls")


def _new_authority() -> "Authority":
    # Needs a package that nodes of one machine do without.
    from mpreg_nb.transport.certificates import Authority

    return Authority.make()


class StartedNodes:
    """Starts and ends nodes by their launchers; keeps the ledger true about them."""

    def __init__(
        self,
        token: Token,
        *,
        name: str,
        keep: bool,
        notebook: str,
        workers: int,
        slots: int,
        lease_s: float = 30.0,
        via: Via = "tunnel",
        launcher: Launcher[LaunchedNode] | None = None,
        await_hosts: AwaitHosts = lambda preparing, stages: preparing.result(),
    ) -> None:
        """Have no node yet.

        via: how links get from machine to machine: through tunnels of ssh, or by TLS,
            with certificates of a CA that is made for this cluster.
        launcher: of other nodes of this machine than `mpreg-nb node` runs.

        Raises:
            MpregError: via TLS, and the package that makes certificates is missing.
        """
        authority = _new_authority() if via == "tls" else None
        self.ca = authority.certificate if authority is not None else ""
        """What certificates of its nodes are checked with: PEM; "": they have none."""

        self.cluster_id = os.urandom(16).hex()
        self.keep = keep
        self._ledger = ClusterFiles()
        self._nodes: dict[str, LaunchedNode] = {}
        self._specs: dict[str, NodeSpec] = {}
        self.changing = threading.RLock()
        """Held by whoever looks which nodes there are, then starts or ends some."""

        self._closing = threading.Lock()
        self._is_closed = False
        self._begun: list[LaunchedNode] = []  # that nobody has waited for yet

        self._entry: ClusterRecord = self._ledger.claim(
            self.cluster_id,
            name=name,
            keep=keep,
            notebook=notebook,
            workers=workers,
            slots=slots,
            ca=self.ca,
        )
        if self.ca:
            path = self._ledger.folder(self.name) / CA_FILE
            write_private(path, self.ca.encode())
        issue = authority.issue if authority is not None else None
        self._context = LaunchContext(
            token=token,
            cluster=self.name,
            cluster_id=self.cluster_id,
            keep=keep,
            notebook=notebook,
            lease_s=lease_s,
            issue=issue,
            ca=self.ca,
        )
        self._via = via
        self._launchers: dict[str, Launcher[LaunchedNode]] = {
            "": launcher or ProcessLauncher(token, keep=keep, issue=issue)
        }
        self._await_hosts = await_hosts
        self._remote = AS_FOUND
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
            "via": self._via,
        }

    @property
    def specs(self) -> tuple[NodeSpec, ...]:
        """The nodes that were started and not removed, dead ones too."""
        return tuple(self._specs.values())

    @property
    def dead(self) -> frozenset[str]:
        """Names of the nodes whose process has ended by itself."""
        return frozenset(n for n, node in self._each if not node.is_running)

    @property
    def _each(self) -> list[tuple[str, LaunchedNode]]:
        """A copy: another thread may start or end some while each is looked at."""
        return list(self._nodes.items())

    def end_silent(self, timeout_s: float = SILENT_S) -> None:
        """Kill the nodes that do not answer in time; `dead` names them then.

        Those that a drill has paused are left alone. One that was killed a moment
        ago may still look alive to the system, but does not answer any more.
        """
        asked = {n: url for n, url in self.urls.items() if n not in self.paused}
        end_now([self._nodes[name] for name in silent(asked, timeout_s, self.ca)])

    @property
    def urls(self) -> dict[str, str]:
        """Node -> URL of those that run; what waits in a queue is not there."""
        return {
            name: node.ready.result().url
            for name, node in self._each
            if _is_ready(node) and node.is_running
        }

    @property
    def waiting(self) -> dict[str, str]:
        """Node -> what is known of it, of those that wait for their turn in a queue."""
        stages = self.stages
        return {
            name: stages.get(name, "starts")
            for name, node in self._each
            if not node.ready.done() and node.is_running
        }

    def node(self, name: str) -> LaunchedNode:
        """Return the node that was started under this name.

        Raises:
            KeyError: none was.
        """
        return self._nodes[name]

    def ask_of_hosts(self, options: RemoteOptions) -> None:
        """Choose interpreters of other machines so, from now on."""
        self._remote = options

    def start(
        self, specs: Sequence[NodeSpec], timeout_s: float
    ) -> tuple[HostFailure, ...]:
        """Start all of `specs` at the same time; return the hosts that failed.

        Each host fails alone: none of its nodes of `specs` is left. Of the nodes of
        this machine all join, or nothing is left of all of `specs`.

        Raises:
            StartFailed: a node of this machine did not come up; with the last lines
                of its log.
            ClusterDown: `close` was called, before or meanwhile; none is left.
        """
        if not specs:
            return ()
        self._check_open()
        failures = self._prepare(specs)
        begun: dict[NodeSpec, LaunchedNode] = {}
        try:
            for place, together in by_place(specs):
                if place not in failures:
                    failure = self._start_nodes_of(together, begun)
                    if failure is not None:
                        failures[place] = failure
            self._expose(begun, failures)
            self._await_ready(begun, timeout_s, failures)
            with self._closing:
                self._check_open()
                for spec, node in begun.items():
                    self._nodes[spec.name] = node
                    self._specs[spec.name] = spec
                self._record()
        except BaseException as error:
            end_now(list(begun.values()))
            if isinstance(error, StartFailed):
                self._check_open()  # that is why
            raise
        finally:
            self._begun.clear()
        return tuple(failures.values())

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClusterDown

    def _prepare(self, specs: Sequence[NodeSpec]) -> "dict[Place, HostFailure]":
        """Make all hosts ready at the same time; return those that failed."""
        hosts: dict[str, list[str]] = {}
        for (launcher, host), _ in by_place(specs):
            if launcher:
                hosts.setdefault(launcher, []).append(host)
        under_way = {
            launcher: self._launcher(launcher).prepare(of_it, self._remote)
            for launcher, of_it in hosts.items()
        }
        failures: dict[Place, HostFailure] = {}
        try:
            for launcher, preparing in under_way.items():
                self._await_hosts(preparing, lambda: self.stages)
                for host, failure in preparing.result().items():
                    failures[launcher, host] = failure
        except BaseException:
            for preparing in under_way.values():
                preparing.cancel()
            raise
        return failures

    @property
    def stages(self) -> Mapping[str, str]:
        """What happens on each host that is being prepared."""
        return {
            host: stage
            for launcher in self._launchers.values()
            for host, stage in launcher.stages.items()
        }

    def _launcher(self, name: str) -> Launcher[LaunchedNode]:
        if name not in self._launchers:
            self._launchers[name] = launchers.make(name, self._context)
        return self._launchers[name]

    def _start_nodes_of(
        self, specs: Sequence[NodeSpec], begun: dict[NodeSpec, LaunchedNode]
    ) -> HostFailure | None:
        """Start the nodes of one place; return why it failed, if it did."""
        launcher, host = specs[0].place
        here = [s for s in self.specs if s.place == specs[0].place]
        workers = self._workers * len({s.name for s in (*here, *specs)})
        own: dict[NodeSpec, LaunchedNode] = {}
        try:
            for spec in specs:
                started = (*begun.values(), *own.values())
                join = tuple(self.urls.values())
                # A job that waits in a queue has no URL yet.
                begun_urls = [node.url for node in started if node.url]
                join = join or tuple(begun_urls[:MOST_SEEDS])
                own[spec] = self._spawn(spec, join, workers)
        except BaseException as error:
            end_now(list(own.values()))
            if launcher and isinstance(error, StartFailed):
                return _failure(host or launcher, error)
            raise
        begun.update(own)
        return None

    def _spawn(
        self,
        spec: NodeSpec,
        join: tuple[str, ...],
        workers: int,  # of all nodes of this cluster on that machine
    ) -> LaunchedNode:
        log = self._ledger.log_path(self.name, spec.name)
        address = "" if spec.launcher or not self.ca else self._address_here()
        settings = NodeSettings(
            name=spec.name,
            host=address or LOOPBACK,
            scratch="" if spec.launcher else str(log.with_suffix(".files")),
            resources=spec.resources,
            join=join,
            cluster_id=self.cluster_id,
            workers=self._workers if spec.workers is None else spec.workers,
            slots=self._slots,
            shared_memory_mb=MEMORY.limit_bytes >> 20,
            host_name=spec.host,
        )
        node = self._launcher(spec.launcher).start(
            settings, host=spec.host, log=log, workers=workers
        )
        self._begun.append(node)
        return node

    def _address_here(self) -> str:
        seen = (launcher.address_here for launcher in self._launchers.values())
        return next(filter(None, seen), "")

    def _expose(
        self,
        begun: dict[NodeSpec, LaunchedNode],
        failures: "dict[Place, HostFailure]",
    ) -> None:
        """Let every node reach every other one."""
        urls = {*self.urls.values(), *(node.url for node in begun.values())}
        for name, launcher in self._launchers.items():
            for host, failure in launcher.expose(urls).items():
                failures[name, host] = failure
                _end_nodes_of_failed(begun, (name, host))

    def _await_ready(
        self,
        begun: dict[NodeSpec, LaunchedNode],
        timeout_s: float,
        failures: "dict[Place, HostFailure]",
    ) -> None:
        """Wait until all are ready; take those of a host that failed out of `begun`."""
        deadline = time.monotonic() + timeout_s
        for place, together in by_place(list(begun)):
            left_s = max(0.0, deadline - time.monotonic())
            if self._launcher(place[0]).is_queue:
                failures.update(self._await_turns(place, begun, left_s))
                continue
            try:
                wait_all_ready([begun[spec] for spec in together], left_s)
            except StartFailed as error:
                if not place[0]:
                    raise
                failures[place] = _failure(place[1] or place[0], error)
                _end_nodes_of_failed(begun, place)

    def _await_turns(
        self, place: "Place", begun: dict[NodeSpec, LaunchedNode], timeout_s: float
    ) -> "dict[Place, HostFailure]":
        """Wait for nodes that wait for their turn; those that still do join later.

        Takes out of `begun` those that failed, and returns why.
        """
        here = {spec: node for spec, node in begun.items() if spec.place == place}
        arrived: Preparing = Future()
        left = len(here)

        def count(ready: "Future[Any]") -> None:
            nonlocal left
            left -= 1
            if not left:
                over()

        def over() -> None:
            if not arrived.done():
                arrived.set_result({})

        patience = threading.Timer(timeout_s, over)
        patience.daemon = True
        patience.start()
        for node in here.values():
            node.ready.add_done_callback(count)
        try:
            self._await_hosts(arrived, lambda: self.stages)
        finally:
            patience.cancel()
        failures: dict[Place, HostFailure] = {}
        for spec, node in here.items():
            error = node.ready.exception() if node.ready.done() else None
            if isinstance(error, StartFailed):
                failures[place[0], spec.name] = _failure(spec.name, error)
                end_now([begun.pop(spec)])
        return failures

    def kill(self, name: str) -> None:
        """End a node and its workers, as a crash would; returns when they are gone."""
        node = self._nodes[name]
        node.kill()
        node.resume()  # what is left of its session must hear that it ended
        node.wait(KILLED_S)

    def pause(self, name: str, seconds: float) -> None:
        """Stop a node and its workers for `seconds`; again: for so long from now.

        Raises:
            MpregError: it has ended.
        """
        self._nodes[name].pause(seconds)

    @property
    def paused(self) -> frozenset[str]:
        """Names of the nodes that stand still."""
        return frozenset(n for n, node in self._each if node.is_paused)

    def go_on(self, names: Iterable[str] | None = None) -> None:
        """End the pauses of these nodes, or all: who stands still cannot end in order.

        Does nothing for nodes that run.
        """
        for name in tuple(self._nodes if names is None else names):
            self._nodes[name].resume()

    def stop(self, names: Iterable[str], drain_s: float = DRAIN_S) -> None:
        """End these nodes, each after what it runs, and wait until they are gone."""
        ending = [(name, self._nodes[name]) for name in names]
        self.go_on(name for name, _ in ending)
        for _, node in ending:
            node.terminate(drain_s)
        for name, node in ending:
            node.wait()
            del self._nodes[name], self._specs[name]
        self._record()

    def close(self, drain_s: float = 0.0) -> None:
        """End all nodes and strike the cluster out of the ledger."""
        with self._closing:
            self._is_closed = True
            nodes = list(self._nodes.values())
            begun = list(self._begun)
        end_now(begun)  # another thread waits for them
        try:
            self.go_on()
            for node in nodes:
                node.terminate(drain_s)
            for node in nodes:
                node.wait()
        except KeyboardInterrupt:  # who stops this wants it sooner, not undone
            for node in nodes:
                node.kill()
            for node in nodes:
                node.wait()
            raise
        finally:
            self._nodes.clear()
            self.release()
            self._ledger.remove(self._entry)

    def release(self) -> None:
        """Let go of other machines; nodes that are kept go on there."""
        for launcher in self._launchers.values():
            launcher.close()

    def log(self, name: str, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that a node wrote."""
        return self.node(name).log(lines)

    def _record(self) -> None:
        nodes = tuple(
            RecordedNode(
                name=name,
                resources=tuple(sorted(self._specs[name].resources)),
                url=node.ready.result().url if _is_ready(node) else "",
                process=node.stamp,
                host=self._specs[name].host,
                launcher=self._specs[name].launcher,
            )
            for name, node in self._nodes.items()
        )
        replace: Any = msgspec.structs.replace
        self._entry = replace(self._entry, nodes=nodes)
        self._ledger.record(self._entry)


Place: TypeAlias = tuple[str, str]
"""A launcher and a host."""


def by_place(specs: Sequence[NodeSpec]) -> Iterator[tuple[Place, list[NodeSpec]]]:
    """Yield the nodes of each place; those of this machine first, since others join."""
    ordered = sorted(specs, key=lambda spec: spec.place)
    for place, together in groupby(ordered, key=lambda spec: spec.place):
        yield place, list(together)


def _is_ready(node: LaunchedNode) -> bool:
    return node.ready.done() and node.ready.exception() is None


def _end_nodes_of_failed(begun: dict[NodeSpec, LaunchedNode], place: Place) -> None:
    lost = [spec for spec in begun if spec.place == place]
    end_now([begun.pop(spec) for spec in lost])


def _failure(host: str, error: StartFailed) -> HostFailure:
    if isinstance(error, HostsFailed):
        return error.failures[0]
    reason = f"node {error.node} did not start: {error.reason}"
    return HostFailure(host, "join", reason, log=error.log[-LOG_LINES:])
