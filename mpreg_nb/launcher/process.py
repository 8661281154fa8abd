"""One node process of this machine: started, its ready line, its log, its end.

A node leads a session of its own, so that no terminal and no Stop button
reaches it, and its workers are in its process group, so that none survives it.
Standard error is the log file itself: a kernel that is busy or stopped never
holds up its nodes.
"""

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, Self

import msgspec
from msgspec.structs import replace

from mpreg_nb.errors import StartFailed
from mpreg_nb.launcher.child import Launched, launch, node_command, node_environment
from mpreg_nb.launcher.launcher import (
    LOG_LINES,
    IssueCertificate,
    Launcher,
    ReadyLine,
    wait_all_ready,
)
from mpreg_nb.launcher.log_file import LogFile
from mpreg_nb.launcher.paused_node import Pauses
from mpreg_nb.launcher.pid import (
    WATCHER,
    ProcessId,
    is_alive,
    open_pidfd,
    stamp,
)
from mpreg_nb.node.options import STDIN, NodeOptions, arguments_of
from mpreg_nb.settings import NodeSettings
from mpreg_nb.transport.tls import TlsMaterial
from mpreg_nb.transport.token import Token

LOOPBACK = "127.0.0.1"

UNREADY_BYTES = 64 * 1024
"""Longest line on standard output; start-up files of a site may print there too."""


class _Line(ReadyLine, frozen=True, kw_only=True):
    ready: bool


