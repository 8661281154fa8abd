import math

import pytest

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.join import Seeds

A, B = "ws://a:1", "ws://b:1"


@pytest.fixture
def seeds() -> Seeds:
    return Seeds(SwimConfig())


def test_seeds_are_dialled_one_after_the_other(seeds: Seeds) -> None:
    seeds.start([A, B, A], 10.0)

    assert seeds.due(10.0, ()) == [A]
    assert seeds.deadline == 10.25
    assert seeds.due(10.25, ()) == [B]


def test_a_seed_that_is_not_up_yet_is_dialled_again_soon(seeds: Seeds) -> None:
    seeds.start([A], 0.0)
    pauses = []
    now = 0.0
    for _ in range(7):
        assert seeds.due(now, ()) == [A]
        assert seeds.failed(A, now)
        pauses.append(round(seeds.deadline - now, 3))
        now = seeds.deadline

    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_an_address_that_is_no_seed_is_reported(seeds: Seeds) -> None:
    seeds.start([A], 0.0)

    assert not seeds.failed("n1", 0.0)


def test_after_the_join_only_seeds_without_a_member_are_dialled(seeds: Seeds) -> None:
    seeds.start([A, B], 0.0)
    seeds.settle(1.0)

    dialled = [seeds.due(2.0, (A,)), seeds.due(3.0, (A,))]

    assert sorted(dialled) == [[], [B]]


def test_after_one_round_seeds_are_dialled_now_and_then(seeds: Seeds) -> None:
    seeds.start([A, B], 0.0)
    seeds.settle(1.0)
    seeds.due(2.0, ())
    seeds.due(3.0, ())

    assert seeds.due(32.9, ()) == []
    dialled = [seeds.due(33.0 + 30.0 * turn, (A,)) for turn in range(4)]
    assert sorted(dialled) == [[], [], [B], [B]]


def test_without_seeds_there_is_nothing_to_do(seeds: Seeds) -> None:
    seeds.start([], 0.0)
    seeds.settle(0.0)

    assert seeds.deadline == math.inf
