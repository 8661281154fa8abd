"""Calls that wait here or elsewhere move to idle nodes; who asks gets calls back."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from mpreg_nb.calls.outcome_cache import OutcomeCache
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.executor import Executor, RunningCalls
from mpreg_nb.node.monitor import Counters
from mpreg_nb.node.pending_call import PendingCall, Sink
from mpreg_nb.node.spaces import Spaces
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.gossip import Load, MemberRecord, Offer
from mpreg_nb.protocol.messages import (
    PASSED_ON,
    Call,
    Cancel,
    Failed,
    Failure,
    Ids,
    Recall,
    Reply,
    Started,
    Waiting,
)
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import (
    FAILURES_TO_OPEN,
    SUCCESSES_TO_CLOSE,
    Breakers,
)
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Router
from mpreg_nb.settings import Limits
from mpreg_nb.transport.connection import Connection, PeerInfo

IDS = Ids()
BUSY, FULL, IDLE = Load(running=1), Load(running=1, queued=9), Load()


class End:
    """The other end of a link, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.news = asyncio.Event()

    def send(self, message: Any, parts: Any = ()) -> None:
        self.heard.append(message)
        self.news.set()

    async def hears(self, kind: type) -> Any:
        while not isinstance(self.heard[-1] if self.heard else None, kind):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)
        return self.heard[-1]

    @property
    def kinds(self) -> list[type]:
        return [type(message) for message in self.heard]


class NodeLink(Connection):
    """A link over which another node passes calls on, and what it heard."""

    def __init__(self, node: str) -> None:
        self.heard: list[type] = []
        self._open = True
        self.peer = PeerInfo(
            role="node",
            name=node,
            cluster_id="",
            lane="data",
            address="",
            dialled=False,
            carrier="unix",
        )

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> int:
        self.heard.append(type(message))
        return 0


class Slot:
    """Runs one call at a time, until it is told that it ends."""

    def __init__(self) -> None:
        self.current: list[PendingCall] = []
        self.line: list[PendingCall] = []

    @property
    def queued(self) -> int:
        return len(self.line)

    def run(self, pending: PendingCall, offer: Offer) -> None:
        self.line.append(pending)
        self._begin()

    def cancel(self, pending: PendingCall) -> None:
        """Note it; what runs ends by `end`."""

    def withdraw(self, pending: PendingCall) -> bool:
        if pending.started:
            return False
        self.line.remove(pending)
        return True

    def end(self, failure: Failure | None = None) -> None:
        pending = self.current.pop()
        outcome: Reply | Failed = Reply(id=pending.call.id, payload=b"", node="n1")
        if failure is not None:
            outcome = Failed(id=pending.call.id, failure=failure)
        pending.owner.finish(pending, outcome)
        self._begin()

    def call_back(self) -> None:
        """Have what was handed to a worker wait again: it had not begun there."""
        pending = self.current.pop()
        self.line.append(pending)
        pending.owner.given_back(pending)

    def _begin(self) -> None:
        if self.line and not self.current:
            self.current.append(self.line.pop(0))
            pending = self.current[0]
            pending.owner.began(pending)


class Peer:
    """A link to another node, on which nothing is known of what it read."""

    def __init__(self, name: str) -> None:
        self.peer = MemberRecord(name=name, generation=1, epoch=bytes(16))
        self.written, self.received = 0, float("inf")


class Lane:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.links: dict[str, Any] = {name: Peer(name) for name in ("n2", "n3")}

    def link(self, node: str) -> Any:
        return self.links.get(node)

    def send(self, node: str, message: Any, parts: Any = ()) -> None:
        self.sent.append((node, message))

    def to(self, node: str) -> list[type]:
        return [type(message) for name, message in self.sent if name == node]


class FirstTwo:
    """Has the router compare the first two nodes that fit."""

    def random(self) -> float:
        return 0.0


