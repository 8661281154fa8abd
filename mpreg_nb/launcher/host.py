"""Starts the nodes of one cluster on this host, for a starter on another machine.

`mpreg-nb host MARK`, which a starter runs over ssh: the token is the first line of
standard input, then one command a line; reports go to standard output after a line
with the mark, so that what a login shell prints is passed over.

Nodes hold a lease on the starter: they end when standard input ends, and when nothing
came for `lease_s`, since a connection whose other end went to sleep never ends by
itself. Kept nodes outlive it; the next starter of the same cluster takes them up.
"""

import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from mpreg_nb.errors import MpregError, NoCluster, StartFailed
from mpreg_nb.launcher.cluster_files import (
    ClusterFiles,
    ClusterRecord,
    RecordedNode,
    is_here,
)
from mpreg_nb.launcher.host_messages import (
    ClusterEnded,
    ClusterEntered,
    ClusterRefused,
    Command,
    CommandDone,
    EndCluster,
    EnterCluster,
    ExposeSocket,
    Heartbeat,
    HostMessage,
    HostRow,
    KillNode,
    Listed,
    ListNodes,
    NodeEnded,
    NodeFailed,
    NodeLogged,
    NodeReady,
    PauseNode,
    PortReserved,
    ReleasePort,
    ReservePort,
    StartNode,
    TakeUpCluster,
    TerminateNode,
)
from mpreg_nb.launcher.launcher import LOG_LINES, LaunchedNode, ReadyLine, end_now
from mpreg_nb.launcher.log_file import LogFile
from mpreg_nb.launcher.paused_node import Pauses
from mpreg_nb.launcher.pid import KILLED_S, await_end, end_all, is_alive, stamp
from mpreg_nb.launcher.process import (
    LOOPBACK,
    NodeProcess,
    listen_on_free_port,
    secured,
)
from mpreg_nb.node.environment import have_standard_files
from mpreg_nb.node.options import NodeOptions
from mpreg_nb.transport import local_socket
from mpreg_nb.transport.token import Token
from mpreg_nb.user_files import private_folder
from mpreg_nb.working_folder import machine

LOOK_S = 0.2
"""Between two looks whether logs have grown; no system tells that of files."""

LEAVE_S = 3.0
"""How long nodes may take to leave when the starter is gone, before they are killed."""

DRAIN_S = 10.0
"""How long nodes may finish what they run when the system ends them."""

LINE_BYTES = 1 << 20
"""Longest command; a longer one is not from a starter."""

FOR_EVER_S = 1e6