class ReadyReader:
    """Finds the ready line in what a node prints; other lines are passed over."""

    def __init__(self, name: str, cluster_id: str) -> None:
        """Expect this node; an empty `cluster_id` takes any cluster."""
        self._name = name
        self._cluster_id = cluster_id
        self._rest = b""  # of a line whose end has not come

    def receive(self, piece: bytes) -> ReadyLine | None:
        """Return what the node says, once its line is complete.

        Raises ValueError, with the reason, when it is not the expected node.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > UNREADY_BYTES:
            raise ValueError("its output is not a ready line")
        for line in lines:
            try:
                said = msgspec.json.decode(line, type=_Line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if said.ready:
                return self._checked(said)
        return None

    def _checked(self, said: _Line) -> ReadyLine:
        if said.name != self._name:
            raise ValueError(f"it calls itself {said.name!r}")
        if self._cluster_id not in {"", said.cluster_id}:
            raise ValueError("it started in another cluster")
        return ReadyLine(
            name=said.name, url=said.url, pid=said.pid, cluster_id=said.cluster_id
        )


ORDERLY_S = 0.5
"""Even without a drain a node has this long to leave by itself."""

HURRY_S = 1.0
"""From the second SIGTERM, which ends a drain, to SIGKILL."""

LOOK_S = 0.2
"""Between two looks where the system cannot tell that a child has ended."""


class NodeProcess:
    """One node process; every method may be called from any thread.

    `ready` becomes what the node said, or StartFailed if it ended before that.
    `ended` becomes its exit code, minus the signal's number if one ended it; by
    then its workers have been killed. Neither can be cancelled.
    """

    def __init__(
        self,
        name: str,
        url: str,
        cluster_id: str,
        log: Path,
        child: Launched,
        orderly_s: float = ORDERLY_S,
    ) -> None:
        """Take over a child; use `start` to make one."""
        self._orderly_s = orderly_s
        self.name = name
        self.url = url
        self.pid = child.popen.pid
        self.log_path = log
        self.stamp: ProcessId = stamp(self.pid)  # before anybody waits for the child
        self.ready: Future[ReadyLine] = Future()
        self.ended: Future[int] = Future()
        self.ready.set_running_or_notify_cancel()
        self.ended.set_running_or_notify_cancel()
        self._child = child
        self._owner = os.getpid()
        self._lock = threading.Lock()  # an id is signalled only before it is freed
        self._reaped = False
        self._hurry_at = math.inf
        self._kill_at = math.inf
        self._reader = ReadyReader(name, cluster_id)
        self._last_lines: tuple[str, ...] = ()
        self._pauses = Pauses(name, self.stamp, log)
        self._pidfd = open_pidfd(self.pid)
        self._output_open = True

    @classmethod
    def start(
        cls,
        options: NodeOptions,
        *,
        log: Path,
        token: str = "",
        keep: bool = False,
        listening: socket.socket | None = None,
        workers: int = 0,
        command: Sequence[str] = (),
        orderly_s: float = ORDERLY_S,
    ) -> Self:
        """Start a node and return at once; `wait_ready` tells whether it came up.

        log: file that its standard error is added to, in a folder that exists.
        token: handed over in the environment; none lets the node find its own.
        keep: the node outlives this process.
        listening: the node accepts on this socket, of which it gets a copy, so that
            its URL is known before it runs.
        workers: of all nodes that share the cores of this machine; 0 counts only its
            own.
        command: replaces the interpreter and module.
        orderly_s: even without a drain it has this long to leave by itself.

        Raises StartFailed when the system refuses to start a process.
        """
        name = options.settings.name
        inherited = () if listening is None else (listening.fileno(),)
        bound = replace(
            options,
            listening=inherited[0] if inherited else None,
            lifeline=None if keep else STDIN,
            parent=None if keep else os.getpid(),
        )
        try:
            child = launch(
                [*(command or node_command()), *arguments_of(bound)],
                log=log,
                environment=node_environment(token, workers),
                keep=keep,
                inherited=inherited,
            )
        except OSError as error:
            raise StartFailed(name, str(error)) from error
        try:
            url = "" if listening is None else url_of(options, listening)
            process = cls(name, url, options.settings.cluster_id, log, child, orderly_s)
            WATCHER.watch(process)
        except BaseException:  # interrupted: nobody would ever end it
            os.killpg(child.popen.pid, signal.SIGKILL)
            raise
        return process

    def __repr__(self) -> str:
        if not self.ended.done():
            state = "ready" if self.ready.done() else "starting"
        else:
            state = ending(self.ended.result())
        return f"<NodeProcess {self.name} {state}>"

    def wait_ready(self, timeout: float = 20.0) -> ReadyLine:
        """Return what the node says of itself, once it does.

        Raises StartFailed, with the last lines of its log, when it ended instead
        or `timeout` seconds passed; then it has been killed.
        """
        return wait_all_ready((self,), timeout)[0]

    def poll(self) -> int | None:
        """Return the exit code, or None while the node runs."""
        return self.ended.result() if self.ended.done() else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code once the node has ended, or None after `timeout`."""
        try:
            return self.ended.result(timeout)
        except TimeoutError:
            return None

    def terminate(self, drain: float = 10.0) -> None:
        """Ask the node to drain and leave, or with drain=0 to leave at once.

        After `drain` seconds, usually at the least half a second, it is asked to hurry,
        and a second later it and its workers are killed. Asking again can only shorten
        that.
        """
        self._check_owner()
        hurry_at = time.monotonic() + max(drain, self._orderly_s)
        with self._lock:
            self._hurry_at = min(self._hurry_at, hurry_at)
            self._kill_at = min(self._kill_at, hurry_at + HURRY_S)
            # SIGINT asks a node to leave at once, without a drain.
            self._signal(signal.SIGTERM if drain > 0 else signal.SIGINT)
        WATCHER.wake()

    def kill(self) -> None:
        """End the node and its workers without asking; returns at once."""
        self._check_owner()
        with self._lock:
            self._kill_group()

    @property
    def is_running(self) -> bool:
        """Whether the process is there and is no remains."""
        return self.poll() is None and is_alive(self.stamp)

    def pause(self, seconds: float) -> None:
        """Stop the node and its workers, as `LaunchedNode` says."""
        self._pauses.begin(seconds)

    @property
    def is_paused(self) -> bool:
        """Whether the node stands still."""
        return self._pauses.is_paused

    def resume(self) -> None:
        """End a pause; nothing happens where the node runs."""
        self._pauses.end()

    def log(self, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that this node wrote, control characters escaped."""
        try:
            return self.log_reader().last(lines)
        except OSError:  # the folder went with the cluster
            return self._last_lines[-lines:] if lines else ()

    def log_reader(self) -> LogFile:
        """Return what reads the lines of this node, from the first on."""
        return LogFile(self.log_path, self._child.log_start_bytes)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"node {self.name} belongs to the parent of this forked process. "
                "Connect to it from here: mp.connect(url)"
            )

    def _signal(self, number: signal.Signals) -> None:
        if not self._reaped:
            os.kill(self.pid, number)

    def _kill_group(self) -> None:
        if not self._reaped:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return  # only remains are left; macOS says EPERM for these

    # What follows is called by the watching thread only.

    def descriptors(self) -> set[int]:
        """Return what becomes readable when `step` has something to do."""
        if self.ended.done():
            return set()
        pidfd = {self._pidfd} if self._pidfd >= 0 else set()
        return pidfd | ({self._child.output} if self._output_open else set())

    def step(self, now: float) -> float:
        """Do what is due; return when to come again, at the latest."""
        remains = _remains(self.stamp)
        self._read_output()
        if remains != "none":
            self._settle(reaped=remains == "taken")
            return math.inf
        with self._lock:
            if now >= self._kill_at:
                self._kill_at = math.inf
                self._kill_group()
            elif now >= self._hurry_at:
                self._hurry_at = math.inf
                self._signal(signal.SIGTERM)
            look_at = math.inf if self._pidfd >= 0 else now + LOOK_S
            return min(self._hurry_at, self._kill_at, look_at)

    def _read_output(self) -> None:
        while self._output_open:
            try:
                piece = os.read(self._child.output, 4096)
            except BlockingIOError:
                return
            self._output_open = bool(piece)
            if self.ready.done():
                continue
            try:
                ready = self._reader.receive(piece)
            except ValueError as error:
                self._fail(str(error))
            else:
                if ready is not None:
                    self.ready.set_result(ready)

    def _fail(self, reason: str) -> None:
        self.ready.set_exception(StartFailed(self.name, reason, self.log(LOG_LINES)))
        with self._lock:
            self._kill_group()

    def _settle(self, *, reaped: bool) -> None:
        with self._lock:
            self._reaped = reaped
            # Workers first: until the leader is reaped nobody else gets its id.
            self._kill_group()
            code = self._child.popen.wait()
            self._reaped = True
        self._last_lines = self.log()
        if not self.ready.done():
            self._fail(f"it ended with {ending(code)}")
        self.ended.set_result(code)

    def close(self) -> None:
        """Give back the descriptors: the node has ended, or this is a fork."""
        for descriptor in (self._child.output, self._child.lifeline, self._pidfd):
            if descriptor >= 0:
                os.close(descriptor)


class ProcessLauncher(Launcher[NodeProcess]):
    """Starts nodes as processes of this machine, each on a free port."""

    def __init__(
        self,
        token: Token,
        *,
        keep: bool = False,
        command: Sequence[str] = (),
        orderly_s: float = ORDERLY_S,
        issue: IssueCertificate | None = None,
    ) -> None:
        """Start nodes that prove `token`.

        keep: they outlive this process.
        issue: makes their certificates; without it they listen on loopback.
        command: replaces the interpreter and module.
        orderly_s: even without a drain a node has this long to leave by itself.
        """
        self._token = token
        self._keep = keep
        self._command = command
        self._orderly_s = orderly_s
        self._issue = issue

    def start(
        self,
        settings: NodeSettings,
        *,
        host: str = "",
        log: Path,
        workers: int,
    ) -> NodeProcess:
        """Start a node and return at once, as `Launcher` says."""
        # From its file, where it has one: then a rotation reaches the node.
        path = self._token.path
        options = NodeOptions(settings=settings, token_file=str(path or ""))
        if self._issue is not None:
            tls = self._issue(settings.name, (settings.host,))
            options = secured(options, tls, log)
        try:
            listening = listen_on_free_port(settings.host)
        except OSError as error:
            reason = f"{settings.host}: {error.strerror}"
            raise StartFailed(settings.name, reason) from error
        with listening:
            return NodeProcess.start(
                options,
                log=log,
                token="" if path else self._token.reveal(),
                keep=self._keep,
                listening=listening,
                workers=workers,
                command=self._command,
                orderly_s=self._orderly_s,
            )


def listen_on_free_port(address: str = LOOPBACK) -> socket.socket:
    """Return a socket that listens on a free port, for a node to inherit.

    So its URL is known before it runs, nobody can take the port in between, and
    whoever connects early is served as soon as the node is up.

    Raises:
        OSError: this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=128)


