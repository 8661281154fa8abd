"""Whatever is lost, late or said twice: one outcome for each call, and a true one.

The machine is driven by a few lines in place of a client or a node. What is behind its
links is drawn: nodes with one slot that begin, end, refuse, die, leave, or go on when
their link is long given up. What really ran is counted there, and judges the machine.
"""

import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from mpreg_nb.calls.pending import (
    AS_HEARD,
    CallerRules,
    CallState,
    Elsewhere,
    Finish,
    Outcome,
    PendingCalls,
    Retry,
    RouterRules,
    Rules,
    Stop,
    Verdict,
)
from mpreg_nb.calls.retry import (
    MOST_ATTEMPTS,
    MOST_TRIES,
    OVERLOAD_PATIENCE_S,
    RetryBudget,
)
from mpreg_nb.protocol.gossip import Load, Offer
from mpreg_nb.protocol.messages import (
    Call,
    Cancel,
    Failed,
    Failure,
    Recall,
    Reply,
    Started,
    Waiting,
)
from mpreg_nb.routing.catalog import Catalog
from mpreg_nb.routing.circuit_breaker import FAILURES_TO_OPEN, Breakers
from mpreg_nb.routing.load import Loads
from mpreg_nb.routing.router import Chosen, Router, Wanted

NODES = ("n1", "n2", "n3")
CREDIT = 4
ANY = st.integers(0, 20)


@dataclass(eq=False, kw_only=True)
class SomeCall(CallState):
    """A call of a test."""

    pinned: str | None = None

    @property
    def wanted(self) -> Wanted:
        return Wanted("f", node=self.pinned)

    @property
    def is_movable(self) -> bool:
        return self.pinned is None


def machine_and_router(
    rules: Rules, loads: Loads
) -> tuple[PendingCalls[SomeCall], Router]:
    catalog = Catalog("n1")
    catalog.publish(Offer(function="f", version="v" * 32, counter=1, origin="n1"))
    breakers = Breakers()
    router = Router(None, catalog, loads, breakers, random.Random(1))
    router.update({name: frozenset() for name in NODES}, {})
    return PendingCalls(rules, router, loads, breakers), router


def machine(rules: Rules | None = None) -> PendingCalls[SomeCall]:
    rules = rules or CallerRules(random.Random(1))
    return machine_and_router(rules, Loads())[0]


@dataclass(eq=False)
class Wire:
    """A link to a node, and what the node at its end does for those who sent here."""

    node: str
    ran: Counter[bytes]
    to_node: deque[Any] = field(default_factory=deque)
    to_caller: deque[Any] = field(default_factory=deque)
    written: int = 0
    read: int = 0
    queue: list[bytes] = field(default_factory=list)
    told: set[bytes] = field(default_factory=set)
    running: bytes = b""
    leaving: bool = False

    def send(self, message: Any) -> None:
        self.written += 1
        self.to_node.append(message)

    def take_in(self) -> None:
        """Let the node read one message."""
        if not self.to_node:
            return
        self.read += 1
        match self.to_node.popleft():
            case Call(id=call_id) if self.leaving:
                self.refuse(call_id, "draining")
            case Call(id=call_id) if len(self.queue) >= 3:
                self.refuse(call_id, "overloaded")
            case Call(id=call_id):
                self.queue.append(call_id)
            case Recall(ids=ids):
                for call_id in ids:
                    if call_id in self.queue:
                        self.queue.remove(call_id)
                        self.refuse(call_id, "overloaded")
            case Cancel(id=call_id) if call_id in self.queue:
                self.queue.remove(call_id)
                self.refuse(call_id, "cancelled")
            case Cancel(id=call_id) if call_id == self.running:
                self.running = b""
                self.refuse(call_id, "cancelled", "yes")
            case _:
                pass

    def refuse(self, call_id: bytes, kind: Any, executed: Any = "no") -> None:
        self.told.discard(call_id)
        failure = Failure(kind=kind, executed=executed, node=self.node)
        self.to_caller.append(Failed(id=call_id, failure=failure))

    def tell(self) -> None:
        """Let the node say what waits there."""
        ids = tuple(call_id for call_id in self.queue if call_id not in self.told)
        self.told.update(ids)
        load = Load(running=bool(self.running), queued=len(self.queue))
        self.to_caller.append(Waiting(ids=ids, load=load))

    def begin(self) -> None:
        """Let the node begin with the next call."""
        if self.queue and not self.running:
            self.running = self.queue.pop(0)
            self.ran[self.running] += 1
            if self.running in self.told:
                self.to_caller.append(Started(id=self.running, node=self.node))

    def finish(self) -> None:
        """Let what runs there return."""
        if self.running:
            reply = Reply(id=self.running, payload=b"", node=self.node)
            self.to_caller.append(reply)
            self.running = b""

    def crash(self) -> None:
        """Let the worker die under what runs there."""
        if self.running:
            self.refuse(self.running, "worker_crashed", "yes")
            self.running = b""

    def leave(self) -> None:
        """Let the node drain: it gives back what waits, and takes nothing new."""
        self.leaving = True
        queue, self.queue = self.queue, []
        for call_id in queue:
            self.refuse(call_id, "draining")


