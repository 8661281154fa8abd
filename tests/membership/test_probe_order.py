import random

from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.membership.failure_detector import ProbeOrder


@given(count=st.integers(1, 20), seed=st.integers(0, 100))
def test_everybody_comes_once_before_anybody_comes_twice(count: int, seed: int) -> None:
    rotation = ProbeOrder(random.Random(seed))
    names = {f"n{number}": None for number in range(count)}
    for name in names:
        rotation.add(name)
    rotation.take(())  # the first order is the order of arrival: draw a new one
    for name in names:
        rotation.add(name)

    rounds = [[rotation.take(names) for _ in names] for _ in range(3)]

    assert all(sorted(map(str, row)) == sorted(names) for row in rounds)


def test_those_that_are_gone_are_passed_over() -> None:
    rotation = ProbeOrder(random.Random(1))
    for name in "abc":
        rotation.add(name)

    taken = {rotation.take({"b": None}) for _ in range(4)}

    assert taken == {"b"}


def test_nobody_to_probe_is_no_error() -> None:
    assert ProbeOrder(random.Random(1)).take({}) is None


@given(seed=st.integers(0, 50))
def test_a_newcomer_waits_for_at_most_two_rounds(seed: int) -> None:
    rotation = ProbeOrder(random.Random(seed))
    names = {f"n{number}": None for number in range(10)}
    for name in names:
        rotation.add(name)
    for _ in range(7):
        rotation.take(names)

    rotation.add("new")
    names["new"] = None
    turns = [rotation.take(names) for _ in range(22)]

    assert "new" in turns
