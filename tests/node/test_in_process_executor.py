"""Calls that run in the process of their node, and are cancelled at any moment."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, cast

from mpreg_nb.node.executor import THREADS, InProcessExecutor
from mpreg_nb.node.pending_call import PendingCall
from mpreg_nb.protocol.messages import Call
from mpreg_nb.protocol.worker import JobDone, JobFailed
from mpreg_nb.serialize.pickle import pack_arguments
from tests.support.worker_functions import InterruptsWhenOpened, echo


class Desk:
    """An executor, and what became of its calls."""

    def __init__(self) -> None:
        self.executor = InProcessExecutor(self._ended, None)
        self.ended: dict[bytes, list[JobDone | JobFailed]] = {}
        self._heard: dict[bytes, asyncio.Event] = {}

    def _ended(
        self, pending: PendingCall, ended: JobDone | JobFailed, parts: object
    ) -> None:
        self.ended[pending.id].append(ended)
        self._heard[pending.id].set()

    def begin(self, number: int, function: Callable[..., Any], *args: Any) -> bytes:
        call_id = number.to_bytes(16, "big")
        payload = bytes(pack_arguments(args, {})[0])
        call = Call(id=call_id, function="f", payload=payload)
        owner = cast(Any, None)
        self.ended[call_id] = []
        self._heard[call_id] = asyncio.Event()
        self.executor.run(PendingCall(call, (), owner, owner), function, ())
        return call_id

    async def until_ended(self, call_id: bytes) -> JobDone | JobFailed:
        await self._heard[call_id].wait()
        (ended,) = self.ended[call_id]
        return ended


def run(scene: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            desk = Desk()
            try:
                await scene(desk)
            finally:
                desk.executor.stop()

    asyncio.run(bounded())


def test_coroutine_that_is_cancelled_before_its_first_step_has_an_outcome() -> None:
    async def scene(desk: Desk) -> None:
        began = []

        async def function() -> None:
            began.append(True)

        call_id = desk.begin(1, function)
        # In the turn in which its thread gives the coroutine to the loop.
        while len(asyncio.all_tasks()) == 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        desk.executor.cancel(call_id)
        ended = await desk.until_ended(call_id)

        assert isinstance(ended, JobFailed)
        assert ended.kind == "cancelled"
        assert (ended.executed == "yes") is bool(began)
        assert desk.executor.running == 0

    run(scene)


def test_call_that_is_cancelled_while_it_waits_for_a_thread_never_runs() -> None:
    async def scene(desk: Desk) -> None:
        may_end = threading.Event()
        ran = []
        try:
            busy = [desk.begin(n, may_end.wait) for n in range(1, THREADS + 1)]
            waits = desk.begin(100, lambda: ran.append("cancelled"))
            last = desk.begin(101, lambda: ran.append("last"))

            assert desk.executor.cancel(waits)
            (ended,) = desk.ended[waits]
        finally:
            may_end.set()
        for call_id in (*busy, last):
            await desk.until_ended(call_id)

        assert isinstance(ended, JobFailed)
        assert (ended.kind, ended.executed) == ("cancelled", "no")
        assert ran == ["last"]

    run(scene)


def test_function_did_not_run_whose_arguments_cannot_be_rebuilt() -> None:
    async def scene(desk: Desk) -> None:
        ended = await desk.until_ended(desk.begin(1, echo, InterruptsWhenOpened()))

        assert isinstance(ended, JobFailed)
        assert (ended.kind, ended.executed) == ("application", "no")

    run(scene)
