"""What becomes of nodes when the process that started them ends."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mpreg_nb.launcher.child import node_environment
from mpreg_nb.launcher.pid import await_end, end_all, is_alive, stamp
from tests.support.leaks import Leaks, nothing_left

pytestmark = pytest.mark.live

KERNEL = Path(__file__).parents[1] / "support" / "fake_kernel.py"
SOON_S = 60.0


@pytest.fixture(autouse=True)
def leaks(tmp_path: Path) -> Iterator[Leaks]:
    with nothing_left(tmp_path) as watched:
        yield watched


class Kernel:
    """A process of its own that started nodes."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(KERNEL), str(folder), *words],
            env=node_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        self.nodes = [stamp(int(word)) for word in self.line().split()]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_nodes_end_with_a_kernel_that_was_killed(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)

    kernel.process.kill()
    kernel.process.communicate()

    assert len(kernel.nodes) == 2
    assert await_end(kernel.nodes, timeout=60)


def test_a_fork_of_the_kernel_does_not_keep_its_nodes(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, "fork")
    fork_pid, words = kernel.line().split(maxsplit=1)
    fork = psutil.Process(int(fork_pid))

    held = open_pipes(fork.pid) & open_pipes(kernel.nodes[0].pid)
    kernel.process.kill()
    ended = await_end(kernel.nodes, timeout=60)
    fork.kill()
    kernel.process.communicate()

    assert words.startswith("node n1 belongs to the parent of this forked process")
    assert held == set()
    assert ended


def test_kept_nodes_outlive_a_killed_kernel_until_they_are_ended(
    tmp_path: Path,
) -> None:
    kernel = Kernel(tmp_path, "keep")

    kernel.kill()

    assert not await_end(kernel.nodes, timeout=0.2)
    assert all(is_alive(node) for node in kernel.nodes)
    assert end_all(kernel.nodes, drain=SOON_S) == tuple(kernel.nodes)
    assert not any(is_alive(node) for node in kernel.nodes)


def test_ending_finds_the_workers_of_a_node_that_died_before(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, "keep")
    log = (tmp_path / "n1.log").read_text()
    worker = stamp(int(log.split("worker ")[1].split()[0]))
    kernel.kill()
    os.kill(kernel.nodes[0].pid, 9)
    await_end(kernel.nodes[:1], timeout=SOON_S)

    alive = end_all(kernel.nodes, drain=SOON_S)

    assert alive == tuple(kernel.nodes[1:])
    assert not is_alive(worker)


def open_pipes(pid: int) -> set[str]:
    """Return the pipes that a process has open; none where that cannot be seen."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").glob("*"))
    return {link for link in links if link.startswith("pipe:")}
