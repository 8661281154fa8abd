import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg_nb.membership.suspicion import Suspicion, suspicion_timeout_s


@given(c=st.integers(0, 50), k=st.integers(1, 10))
def test_more_confirmations_never_lengthen_suspicion(c: int, k: int) -> None:
    less = suspicion_timeout_s(c, k, shortest_s=1.0, longest_s=9.0)
    more = suspicion_timeout_s(c + 1, k, shortest_s=1.0, longest_s=9.0)

    assert 1.0 <= more <= less <= 9.0


@given(k=st.integers(1, 10))
def test_it_runs_from_the_longest_to_the_shortest_time(k: int) -> None:
    assert suspicion_timeout_s(0, k, shortest_s=1.0, longest_s=9.0) == 9.0
    assert math.isclose(suspicion_timeout_s(k, k, shortest_s=1.0, longest_s=9.0), 1.0)


def suspicion(members: int = 10) -> Suspicion:
    return Suspicion(members, 100.0, mult=4, max_mult=6, period_s=1.0)


def test_a_lone_accuser_has_to_wait_long() -> None:
    doubt = suspicion()

    doubt.accuse("a", 100.0, refused=False)

    assert doubt.deadline == 100.0 + 24.0


def test_two_who_confirm_bring_the_end_near() -> None:
    doubt = suspicion()

    news = [doubt.accuse(name, 101.0, refused=False) for name in "abc"]

    assert news == [True, True, True]
    assert doubt.deadline == pytest.approx(104.0)


def test_the_same_accuser_counts_once() -> None:
    doubt = suspicion()

    news = [doubt.accuse("a", 101.0, refused=False) for _ in range(3)]

    assert news == [True, False, False]
    assert doubt.deadline == 124.0


def test_accusers_beyond_those_needed_are_no_news() -> None:
    doubt = suspicion()
    for name in "abc":
        doubt.accuse(name, 101.0, refused=False)

    assert not doubt.accuse("d", 101.0, refused=False)
    assert doubt.accusers == ("a", "b", "c")


def test_in_a_cluster_of_three_the_first_accuser_is_enough() -> None:
    doubt = suspicion(members=3)

    doubt.accuse("a", 100.0, refused=False)

    assert doubt.deadline == 104.0


@pytest.mark.parametrize(("members", "needed"), [(2, 1), (3, 1), (4, 2), (100, 2)])
def test_refusals_end_it_within_a_period(members: int, needed: int) -> None:
    doubt = suspicion(members)
    for number in range(needed):
        assert not doubt.is_near_its_end
        doubt.accuse(f"n{number}", 102.0, refused=True)

    assert doubt.is_near_its_end
    assert doubt.deadline == 103.0


def test_silence_never_counts_as_refusal() -> None:
    doubt = suspicion(members=100)

    for name in "abcdef":
        doubt.accuse(name, 100.0, refused=False)

    assert not doubt.is_near_its_end
    assert doubt.deadline == pytest.approx(108.0)


def test_an_accuser_may_add_that_it_was_refused() -> None:
    doubt = suspicion()
    doubt.accuse("a", 100.0, refused=False)

    assert doubt.accuse("a", 101.0, refused=True)
    assert not doubt.accuse("a", 102.0, refused=False)
    assert doubt.refused == ("a",)


def test_a_late_event_loop_puts_the_end_off() -> None:
    doubt = suspicion(members=3)
    doubt.accuse("a", 100.0, refused=False)

    doubt.postpone(110.0)

    assert doubt.deadline == 110.0
