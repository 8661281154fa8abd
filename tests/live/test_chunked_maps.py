"""Maps of short calls, whose items travel together."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import mpreg_nb as mp
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.map_call import ITEM_BYTES
from tests.support.settings import default_settings

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    with default_settings():
        yield


ITEMS = 600


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, fresh=True) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    yield
    CONFIG.reset()


def noted(number: int, path: str) -> int:
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    return number


def noted_and_picky(number: int, path: str, wrong: int) -> int:
    noted(number, path)
    if number == wrong:
        raise LookupError(f"no {number}")
    return number


def runs(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split()))


def rows(cluster: mp.Cluster, function: str) -> pd.DataFrame:
    calls = cluster.calls()
    return calls[calls["function"] == function]


def test_short_calls_travel_in_chunks_and_each_runs_once_and_has_its_row(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    for node in ("n1", "n2"):  # so that neither has yet to import this module
        cluster.on(node=node).call(noted_and_picky, 0, os.devnull, 1)

    results = cluster.map(noted, range(ITEMS), [str(path)] * ITEMS)

    found = rows(cluster, "noted")
    together = found["call_id"].str.contains("[", regex=False)
    assert results == list(range(ITEMS))
    assert runs(path) == Counter(range(ITEMS))
    assert len(found) == found["call_id"].nunique() == ITEMS
    assert set(found["status"]) == {"done"}
    assert together.sum() > ITEMS / 10
    assert set(found["node"]) == {"n1", "n2"}


def test_nodes_count_the_calls_of_chunks_one_by_one(cluster: mp.Cluster) -> None:
    def counted(number: int) -> int:
        return number

    cluster.map(counted, range(ITEMS))

    functions = cluster.functions()
    assert functions[functions["function"] == "counted"]["calls"].sum() == ITEMS


def test_the_error_of_an_item_is_raised_and_none_ran_twice(
    cluster: mp.Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    wrong = ITEMS - 20

    with pytest.raises(LookupError, match=f"no {wrong}"):
        cluster.map(noted_and_picky, range(ITEMS), [str(path)] * ITEMS, [wrong] * ITEMS)

    found = rows(cluster, "noted_and_picky")
    assert set(runs(path).values()) == {1}
    assert Counter(found["status"])["failed"] == 1
    assert (found["status"] == "done").sum() > ITEMS / 10


def test_prints_of_all_items_arrive(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(number: int) -> int:
        import sys

        sys.stdout.write(f"item {number}\n")
        return number

    cluster.map(told, range(ITEMS))

    lines = capsys.readouterr().out.splitlines()
    assert sorted(int(line.split()[-1]) for line in lines) == list(range(ITEMS))


def test_items_get_smaller_chunks_once_they_take_longer(cluster: mp.Cluster) -> None:
    def napping(number: int) -> int:
        import time

        time.sleep(0.0 if number < ITEMS else 0.03)
        return number

    results = cluster.map(napping, range(ITEMS + 20))

    found = rows(cluster, "napping")
    slow = found[found["run_ms"] > 25]
    assert results == list(range(ITEMS + 20))
    assert len(slow) == 20
    assert set(slow["node"]) == {"n1", "n2"}


def test_large_arguments_and_results_keep_their_places(cluster: mp.Cluster) -> None:
    sizes = [10, 2 * ITEM_BYTES, 10, 10, 200_000] * (ITEMS // 5)

    results = cluster.map(lambda data: data + b"!", [b"x" * size for size in sizes])

    assert [len(result) - 1 for result in results] == sizes


def test_a_map_of_an_iterator_without_a_length_is_chunked_too(
    cluster: mp.Cluster,
) -> None:
    assert cluster.map(abs, (-n for n in range(ITEMS))) == list(range(ITEMS))


@pytest.mark.parametrize("chunk_ms", [0, 5])
def test_calls_with_a_deadline_and_those_without_chunks_travel_by_themselves(
    cluster: mp.Cluster, chunk_ms: float
) -> None:
    def alone(number: int) -> int:
        return number

    mp.config("map_chunk_ms", chunk_ms)
    asked = cluster if chunk_ms == 0 else cluster.on(timeout=60)
    before = len(rows(cluster, "alone"))

    results = asked.map(alone, range(ITEMS))

    found = rows(cluster, "alone")
    assert results == list(range(ITEMS))
    assert len(found) - before == ITEMS
    assert not found["call_id"].str.contains("[", regex=False).any()
