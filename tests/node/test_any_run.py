"""Whatever becomes of its calls: a run ends once, and repeats only what it may repeat.

A real run is driven on a clock of the test. The nodes behind it are drawn: they begin,
answer, fail, die, refuse, lose results, go on with the next step, or end a call late
that was cancelled. What really ran is counted there, and judges the run.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVarTuple

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mpreg_nb.node import run_plan, workflow_run
from mpreg_nb.node.pending_call import Followers
from mpreg_nb.node.results import ResultStore
from mpreg_nb.node.run_plan import RunPlans
from mpreg_nb.node.workflow_run import RunCalls, StepSink, WorkflowRun
from mpreg_nb.protocol.messages import (
    Call,
    Condition,
    Failed,
    Failure,
    Given,
    Ids,
    Reply,
    ResultRef,
    ResultRefs,
    RunStart,
    RunState,
    SideCall,
    Started,
    StepPlan,
)
from mpreg_nb.protocol.worker import JobDone
from mpreg_nb.workflows.run import RunStep
from mpreg_nb.workflows.state import FellBack, StartStep, StepDone

Ts = TypeVarTuple("Ts")

LARGE = 100_000
LOOKS = ("condition", "split")  # they call nothing
HAS_RESULT = {"done", "fallback", "undone"}
CLOSED = {"failed", "skipped", "cancelled", "fallback", "undone"}
RAISED = ("builtins.ValueError", "builtins.Exception", "builtins.BaseException")
ANY = st.integers(0, 20)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only when the test says so; it keeps its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.timers: list[asyncio.TimerHandle] = []
        self.errors: list[BaseException] = []
        self.set_exception_handler(
            lambda _, about: self.errors.append(about["exception"])
        )

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    def turn(self) -> None:
        """Let it do what is due."""

        async def turns() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        self.run_until_complete(turns())
        if self.errors:
            raise self.errors.pop()


@dataclass(eq=False)
class Taken:
    """A call that the nodes have."""

    call: Call
    step: str
    sink: StepSink | None = None  # None: a worker went on with it, unasked
    then: Followers | None = None
    cancelled: bool = False
    runs: bool = False
    is_over: bool = False  # it does not run; its outcome was said, or never will be
    is_heard: bool = False  # its outcome
    out_of_reach: bool = False  # its node was given up, and may still run it

    @property
    def part(self) -> Any:
        return "call" if self.sink is None else self.sink.part

    @property
    def waits(self) -> bool:
        return not self.runs and not self.is_over

    def refers_to(self) -> set[bytes]:
        """Return the ids of the results that it needs."""
        items: list[Any] = []
        for one in self.call.inputs:
            items += one.items if isinstance(one, ResultRefs) else (one,)
        return {one.id for one in items if isinstance(one, ResultRef)}


class Caller:
    """Who is told of the run."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: msgspec.Struct, parts: Any = ()) -> None:
        self.heard.append(message)

    @property
    def states(self) -> list[RunState]:
        return [told for told in self.heard if isinstance(told, RunState)]


def side(function: str, *inputs: str, kind: Any = SideCall, **more: Any) -> SideCall:
    made: SideCall = kind(function=function, payload=b"x", inputs=inputs, **more)
    return made


def plan(name: str, *inputs: str, **more: Any) -> StepPlan:
    return StepPlan(
        name=name, function=f"f_{name}", payload=b"x", inputs=inputs, **more
    )


@st.composite
def workflows(draw: st.DrawFn) -> tuple[StepPlan, ...]:
    """Draw a few steps with all that a step can have; many are plain ones in a row."""
    plans: list[StepPlan] = []
    for number in range(draw(st.integers(2, 6))):
        name, earlier = f"s{number}", [plan.name for plan in plans]
        if draw(st.booleans()):
            plans.append(plan(name, *earlier[-1:], idempotent=draw(st.booleans())))
            continue
        some = (
            st.sets(st.sampled_from(earlier), max_size=2) if earlier else st.just(set())
        )
        looks_at = draw(st.sampled_from(["", "", "all items", "a condition"]))
        split = side("split", *sorted(draw(some)))
        condition = side("when", *sorted(draw(some)), kind=Condition)
        undo = side("u", name, idempotent=draw(st.booleans()))
        fallbacks = [None, None, side("f"), Given(payload=b"instead")]
        plans.append(
            plan(
                name,
                *sorted(draw(some)),
                after=tuple(sorted(draw(some))),
                attempts=draw(st.integers(1, 2)),
                retry_on=("builtins.Exception",),
                delay_ms=draw(st.sampled_from([None, 0, 2000])),
                timeout_ms=draw(st.sampled_from([None, None, 500])),
                idempotent=draw(st.booleans()),
                split=split if looks_at == "all items" else None,
                fallback=draw(st.sampled_from(fallbacks)),
                undo=draw(st.sampled_from([undo, undo, None])),
                condition=condition if looks_at == "a condition" else None,
            )
        )
    return tuple(plans)


