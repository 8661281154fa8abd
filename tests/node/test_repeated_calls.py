"""A call that comes once more while the one before is being ended."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mpreg_nb.node.calls import Calls
from mpreg_nb.node.monitor import Counters
from mpreg_nb.node.pending_call import PendingCall
from mpreg_nb.protocol.gossip import Load, Offer
from mpreg_nb.protocol.messages import Call, Failed, Failure
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Router
from mpreg_nb.settings import Limits

CALL = Call(id=b"1" * 16, function="f", payload=b"", idempotent=True)


class Caller:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def send(self, message: Any, parts: Any = ()) -> None:
        self.said.append(message)


class Scene:
    """A node whose calls run until they are told to end, even when cancelled."""

    def __init__(self) -> None:
        me: Any = self
        self.queued = 0
        self.running: list[PendingCall] = []
        catalog, loads, breakers = Catalog("n1"), Loads(), Breakers()
        catalog.publish(Offer(function="f", version="v" * 32, counter=1, origin="n1"))
        router = Router("n1", catalog, loads, breakers, me)
        router.update({"n1": frozenset()}, {})
        self.calls = Calls(
            "n1",
            router=router,
            loads=loads,
            breakers=breakers,
            peer_sender=me,
            executor=me,
            measure=Load,
            news=lambda: None,
            changed=lambda: None,
            limits=Limits(),
            counters=Counters("n1"),
            on_event=lambda *event: None,
        )

    def run(self, pending: PendingCall, offer: Offer) -> None:
        self.running.append(pending)
        pending.owner.began(pending)

    def cancel(self, pending: PendingCall) -> None:
        """Let it run on, as a function that catches its interrupt."""

    def end(self) -> None:
        pending = self.running.pop(0)
        failure = Failure(kind="cancelled", executed="yes")
        pending.owner.finish(pending, pending.failed(failure))


def run(scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        stage = Scene()
        await scene(stage)
        stage.calls.stop()

    asyncio.run(bounded())


def repeated(stage: Scene) -> Caller:
    """Have a call whose caller came back by another link and sent it again."""
    lost, back = Caller(), Caller()
    stage.calls.receive(lost, CALL)
    stage.calls.sink_lost(lost)
    stage.calls.receive(back, CALL)
    return back


def test_repeated_call_begins_when_the_one_before_has_ended() -> None:
    async def scene(stage: Scene) -> None:
        back = repeated(stage)
        assert len(stage.running) == 1

        stage.end()

        (again,) = stage.running
        assert again.sink is back
        assert back.said == []

    run(scene)


def test_repeated_call_that_is_cancelled_never_begins() -> None:
    async def scene(stage: Scene) -> None:
        back = repeated(stage)
        stage.calls.cancel(CALL.id)
        stage.end()

        (failed,) = back.said
        assert isinstance(failed, Failed)
        assert (failed.failure.kind, failed.failure.executed) == ("cancelled", "no")
        assert stage.running == []
        assert len(stage.calls) == 0

    run(scene)


def test_repeated_call_whose_caller_is_gone_too_never_begins() -> None:
    async def scene(stage: Scene) -> None:
        back = repeated(stage)
        stage.calls.sink_lost(back)
        stage.end()

        assert stage.running == []
        assert len(stage.calls) == 0

    run(scene)
