"""Large values between processes of one machine: arguments, results, intermediates."""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

import mpreg_nb as mp
from mpreg_nb.shared_memory.segments import DEFAULT_LIMIT_MB, MEMORY
from tests.support.leaks import nothing_left
from tests.support.settings import default_settings
from tests.support.until import until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    with default_settings():
        yield


MB = 1 << 20
NAMED = "/dev/shm"  # noqa: S108  where shared memory with names would be


def array(size_mb: int = 4, seed: int = 1) -> Any:
    return np.random.default_rng(seed).random(size_mb * MB // 8)


def same(value: Any) -> Any:
    return value


def plus_one(value: Any) -> Any:
    return value + 1


def total(value: Any) -> float:
    return float(value.sum())


def write(value: Any) -> None:
    value[0] = 1.0


def write_copy(value: Any) -> float:
    value = np.array(value)
    value[0] = 1.0
    return float(value[0])


def die(value: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork_and_return(value: Any) -> Any:
    child = os.fork()
    if not child:
        time.sleep(0.2)
        os._exit(0)
    os.waitpid(child, 0)
    return value + 1


def keep(value: Any) -> float:
    vars(sys.modules["__main__"])["kept"] = value
    return float(value[0])


def kept() -> float:
    return float(vars(sys.modules["__main__"])["kept"][0])


def came_shared(value: Any) -> bool:
    from mpreg_nb.shared_memory.segments import MEMORY

    view = memoryview(value).toreadonly()
    return MEMORY.find(view, view.nbytes) is not None


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left is looked for when the cluster of the module has ended."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mp.Cluster]:
    with nothing_left(tmp_path_factory.mktemp("shared")):
        with mp.up({"a": "a", "b": "b"}, fresh=True) as cluster:
            for function in (
                *(same, plus_one, total, write, write_copy, die),
                *(keep, kept, fork_and_return, came_shared),
            ):
                cluster.register(function)
            yield cluster


def in_use() -> int:
    """Return how much this process lends. Nodes keep some outcomes for a while."""
    gc.collect()
    held = MEMORY.statistics()
    return held.owned_bytes - held.free_bytes


def is_shared(value: Any) -> bool:
    view = memoryview(value).toreadonly()
    return MEMORY.find(view, view.nbytes) is not None


VALUES = {
    "an array": (array(), np.array_equal),
    "an array in Fortran's order": (
        np.asfortranarray(array().reshape(4, -1)),
        np.array_equal,
    ),
    "a data frame": (
        pd.DataFrame({"x": array(2), "y": np.arange(2 * MB // 8), "s": "text"}),
        pd.DataFrame.equals,
    ),
    "an Arrow table": (
        pa.table({"x": array(2), "n": np.arange(2 * MB // 8)}),
        pa.Table.equals,
    ),
    "bytes": (array().tobytes(), bytes.__eq__),
    "a dict of arrays": (
        {n: array(1, n) for n in range(3)},
        lambda a, b: all(np.array_equal(a[n], b[n]) for n in a),
    ),
}


@pytest.mark.parametrize("kind", VALUES)
def test_large_values_of_every_kind_come_back_as_they_were(
    cluster: mp.Cluster, kind: str
) -> None:
    value, equal = VALUES[kind]

    assert equal(cluster.call("same", value), value)


def test_arrays_are_read_where_they_are_and_a_copy_can_be_written_to(
    cluster: mp.Cluster,
) -> None:
    given = array()

    found = cluster.call("plus_one", given)

    assert is_shared(found)
    assert np.array_equal(found, given + 1)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1.0
    assert cluster.call("write_copy", given) == 1.0


def test_the_error_of_a_function_that_writes_to_an_argument_names_the_cure(
    cluster: mp.Cluster,
) -> None:
    with pytest.raises(ValueError, match="read-only") as raised:
        cluster.call("write", array())

    assert any("np.array(x)" in note for note in raised.value.__notes__)


def test_an_array_of_the_user_never_changes(cluster: mp.Cluster) -> None:
    held = [cluster.call("plus_one", array(1, seed)) for seed in range(6)]
    for seed in range(6, 20):
        cluster.call("plus_one", array(1, seed))

    assert all(np.array_equal(held[seed], array(1, seed) + 1) for seed in range(6))


def test_what_a_function_keeps_stays_as_it_is(cluster: mp.Cluster) -> None:
    first = array(1, 1)
    view = cluster.on("a")
    assert view.call("keep", first) == first[0]

    for seed in range(2, 8):
        view.call("total", array(1, seed))

    assert view.call("kept") == first[0]
    view.call("keep", array(1)[:10])


def test_after_many_round_trips_all_is_free_and_no_descriptor_is_left(
    cluster: mp.Cluster,
) -> None:
    given = array(2)
    lent = in_use()
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    named = set(os.listdir(NAMED))

    def round_trips(count: int) -> list[int]:
        for _ in range(count):
            assert cluster.call("plus_one", given)[0] == given[0] + 1
        until(lambda: in_use() <= lent)
        return [process.num_fds() for process in processes]

    before = round_trips(10)
    after = round_trips(50)

    assert all(now <= then + 4 for now, then in zip(after, before, strict=True))
    assert set(os.listdir(NAMED)) <= named


def test_a_worker_that_is_killed_while_it_reads_costs_nothing_but_its_call(
    cluster: mp.Cluster,
) -> None:
    given = array()
    lent = in_use()

    with pytest.raises(mp.errors.WorkerCrashed):
        cluster.call("die", given)

    assert np.array_equal(cluster.call("plus_one", given), given + 1)
    until(lambda: in_use() <= lent)


def test_a_result_outlives_the_worker_that_made_it(cluster: mp.Cluster) -> None:
    view = cluster.on("a")
    found = view.call("plus_one", array())

    with pytest.raises(mp.errors.WorkerCrashed):
        view.call("die", None)
    again = view.call("plus_one", array(seed=2))

    assert np.array_equal(found, array() + 1)
    assert np.array_equal(again, array(seed=2) + 1)


def test_a_function_that_forks_returns_its_result(cluster: mp.Cluster) -> None:
    for seed in range(3):
        assert np.array_equal(
            cluster.call("fork_and_return", array(1, seed)), array(1, seed) + 1
        )


def test_results_of_steps_go_from_node_to_node_in_shared_memory(
    cluster: mp.Cluster,
) -> None:
    flow = mp.workflow("shared")
    first = flow.step("first", plus_one, array()).on("a")
    second = flow.step("second", plus_one, first).on("b")
    flow.step("there", came_shared, second).on("a")
    flow.step("sum", total, second).on("a")

    run = flow.run()

    assert run["there"] is True
    assert run["sum"] == pytest.approx(float((array() + 2).sum()))


def test_beyond_the_limit_values_go_through_sockets(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEMORY, "limit_bytes", MB)
    given = array()

    assert np.array_equal(cluster.call("plus_one", given), given + 1)


def test_without_shared_memory_everything_works_as_before(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEMORY, "limit_bytes", MEMORY.limit_bytes)
    mp.config("shared_memory_mb", 0)
    try:
        with mp.up(1, fresh=True, name="sockets") as other:
            found = other.call(plus_one, array())
            there = other.call(came_shared, array())
    finally:
        mp.config("shared_memory_mb", DEFAULT_LIMIT_MB)

    assert np.array_equal(found, array() + 1)
    assert not is_shared(found)
    assert there is False
