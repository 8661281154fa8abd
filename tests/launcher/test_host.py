"""What the program on a host does when a command there cannot be carried out."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.launcher import host
from mpreg_nb.launcher.cluster_files import RecordedNode
from mpreg_nb.launcher.host import HostAgent, KeptProcess
from mpreg_nb.launcher.host_messages import (
    Command,
    EnterCluster,
    HostMessage,
    KillNode,
    Listed,
    ListNodes,
    NodeEnded,
    NodeFailed,
    NodeReady,
    PortReserved,
    ReleasePort,
    ReservePort,
    StartNode,
    TerminateNode,
)
from mpreg_nb.launcher.launcher import ReadyLine
from mpreg_nb.launcher.log_file import LogFile
from mpreg_nb.launcher.pid import ProcessId, stamp
from mpreg_nb.launcher.process import NodeProcess
from mpreg_nb.settings import NodeSettings
from tests.support.links import CLUSTER, TOKEN


class FakeNode:
    """A node that starts and ends when the test says so."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.url = "ws://127.0.0.1:7400"
        self.stamp = ProcessId(pid=1, started_s=0.0)
        self.ready: Future[ReadyLine] = Future()
        self.ended: Future[int] = Future()
        self.looked: Callable[[], object] = lambda: None  # hears who asks
        self._log = log

    @property
    def is_running(self) -> bool:
        self.looked()
        return not self.ended.done()

    def is_up(self) -> None:
        line = ReadyLine(name=self.name, url=self.url, pid=1, cluster_id=CLUSTER)
        self.ready.set_result(line)

    def log_reader(self) -> LogFile:
        return LogFile(self._log)

    def resume(self) -> None:
        """Run: it was never paused."""

    def terminate(self, drain: float = 10.0) -> None:
        self.ended.set_result(0)

    def wait(self, timeout: float | None = None) -> int | None:
        return self.ended.result(timeout)


class Host:
    """The program on a host, with one cluster, and what it has reported."""

    def __init__(self) -> None:
        self.reports: list[HostMessage] = []
        self.agent = HostAgent(TOKEN, self.reports.append)
        self.ask(
            EnterCluster(
                cluster="lab",
                cluster_id=CLUSTER,
                keep=False,
                notebook="",
                lease_s=30.0,
            )
        )

    def ask(self, command: Command) -> list[HostMessage]:
        """Return what a command had reported at once."""
        before = len(self.reports)
        self.agent.do(command)
        return self.reports[before:]

    def start(self, name: str) -> list[HostMessage]:
        [reserved] = self.ask(ReservePort(id=1))
        assert isinstance(reserved, PortReserved)
        settings = NodeSettings(name=name)
        return self.ask(StartNode(settings=settings, port=reserved.port, workers=1))


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    made = Host()
    yield made
    made.agent.close()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeNode]:
    """Return the nodes that were started, which are no processes."""
    started: dict[str, FakeNode] = {}

    def start(options: Any, *, log: Path, **_: Any) -> FakeNode:
        node = started[options.settings.name] = FakeNode(options.settings.name, log)
        return node

    monkeypatch.setattr(NodeProcess, "start", start)
    return started


@pytest.mark.parametrize(
    "command",
    [
        KillNode(node="n1"),
        TerminateNode(node="n1", drain_s=0.0),
        ReleasePort(port=1),
    ],
)
def test_a_word_to_what_is_not_there_changes_nothing(
    there: Host, command: Command
) -> None:
    assert there.ask(command) == []


def test_a_node_that_cannot_be_started_fails_alone(there: Host, tmp_path: Path) -> None:
    log = tmp_path / "state" / "mpreg_nb" / "clusters" / "lab" / "n1.log"
    log.mkdir(parents=True)  # no file can be there
    for folder in (log.parent, log.parent.parent, log.parent.parent.parent):
        folder.chmod(0o700)

    failed, ended = there.start("n1")
    [listed] = there.ask(ListNodes(id=2))

    assert isinstance(failed, NodeFailed)
    assert (failed.node, "directory" in failed.reason) == ("n1", True)
    assert ended == NodeEnded(node="n1", code=1)
    assert isinstance(listed, Listed)


def test_a_node_without_a_folder_for_its_log_fails_alone(
    there: Host, tmp_path: Path
) -> None:
    folder = tmp_path / "state" / "mpreg_nb" / "clusters" / "lab"
    folder.write_text("no folder")

    failed, ended = there.start("n1")

    assert isinstance(failed, NodeFailed)
    assert "is not a folder" in failed.reason or "exists" in failed.reason
    assert ended == NodeEnded(node="n1", code=1)


def test_a_node_is_ready_while_another_one_is_started(
    there: Host, nodes: dict[str, FakeNode]
) -> None:
    there.start("n1")
    there.start("n2")

    def start_another() -> None:
        nodes["n1"].looked = lambda: None
        there.start("n3")

    nodes["n1"].looked = start_another  # as another thread may
    nodes["n1"].is_up()

    assert [r.node for r in there.reports if isinstance(r, NodeReady)] == ["n1"]


def test_a_kept_node_has_not_ended_however_long_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def await_end(known: object, *, timeout: float) -> bool:
        looks.append(timeout)
        return len(looks) == 3

    monkeypatch.setattr(host, "await_end", await_end)
    record = RecordedNode(name="n1", resources=(), url="", process=stamp(1))

    kept = KeptProcess(record, tmp_path / "n1.log")

    assert kept.wait(60) == 0
    assert len(looks) == 3
