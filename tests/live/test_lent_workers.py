"""Threads that block read the answers of a worker themselves; they lose nothing."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.errors import NodeLost, WorkerCrashed
from tests.support.direct_calls import MANY
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until

pytestmark = pytest.mark.live

CALLS = 200

LENT_US = 15
"""Less than what the loop takes for a call that it makes, and more than it takes for
what nodes tell it meanwhile."""


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


def loop_time_us(calls: Callable[[], object], count: int = CALLS) -> float:
    """Return what the loops of clients take for each of so many calls."""
    clocks = [
        time.pthread_getcpuclockid(thread.ident or 0)
        for thread in threading.enumerate()
        if thread.name == "mpreg-client"
    ]
    before = sum(map(time.clock_gettime, clocks))
    calls()
    return (sum(map(time.clock_gettime, clocks)) - before) / count * 1e6


def become_lent(
    cluster: mp.Cluster, function: Callable[..., object], *args: object
) -> None:
    """Call a function until the loop has nothing to do with its calls.

    On a busy machine that does not last for many calls.
    """

    def calls() -> None:
        for _ in range(MANY):
            cluster.call(function, *args)

    until(lambda: loop_time_us(calls, MANY) < LENT_US)


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

        assert loop_time_us(calls) > LENT_US
    finally:
        mp.config("direct_calls", True)


@pytest.fixture
def own() -> Iterator[mp.Cluster]:
    with mp.up(1, fresh=True) as cluster:
        yield cluster


def test_the_death_of_a_worker_during_such_a_call_is_reported(own: mp.Cluster) -> None:
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


@pytest.fixture(scope="module")
def pair() -> Iterator[mp.Cluster]:
    """Two nodes that both serve what is registered, and links to both."""
    with mp.up(["one:left", "two:right"], fresh=True) as cluster:
        links = parts_of(cluster).client.links
        for side in ("left", "right"):  # a later test looks for sockets elsewhere
            cluster.on(side).call(double, 1)
        until(lambda: len(links.open_links) == 2)
        yield cluster


def last_nodes(cluster: mp.Cluster, function: str) -> list[str]:
    """Return the nodes of the calls of a function, in the order of the calls."""
    rows = cluster.calls()
    return list(rows[rows["function"] == function]["node"])


def test_where_several_nodes_fit_one_of_them_lends_its_worker(
    pair: mp.Cluster,
) -> None:
    shared = pair.register(double, name="shared")
    become_lent(pair, shared, 1)

    assert [shared.call(n) for n in range(MANY)] == [2 * n for n in range(MANY)]
    assert len(set(last_nodes(pair, "shared")[-MANY:])) == 1


def test_a_node_that_no_longer_fits_gets_no_more_calls(pair: mp.Cluster) -> None:
    moved = pair.register(double, name="moved")
    become_lent(pair, moved, 1)
    is_one = last_nodes(pair, "moved")[-1] == "one"

    pair.register(double, name="moved", resources=["right" if is_one else "left"])

    for number in range(MANY):
        assert pair.call("moved", number) == 2 * number
    other = "two" if is_one else "one"
    assert set(last_nodes(pair, "moved")[-MANY:]) == {other}


def nap(seconds: float) -> int:
    if seconds:
        time.sleep(seconds)
    return os.getpid()


def test_calls_that_take_long_are_shared_by_the_nodes(pair: mp.Cluster) -> None:
    become_lent(pair, nap, 0.0)

    with ThreadPoolExecutor(4) as threads:
        workers = list(threads.map(lambda _: pair.call(nap, 1.0), range(4)))

    assert sorted(Counter(workers).values()) == [2, 2]


def wait_if(begun: str, go_on: str) -> None:
    """Return at once, or wait for a file where there is one to say so."""
    if begun:
        Path(begun).touch()
        while not Path(go_on).exists():
            time.sleep(0.01)


@pytest.fixture
def node_of_two() -> Iterator[mp.Cluster]:
    """One node with two workers."""
    with mp.up(1, workers=2, fresh=True) as cluster:
        yield cluster


def run_behind_a_long_call(cluster: mp.Cluster, tmp_path: Path) -> None:
    """Check that calls are done that follow one which takes long to its worker."""
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    become_lent(cluster, wait_if, "", "")

    long = cluster.submit(wait_if, str(begun), str(go_on))
    until_exists(begun)
    behind = [cluster.submit(wait_if, "", "") for _ in range(MANY)]

    for one in behind:
        one.result(60)
    assert not long.done()
    go_on.touch()
    long.result(60)


def test_calls_behind_one_that_takes_long_run_at_another_node(
    pair: mp.Cluster, tmp_path: Path
) -> None:
    run_behind_a_long_call(pair, tmp_path)


def test_calls_behind_one_that_takes_long_run_in_another_worker(
    node_of_two: mp.Cluster, tmp_path: Path
) -> None:
    run_behind_a_long_call(node_of_two, tmp_path)


def test_a_call_that_waits_at_a_worker_has_that_in_its_row(own: mp.Cluster) -> None:
    become_lent(own, nap, 0.0)

    first, second = (own.submit(nap, 0.3) for _ in range(2))
    first.result(60), second.result(60)

    last = own.calls().iloc[-1]
    assert last["queued_ms"] + last["waited_ms"] >= 200
    named = last["queued_ms"] + last["waited_ms"] + last["run_ms"]
    assert named >= last["total_ms"] - 100
