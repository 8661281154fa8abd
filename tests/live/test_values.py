"""What functions may be made of, and what comes back from them."""

import dataclasses
import datetime
import decimal
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mpreg_nb as mp

pytestmark = pytest.mark.live

SCALE = 3


@dataclasses.dataclass
class Point:
    x: float
    y: float


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    each: float

    def of(self, count: float) -> float:
        return self.each * count


rate = Rate(0.5)


def uses_instance(count: float) -> float:
    return rate.of(count)


@dataclasses.dataclass(frozen=True)
class Refused(Exception):
    code: int


class Counter:
    step = 2

    def __init__(self, start: int) -> None:
        self.value = start

    def next(self) -> int:
        self.value += self.step
        return self.value


@pytest.fixture(scope="module")
def cluster() -> Iterator[mp.Cluster]:
    with mp.up(2, fresh=True) as cluster:
        yield cluster


def closure(factor: int) -> Callable[[int], int]:
    def multiply(value: int) -> int:
        return factor * value

    return multiply


def doubled(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def outer(*args: int) -> int:
        return 2 * function(*args)

    return outer


@doubled
def decorated(value: int) -> int:
    return value + 1


def factorial(number: int) -> int:
    return 1 if number < 2 else number * factorial(number - 1)


def uses_constant(value: int) -> int:
    return SCALE * value


def uses_class(start: int) -> int:
    counter = Counter(start)
    counter.next()
    return counter.next()


def middle(a: Point, b: Point) -> Point:
    return Point((a.x + b.x) / 2, (a.y + b.y) / 2)


def with_options(a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> Any:
    return a, b, rest, c, more


def test_functions_of_every_make_run_as_they_do_here(cluster: mp.Cluster) -> None:
    triple = lambda value: 3 * value  # noqa: E731
    cluster.register(triple, name="triple")

    assert cluster.call(closure(7), 6) == 42
    assert cluster.call("triple", 5) == 15
    assert cluster.call(decorated, 4) == 10
    assert cluster.call(factorial, 20) == factorial(20)
    assert cluster.call(uses_constant, 5) == 15
    assert cluster.call(uses_class, 1) == 5
    assert cluster.call(middle, Point(0, 0), Point(2, 4)) == Point(1, 2)
    assert cluster.call(with_options, 1, 2, 9, 9, c=4, d=5) == (
        1,
        2,
        (9, 9),
        4,
        {"d": 5},
    )


def test_functions_use_instances_of_classes_of_the_notebook(
    cluster: mp.Cluster,
) -> None:
    def by_default(count: float, used: Rate = rate) -> float:
        return used.of(count)

    assert cluster.call(uses_instance, 4) == 2
    assert cluster.call(rate.of, 6) == 3
    assert cluster.call(by_default, 8) == 4
    assert cluster.call(dataclasses.replace, rate, each=2.0) == Rate(2)


def give(value: Any) -> Any:
    return value


VALUES: list[Any] = [
    None,
    True,
    (1, (2, 3)),
    [1, "zwei", b"drei"],
    {1, 2, 3},
    frozenset("ab"),
    {"key": {"inner": [1.5]}, 3: None},
    datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
    datetime.timedelta(days=2),
    decimal.Decimal("1.10"),
    1 + 2j,
    10**400,
    Point(1.5, -2.5),
    rate,
    float("inf"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value_comes_back_equal_and_of_the_same_type(
    cluster: mp.Cluster, value: Any
) -> None:
    result = cluster.call(give, value)

    assert result == value
    assert type(result) is type(value)


def test_arrays_and_frames_come_back_as_they_were(cluster: mp.Cluster) -> None:
    array = np.arange(1_000_000, dtype=np.float32).reshape(1000, 1000)
    frame = pd.DataFrame({"a": range(1000), "b": pd.date_range("2024", periods=1000)})

    same_array = cluster.call(give, array)
    same_frame = cluster.call(give, frame)

    np.testing.assert_array_equal(same_array, array)
    assert same_array.dtype == array.dtype
    assert np.array(same_array).flags.writeable  # it may be in shared memory itself
    pd.testing.assert_frame_equal(same_frame, frame)


def test_state_of_a_module_stays_in_the_worker(cluster: mp.Cluster) -> None:
    def count() -> int:
        import sys
        import types

        sys.modules.setdefault("mpreg_test_state", types.ModuleType("state"))
        module: Any = sys.modules["mpreg_test_state"]
        module.calls = getattr(module, "calls", 0) + 1
        return int(module.calls)

    on_one = cluster.on(node="n1")
    on_one.call(count)

    assert on_one.call(count) == 2
    assert cluster.on(node="n2").call(count) == 1


def test_original_exception_class_and_the_cell_lines_come_back(
    cluster: mp.Cluster,
) -> None:
    def fails(rows: list[int]) -> int:
        return rows[99]

    with pytest.raises(IndexError) as caught:
        cluster.call(fails, [1])

    error = caught.value
    assert isinstance(error, mp.errors.RemoteError)
    assert error.function == "fails"
    assert error.node in {"n1", "n2"}
    assert "return rows[99]" in error.remote_traceback
    assert "mpreg_nb" not in error.remote_traceback


def test_an_exception_that_nobody_may_change_is_caught_and_gathered(
    cluster: mp.Cluster,
) -> None:
    def refuses(code: int) -> int:
        raise Refused(code)

    def gathered(codes: list[int]) -> list[Exception]:
        found: list[Exception] = []
        for code in codes:
            try:
                refuses(code)
            except Refused as error:
                found.append(error)
        return found

    with pytest.raises(Refused) as caught:
        cluster.submit(refuses, 7).result(timeout=30)

    assert caught.value.code == 7
    assert cluster.call(gathered, [1, 2]) == [Refused(1), Refused(2)]
    assert type(cluster.call(give, caught.value)) is type(caught.value)


def test_map_keeps_the_order_and_raises_the_first_error(cluster: mp.Cluster) -> None:
    def check(number: int) -> int:
        if number == 613:
            raise ValueError(f"no {number}")
        return -number

    assert cluster.map(check, range(600)) == [-number for number in range(600)]
    with pytest.raises(ValueError, match="no 613"):
        cluster.map(check, range(2000))
    assert cluster.call(check, 1) == -1


def test_one_code_under_two_names_runs_as_each_was_registered(
    cluster: mp.Cluster,
) -> None:
    def process() -> int:
        import os

        return os.getpid()

    cluster.register(process, name="in_thread", isolation="thread")
    cluster.register(process, name="in_worker")

    in_node = cluster.on(node="n1").call("in_thread")
    in_worker = cluster.on(node="n1").call("in_worker")

    assert in_node != in_worker
    assert in_node == cluster.on(node="n1").call("in_thread")