class World(RuleBasedStateMachine):
    """A run, the nodes that have its calls, and one who is told of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulatedLoop()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(workflow_run, "time", self.loop)
        self.taken: list[Taken] = []
        self.began: Counter[tuple[str, Any]] = Counter()
        self.gave: dict[str, list[Any]] = {}
        self.given_up: set[bytes] = set()  # results that are lost
        self.riding: dict[bytes, Taken] = {}
        self.early: dict[bytes, JobDone] = {}  # answers that come with one before
        self.unheard: list[Callable[[], None]] = []
        self.was_done: list[str] = []  # in order
        self.undoing: list[str] = []  # steps, in the order of their undo
        self.undone: Counter[str] = Counter()
        self.closed: dict[str, str] = {}
        self.ends = 0

    @initialize(plans=workflows())
    def start(self, plans: tuple[StepPlan, ...]) -> None:
        self.drive(plans)

    def drive(self, plans: tuple[StepPlan, ...]) -> None:
        self.plans = {plan.name: plan for plan in plans}
        self.caller = Caller()

        async def begin() -> WorkflowRun:
            nodes: Any = self
            ids = Ids()
            return WorkflowRun(
                # Maps have few items here: each goes by itself.
                RunStart(id=ids.next(), workflow="w", steps=plans, chunk_ms=0),
                (),
                self.caller,
                me="n1",
                calls=nodes,
                store=ResultStore(limit_bytes=1 << 20),
                placement=nodes,
                ids=ids,
                on_end=self.ended,
                plans=RunPlans(),
            )

        self.run = self.loop.run_until_complete(begin())
        self.do(self.run.start)

    # ---------------------------------------------- in the place of calls of a node

    def hand_over(
        self,
        run: WorkflowRun,
        sink: StepSink,
        call: Call,
        parts: Any,
        then: Followers | None,
    ) -> None:
        self.receive(sink, call, parts, then)

    def receive(
        self, sink: StepSink, call: Call, parts: Any, then: Followers | None = None
    ) -> str:
        assert not self.ends, "a call after the end"
        assert call.id not in {taken.call.id for taken in self.taken}
        self.look_at_inputs(sink.step, sink.part, call)
        if sink.part == "undo":
            assert not [t for t in self.taken if t.runs and not t.out_of_reach]
            if self.undoing[-1:] != [sink.step]:
                self.undoing.append(sink.step)
        self.taken.append(Taken(call, sink.step, sink, then))
        return "n1"

    def take_answer(
        self, run: WorkflowRun, effect: StartStep, call: Call, behind: str
    ) -> tuple[str, JobDone] | None:
        answer = self.early.pop(call.id, None)
        if answer is None:
            return None
        del self.riding[call.id]
        return "v", answer

    def go_on(self, run: WorkflowRun, sink: StepSink, call: Call, behind: str) -> bool:
        taken = self.riding.pop(call.id, None)
        if taken is None:
            return False
        self.look_at_inputs(sink.step, sink.part, call)
        taken.sink, taken.call = sink, call
        return True

    def catch_up(self) -> None:
        while self.unheard:
            self.unheard.pop(0)()

    def cancel(self, call_id: bytes) -> None:
        for taken in self.taken:
            if taken.call.id == call_id and not taken.is_over:
                taken.cancelled = True

    def ended(self, run: WorkflowRun) -> None:
        self.ends += 1

    def look_at_inputs(self, step: str, part: Any, call: Call) -> None:
        """What a plain step gets from another is what that one gave."""
        if part != "call":
            return
        plan = self.plans[step]
        for name, value in zip(plan.inputs, call.inputs, strict=True):
            before = self.plans[name]
            if before.split is None and before.fallback is None:
                assert value in self.gave.get(name, ())
        rows = {row.step: row.status for row in self.run.machine.rows()}
        for name in plan.after:
            assert rows[name] in HAS_RESULT | {"skipped", "waiting", "running"}
            assert rows[name] in HAS_RESULT | {"skipped"} or name in self.was_done

    # ------------------------------------------------------------------ what is said

    def do(self, act: Callable[..., Any], *arguments: Any) -> None:
        act(*arguments)
        self.look()
        self.loop.turn()
        self.look()

    def say(self, taken: Taken, message: Any, parts: Any = ()) -> None:
        assert taken.sink is not None
        taken.is_heard |= isinstance(message, Reply | Failed)
        self.do(taken.sink.send, message, parts)

    def look(self) -> None:
        """Note the order in which steps are done; what is closed stays as it is."""
        for row in self.run.machine.rows():
            state = self.run.machine.state(row.step)
            if type(state) is StepDone and row.step not in self.was_done:
                self.was_done.append(row.step)
            assert self.closed.setdefault(row.step, row.status) == row.status or (
                self.closed[row.step] == "done" and row.status == "undone"
            )
            if row.status not in CLOSED:
                del self.closed[row.step]

    def pick(self, which: int, fits: Callable[[Taken], bool]) -> Taken | None:
        able = [t for t in self.taken if t.sink is not None and fits(t)]
        return able[which % len(able)] if able else None

    def run_it(self, taken: Taken) -> None:
        taken.runs = True
        if taken.part not in LOOKS:
            self.began[taken.step, taken.part] += 1

    def fail(self, taken: Taken, kind: Any, executed: Any, **more: Any) -> None:
        taken.runs, taken.is_over = False, True
        failure = Failure(kind=kind, executed=executed, node="n1", **more)
        self.say(taken, Failed(id=taken.call.id, failure=failure))

    # ------------------------------------------------------------------ what happens

    @rule(count=st.integers(1, 5), large=st.booleans(), late=st.booleans())
    def goes_well(self, count: int, large: bool, late: bool) -> None:
        for number in range(count):
            self.begins(number, True)
            self.returns(number, 2, large, late)

    @rule(which=ANY, is_told=st.booleans())
    def begins(self, which: int, is_told: bool) -> None:
        taken = self.pick(which, lambda t: t.waits and not t.cancelled)
        if taken is None:
            return
        if lost := taken.refers_to() & self.given_up:
            self.fail(taken, "gone", "no", lost=tuple(lost))
            return
        self.run_it(taken)
        if is_told:
            self.say(taken, Started(id=taken.call.id, node="n1"))

    @rule(which=ANY, items=st.integers(0, 3), large=st.booleans(), late=st.booleans())
    def returns(self, which: int, items: int, large: bool, late: bool) -> None:
        """items: if it is late, so many of those that follow have answered by then."""
        taken = self.pick(which, lambda t: t.runs and not t.out_of_reach)
        if taken is None:
            return
        if taken.part in LOOKS:
            if taken.part == "condition":
                items = min(items, 1)
            reply = self.taken_apart(taken, items, large)
        else:
            kept = ResultRef("n2", taken.call.id, LARGE) if large else None
            payload = b"" if large else b"of %s" % taken.call.id
            reply = Reply(id=taken.call.id, payload=payload, node="n1", kept=kept)
            self.gave.setdefault(taken.step, []).append(kept or payload)
        taken.runs, taken.is_over = False, True
        if taken.part == "undo":
            self.undone[taken.step] += 1
        if taken.then is not None and not taken.cancelled and late:
            self.worker_goes_on(taken.then, items)
            self.unheard.append(lambda: self.say(taken, reply))
            return
        self.say(taken, reply)

    def taken_apart(self, taken: Taken, items: int, large: bool) -> Reply:
        entries: list[Any] = [1 if large else b"item"] * items
        large = large and taken.part == "split"
        kept = ResultRef("n2", taken.call.id, LARGE) if large else None
        head = msgspec.msgpack.encode(entries)
        return Reply(id=taken.call.id, payload=head, node="n1", kept=kept)

    def worker_goes_on(self, then: Followers, early: int) -> None:
        """The worker has answered, and begun with the next step; nobody knows yet."""
        call, *others = then.calls
        more = Followers(tuple(others), then.limit_s) if others else None
        taken = Taken(call, call.function[2:], then=more)
        self.taken.append(taken)
        self.riding[call.id] = taken
        self.run_it(taken)
        if early:
            taken.runs, taken.is_over = False, True
            answer = JobDone(id=call.id, payload=b"of %s" % call.id)
            self.early[call.id] = answer
            self.gave.setdefault(taken.step, []).append(answer.payload)
            if more is not None:
                self.worker_goes_on(more, early - 1)

    @precondition(lambda self: self.unheard)
    @rule()
    def what_a_worker_said_is_read(self) -> None:
        self.catch_up()

    @rule(which=ANY)
    def raises(self, which: int) -> None:
        taken = self.pick(which, lambda t: t.runs and not t.out_of_reach)
        if taken is not None:
            self.fail(taken, "application", "yes", types=RAISED)

    @rule(which=ANY, kind=st.sampled_from(["node_lost", "worker_crashed"]))
    def dies(self, which: int, kind: str) -> None:
        taken = self.pick(which, lambda t: t.runs and not t.out_of_reach)
        if taken is not None:
            self.fail(taken, kind, "yes" if kind == "worker_crashed" else "unknown")

    @rule(which=ANY)
    def node_is_given_up_and_goes_on(self, which: int) -> None:
        taken = self.pick(which, lambda t: t.runs and not t.out_of_reach)
        if taken is not None:
            self.fail(taken, "node_lost", "unknown")
            taken.runs = taken.out_of_reach = True

    @rule(which=ANY, kind=st.sampled_from(["node_lost", "overloaded", "no_route"]))
    def is_refused(self, which: int, kind: str) -> None:
        taken = self.pick(which, lambda t: t.waits and not t.cancelled)
        if taken is not None:
            self.fail(taken, kind, "no")

    @rule(which=ANY)
    def cancelled_call_ends(self, which: int) -> None:
        taken = self.pick(
            which, lambda t: t.cancelled and not t.is_over and not t.out_of_reach
        )
        if taken is not None:
            self.fail(taken, "cancelled", "yes" if taken.runs else "no")

    @rule(which=ANY)
    def outcome_is_told_again(self, which: int) -> None:
        """As by a node that was given up, of a call that has ended for the run."""
        taken = self.pick(which, lambda t: t.is_heard)
        if taken is not None:
            reply = self.taken_apart(taken, 1, False)
            before = self.run.machine.revision
            self.say(taken, reply)
            assert self.run.machine.revision == before

    @rule(which=ANY)
    def result_is_lost(self, which: int) -> None:
        kept = [ref for gave in self.gave.values() for ref in gave]
        kept = [ref for ref in kept if isinstance(ref, ResultRef)]
        splits = [t.call.id for t in self.taken if t.part == "split" and t.is_over]
        ids = [*(ref.id for ref in kept), *splits]
        if ids:
            self.given_up.add(ids[which % len(ids)])

    @precondition(lambda self: self.taken)
    @rule(surely=st.sampled_from([False, False, False, True]))
    def run_is_cancelled(self, surely: bool) -> None:
        if surely:
            self.do(self.run.cancel)

    @rule(seconds=st.sampled_from([0.0, 0.04, 0.3, 2.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """A minute: the node that drives the run was stopped, and goes on."""
        self.loop.now += seconds
        self.do(lambda: None)

    # ------------------------------------------------------------- what must hold

    @invariant()
    def it_ends_once(self) -> None:
        assert self.ends <= 1
        assert self.ends == (self.run.machine.status != "running")
        told = [state for state in self.caller.states if state.status != "running"]
        assert len(told) == self.ends

    @invariant()
    def what_may_not_run_twice_does_not(self) -> None:
        for (step, part), times in self.began.items():
            plan = self.plans[step]
            idempotent = plan.idempotent
            if part == "undo":
                assert plan.undo is not None
                idempotent = plan.undo.idempotent
            most = 1 if part == "fallback" else plan.attempts
            assert times <= most or (idempotent and part != "fallback")

    @invariant()
    def what_was_done_last_is_undone_first_and_once(self) -> None:
        done_last_first = [s for s in reversed(self.was_done) if s in self.undoing]
        assert self.undoing == done_last_first
        assert all(times == 1 for times in self.undone.values())

    @invariant()
    def timers_are_set_for_somebody(self) -> None:
        if self.ends:
            assert self.run.machine.deadline == math.inf
            assert all(t.cancelled() or t.when() <= self.loop.now for t in self.timers)

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        return self.loop.timers

    def teardown(self) -> None:
        """Let everything come to its end, then look whether it did."""
        try:
            if hasattr(self, "run"):
                self.come_to_an_end()
        finally:
            self.patch.undo()
            self.loop.close()

    def come_to_an_end(self) -> None:
        for _ in range(500):
            self.catch_up()
            for number in range(len(self.taken)):
                self.begins(number, True)
                self.cancelled_call_ends(number)
                self.returns(number, 2, False, False)
            self.loop.now = max(
                self.loop.now + 0.1, min(self.run.machine.deadline, self.loop.now + 99)
            )
            self.do(lambda: None)
            if self.ends and not any(t.runs and not t.out_of_reach for t in self.taken):
                break
        assert self.ends == 1
        self.what_may_not_run_twice_does_not()
        self.what_was_done_last_is_undone_first_and_once()
        self.timers_are_set_for_somebody()
        calls, told = len(self.taken), len(self.caller.heard)
        self.loop.now += 1e6
        self.loop.turn()
        assert (len(self.taken), len(self.caller.heard)) == (calls, told)
        assert not self.riding
        self.look_at_the_end()

    def look_at_the_end(self) -> None:
        machine = self.run.machine
        rows = {row.step: row for row in machine.rows()}
        shown = {s.name: s.status for told in self.caller.states for s in told.steps}
        assert shown == {step: row.status for step, row in rows.items()}
        assert {row.status for row in rows.values()} <= CLOSED | {"done"}
        if machine.status == "done":
            assert not self.undoing
            assert not machine.failures()
        for step, plan in self.plans.items():
            state = machine.state(step)
            is_own = isinstance(state, StepDone) and not isinstance(state, FellBack)
            if machine.status != "done" and plan.undo is not None and is_own:
                assert rows[step].status == "undone" or rows[step].undo_failure
            assert (rows[step].status == "undone") == (self.undone[step] == 1)


TestWhateverBecomesOfItsCalls = World.TestCase
TestWhateverBecomesOfItsCalls.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)


def test_items_of_a_split_that_came_too_late_do_not_replace_those_of_the_next() -> None:
    world = World()
    retried = {"attempts": 2, "retry_on": RAISED[1:], "delay_ms": 0}
    world.drive((plan("m", split=side("split"), timeout_ms=500, **retried),))
    world.begins(0, True)
    world.time_passes(0.6)
    world.begins(0, True)
    world.returns(1, 3, False, False)  # of the second attempt to take them apart

    world.returns(0, 1, False, False)
    for _ in range(3):
        world.begins(0, True)
        world.raises(0)
    world.time_passes(0.0)

    again = [taken.part for taken in world.taken if taken.waits]
    world.teardown()
    assert again == [0, 1, 2]


# -------------------------------------- negative controls, one protection at a time


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    """What anybody says of a call is believed, though it was sent anew."""
    patch.setattr(RunCalls, "has", lambda *_: True)


def no_look_at_the_failure(patch: pytest.MonkeyPatch) -> None:
    """Whatever fails is tried again."""
    patch.setattr(RunStep, "more", lambda *_, **__: 9)


def no_look_at_idempotence(patch: pytest.MonkeyPatch) -> None:
    """Whatever is lost is made again."""
    original = run_plan.run_step

    def run_step(plan: StepPlan, *more: Any) -> RunStep:
        return original(msgspec.structs.replace(plan, idempotent=True), *more)

    patch.setattr(run_plan, "run_step", run_step)


def no_look_at_workers(patch: pytest.MonkeyPatch) -> None:
    """A cancel does not look with which step a worker has gone on."""
    patch.setattr(RunCalls, "catch_up", lambda _: None)


def no_stop(patch: pytest.MonkeyPatch) -> None:
    """What waits for room does not hear that the run has ended."""
    patch.setattr(RunCalls, "stop", lambda _: None)


@pytest.mark.parametrize(
    ("protection", "plans"),
    [
        (no_fencing, [plan("a"), plan("b", "a")]),
        (no_look_at_the_failure, [plan("a")]),
        (no_look_at_idempotence, [plan("a"), plan("b", "a")]),
        (no_look_at_workers, [plan("a"), plan("b", "a"), plan("c", "b")]),
        (no_stop, [plan("a")]),
    ],
)
def test_without_a_protection_the_machine_finds_what_it_prevents(
    protection: Callable[[pytest.MonkeyPatch], None],
    plans: list[StepPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OneWorkflow(World):
        @initialize()
        def start(self) -> None:
            self.drive(tuple(plans))

    protection(monkeypatch)
    until_found = settings(
        max_examples=1000,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        print_blob=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(OneWorkflow, settings=until_found)