class House:
    """The calls of node n1, which has one slot, and what n2 and n3 are told."""

    def __init__(self) -> None:
        catalog = Catalog("n1")
        offer = Offer(function="f", version="v" * 32, counter=1, origin="n1")
        catalog.publish(offer)
        self.loads, breakers = Loads(), Breakers()
        self.events: list[tuple[str, ...]] = []
        router = Router("n1", catalog, self.loads, breakers, FirstTwo())
        nothing: frozenset[str] = frozenset()
        router.update({"n1": nothing, "n2": nothing, "n3": nothing}, {})
        self.slot = Slot()
        self.lane = Lane()
        slot: Any = self.slot
        peer_sender: Any = self.lane
        self.calls = Calls(
            "n1",
            router=router,
            loads=self.loads,
            breakers=breakers,
            peer_sender=peer_sender,
            executor=slot,
            measure=lambda: Load(running=1, queued=self.slot.queued),
            news=lambda: None,
            changed=lambda: None,
            limits=Limits(),
            counters=Counters("n1"),
            on_event=lambda *event: self.events.append(event),
        )
        self.client = End()

    def reports(self, **loads: Load) -> None:
        for node, load in loads.items():
            self.loads.report(node, load, time.monotonic())

    def same_call(
        self, sink: End, payload: bytes = b"", *, idempotent: bool = True
    ) -> None:
        """Receive the call of the one id that a caller sends again and again."""
        call = Call(
            id=b"again and again!",
            function="f",
            payload=payload,
            hops_left=0,
            idempotent=idempotent,
        )
        self.calls.receive(sink, call)

    def call(self, *, direct: bool = False, sink: Sink | None = None) -> bytes:
        call_id = IDS.next()
        hops_left = 0 if direct else 1
        call = Call(id=call_id, function="f", payload=b"", hops_left=hops_left)
        self.calls.receive(sink or self.client, call)
        return call_id

    def forwarded(self) -> bytes:
        """Have a call wait at n2, while n1 and n3 are busy."""
        self.call(direct=True, sink=End())
        self.call(direct=True, sink=End())
        self.reports(n2=IDLE, n3=FULL)
        call_id = self.call()
        assert self.lane.to("n2") == [Call]
        self.say(Waiting(ids=(call_id,), load=Load(running=1, queued=1)))
        return call_id

    def say(self, message: Any) -> None:
        """Let n2 or n3 say something: the one that has the call it is about."""
        ids = message.ids if isinstance(message, Waiting) else (message.id,)
        for name in ("n2", "n3"):
            had = [m.id for n, m in self.lane.sent if n == name and type(m) is Call]
            if ids[0] in had:
                node = name
        self.calls.peer_said(self.lane.links[node], message, ())

    def lose(self, node: str, *, unread: bool = False) -> None:
        """Let a link be lost; `unread`: its node read nothing of what was sent."""
        link = self.lane.links[node]
        link.received = -1.0 if unread else float("inf")
        self.calls.link_lost(link, "it died")