class World(RuleBasedStateMachine):
    """A process with calls, three nodes, and what became of the calls."""

    make_rules: Any = staticmethod(lambda: CallerRules(random.Random(1)))

    def __init__(self) -> None:
        super().__init__()
        self.loads = Loads()
        self.calls, self.router = machine_and_router(self.make_rules(), self.loads)
        self.ran: Counter[bytes] = Counter()
        self.links = {name: Wire(name, self.ran) for name in NODES}
        self.ghosts: list[Wire] = []
        self.outcomes: dict[bytes, list[Outcome]] = {}
        self.made: dict[bytes, SomeCall] = {}
        self.now = 0.0

    # ------------------------------------------------- in the place of a shell

    def send(self, call: SomeCall, target: str = "") -> None:
        if not self.try_to_send(call, target):
            self.calls.hold(call)

    def try_to_send(self, call: SomeCall, target: str = "") -> bool:
        if not target:
            choice = self.router.choose(call.wanted, self.now, avoid=call.avoid)
            assert isinstance(choice, Chosen)
            target = choice.node
        link = self.links[target]
        if self.calls.under_way(link) >= CREDIT:
            return False
        self.calls.sent(call, link, target, self.now, link.written)
        link.send(Call(id=call.id, function="f", payload=b""))
        return True

    def send_held(self) -> None:
        for wanted in tuple(self.calls.lines):
            while (call := self.calls.next_held(wanted, self.now)) is not None:
                if not self.try_to_send(call):
                    break
                self.calls.release(call)

    def follow(self, call: SomeCall, verdict: Verdict, heard: Outcome | None) -> None:
        match verdict:
            case Finish(failure):
                outcome = (
                    heard if failure is None else Failed(id=call.id, failure=failure)
                )
                assert outcome is not None
                if isinstance(call.place, Wire) and call.under_way:
                    call.place.send(Cancel(id=call.id))
                if isinstance(outcome, Failed):
                    outcome = self.calls.truth(call, outcome)
                if self.calls.end(call, self.now):
                    self.outcomes[call.id].append(outcome)
            case Elsewhere(target):
                self.send(call, "" if target is None else target.node)
            case Stop():
                assert isinstance(call.place, Wire)
                call.place.send(Cancel(id=call.id))
            case Retry():
                pass
            case _:
                raise AssertionError(verdict)

    def hear(self, link: Wire) -> None:
        if not link.to_caller:
            return
        message = link.to_caller.popleft()
        if isinstance(message, Waiting):
            self.calls.told_waiting(message.ids, link, movable=True)
            assert message.load is not None
            self.loads.report(link.node, message.load, self.now)
        call = (
            None if isinstance(message, Waiting) else self.calls.calls.get(message.id)
        )
        if call is not None and self.calls.has(link, call):
            match message:
                case Reply():
                    self.calls.answered(call, message, self.now)
                    self.follow(call, AS_HEARD, message)
                case Failed():
                    self.calls.answered(call, message, self.now)
                    verdict = self.calls.failed(call, message.failure, self.now)
                    self.follow(call, verdict, message)
                case _:
                    self.calls.started(call, self.now)
        for _, waiting in self.calls.recalls(self.now):
            wire = waiting[0].place
            assert isinstance(wire, Wire)
            wire.send(Recall(ids=tuple(call.id for call in waiting)))
        self.send_held()

    def lose(self, name: str, received: float) -> None:
        link = self.links[name]
        self.links[name] = Wire(name, self.ran)
        lost = self.calls.lost(
            link, self.now, node=name, reason="it is gone", received=received
        )
        for call, failed in lost:
            verdict = self.calls.failed(call, failed.failure, self.now)
            self.follow(call, verdict, failed)
        self.send_held()

    def tick(self) -> None:
        for call, verdict in self.calls.tick(self.now):
            self.follow(call, verdict, None)
        self.send_held()

    # ------------------------------------------------------------ what happens

    @rule(
        idempotent=st.booleans(),
        timeout_s=st.sampled_from([math.inf, 0.0, 0.2, 2.0]),
        pinned=st.sampled_from([None, None, None, "n2"]),
    )
    def submit(self, idempotent: bool, timeout_s: float, pinned: str | None) -> None:
        call_id = (len(self.made) + 1).to_bytes(16, "big")
        call = SomeCall(id=call_id, idempotent=idempotent, pinned=pinned)
        self.made[call_id] = call
        self.outcomes[call_id] = []
        self.calls.add(call, self.now, self.now + timeout_s)
        if self.calls.is_held(call.wanted):
            self.calls.hold(call)
        else:
            self.send(call)

    @precondition(lambda self: self.made)
    @rule(which=ANY, softly=st.booleans())
    def cancel(self, which: int, softly: bool) -> None:
        call = list(self.made.values())[which % len(self.made)]
        if call.id not in self.calls.calls:
            return
        mark = self.calls.withdraw if softly else self.calls.cancel
        if not mark(call, self.now):
            return
        if call.place is None:
            self.follow(call, Finish(Failure(kind="cancelled")), None)
        else:
            assert isinstance(call.place, Wire)
            message = Recall(ids=(call.id,)) if softly else Cancel(id=call.id)
            call.place.send(message)

    @rule(name=st.sampled_from(NODES), steps=st.lists(st.integers(0, 5), max_size=9))
    def node_goes_on(self, name: str, steps: list[int]) -> None:
        link = self.links[name]
        does = (link.take_in, link.take_in, link.tell, link.begin, link.finish)
        for step in steps:
            (*does, link.crash)[step]()

    @rule(name=st.sampled_from(NODES), count=st.integers(1, 5))
    def caller_hears(self, name: str, count: int) -> None:
        for _ in range(count):
            self.hear(self.links[name])

    @rule(name=st.sampled_from(NODES))
    def link_falls_silent(self, name: str) -> None:
        """The caller gives it up; the node knows nothing of that, and goes on."""
        self.ghosts.append(self.links[name])
        self.lose(name, math.inf)

    @rule(name=st.sampled_from(NODES))
    def word_that_a_call_began_is_lost(self, name: str) -> None:
        """A call was said to wait there; then it begins, and the link falls silent."""
        link = self.links[name]
        for _ in range(3):
            link.take_in()
        link.tell()
        while link.to_caller:
            self.hear(link)
        link.finish()
        link.begin()
        self.link_falls_silent(name)

    @rule(name=st.sampled_from(NODES))
    def node_dies(self, name: str) -> None:
        """What it had not read is known to be lost; what it said is heard first."""
        link = self.links[name]
        while link.to_caller:
            self.hear(link)
        link.to_node.clear()
        self.lose(name, link.read)

    @rule(name=st.sampled_from(NODES))
    def node_leaves(self, name: str) -> None:
        """It ends what runs, gives back what waits, and says that all is answered."""
        link = self.links[name]
        link.leave()
        link.finish()
        while link.to_caller:
            self.hear(link)
        self.lose(name, -1.0)

    @precondition(lambda self: self.ghosts)
    @rule(which=ANY, steps=st.lists(st.integers(0, 3), max_size=9))
    def ghost_goes_on(self, which: int, steps: list[int]) -> None:
        """A node that was given up runs what it has, and its answers come after all."""
        ghost = self.ghosts[which % len(self.ghosts)]
        for step in steps:
            (ghost.take_in, ghost.begin, ghost.finish, lambda: self.hear(ghost))[step]()

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    # ------------------------------------------------------------ what must hold

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        assert all(len(outcomes) <= 1 for outcomes in self.outcomes.values())

    @invariant()
    def what_may_not_run_twice_does_not(self) -> None:
        for call_id, times in self.ran.items():
            assert times <= 1 or self.made[call_id].idempotent

    @invariant()
    def what_is_said_not_to_have_run_did_not(self) -> None:
        for call_id, outcomes in self.outcomes.items():
            for outcome in outcomes:
                if isinstance(outcome, Failed) and outcome.failure.executed == "no":
                    assert self.ran[call_id] == 0

    @invariant()
    def timers_are_set_for_somebody(self) -> None:
        if not len(self.calls.calls):
            assert self.calls.deadline == math.inf

    def teardown(self) -> None:
        """Let everything come to its end, then look whether it did."""
        for _ in range(40 * len(self.made) + 200):
            for link in self.links.values():
                link.take_in()
                link.begin()
                link.finish()
                self.hear(link)
            self.now = max(self.now, min(self.calls.deadline, self.now + 1.0))
            self.tick()
            if not len(self.calls.calls):
                break
        for ghost in self.ghosts:
            while ghost.to_node or ghost.queue or ghost.running:
                ghost.take_in()
                ghost.begin()
                ghost.finish()
        assert len(self.calls.calls) == 0
        assert [len(outcomes) for outcomes in self.outcomes.values()] == [1] * len(
            self.made
        )
        for call_id, (outcome,) in self.outcomes.items():
            if isinstance(outcome, Reply):
                assert self.ran[call_id] >= 1
        self.nothing_is_answered_twice()
        self.what_may_not_run_twice_does_not()
        self.what_is_said_not_to_have_run_did_not()
        assert self.calls.deadline == math.inf
        assert [self.loads[name].in_flight for name in NODES] == [0, 0, 0]
        assert not self.calls.waiters


