"""Results are rebuilt where they are asked for; callbacks may do anything."""

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.errors import NotPicklable
from tests.support.leaks import nothing_left

pytestmark = pytest.mark.live

TOKEN = "t" * 43
TIMEOUT_S = 60


class Rebuilt:
    """Something whose rebuilding calls `function(*args)`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.how = function, args

    def __reduce__(self) -> Any:
        return self.how


class Raises(Exception):
    """An error whose rebuilding calls a function."""

    def __reduce__(self) -> Any:
        return name_of_thread, ()


def name_of_thread() -> str:
    return threading.current_thread().name


def told_when_asked() -> Rebuilt:
    return Rebuilt(name_of_thread)


def leaves() -> Rebuilt:
    return Rebuilt(sys.exit, 3)


def gives_up() -> Rebuilt:
    return Rebuilt(raise_exit)


def raise_exit() -> None:
    raise GeneratorExit


def double(number: int) -> int:
    return number * 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with nothing_left(tmp_path_factory.mktemp("rebuilding")):
        with mp.up(2, token=TOKEN) as cluster:
            cluster.call(double, 1)
            yield cluster


@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "large"])
def test_who_asks_rebuilds(cluster: Cluster, size: int) -> None:
    def work() -> tuple[Rebuilt, bytes]:
        return Rebuilt(name_of_thread), bytes(size)

    here = name_of_thread()

    flow = mp.workflow("rebuilt")
    flow.step("a", work)
    with concurrent.futures.ThreadPoolExecutor(1, "asker") as pool:
        elsewhere = pool.submit(lambda: cluster.submit(work).result()).result(TIMEOUT_S)

    assert cluster.call(work)[0] == here
    assert cluster.submit(work).result()[0] == here
    assert [name for name, _ in cluster.map(lambda _: work(), range(3))] == [here] * 3
    assert flow.run()["a"][0] == here
    assert elsewhere[0].startswith("asker")


def test_an_await_rebuilds_on_its_own_loop(cluster: Cluster) -> None:
    async def ask() -> list[str]:
        async with mp.connect_async(cluster.urls[0], token=TOKEN) as other:
            return [
                await cluster.submit(told_when_asked),
                await other.call(told_when_asked),
            ]

    assert asyncio.run(ask()) == [name_of_thread()] * 2


@pytest.mark.parametrize("function", [leaves, gives_up])
def test_what_leaves_while_it_is_rebuilt_ends_its_own_call_only(
    cluster: Cluster, function: Callable[[], Rebuilt]
) -> None:
    future = cluster.submit(function)

    with pytest.raises(NotPicklable):
        future.result(TIMEOUT_S)
    with pytest.raises(NotPicklable):
        cluster.map(lambda _: function(), range(2))
    assert isinstance(future.exception(), NotPicklable)
    assert cluster.call(double, 4) == 8


def test_a_result_that_takes_long_to_rebuild_holds_up_nobody(cluster: Cluster) -> None:
    entered, go_on = threading.Event(), threading.Event()
    held["entered"], held["go_on"] = entered, go_on
    future = cluster.submit(held_up)
    asker = threading.Thread(target=future.result)
    asker.start()

    assert entered.wait(TIMEOUT_S)
    meanwhile = cluster.on(timeout=TIMEOUT_S).call(double, 5)
    go_on.set()
    asker.join(TIMEOUT_S)

    assert meanwhile == 10
    assert future.result(TIMEOUT_S) == "rebuilt"


held: dict[str, threading.Event] = {}


def held_up() -> Rebuilt:
    return Rebuilt(eval, f"__import__({__name__!r}, fromlist=['x']).hold()")


def hold() -> str:
    held["entered"].set()
    held["go_on"].wait(TIMEOUT_S)
    return "rebuilt"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda cluster, n: cluster.call(double, n),
        lambda cluster, n: cluster.submit(lambda x: x * 2, n).result(TIMEOUT_S),
        lambda cluster, n: cluster.map(double, [n])[0],
        lambda cluster, n: len(cluster.nodes()) * n,
    ],
    ids=["call", "submit of a new function", "map", "a frame"],
)
def test_a_callback_may_do_what_a_cell_may(
    cluster: Cluster, attempt: Callable[[Cluster, int], int]
) -> None:
    found: concurrent.futures.Future[int] = concurrent.futures.Future()

    def follow_up(future: concurrent.futures.Future[int]) -> None:
        try:
            found.set_result(attempt(cluster, future.result()))
        except Exception as error:  # noqa: BLE001  whatever it is
            found.set_exception(error)

    cluster.submit(double, 4).add_done_callback(follow_up)

    assert found.result(TIMEOUT_S) == 16


def test_futures_are_waited_for_as_those_of_python(cluster: Cluster) -> None:
    futures = [cluster.submit(double, number) for number in range(20)]

    found = [f.result() for f in concurrent.futures.as_completed(futures, TIMEOUT_S)]
    failed = cluster.submit(divmod, 1, 0)
    done, _ = concurrent.futures.wait(
        [failed], TIMEOUT_S, concurrent.futures.FIRST_EXCEPTION
    )

    assert sorted(found) == [number * 2 for number in range(20)]
    assert done == {failed}
    assert isinstance(failed.exception(), ZeroDivisionError)


def test_leaving_an_executor_waits_for_callbacks_too(cluster: Cluster) -> None:
    found: list[int] = []

    with cluster.executor() as executor:
        for number in range(20):
            executor.submit(double, number).add_done_callback(
                lambda future: found.append(cluster.call(double, future.result()))
            )

    assert sorted(found) == [4 * number for number in range(20)]


def test_a_callback_may_end_its_executor(cluster: Cluster) -> None:
    ended = threading.Event()
    executor = cluster.executor()

    def end(_: object) -> None:
        executor.shutdown()
        ended.set()

    executor.submit(double, 1).add_done_callback(end)

    assert ended.wait(TIMEOUT_S)


def test_a_future_does_not_keep_the_arguments_of_its_call(cluster: Cluster) -> None:
    rows = np.zeros(100_000)
    kept = weakref.ref(rows)
    future = cluster.submit(len, rows)

    del rows
    found = future.result(TIMEOUT_S)
    gc.collect()

    assert found == 100_000
    assert kept() is None
