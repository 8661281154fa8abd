"""The set-up cell brings a cluster back, whatever has happened to its nodes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of

pytestmark = pytest.mark.live


@pytest.fixture
def cluster() -> Iterator[mp.Cluster]:
    with mp.up({"n1": (), "n2": "gpu"}, fresh=True) as cluster:
        yield cluster


def again() -> mp.Cluster:
    """Run the set-up cell once more."""
    return mp.up({"n1": (), "n2": "gpu"})


def pid_of(cluster: mp.Cluster, node: str) -> int:
    rows = mp.ps()
    mine = rows[(rows.cluster == cluster.name) & (rows.node == node)]
    return int(mine.pid.iloc[0])


def double(value: int) -> int:
    return 2 * value


def triple(value: int) -> int:
    return 3 * value


def test_all_nodes_that_were_killed_a_moment_ago_and_their_functions_are_back(
    cluster: mp.Cluster,
) -> None:
    cluster.register(double)
    cluster.register(triple, resources="gpu")
    for node in ("n1", "n2"):
        process = psutil.Process(pid_of(cluster, node))
        for one in (*process.children(recursive=True), process):
            one.send_signal(signal.SIGKILL)

    assert again() is cluster

    assert cluster.on(timeout=60).call("double", 2) == 4
    assert cluster.on(timeout=60).call(double, 3) == 6
    assert cluster.on("gpu", timeout=60).call("triple", 4) == 12
    assert {"double", "triple"} <= set(cluster.functions().function)


def test_the_only_node_that_had_a_function_gets_it_again(cluster: mp.Cluster) -> None:
    cluster.register(double, name="twice", resources="gpu")
    os.kill(pid_of(cluster, "n2"), signal.SIGKILL)

    again()

    with mp.connect(cluster.urls[0]) as other:  # it has not registered anything
        assert other.on(timeout=60, wait=60).call("twice", 4) == 8


def test_a_node_that_hangs_is_started_again(cluster: mp.Cluster) -> None:
    cluster.register(double)
    entry = parts_of(cluster).client.entry_node
    hung = pid_of(cluster, entry)
    os.kill(hung, signal.SIGSTOP)

    again()

    assert pid_of(cluster, entry) != hung
    assert cluster.on(node=entry, timeout=60).call("double", 5) == 10


def test_a_node_that_a_drill_has_paused_is_left_alone(cluster: mp.Cluster) -> None:
    paused = pid_of(cluster, "n2")
    cluster.pause("n2", 60)

    again()

    assert pid_of(cluster, "n2") == paused


def test_threads_that_start_a_cluster_at_once_get_the_same() -> None:
    made = in_threads(4, lambda: mp.up(2))

    try:
        assert len(set(map(id, made))) == 1
        assert len(mp.ps()) == 2
    finally:
        mp.down()
    assert mp.ps().empty


def test_threads_that_add_nodes_at_once_do_not_start_one_twice(
    cluster: mp.Cluster,
) -> None:
    in_threads(3, lambda: cluster.add("n3"))

    assert list(mp.ps().node) == ["n1", "n2", "n3"]


def test_workers_share_the_cores_unless_the_user_sets_another_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    cores = len(os.sched_getaffinity(0))

    with mp.up(2, fresh=True, workers=2) as cluster:
        said = cluster.call(lambda: dict(os.environ))

    assert said["OMP_NUM_THREADS"] == said["OPENBLAS_NUM_THREADS"]
    assert said["OMP_NUM_THREADS"] == str(max(1, cores // 4))
    assert said["MKL_NUM_THREADS"] == "3"


SCRIPT = """
import os, sys, traceback
if sys.argv[2] == "gone":
    os.rmdir(os.getcwd())
import mpreg_nb as mp
try:
    with mp.up(1) as cluster:
        cluster.call(print, "said")
        made = cluster.call(lambda: open("relative", "w").name)
        out = made + str(cluster.call(abs, -5))
except BaseException:
    out = traceback.format_exc()  # there may be no standard error
    raise
finally:
    open(sys.argv[1], "w").write(out)
"""


@pytest.mark.parametrize("descriptor", [0, 1, 2, (0, 1, 2)])
def test_a_program_without_standard_files_starts_nodes(
    descriptor: int | tuple[int, ...], tmp_path: Path
) -> None:
    closed = (descriptor,) if isinstance(descriptor, int) else descriptor

    def close() -> None:
        for one in closed:
            os.close(one)

    assert started(tmp_path, "there", close) == "relative5"


def test_a_program_whose_folder_was_removed_starts_nodes(tmp_path: Path) -> None:
    assert started(tmp_path, "gone") == "relative5"


def started(folder: Path, how: str, before: Callable[[], None] | None = None) -> str:
    """Run SCRIPT in a folder of its own; return what it wrote."""
    out, inside, script = folder / "out", folder / "inside", folder / "script.py"
    inside.mkdir()
    # In a file: in a folder that is gone, `python3.13.0 -c` cannot import socket.
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(script), str(out), how]
    subprocess.run(command, preexec_fn=before, cwd=inside, timeout=60, check=False)
    return out.read_text()


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    made: list[Any] = []
    threads = [
        threading.Thread(target=lambda: made.append(work())) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made
