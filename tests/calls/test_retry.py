"""What is tried again, and how often in all."""

import random

import pytest

from mpreg_nb.calls.retry import (
    LONGEST_BACKOFF_S,
    MOST_ATTEMPTS,
    RetryBudget,
    Verdict,
    backoff_s,
    judge,
)
from mpreg_nb.protocol.messages import Failure


@pytest.mark.parametrize(
    ("failure", "idempotent", "expected"),
    [
        (Failure(kind="application", executed="yes"), True, "give up"),
        (Failure(kind="no_route"), True, "give up"),
        (Failure(kind="deadline", executed="unknown"), True, "give up"),
        (Failure(kind="overloaded"), False, "again later"),
        (Failure(kind="draining"), False, "again"),
        (Failure(kind="no_code"), False, "register first"),
        (Failure(kind="node_lost", executed="no"), False, "again"),
        (Failure(kind="node_lost", executed="unknown"), False, "give up"),
        (Failure(kind="node_lost", executed="unknown"), True, "again"),
        (Failure(kind="worker_crashed", executed="yes"), False, "give up"),
        (Failure(kind="worker_crashed", executed="yes"), True, "again"),
    ],
    ids=lambda value: value.kind if isinstance(value, Failure) else None,
)
def test_only_what_did_not_run_or_may_run_twice_is_tried_again(
    failure: Failure, idempotent: bool, expected: Verdict
) -> None:
    verdict = judge(failure, idempotent=idempotent, attempts=1, crashes=0)

    assert verdict == expected


def test_attempts_of_an_idempotent_call_are_bounded() -> None:
    lost = Failure(kind="node_lost", executed="unknown")

    verdict = judge(lost, idempotent=True, attempts=MOST_ATTEMPTS, crashes=0)

    assert verdict == "give up"


def test_call_that_killed_two_workers_is_poison() -> None:
    crashed = Failure(kind="worker_crashed", executed="yes")

    assert judge(crashed, idempotent=True, attempts=2, crashes=2) == "give up"


def test_budget_allows_a_floor_and_a_share_of_the_calls() -> None:
    budget = RetryBudget(share=0.2, floor_per_s=1.0, window_s=10.0)
    for _ in range(100):
        budget.count_call(now=0.0)

    taken = sum(budget.take(now=0.0) for _ in range(100))

    assert taken == 10 + 20


def test_budget_fills_again_with_time() -> None:
    budget = RetryBudget(share=0.0, floor_per_s=0.1, window_s=10.0)
    assert budget.take(now=0.0)
    assert not budget.take(now=5.0)

    assert budget.take(now=10.5)


def test_backoff_stays_between_nothing_and_two_seconds() -> None:
    chance = random.Random(7)

    pauses = [backoff_s(attempt, chance) for attempt in range(1, 12)]

    assert all(0 <= pause < LONGEST_BACKOFF_S for pause in pauses)


def test_backoff_ends_though_a_call_was_refused_thousands_of_times() -> None:
    chance = random.Random(7)

    assert 0 <= backoff_s(5000, chance) < LONGEST_BACKOFF_S