class KeptProcess:
    """A node that an earlier starter left here, as `LaunchedNode`."""

    def __init__(self, record: RecordedNode, log: Path) -> None:
        """Take up a node that runs."""
        self.name = record.name
        self.url = record.url
        self.stamp = record.process
        self.ready: Future[ReadyLine] = Future()
        self.ended: Future[int] = Future()
        self.resources = record.resources
        self._log = log
        self._pauses = Pauses(record.name, record.process, log)
        self.ready.set_result(
            ReadyLine(name=self.name, url=self.url, pid=self.stamp.pid, cluster_id="")
        )
        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        while not await_end((self.stamp,), timeout=FOR_EVER_S):
            pass
        self.ended.set_result(0)  # of a process that is no child no code is known

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return is_alive(self.stamp)

    def log(self, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that it wrote."""
        return self.log_reader().last(lines)

    def log_reader(self) -> LogFile:
        """Return what reads its lines."""
        return LogFile(self._log)

    def terminate(self, drain: float = 10.0) -> None:
        """Ask it to drain and leave; returns at once."""
        ending = partial(end_all, (self.stamp,), drain=drain)
        threading.Thread(target=ending, daemon=True).start()

    def kill(self) -> None:
        """End it and its workers at once."""
        self.terminate(0.0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return 0 once it has ended, or None after `timeout`."""
        try:
            return self.ended.result(timeout)
        except TimeoutError:
            return None

    def pause(self, seconds: float) -> None:
        """Stop it for `seconds`."""
        self._pauses.begin(seconds)

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return self._pauses.is_paused

    def resume(self) -> None:
        """End a pause."""
        self._pauses.end()


class FollowedLog:
    """Reports what one node writes, from its start on."""

    def __init__(
        self, node: LaunchedNode, report: Callable[[HostMessage], None]
    ) -> None:
        self._node = node
        self._report = report
        self._reader = node.log_reader()
        self._lock = threading.Lock()

    def look(self) -> None:
        """Report the lines that came since the last look."""
        with self._lock:
            try:
                lines = self._reader.more()
            except OSError:  # it went with the folder of the cluster
                return
            if lines:
                self._report(NodeLogged(node=self._node.name, lines=lines))


class HostAgent:
    """Carries out commands, one after the other; reports come from any thread."""

    def __init__(
        self,
        token: Token,
        report: Callable[[HostMessage], None],
        address: str = LOOPBACK,
    ) -> None:
        """Have no cluster yet. address: where others reach this host."""
        self._token = token
        self._address = address
        self._report = report
        self._ledger = ClusterFiles()
        self._entry: ClusterRecord | None = None
        self._nodes: dict[str, LaunchedNode] = {}
        self._resources: dict[str, tuple[str, ...]] = {}
        self._logs: dict[str, FollowedLog] = {}
        self._recording = threading.Lock()  # of the entry and the nodes in it
        self._reserved: dict[int, socket.socket] = {}
        self._exposed: list[Path] = []
        self.lease_s = FOR_EVER_S
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            EnterCluster: self._open,
            TakeUpCluster: self._attach,
            ReservePort: self._reserve,
            ReleasePort: self._release,
            StartNode: self._start,
            TerminateNode: self._terminate,
            KillNode: self._kill,
            PauseNode: self._pause,
            ExposeSocket: self._expose,
            ListNodes: self._list,
            EndCluster: self._end,
            Heartbeat: lambda beat: None,
        }

    def do(self, command: Command) -> None:
        """Carry out one command; what takes long goes on in a thread."""
        self._handlers[type(command)](command)

    # ------------------------------------------------------------------ cluster

    def _open(self, asked: EnterCluster) -> None:
        try:
            self._enter(asked)
        except OSError as error:
            self._report(ClusterRefused(reason=str(error)))

    def _enter(self, asked: EnterCluster) -> None:
        for entry in self._ledger.entries():
            if entry.cluster == asked.cluster and entry.cluster_id == asked.cluster_id:
                self._take_up(entry, asked.lease_s)
                return
        self._entry = self._ledger.claim(
            asked.cluster_id,
            name=asked.cluster,
            keep=asked.keep,
            notebook=asked.notebook,
            ca=asked.ca,
        )
        self._opened((), asked.lease_s)

    def _attach(self, asked: TakeUpCluster) -> None:
        kept = [e for e in self._ledger.entries() if e.keep and is_here(e)]
        for entry in kept:
            if _is(entry, asked.cluster):
                self._take_up(entry, asked.lease_s)
                return
        names = ", ".join(e.cluster for e in kept) or "none"
        self._report(
            ClusterRefused(
                reason=f"no kept cluster is named {asked.cluster!r}; kept: {names}"
            )
        )

    def _take_up(self, entry: ClusterRecord, lease_s: float) -> None:
        alive = tuple(node for node in entry.nodes if is_alive(node.process))
        self._entry = msgspec.structs.replace(entry, owner=stamp(os.getpid()))
        for node in alive:
            log = self._ledger.log_path(entry.cluster, node.name)
            self._watch(KeptProcess(node, log), node.resources)
        self._record()
        self._opened(alive, lease_s)

    def _opened(self, nodes: tuple[RecordedNode, ...], lease_s: float) -> None:
        if self._entry is None:
            raise RuntimeError("no cluster was entered")
        if not self._entry.keep:
            self.lease_s = lease_s
        local_socket.sweep()
        folder = private_folder(local_socket.folders()[0])
        self._report(
            ClusterEntered(
                sockets=str(folder),
                machine=machine().decode(),
                cluster=self._entry.cluster,
                cluster_id=self._entry.cluster_id,
                ca=self._entry.ca,
                nodes=nodes,
            )
        )

    def _record(self) -> None:
        with self._recording:
            if self._entry is None:
                return
            nodes = tuple(
                RecordedNode(
                    name=name,
                    resources=self._resources[name],
                    url=node.url,
                    process=node.stamp,
                )
                # A copy: another thread may start a node meanwhile.
                for name, node in list(self._nodes.items())
                if node.ready.done() and node.is_running
            )
            self._entry = msgspec.structs.replace(self._entry, nodes=nodes)
            self._ledger.record(self._entry)

    # -------------------------------------------------------------------- nodes

    def _reserve(self, asked: ReservePort) -> None:
        address = self._address if asked.is_open else LOOPBACK
        try:
            listening = listen_on_free_port(address)
        except OSError as error:
            said = f"no port of {address} can be opened: {error.strerror}"
            self._report(CommandDone(id=asked.id, error=said))
            return
        port = listening.getsockname()[1]
        self._reserved[port] = listening
        self._report(PortReserved(id=asked.id, port=port, address=address))

    def _release(self, asked: ReleasePort) -> None:
        listening = self._reserved.pop(asked.port, None)
        if listening is not None:
            listening.close()

    def _start(self, asked: StartNode) -> None:
        if self._entry is None:
            raise RuntimeError("no cluster was entered")
        name = asked.settings.name
        with self._reserved.pop(asked.port) as listening:
            try:
                log = self._ledger.log_path(self._entry.cluster, name)
                scratch = str(log.with_suffix(".files"))
                settings = msgspec.structs.replace(asked.settings, scratch=scratch)
                options = NodeOptions(settings=settings)
                node = NodeProcess.start(
                    secured(options, asked.tls, log) if asked.tls else options,
                    log=log,
                    token=self._token.reveal(),
                    keep=self._entry.keep,
                    listening=listening,
                    workers=asked.workers,
                )
            except (StartFailed, OSError) as error:  # others run on
                reason = error.reason if isinstance(error, StartFailed) else str(error)
                self._report(NodeFailed(node=name, reason=reason))
                self._report(NodeEnded(node=name, code=1))
                return
        self._watch(node, tuple(sorted(settings.resources)))

    def _watch(self, node: LaunchedNode, resources: tuple[str, ...]) -> None:
        name = node.name
        self._nodes[name] = node
        self._resources[name] = resources
        self._logs[name] = FollowedLog(node, self._report)
        node.ready.add_done_callback(partial(self._said_ready, node))
        node.ended.add_done_callback(partial(self._said_ended, node))

    def _said_ready(self, node: LaunchedNode, ready: "Future[ReadyLine]") -> None:
        error = ready.exception()
        if isinstance(error, StartFailed):
            log = error.log[-LOG_LINES:]
            self._report(NodeFailed(node=node.name, reason=error.reason, log=log))
        elif error is None:
            self._record()
            said = ready.result()
            self._report(NodeReady(node=node.name, url=said.url, process=node.stamp))

    def _said_ended(self, node: LaunchedNode, ended: "Future[int]") -> None:
        self._logs[node.name].look()
        self._report(NodeEnded(node=node.name, code=ended.result()))
        self._record()

    def follow(self, is_behind: Callable[[], bool]) -> None:
        """Report what nodes write, for ever; not while reports are not taken."""
        while True:
            for log in list(self._logs.values()):
                if not is_behind():
                    log.look()
            time.sleep(LOOK_S)

    def _terminate(self, asked: TerminateNode) -> None:
        if asked.node in self._nodes:  # else it could not be started
            self._nodes[asked.node].terminate(asked.drain_s)

    def _kill(self, asked: KillNode) -> None:
        if asked.node in self._nodes:
            self._nodes[asked.node].kill()

    def _pause(self, asked: PauseNode) -> None:
        self._in_thread(asked.id, partial(self._pause_now, asked))

    def _pause_now(self, asked: PauseNode) -> None:
        node = self._nodes[asked.node]
        if asked.seconds > 0:
            node.pause(asked.seconds)
        else:
            node.resume()
        self._report(CommandDone(id=asked.id))

    def _expose(self, asked: ExposeSocket) -> None:
        path = private_folder(local_socket.folders()[0]) / asked.socket
        path.unlink(missing_ok=True)  # of a tunnel that broke
        self._exposed.append(path)
        self._report(CommandDone(id=asked.id))

    # ------------------------------------------------------------------- ledger

    def _list(self, asked: ListNodes) -> None:
        rows = tuple(
            HostRow(
                cluster=row.cluster,
                node=row.node,
                state=row.state,
                resources=row.resources,
                pid=row.pid,
                notebook=row.notebook,
                started_s=row.started_at.timestamp(),
                by_hand=row.by_hand,
            )
            for row in self._ledger.rows()
        )
        self._report(Listed(id=asked.id, rows=rows))

    def _end(self, asked: EndCluster) -> None:
        def end() -> None:
            names = {e.cluster for e in self._ledger.entries() if _is(e, asked.cluster)}
            name = min(names, default=asked.cluster)
            ended = self._ledger.end(name, drain=asked.drain_s)
            self._report(ClusterEnded(id=asked.id, nodes=ended))

        with self._recording:  # else the end of a node would write the entry again
            self._entry = None
        self._in_thread(asked.id, end)

    def _in_thread(self, id: int, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (MpregError, OSError, KeyError) as error:
                missing = isinstance(error, NoCluster)
                said = CommandDone(id=id, error=str(error), is_missing=missing)
                self._report(said)

        threading.Thread(target=run, daemon=True).start()

    # ---------------------------------------------------------------------- end

    def close(self, drain_s: float = 0.0) -> None:
        """End what is not kept, and leave nothing of it: the starter is gone.

        drain_s: how long nodes may finish what they run.
        """
        for listening in self._reserved.values():
            listening.close()
        entry = self._entry
        if entry is not None and not entry.keep:
            nodes = list(self._nodes.values())
            for node in nodes:
                node.resume()
                node.terminate(drain_s)
            deadline = time.monotonic() + drain_s + LEAVE_S
            for node in nodes:
                node.wait(max(0.0, deadline - time.monotonic()))
            end_now([node for node in nodes if node.is_running])
            with self._recording:
                self._entry = None
                self._ledger.remove(entry)
        for path in self._exposed:
            path.unlink(missing_ok=True)
        local_socket.sweep()


def _is(entry: ClusterRecord, name: str) -> bool:
    """Whether it has this name, as `ps` lists it or as its starter gave it."""
    return name in (entry.cluster, entry.cluster.partition("@")[0])


MOST_WAITING = 100
"""Reports that wait before logs are read no further."""


class Reporter:
    """Writes reports in a thread: who does not read them holds up nothing else."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def __call__(self, report: HostMessage) -> None:
        """Send one report."""
        self._waiting.put(msgspec.json.encode(report) + b"\n")

    def is_behind(self) -> bool:
        """Whether many reports wait to be taken."""
        return self._waiting.qsize() > MOST_WAITING

    def finish(self, timeout_s: float) -> None:
        """Return when all was written, or nobody read it for `timeout_s`."""
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BrokenPipeError:  # nobody listens any more
                    return


class CommandReader:
    """Reads lines from a pipe, and notices silence."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def line(self, timeout_s: float) -> bytes:
        """Return the next line without its end; b"" at the end of all lines.

        Raises:
            TimeoutError: nothing came for so long.
            ValueError: the line is far too long.
        """
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_BYTES:
                raise ValueError("a line is too long to be a command")
            if not poll.poll(timeout_s * 1e3):
                raise TimeoutError
            piece = os.read(self._descriptor, 1 << 16)
            if not piece:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line


ENDING = (signal.SIGTERM, signal.SIGHUP)
"""How the system says that this program shall end."""

TOKEN_S = 30.0
"""From the start of this program until its starter has sent the token."""


def serve(
    commands: CommandReader,
    report: Reporter,
    address: str,
    on_token: Callable[[], object] = lambda: None,
) -> str:
    """Carry out commands until the starter is gone; return how that was noticed.

    address: where others reach this host.
    on_token: called when the first line, the token, has come.
    """
    token = Token(commands.line(TOKEN_S).decode(), source="the starter")
    on_token()
    host = HostAgent(token, report, address)
    follow = partial(host.follow, report.is_behind)
    threading.Thread(target=follow, daemon=True).start()
    drain_s = 0.0
    try:
        while line := commands.line(host.lease_s):
            command: Command = msgspec.json.decode(line, type=Command)
            host.do(command)
        return "the connection has ended"
    except TimeoutError:
        return f"nothing came for {host.lease_s:g} s"
    except SystemExit:  # the machine goes down, or the time of a job is over
        drain_s = DRAIN_S
        return "it was asked to end"
    finally:
        for number in ENDING:  # it ends already: nothing may cut that short
            signal.signal(number, signal.SIG_IGN)
        host.close(drain_s)
        report.finish(KILLED_S)


def main(arguments: Sequence[str]) -> int:
    """Run until the starter is gone; return the exit code."""
    have_standard_files()
    [mark] = arguments
    # The folder goes when the last login of the user ends, and kept nodes stay.
    os.environ.pop("XDG_RUNTIME_DIR", None)
    for number in ENDING:
        signal.signal(number, lambda number, frame: sys.exit(0))

    def say_mark() -> None:
        sys.stdout.write(f"\n{mark}\n")
        sys.stdout.flush()

    # "client port server port", as sshd says it.
    reached = os.environ.get("SSH_CONNECTION", "").split()
    address = reached[2] if len(reached) == 4 else LOOPBACK
    reason = serve(CommandReader(0), Reporter(1), address, say_mark)
    sys.stderr.write(f"mpreg-nb host: {reason}\n")
    sys.stderr.flush()
    # A thread that writes to a connection which stands still must not hold it up.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
