"""A cluster behind the interfaces of others: concurrent.futures and joblib."""

import asyncio
import concurrent.futures
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from tests.support.leaks import nothing_left
from tests.support.until import until


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


@pytest.mark.parametrize("verb", ["map", "executor.map", "on.map"])
def test_a_map_over_what_has_no_items_says_what_to_do(
    cluster: Cluster, verb: str
) -> None:
    executor = cluster.executor()
    verbs: dict[str, Callable[..., Any]] = {
        "map": cluster.map,
        "executor.map": executor.map,
        "on.map": cluster.on("odd").map,
    }

    with pytest.raises(TypeError, match="number 2 is of type int") as refused:
        verbs[verb](pow, [2], 3)

    assert "put it in a list" in str(refused.value)
    assert len(refused.traceback) == 1, "our own frames are left out"


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


def test_errors_and_futures_name_the_function_of_the_user(cluster: Cluster) -> None:
    with cluster.executor("nowhere") as executor:
        futures = [
            executor.submit(functools.partial(square), 1),
            executor.submit(lambda: 1),
        ]
        errors = [str(future.exception()) for future in futures]
        with pytest.raises(mp.errors.NoRoute, match="'square'"):
            list(executor.map(square, [1, 2], chunksize=2))

    assert "'square'" in errors[0]
    assert "'lambda'" in errors[1]
    assert [repr(f) for f in futures] == [
        "<Future square: failed>",
        "<Future lambda: failed>",
    ]


def test_nothing_is_taken_after_shutdown(cluster: Cluster) -> None:
    executor = cluster.executor()
    executor.shutdown()

    with pytest.raises(RuntimeError, match=r"cluster\.executor\(\)"):
        executor.submit(square, 1)
    assert cluster.call(square, 3) == 9


def wait_for(path: str, number: int) -> str:
    """Say that it runs, and run until the file is gone."""
    Path(path).with_name(f"runs-{number}").touch()
    while Path(path).exists():
        time.sleep(0.01)
    return "ran"


@pytest.mark.parametrize("direct", [True, False], ids=["directly", "by another node"])
def test_shutdown_cancels_what_waits_and_leaves_what_runs(
    cluster: Cluster, tmp_path: Path, direct: bool
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    entry = next(url for url in cluster.urls)
    with mp.connect(entry, direct=direct) as other:
        executor = other.executor(node="e2")
        futures = [executor.submit(wait_for, str(gate), n) for n in range(5)]
        until(lambda: len(list(tmp_path.glob("runs-*"))) == 2)
        until(lambda: sum(future.running() for future in futures) == 2)

        executor.shutdown(wait=False, cancel_futures=True)
        until(lambda: sum(future.cancelled() for future in futures) == 3)
        gate.unlink()
        executor.shutdown()

        ran = [future.result() for future in futures if not future.cancelled()]
    assert ran == ["ran", "ran"]


def note(path: str) -> None:
    """Add a line to a file, as an initializer."""
    with open(path, "a") as file:
        file.write("initialized\n")


def lines_of(path: str) -> int:
    return len(Path(path).read_text().splitlines())


def test_an_initializer_runs_once_in_each_worker(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = str(tmp_path / "lines")
    with cluster.executor("odd", initializer=note, initargs=(path,)) as executor:
        one = [executor.submit(lines_of, path).result() for _ in range(3)]
        several = list(executor.map(lines_of, [path] * 4, chunksize=2))

    assert one == [1, 1, 1]
    assert several == [1, 1, 1, 1]


def test_an_initializer_that_fails_fails_the_calls(cluster: Cluster) -> None:
    with cluster.executor(initializer=fails, initargs=(0,)) as executor:
        with pytest.raises(ZeroDivisionError):
            executor.submit(square, 1).result()


def test_joblib_runs_its_initializer_and_refuses_unknown_options(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = str(tmp_path / "lines")
    settings: Any = {"resources": "odd", "initializer": note, "initargs": (path,)}
    with joblib.parallel_config("mpreg", **settings):
        found = joblib.Parallel()(joblib.delayed(lines_of)(path) for _ in range(8))

    assert set(found) == {1}
    with pytest.raises(TypeError, match="initialiser"):
        joblib.parallel_config("mpreg", initialiser=note)


def nested(count: int) -> int:
    import joblib

    with joblib.parallel_backend("mpreg"):
        total: int = sum(
            joblib.Parallel(n_jobs=2)(joblib.delayed(square)(n) for n in range(count))
        )
    return total


def test_the_backend_of_joblib_exists_inside_of_calls(cluster: Cluster) -> None:
    assert cluster.call(nested, 4) == 14


PROXIES = """
import multiprocessing, operator
import mpreg_nb as mp

if __name__ == "__main__":
    with multiprocessing.Manager() as manager, mp.up(1) as cluster:
        queue, shared = manager.Queue(), manager.dict()

        cluster.call(lambda q, item: q.put(item), queue, 5)
        cluster.call(operator.setitem, shared, "a", 1)
        cluster.call(lambda: shared.update(b=2))
        returned = cluster.call(lambda q: q, queue)

        print(returned.get(timeout=30), dict(shared))
"""


def test_proxies_of_multiprocessing_work_in_workers(tmp_path: Path) -> None:
    assert run_script(tmp_path, PROXIES) == ("5 {'a': 1, 'b': 2}\n", "")


def run_script(tmp_path: Path, source: str, *args: str) -> tuple[str, str]:
    """Run a program as users do, and return what it wrote to stdout and stderr."""
    script = tmp_path / "script.py"
    script.write_text(source)
    ended = subprocess.run(
        [sys.executable, str(script), *args],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return ended.stdout, ended.stderr


SCRIPT = """
import sys, time
import mpreg_nb as mp

def work(path):
    time.sleep(0.5)
    open(path, "w").close()

cluster = mp.up(1)
{work}
"""


@pytest.mark.parametrize(
    ("work", "ran", "said"),
    [
        ("cluster.executor().submit(work, sys.argv[1])", True, ""),
        (
            "cluster.submit(time.sleep, 60)",
            False,
            "mpreg_nb: the program ended while a call ran (sleep), and cancelled it. "
            "Wait for results first: future.result()\n",
        ),
        ("cluster.submit(time.sleep, 60).cancel()", False, ""),
    ],
    ids=["executor", "submit", "cancelled"],
)
def test_a_script_that_ends_waits_for_its_executors_and_says_what_it_drops(
    tmp_path: Path, work: str, ran: bool, said: str
) -> None:
    mark = tmp_path / "mark"

    written = run_script(tmp_path, SCRIPT.format(work=work), str(mark))

    assert mark.exists() == ran
    assert written == ("", said)


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