def run(scenario: Callable[[House], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        house = House()
        await scenario(house)
        house.calls.stop()

    asyncio.run(within())


def given_back(call_id: bytes) -> Failed:
    return Failed(id=call_id, failure=Failure(kind="overloaded", node="n2"))


def test_unstarted_calls_are_returned_and_the_rest_goes_on() -> None:
    async def scenario(house: House) -> None:
        begun, waits, stays = (house.call(direct=True) for _ in range(3))

        recall = Recall(ids=(begun, waits, IDS.next()))
        house.calls.give_back(house.client, recall)

        (failed,) = house.client.heard
        assert (failed.id, failed.failure.kind) == (waits, "overloaded")
        assert failed.failure.executed == "no"
        house.slot.end()
        house.slot.end()
        assert [message.id for message in house.client.heard] == [waits, begun, stays]
        assert len(house.calls) == 0
        assert house.loads["n1"].in_flight == 0

    run(scenario)


def test_call_that_its_worker_gives_back_counts_as_one_that_waits() -> None:
    async def scenario(house: House) -> None:
        call_id = house.call(direct=True)
        house.slot.call_back()

        assert await house.client.hears(Waiting) is not None
        house.calls.give_back(house.client, Recall(ids=(call_id,)))

        assert house.client.kinds == [Waiting, Failed]
        assert house.client.heard[1].failure.executed == "no"

    run(scenario)


def test_nobody_gets_the_calls_of_others_back() -> None:
    async def scenario(house: House) -> None:
        house.call(direct=True)
        waits = house.call(direct=True)

        house.calls.give_back(End(), Recall(ids=(waits,)))

        assert house.slot.queued == 1
        assert house.client.heard == []

    run(scenario)


def test_callers_receive_the_load_of_the_node_where_their_calls_wait() -> None:
    async def scenario(house: House) -> None:
        house.call(direct=True)
        waits = house.call(direct=True)

        told = await house.client.hears(Waiting)

        assert told == Waiting(ids=(waits,), load=Load(running=1, queued=1))

    run(scenario)


def test_call_that_waits_here_goes_to_a_node_that_becomes_idle() -> None:
    async def scenario(house: House) -> None:
        house.reports(n2=FULL, n3=FULL)
        house.call(direct=True, sink=End())
        waits = house.call()
        await house.client.hears(Waiting)
        before = house.lane.to("n3")

        house.reports(n3=IDLE)
        house.calls.look_for_idle()

        assert before == []
        ((node, sent),) = house.lane.sent
        assert (node, sent.id, sent.hops_left) == ("n3", waits, 0)
        assert house.client.heard[-1] == Started(id=waits, node="n3")
        assert house.slot.queued == 0
        assert [house.loads[one].in_flight for one in ("n1", "n3")] == [1, 1]

    run(scenario)


def test_call_that_its_caller_sent_here_is_for_its_caller_to_move() -> None:
    async def scenario(house: House) -> None:
        house.call(direct=True)
        house.call(direct=True)
        await house.client.hears(Waiting)

        house.reports(n2=IDLE, n3=IDLE)
        house.calls.look_for_idle()

        assert house.lane.sent == []

    run(scenario)


def test_call_that_waits_elsewhere_is_asked_back_and_sent_on() -> None:
    async def scenario(house: House) -> None:
        waits = house.forwarded()

        house.reports(n3=IDLE)
        house.calls.look_for_idle()
        house.say(given_back(waits))
        house.say(Reply(id=waits, payload=b"", node="n3"))

        assert house.lane.to("n2") == [Call, Recall]
        assert house.lane.to("n3") == [Call]
        assert house.client.kinds == [Waiting, Started, Reply]
        assert [house.loads[one].in_flight for one in ("n2", "n3")] == [0, 0]

    run(scenario)


def test_slot_here_that_becomes_free_takes_what_waits_elsewhere() -> None:
    async def scenario(house: House) -> None:
        waits = house.forwarded()

        house.slot.end()
        house.slot.end()
        house.say(given_back(waits))

        assert [pending.call.id for pending in house.slot.current] == [waits]
        assert house.lane.to("n2") == [Call, Recall]

    run(scenario)


def test_call_that_began_before_it_was_asked_back_ends_once() -> None:
    async def scenario(house: House) -> None:
        waits = house.forwarded()

        house.reports(n3=IDLE)
        house.calls.look_for_idle()
        house.say(Started(id=waits, node="n2"))
        house.say(Reply(id=waits, payload=b"", node="n2"))

        assert house.lane.to("n3") == []
        assert house.client.kinds == [Waiting, Started, Reply]
        assert [house.loads[one].in_flight for one in ("n2", "n3")] == [0, 0]

    run(scenario)


def test_call_that_was_cancelled_on_its_way_back_is_not_sent_on() -> None:
    async def scenario(house: House) -> None:
        waits = house.forwarded()
        house.reports(n3=IDLE)
        house.calls.look_for_idle()

        house.calls.cancel(waits)
        house.say(given_back(waits))

        assert house.lane.to("n2") == [Call, Recall, Cancel]
        assert house.lane.to("n3") == []
        assert house.client.heard[-1].failure.kind == "cancelled"
        assert house.loads["n3"].in_flight == 0

    run(scenario)


def test_call_on_its_way_back_from_a_lost_node_goes_elsewhere_once() -> None:
    async def scenario(house: House) -> None:
        waits = house.forwarded()
        house.reports(n3=IDLE)
        house.calls.look_for_idle()

        house.lose("n2", unread=True)

        calls = [one for _, one in house.lane.sent if isinstance(one, Call)]
        assert [call.id for call in calls] == [waits, waits]
        assert house.lane.to("n3") == [Call]
        assert house.loads["n3"].in_flight == 1

    run(scenario)


def test_caller_is_notified_that_a_waiting_call_may_start_elsewhere() -> None:
    async def scenario(house: House) -> None:
        house.forwarded()

        house.lose("n2", unread=True)

        assert house.client.kinds == [Waiting, Started]

    run(scenario)


def test_call_that_waited_at_a_lost_node_may_have_run_there() -> None:
    async def scenario(house: House) -> None:
        house.forwarded()

        house.lose("n2")

        failed = house.client.heard[-1]
        assert (failed.failure.kind, failed.failure.executed) == (
            "node_lost",
            "unknown",
        )
        assert house.lane.to("n3") == []

    run(scenario)


@pytest.mark.parametrize("load", [None, Load(running=0)], ids=["unknown", "no queue"])
def test_call_that_waits_for_data_is_left_alone(load: Load | None) -> None:
    async def scenario(house: House) -> None:
        house.call(direct=True, sink=End())
        house.reports(n2=IDLE, n3=FULL)
        call_id = house.call()

        house.say(Waiting(ids=(call_id,), load=load))
        house.reports(n3=IDLE)
        house.calls.look_for_idle()

        assert house.lane.to("n2") == [Call]
        assert house.client.kinds == [Waiting]

    run(scenario)


def test_call_that_waits_for_its_code_can_be_taken_back() -> None:
    async def scenario(house: House) -> None:
        asked = asyncio.Event()

        class Placement:
            async def obtain(self, function: str, version: str, holder: object) -> bool:
                asked.set()
                return await asyncio.Future()

        class Nothing:
            def get(self, version: str) -> None:
                return None

            def cancel(self, call_id: bytes) -> None:
                raise AssertionError("no worker has it")

        stubs: Any = Placement(), Nothing()
        spaces = Spaces(stubs[1], stubs[1], stubs[1])
        running = Executor(
            "n1",
            registry=stubs[1],
            store=stubs[1],
            code_distributor=stubs[0],
            peer_requests=stubs[1],
            workers=stubs[1],
            spaces=spaces,
            has_workers=True,
            runs_shipped=True,
            counters=stubs[1],
            here=RunningCalls("n1"),
        )
        call = Call(id=IDS.next(), function="f", payload=b"")
        offer = Offer(function="f", version="v" * 32, counter=1, origin="n1")
        pending = PendingCall(call, (), house.client, house.calls)

        running.run(pending, offer)
        await asked.wait()

        assert running.withdraw(pending)
        assert not running.withdraw(pending)
        await asyncio.sleep(0)  # the search for the code ends
        assert house.client.heard == []
        assert len(asyncio.all_tasks()) == 1

    run(scenario)


def test_call_whose_code_cannot_be_looked_for_has_an_outcome() -> None:
    async def scenario(house: House) -> None:
        told: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))

        class Broken:
            queued = 0

            def get(self, version: str) -> None:
                """Return that the code is not here."""

            def at_hand(self, inputs: Any) -> tuple[Any, ...]:
                return ()

            async def obtain(self, function: str, version: str, holder: object) -> bool:
                raise RuntimeError("a fault")

        broken: Any = Broken()
        running = Executor(
            "n1",
            registry=broken,
            store=broken,
            code_distributor=broken,
            peer_requests=broken,
            workers=broken,
            spaces=Spaces(broken, broken, broken),
            has_workers=True,
            runs_shipped=True,
            counters=broken,
            here=RunningCalls("n1"),
        )
        house.calls._executor = running
        house.call(direct=True)

        failed = await house.client.hears(Failed)

        assert (failed.failure.kind, failed.failure.executed) == (
            "bad_request",
            "unknown",
        )
        assert "RuntimeError: a fault" in failed.failure.message
        assert len(house.calls) == 0

    run(scenario)


