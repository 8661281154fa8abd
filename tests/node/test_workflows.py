"""The runs of one node: who is told, what is remembered, what is used again."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import ref

import msgspec
import pytest

from mpreg_nb.node import workflows as choices_module
from mpreg_nb.node import workflows as runs_module
from mpreg_nb.node.pending_call import Followers
from mpreg_nb.node.results import ResultStore
from mpreg_nb.node.workflow_run import ITEM_BYTES, size_of_end
from mpreg_nb.node.workflows import EndedRuns, WorkflowService
from mpreg_nb.protocol.messages import (
    Call,
    ExplainStep,
    Failed,
    Failure,
    HasResults,
    Ids,
    Output,
    Printed,
    Release,
    Reply,
    ResultRef,
    RunFollowed,
    RunList,
    RunResume,
    Runs,
    RunStart,
    RunState,
    RunWatch,
    SideCall,
    StepExplanation,
    StepFetch,
    StepPlan,
)
from mpreg_nb.protocol.output_tail import MOST_CHARACTERS
from mpreg_nb.protocol.worker import JobDone
from mpreg_nb.routing.router import CandidateVerdict
from mpreg_nb.workflows.state import Attempt, Items, Skipped, StepDone, StepFailed

OLD, NEW = "0" * 32, "1" * 32
IDS = Ids()


class Caller:
    """A client, or whoever hears of a run."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: msgspec.Struct, parts: Any = ()) -> None:
        self.heard.append(message)

    def last(self, kind: type[Any]) -> Any:
        return [message for message in self.heard if type(message) is kind][-1]


class Router:
    """Knows two nodes; n2 lacks what is asked for."""

    def explain(self, wanted: Any, now: float) -> tuple[CandidateVerdict, ...]:
        return CandidateVerdict("n1", "", 3, 0.5), CandidateVerdict(
            "n2", "lacks gpu", 0, 0.1
        )

    def fitting(self, wanted: Any, now: float) -> tuple[Any, ...]:
        return ()

    def reasons(self, wanted: Any, now: float) -> tuple[tuple[str, str], ...]:
        return ("n1", ""), ("n2", "lacks tpu")

    def needed(self, wanted: Any) -> frozenset[str]:
        return frozenset({"gpu"})


class Calls:
    """Takes calls in and leaves their ends to the test."""

    def __init__(self) -> None:
        self.router = Router()
        self.sent: dict[str, list[tuple[Any, Call]]] = {}
        self.offered: Followers | None = None  # with the last call
        self.riding: set[bytes] = set()  # calls that a worker goes on with
        self.answered: dict[bytes, JobDone] = {}  # and answered with the one before
        self.cancelled: list[bytes] = []
        self.unread: Callable[[], object] = lambda: None  # what a worker has said

    def catch_up(self) -> None:
        self.unread()

    def receive(
        self, sink: Any, call: Call, parts: Any = (), then: Followers | None = None
    ) -> str:
        self.sent.setdefault(sink.step, []).append((sink, call))
        self.offered = then
        return "n1"

    def take_answer(self, call: Call) -> tuple[str, JobDone] | None:
        answer = self.answered.pop(call.id, None)
        return None if answer is None else ("v", answer)

    def go_on(self, sink: Any, call: Call) -> bool:
        if call.id not in self.riding:
            return False
        self.sent.setdefault(sink.step, []).append((sink, call))
        return True

    def look_at_own_load(self, now: float) -> None:
        self.looked_at_s = now

    def cancel(self, call_id: bytes) -> None:
        self.cancelled.append(call_id)

    def returns(
        self, step: str, payload: bytes = b"", kept: ResultRef | None = None
    ) -> None:
        sink, call = self.sent[step].pop()
        sink.send(Reply(id=call.id, payload=payload, node="n1", kept=kept))

    def fails(self, step: str) -> None:
        sink, call = self.sent[step].pop()
        failure = Failure(kind="application", executed="yes", node="n1")
        sink.send(Failed(id=call.id, failure=failure))


