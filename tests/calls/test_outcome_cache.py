"""An idempotent call that comes again is answered with the outcome that it had."""

from mpreg_nb.calls.outcome_cache import (
    ENTRY_BYTES,
    KEPT_S,
    MOST_KEPT,
    MOST_KEPT_BYTES,
    OutcomeCache,
    fingerprint,
)
from mpreg_nb.protocol.messages import Call, Reply


def call(number: int, payload: bytes = b"") -> Call:
    return Call(id=bytes([number]) * 16, function="f", payload=payload)


def reply(to: Call, payload: bytes = b"") -> Reply:
    return Reply(id=to.id, payload=payload, node="n1")


def test_outcome_is_found_by_the_id_of_its_call_with_its_arguments() -> None:
    cache, first = OutcomeCache(), call(1, b"x")
    cache.add(first, (), reply(first), (), now=0.0)

    kept = cache.get(first.id)

    assert kept is not None
    assert kept.outcome == reply(first)
    assert kept.fingerprint == fingerprint(first, ())
    assert kept.fingerprint != fingerprint(call(1, b"y"), ())


def test_large_arguments_are_distinguished_by_their_size_and_first_bytes() -> None:
    one = call(1)

    prints = {
        fingerprint(one, (b"a" * 100_000,)),
        fingerprint(one, (b"a" * 100_001,)),
        fingerprint(one, (b"b" * 100_000,)),
        fingerprint(one, (b"a" * 50_000, b"a" * 50_000)),
    }

    assert len(prints) == 4


def test_oldest_outcomes_go_when_there_are_too_many() -> None:
    cache = OutcomeCache(most=2)
    calls = [call(number) for number in range(4)]
    for one in calls:
        cache.add(one, (), reply(one), (), now=0.0)

    assert [one.id in cache for one in calls] == [False, False, True, True]


def test_oldest_outcomes_go_when_they_are_too_large() -> None:
    cache = OutcomeCache(most_bytes=2 * ENTRY_BYTES + 100)
    for number in range(5):
        one = call(number)
        cache.add(one, (), reply(one, b"." * 30), (b"." * 10,), now=0.0)

    assert len(cache) == 2
    assert cache.size_bytes == 2 * ENTRY_BYTES + 80


def test_outcome_that_is_larger_than_the_cache_is_not_kept() -> None:
    cache, one = OutcomeCache(most_bytes=ENTRY_BYTES + 100), call(1)

    cache.add(one, (), reply(one, b"." * 101), (), now=0.0)

    assert one.id not in cache
    assert cache.size_bytes == 0


def test_many_small_outcomes_fit_within_the_bytes() -> None:
    assert MOST_KEPT * (ENTRY_BYTES + 100) < MOST_KEPT_BYTES


def test_outcomes_go_after_a_while() -> None:
    cache, first, later = OutcomeCache(), call(1), call(2)
    cache.add(first, (), reply(first), (), now=0.0)

    cache.add(later, (), reply(later), (), now=KEPT_S + 1.0)

    assert first.id not in cache
    assert later.id in cache
