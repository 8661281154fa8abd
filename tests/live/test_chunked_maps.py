"""Maps of short calls, whose items travel together."""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpreg_nb as mp
from mpreg_nb.client.calls import ActiveCall, ClientCalls
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.map_call import ITEM_BYTES
from mpreg_nb.serialize.chunks import MOST_PLAIN_ITEMS
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


class Level(IntEnum):
    LOW = 1
    HIGH = 2


PLAIN = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.complex_numbers(allow_nan=False),
)
VALUES = st.one_of(
    PLAIN,
    st.tuples(PLAIN, PLAIN),
    st.lists(PLAIN, max_size=3),
    st.tuples(st.lists(st.integers(), max_size=2)),
    st.dictionaries(st.text(max_size=3), PLAIN, max_size=2),
    st.sampled_from(Level),
    st.integers(0, 9).map(np.int64),
    st.just(b"x" * 2 * ITEM_BYTES),
)


def seen(value: Any, more: Any = None) -> tuple[Any, Any, str]:
    return value, [more], f"{type(value).__name__} {type(more).__name__}"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(VALUES, min_size=1, max_size=40), min_size=1, max_size=3))
def test_a_map_over_any_values_gives_what_single_calls_give(
    cluster: mp.Cluster, pieces: list[list[Any]]
) -> None:
    cluster.map(seen, range(ITEMS))  # from here on chunks are sent at once
    values = [value for piece in pieces for value in piece * 4]

    for iterables in ([values], [values, reversed(values)], [iter(values), range(50)]):
        iterables = [list(each) for each in iterables]
        expected = [seen(*args) for args in zip(*iterables, strict=False)]

        assert cluster.map(seen, *iterables) == expected
        assert cluster.map(seen, *map(iter, iterables)) == expected


def test_items_and_results_share_no_object(cluster: mp.Cluster) -> None:
    known: list[int] = []

    def grown(items: list[int]) -> list[int]:
        items.append(0)
        return items

    def listed(number: int) -> list[list[int]]:
        return [[number]] * 2

    def kept(number: int) -> int:
        known.append(number)
        return len(known)

    same: list[int] = []
    lists = cluster.map(listed, range(ITEMS))

    assert cluster.map(grown, [same] * ITEMS) == [[0]] * ITEMS
    assert lists == [[[number]] * 2 for number in range(ITEMS)]
    assert all(first is second for first, second in lists)
    assert len({id(first) for first, _ in lists}) == ITEMS
    assert sum(count == 1 for count in cluster.map(kept, range(ITEMS))) <= 2


def test_arguments_that_all_items_share_come_before_theirs(
    cluster: mp.Cluster,
) -> None:
    def placed(first: Any, second: int, *, name: Any) -> tuple[Any, int, Any]:
        return first, second, name

    def mapped(first: Any, name: Any) -> Sequence[Any]:
        return cluster.map(functools.partial(placed, first, name=name), range(ITEMS))

    for first, name in ((1, "a"), ([1], {"a": 1})):
        expected = [(first, number, name) for number in range(ITEMS)]
        assert mapped(first, name) == mapped(first, name) == expected


def test_an_error_of_a_short_function_names_its_item(cluster: mp.Cluster) -> None:
    def divided(number: int) -> float:
        return 1 / (number - (ITEMS - 20))

    cluster.map(divided, range(ITEMS - 20))

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        cluster.map(divided, range(ITEMS))


def test_a_chunk_is_sent_before_the_next_one_is_packed(
    cluster: mp.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.map(abs, range(ITEMS))
    begin, sent, behind = ClientCalls.start, 0, []

    def start(calls: ClientCalls, call: ActiveCall) -> None:
        nonlocal sent
        sent += len(call.items) or 1
        begin(calls, call)

    def numbers() -> Iterator[int]:
        for number in range(100 * ITEMS):
            behind.append(number - sent)
            yield number

    monkeypatch.setattr(ClientCalls, "start", start)

    results = cluster.map(abs, numbers())

    assert results == list(range(100 * ITEMS))
    assert max(behind) <= MOST_PLAIN_ITEMS


def test_the_next_map_of_a_short_function_begins_with_chunks(
    cluster: mp.Cluster,
) -> None:
    def doubled(number: int) -> int:
        return 2 * number

    def begins_with_a_chunk() -> bool:
        before = len(rows(cluster, "doubled"))
        assert cluster.map(doubled, range(60)) == list(range(0, 120, 2))
        return "[" in str(rows(cluster, "doubled").iloc[before]["call_id"])

    assert not begins_with_a_chunk()
    # Once is enough: on a busy machine a short function can look long.
    assert any(begins_with_a_chunk() for _ in range(20))
