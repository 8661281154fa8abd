"""A call that is asked back ends once and runs once, whatever crosses on the way.

The client is real; the nodes are drawn with a few lines each, and so is the order
in which messages arrive, calls begin and end, are cancelled and time out.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg_nb.calls.pending import Outcome
from mpreg_nb.client.calls import ActiveCall, CallOptions, ClientCalls
from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.protocol.gossip import Load, MemberRecord, Offer
from mpreg_nb.protocol.messages import (
    PASSED_ON,
    Call,
    Cancel,
    Failed,
    Failure,
    Ids,
    NodeSnapshot,
    Recall,
    Reply,
    Resume,
    Snapshot,
    Started,
    Waiting,
)

NODES = ("n1", "n2", "n3")
STRANGER = b"a call of another"


class Wire:
    """A node with one slot, at the far end of the client's link to it."""

    def __init__(self, name: str) -> None:
        self.peer = MemberRecord(name=name, generation=1, epoch=bytes(16))
        self.arriving: deque[Any] = deque()
        self.leaving: deque[Any] = deque()
        self.queue: list[bytes] = []
        self.told: set[bytes] = set()
        self.running = b""
        self.ran: list[bytes] = []
        self.sent: list[Any] = []
        self.is_open = True
        self.written, self.received = 0, float("inf")  # nothing is known of that

    def send(self, message: Any, parts: Any = ()) -> None:
        self.sent.append(message)
        if self.is_open:
            self.arriving.append(message)

    def take_in(self) -> None:
        """Read one message."""
        match self.arriving.popleft() if self.arriving else None:
            case Call(id=call_id):
                self.queue.append(call_id)
                self.begin()
            case Recall(ids=call_ids):
                for call_id in call_ids:
                    if call_id in self.queue:
                        self.drop(call_id, "overloaded")
            case Cancel(id=call_id) if call_id in self.queue:
                self.drop(call_id, "cancelled")
            case Cancel(id=call_id) if call_id == self.running:
                failure = Failure(kind="cancelled", executed="yes")
                self.leaving.append(Failed(id=call_id, failure=failure))
                self.end()
            case _:
                pass

    def drop(self, call_id: bytes, kind: Any) -> None:
        self.queue.remove(call_id)
        self.told.discard(call_id)
        self.leaving.append(Failed(id=call_id, failure=Failure(kind=kind)))

    def sweep(self) -> None:
        """Say which calls wait, if some were not told of."""
        ids = tuple(call_id for call_id in self.queue if call_id not in self.told)
        if ids:
            self.told.update(ids)
            self.leaving.append(Waiting(ids=ids, load=self.load))

    def finish(self) -> None:
        """End what runs."""
        if self.running and self.running != STRANGER:
            reply = Reply(id=self.running, payload=b"", node=self.peer.name)
            self.leaving.append(reply)
        self.end()

    def end(self) -> None:
        self.running = b""
        self.begin()

    def begin(self) -> None:
        if self.queue and not self.running:
            self.running = self.queue.pop(0)
            self.ran.append(self.running)
            if self.running in self.told:
                name = self.peer.name
                self.leaving.append(Started(id=self.running, node=name))

    @property
    def load(self) -> Load:
        return Load(running=bool(self.running), queued=len(self.queue))


class Ways:
    """What the client asks of its links."""

    def __init__(self, wires: dict[str, Wire]) -> None:
        self.wires = wires
        self.entry = wires["n1"]
        self.looks: list[Callable[[], object]] = []  # what happens at the next look

    def get(self, node: str) -> Wire | None:
        if self.looks:
            self.looks.pop()()
        wire = self.wires[node]
        return wire if wire.is_open else None

    def direct(self, node: str, urls: object) -> Wire | None:
        return self.get(node)


