"""What every `Launcher` must do, wherever its nodes run.

A test module of a launcher has a fixture `launched` that returns a `Launched`, and a
class that inherits `LauncherContract`.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest

from mpreg_nb.errors import StartFailed
from mpreg_nb.launcher.launcher import (
    AS_FOUND,
    LaunchedNode,
    Launcher,
    end_now,
    wait_all_ready,
)
from mpreg_nb.launcher.pid import await_end, stamp
from mpreg_nb.settings import NodeSettings

SOON_S = 60.0

MakeLauncher: TypeAlias = Callable[[bool], Launcher[LaunchedNode]]
"""Make a launcher; its argument: whether the nodes outlive it."""


class Launched:
    """Nodes that a launcher has started for a test."""

    def __init__(self, make: MakeLauncher, folder: Path, host: str = "") -> None:
        self.make = make
        self.host = host
        self.folder = folder
        self.launchers: list[Launcher[LaunchedNode]] = []
        self.nodes: list[LaunchedNode] = []

    def _launcher(self, keep: bool) -> Launcher[LaunchedNode]:
        if not self.launchers:
            launcher = self.make(keep)
            assert launcher.prepare((self.host,), AS_FOUND).result(SOON_S) == {}
            self.launchers.append(launcher)
        return self.launchers[0]

    def close(self) -> None:
        end_now(self.nodes)
        for launcher in self.launchers:
            launcher.close()

    def start(
        self,
        name: str,
        *,
        join: tuple[str, ...] = (),
        cluster_id: str = "a" * 32,
        keep: bool = False,
    ) -> LaunchedNode:
        settings = NodeSettings(name=name, join=join, cluster_id=cluster_id, workers=1)
        node = self._launcher(keep).start(
            settings,
            host=self.host,
            log=self.folder / f"{name}.log",
            workers=1,
        )
        self.nodes.append(node)
        return node


def started_by_another(launched: Launched, *, keep: bool) -> tuple[int, int]:
    """Start a node from a process that is then killed; return ids of node and worker.

    The launcher must come from a function of a module.
    """
    make = launched.make
    program = f"""
import sys
from pathlib import Path
from {make.__module__} import {make.__name__} as make
from tests.support.launcher_contract import Launched, SOON_S
node = Launched(make, Path(sys.argv[1]), {launched.host!r}).start("n1", keep={keep})
print(node.ready.result(SOON_S).pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(launched.folder)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        node = int(starter.stdout.readline())
        (worker,) = psutil.Process(node).children()
        starter.kill()
    return node, worker.pid


class LauncherContract:
    """The tests; they run where process ids of nodes are those of this machine."""

    def test_nodes_find_each_other_before_they_are_ready(
        self, launched: Launched
    ) -> None:
        first = launched.start("n1")
        second = launched.start("n2", join=(first.url,))

        ready = wait_all_ready((first, second), SOON_S)

        assert [(each.name, each.url) for each in ready] == [
            ("n1", first.url),
            ("n2", second.url),
        ]
        assert {each.cluster_id for each in ready} == {"a" * 32}
        assert not first.ended.done()

    def test_a_node_that_does_not_come_up_fails_with_its_last_lines(
        self, launched: Launched
    ) -> None:
        node = launched.start("n1", cluster_id="no id")

        with pytest.raises(StartFailed, match="n1") as failed:
            node.ready.result(SOON_S)

        assert any("32 hexadecimal digits" in line for line in failed.value.log)
        assert node.wait(SOON_S) == 2

    def test_a_node_that_is_asked_leaves_with_its_workers(
        self, launched: Launched
    ) -> None:
        node = launched.start("n1")
        process = psutil.Process(node.ready.result(SOON_S).pid)
        workers = [stamp(child.pid) for child in process.children()]
        told = threading.Event()
        node.ended.add_done_callback(lambda _: told.set())

        node.terminate(drain=5)

        assert node.wait(SOON_S) == 0
        assert told.wait(SOON_S)
        assert await_end(workers, timeout=SOON_S)
        assert "joined" in " ".join(node.log())

    def test_a_node_that_is_killed_ends_with_its_workers(
        self, launched: Launched
    ) -> None:
        node = launched.start("n1")
        process = psutil.Process(node.ready.result(SOON_S).pid)
        workers = [stamp(child.pid) for child in process.children()]

        end_now([node])
        node.kill()  # again: nothing happens

        assert node.ended.result(SOON_S) == -signal.SIGKILL
        assert await_end(workers, timeout=SOON_S)

    def test_a_node_ends_soon_after_the_process_that_started_it(
        self, launched: Launched
    ) -> None:
        node, worker = started_by_another(launched, keep=False)

        assert await_end([stamp(node), stamp(worker)], timeout=10)

    def test_a_node_that_is_kept_outlives_the_process_that_started_it(
        self, launched: Launched
    ) -> None:
        node, _ = started_by_another(launched, keep=True)
        kept = stamp(node)

        try:
            assert not await_end([kept], timeout=1)
        finally:
            os.kill(node, signal.SIGTERM)
        assert await_end([kept], timeout=SOON_S)
