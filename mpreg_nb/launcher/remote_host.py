"""One host as its starter sees it: the nodes there, and what is said about them.

The program there (`launcher/host.py`) reads commands and writes reports, one line each.
What carries the lines is not known here: a channel of ssh, or the connection that a job
of a batch queue has opened.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.errors import HostFailure, HostsFailed, MpregError, NoCluster
from mpreg_nb.launcher.cluster_files import RecordedNode
from mpreg_nb.launcher.host_messages import (
    ClusterEnded,
    ClusterEntered,
    ClusterRefused,
    CommandDone,
    Heartbeat,
    HostMessage,
    KillNode,
    Listed,
    NodeEnded,
    NodeFailed,
    NodeLogged,
    NodeReady,
    PauseNode,
    PortReserved,
    Report,
    StartNode,
    TerminateNode,
)
from mpreg_nb.launcher.launcher import LOG_LINES, LaunchContext, ReadyLine
from mpreg_nb.launcher.log_file import LogFile
from mpreg_nb.launcher.pid import ProcessId
from mpreg_nb.launcher.process import url_at
from mpreg_nb.settings import NodeSettings

LOG = logging.getLogger("mpreg_nb.launcher.remote_host")

ALIVE_S = 5.0
"""Between two words that the starter is there."""

ANSWER_S = 30.0
"""In which a command on a host must be carried out."""

R = TypeVar("R", bound=HostMessage)


class HostError(Exception):
    """A host failed; `failure` says where and why."""

    def __init__(
        self,
        host: str,
        stage: str,
        reason: str,
        how: str = "",
        log: Collection[str] = (),
    ) -> None:
        """how: the cure."""
        super().__init__(reason)
        self.failure = HostFailure(host, stage, reason, how, tuple(log)[-LOG_LINES:])


class RemoteNode:
    """One node on another machine, as `LaunchedNode`."""

    def __init__(self, name: str, url: str, log: Path, host: "RemoteHost") -> None:
        """Know where it will be; it is started by its host."""
        self.name = name
        self.url = url
        self.ready: Future[ReadyLine] = Future()
        self.ended: Future[int] = Future()
        self.stamp = ProcessId(pid=1, started_s=0.0)
        self._log = log
        self._start_bytes = log.stat().st_size if log.exists() else 0
        self._last_lines: tuple[str, ...] = ()
        self.host = host
        self._paused_until: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_unwritten = False  # its log, which was told

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else "there"
        return f"<RemoteNode {self.name} on {self.host.name}, {state}>"

    @property
    def is_running(self) -> bool:
        """Whether it runs, as far as its host has said."""
        return not self.ended.done()

    def log(self, lines: int = 50) -> tuple[str, ...]:
        """Return the last lines that came from it."""
        try:
            return self.log_reader().last(lines)
        except OSError:  # the folder went with the cluster
            return self._last_lines[-lines:] if lines else ()

    def log_reader(self) -> LogFile:
        """Return what reads the copy of its log."""
        return LogFile(self._log, self._start_bytes)

    def terminate(self, drain: float = 10.0) -> None:
        """Ask it to leave."""
        self.host.send(TerminateNode(node=self.name, drain_s=drain))

    def kill(self) -> None:
        """End it at once."""
        self.host.send(KillNode(node=self.name))

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code once it has ended, or None after `timeout`."""
        try:
            return self.ended.result(timeout)
        except TimeoutError:
            return None

    def pause(self, seconds: float) -> None:
        """Stop it for `seconds`; the host lets it go on."""
        self.host.ask_now(
            lambda id: PauseNode(id=id, node=self.name, seconds=seconds), CommandDone
        )
        self.host.after(seconds, self)
        self._is_paused = True

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return self._is_paused and not self.ended.done()

    def resume(self) -> None:
        """End a pause."""
        if self.is_paused:
            self._is_paused = False
            self.host.ask_now(
                lambda id: PauseNode(id=id, node=self.name, seconds=0), CommandDone
            )

    # What follows is called on the loop of the launcher only.

    def goes_on_after(self, seconds: float) -> None:
        """Know when the pause is over."""
        if self._paused_until is not None:
            self._paused_until.cancel()
        loop = asyncio.get_running_loop()
        self._paused_until = loop.call_later(seconds, self._goes_on)

    def _goes_on(self) -> None:
        self._is_paused = False

    def is_ready(self, said: NodeReady, cluster_id: str) -> None:
        """Take its ready line."""
        self.stamp = said.process
        if not self.ready.done():
            self.ready.set_result(
                ReadyLine(
                    name=self.name,
                    url=said.url,
                    pid=said.process.pid,
                    cluster_id=cluster_id,
                )
            )

    def write(self, lines: Collection[str]) -> None:
        """Add lines to the copy of its log; without room for them it runs on."""
        text = "".join(f"{line}\n" for line in lines)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(self._log, flags, 0o600), "a") as file:
                file.write(text)
        except FileNotFoundError:  # the folder went with the cluster
            return
        except OSError as error:
            if not self._is_unwritten:
                LOG.warning("lines of node %s are lost: %s", self.name, error)
            self._is_unwritten = True

    def failed(self, failure: HostFailure) -> None:
        """Not come up."""
        if not self.ready.done():
            self.ready.set_exception(HostsFailed((failure,)))

    def has_ended(self, code: int) -> None:
        """Be gone."""
        if not self.ended.done():
            self._last_lines = self.log()
            self.ended.set_result(code)