class World:
    """A client, three nodes, and what became of its calls."""

    def __init__(self, calls_per_link: int = 256) -> None:
        self.wires = {name: Wire(name) for name in NODES}
        self.ended: dict[bytes, list[Outcome]] = {}
        state = ClusterState()
        offer = Offer(function="f", version="v" * 32, counter=1, origin="n1")
        state.update(
            Snapshot(
                id=bytes(16),
                node="n1",
                nodes=tuple(NodeSnapshot(record=w.peer) for w in self.wires.values()),
                offers=(("n1", offer),),
            )
        )
        self.ways = Ways(self.wires)
        ways: Any = self.ways

        async def reregister(version: str) -> bool:
            return False

        self.calls = ClientCalls(
            ways,
            state,
            direct=True,
            reregister=reregister,
            new_id=Ids().next,
            to_workers=lambda: False,
            calls_per_link=calls_per_link,
        )
        self.calls.routes_changed()

    def submit(
        self, number: int, *, in_a_hurry: bool = False, node: str | None = None
    ) -> bytes:
        call_id = bytes([number]) * 16
        if call_id in self.ended:
            return call_id
        self.ended[call_id] = []

        def done(call: ActiveCall, outcome: Outcome, parts: object) -> None:
            self.ended[call.id].append(outcome)

        call = ActiveCall(
            id=call_id,
            function="f",
            payload=b"",
            parts=(),
            done=done,
            writer=lambda node, stream, text: None,
            options=CallOptions(timeout_s=0.0 if in_a_hurry else None, node=node),
        )
        self.calls.start(call)
        return call_id

    def hear(self, wire: Wire) -> None:
        """Let the client read one message."""
        if wire.leaving:
            link: Any = wire
            self.calls.receive(link, wire.leaving.popleft(), ())

    def lose(self, wire: Wire) -> None:
        """Let a node die; what it had said is still heard."""
        while wire.leaving:
            self.hear(wire)
        if wire.is_open:
            wire.is_open = False
            wire.arriving.clear()
            wire.queue.clear()
            wire.running = STRANGER
            link: Any = wire
            self.calls.link_lost(link, "it died")

    def settle(self) -> None:
        """Let everything come to its end."""
        for _ in range(200):
            for wire in self.wires.values():
                if wire.is_open:
                    wire.take_in()
                    wire.finish()
                    self.hear(wire)

    def ran(self, call_id: bytes) -> list[str]:
        return [n for n, w in self.wires.items() for one in w.ran if one == call_id]


async def until_timers_ran() -> None:
    await asyncio.sleep(0)  # those that are due come after who waits already
    await asyncio.sleep(0)


def run(scenario: Callable[[World], Any]) -> None:
    async def within() -> None:
        world = World()
        await scenario(world)
        world.calls.stop()

    asyncio.run(within())


def test_calls_that_wait_behind_the_call_of_another_run_elsewhere() -> None:
    async def scenario(world: World) -> None:
        busy = world.wires["n1"]
        busy.running = STRANGER
        ids = [world.submit(number) for number in range(9)]
        for _ in range(40):
            for wire in world.wires.values():
                wire.take_in()
                wire.sweep()
                world.hear(wire)
                if wire is not busy:
                    wire.finish()

        assert [len(world.ended[call_id]) for call_id in ids] == [1] * 9
        assert [len(world.ran(call_id)) for call_id in ids] == [1] * 9
        assert busy.ran == []

    run(scenario)


def test_answer_that_comes_while_a_held_call_is_sent_does_not_send_it_twice() -> None:
    async def scenario() -> None:
        world = World(calls_per_link=2)
        ids = [world.submit(number) for number in range(1, 8)]
        wire = world.wires["n1"]
        for _ in range(2):
            wire.take_in()
            wire.finish()
        # As a worker that is taken back for a call hands over what it had said.
        world.ways.looks.append(lambda: world.hear(wire))
        world.hear(wire)
        world.settle()

        assert [len(world.ran(call_id)) for call_id in ids] == [1] * 7
        assert [len(world.ended[call_id]) for call_id in ids] == [1] * 7
        world.calls.stop()

    asyncio.run(scenario())


def test_call_that_names_its_node_stays_there() -> None:
    async def scenario(world: World) -> None:
        busy = world.wires["n1"]
        busy.running = STRANGER
        call = ActiveCall(
            id=bytes(16),
            function="f",
            payload=b"",
            parts=(),
            done=lambda *_: None,
            writer=lambda *_: None,
            options=CallOptions(node="n1"),
        )
        world.calls.start(call)
        busy.take_in()
        busy.sweep()
        world.hear(busy)

        assert not any(isinstance(message, Recall) for message in busy.sent)

    run(scenario)