class NodeWorld(World):
    """The same by the rules of a node, which repeats nothing that may have run."""

    make_rules = RouterRules

    @invariant()
    def nothing_runs_twice_by_its_doing(self) -> None:
        assert all(times <= 1 for times in self.ran.values())


TestCallsOfACaller = World.TestCase
TestCallsOfACaller.settings = settings(max_examples=100, stateful_step_count=60)
TestCallsOfANode = NodeWorld.TestCase
TestCallsOfANode.settings = settings(max_examples=60, stateful_step_count=60)


# --------------------------------------------------------------- one rule at a time


def lost(executed: Any) -> Failure:
    return Failure(kind="node_lost", executed=executed, node="n1")


def sent_call(
    calls: PendingCalls[SomeCall], *, due: float = math.inf, idempotent: bool = False
) -> SomeCall:
    call = SomeCall(id=b"1" * 16, idempotent=idempotent)
    calls.add(call, 0.0, due)
    calls.sent(call, "a link", "n1", 0.0, mark=100.0)
    return call


def fate(calls: PendingCalls[SomeCall], received: float = math.inf) -> str:
    """Lose the link, and return what is said of the one call on it."""
    ((_, failed),) = calls.lost(
        "a link", 1.0, node="n1", reason="gone", received=received
    )
    return failed.failure.executed


