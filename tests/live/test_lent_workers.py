"""Threads that block read the answers of a worker themselves; they lose nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.errors import NodeLost, WorkerCrashed
from tests.support.direct_calls import MANY
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until

pytestmark = pytest.mark.live

CALLS = 200


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def other(cluster: mp.Cluster) -> Iterator[mp.Cluster]:
    """Another client of the same node."""
    with mp.connect(cluster.urls[0]) as other:
        yield other


def double(number: int) -> int:
    return 2 * number


def loop_time_us(calls: Callable[[], object]) -> float:
    """Return what the loops of clients take for a call of `calls`."""
    clocks = [
        time.pthread_getcpuclockid(thread.ident or 0)
        for thread in threading.enumerate()
        if thread.name == "mpreg-client"
    ]
    before = sum(map(time.clock_gettime, clocks))
    calls()
    return (sum(map(time.clock_gettime, clocks)) - before) / CALLS * 1e6


def become_lent(
    cluster: mp.Cluster, function: Callable[..., object], *args: object
) -> None:
    """Call a function until the loop has nothing to do with its calls."""

    def calls() -> None:
        for _ in range(CALLS):
            cluster.call(function, *args)

    until(lambda: loop_time_us(calls) < 5)


def test_calls_one_after_the_other_need_nothing_of_the_loop(
    cluster: mp.Cluster,
) -> None:
    become_lent(cluster, double, 1)

    assert [cluster.call(double, n) for n in range(MANY)] == [
        2 * n for n in range(MANY)
    ]


def test_they_have_their_rows_and_are_counted(cluster: mp.Cluster) -> None:
    named = cluster.register(double, name="lent-counted")

    for number in range(CALLS):
        named.call(number)

    rows = cluster.calls()
    assert (rows["function"] == "lent-counted").sum() == CALLS
    assert set(rows[rows["function"] == "lent-counted"]["status"]) == {"done"}
    counted = cluster.functions().set_index("function")["calls"]
    assert counted["lent-counted"] == CALLS


def test_several_threads_keep_their_results_apart(cluster: mp.Cluster) -> None:
    become_lent(cluster, double, 1)

    def calls(first: int) -> list[int]:
        return [cluster.call(double, n) for n in range(first, first + CALLS)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(calls, range(0, 4 * CALLS, CALLS)))
        submitted = [cluster.submit(double, n) for n in range(CALLS)]

    assert found == [
        [2 * n for n in range(first, first + CALLS)]
        for first in range(0, 4 * CALLS, CALLS)
    ]
    assert [one.result(30) for one in submitted] == [2 * n for n in range(CALLS)]


def test_another_client_gets_the_worker(cluster: mp.Cluster, other: mp.Cluster) -> None:
    for _ in range(3):
        become_lent(cluster, double, 1)

        assert other.call(double, 4) == 8
        assert cluster.call(double, 5) == 10


def test_errors_prints_and_long_calls_come_as_ever(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def varied(number: int) -> int:

        if number == 3:
            raise KeyError(number)
        if number == 5:
            print("said", number)  # noqa: T201
        if number == 7:
            time.sleep(0.1)
        return number

    for _ in range(3):
        become_lent(cluster, varied, 0)
        with pytest.raises(KeyError):
            cluster.call(varied, 3)
        become_lent(cluster, varied, 0)
        assert cluster.call(varied, 5) == 5
        assert "said 5" in capsys.readouterr().out
        become_lent(cluster, varied, 0)
        assert cluster.call(varied, 7) == 7


def test_stop_cancels_a_call_that_a_thread_has_sent(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    go.touch()
    become_lent(cluster, wait_for_file, str(tmp_path / "before"), str(go))

    def stop() -> None:
        until_exists(begun)
        os.kill(os.getpid(), signal.SIGINT)

    stopping = threading.Thread(target=stop)
    stopping.start()
    with pytest.raises(KeyboardInterrupt):
        cluster.call(wait_for_file, str(begun), str(tmp_path / "never"))
    stopping.join()

    assert cluster.on(timeout=60).call(double, 4) == 8


@pytest.fixture
def stops() -> Iterator[list[int]]:
    """What is in the list says how often this thread is stopped yet; one is the end."""
    left: list[int] = []

    def stop(_number: int, _frame: object) -> None:
        if left:
            left.pop()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    is_over, main = threading.Event(), threading.get_ident()

    def press() -> None:
        while not is_over.wait(0.0071):
            signal.pthread_kill(main, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    yield left
    left.clear()
    is_over.set()
    pressing.join()
    signal.signal(signal.SIGINT, before)


def test_stop_at_any_moment_mixes_no_results_up(
    cluster: mp.Cluster, stops: list[int]
) -> None:
    become_lent(cluster, double, 1)

    number = 0
    for _ in range(60):
        try:
            stops.append(1)
            while True:
                number += 1
                assert cluster.call(double, number) == 2 * number
        except KeyboardInterrupt:
            assert not stops

    assert [cluster.call(double, n) for n in range(MANY)] == [
        2 * n for n in range(MANY)
    ]


def test_the_setting_counts_for_the_next_call(cluster: mp.Cluster) -> None:
    become_lent(cluster, double, 1)
    mp.config("direct_calls", False)
    try:

        def calls() -> None:
            for number in range(CALLS):
                assert cluster.call(double, number) == 2 * number

        assert loop_time_us(calls) > 10
    finally:
        mp.config("direct_calls", True)


@pytest.fixture
def own() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as cluster:
        yield cluster


def test_a_worker_that_dies_under_such_a_call_is_told(own: mp.Cluster) -> None:
    def exit_at(number: int) -> int:

        if number:
            os._exit(number)
        return number

    become_lent(own, exit_at, 0)

    with pytest.raises(WorkerCrashed) as caught:
        own.call(exit_at, 7)

    assert caught.value.executed == "yes"
    assert "exit code 7" in str(caught.value)
    assert own.call(double, 4) == 8


def test_a_client_that_is_closed_ends_a_call_of_a_thread(
    own: mp.Cluster, tmp_path: Path
) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    go.touch()
    client = mp.connect(own.urls[0])
    become_lent(client, wait_for_file, str(tmp_path / "before"), str(go))

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(
            client.call, wait_for_file, str(begun), str(tmp_path / "never")
        )
        until_exists(begun)
        client.disconnect()
        with pytest.raises(NodeLost):
            future.result(60)
