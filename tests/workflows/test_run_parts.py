"""Fallbacks, undo functions, maps and results from before, by hand and by chance."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.workflows.run import (
    FallbackCall,
    FallbackResult,
    RunMachine,
    RunStep,
    UndoCall,
)
from mpreg_nb.workflows.state import (
    Attempt,
    CancelStep,
    Effect,
    Execution,
    FellBack,
    InputSkipped,
    Items,
    MissingResult,
    NotUndone,
    Part,
    RunEnded,
    StartStep,
    StepDone,
    StepRow,
    TimedOut,
)

ANY = ("builtins.Exception",)


class Half:
    """Draws 0.5 each time."""

    def random(self) -> float:
        return 0.5


def step(name: str, *dependencies: str, **more: Any) -> RunStep:
    return RunStep(name=name, dependencies=frozenset(dependencies), **more)


def machine(*steps: RunStep, done: dict[str, StepDone] | None = None) -> RunMachine:
    return RunMachine("w", steps, rng=Half(), done=done)


def statuses(run: RunMachine) -> dict[str, str]:
    return {row.step: row.status for row in run.rows()}


def only_row(run: RunMachine, name: str) -> StepRow:
    [found] = [row for row in run.rows() if row.step == name]
    return found


# ---------------------------------------------------------------- fallbacks


def test_a_given_result_takes_the_place_of_a_failed_step_and_others_go_on() -> None:
    bad = step("bad", fallback=FallbackResult(result="plan B", result_bytes=6))
    run = machine(bad, step("next", "bad"))
    run.start(0.0)

    effects = run.failed("bad", 1, "broken", 1.0, types=ANY)

    state = run.state("bad")
    assert effects == [StartStep("next", 1)]
    assert isinstance(state, FellBack)
    assert (state.result, state.failure) == ("plan B", "broken")
    assert only_row(run, "bad").status == "fallback"
    assert run.finished("next", 1, None, 2.0) == [RunEnded("done")]


def test_a_fallback_waits_for_the_last_attempt() -> None:
    run = machine(step("bad", more_attempts=1, fallback=FallbackCall()))
    run.start(0.0)

    assert run.failed("bad", 1, "broken", 1.0, types=ANY) == []
    assert run.tick(run.deadline) == [StartStep("bad", 2)]
    assert run.failed("bad", 2, "again", 2.0) == [StartStep("bad", 1, "fallback")]
    assert statuses(run) == {"bad": "running"}


def test_a_called_fallback_gives_the_result_and_counts_as_an_attempt() -> None:
    run = machine(step("bad", fallback=FallbackCall()))
    run.start(0.0)
    run.failed("bad", 1, "broken", 1.0)

    effects = run.finished("bad", 1, "plan B", 2.0, part="fallback", result_bytes=6)

    assert effects == [RunEnded("done")]
    assert only_row(run, "bad").status == "fallback"
    assert only_row(run, "bad").attempts == 2
    assert only_row(run, "bad").result_bytes == 6


def test_a_fallback_that_fails_fails_the_step() -> None:
    run = machine(step("bad", fallback=FallbackCall()), step("next", "bad"))
    run.start(0.0)
    run.failed("bad", 1, "broken", 1.0)

    effects = run.failed("bad", 1, "worse", 2.0, part="fallback")

    assert effects == [RunEnded("failed")]
    assert run.failures() == {"bad": "worse"}
    assert statuses(run) == {"bad": "failed", "next": "skipped"}


def test_a_fallback_that_takes_too_long_is_cancelled_and_fails_the_step() -> None:
    run = machine(step("bad", timeout_s=5.0, fallback=FallbackCall()))
    run.start(0.0)
    run.failed("bad", 1, "broken", 1.0)

    effects = run.tick(6.0)

    assert effects == [CancelStep("bad", 1, "fallback"), RunEnded("failed")]
    assert run.failures() == {"bad": TimedOut(5.0, "fallback")}


def test_cancel_ends_a_fallback_too() -> None:
    run = machine(step("bad", fallback=FallbackCall()))
    run.start(0.0)
    run.failed("bad", 1, "broken", 1.0)

    effects = run.cancel(2.0)

    assert effects == [CancelStep("bad", 1, "fallback"), RunEnded("cancelled")]
    assert run.finished("bad", 1, "late", 3.0, part="fallback") == []


# ---------------------------------------------------------------- conditions


def branched(**more: Any) -> RunMachine:
    """A check, a step that runs only if it says so, and three steps behind that."""
    run = machine(
        step("check"),
        step("mend", "check", has_condition=True, **more),
        step("uses", "mend"),
        step("falls", "mend", fallback=FallbackResult(result="none")),
        step("later", "mend", after=frozenset({"mend"})),
    )
    run.start(0.0)
    assert run.finished("check", 1, "ok", 1.0) == [StartStep("mend", 1, "condition")]
    return run


def test_a_step_whose_condition_holds_is_sent() -> None:
    run = branched()

    assert statuses(run)["mend"] == "waiting"
    assert run.decided("mend", 1, 2.0, is_true=True) == [StartStep("mend", 1)]
    assert run.decided("mend", 1, 2.0, is_true=False) == []


def test_a_map_whose_condition_holds_is_split() -> None:
    run = branched(is_map=True)

    effects = run.decided("mend", 1, 2.0, is_true=True)

    assert effects == [StartStep("mend", 1, "split")]


def test_a_false_condition_skips_what_uses_the_result_and_nothing_else() -> None:
    run = branched()

    effects = run.decided("mend", 1, 2.0, is_true=False)

    assert effects == [StartStep("later", 1)]
    assert statuses(run) == {
        "check": "done",
        "mend": "skipped",
        "uses": "skipped",
        "falls": "fallback",
        "later": "waiting",
    }
    assert only_row(run, "mend").cause == ""
    assert only_row(run, "uses").cause == "mend"
    assert only_row(run, "falls").failure == InputSkipped("mend", "")
    assert run.finished("later", 1, None, 3.0) == [RunEnded("done")]


def test_a_fallback_function_behind_a_skipped_step_is_called() -> None:
    run = machine(
        step("mend", has_condition=True),
        step("between", "mend"),
        step("last", "mend", fallback=FallbackCall()),
    )
    run.start(0.0)

    effects = run.decided("mend", 1, 2.0, is_true=False)

    assert effects == [StartStep("last", 1, "fallback")]
    assert run.finished("last", 1, "x", 3.0, part="fallback") == [RunEnded("done")]


def test_a_condition_that_raises_fails_its_step_and_a_lost_one_is_repeated() -> None:
    run = branched()

    assert run.failed("mend", 1, "lost", 2.0, retryable=True, part="condition") == []
    assert run.tick(9.0) == [StartStep("mend", 2, "condition")]
    effects = run.failed("mend", 2, "no such key", 9.5, types=ANY, part="condition")

    assert effects == [RunEnded("failed")]
    assert run.failures() == {"mend": "no such key"}


def test_cancel_ends_the_test_of_a_condition_too() -> None:
    run = branched()

    effects = run.cancel(2.0)

    assert effects == [CancelStep("mend", 1, "condition"), RunEnded("cancelled")]
    assert run.decided("mend", 1, 3.0, is_true=True) == []


def test_cancel_ends_a_step_whose_condition_held() -> None:
    run = branched()
    run.decided("mend", 1, 2.0, is_true=True)

    assert run.cancel(3.0) == [CancelStep("mend", 1), RunEnded("cancelled")]


def test_what_ran_before_a_skipped_step_is_not_undone_when_all_goes_well() -> None:
    run = machine(step("pay", undo=UndoCall()), step("gift", "pay", has_condition=True))
    run.start(0.0)
    run.finished("pay", 1, "paid", 1.0)

    assert run.decided("gift", 1, 2.0, is_true=False) == [RunEnded("done")]


def test_the_last_steps_that_fall_back_together_end_the_run_once() -> None:
    run = machine(
        step("mend", has_condition=True),
        *(step(n, "mend", fallback=FallbackResult(result=n)) for n in "ab"),
        step("c", "a", "b", undo=UndoCall()),
        step("bad"),
    )
    run.start(0.0)
    run.failed("bad", 1, "broken", 1.0)

    assert run.decided("mend", 1, 2.0, is_true=False) == [StartStep("c", 1)]
    assert run.finished("c", 1, "x", 3.0) == [StartStep("c", 1, "undo")]
    assert run.finished("c", 1, None, 4.0, part="undo") == [RunEnded("failed")]


# --------------------------------------------------------------------- undo


def saga() -> RunMachine:
    """Three steps that can be undone, done as a, c, b; then a last one."""
    run = machine(
        step("a", undo=UndoCall(inputs=frozenset({"a"}))),
        step("b", undo=UndoCall()),
        step("c", undo=UndoCall()),
        step("last", "a", "b", "c"),
    )
    run.start(0.0)
    for number, name in enumerate("acb"):
        run.finished(name, 1, name, 1.0 + number)
    return run


def test_what_was_done_last_is_undone_first_one_after_another() -> None:
    run = saga()

    assert run.failed("last", 1, "broken", 5.0) == [StartStep("b", 1, "undo")]
    assert run.status == "running"
    assert run.finished("b", 1, None, 6.0, part="undo") == [StartStep("c", 1, "undo")]
    assert run.finished("c", 1, None, 7.0, part="undo") == [StartStep("a", 1, "undo")]
    assert run.finished("a", 1, None, 8.0, part="undo") == [RunEnded("failed")]
    assert statuses(run) == dict.fromkeys("abc", "undone") | {"last": "failed"}


def test_an_undo_that_fails_is_listed_and_the_others_still_run() -> None:
    run = saga()
    run.failed("last", 1, "broken", 5.0)

    effects = run.failed("b", 1, "no way back", 6.0, part="undo")

    assert effects == [StartStep("c", 1, "undo")]
    assert isinstance(run.state("b"), NotUndone)
    assert only_row(run, "b").status == "done"
    assert only_row(run, "b").undo_failure == "no way back"


def test_a_cancelled_run_is_undone_and_cannot_be_cancelled_meanwhile() -> None:
    run = saga()

    assert run.cancel(5.0) == [CancelStep("last", 1), StartStep("b", 1, "undo")]
    assert run.cancel(6.0) == []
    run.finished("b", 1, None, 6.0, part="undo")
    run.finished("c", 1, None, 7.0, part="undo")
    assert run.finished("a", 1, None, 8.0, part="undo") == [RunEnded("cancelled")]
    assert statuses(run)["last"] == "cancelled"


def test_a_run_that_succeeds_undoes_nothing() -> None:
    run = saga()

    assert run.finished("last", 1, None, 5.0) == [RunEnded("done")]


def test_undo_begins_when_independent_steps_have_ended() -> None:
    run = machine(step("a", undo=UndoCall()), step("bad"), step("slow"))
    run.start(0.0)
    run.finished("a", 1, None, 1.0)

    assert run.failed("bad", 1, "broken", 2.0) == []
    assert run.finished("slow", 1, None, 3.0) == [StartStep("a", 1, "undo")]


def test_what_failed_or_fell_back_is_not_undone() -> None:
    run = machine(
        step("fell", undo=UndoCall(), fallback=FallbackResult(result=None)),
        step("bad", undo=UndoCall()),
    )
    run.start(0.0)
    run.failed("fell", 1, "broken", 1.0)

    assert run.failed("bad", 1, "broken", 2.0) == [RunEnded("failed")]
    assert statuses(run) == {"fell": "fallback", "bad": "failed"}


def test_an_undo_that_refers_to_a_step_without_result_is_listed() -> None:
    run = machine(step("a", undo=UndoCall(inputs=frozenset({"bad"}))), step("bad", "a"))
    run.start(0.0)
    run.finished("a", 1, None, 1.0)

    effects = run.failed("bad", 1, "broken", 2.0)

    assert effects == [RunEnded("failed")]
    assert only_row(run, "a").undo_failure == MissingResult("bad")


def test_an_undo_is_tried_again_as_it_was_asked() -> None:
    undo = UndoCall(more_attempts=1)
    run = machine(step("a", undo=undo, timeout_s=9.0), step("bad", "a"))
    run.start(0.0)
    run.finished("a", 1, None, 1.0)
    run.failed("bad", 1, "broken", 2.0)

    assert run.failed("a", 1, "busy", 3.0, types=ANY, part="undo") == []
    assert run.tick(run.deadline) == [StartStep("a", 2, "undo")]
    assert run.tick(20.0) == [CancelStep("a", 2, "undo"), RunEnded("failed")]
    assert only_row(run, "a").undo_failure == TimedOut(9.0, "undo")


def test_an_undo_refers_to_steps_that_are_there() -> None:
    with pytest.raises(InvalidWorkflow, match="Did you mean 'book'"):
        machine(step("book", undo=UndoCall(inputs=frozenset({"bok"}))))


# --------------------------------------------------------------------- maps


def fanned(items: int = 3, **more: Any) -> RunMachine:
    run = machine(step("m", is_map=True, **more), step("next", "m"))
    run.start(0.0)
    run.divided("m", 1, items, 1.0)
    return run


def test_a_map_is_split_and_then_sent_item_by_item() -> None:
    run = machine(step("m", is_map=True))

    assert run.start(0.0) == [StartStep("m", 1, "split")]
    assert run.divided("m", 1, 2, 1.0) == [StartStep("m", 1, 0), StartStep("m", 1, 1)]
    assert run.divided("m", 1, 2, 1.0) == []
    assert (only_row(run, "m").items, only_row(run, "m").items_done) == (2, 0)


def test_a_map_gathers_its_results_in_the_order_of_the_items() -> None:
    run = fanned(2)
    run.started("m", 1, "n2", 1.5, part=1)
    said = Execution(node="n2", version="v", run_s=0.5)
    run.finished("m", 1, "second", 2.0, part=1, execution=said, result_bytes=6)
    assert only_row(run, "m").items_done == 1

    effects = run.finished(
        "m", 1, "first", 4.0, part=0, execution=Execution(node="n1"), result_bytes=5
    )

    state = run.state("m")
    assert effects == [StartStep("next", 1)]
    assert isinstance(state, StepDone)
    assert state.result == Items(("first", "second"))
    row = only_row(run, "m")
    assert (row.status, row.node, row.result_bytes) == ("done", "n1, n2", 11)
    assert (row.items, row.items_done, row.run_s) == (2, 2, 2.5)


def test_a_map_over_nothing_is_done_at_once() -> None:
    run = machine(step("m", is_map=True), step("next", "m"))
    run.start(0.0)

    effects = run.divided("m", 1, 0, 1.0)

    assert effects == [StartStep("next", 1)]
    state = run.state("m")
    assert isinstance(state, StepDone)
    assert state.result == Items(())


def test_an_item_that_fails_for_good_fails_the_map_and_ends_the_other_items() -> None:
    run = fanned(3)
    run.finished("m", 1, "first", 2.0, part=0)

    effects = run.failed("m", 1, "broken", 3.0, part=1)

    assert effects == [CancelStep("m", 1, 2), RunEnded("failed")]
    assert run.failures() == {"m": "broken"}
    assert statuses(run) == {"m": "failed", "next": "skipped"}
    assert (only_row(run, "m").items, only_row(run, "m").items_done) == (3, 1)


def test_each_item_is_tried_again_by_itself() -> None:
    run = fanned(2, more_attempts=1)
    run.failed("m", 1, "broken", 2.0, types=ANY, part=0)
    run.failed("m", 1, "broken", 2.0, types=ANY, part=1)

    assert run.tick(5.0) == [StartStep("m", 2, 0), StartStep("m", 2, 1)]
    assert only_row(run, "m").attempts == 2


def test_the_time_of_an_item_runs_from_its_beginning() -> None:
    run = fanned(1, timeout_s=5.0)

    assert run.tick(100.0) == []
    run.started("m", 1, "n1", 200.0, part=0)
    assert run.deadline == 205.0
    assert run.tick(205.0) == [CancelStep("m", 1, 0), RunEnded("failed")]


def test_a_failed_map_falls_back_as_a_whole() -> None:
    run = fanned(2, fallback=FallbackCall())

    effects = run.failed("m", 1, "broken", 3.0, part=0)

    assert effects == [CancelStep("m", 1, 1), StartStep("m", 1, "fallback")]
    assert run.finished("m", 1, [], 4.0, part="fallback") == [StartStep("next", 1)]


def test_a_split_that_was_lost_is_tried_again_and_one_that_failed_is_not() -> None:
    run = machine(step("m", is_map=True))
    run.start(0.0)

    assert run.failed("m", 1, "lost", 1.0, retryable=True, part="split") == []
    assert run.tick(run.deadline) == [StartStep("m", 2, "split")]
    assert run.failed("m", 2, "not iterable", 2.0, types=ANY, part="split") == [
        RunEnded("failed")
    ]


def test_cancel_ends_all_items() -> None:
    run = fanned(2)

    effects = run.cancel(2.0)

    assert effects == [
        CancelStep("m", 1, 0),
        CancelStep("m", 1, 1),
        RunEnded("cancelled"),
    ]


# ------------------------------------------------------------------- resume


def test_what_was_done_before_is_not_run_again() -> None:
    before = StepDone(Attempt(number=1, sent_at_s=0.0), "old", 3)
    run = machine(step("a"), step("b", "a"), step("c", "b"), done={"a": before})

    assert run.start(0.0) == [StartStep("b", 1)]
    assert run.state("a") == before
    run.finished("b", 1, None, 1.0)
    assert run.finished("c", 1, None, 2.0) == [RunEnded("done")]


def test_a_run_of_which_all_was_done_before_ends_at_its_start() -> None:
    before = StepDone(Attempt(number=1, sent_at_s=0.0), "old", 3)
    run = machine(step("a"), done={"a": before})

    assert run.start(0.0) == [RunEnded("done")]


# ---------------------------------------------------------------- by chance


class Executor:
    """Runs what a machine sends, out of order, with failures, losses and echoes."""

    def __init__(self, run: RunMachine, rng: random.Random) -> None:
        self.run = run
        self.rng = rng
        self.now = 0.0
        self.under_way: dict[tuple[str, Part, int], None] = {}
        self.sent: list[tuple[str, Part, int]] = []
        self.finished: list[tuple[str, Part]] = []
        self.items: dict[str, int] = {}
        self.done: list[str] = []  # steps with a result of their own, in order
        self.ends: list[RunEnded] = []

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert self.ends == [], "an effect after the end"
            match effect:
                case StartStep(name, attempt, part):
                    key = (name, part, attempt)
                    assert key not in self.sent
                    self.sent.append(key)
                    self.under_way[key] = None
                case CancelStep(name, attempt, part):
                    del self.under_way[name, part, attempt]
                case RunEnded():
                    self.ends.append(effect)
        undoing = [key for key in self.under_way if key[1] == "undo"]
        assert len(undoing) <= 1
        assert not undoing or len(self.under_way) == 1, "undone while steps run"

    def act(self) -> None:
        self.now += self.rng.random()
        kind = self.rng.choice(["tick", "start", "finish", "finish", "fail"])
        if kind == "tick" or not self.under_way:
            self.now = max(self.now, min(self.run.deadline, self.now + 10.0))
            self.perform(self.run.tick(self.now))
            return
        name, part, attempt = key = self.rng.choice(list(self.under_way))
        if kind == "start":
            self.perform(self.run.started(name, attempt, "n1", self.now, part=part))
            return
        del self.under_way[key]
        if kind == "fail":
            lost, types = (
                self.rng.random() < 0.2,
                ANY if self.rng.random() < 0.5 else (),
            )
            effects = self.run.failed(
                name, attempt, "x", self.now, types=types, retryable=lost, part=part
            )
        elif part == "condition":
            is_true = self.rng.random() < 0.7
            effects = self.run.decided(name, attempt, self.now, is_true=is_true)
        elif part == "split":
            self.items[name] = self.rng.randint(0, 4)
            effects = self.run.divided(name, attempt, self.items[name], self.now)
        else:
            self.finished.append((name, part))
            effects = self.run.finished(name, attempt, key, self.now, part=part)
        if type(self.run.state(name)) is StepDone and name not in self.done:
            self.done.append(name)
        self.perform(effects)


@st.composite
def graphs(draw: st.DrawFn) -> list[RunStep]:
    steps: list[RunStep] = []
    for i in range(draw(st.integers(1, 8))):
        names = [earlier.name for earlier in steps]
        some = st.sets(st.sampled_from(names), max_size=3) if names else st.just(set())
        mentions = st.sets(st.sampled_from([*names, f"s{i}"]), max_size=2)
        fallbacks = st.sampled_from([None, FallbackCall(), FallbackResult(result="b")])
        undo = st.builds(
            UndoCall, inputs=mentions.map(frozenset), more_attempts=st.integers(0, 1)
        )
        needed = draw(some)
        steps.append(
            step(
                f"s{i}",
                *needed,
                after=frozenset(n for n in needed if draw(st.booleans())),
                has_condition=draw(st.booleans()),
                delay_s=draw(st.sampled_from([None, 0.0, 2.0])),
                is_map=draw(st.booleans()),
                more_attempts=draw(st.integers(0, 2)),
                timeout_s=draw(st.sampled_from([None, 0.5, 5.0])),
                fallback=draw(fallbacks),
                undo=draw(st.none() | undo),
            )
        )
    return draw(st.permutations(steps))


def unwanted(rows: dict[str, StepRow], row: StepRow) -> bool:
    """Return whether a condition had it skipped."""
    skipped = row.status == "skipped"
    return skipped and (not row.cause or rows[row.cause].status == "skipped")


@settings(max_examples=200)
@given(steps=graphs(), seed=st.integers(0, 2**32), cancelled=st.booleans())
def test_any_saga_of_maps_and_fallbacks_ends_once_and_leaves_nothing_half_done(
    steps: list[RunStep], seed: int, cancelled: bool
) -> None:
    rng = random.Random(seed)
    run = RunMachine("w", steps, rng=rng)
    executor = Executor(run, rng)
    plans = {plan.name: plan for plan in steps}
    executor.perform(run.start(0.0))

    for turn in range(20_000):
        if executor.ends:
            break
        if cancelled and turn == 9:
            executor.perform(run.cancel(executor.now))
        else:
            executor.act()

    assert len(executor.ends) == 1
    assert executor.under_way == {}
    assert run.tick(1e9) == []
    rows = {row.step: row for row in run.rows()}
    has_result = {"done", "fallback", "undone"}
    for name, row in rows.items():
        plan, needed = plans[name], [rows[n] for n in plans[name].dependencies]
        went_on = {row.step for row in needed if row.status in has_result}
        went_on |= {n for n in plan.after if unwanted(rows, rows[n])}
        if row.status in {"done", "undone"}:
            assert plan.dependencies <= went_on
        if row.status in {"fallback", "failed"} and not plan.dependencies <= went_on:
            assert plan.fallback is not None
            assert any(unwanted(rows, other) for other in needed)
        if row.status == "skipped" and not row.cause:
            assert plan.has_condition
        elif row.status == "skipped":
            assert rows[row.cause].status in {"failed", "skipped"}
        if row.status == "fallback":
            assert plan.fallback is not None
        if row.status == "done" and plan.is_map:
            state = run.state(name)
            assert isinstance(state, StepDone)
            places = [key[1] for key in state.result.results]
            assert places == list(range(executor.items[name]))
    undone = [name for name, part in executor.finished if part == "undo"]
    if run.status == "done":
        assert undone == []
        others = [row for row in rows.values() if not unwanted(rows, row)]
        assert {row.status for row in others} <= {"done", "fallback"}
    else:
        for name, plan in plans.items():
            if plan.undo is not None and rows[name].status == "done":
                assert rows[name].undo_failure is not None
    assert {name for name, row in rows.items() if row.status == "undone"} == set(undone)
    assert undone == [name for name in reversed(executor.done) if name in undone]