class RemoteHost:
    """The nodes of one host, and the commands and reports that are about them.

    But for `send`, `ask_now` and `after`, its methods are for the loop of `thread`.
    """

    def __init__(
        self,
        name: str,
        context: LaunchContext,
        thread: LoopThread,
        write: Callable[[str], None],
    ) -> None:
        """Know no node yet. write: sends a line there, if there is a way."""
        self.name = name
        self.nodes: dict[str, RemoteNode] = {}
        self.errors: list[str] = []
        """The last lines that the program there wrote on its standard error."""

        self.is_up = False
        self._context = context
        self._thread = thread
        self._write_line = write
        self._entered: asyncio.Future[ClusterEntered] | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._newest_id = 0

    async def enter(self, command: HostMessage) -> ClusterEntered:
        """Have the program there enter a cluster, as asked.

        Raises:
            HostError: it did not.
        """
        self._entered = asyncio.get_running_loop().create_future()
        self.write(command)
        try:
            return await asyncio.wait_for(self._entered, ANSWER_S)
        except TimeoutError:
            raise HostError(
                self.name,
                "import",
                f"the program there did not answer within {ANSWER_S:g} s",
                log=self.errors,
            ) from None

    async def beat(self) -> None:
        """Say that the starter is there, for ever."""
        while True:
            await asyncio.sleep(min(ALIVE_S, self._context.lease_s / 6))
            self.write(Heartbeat())

    # ------------------------------------------------------------------------ nodes

    def expect(self, name: str, url: str, log: Path) -> RemoteNode:
        """Return a node that will run there."""
        node = self.nodes[name] = RemoteNode(name, url, log, self)
        return node

    def start_over_tls(
        self,
        settings: NodeSettings,
        reserved: PortReserved,
        workers: int,
        *,
        seen: str = "",
    ) -> str:
        """Start a node that listens with a certificate of the cluster; return its URL.

        seen: where others dial it, if not at the address that was reserved.
        """
        if self._context.issue is None:
            raise RuntimeError("this cluster has no certificates")
        url = url_at(seen or reserved.address, reserved.port, secure=True)
        is_elsewhere = seen not in ("", reserved.address)
        tls = self._context.issue(
            settings.name, (reserved.address, *([seen] if is_elsewhere else []))
        )
        bound = msgspec.structs.replace(
            settings,
            host=reserved.address,
            advertised=(url,) if is_elsewhere else (),
        )
        self.write(
            StartNode(settings=bound, port=reserved.port, workers=workers, tls=tls)
        )
        return url

    async def end(self, kept: RecordedNode, log: Path) -> None:
        """End a node that runs since an earlier connection."""
        node = self.expect(kept.name, kept.url, log)
        self.write(TerminateNode(node=kept.name, drain_s=0.0))
        await asyncio.wait_for(asyncio.wrap_future(node.ended), ANSWER_S)

    def take_up(self, kept: RecordedNode, log: Path) -> RemoteNode:
        """Return a node that runs there since an earlier connection."""
        node = self.expect(kept.name, kept.url, log)
        said = NodeReady(node=kept.name, url=kept.url, process=kept.process)
        node.is_ready(said, self._context.cluster_id)
        return node

    # --------------------------------------------------------------------- messages

    def send(self, command: HostMessage) -> None:
        """Send a command, in any thread; nothing happens where the host is gone."""
        if self.is_up and not self._thread.is_of_parent:
            self._thread.call_soon(self.write, command)

    def ask_now(self, make: Callable[[int], HostMessage], answer: type[R]) -> R:
        """Send a command and wait for its answer, in any thread.

        Raises:
            MpregError: it was not carried out.
        """
        try:
            return self._thread.run(self.ask(make, answer))
        except HostError as error:
            raise MpregError(str(error.failure)) from error

    def after(self, seconds: float, node: RemoteNode) -> None:
        """Tell `node` that its pause is over when it is."""
        self._thread.call_soon(node.goes_on_after, seconds)

    async def ask(self, make: Callable[[int], HostMessage], answer: type[R]) -> R:
        """Send a command with an id and return its answer.

        Raises:
            HostError: it was not carried out.
        """
        self._newest_id += 1
        id = self._newest_id
        future = asyncio.get_running_loop().create_future()
        self._answers[id] = future
        self.write(make(id))
        try:
            said = await asyncio.wait_for(future, ANSWER_S)
        except TimeoutError:
            raise HostError(
                self.name, "start", f"no answer within {ANSWER_S:g} s", log=self.errors
            ) from None
        finally:
            del self._answers[id]
        if isinstance(said, CommandDone) and said.is_missing:
            raise NoCluster(f"on {self.name}: {said.error}")
        if isinstance(said, CommandDone) and said.error:
            raise HostError(self.name, "start", said.error)
        if not isinstance(said, answer):
            raise HostError(self.name, "start", f"an answer of another kind: {said}")
        return said

    def write(self, command: HostMessage) -> None:
        """Send a command; nothing happens where the host is gone."""
        self._write_line(msgspec.json.encode(command).decode() + "\n")

    def receive(self, line: str) -> None:
        """Take one report."""
        self._take(msgspec.json.decode(line, type=Report))

    def _take(self, said: Any) -> None:
        match said:
            case ClusterEntered() | ClusterRefused():
                entered = self._entered
                if entered is None or entered.done():  # too late
                    return
                if isinstance(said, ClusterEntered):
                    entered.set_result(said)
                else:
                    error = HostError(self.name, "start", said.reason)
                    entered.set_exception(error)
            case PortReserved() | CommandDone() | Listed() | ClusterEnded():
                future = self._answers.get(said.id)
                if future is not None and not future.done():
                    future.set_result(said)
            case NodeReady() if said.node in self.nodes:
                self.nodes[said.node].is_ready(said, self._context.cluster_id)
            case NodeLogged() if said.node in self.nodes:
                self.nodes[said.node].write(said.lines)
            case NodeFailed() if said.node in self.nodes:
                reason = f"node {said.node} did not start: {said.reason}"
                self.nodes[said.node].failed(
                    HostFailure(self.name, _stage_of(said), reason, log=said.log)
                )
            case NodeEnded() if said.node in self.nodes:
                self.nodes[said.node].has_ended(said.code)

    def lost(self, reason: str) -> None:
        """The connection is gone: nodes that are not kept end by their lease."""
        self.is_up = False
        for node in self.nodes.values():
            if node.is_running:
                node.write((f"mpreg_nb: {reason}",))
                node.failed(HostFailure(self.name, "connect", reason))
                node.has_ended(-signal.SIGHUP)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(HostError(self.name, "connect", reason))
        if self._entered is not None and not self._entered.done():
            self._entered.set_exception(
                HostError(
                    self.name, "import", "the program there ended", log=self.errors
                )
            )


def _stage_of(said: NodeFailed) -> str:
    text = "\n".join((said.reason, *said.log))
    if "ImportError" in text or "ModuleNotFoundError" in text:
        return "import"
    return "bind" if "Address already in use" in text else "join"