@pytest.mark.parametrize("crashes", [False, True], ids=["lost", "worker crashed"])
def test_breaker_that_opens_and_closes_is_an_event_of_the_node_it_is_about(
    crashes: bool,
) -> None:
    async def scenario(house: House) -> None:
        def fail(call_id: bytes) -> None:
            if crashes:
                crash = Failure(kind="worker_crashed", node="n2", executed="unknown")
                house.say(Failed(id=call_id, failure=crash))
            else:
                house.lose("n2")

        def call() -> bytes:
            call_id = IDS.next()
            call = Call(id=call_id, function="f", payload=b"", hops_left=1, node="n2")
            house.calls.receive(house.client, call)
            return call_id

        for _ in range(FAILURES_TO_OPEN):
            fail(call())
        opened = list(house.events)
        for _ in range(SUCCESSES_TO_CLOSE):
            house.say(Reply(id=call(), payload=b"", node="n2"))

        assert opened == [("n2", "breaker open", "for f, in calls that n1 routes")]
        closed = [event[:2] for event in house.events[1:]]
        assert closed == [("n2", "breaker closed")]

    run(scenario)


def test_idempotent_call_that_comes_again_while_it_runs_runs_once() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client)
        again = End()

        house.same_call(again)
        house.slot.end()

        assert again.kinds == [Reply]
        assert house.slot.current == house.slot.line == []
        assert len(house.calls) == 0

    run(scenario)


