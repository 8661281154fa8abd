"""A cluster behind the interfaces of others: concurrent.futures and joblib."""

import asyncio
import concurrent.futures
import functools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from tests.live.leaks import nothing_left


def square(number: int) -> int:
    return number * number


def fails(number: int) -> int:
    return 1 // number


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with nothing_left(tmp_path_factory.mktemp("executor")):
        with mp.up({"e1": {"odd"}, "e2": ()}, slots=2) as cluster:
            yield cluster


def test_it_is_an_executor_of_the_standard_library(cluster: Cluster) -> None:
    with cluster.executor() as executor:
        future = executor.submit(square, 12)

        assert isinstance(executor, concurrent.futures.Executor)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result() == 144


@pytest.mark.parametrize("chunksize", [1, 7])
def test_map_keeps_the_order(cluster: Cluster, chunksize: int) -> None:
    with cluster.executor() as executor:
        found = list(executor.map(square, range(100), chunksize=chunksize))

    assert found == [number * number for number in range(100)]


def test_what_has_no_name_is_not_registered_again_and_again(cluster: Cluster) -> None:
    with cluster.executor() as executor:
        executor.submit(square, 1).result()
        executor.submit(functools.partial(square), 1).result()
        before = set(cluster.functions()["function"])

        twice = [
            executor.submit(functools.partial(square), 3).result(),
            executor.submit(lambda n: n * 3, 3).result(),
            executor.submit([3, 1, 2].index, 2).result(),
        ]

    assert twice == [9, 9, 2]
    assert set(cluster.functions()["function"]) == before


def test_errors_are_of_the_class_that_was_raised(cluster: Cluster) -> None:
    with cluster.executor() as executor:
        with pytest.raises(ZeroDivisionError):
            executor.submit(fails, 0).result()
        with pytest.raises(ZeroDivisionError):
            list(executor.map(fails, [1, 0, 1], chunksize=3))


def test_only_nodes_that_fit_are_used(cluster: Cluster) -> None:
    with cluster.executor("odd") as executor:
        list(executor.map(functools.partial(square), range(5)))

    calls = cluster.calls()
    assert set(calls["node"].tail(5)) == {"e1"}


def test_map_gives_up_after_its_timeout_and_cancels_the_rest(cluster: Cluster) -> None:
    with cluster.executor() as executor:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            list(executor.map(time.sleep, [60.0] * 3, timeout=0.2))

    assert time.monotonic() - began < 30  # leaving the block waited for no sleeper


def test_nothing_is_taken_after_shutdown(cluster: Cluster) -> None:
    executor = cluster.executor()
    slow = executor.submit(time.sleep, 60.0)
    executor.shutdown(cancel_futures=True)

    with pytest.raises(RuntimeError, match=r"cluster\.executor\(\)"):
        executor.submit(square, 1)
    assert slow.cancelled()
    assert cluster.call(square, 3) == 9


def test_an_event_loop_can_use_it(cluster: Cluster) -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, square, 5)

    with cluster.executor() as executor:
        assert asyncio.run(run()) == 25


def test_loops_of_joblib_run_on_the_cluster(cluster: Cluster) -> None:
    with joblib.parallel_backend("mpreg"):
        found = joblib.Parallel()(joblib.delayed(square)(n) for n in range(200))

    assert found == [number * number for number in range(200)]


def test_joblib_asks_for_as_many_calls_at_once_as_there_are_slots(
    cluster: Cluster,
) -> None:
    with joblib.parallel_backend("mpreg"):
        assert joblib.effective_n_jobs() == 4
        assert joblib.effective_n_jobs(2) == 2
    with joblib.parallel_backend("mpreg", resources="odd"):
        assert joblib.effective_n_jobs() == 2


def test_an_error_ends_a_loop_of_joblib_and_the_next_one_works(
    cluster: Cluster,
) -> None:
    with joblib.parallel_backend("mpreg"):
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(fails)(n) for n in (1, 0, 1))

        again = joblib.Parallel()(joblib.delayed(square)(n) for n in (1, 2))

    assert again == [1, 4]


PROGRAM = """
import sys
import mpreg_nb as mp

if __name__ == "__main__":
    with mp.up(1):
        assert "joblib" not in sys.modules
        import joblib

        with joblib.parallel_backend("mpreg"):
            print(joblib.Parallel()(joblib.delayed(abs)(n) for n in (-1, -2)))
"""


def test_joblib_may_be_imported_after_the_cluster_was_started(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")

    with nothing_left(tmp_path):
        ended = subprocess.run(
            [sys.executable, "-W", "error", str(program)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[1, 2]\n", "")