def test_call_that_waited_elsewhere_may_have_run_when_its_link_is_lost() -> None:
    calls = machine()
    call = sent_call(calls)
    calls.told_waiting([call.id], "a link", movable=True)

    assert fate(calls) == "unknown"


@pytest.mark.parametrize(
    ("received", "executed"), [(99.0, "no"), (100.0, "no"), (101.0, "unknown")]
)
def test_call_did_not_run_if_its_node_cannot_have_read_it(
    received: float, executed: str
) -> None:
    calls = machine()
    sent_call(calls)

    assert fate(calls, received) == executed


def test_resumed_call_may_run_though_its_second_entry_has_answered_all_calls() -> None:
    calls = machine()
    call = SomeCall(id=b"1" * 16)
    calls.add(call, 0.0)
    calls.sent(call, "a link", "", 0.0)
    assert calls.resume(call, lost("unknown"))
    calls.resumed(call, "another link", 1.0)

    nothing_was_left = -1.0  # what a link says that was closed in order
    ((_, failed),) = calls.lost(
        "another link", 2.0, node="n2", reason="it left", received=nothing_was_left
    )

    assert failed.failure.executed == "unknown"


def test_deadline_of_a_call_that_waits_elsewhere_waits_for_the_answer_of_its_node() -> (
    None
):
    calls = machine()
    call = sent_call(calls, due=1.0)
    calls.told_waiting([call.id], "a link", movable=False)

    asked = list(calls.tick(1.0))
    verdict = calls.failed(call, Failure(kind="cancelled", node="n1"), 1.05)

    assert asked == [(call, Stop())]
    assert verdict == Finish(Failure(kind="deadline", executed="no", node="n1"))