def test_a_started_call_is_not_recalled() -> None:
    async def scenario(world: World) -> None:
        for wire in world.wires.values():
            wire.running = STRANGER
            world.calls._loads.report(wire.peer.name, wire.load, time.monotonic())
        world.submit(1)
        (wire,) = (wire for wire in world.wires.values() if wire.sent)
        wire.take_in()
        wire.sweep()
        wire.finish()
        world.hear(wire)
        world.hear(wire)
        for other in world.wires.values():
            load = Load(running=0)
            world.calls._loads.report(other.peer.name, load, time.monotonic())
        world.calls.routes_changed()

        assert wire.ran
        assert [type(message) for message in wire.sent] == [Call]

    run(scenario)


def test_cancelled_call_that_was_given_back_was_cancelled() -> None:
    async def scenario(world: World) -> None:
        for wire in world.wires.values():
            wire.running = STRANGER
        call_id = world.submit(1)
        (wire,) = (wire for wire in world.wires.values() if wire.sent)
        wire.take_in()
        wire.sweep()
        world.hear(wire)
        world.calls.cancel(call_id)
        while wire.arriving:
            wire.take_in()
        world.hear(wire)

        (outcome,) = world.ended[call_id]
        assert isinstance(outcome, Failed)
        assert (outcome.failure.kind, outcome.failure.executed) == ("cancelled", "no")
        assert [type(message) for message in wire.sent] == [Call, Recall, Cancel]

    run(scenario)


def test_call_that_a_leaving_entry_passed_on_is_asked_for_at_the_next_entry() -> None:
    async def scenario(world: World) -> None:
        call_id = world.submit(1, node="n9")  # no link leads there: by the entry
        entry, other = world.wires["n1"], world.wires["n2"]
        gone = Failure(kind="node_lost", node="n1", executed="unknown", cause=PASSED_ON)
        entry.leaving.append(Failed(id=call_id, failure=gone))
        world.hear(entry)

        assert [type(message) for message in entry.sent] == [Call]

        world.ways.entry = other
        world.calls.entry_found()

        assert other.sent == [Resume(ids=(call_id,), entry="n1")]

    run(scenario)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["submit", "hurry", "cancel", "time passes", "stranger", "lost"]
            + ["take in", "sweep", "finish", "hear"] * 4
        ),
        st.integers(0, 11),
    ),
    min_size=20,
    max_size=150,
)


@settings(max_examples=300)
@given(st.integers(2, 8), EVENTS)
def test_each_call_ends_once_and_runs_at_most_once(
    first: int, events: list[tuple[str, int]]
) -> None:
    async def scenario(world: World) -> None:
        world.wires["n2"].running = STRANGER
        for number in range(100, 100 + first):
            world.submit(number)
        for what, number in events:
            wire = world.wires[NODES[number % 3]]
            match what:
                case "submit":
                    world.submit(number)
                case "hurry":
                    world.submit(number, in_a_hurry=True)
                case "cancel":
                    world.calls.cancel(bytes([100 + number]) * 16)
                case "time passes":
                    await until_timers_ran()
                case "stranger" if not wire.running:
                    wire.running = STRANGER
                case "lost" if wire.peer.name == "n3" and number > 8:
                    world.lose(wire)
                case "take in" if wire.is_open:
                    wire.take_in()
                case "sweep" if wire.is_open:
                    wire.sweep()
                case "finish" if wire.is_open:
                    wire.finish()
                case "hear":
                    world.hear(wire)
                case _:
                    pass
        await until_timers_ran()
        world.settle()

        assert len(world.calls) == 0
        for call_id, outcomes in world.ended.items():
            (outcome,) = outcomes
            times = len(world.ran(call_id))
            assert times <= 1
            if isinstance(outcome, Reply):
                assert times == 1
            elif outcome.failure.kind in ("cancelled", "node_lost"):
                assert outcome.failure.executed != "no" or times == 0

    run(scenario)
