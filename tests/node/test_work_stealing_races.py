"""Clients and nodes that all ask for calls at once: each call still runs once.

The calls of a client and of three nodes are real, what is between them and the
slots of the nodes are drawn: messages arrive in any order that links allow.
"""

import asyncio
import random
from collections import Counter, defaultdict, deque
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpreg_nb.calls.pending import Outcome
from mpreg_nb.client.calls import ActiveCall, ClientCalls
from mpreg_nb.client.cluster_view import ClusterState
from mpreg_nb.node import calls
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.monitor import Counters
from mpreg_nb.node.pending_call import PendingCall
from mpreg_nb.protocol.gossip import Load, MemberRecord, Offer
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    Failed,
    Failure,
    Ids,
    NodeSnapshot,
    Recall,
    Reply,
    Snapshot,
)
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Router, Wanted
from mpreg_nb.settings import Limits

NODES = ("n1", "n2", "n3")
ALIVE = {name: frozenset[str]() for name in NODES}
OFFER = Offer(function="f", version="v" * 32, counter=1, origin="n1")


class Ear:
    """One direction of a link: what is sent waits until it is heard."""

    def __init__(self, town: "Town", here: str, there: str) -> None:
        self.peer = MemberRecord(name=there, generation=1, epoch=bytes(16))
        self._line = town.lines[here, there]
        self.written, self.received = 0, float("inf")

    def send(self, message: Any, parts: Any = ()) -> None:
        self._line.append(message)


class Shop:
    """A node with one slot."""

    def __init__(self, town: "Town", name: str, chance: random.Random) -> None:
        self.name = name
        self.current: list[PendingCall] = []
        self.line: list[PendingCall] = []
        self.ran = town.ran
        self.loads, breakers = Loads(), Breakers()
        router = Router(name, town.catalog, self.loads, breakers, chance)
        router.update(ALIVE, {})
        me: Any = self
        self.ears: Any = {one: Ear(town, name, one) for one in (*NODES, "client")}
        self.calls = Calls(
            name,
            router=router,
            loads=self.loads,
            breakers=breakers,
            peer_sender=me,
            executor=me,
            measure=lambda: Load(running=len(self.current), queued=self.queued),
            news=lambda: None,
            changed=lambda: None,
            limits=Limits(),
            counters=Counters("n1"),
            on_event=lambda *event: None,
        )

    def send(self, node: str, message: Any, parts: Any = ()) -> None:
        self.ears[node].send(message)

    def hear(self, sender: str, message: Any) -> None:
        match message:
            case Call():
                self.calls.receive(self.ears[sender], message)
            case Cancel():
                self.calls.cancel(message.id)
            case Recall():
                self.calls.give_back(self.ears[sender], message)
            case _:
                self.calls.peer_said(self.ears[sender], message, ())

    # ------------------------------------------------- in place of its workers

    def link(self, node: str) -> Any:
        return self.ears[node]

    @property
    def queued(self) -> int:
        return len(self.line)

    def run(self, pending: PendingCall, offer: Offer) -> None:
        self.line.append(pending)
        self._begin()

    def withdraw(self, pending: PendingCall) -> bool:
        if pending.started:
            return False
        self.line.remove(pending)
        return True

    def cancel(self, pending: PendingCall) -> None:
        if pending in self.line:
            self.line.remove(pending)
            failure = Failure(kind="cancelled")
        else:
            self.current.remove(pending)
            failure = Failure(kind="cancelled", executed="yes")
        pending.owner.finish(pending, pending.failed(failure))
        self._begin()

    def end(self) -> None:
        if self.current:
            pending = self.current.pop()
            load = Load(queued=len(self.line))
            reply = Reply(id=pending.call.id, payload=b"", node=self.name, load=load)
            pending.owner.finish(pending, reply)
            self._begin()

    def _begin(self) -> None:
        if self.line and not self.current:
            pending = self.line.pop(0)
            self.current.append(pending)
            self.ran[pending.id] += 1
            pending.owner.began(pending)