def test_deadline_without_a_word_of_the_node_leaves_it_open_whether_it_ran() -> None:
    calls = machine()
    call = sent_call(calls, due=1.0)
    calls.told_waiting([call.id], "a link", movable=False)

    list(calls.tick(1.0))
    ((_, verdict),) = calls.tick(calls.deadline)

    assert verdict == Finish(Failure(kind="deadline", executed="unknown", node="n1"))


def test_answer_of_a_node_that_had_the_call_before_changes_nothing() -> None:
    calls = machine()
    call = sent_call(calls)
    calls.failed(call, Failure(kind="draining", node="n1"), 1.0)
    calls.sent(call, "another link", "n2", 1.0)

    told = calls.told_waiting([call.id], "a link", movable=True)

    assert told == []
    assert not call.waiting


def test_call_that_nodes_refuse_is_tried_a_few_times_with_pauses_only() -> None:
    calls = machine()
    call = SomeCall(id=b"1" * 16)
    calls.add(call, 0.0)
    now, tries, pauses = 0.0, 0, 0
    verdict: Verdict = Elsewhere()
    while not isinstance(verdict, Finish):
        calls.sent(call, "the entry", "", now)
        tries += 1
        verdict = calls.failed(call, Failure(kind="draining", node="n1"), now)
        if isinstance(verdict, Retry):
            pauses += 1
            now = calls.deadline
            list(calls.tick(now))

    assert tries == MOST_TRIES
    assert pauses == tries - 2


def test_call_knocks_at_full_nodes_until_nothing_went_on_for_long() -> None:
    calls = machine()
    call, other = SomeCall(id=b"1" * 16), SomeCall(id=b"2" * 16)
    calls.add(call, 0.0)
    calls.add(other, 0.0)
    full = Failure(kind="overloaded", node="n1")
    now = 0.0
    verdict: Verdict = Retry()
    while isinstance(verdict, Retry):
        calls.sent(call, "the entry", "", now)
        verdict = calls.failed(call, full, now)
        if len(calls.calls) == 2 and now > 20.0:
            calls.end(other, now)  # something goes on
            went_on = now
        now = min(calls.deadline, now + 10.0)
        list(calls.tick(now))

    assert isinstance(verdict, Finish)
    assert now >= went_on + OVERLOAD_PATIENCE_S


def test_call_that_nodes_were_too_full_for_says_so_at_its_deadline() -> None:
    calls = machine()
    call = SomeCall(id=b"1" * 16)
    calls.add(call, 0.0, 0.001)
    calls.sent(call, "the entry", "", 0.0)
    full = Failure(kind="overloaded", node="n1", retry_after_ms=50)

    calls.failed(call, full, 0.0)

    assert list(calls.tick(0.001)) == [(call, Finish(full))]


