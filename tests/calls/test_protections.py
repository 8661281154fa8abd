"""Negative controls: with one protection switched off, what it prevents happens."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from mpreg_nb.calls.outcome_cache import OutcomeCache
from mpreg_nb.calls.pending import CallerRules, Elsewhere, PendingCalls
from mpreg_nb.calls.retry import MOST_ATTEMPTS, RetryBudget
from mpreg_nb.protocol.messages import Failure
from mpreg_nb.routing.circuit_breaker import FAILURES_TO_OPEN, Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen
from tests.calls.test_pending import SomeCall, World, machine_and_router
from tests.node.test_work_stealing import End, House, run

Switch: TypeAlias = Callable[[], None]

CALLS = 300


@pytest.fixture
def no_fencing(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """What anybody says of a call is believed, whoever has it now."""
    return lambda: monkeypatch.setattr(PendingCalls, "has", lambda *_: True)


@pytest.fixture
def no_deduplication(monkeypatch: pytest.MonkeyPatch) -> Switch:
    return lambda: monkeypatch.setattr(OutcomeCache, "add", lambda *_: None)


@pytest.fixture
def no_breaker(monkeypatch: pytest.MonkeyPatch) -> Switch:
    return lambda: monkeypatch.setattr(Breakers, "failed", lambda *_: False)


@pytest.fixture
def no_budget(monkeypatch: pytest.MonkeyPatch) -> Switch:
    return lambda: monkeypatch.setattr(RetryBudget, "take", lambda *_: True)


def runs_of_a_call_that_was_given_back_twice() -> int:
    """A node gives a call back; when another one runs it, it does so once more."""
    world = World()
    world.submit(idempotent=False, timeout_s=1e9, pinned=None)
    (call,) = world.made.values()
    first: Any = call.place
    first.take_in()
    first.leave()
    first.refuse(call.id, "draining")
    world.hear(first)
    second: Any = call.place
    second.take_in()
    second.begin()
    world.hear(first)
    for link in world.links.values():
        link.take_in()
        link.begin()
    return world.ran[call.id]


def test_without_fencing_a_call_runs_twice_that_may_not(no_fencing: Switch) -> None:
    assert runs_of_a_call_that_was_given_back_twice() == 1
    no_fencing()
    assert runs_of_a_call_that_was_given_back_twice() == 2


def runs_of_a_call_that_comes_again() -> int:
    runs = 0

    async def scenario(house: House) -> None:
        nonlocal runs
        for _ in range(2):
            house.idempotent_call(End())
            if house.slot.current:
                runs += 1
                house.slot.end()

    run(scenario)
    return runs


def test_without_deduplication_a_call_that_comes_again_runs_again(
    no_deduplication: Switch,
) -> None:
    assert runs_of_a_call_that_comes_again() == 1
    no_deduplication()
    assert runs_of_a_call_that_comes_again() == 2


def attempts(broken: set[str]) -> Counter[str]:
    """Return how often each node got a call; `broken` ones lose all of them."""
    calls, router = machine_and_router(CallerRules(random.Random(1)), Loads())
    sent: Counter[str] = Counter()
    for number in range(CALLS):
        now = number / CALLS
        call = SomeCall(id=number.to_bytes(16, "big"), idempotent=True)
        calls.add(call, now)
        while True:
            chosen = router.choose(call.wanted, now, avoid=call.avoid)
            assert isinstance(chosen, Chosen)
            sent[chosen.node] += 1
            calls.sent(call, f"link to {chosen.node}", chosen.node, now)
            if chosen.node not in broken:
                break
            calls.unsent(call, now, node=chosen.node, reason="it died")
            lost = Failure(kind="node_lost", executed="unknown", node=chosen.node)
            if not isinstance(calls.failed(call, lost, now), Elsewhere):
                break
        calls.end(call, now)
    return sent


def test_without_a_breaker_a_node_that_loses_all_its_calls_gets_ever_more(
    no_breaker: Switch,
) -> None:
    assert attempts({"n2"})["n2"] == FAILURES_TO_OPEN
    no_breaker()
    assert attempts({"n2"})["n2"] > CALLS / 4


def test_without_a_budget_retries_multiply_the_load(no_budget: Switch) -> None:
    everywhere = {"n1", "n2", "n3"}
    floor = 100

    assert attempts(everywhere).total() <= 1.2 * CALLS + floor + 1
    no_budget()
    assert attempts(everywhere).total() == MOST_ATTEMPTS * CALLS