class Asks:
    """Other nodes; they hold what `held` says."""

    def __init__(self) -> None:
        self.held_there: set[bytes] = set()

    async def held(self, node: str, kept: Any) -> frozenset[bytes]:
        ask = HasResults(id=IDS.next(), ids=tuple(one.id for one in kept))
        return frozenset(self.held_there.intersection(ask.ids))


class Lane:
    """Messages to other nodes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send(self, node: str, message: Any, parts: Any = ()) -> None:
        self.sent.append((node, message))


class Shell:
    """One node without links."""

    def __init__(self) -> None:
        self.calls, self.peer_requests, self.lane = Calls(), Asks(), Lane()
        self.store = ResultStore(limit_bytes=1000)
        parts: dict[str, Any] = {
            "calls": self.calls,
            "peer_requests": self.peer_requests,
            "store": self.store,
            "peer_sender": self.lane,
        }
        self.book = WorkflowService("n1", **parts)
        self.caller = Caller()

    async def start(self, *plans: StepPlan) -> bytes:
        request = RunStart(id=IDS.next(), workflow="w", steps=plans)
        self.book.start(self.caller, request, ())
        await asyncio.sleep(0)  # a call is handed over in a turn of its own
        return request.id

    async def resume(self, run: bytes, **versions: str) -> tuple[bytes, Caller]:
        caller = Caller()
        request = RunResume(
            id=IDS.next(), run=run, new=IDS.next(), versions=tuple(versions.items())
        )
        await self.book.resume(caller, request)
        await asyncio.sleep(0)
        return request.new, caller

    def hold(self, content: bytes = b"large") -> ResultRef:
        kept = ResultRef("n1", IDS.next(), len(content))
        self.store.put(kept.id, (content,))
        return kept


def plan(name: str, *inputs: str, **more: Any) -> StepPlan:
    fields = {"function": f"f_{name}", "payload": b"x", "version": OLD} | more
    return StepPlan(name=name, inputs=inputs, **fields)


def in_loop(test: Callable[[Shell], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def within() -> None:
            await test(Shell())

        asyncio.run(within())

    run.__name__ = test.__name__
    return run


@in_loop
async def test_a_late_follower_receives_all_and_then_the_changes(shell: Shell) -> None:
    run = await shell.start(plan("a"), plan("b", "a"))
    sink, call = shell.calls.sent["a"][0]
    sink.send(Output(id=call.id, node="n2", stream="stdout", text="early\n"))
    late = Caller()

    shell.book.watch(late, RunWatch(id=IDS.next(), run=run))
    sink.send(Output(id=call.id, node="n2", stream="stdout", text="later\n"))
    shell.calls.returns("a", b"1")
    await asyncio.sleep(0)
    shell.calls.returns("b", b"2")

    told = late.last(RunFollowed)
    assert [state.status for state in told.run.steps] == ["waiting", "waiting"]
    assert [(line.step, line.text) for line in told.lines] == [("a", "early\n")]
    assert [step.payload for step in told.plans] == [b"", b""]
    assert late.last(Printed).line.text == "later\n"
    assert late.last(RunState).status == "done"
    assert shell.caller.last(RunState) == late.last(RunState)


@in_loop
async def test_small_results_can_be_fetched_by_any_caller_after_the_end(
    shell: Shell,
) -> None:
    run = await shell.start(plan("a"))
    shell.calls.returns("a", b"small")
    late = Caller()

    await shell.book.fetch(late, StepFetch(id=IDS.next(), run=run, step="a"))

    assert late.last(Reply).payload == b"small"


@in_loop
async def test_of_what_a_run_prints_the_newest_is_kept(shell: Shell) -> None:
    run = await shell.start(plan("a"))
    sink, call = shell.calls.sent["a"][0]
    for number in range(3):
        text = str(number) * (MOST_CHARACTERS // 2)
        sink.send(Output(id=call.id, node="n2", stream="stdout", text=text))
    late = Caller()

    shell.book.watch(late, RunWatch(id=IDS.next(), run=run))

    assert [line.text[0] for line in late.last(RunFollowed).lines] == ["1", "2"]


@in_loop
async def test_why_lists_each_attempt_as_it_was_sent(shell: Shell) -> None:
    more = {"attempts": 2, "retry_on": ("builtins.OSError",)}
    run = await shell.start(plan("a", **more))

    shell.book.why(shell.caller, ExplainStep(id=IDS.next(), run=run, step="a"))

    [choice] = shell.caller.last(StepExplanation).choices
    assert (choice.attempt, choice.chosen, choice.function) == (1, "n1", "f_a")
    assert choice.resources == {"gpu"}
    assert [(n.node, n.reason, n.in_flight) for n in choice.nodes] == [
        ("n1", "", 3),
        ("n2", "lacks gpu", 0),
    ]


def test_the_oldest_choices_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 5 + 2 * choices_module.CHOICE_WEIGHT
    monkeypatch.setattr(choices_module, "MOST_CHANCES", most)

    async def within() -> None:
        shell = Shell()
        run = await shell.start(plan("a"), plan("b"), plan("c"))
        remembered = []
        for step in "abc":
            shell.book.why(shell.caller, ExplainStep(id=IDS.next(), run=run, step=step))
            remembered.append(len(shell.caller.last(StepExplanation).choices))

        assert remembered == [0, 1, 1]

    asyncio.run(within())


@in_loop
async def test_a_step_that_a_worker_went_on_with_is_not_sent(shell: Shell) -> None:
    run = await shell.start(plan("a"), plan("b", "a"), plan("c", "b"))
    offered = shell.calls.offered
    assert offered is not None
    shell.calls.riding = {call.id for call in offered.calls}

    shell.calls.returns("a", b"of a")
    _, call = shell.calls.sent["b"][0]  # in the same turn: its outcome may be next
    shell.calls.returns("b", b"of b")
    shell.calls.returns("c", b"of c")

    shell.book.why(shell.caller, ExplainStep(id=IDS.next(), run=run, step="b"))
    [choice] = shell.caller.last(StepExplanation).choices
    assert (call.id, call.inputs) == (offered.calls[0].id, (b"of a",))
    assert shell.caller.last(RunState).status == "done"
    assert (choice.chosen, choice.behind) == ("n1", "a")
    assert [(n.node, n.reason) for n in choice.nodes] == [
        ("n1", ""),
        ("n2", "lacks tpu"),
    ]


@in_loop
async def test_steps_whose_answers_came_together_have_rows_calls_and_reasons(
    shell: Shell,
) -> None:
    """The other node is told of a step like any other: here it fails."""
    run = await shell.start(plan("a"), plan("b", "a"), plan("c", "b"), plan("d", "c"))
    offered = shell.calls.offered
    assert offered is not None
    b, c, d = offered.calls
    shell.calls.answered = {
        b.id: JobDone(id=b.id, payload=b"of b", run_us=2000, goes_on=c.id),
        c.id: JobDone(id=c.id, payload=b"of c", run_us=3000, goes_on=d.id),
    }
    shell.calls.riding = {d.id}

    shell.calls.returns("a", b"of a")
    [(_, sent)] = shell.calls.sent["d"]
    shell.calls.fails("d")

    shell.book.why(shell.caller, ExplainStep(id=IDS.next(), run=run, step="c"))
    [choice] = shell.caller.last(StepExplanation).choices
    told = shell.caller.last(RunState)
    assert sent.inputs == (b"of c",)
    assert [(s.name, s.status) for s in told.steps] == [
        ("a", "done"),
        ("b", "done"),
        ("c", "done"),
        ("d", "failed"),
    ]
    assert [(s.node, s.version, s.run_ms, s.attempts) for s in told.steps[1:3]] == [
        ("n1", "v", 2.0, 1),
        ("n1", "v", 3.0, 1),
    ]
    assert [(c.id, c.step, c.status, c.run_us) for c in told.calls[1:3]] == [
        (b.id, "b", "done", 2000),
        (c.id, "c", "done", 3000),
    ]
    assert (choice.chosen, choice.behind, choice.attempt) == ("n1", "b", 1)
    assert (told.status, shell.calls.cancelled) == ("failed", [])


@in_loop
async def test_a_cancel_is_of_the_step_that_a_worker_has_gone_on_with(
    shell: Shell,
) -> None:
    run = await shell.start(plan("a"), plan("b", "a"), plan("c", "b"))
    offered = shell.calls.offered
    assert offered is not None
    shell.calls.riding = {call.id for call in offered.calls}
    shell.calls.unread = lambda: shell.calls.returns("a", b"of a")

    shell.book.cancel(run)

    shell.book.watch(shell.caller, RunWatch(id=IDS.next(), run=run))
    steps = shell.caller.last(RunFollowed).run.steps
    assert [(step.status, step.attempts) for step in steps] == [
        ("done", 1),
        ("cancelled", 1),
        ("cancelled", 0),
    ]
    assert shell.calls.cancelled == [offered.calls[0].id]


@in_loop
async def test_a_step_that_no_worker_went_on_with_is_sent(shell: Shell) -> None:
    await shell.start(plan("a"), plan("b", "a"))
    offered = shell.calls.offered
    assert offered is not None

    shell.calls.returns("a", b"of a")
    await asyncio.sleep(0)

    _, call = shell.calls.sent["b"][0]
    assert call.id != offered.calls[0].id


@pytest.mark.parametrize(
    "second",
    [
        plan("b", "a", "x"),
        plan("b", "a", node="n2"),
        plan("b", "a", json=True),
        plan("b", "a", undo=SideCall(function="u", payload=b"")),
    ],
    ids=["two inputs", "another node", "JSON", "undo"],
)
def test_steps_that_are_sent_by_themselves(second: StepPlan) -> None:
    async def within() -> None:
        shell = Shell()
        await shell.start(plan("x"), plan("a"), second)

        assert shell.calls.offered is None

    asyncio.run(within())


@in_loop
async def test_nothing_follows_a_step_with_a_timeout(shell: Shell) -> None:
    await shell.start(plan("a", timeout_ms=1000), plan("b", "a"))

    assert shell.calls.offered is None


@in_loop
async def test_resumed_run_does_what_has_no_result_with_the_newest_code(
    shell: Shell,
) -> None:
    undo = SideCall(function="undo_b", payload=b"", version=OLD)
    run = await shell.start(plan("a"), plan("b", "a", undo=undo), plan("c", "b"))
    shell.calls.returns("a", b"1")
    await asyncio.sleep(0)
    shell.calls.fails("b")

    again, caller = await shell.resume(run, f_b=NEW, undo_b=NEW)

    told = caller.last(RunFollowed)
    assert told.run.run == again
    assert [s.status for s in told.run.steps] == ["done", "waiting", "waiting"]
    assert [step.version for step in told.plans] == [OLD, NEW, OLD]
    assert told.plans[1].undo.version == NEW
    [(_, call)] = shell.calls.sent["b"]
    assert (call.version, call.inputs) == (NEW, (b"1",))
    assert shell.calls.sent["a"] == []


@in_loop
async def test_run_that_goes_on_is_not_resumed(shell: Shell) -> None:
    run = await shell.start(plan("a"))

    _, caller = await shell.resume(run)

    assert caller.last(Failed).failure.kind == "bad_request"
    assert "has not ended" in caller.last(Failed).failure.message


@in_loop
async def test_lost_result_is_made_again_only_where_it_is_needed(
    shell: Shell,
) -> None:
    # "lost" feeds "bad"; "unused" fed only "used", which has its own result.
    run = await shell.start(
        plan("lost"), plan("unused"), plan("used", "unused"), plan("bad", "lost")
    )
    shell.calls.returns("lost", kept=ResultRef("n2", IDS.next(), 5))
    shell.calls.returns("unused", kept=ResultRef("n2", IDS.next(), 5))
    await asyncio.sleep(0)
    shell.calls.returns("used", b"2")
    shell.calls.fails("bad")

    _, caller = await shell.resume(run)

    states = {state.name: state.status for state in caller.last(RunFollowed).run.steps}
    assert states == {
        "lost": "waiting",
        "unused": "done",
        "used": "done",
        "bad": "waiting",
    }
    assert len(shell.calls.sent["lost"]) == 1


@in_loop
async def test_step_that_is_done_stays_so_when_what_it_used_is_made_again(
    shell: Shell,
) -> None:
    run = await shell.start(plan("lost"), plan("good", "lost"), plan("bad", "lost"))
    shell.calls.returns("lost", kept=ResultRef("n2", IDS.next(), 5))
    await asyncio.sleep(0)
    shell.calls.returns("good", b"2")
    shell.calls.fails("bad")

    _, caller = await shell.resume(run)
    shell.calls.returns("lost", b"1")
    await asyncio.sleep(0)
    shell.calls.returns("bad", b"3")

    last = caller.last(RunState)
    assert last.status == "done"
    assert {state.name for state in last.steps} >= {"lost", "bad"}
    assert shell.calls.sent["good"] == []


@in_loop
async def test_what_was_undone_is_done_again_with_all_that_used_it(
    shell: Shell,
) -> None:
    undo = SideCall(function="undo", payload=b"")
    run = await shell.start(
        plan("book", undo=undo), plan("print", "book"), plan("bad", "print"), plan("x")
    )
    shell.calls.returns("book", b"1")
    shell.calls.returns("x", b"1")
    await asyncio.sleep(0)
    shell.calls.returns("print", b"2")
    await asyncio.sleep(0)
    shell.calls.fails("bad")
    await asyncio.sleep(0)
    shell.calls.returns("book", b"")  # its undo

    _, caller = await shell.resume(run)

    states = {state.name: state.status for state in caller.last(RunFollowed).run.steps}
    assert states == {
        "book": "waiting",
        "print": "waiting",
        "bad": "waiting",
        "x": "done",
    }


@in_loop
async def test_result_that_another_node_still_holds_is_used(shell: Shell) -> None:
    kept = ResultRef("n2", IDS.next(), 5)
    shell.peer_requests.held_there.add(kept.id)
    run = await shell.start(plan("a"), plan("b", "a"))
    shell.calls.returns("a", kept=kept)
    await asyncio.sleep(0)
    shell.calls.fails("b")

    await shell.resume(run)

    [(_, call)] = shell.calls.sent["b"]
    assert call.inputs == (kept,)


def test_shared_results_go_when_no_remembered_run_needs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_RUNS", 1)

    async def within() -> None:
        shell = Shell()
        first = await shell.start(plan("a"), plan("b", "a"))
        kept = shell.hold()
        shell.calls.returns("a", kept=kept)
        await asyncio.sleep(0)
        shell.calls.fails("b")

        await shell.resume(first)
        shell.calls.returns("b", b"2")  # so the first run is forgotten
        held_by_second = shell.store.get(kept.id)
        await shell.start(plan("other"))
        shell.calls.returns("other", b"3")  # so the second is, too

        assert held_by_second == (b"large",)
        assert shell.store.get(kept.id) is None

    asyncio.run(within())


def rows_of(shell: Shell) -> list[tuple[bytes, str]]:
    shell.book.list(shell.caller, RunList(id=IDS.next()))
    return [(row.run, row.status) for row in shell.caller.last(Runs).runs]


def is_known(shell: Shell, run: bytes) -> bool:
    shell.caller.heard.clear()
    shell.book.why(shell.caller, ExplainStep(id=IDS.next(), run=run, step="a"))
    return isinstance(shell.caller.heard[-1], StepExplanation)


def test_ended_runs_are_forgotten_by_bytes_and_their_rows_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100_000)

    async def within() -> None:
        shell = Shell()
        runs = []
        for payload, result in ((b"x" * 40_000, b""), (b"", b"y" * 40_000), (b"", b"")):
            runs.append(await shell.start(plan("a", payload=payload)))
            shell.calls.returns("a", result)
        before = [is_known(shell, run) for run in runs]
        runs.append(await shell.start(plan("a", payload=b"x" * 50_000)))
        shell.calls.returns("a", b"")

        assert before == [True] * 3
        assert [is_known(shell, run) for run in runs] == [False, True, True, True]
        assert rows_of(shell) == [(run, "done") for run in (*runs[:0:-1], runs[0])]

    asyncio.run(within())


def test_the_newest_run_is_kept_however_large_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100)
    monkeypatch.setattr(runs_module, "REMEMBERED_ROWS", 1)

    async def within() -> None:
        shell = Shell()
        runs = []
        for _ in range(3):
            runs.append(await shell.start(plan("a", payload=b"x" * 1000)))
            shell.calls.fails("a")

        assert [is_known(shell, run) for run in runs] == [False, False, True]
        assert rows_of(shell) == [(run, "failed") for run in runs[:0:-1]]

    asyncio.run(within())


async def ended_run(shell: Shell, kept: ResultRef) -> bytes:
    run = await shell.start(plan("a"))
    shell.calls.returns("a", kept=kept)
    return run


def test_runs_that_nobody_holds_go_by_what_a_node_stores_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100_000)

    async def within() -> None:
        shell = Shell()
        large = [ResultRef("n2", IDS.next(), 40_000) for _ in range(4)]
        elsewhere = ResultRef("n3", IDS.next(), 90_000)
        runs = [await ended_run(shell, kept) for kept in (*large, elsewhere)]
        before = [is_known(shell, run) for run in runs]
        for run in (runs[1], runs[2], runs[4]):
            shell.book.unhold(shell.caller, run)
        within_limit = [is_known(shell, run) for run in runs]

        shell.book.unhold(shell.caller, runs[0])

        assert before == within_limit == [True] * 5  # their callers hold them
        assert [is_known(shell, run) for run in runs] == [True, False, True, True, True]
        assert shell.lane.sent == [("n2", Release(ids=(large[1].id,)))]

    asyncio.run(within())


def test_a_run_that_several_callers_hold_is_let_go_by_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100_000)

    async def within() -> None:
        shell, other = Shell(), Caller()
        first, newest = [
            await ended_run(shell, ResultRef("n2", IDS.next(), size))
            for size in (200_000, 1)
        ]

        def watch() -> None:
            shell.book.watch(other, RunWatch(id=IDS.next(), run=first))

        watch()
        shell.book.unhold(other, first)
        held_by_caller = is_known(shell, first)
        watch()
        shell.book.unhold(shell.caller, first)
        held_by_other = is_known(shell, first)
        shell.book.sink_lost(other)

        assert held_by_caller
        assert held_by_other
        assert [is_known(shell, run) for run in (first, newest)] == [False, True]

    asyncio.run(within())


def test_a_run_that_was_let_go_and_is_taken_up_again_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100_000)

    async def within() -> None:
        shell, other = Shell(), Caller()
        first = await ended_run(shell, ResultRef("n2", IDS.next(), 60_000))
        shell.book.unhold(shell.caller, first)
        shell.book.watch(other, RunWatch(id=IDS.next(), run=first))
        large = [ResultRef("n2", IDS.next(), 60_000) for _ in range(3)]
        second, third, newest = [await ended_run(shell, kept) for kept in large]

        for run in (second, third, newest):
            shell.book.unhold(shell.caller, run)

        known = [is_known(shell, run) for run in (first, second, third, newest)]
        assert known == [True, False, False, True]

    asyncio.run(within())


def test_a_result_of_several_runs_that_nobody_holds_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100_000)

    async def within() -> None:
        shell = Shell()
        kept = ResultRef("n2", IDS.next(), 90_000)
        shell.peer_requests.held_there.add(kept.id)
        first = await shell.start(plan("a"), plan("b", "a"))
        shell.calls.returns("a", kept=kept)
        await asyncio.sleep(0)
        shell.calls.fails("b")
        second, resumer = await shell.resume(first)
        shell.calls.fails("b")
        last = await ended_run(shell, ResultRef("n2", IDS.next(), 20_000))

        shell.book.unhold(shell.caller, first)
        shell.book.unhold(resumer, second)
        before = [is_known(shell, run) for run in (first, second)]
        shell.book.unhold(shell.caller, last)

        assert before == [True, True]
        assert [is_known(shell, run) for run in (first, second, last)] == [
            False,
            False,
            True,
        ]
        assert shell.lane.sent == [("n2", Release(ids=(kept.id,)))]

    asyncio.run(within())


def test_runs_of_a_client_that_is_gone_are_held_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_BYTES", 100_000)

    async def within() -> None:
        shell = Shell()
        runs = [
            await ended_run(shell, ResultRef("n2", IDS.next(), 60_000))
            for _ in range(2)
        ]

        shell.book.sink_lost(shell.caller)

        assert [is_known(shell, run) for run in runs] == [False, True]

    asyncio.run(within())


def test_a_run_that_is_forgotten_takes_its_results_along_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_RUNS", 1)

    async def within() -> list[Any]:
        shell = Shell()
        made = list[Any]()
        take_in = EndedRuns.add

        def add(ended: EndedRuns, run: Any) -> None:
            made.extend((ref(run), ref(run.machine)))
            take_in(ended, run)

        monkeypatch.setattr(EndedRuns, "add", add)
        for _ in range(2):
            await shell.start(plan("a"), plan("b", "a"))
            shell.calls.returns("a", b"1")
            await asyncio.sleep(0)
            shell.calls.returns("b", b"2")
        await asyncio.sleep(0)
        return [each() is None for each in made]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(within()) == [True, True, False, False]
    finally:
        gc.enable()


def head_of(*items: bytes) -> bytes:
    return msgspec.msgpack.encode(items)


@in_loop
async def test_a_cancelled_run_holds_no_items_of_its_map(shell: Shell) -> None:
    split = SideCall(function="split", payload=b"")
    run = await shell.start(plan("m", split=split))
    tracemalloc.start()
    try:
        shell.calls.returns("m", head_of(*[bytes(10_000)] * 100))
        await asyncio.sleep(0)
        for _ in range(50):
            shell.calls.returns("m", bytes(10_001))
        before, _ = tracemalloc.get_traced_memory()
        shell.book.cancel(run)
        shell.calls.sent.clear()
        await asyncio.sleep(0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert shell.caller.last(RunState).status == "cancelled"
    assert (before > 1_000_000, after < 500_000) == (True, True)


def test_items_of_a_map_that_failed_are_released_with_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_RUNS", 1)

    async def within() -> None:
        shell = Shell()
        early, late = (ResultRef("n2", IDS.next(), 20_000) for _ in range(2))
        await shell.start(
            plan("m", split=SideCall(function="split", payload=b"")), plan("a")
        )
        shell.calls.returns("m", head_of(b"1", b"2", b"3"))
        await asyncio.sleep(0)
        shell.calls.returns("m", kept=early)
        shell.calls.fails("m")
        shell.calls.returns("m", kept=late)  # it was cancelled too late
        shell.calls.returns("a", b"1")
        await ended_run(shell, ResultRef("n3", IDS.next(), 1))

        assert shell.lane.sent == [
            ("n2", Release(ids=(kept.id,))) for kept in (early, late)
        ]

    asyncio.run(within())


def test_the_error_for_a_forgotten_run_says_that_it_was_evicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "REMEMBERED_RUNS", 1)

    async def within() -> None:
        shell = Shell()
        runs = [
            await ended_run(shell, ResultRef("n2", IDS.next(), 1)) for _ in range(2)
        ]

        fetch = StepFetch(id=IDS.next(), run=runs[0], step="a")
        await shell.book.fetch(shell.caller, fetch)

        failure = shell.caller.last(Failed).failure
        assert (failure.kind, failure.node) == ("gone", "n1")
        assert failure.message == (
            "it keeps the last 1 runs, up to 256 MB, and this one had to go"
        )

    asyncio.run(within())


def test_what_an_ended_run_takes_is_counted() -> None:
    failed = Failed(id=IDS.next(), failure=Failure(kind="application"), payload=b"12")
    attempt = Attempt(number=1, sent_at_s=0.0)
    kept = ResultRef("n1", IDS.next(), 10_000)

    assert size_of_end(StepDone(attempt, b"123", 3)) == 3
    assert size_of_end(StepDone(attempt, kept, 10_000)) == 0
    assert size_of_end(StepFailed(attempt, (failed, (b"345",)))) == 5
    items = StepDone(attempt, Items((b"1", kept, b"23")), 3)
    assert size_of_end(items) == 3 + 3 * ITEM_BYTES
    assert size_of_end(Skipped("a")) == 0
