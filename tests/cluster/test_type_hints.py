"""Type hints survive the decorator: mypy reads this file, and so does `inspect`."""

import inspect
from collections.abc import Iterable, Iterator
from typing import assert_type

import pytest

import mpreg_nb as mp
from tests.support.leaks import nothing_left


@mp.function
def total(rows: list[float], scale: float = 1.0) -> float:
    """Add up `rows`."""
    return sum(rows) * scale


@mp.function(resources={"gpu"})
def named(rows: Iterable[str]) -> dict[str, int]:
    return {row: len(row) for row in rows}


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with nothing_left(tmp_path_factory.mktemp("hints")):
        with mp.up({"n1": {"gpu"}}):
            yield


def test_a_decorated_function_is_still_the_function() -> None:
    assert_type(total([1.0], scale=2.0), float)

    assert total([1.0], scale=2.0) == 2.0
    assert str(inspect.signature(total)) == (
        "(rows: list[float], scale: float = 1.0) -> float"
    )
    assert inspect.getdoc(total) == "Add up `rows`."
    assert total.name == "total"


def test_calls_have_the_types_of_the_function() -> None:
    assert_type(total.call([1.0, 2.0], scale=2.0), float)
    assert_type(named.call(["ab"]), dict[str, int])
    assert_type(total.map([[1.0], [2.0]]), list[float])
    assert_type(total.on("gpu", timeout=20).call([3.0]), float)
    assert_type(total.submit([1.0]).result(), float)

    assert total.call([1.0, 2.0], scale=2.0) == 6.0
    assert named.call(["ab"]) == {"ab": 2}
    assert total.map([[1.0], [2.0]]) == [1.0, 2.0]
    assert total.on("gpu", timeout=20).call([3.0]) == 3.0
    assert total.submit([1.0]).result() == 1.0


async def _awaited() -> None:
    assert_type(await total.submit([1.0]), float)


def test_wrong_arguments_are_seen_by_the_type_checker() -> None:
    with pytest.raises(TypeError):
        total.call(1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        total.call([1.0], factor=2.0)  # type: ignore[call-arg]