def held_calls(
    calls: PendingCalls[SomeCall], count: int, *, due: float = math.inf
) -> list[SomeCall]:
    """Return calls that were refused, and pause."""
    made = [SomeCall(id=bytes([n]) * 16) for n in range(1, count + 1)]
    for call in made:
        calls.add(call, 0.0, due)
        calls.sent(call, "the entry", "", 0.0)
        full = Failure(kind="overloaded", node="n1", retry_after_ms=50)
        assert isinstance(calls.failed(call, full, 0.0), Retry)
    return made


def test_call_whose_deadline_and_pause_are_over_at_once_is_not_sent() -> None:
    calls = machine()
    held_calls(calls, 1, due=0.2)

    verdicts = []
    for call, verdict in calls.tick(5.0):
        verdicts.append(type(verdict))
        calls.end(call, 5.0)

    assert verdicts == [Finish]


def test_call_that_ends_by_what_becomes_of_another_is_not_sent() -> None:
    calls = machine()
    first, second = held_calls(calls, 2)

    told = []
    for call, _ in calls.tick(5.0):
        told.append(call)
        calls.end(second if call is first else first, 5.0)

    assert len(told) == 1


def test_parked_call_that_ends_by_what_becomes_of_another_is_not_sent() -> None:
    calls = machine()
    first, second = SomeCall(id=b"1" * 16), SomeCall(id=b"2" * 16)
    for call in (first, second):
        calls.add(call, 0.0)
        calls.park(call)

    told = []
    for call in calls.unpark():
        told.append(call)
        calls.end(second, 1.0)

    assert told == [first]


def test_idempotent_call_is_tried_again_only_so_often_after_losses() -> None:
    calls = machine()
    call = sent_call(calls, idempotent=True)
    verdicts = []
    for attempt in range(MOST_ATTEMPTS):
        verdicts.append(calls.failed(call, lost("unknown"), 1.0))
        calls.sent(call, f"link {attempt}", "n2", 1.0)

    assert verdicts == [Elsewhere()] * (MOST_ATTEMPTS - 1) + [AS_HEARD]


def test_loss_says_that_the_budget_for_retries_is_spent() -> None:
    rules = CallerRules(random.Random(1))
    calls = machine(rules)
    verdicts: list[Verdict] = []
    while not isinstance(verdicts[-1:] and verdicts[-1], Finish):
        call = SomeCall(id=len(verdicts).to_bytes(16, "big"), idempotent=True)
        calls.add(call, 0.0)
        calls.sent(call, "a link", "n1", 0.0)
        verdicts.append(calls.failed(call, lost("unknown"), 0.0))

    said = replace(lost("unknown"), retry_budget_exhausted=True)
    assert verdicts[-1] == Finish(said)
    # Ten a second, and a fifth of the calls.
    assert len(verdicts) - 1 == math.ceil(100 + 0.2 * len(verdicts))
    assert rules.unretried == 1


def test_node_in_between_repeats_nothing_that_may_have_run() -> None:
    calls = machine(RouterRules())
    call = sent_call(calls, idempotent=True)

    assert calls.failed(call, lost("unknown"), 1.0) == AS_HEARD


def test_oldest_call_that_waits_for_room_goes_first() -> None:
    calls = machine()
    line = [SomeCall(id=bytes([n]) * 16) for n in range(3)]
    for number, call in enumerate(line):
        calls.add(call, float(number), number + 10.0)
        calls.hold(call)

    assert calls.next_held(Wanted("f"), 3.0) is line[0]


def test_newest_call_goes_first_once_they_wait_for_half_of_their_time() -> None:
    calls = machine()
    line = [SomeCall(id=bytes([n]) * 16) for n in range(3)]
    for number, call in enumerate(line):
        calls.add(call, float(number), number + 10.0)
        calls.hold(call)

    assert calls.next_held(Wanted("f"), 5.1) is line[2]


