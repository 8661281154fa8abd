"""Runs that outlive who began them, and what can be asked of them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live

KERNEL = """
import json, sys
import mpreg_nb as mp

def load(rows):
    print("loading")
    return list(range(rows))

def wait_for(rows, path):
    import pathlib, time
    print("waiting")
    while not pathlib.Path(path).exists():
        time.sleep(0.02)
    return len(rows)

cluster = mp.up(2, keep=True, name="kept")
done = cluster.workflow("short")
done.step("rows", load, 3)
short = done.run()
flow = cluster.workflow("long")
rows = flow.step("rows", load, 5)
flow.step("count", wait_for, rows, sys.argv[1])
long = flow.start()
while {state.name: state.status for state in long.steps}["count"] != "running":
    pass
print(json.dumps([short.id, long.id]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    nodes = {"n1": {"cpu"}, "n2": {"cpu", "gpu"}}
    with mp.up(nodes, fresh=True) as cluster:
        yield cluster


def double(number: int) -> int:
    print(f"doubling {number}")  # noqa: T201 - on a node
    return 2 * number


def wait_for(value: Any, path: str) -> Any:
    import pathlib
    import time

    while not pathlib.Path(path).exists():
        time.sleep(0.02)
    return value


def test_runs_go_on_when_the_process_that_began_them_is_killed(tmp_path: Path) -> None:
    program, go = tmp_path / "kernel.py", tmp_path / "go"
    program.write_text(textwrap.dedent(KERNEL))
    kernel = subprocess.Popen(
        [sys.executable, program, go],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert kernel.stdin is not None
    assert kernel.stdout is not None
    ids: list[str] = []
    for line in kernel.stdout:
        if line.startswith("["):
            try:
                ids = json.loads(line)
            except json.JSONDecodeError:
                continue  # what a step printed, with the name of its node
            break
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.wait()
    kernel.stdin.close()
    kernel.stdout.close()
    short, long = ids

    adopted = mp.adopt()
    try:
        frame = adopted.runs()
        listed = frame[["run", "workflow", "status"]].to_numpy().tolist()
        adopted_short, adopted_long = adopted.get_run(short[:8]), adopted.get_run(long)
        fetched = adopted_short["rows"]
        waited_for = adopted_long.status
        go.touch()
        adopted_long.wait(20)
        counted = adopted_long["count"]
        name = adopted.name
    finally:
        ended = mp.down("kept")

    assert listed == [[long, "long", "running"], [short, "short", "done"]]
    assert fetched == [0, 1, 2]
    assert (waited_for, adopted_long.status, counted) == ("running", "done", 5)
    assert name == "kept"
    assert ended == ("n1", "n2")
    assert not [p for p in psutil.process_iter() if _is_node(p)]


def _is_node(process: psutil.Process) -> bool:
    try:
        ours = process.environ().get("XDG_RUNTIME_DIR") == os.environ["XDG_RUNTIME_DIR"]
        return ours and "mpreg_nb.node" in process.cmdline()
    except psutil.Error:
        return False