def test_idempotent_call_that_comes_again_after_its_end_is_answered_as_before() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client)
        house.slot.end()
        again = End()

        house.same_call(again)

        assert again.heard == house.client.heard
        assert house.slot.current == []

    run(scenario)


def test_idempotent_call_that_raised_and_comes_again_raises_as_before() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client)
        house.slot.end(Failure(kind="application", node="n1", executed="yes"))
        again = End()

        house.same_call(again)

        assert again.heard == house.client.heard
        assert house.slot.current == []

    run(scenario)


def test_idempotent_call_that_lost_its_worker_runs_again_when_it_comes_again() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client)
        house.slot.end(Failure(kind="worker_crashed", node="n1", executed="yes"))
        again = End()

        house.same_call(again)
        house.slot.end()

        assert again.kinds == [Reply]

    run(scenario)


def test_idempotent_call_whose_caller_had_gone_runs_again_after_its_end() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client)
        house.calls.sink_lost(house.client)
        again = End()

        house.same_call(again)
        house.slot.end()
        assert again.heard == []
        house.slot.end()

        assert again.kinds == [Reply]
        assert house.client.heard == []

    run(scenario)


def test_call_that_is_not_idempotent_and_comes_again_while_it_runs_runs_once() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client, idempotent=False)
        again = End()

        house.same_call(again, idempotent=False)
        house.slot.end()

        assert again.kinds == [Reply]
        assert house.slot.current == house.slot.line == []

    run(scenario)


def test_call_that_is_not_idempotent_is_not_restarted_while_it_is_ended() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client, idempotent=False)
        house.calls.sink_lost(house.client)
        again = End()

        house.same_call(again, idempotent=False)
        house.slot.end()

        [told] = again.heard
        assert (told.failure.kind, told.failure.executed) == ("node_lost", "unknown")
        assert house.slot.current == house.slot.line == []

    run(scenario)


def test_other_arguments_under_the_id_of_a_call_are_refused() -> None:
    async def scenario(house: House) -> None:
        house.same_call(house.client)
        other = End()

        house.same_call(other, b"other arguments")
        house.slot.end()
        house.same_call(other, b"other arguments")

        assert [one.failure.kind for one in other.heard] == ["bad_request"] * 2
        assert house.client.kinds == [Reply]

    run(scenario)


def test_call_that_cannot_be_routed_has_an_outcome_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(house: House) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a fault")

        waits = Call(id=IDS.next(), function="g", payload=b"", wait_ms=60_000)
        house.calls.receive(house.client, waits)
        with monkeypatch.context() as patch:
            patch.setattr(house.calls.router, "choose", fail)
            with pytest.raises(RuntimeError, match="a fault"):
                house.call()
            told: list[Any] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: told.append(context))
            house.calls.routes_changed()
        house.call(direct=True)
        house.slot.end()

        ends = [one for one in house.client.heard if isinstance(one, Failed | Reply)]
        assert [type(end) for end in ends] == [Failed, Failed, Reply]
        failures = [end.failure for end in ends if isinstance(end, Failed)]
        assert {failure.executed for failure in failures} == {"unknown"}
        assert "node n1 could not handle it" in failures[0].message
        assert len(told) == 1
        assert len(house.calls) == 0

    run(scenario)


