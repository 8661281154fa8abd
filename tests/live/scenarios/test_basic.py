"""The basics: one function, one call, one result, and what names can be used."""

import asyncio
import concurrent.futures
import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import pytest

import mpreg_nb as mp

pytestmark = [pytest.mark.live, pytest.mark.basic]


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up({"n1": "cpu", "n2": {"cpu", "gpu"}}, fresh=True) as cluster:
        yield cluster


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Reading:
    sensor: str
    values: tuple[float, ...]


def same(value: Any) -> Any:
    return value


def scale(rows: list[float], factor: float = 2.0, *, shift: float = 0.0) -> list[float]:
    return [row * factor + shift for row in rows]


def fail(kind: str) -> None:
    raise {"value": ValueError, "key": KeyError, "zero": ZeroDivisionError}[kind](kind)


# -------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**200,
        1.5,
        3 - 4j,
        "Grüße 🚀",
        b"\x00\xff",
        [1, [2, [3]]],
        {"a": {1, 2}, ("b", 1): frozenset("xy")},
        Decimal("0.1"),
        Fraction(1, 3),
        datetime(2024, 2, 29, 12, tzinfo=UTC),
        date(2024, 2, 29),
        timedelta(days=1),
        PurePosixPath("a/b"),
        Colour.BLUE,
        Reading("s-7", (1.0, 2.0)),
        slice(1, 9, 2),
        range(5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_as_it_was_sent(cluster: mp.Cluster, value: Any) -> None:
    assert cluster.call(same, value) == value


def test_arrays_and_frames_come_back_as_they_were_sent(cluster: mp.Cluster) -> None:
    # Here: a worker that runs a function of this module imports the module.
    import numpy as np
    import pandas as pd

    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    frame = pd.DataFrame({"city": ["Bern", "Lima"], "height": [542.0, 154.0]})

    back_array, back_frame = cluster.call(same, (array, frame))

    np.testing.assert_array_equal(back_array, array)
    assert back_array.dtype == array.dtype
    pd.testing.assert_frame_equal(back_frame, frame)


# --------------------------------------------------------------------- calls


def test_arguments_are_given_by_position_by_name_and_by_default(
    cluster: mp.Cluster,
) -> None:
    assert cluster.call(scale, [1.0, 2.0]) == [2.0, 4.0]
    assert cluster.call(scale, [1.0], 3.0, shift=1.0) == [4.0]
    assert cluster.call(scale, rows=[1.0], factor=10.0) == [10.0]


@pytest.mark.parametrize(
    ("function", "argument", "result"),
    [
        (lambda text: text.upper(), "lower", "LOWER"),
        (functools.partial(scale, factor=3.0), [1.0], [3.0]),
        (operator.itemgetter("a"), {"a": 1}, 1),
        (str.title, "of mice", "Of Mice"),
        (len, [1, 2, 3], 3),
        (Reading("s", (1.0,)).__eq__, Reading("s", (1.0,)), True),
    ],
    ids=["lambda", "partial", "itemgetter", "method of a type", "builtin", "bound"],
)
def test_whatever_can_be_called_can_be_called_on_the_cluster(
    cluster: mp.Cluster, function: Any, argument: Any, result: Any
) -> None:
    assert cluster.call(function, argument) == result


def test_a_coroutine_function_runs_to_its_end(cluster: mp.Cluster) -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    assert cluster.call(later, 1) == 2


@pytest.mark.parametrize(
    ("kind", "error"),
    [("value", ValueError), ("key", KeyError), ("zero", ZeroDivisionError)],
)
def test_an_error_is_caught_as_what_was_raised(
    cluster: mp.Cluster, kind: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        cluster.call(fail, kind)

    assert isinstance(caught.value, mp.errors.RemoteError)


def test_prints_appear_where_the_call_was_made(
    cluster: mp.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def chat() -> None:
        print("first")  # noqa: T201
        print("second")  # noqa: T201

    cluster.on(node="n2").call(chat)

    assert capsys.readouterr().out.splitlines() == ["[n2] first", "[n2] second"]


def test_submit_returns_a_future_of_the_standard_library(cluster: mp.Cluster) -> None:
    futures = [cluster.submit(same, number) for number in range(5)]

    done, not_done = concurrent.futures.wait(futures, timeout=20)

    assert not_done == set()
    assert sorted(future.result() for future in done) == [0, 1, 2, 3, 4]


def test_map_keeps_the_order_of_its_items(cluster: mp.Cluster) -> None:
    assert cluster.map(operator.add, range(50), range(50)) == list(range(0, 100, 2))


def test_a_call_that_takes_too_long_is_ended(cluster: mp.Cluster) -> None:
    def sleep_long() -> None:
        import time

        time.sleep(60)

    with pytest.raises(TimeoutError):
        cluster.on(timeout=0.2).call(sleep_long)


# -------------------------------------------------------- names and catalogue


def test_a_registered_function_is_called_by_its_name(cluster: mp.Cluster) -> None:
    cluster.register(scale, name="scaled")

    assert cluster.call("scaled", [1.0]) == [2.0]
    assert cluster.fn.scaled([2.0]) == [4.0]


def test_a_decorated_function_is_still_the_local_one(cluster: mp.Cluster) -> None:
    @cluster.function(resources={"gpu"})
    def square(value: int) -> int:
        return value * value

    assert square(3) == 9
    assert square.call(3) == 9
    assert square.submit(3).result(60) == 9
    assert square.map([1, 2, 3]) == [1, 4, 9]


def test_the_catalogue_lists_what_was_registered_and_where(
    cluster: mp.Cluster,
) -> None:
    cluster.register(scale, name="for_gpus", resources={"gpu"})

    row = cluster.functions("for_gpus").iloc[0]

    assert row["function"] == "for_gpus"
    assert row["nodes"] == "n2"


def test_an_unknown_name_is_refused_at_once_with_the_nearest(
    cluster: mp.Cluster,
) -> None:
    cluster.register(scale, name="rescale")

    with pytest.raises(mp.errors.NoRoute, match="rescale"):
        cluster.call("rescael", [1.0])


def test_the_newest_version_of_a_function_runs(cluster: mp.Cluster) -> None:
    for number in range(3):
        cluster.register(lambda number=number: number, name="versioned")

        assert cluster.call("versioned") == number


def test_an_executor_is_one_of_concurrent_futures(cluster: mp.Cluster) -> None:
    with cluster.executor() as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert list(executor.map(same, "abc")) == ["a", "b", "c"]
        assert executor.submit(same, 1).result(60) == 1
