"""What can be asked of the nodes of a cluster while others of it start and end."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.launcher.launcher import Launcher, ReadyLine
from mpreg_nb.launcher.node_spec import read_spec
from mpreg_nb.launcher.pid import ProcessId
from mpreg_nb.launcher.started_nodes import StartedNodes
from mpreg_nb.settings import NodeSettings
from tests.support.links import TOKEN


class LookedAt:
    """A node that tells who looks whether it runs."""

    def __init__(self, settings: NodeSettings) -> None:
        self.name = settings.name
        self.url = ""
        self.stamp = ProcessId(pid=1, started_s=0.0)
        self.ready: Future[ReadyLine] = Future()
        self.ended: Future[int] = Future()
        self.looked: Callable[[], object] = lambda: None
        self.ready.set_result(
            ReadyLine(name=self.name, url="", pid=1, cluster_id=settings.cluster_id)
        )

    @property
    def is_running(self) -> bool:
        looked, self.looked = self.looked, lambda: None
        looked()
        return not self.ended.done()

    @property
    def is_paused(self) -> bool:
        return not self.is_running

    def resume(self) -> None:
        """Run: it was never paused."""

    def terminate(self, drain: float = 10.0) -> None:
        self.ended.set_result(0)

    def wait(self, timeout: float | None = None) -> int | None:
        return self.ended.result(timeout)


class OfNodes(Launcher[Any]):
    """Makes nodes that are no processes."""

    def __init__(self) -> None:
        self.nodes: dict[str, LookedAt] = {}

    def start(
        self, settings: NodeSettings, *, host: str = "", log: Path, workers: int
    ) -> LookedAt:
        node = self.nodes[settings.name] = LookedAt(settings)
        return node


@pytest.fixture
def launcher() -> OfNodes:
    return OfNodes()


@pytest.fixture
def started(
    launcher: OfNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StartedNodes]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    made = StartedNodes(
        TOKEN, name="", keep=False, notebook="", workers=1, slots=1, launcher=launcher
    )
    yield made
    made.close()


@pytest.mark.parametrize("asked", ["dead", "urls", "waiting", "paused"])
def test_nodes_are_looked_at_while_one_is_added(
    started: StartedNodes, launcher: OfNodes, asked: str
) -> None:
    started.start(read_spec(2), 60)
    first = next(iter(launcher.nodes.values()))
    first.ready = Future() if asked == "waiting" else first.ready
    first.looked = lambda: started.start(read_spec("late"), 60)  # as a thread may

    found = getattr(started, asked)

    assert "late" in launcher.nodes
    assert "late" not in found