def test_leaving_node_gives_back_what_waits_and_ends_what_runs() -> None:
    async def scenario(house: House) -> None:
        link: Any = End()
        begun, waits = (house.call(direct=True, sink=link) for _ in range(2))

        house.calls.drain()
        house.slot.end()
        late = house.call(direct=True, sink=link)

        given_back, ended, refused = link.heard
        assert (given_back.id, given_back.failure.kind) == (waits, "draining")
        assert (ended.id, type(ended)) == (begun, Reply)
        assert (refused.id, refused.failure.kind) == (late, "draining")

    run(scenario)


def test_leaving_node_gives_back_what_waits_at_the_nodes_it_was_passed_on_to() -> None:
    async def scenario(house: House) -> None:
        waits = house.forwarded()

        house.calls.drain()
        house.say(given_back(waits))

        assert house.lane.sent[-1] == ("n2", Recall(ids=(waits,)))
        told = house.client.heard[-1]
        assert (told.id, told.failure.kind) == (waits, "draining")
        assert (told.failure.node, told.failure.executed) == ("n1", "no")

    run(scenario)


def test_leaving_node_waits_for_what_runs_at_the_nodes_it_was_passed_on_to() -> None:
    async def scenario(house: House) -> None:
        runs = house.forwarded()
        house.say(Started(id=runs, node="n2"))

        house.calls.drain()
        house.slot.end()

        assert Recall not in house.lane.to("n2")
        assert not house.calls.idle.is_set()
        house.say(Reply(id=runs, payload=b"", node="n2"))
        assert house.calls.idle.is_set()
        assert house.client.kinds[-1] is Reply

    run(scenario)


def test_leaving_node_passes_on_no_call_again_that_another_node_refused() -> None:
    async def scenario(house: House) -> None:
        refused = house.forwarded()

        house.calls.drain()
        failure = Failure(kind="no_route", node="n2")
        house.say(Failed(id=refused, failure=failure))

        assert Call not in house.lane.to("n3")
        assert house.client.heard[-1].failure.kind == "draining"

    run(scenario)


def test_leaving_node_gives_back_at_once_what_waits_for_a_node_that_fits() -> None:
    async def scenario(house: House) -> None:
        rare = frozenset({"gpu"})
        call = Call(
            id=IDS.next(),
            function="f",
            payload=b"",
            resources=rare,
            wait_ms=60_000,
            hops_left=1,
        )
        house.calls.receive(house.client, call)

        house.calls.drain()

        assert house.client.kinds == [Waiting, Failed]
        assert house.client.heard[-1].failure.kind == "draining"
        assert house.calls.idle.is_set()

    run(scenario)


def test_node_that_stops_reports_a_call_that_it_had_passed_on() -> None:
    async def scenario(house: House) -> None:
        runs = house.forwarded()
        house.say(Started(id=runs, node="n2"))

        house.calls.end_all("it has left the cluster")

        told = house.client.heard[-1]
        assert (told.id, told.failure.cause) == (runs, PASSED_ON)
        assert (told.failure.node, told.failure.executed) == ("n1", "unknown")

    run(scenario)


@pytest.mark.parametrize("is_passed_on", [True, False], ids=["passed on", "direct"])
def test_outcome_is_kept_that_another_node_is_to_pass_on(is_passed_on: bool) -> None:
    async def scenario(house: House) -> None:
        link, caller = NodeLink("n2"), End()
        call_id = house.call(direct=True, sink=link if is_passed_on else None)

        house.slot.end()

        assert house.calls.orphans.hand_over(call_id, caller, "n2") is is_passed_on
        assert caller.kinds == [Reply] * is_passed_on

    run(scenario)


def runs_of_a_call_that_comes_again() -> int:
    runs = 0

    async def scenario(house: House) -> None:
        nonlocal runs
        for _ in range(2):
            house.same_call(End())
            if house.slot.current:
                runs += 1
                house.slot.end()

    run(scenario)
    return runs


def test_without_deduplication_a_call_that_comes_again_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert runs_of_a_call_that_comes_again() == 1
    monkeypatch.setattr(OutcomeCache, "add", lambda *_: None)
    assert runs_of_a_call_that_comes_again() == 2