def url_at(address: str, port: int, *, secure: bool) -> str:
    """Return the URL of a node.

    >>> url_at("fe80::1", 7400, secure=True)
    'wss://[fe80::1]:7400'
    """
    host = f"[{address}]" if ":" in address else address
    return f"{'wss' if secure else 'ws'}://{host}:{port}"


def url_of(options: NodeOptions, listening: socket.socket) -> str:
    """Return the URL of a node that accepts on `listening`."""
    if options.settings.advertised:
        return options.settings.advertised[0]
    address, port = listening.getsockname()[:2]
    return url_at(address, port, secure=bool(options.tls_cert))


def secured(options: NodeOptions, tls: TlsMaterial, log: Path) -> NodeOptions:
    """Return these options with a certificate, whose files are beside the log."""
    files = tls.write(log.with_suffix(".tls"), "node")
    return replace(options, tls_cert=files.certificate, tls_key=files.key, ca=files.ca)


def ending(code: int) -> str:
    """Return how a process ended, in words.

    >>> ending(3), ending(-9)
    ('exit code 3', 'signal SIGKILL')
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no name
        return f"signal {-code}"


def _remains(child: ProcessId) -> Literal["none", "there", "taken"]:
    """Return what is left of a child to wait for; none while it runs."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return "none" if is_alive(child) else "there"
    try:
        found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # somebody else waits for every child there is
        return "taken"
    return "none" if found is None else "there"
