"""Large arguments that all calls of a map share go to the cluster once."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.shared_memory.segments import MEMORY
from tests.support.leaks import nothing_left
from tests.support.until import until

pytestmark = pytest.mark.live

MB = 1 << 20


def table(size_mb: int = 4) -> Any:
    return np.arange(size_mb * MB // 8, dtype=float)


def at(values: Any, place: int, *, times: int = 1) -> float:
    return float(values[place] * times)


def total(values: Any, more: Any) -> float:
    return float(values[:10].sum() + more.sum())


def grown(numbers: list[int], item: int) -> int:
    numbers.append(item)
    return len(numbers)


def at_then_write(values: Any, place: int) -> float:
    """Write only to what travelled in a chunk, after the calls that go one by one."""
    if place > 500:
        values[place] = 0.0
    return float(values[place])


def at_and_pid(values: Any, place: int) -> tuple[float, int]:
    time.sleep(0.01)
    return float(values[place]), os.getppid()


def wait_then_read(values: Any, folder: str) -> float:
    """Say that it runs, wait until it may end, and read."""
    Path(folder, str(os.getpid())).touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return float(values[-1])


@pytest.fixture(autouse=True)
def leaks() -> None:
    """What is left is looked for when the cluster of the module has ended."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mp.Cluster]:
    with nothing_left(tmp_path_factory.mktemp("shared")):
        with mp.up(2, fresh=True) as cluster:
            yield cluster


@pytest.fixture(params=[5.0, 0.0], ids=["in chunks", "one by one"])
def chunk_ms(request: pytest.FixtureRequest) -> Iterator[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mp.config(), "map_chunk_ms", request.param)
        yield request.param


def test_each_item_gets_what_all_share(cluster: mp.Cluster, chunk_ms: float) -> None:
    found = cluster.map(partial(at, table(), times=3), range(300))

    assert found == [3.0 * place for place in range(300)]


def test_items_may_be_large_too(cluster: mp.Cluster, chunk_ms: float) -> None:
    found = cluster.map(partial(total, table()), (table(1) for _ in range(8)))

    assert found == [45.0 + float(table(1).sum())] * 8


def test_a_function_in_a_thread_of_its_node_gets_them(cluster: mp.Cluster) -> None:
    threaded = cluster.register(at, name="threaded", isolation="thread")

    found = cluster.map(partial(threaded, table(), times=2), range(40))

    assert found == [2.0 * place for place in range(40)]


def test_what_one_item_changes_is_as_it_was_for_the_next(
    cluster: mp.Cluster, chunk_ms: float
) -> None:
    numbers = list(range(30_000))

    assert cluster.map(partial(grown, numbers), range(60)) == [30_001] * 60
    assert len(numbers) == 30_000


def test_the_error_of_a_write_to_them_in_a_chunk_names_the_cure(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mp.config(), "map_chunk_ms", 5.0)

    with pytest.raises(ValueError, match="read-only") as raised:
        cluster.map(partial(at_then_write, table()), range(1000))

    assert any("np.array(x)" in note for note in raised.value.__notes__)


def test_nothing_is_held_when_the_map_has_ended(cluster: mp.Cluster) -> None:
    def in_use() -> int:
        gc.collect()
        held = MEMORY.statistics()
        return held.owned_bytes - held.free_bytes

    before = in_use()

    cluster.map(partial(at, table()), range(100))

    until(lambda: in_use() <= before)


def test_without_shared_memory_they_travel_once_to_each_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MEMORY, "limit_bytes", 0)
    shared = table(8)
    with mp.up(2, fresh=True, name="sockets") as other:
        found = other.map(partial(at_and_pid, shared), range(200))
        links = parts_of(other).client.links
        sent_bytes = sum(
            link.statistics().bytes_out
            for link in map(links.get, links.open_links)
            if link is not None
        )

    assert [value for value, _ in found] == [float(n) for n in range(200)]
    assert len({pid for _, pid in found}) == 2
    assert shared.nbytes < sent_bytes < 1.5 * shared.nbytes


def test_they_are_sent_again_when_the_node_that_held_them_is_killed(
    tmp_path: Path,
) -> None:
    with mp.up(3, fresh=True, name="killed") as other:
        function = other.register(wait_then_read, idempotent=True)
        entry = parts_of(other).client.entry_node
        found: list[list[float]] = []
        items = [str(tmp_path)] * 12
        mapping = threading.Thread(
            target=lambda: found.append(other.map(partial(function, table()), items))
        )

        mapping.start()
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.01)
        other.kill(entry)
        other.add("late")  # which has to ask the node that is dead
        while len(list(tmp_path.iterdir())) < 4:
            time.sleep(0.01)
        (tmp_path / "go").touch()
        mapping.join(60)

    assert found == [[float(table()[-1])] * 12]
