"""The loop of a client in a thread: whoever waits for it is answered when it ends."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.errors import ClusterDown
from tests.support.asking import TIMEOUT_S, Asking


def test_work_that_ends_in_the_last_turn_of_the_loop_has_its_result() -> None:
    thread = LoopThread()

    async def last() -> int:
        thread.loop.stop()
        return 1

    asking = Asking(lambda: thread.run(last()))

    assert asking.answer() == 1
    thread.loop.close()


def test_work_that_the_end_interrupts_raises_that_the_cluster_is_down() -> None:
    thread = LoopThread()
    begun = threading.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    asking = Asking(lambda: thread.run(endless()))
    assert begun.wait(TIMEOUT_S)
    thread.stop()

    assert isinstance(asking.answer(), ClusterDown)


def test_work_that_cancels_itself_is_cancelled_and_nothing_else() -> None:
    thread = LoopThread()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    asking = Asking(lambda: thread.run(cancelled()))

    assert type(asking.answer()).__name__ == "CancelledError"
    thread.stop()


def test_threads_that_ask_without_a_pause_hear_that_it_has_ended() -> None:
    async def nothing() -> None:
        return

    def ask_on(thread: LoopThread, begun: threading.Event) -> None:
        while True:
            thread.run(nothing())
            begun.set()

    for _ in range(10):
        thread, begun = LoopThread(), threading.Event()
        asking = [Asking(partial(ask_on, thread, begun)) for _ in range(2)]
        assert begun.wait(TIMEOUT_S)
        thread.stop()

        assert [type(each.answer()) for each in asking] == [ClusterDown, ClusterDown]


def test_after_the_end_nothing_is_accepted() -> None:
    thread = LoopThread()
    thread.stop()
    thread.stop()

    with pytest.raises(ClusterDown):
        thread.run(asyncio.sleep(0))
    with pytest.raises(ClusterDown):
        thread.call_soon(print)
    assert thread.is_closed


def test_what_is_collected_meanwhile_may_give_work_too() -> None:
    thread = LoopThread()
    taken: list[str] = []

    class Garbage:
        def __del__(self) -> None:
            thread.call_soon(taken.append, "of the garbage")

    given = [Garbage()]
    call_soon = thread.loop.call_soon_threadsafe

    class Collecting:
        """The loop, where the collector runs whenever something is given to it."""

        def __getattr__(self, name: str) -> object:
            return getattr(loop, name)

        def call_soon_threadsafe(
            self, function: Callable[..., object], *args: object
        ) -> object:
            given.clear()
            return call_soon(function, *args)

    loop, thread.loop = thread.loop, Collecting()  # type: ignore[assignment]
    thread.call_soon(taken.append, "of the caller")
    thread.loop = loop
    thread.stop()

    assert taken == ["of the garbage", "of the caller"]