class Town:
    """A client and three nodes; the client has links to two of them."""

    def __init__(self, seed: int) -> None:
        self.lines: defaultdict[tuple[str, str], deque[Any]] = defaultdict(deque)
        self.ran: Counter[bytes] = Counter()
        self.ended: dict[bytes, list[Outcome]] = {}
        self.catalog = Catalog("n1")
        self.catalog.publish(OFFER)
        chance = random.Random(seed)
        self.shops = {name: Shop(self, name, chance) for name in NODES}
        self.links: Any = {name: Ear(self, "client", name) for name in NODES[:2]}
        self.entry = self.links["n1"]
        state = ClusterState()
        records = [MemberRecord(name=n, generation=1, epoch=bytes(16)) for n in NODES]
        nodes = tuple(NodeSnapshot(record=record) for record in records)
        offers = (("n1", OFFER),)
        state.update(Snapshot(id=bytes(16), node="n1", nodes=nodes, offers=offers))

        async def reregister(version: str) -> bool:
            return False

        ways: Any = self
        self.client = ClientCalls(
            ways,
            state,
            direct=True,
            reregister=reregister,
            new_id=Ids().next,
            to_workers=lambda: False,
        )
        self.client.routes_changed()

    def get(self, node: str) -> Any:
        return self.links.get(node)

    def direct(self, node: str, urls: object) -> Any:
        return self.get(node)

    def submit(self) -> None:
        call_id = (len(self.ended) + 1).to_bytes(16, "big")
        self.ended[call_id] = []
        call = ActiveCall(
            id=call_id,
            function="f",
            payload=b"",
            parts=(),
            done=lambda call, outcome, parts: self.ended[call.id].append(outcome),
            writer=lambda node, stream, text: None,
        )
        self.client.start(call)

    def deliver(self, number: int) -> None:
        """Let one message arrive, if there is any."""
        full = sorted(pair for pair, line in self.lines.items() if line)
        if full:
            sender, receiver = full[number % len(full)]
            message = self.lines[sender, receiver].popleft()
            if receiver == "client":
                self.client.receive(self.links[sender], message, ())
            else:
                self.shops[receiver].hear(sender, message)

    async def settle(self) -> None:
        """Let everything come to its end."""
        for number in range(40 * len(self.ended) + 40):
            self.deliver(number)
            if not number % 5:
                self.shops[NODES[number // 5 % 3]].end()
                await asyncio.sleep(0)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["submit", "cancel", "time passes", "end"] + ["submit", "deliver"] * 4
        ),
        st.integers(0, 20),
    ),
    min_size=20,
    max_size=150,
)


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 99), EVENTS)
def test_each_call_ends_once_and_runs_at_most_once(
    monkeypatch: pytest.MonkeyPatch, seed: int, events: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(calls, "SWEEP_S", 0.0)

    async def scenario() -> Town:
        town = Town(seed)
        for what, number in events:
            if what == "submit":
                town.submit()
            elif what == "cancel":
                town.client.cancel((number + 1).to_bytes(16, "big"))
            elif what == "time passes":
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            elif what == "end":
                town.shops[NODES[number % 3]].end()
            else:
                town.deliver(number)
        await town.settle()
        return town

    town = asyncio.run(scenario())

    assert [len(outcomes) for outcomes in town.ended.values()] == [1] * len(town.ended)
    for call_id, (outcome,) in town.ended.items():
        if isinstance(outcome, Failed):
            assert outcome.failure.kind == "cancelled"
            assert town.ran[call_id] == (outcome.failure.executed == "yes")
        else:
            assert town.ran[call_id] == 1
    for shop in town.shops.values():
        assert len(shop.calls) == 0
        assert [shop.loads[name].in_flight for name in NODES] == [0, 0, 0]
    chances = town.client.router.explain(Wanted("f"), now=0.0)
    assert [chance.in_flight for chance in chances] == [0, 0, 0]
