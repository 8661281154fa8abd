"""All nodes end and start again: every connected notebook works again by itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.transport.token import load_token

pytestmark = pytest.mark.live

BACK_S = 30.0
"""From the moment that all nodes are ready again."""

PROGRAM = str(Path(sys.executable).with_name("mpreg-nb"))

NAMES = ("m1", "m2")


class Nodes:
    """Nodes that were started by hand, each with all others as seeds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[str]] = {}
        self.ports: dict[str, int] = {}
        self.cluster_ids: set[str] = set()
        self.token = load_token().reveal()

    @property
    def urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}" for port in self.ports.values()]

    def start(self) -> None:
        """Start all; the first time each takes a free port and joins the first."""
        first_time = not self.ports
        self.cluster_ids.clear()
        for name in NAMES:
            self._running[name] = self._spawn(name)
            if first_time:
                self._await_ready(name)
        if not first_time:
            for name in NAMES:
                self._await_ready(name)

    def kill(self) -> None:
        """End all at once, as the reboot of their host does."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """End all in order, without waiting for what they run."""
        for node in self._running.values():
            node.send_signal(number)
        for node in self._running.values():
            node.communicate()
        self._running.clear()

    def _spawn(self, name: str) -> "subprocess.Popen[str]":
        seeds = [port for other, port in self.ports.items() if other != name]
        joins = [
            word for port in seeds for word in ("--join", f"ws://127.0.0.1:{port}")
        ]
        command = [PROGRAM, "node", "--name", name]
        with (self._folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [*command, "--port", str(self.ports.get(name, 0)), *joins],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "MPREG_NB_TOKEN": self.token},
            )

    def _await_ready(self, name: str) -> None:
        output = self._running[name].stdout
        assert output is not None
        said: dict[str, Any] = json.loads(output.readline())
        self.ports[name] = int(said["url"].rpartition(":")[2])
        self.cluster_ids.add(said["cluster_id"])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.end()


@contextmanager
def notebooks(nodes: Nodes) -> Iterator[list[mp.Cluster]]:
    """Yield two that are connected: with direct links, and through one node."""
    with (
        mp.connect(nodes.urls[0]) as direct,
        mp.connect(nodes.urls[1], direct=False) as through_one,
    ):
        yield [direct, through_one]


def increment(value: int) -> int:
    return value + 1


def lose(what: str, folder: Path) -> None:
    """Delete what does not outlive the reboot, or the move to another machine."""
    own = folder / "own"
    for name in ("runtime", "state") if what == "all files" else ("runtime",):
        for path in (own / name).iterdir():
            shutil.rmtree(path)


@pytest.mark.parametrize("lost", ["files for run-time", "all files"])
def test_notebooks_work_again_when_all_nodes_were_killed_and_started_again(
    nodes: Nodes, lost: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(nodes.cluster_ids)
    with notebooks(nodes) as clusters:
        for number, cluster in enumerate(clusters):
            named = cluster.register(increment, name=f"increment-{number}")
            assert named.call(1) == 2

        nodes.kill()
        lose(lost, tmp_path)
        nodes.start()

        until = time.monotonic() + BACK_S
        for number, cluster in enumerate(clusters):
            left_s = until - time.monotonic()
            by_name = cluster.on(timeout=left_s, wait=left_s)
            assert by_name.call(f"increment-{number}", number) == number + 1
            cluster.wait_for(*NAMES, timeout=BACK_S)

    assert (nodes.cluster_ids == before) is (lost != "all files")
    told = [line for line in capfd.readouterr().err.splitlines() if "again" in line]
    assert sorted(told) == [
        f"mpreg_nb: registered 1 function again (increment-{number}): all nodes that "
        "held it had been started again"
        for number in (0, 1)
    ]
