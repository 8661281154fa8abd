"""Results that several calls want are fetched once, and held while they are used."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from mpreg_nb.node import results
from mpreg_nb.node.results import Found, ResultCache
from mpreg_nb.protocol.messages import Failure, ResultRef

ONE = ResultRef("n2", b"1" * 16, 5)
OTHER = ResultRef("n2", b"2" * 16, 5)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


class Owner:
    """Answers when it is told to, and counts what it was asked."""

    def __init__(self, answer: Found | Failure = b"model") -> None:
        self.answer = answer
        self.asked: list[ResultRef] = []
        self.may_answer = asyncio.Event()

    async def fetch(self, kept: ResultRef) -> Found | Failure:
        self.asked.append(kept)
        await self.may_answer.wait()
        return self.answer


async def ask_together(
    owner: Owner, shared: ResultCache, kept: ResultRef, times: int
) -> None:
    asks = [asyncio.ensure_future(shared.get(kept)) for _ in range(times)]
    await asyncio.sleep(0)
    owner.may_answer.set()
    assert await asyncio.gather(*asks) == [owner.answer] * times


@on_a_loop
async def test_what_several_ask_for_is_fetched_once_and_then_held() -> None:
    owner = Owner()
    shared = ResultCache(owner.fetch)

    await ask_together(owner, shared, ONE, times=3)
    later = await shared.get(ONE)

    assert later == b"model"
    assert owner.asked == [ONE]
    shared.stop()


@on_a_loop
async def test_what_one_asks_for_is_not_held() -> None:
    owner = Owner()
    shared = ResultCache(owner.fetch)

    await ask_together(owner, shared, ONE, times=1)
    await shared.get(ONE)

    assert owner.asked == [ONE, ONE]
    shared.stop()


@on_a_loop
async def test_a_failure_is_reported_to_all_and_not_kept() -> None:
    owner = Owner(Failure(kind="gone", node="n2"))
    shared = ResultCache(owner.fetch)

    await ask_together(owner, shared, ONE, times=2)
    await shared.get(ONE)

    assert owner.asked == [ONE, ONE]
    shared.stop()


@on_a_loop
async def test_a_call_that_is_cancelled_takes_it_away_from_no_other() -> None:
    owner = Owner()
    shared = ResultCache(owner.fetch)
    first = asyncio.ensure_future(shared.get(ONE))
    second = asyncio.ensure_future(shared.get(ONE))
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.sleep(0)
    owner.may_answer.set()

    assert await second == b"model"
    assert first.cancelled()
    shared.stop()


@on_a_loop
async def test_no_more_is_held_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "MOST_BYTES", 9)
    owner = Owner()
    shared = ResultCache(owner.fetch)

    for kept in (ONE, OTHER):
        owner.may_answer.clear()
        await ask_together(owner, shared, kept, times=2)
    await shared.get(OTHER)
    await shared.get(ONE)

    assert owner.asked == [ONE, OTHER, ONE]
    shared.stop()


@on_a_loop
async def test_unused_entries_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "HOLD_S", 0.01)
    owner = Owner()
    shared = ResultCache(owner.fetch)
    await ask_together(owner, shared, ONE, times=2)

    async with asyncio.timeout(60):
        while len(owner.asked) == 1:
            await shared.get(ONE)
            await asyncio.sleep(0.03)

    assert owner.asked == [ONE, ONE]
    shared.stop()


@on_a_loop
async def test_what_is_known_to_be_shared_is_held_for_the_first_that_asks() -> None:
    owner = Owner()
    shared = ResultCache(owner.fetch)
    many = ResultRef("n2", b"3" * 16, 5, shared=True)

    await ask_together(owner, shared, many, times=1)
    await shared.get(many)

    assert owner.asked == [many]
    shared.stop()


@on_a_loop
async def test_the_newest_stays_even_if_it_is_larger_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "MOST_BYTES", 3)
    owner = Owner()
    shared = ResultCache(owner.fetch)

    await ask_together(owner, shared, ONE, times=2)
    await ask_together(owner, shared, OTHER, times=2)
    await shared.get(OTHER)

    assert owner.asked == [ONE, OTHER]
    shared.stop()


@on_a_loop
async def test_what_was_released_where_it_was_made_is_held_no_longer() -> None:
    owner = Owner()
    shared = ResultCache(owner.fetch)
    await ask_together(owner, shared, ONE, times=2)

    shared.forget(ONE.id)
    shared.forget(OTHER.id)
    await shared.get(ONE)

    assert owner.asked == [ONE, ONE]
    shared.stop()
