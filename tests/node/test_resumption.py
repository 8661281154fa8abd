"""Calls whose way to their caller is gone, and callers who come back for them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import msgspec
import pytest

from mpreg_nb.node import resumption
from mpreg_nb.node.peer_requests import PeerSender
from mpreg_nb.node.pending_call import PendingCall
from mpreg_nb.node.resumption import OrphanedCalls, Resumption, ToldOutcomes
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.messages import (
    PASSED_ON,
    Call,
    Cancel,
    Failed,
    Failure,
    NotHeld,
    Reply,
    Resume,
    Started,
    Waiting,
)
from mpreg_nb.transport.connection import Connection, PeerInfo
from mpreg_nb.transport.token import Role

ONE, TWO = b"1" * 16, b"2" * 16
DONE = Reply(id=ONE, payload=b"result", node="me")


class Heard(Connection):
    """Stands for a link, and keeps what is sent on it."""

    def __init__(self, name: str, role: Role = "node") -> None:
        self.peer = PeerInfo(
            role=role,
            name=name,
            cluster_id="",
            lane="data",
            address="",
            dialled=False,
            carrier="unix",
        )
        self.said: list[Any] = []

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> int:
        self.said.append(message)
        return 0


class Scene:
    """A node called "me" with two others, and what it says to whom."""

    def __init__(self) -> None:
        self.pending: dict[bytes, PendingCall] = {}
        self.cancelled: list[bytes] = []
        self.sent: dict[str, list[Any]] = {"b": [], "c": []}
        self.client = Heard("client", "client")
        self.orphans = OrphanedCalls(
            "me", find=self.pending.get, cancel=self.cancelled.append
        )
        self.resumption = Resumption(
            "me",
            peer_sender=cast(PeerSender, self),
            members=lambda: ("me", "b", "c"),
            orphans=self.orphans,
        )

    def send(self, node: str, message: Any, parts: Parts = ()) -> None:
        self.sent[node].append(message)

    def running(self, call_id: bytes, sink: Heard, *, started: float) -> PendingCall:
        pending = PendingCall(
            call=Call(id=call_id, function="f", payload=b""),
            parts=(),
            sink=sink,
            owner=cast(Any, None),
        )
        pending.place, pending.started = "me", started
        self.pending[call_id] = pending
        return pending

    def ask(self, *ids: bytes, by: Heard | None = None, entry: str = "gone") -> None:
        link = by or self.client
        self.resumption.receive(link, Resume(ids=ids, entry=entry))

    def answer(self, node: str, message: Any) -> bool:
        link = Heard(node)
        return self.resumption.answered(link, message, ())


def on_loop(scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            stage = Scene()
            try:
                await scene(stage)
            finally:
                stage.orphans.stop()

    asyncio.run(bounded())


def test_call_that_still_runs_is_handed_over() -> None:
    async def scene(stage: Scene) -> None:
        pending = stage.running(ONE, Heard("gone"), started=1.0)
        stage.orphans.keep(pending)

        stage.ask(ONE)

        assert pending.sink is stage.client
        assert stage.client.said == [Started(id=ONE, node="me")]

    on_loop(scene)


def test_outcome_of_a_call_that_ended_meanwhile_is_handed_over() -> None:
    async def scene(stage: Scene) -> None:
        pending = stage.running(ONE, Heard("gone"), started=1.0)
        stage.orphans.keep(pending)
        pending.sink.send(DONE)

        assert not stage.orphans.idle.is_set()  # a node that leaves waits for that

        stage.ask(ONE)

        assert stage.client.said == [DONE]
        assert len(stage.orphans) == 0
        assert stage.orphans.idle.is_set()

    on_loop(scene)


def test_call_for_which_nobody_comes_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "KEPT_S", 0.02)

    async def scene(stage: Scene) -> None:
        ended = stage.running(TWO, Heard("gone"), started=1.0)
        stage.orphans.keep(stage.running(ONE, Heard("gone"), started=1.0))
        stage.orphans.keep(ended)
        ended.sink.send(Reply(id=TWO, payload=b"", node="me"))

        while len(stage.orphans):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

        assert stage.cancelled == [ONE]

    on_loop(scene)


def test_call_that_its_caller_sent_again_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "KEPT_S", 0.02)

    async def scene(stage: Scene) -> None:
        pending = stage.running(ONE, Heard("gone"), started=1.0)
        stage.orphans.keep(pending)
        pending.sink = Heard("another entry")

        while len(stage.orphans):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

        assert stage.cancelled == []

    on_loop(scene)


def test_outcomes_that_are_too_large_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "KEPT_BYTES", 10)

    async def scene(stage: Scene) -> None:
        for call_id in (ONE, TWO):
            pending = stage.running(call_id, Heard("gone"), started=1.0)
            stage.orphans.keep(pending)
            pending.sink.send(Reply(id=call_id, payload=bytes(6), node="me"))

        stage.ask(ONE)
        stage.ask(TWO, by=Heard("b"))

        assert [type(word) for word in stage.client.said] == [Reply]

    on_loop(scene)


def test_reported_outcome_is_sent_again_to_each_who_asks() -> None:
    async def scenario(stage: Scene) -> None:
        stage.orphans.told(DONE, ())
        entry = Heard("b")

        stage.ask(ONE, by=entry)
        stage.ask(ONE)

        assert entry.said == [DONE]
        assert stage.client.said == [DONE]

    on_loop(scenario)


def test_call_that_was_given_back_may_run_elsewhere() -> None:
    async def scene(stage: Scene) -> None:
        given_back = Failed(id=ONE, failure=Failure(kind="overloaded", node="me"))
        stage.orphans.told(given_back, ())

        stage.ask(ONE, by=Heard("b"))
        stage.ask(ONE)

        assert stage.client.said == []
        assert stage.sent["c"] == [Resume(ids=(ONE,), entry="gone")]

    on_loop(scene)


def test_oldest_reported_outcomes_are_dropped_by_number_bytes_and_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "MOST_TOLD", 3)
    monkeypatch.setattr(resumption, "KEPT_BYTES", 100)
    told = ToldOutcomes()

    def tell(number: int, size_bytes: int, now: float) -> None:
        outcome = Reply(id=bytes([number]) * 16, payload=b"", node="me")
        told.add(outcome, (bytes(size_bytes),), now)

    def kept() -> list[int]:
        return [n for n in range(10) if told.get(bytes([n]) * 16) is not None]

    for number in range(4):
        tell(number, 10, 0.0)
    assert kept() == [1, 2, 3]
    tell(4, 85, 1.0)
    assert kept() == [3, 4]
    tell(5, 101, 1.0)
    assert kept() == [3, 4]
    told.forget_old(resumption.TOLD_S + 0.5)
    assert kept() == [4]


@pytest.mark.parametrize("started", [1.0, 0.0], ids=["runs", "waits"])
def test_loss_of_the_entry_may_be_news(started: float) -> None:
    async def scene(stage: Scene) -> None:
        pending = stage.running(ONE, Heard("gone"), started=started)

        stage.ask(ONE)

        assert pending.sink is stage.client
        word = Started(id=ONE, node="me") if started else Waiting(ids=(ONE,))
        assert stage.client.said == [word]

    on_loop(scene)


def test_call_that_came_by_another_way_is_not_handed_over() -> None:
    async def scene(stage: Scene) -> None:
        other = Heard("another")
        pending = stage.running(ONE, other, started=1.0)
        asking = Heard("b")

        stage.ask(ONE, by=asking)

        assert pending.sink is other
        assert asking.said == [NotHeld(ids=(ONE,))]

    on_loop(scene)


def test_other_nodes_are_asked_and_what_the_holder_says_is_passed_on() -> None:
    async def scene(stage: Scene) -> None:
        stage.ask(ONE, entry="gone")

        assert stage.sent == {
            node: [Resume(ids=(ONE,), entry="gone")] for node in ("b", "c")
        }
        stage.answer("b", NotHeld(ids=(ONE,)))
        for word in (Started(id=ONE, node="c"), DONE):
            assert stage.answer("c", word)
        assert stage.client.said == [Started(id=ONE, node="c"), DONE]
        assert not stage.answer("c", DONE)

    on_loop(scene)


def lost(said: list[Any]) -> tuple[str, str, str]:
    (failed,) = said
    assert isinstance(failed, Failed)
    return failed.failure.kind, failed.failure.executed, failed.failure.node


def test_call_that_no_node_has_may_have_run() -> None:
    async def scene(stage: Scene) -> None:
        stage.ask(ONE, entry="gone")

        for node in ("b", "c"):
            stage.answer(node, NotHeld(ids=(ONE,)))

        assert lost(stage.client.said) == ("node_lost", "unknown", "gone")

    on_loop(scene)


def test_node_that_cannot_be_asked_is_not_waited_for() -> None:
    async def scenario(stage: Scene) -> None:
        stage.ask(ONE, entry="gone")

        stage.answer("b", NotHeld(ids=(ONE,)))
        stage.resumption.unsent("c", Resume(ids=(ONE,), entry="gone"))

        assert lost(stage.client.said) == ("node_lost", "unknown", "gone")

    on_loop(scenario)


def test_node_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resumption, "ANSWER_S", 0.02)

    async def scene(stage: Scene) -> None:
        stage.ask(ONE, TWO, entry="gone")
        stage.answer("b", Started(id=TWO, node="b"))

        while len(stage.client.said) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

        assert lost(stage.client.said[1:]) == ("node_lost", "unknown", "gone")

    on_loop(scene)


def test_loss_of_the_holder_ends_the_call() -> None:
    async def scene(stage: Scene) -> None:
        stage.ask(ONE)
        stage.answer("b", Started(id=ONE, node="b"))

        stage.resumption.node_lost(Heard("c"), "it died")
        stage.resumption.node_lost(Heard("b"), "it died")

        assert lost(stage.client.said[1:]) == ("node_lost", "unknown", "b")

    on_loop(scene)


@pytest.mark.parametrize("end", ["cancel", "loss of the client"])
def test_end_of_a_resumed_call_reaches_its_holder(end: str) -> None:
    async def scene(stage: Scene) -> None:
        stage.ask(ONE)
        stage.answer("b", Started(id=ONE, node="b"))

        if end == "cancel":
            stage.resumption.cancel(ONE)
        else:
            stage.resumption.sink_lost(stage.client)

        assert stage.sent["b"][1:] == [Cancel(id=ONE)]

    on_loop(scene)


@pytest.mark.parametrize("end", ["cancel", "loss of the client"])
def test_end_of_a_call_whose_holder_is_not_known_yet_reaches_all_that_may_have_it(
    end: str,
) -> None:
    async def scene(stage: Scene) -> None:
        stage.ask(ONE)
        stage.answer("c", NotHeld(ids=(ONE,)))

        if end == "cancel":
            stage.resumption.cancel(ONE)
            stage.resumption.cancel(ONE)  # by another node that looks for it, too
        else:
            stage.resumption.sink_lost(stage.client)

        assert stage.sent["b"][1:] == [Cancel(id=ONE)]
        assert stage.sent["c"][1:] == []

    on_loop(scene)


def test_node_that_stops_sends_callers_to_another_node_and_cancels_nothing() -> None:
    async def scene(stage: Scene) -> None:
        stage.ask(ONE)
        stage.answer("b", Started(id=ONE, node="b"))

        stage.resumption.end_all("it has left the cluster")
        stage.ask(TWO)
        stage.resumption.sink_lost(stage.client)

        ended = stage.client.said[1:]
        assert [(one.id, one.failure.cause) for one in ended] == [
            (ONE, PASSED_ON),
            (TWO, PASSED_ON),
        ]
        assert stage.sent["b"] == [Resume(ids=(ONE,), entry="gone")]

    on_loop(scene)
