"""A forked child gets an answer or a clear refusal at once, and ends normally."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpreg_nb as mp
from mpreg_nb.client.future import Future
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import ForkedProcess
from tests.support.leaks import nothing_left

pytestmark = [
    pytest.mark.live,
    # Python 3.12 warns of forks in processes with threads: that is what is tried.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

TOKEN = "t" * 43
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with nothing_left(tmp_path_factory.mktemp("forks")):
        with mp.up(1, token=TOKEN) as cluster:
            assert cluster.call(abs, -1) == 1
            yield cluster


def in_child(attempt: Callable[[], object]) -> str:
    """Return what `attempt` gives, or the error that it raises, in a forked child."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def tell() -> None:
        try:
            theirs.send(repr(attempt()))
        except BaseException as error:  # noqa: BLE001  whatever it is
            theirs.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=tell)
    child.start()
    try:
        assert ours.poll(TIMEOUT_S), "the child hangs"
        said: str = ours.recv()
        child.join(TIMEOUT_S)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    return said


def run(cluster: Cluster) -> Any:
    flow = cluster.workflow("forked")
    flow.step("a", abs, -1)
    return flow.run()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda cluster: cluster.call(abs, -1),
        lambda cluster: cluster.on(timeout=60).call(abs, -1),
        lambda cluster: cluster.submit(abs, -1),
        lambda cluster: cluster.map(abs, [-1]),
        lambda cluster: cluster.call(lambda: 1),
        lambda cluster: cluster.executor().submit(abs, -1),
        lambda cluster: cluster.nodes(),
        lambda cluster: mp.current(),
        lambda cluster: cluster.add("n9"),
        lambda cluster: cluster.remove("n1"),
        lambda cluster: cluster.kill("n1"),
        lambda cluster: cluster.pause("n1", 60),
        run,
    ],
    ids=[
        "call",
        "on",
        "submit",
        "map",
        "new function",
        "executor",
        "nodes",
        "current",
        "add",
        "remove",
        "kill",
        "pause",
        "run",
    ],
)
def test_a_child_is_refused_the_cluster_of_its_parent(
    cluster: Cluster, attempt: Callable[[Cluster], object]
) -> None:
    said = in_child(lambda: attempt(cluster))

    assert said.startswith("ForkedProcess: ")
    assert "mp.connect" in said
    assert cluster.call(abs, -2) == 2


def test_a_future_of_the_parent_is_not_waited_for(cluster: Cluster) -> None:
    future: Future[Any] = cluster.submit(eval, "__import__('time').sleep(60)")

    said = in_child(future.result)
    future.cancel()

    assert said.startswith("ForkedProcess: ")


def test_an_async_cluster_is_refused_in_a_child(cluster: Cluster) -> None:
    async def ask() -> str:
        async with mp.connect_async(cluster.urls[0], token=TOKEN) as other:
            return in_child(lambda: parts_of(other).client)

    assert asyncio.run(ask()).startswith("ForkedProcess: ")


def test_a_child_connects_by_itself(cluster: Cluster) -> None:
    url = cluster.urls[0]

    def connect() -> int:
        with mp.connect(url, token=TOKEN) as own:
            return int(own.call(abs, -3))

    assert in_child(connect) == "3"
    assert cluster.call(abs, -4) == 4


def test_a_child_starts_a_cluster_of_its_own(cluster: Cluster) -> None:
    def start() -> tuple[int, bool]:
        with mp.up(1) as own:
            return own.call(abs, -5), own.name != cluster.name

    assert in_child(start) == "(5, True)"
    assert cluster.call(abs, -6) == 6


def test_a_child_that_leaves_the_block_of_a_cluster_ends_no_node(
    cluster: Cluster,
) -> None:
    assert in_child(cluster.down) == "None"
    assert in_child(lambda: cluster.__exit__(None, None, None)) == "None"

    assert cluster.call(abs, -7) == 7


# A program of its own: what pytest does when it ends would be part of the test else.
PROGRAM_THAT_FORKS = """
import os, sys, warnings
import mpreg_nb as mp

warnings.simplefilter("ignore", DeprecationWarning)
cluster = mp.up(1)
child = os.fork()
if child == 0:
    sys.exit()
_, status = os.waitpid(child, 0)
print(status, cluster.call(abs, -8))
"""


def test_a_child_that_ends_as_programs_do_ends() -> None:
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM_THAT_FORKS],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert program.stdout.splitlines()[-1:] == ["0 8"], program.stderr


PROGRAM_THAT_ADOPTS = """
import os, sys, warnings
import mpreg_nb as mp

warnings.simplefilter("ignore", DeprecationWarning)
mp.up(1, keep=True).disconnect()
with mp.adopt() as cluster:
    child = os.fork()
    if child == 0:
        sys.exit()
    _, status = os.waitpid(child, 0)
    print(status, cluster.call(abs, -9))
"""


def test_a_child_that_leaves_the_block_of_an_adopted_cluster_ends_no_node() -> None:
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM_THAT_ADOPTS],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert program.stdout.splitlines()[-1:] == ["0 9"], program.stderr


def test_no_cluster_of_ours_is_a_runtime_error_too() -> None:
    assert issubclass(ForkedProcess, RuntimeError | LookupError)


def test_a_forked_child_leaves_the_block_of_an_executor_that_works(
    cluster: Cluster, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def leave() -> str:
        with executor:
            return "left"

    executor = cluster.executor()
    future = executor.submit(Path.read_text, pipe)

    assert in_child(leave) == "'left'"
    pipe.write_text("over", encoding="utf-8")
    assert future.result(TIMEOUT_S) == "over"
