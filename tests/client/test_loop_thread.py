"""What becomes of work that is given to the loop of a client as it ends."""

from collections.abc import Callable

import pytest

from mpreg_nb.client.loop_thread import LoopThread
from mpreg_nb.errors import ClusterDown


async def nothing() -> None:
    """Be run, or not."""


def ending(meanwhile: Callable[[LoopThread], object]) -> None:
    """End a thread; do something when it runs nothing more and is not closed yet."""
    thread = LoopThread()
    join = thread._thread.join

    def joined() -> None:
        join()
        meanwhile(thread)

    thread._thread.join = joined  # type: ignore[method-assign,assignment]
    thread.stop()


def test_nobody_waits_for_a_loop_that_has_ended() -> None:
    def wait(thread: LoopThread) -> None:
        with pytest.raises(ClusterDown):
            thread.run(nothing(), timeout_s=1.0)

    ending(wait)


def test_a_loop_that_has_ended_takes_no_more_work() -> None:
    def give(thread: LoopThread) -> None:
        with pytest.raises(ClusterDown):
            thread.call_soon(print)

    ending(give)


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