def test_calls_that_ended_while_they_waited_for_room_are_not_sent() -> None:
    calls = machine()
    line = [SomeCall(id=bytes([n]) * 16) for n in range(3)]
    for call in line:
        calls.add(call, 0.0)
        calls.hold(call)
    calls.end(line[0], 1.0)
    calls.end(line[2], 1.0)

    first = calls.next_held(Wanted("f"), 1.0)
    assert first is line[1]
    calls.release(first)

    assert calls.next_held(Wanted("f"), 1.0) is None
    assert calls.lines == {}


def test_calls_that_were_given_back_go_before_those_that_were_never_sent() -> None:
    calls = machine()
    made = [SomeCall(id=bytes([number]) * 16) for number in range(5)]
    for number, call in enumerate(made):
        calls.add(call, float(number))
    sent, waiting = made[:2], made[2:]
    for call in sent:
        calls.sent(call, "link", "n1", 5.0)
    for call in waiting:
        calls.hold(call)

    for call in reversed(sent):
        calls.took_back(call, 6.0)
        calls.hold(call)

    order = []
    while (following := calls.next_held(made[0].wanted, 7.0)) is not None:
        calls.release(following)
        order.append(following)
    assert order == made


# -------------------------------------- negative controls, one protection at a time

CALLS = 300


@pytest.fixture
def no_fencing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What anybody says of a call is believed, whoever has it now."""
    return lambda: monkeypatch.setattr(PendingCalls, "has", lambda *_: True)


@pytest.fixture
def no_breaker(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(Breakers, "failed", lambda *_: False)


@pytest.fixture
def no_budget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(RetryBudget, "take", lambda *_: True)


def runs_of_a_call_that_was_given_back_twice() -> int:
    """A node gives a call back; when another one runs it, it does so once more."""
    world = World()
    world.submit(idempotent=False, timeout_s=1e9, pinned=None)
    (call,) = world.made.values()
    first: Any = call.place
    first.take_in()
    first.leave()
    first.refuse(call.id, "draining")
    world.hear(first)
    second: Any = call.place
    second.take_in()
    second.begin()
    world.hear(first)
    for link in world.links.values():
        link.take_in()
        link.begin()
    return world.ran[call.id]


def test_without_fencing_a_call_runs_twice_that_may_not(
    no_fencing: Callable[[], None],
) -> None:
    assert runs_of_a_call_that_was_given_back_twice() == 1
    no_fencing()
    assert runs_of_a_call_that_was_given_back_twice() == 2


def attempts(broken: set[str]) -> Counter[str]:
    """Return how often each node got a call; `broken` ones lose all of them."""
    calls, router = machine_and_router(CallerRules(random.Random(1)), Loads())
    sent: Counter[str] = Counter()
    for number in range(CALLS):
        now = number / CALLS
        call = SomeCall(id=number.to_bytes(16, "big"), idempotent=True)
        calls.add(call, now)
        while True:
            chosen = router.choose(call.wanted, now, avoid=call.avoid)
            assert isinstance(chosen, Chosen)
            sent[chosen.node] += 1
            calls.sent(call, f"link to {chosen.node}", chosen.node, now)
            if chosen.node not in broken:
                break
            calls.unsent(call, now, node=chosen.node, reason="it died")
            lost = Failure(kind="node_lost", executed="unknown", node=chosen.node)
            if not isinstance(calls.failed(call, lost, now), Elsewhere):
                break
        calls.end(call, now)
    return sent


def test_without_a_breaker_a_node_that_loses_all_its_calls_gets_ever_more(
    no_breaker: Callable[[], None],
) -> None:
    assert attempts({"n2"})["n2"] == FAILURES_TO_OPEN
    no_breaker()
    assert attempts({"n2"})["n2"] > CALLS / 4


def test_without_a_budget_retries_multiply_the_load(
    no_budget: Callable[[], None],
) -> None:
    everywhere = {"n1", "n2", "n3"}
    floor = 100

    assert attempts(everywhere).total() <= 1.2 * CALLS + floor + 1
    no_budget()
    assert attempts(everywhere).total() == MOST_ATTEMPTS * CALLS
