"""One execution of a workflow, driven by hand and by chance."""

import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.workflows.run import TIMEOUT_TYPES, RunMachine, RunStep, backoff_s
from mpreg_nb.workflows.state import (
    CancelStep,
    Effect,
    Execution,
    RunEnded,
    StartStep,
    StepDone,
    StepRow,
    TimedOut,
)

VALUE_ERROR = ("builtins.ValueError", "builtins.Exception", "builtins.BaseException")


class Half:
    """Draws 0.5 each time."""

    def random(self) -> float:
        return 0.5


def machine(*steps: RunStep) -> RunMachine:
    return RunMachine("w", steps, rng=Half())


def step(
    name: str,
    *dependencies: str,
    retry: int = 0,
    on: tuple[str, ...] = ("builtins.Exception",),
    timeout_s: float | None = None,
) -> RunStep:
    return RunStep(
        name=name,
        dependencies=frozenset(dependencies),
        more_attempts=retry,
        retry_on=on,
        timeout_s=timeout_s,
    )


def statuses(run: RunMachine) -> dict[str, str]:
    return {row.step: row.status for row in run.rows()}


def only_row(run: RunMachine, name: str) -> StepRow:
    [found] = [row for row in run.rows() if row.step == name]
    return found


def test_a_given_delay_is_kept_and_grows_by_its_factor() -> None:
    plan = RunStep(name="a", more_attempts=9, delay_s=1.0, backoff=3.0)
    run = machine(plan)
    run.start(0.0)

    waited = []
    for attempt in range(1, 10):
        run.failed("a", attempt, "no", 0.0, types=VALUE_ERROR)
        waited.append(run.deadline)
        assert run.tick(run.deadline - 0.01) == []
        assert run.tick(run.deadline) == [StartStep("a", attempt + 1)]

    assert waited == [1.0, 3.0, 9.0, 27.0, 81.0, 243.0, 729.0, 2187.0, 3600.0]


def test_steps_without_inputs_are_sent_at_the_start_and_once() -> None:
    run = machine(step("a"), step("b"), step("c", "a"))

    effects = run.start(0.0)

    assert effects == [StartStep("a", 1), StartStep("b", 1)]
    assert run.start(1.0) == []
    assert run.status == "running"
    assert run.deadline == math.inf


def test_a_step_is_sent_as_soon_as_its_own_inputs_are_there() -> None:
    run = machine(step("slow"), step("fast"), step("after fast", "fast"))
    run.start(0.0)

    effects = run.finished("fast", 1, "result", 1.0)

    assert effects == [StartStep("after fast", 1)]
    assert statuses(run) == {
        "slow": "waiting",
        "fast": "done",
        "after fast": "waiting",
    }


def test_a_step_waits_for_all_of_its_inputs() -> None:
    run = machine(step("a"), step("b"), step("both", "a", "b"))
    run.start(0.0)

    assert run.finished("a", 1, None, 1.0) == []
    assert run.finished("b", 1, None, 2.0) == [StartStep("both", 1)]
    assert run.finished("both", 1, None, 3.0) == [RunEnded("done")]
    assert run.status == "done"


def test_results_are_kept_as_they_were_given() -> None:
    run = machine(step("a"))
    run.start(0.0)
    handle = object()

    run.finished("a", 1, handle, 1.0, result_bytes=8)

    state = run.state("a")
    assert isinstance(state, StepDone)
    assert state.result is handle


def test_what_depends_on_a_failed_step_is_skipped_and_all_else_goes_on() -> None:
    run = machine(
        step("root"),
        step("bad", "root"),
        step("good", "root"),
        step("join", "bad", "good"),
        step("end", "join"),
    )
    run.start(0.0)
    run.finished("root", 1, None, 1.0)

    effects = run.failed("bad", 1, "broken", 2.0, types=VALUE_ERROR)

    assert effects == []
    assert only_row(run, "join").status == "skipped"
    assert only_row(run, "join").cause == "bad"
    assert only_row(run, "end").cause == "bad"
    assert run.finished("good", 1, None, 3.0) == [RunEnded("failed")]
    assert run.failures() == {"bad": "broken"}


def test_a_step_behind_two_failures_names_the_first() -> None:
    run = machine(step("a"), step("b"), step("c", "a", "b"))
    run.start(0.0)
    run.failed("b", 1, "late", 1.0)

    effects = run.failed("a", 1, "later", 2.0)

    assert only_row(run, "c").cause == "b"
    assert effects == [RunEnded("failed")]


def test_a_retry_rests_for_a_drawn_time_and_then_is_sent_again() -> None:
    run = machine(step("a", retry=2))
    run.start(0.0)

    assert run.failed("a", 1, "x", 1.0, types=VALUE_ERROR) == []
    assert statuses(run) == {"a": "waiting"}
    assert run.deadline == pytest.approx(1.025)
    assert run.tick(1.01) == []
    assert run.tick(1.03) == [StartStep("a", 2)]
    assert run.deadline == math.inf
    assert run.failed("a", 2, "x", 2.0, types=VALUE_ERROR) == []
    assert run.tick(2.05) == [StartStep("a", 3)]
    assert run.failed("a", 3, "x", 3.0, types=VALUE_ERROR) == [RunEnded("failed")]
    assert only_row(run, "a").attempts == 3


def test_a_later_attempt_may_succeed() -> None:
    run = machine(step("a", retry=1), step("b", "a"))
    run.start(0.0)
    run.failed("a", 1, "x", 1.0, types=VALUE_ERROR)
    run.tick(2.0)

    effects = run.finished("a", 2, "result", 3.0)

    assert effects == [StartStep("b", 1)]
    assert only_row(run, "a").attempts == 2


def test_a_failure_of_another_class_is_not_tried_again() -> None:
    run = machine(step("a", retry=5, on=("builtins.OSError",)))
    run.start(0.0)

    effects = run.failed("a", 1, "x", 1.0, types=VALUE_ERROR)

    assert effects == [RunEnded("failed")]


def test_a_failure_of_a_subclass_is_tried_again() -> None:
    run = machine(step("a", retry=1, on=("builtins.LookupError",)))
    run.start(0.0)

    effects = run.failed(
        "a", 1, "x", 1.0, types=("builtins.KeyError", "builtins.LookupError")
    )

    assert effects == []
    assert run.deadline < math.inf


def test_a_lost_node_spends_a_retry_whatever_the_class_but_only_if_there_is_one() -> (
    None
):
    run = machine(step("a", retry=1, on=("builtins.OSError",)), step("b"))
    run.start(0.0)

    effects = run.failed("a", 1, "node lost", 1.0, retryable=True)
    run.failed("b", 1, "node lost", 1.0, retryable=True)

    assert effects == []
    assert run.tick(2.0) == [StartStep("a", 2)]
    assert statuses(run) == {"a": "waiting", "b": "failed"}


def test_an_attempt_is_ended_when_its_time_is_up() -> None:
    run = machine(step("a", timeout_s=5.0), step("b", "a"))
    run.start(10.0)

    assert run.deadline == 15.0
    assert run.tick(14.9) == []
    assert run.tick(15.0) == [CancelStep("a", 1), RunEnded("failed")]
    assert run.failures() == {"a": TimedOut(5.0)}
    assert only_row(run, "b").cause == "a"
    assert run.deadline == math.inf


def test_a_timeout_counts_as_a_timeout_error_for_retries() -> None:
    assert "builtins.TimeoutError" in TIMEOUT_TYPES
    run = machine(step("a", retry=1, on=("builtins.TimeoutError",), timeout_s=1.0))
    run.start(0.0)

    assert run.tick(1.0) == [CancelStep("a", 1)]
    assert run.tick(2.0) == [StartStep("a", 2)]
    assert run.deadline == 3.0
    assert run.tick(3.0) == [CancelStep("a", 2), RunEnded("failed")]


def test_the_timer_of_an_attempt_that_ended_is_forgotten() -> None:
    run = machine(step("a", timeout_s=5.0, retry=1), step("b", timeout_s=9.0))
    run.start(0.0)

    run.finished("a", 1, None, 1.0)

    assert run.deadline == 9.0
    assert run.tick(6.0) == []
    assert statuses(run)["a"] == "done"


def test_a_very_late_tick_does_all_that_was_due() -> None:
    run = machine(step("a", timeout_s=1.0), step("b", timeout_s=2.0), step("c"))
    run.start(0.0)

    effects = run.tick(1000.0)

    assert effects == [CancelStep("a", 1), CancelStep("b", 1)]
    assert run.tick(2000.0) == []


def test_events_of_old_attempts_and_of_unknown_steps_change_nothing() -> None:
    run = machine(step("a", retry=1), step("b", "a"))
    run.start(0.0)
    run.failed("a", 1, "x", 1.0, types=VALUE_ERROR)
    resting = run.rows()

    effects = [
        *run.started("a", 1, "n1", 1.0),
        *run.finished("a", 1, "late", 1.0),
        *run.failed("a", 1, "again", 1.0, types=VALUE_ERROR),
        *run.finished("b", 1, "never sent", 1.0),
        *run.finished("stranger", 1, "?", 1.0),
        *run.started("stranger", 1, "n1", 1.0),
    ]

    assert effects == []
    assert run.rows() == resting
    assert run.tick(2.0) == [StartStep("a", 2)]
    assert run.finished("a", 1, "late", 2.0) == []
    assert statuses(run) == {"a": "waiting", "b": "waiting"}


def test_an_outcome_that_arrives_twice_counts_once() -> None:
    run = machine(step("a"), step("b", "a"))
    run.start(0.0)
    run.finished("a", 1, None, 1.0)

    assert run.finished("a", 1, None, 1.0) == []
    assert run.failed("a", 1, "x", 1.0) == []
    assert run.finished("b", 1, None, 2.0) == [RunEnded("done")]
    assert run.finished("b", 1, None, 2.0) == []


def test_cancel_ends_what_is_under_way_and_the_run() -> None:
    run = machine(
        step("done"),
        step("under way", "done"),
        step("resting", "done", retry=1),
        step("waiting", "under way"),
        step("sent", "done", timeout_s=9.0),
    )
    run.start(0.0)
    run.finished("done", 1, None, 1.0)
    run.started("under way", 1, "n1", 1.5)
    run.failed("resting", 1, "x", 2.0, types=VALUE_ERROR)

    effects = run.cancel(3.0)

    assert effects == [
        CancelStep("under way", 1),
        CancelStep("sent", 1),
        RunEnded("cancelled"),
    ]
    assert run.status == "cancelled"
    assert statuses(run) == {
        "done": "done",
        "under way": "cancelled",
        "resting": "cancelled",
        "waiting": "cancelled",
        "sent": "cancelled",
    }
    assert only_row(run, "under way").run_s == 1.5
    assert only_row(run, "sent").run_s is None
    assert run.deadline == math.inf
    assert run.cancel(4.0) == []
    assert run.tick(99.0) == []
    assert run.finished("under way", 1, None, 4.0) == []


def test_a_run_that_was_cancelled_before_its_start_never_starts() -> None:
    run = machine(step("a"))

    assert run.cancel(0.0) == [RunEnded("cancelled")]
    assert run.start(1.0) == []


def test_a_run_with_a_failure_that_is_then_cancelled_is_cancelled() -> None:
    run = machine(step("a"), step("b"))
    run.start(0.0)
    run.failed("a", 1, "x", 1.0)

    assert run.cancel(2.0) == [CancelStep("b", 1), RunEnded("cancelled")]
    assert run.failures() == {"a": "x"}


def test_rows_show_the_observed_times() -> None:
    run = machine(step("a"))
    run.start(100.0)
    run.started("a", 1, "n1", 100.5, version="3f2a91")

    assert only_row(run, "a") == StepRow(
        step="a",
        status="running",
        node="n1",
        version="3f2a91",
        attempts=1,
        started_s=0.5,
        queued_s=0.5,
    )

    run.finished("a", 1, None, 102.5, result_bytes=16)

    assert only_row(run, "a") == StepRow(
        step="a",
        status="done",
        node="n1",
        version="3f2a91",
        attempts=1,
        started_s=0.5,
        queued_s=0.5,
        run_s=2.0,
        result_bytes=16,
    )


def test_what_the_node_measured_goes_before_what_was_seen() -> None:
    run = machine(step("a"))
    run.start(100.0)
    said = Execution(node="n2", version="3f2a91", queued_s=0.25, run_s=1.0)

    run.finished("a", 1, None, 102.0, execution=said)

    row = only_row(run, "a")
    assert (row.node, row.version) == ("n2", "3f2a91")
    assert (row.queued_s, row.run_s, row.started_s) == (0.25, 1.0, 1.0)


def test_a_failure_before_any_start_has_no_run_time() -> None:
    run = machine(step("a"))
    run.start(0.0)

    run.failed("a", 1, "no route", 3.0)

    assert only_row(run, "a").run_s is None
    assert only_row(run, "a").attempts == 1


def test_changes_since_a_revision_are_listed_with_the_latest_last() -> None:
    run = machine(step("a"), step("b"), step("c", "a"))
    run.start(0.0)
    seen = run.revision

    run.started("b", 1, "n1", 1.0)
    run.finished("a", 1, None, 2.0)
    run.started("a", 1, "n1", 3.0)

    changed = run.changed_since(seen)
    assert [(row.step, row.status) for row in changed] == [
        ("b", "running"),
        ("a", "done"),
        ("c", "waiting"),
    ]
    assert run.changed_since(run.revision) == ()
    assert len(run.changed_since(0)) == 3


def test_steps_that_could_never_all_run_are_refused() -> None:
    with pytest.raises(InvalidWorkflow, match=r"workflow 'w' cannot run.*a → b → a"):
        machine(step("a", "b"), step("b", "a"))


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_backoff_never_leaves_its_bounds(failures: int, draw: float) -> None:
    assert 0.0 <= backoff_s(failures, draw) < 2.0


def test_a_chain_of_nine_thousand_steps_ends_failed_or_done() -> None:
    chain = [step("s0"), *(step(f"s{i}", f"s{i - 1}") for i in range(1, 9_000))]
    fails, succeeds = machine(*chain), machine(*chain)
    fails.start(0.0)
    effects = succeeds.start(0.0)

    assert fails.failed("s0", 1, "x", 1.0) == [RunEnded("failed")]
    while effects != [RunEnded("done")]:
        [sent] = effects
        assert isinstance(sent, StartStep)
        effects = succeeds.finished(sent.step, sent.attempt, None, 1.0)
    assert fails.rows()[-1].cause == "s0"


class Executor:
    """Runs what a machine sends, out of order, with failures, losses and echoes."""

    def __init__(self, run: RunMachine, rng: random.Random) -> None:
        self.run = run
        self.rng = rng
        self.now = 0.0
        self.under_way: set[tuple[str, int]] = set()
        self.sent: list[tuple[str, int]] = []
        self.finished: list[str] = []
        self.broken: set[str] = set()
        self.ends: list[RunEnded] = []

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert self.ends == [], "an effect after the end"
            match effect:
                case StartStep(name, attempt):
                    assert (name, attempt) not in self.sent
                    self.sent.append((name, attempt))
                    self.under_way.add((name, attempt))
                case CancelStep(name, attempt):
                    self.under_way.remove((name, attempt))
                case RunEnded():
                    self.ends.append(effect)

    def act(self) -> None:
        self.now += self.rng.random()
        choices = sorted(self.under_way)
        kind = self.rng.choice(["tick", "old", "start", "finish", "finish", "fail"])
        if kind == "tick" or not choices:
            self.now = max(self.now, min(self.run.deadline, self.now + 10.0))
            self.perform(self.run.tick(self.now))
            return
        if kind == "old":
            name, attempt = self.rng.choice(self.sent)
            if (name, attempt) not in self.under_way:
                before = self.run.rows()
                assert self.run.finished(name, attempt, "old", self.now) == []
                assert self.run.failed(name, attempt, "old", self.now) == []
                assert self.run.rows() == before
            return
        name, attempt = self.rng.choice(choices)
        if kind == "start":
            self.perform(self.run.started(name, attempt, "n1", self.now))
        elif kind == "finish":
            self.under_way.remove((name, attempt))
            self.finished.append(name)
            self.perform(self.run.finished(name, attempt, name, self.now))
        else:
            self.under_way.remove((name, attempt))
            types = VALUE_ERROR if self.rng.random() < 0.7 else ("builtins.KeyError",)
            lost = self.rng.random() < 0.2
            self.perform(
                self.run.failed(
                    name, attempt, "x", self.now, types=types, retryable=lost
                )
            )


@st.composite
def graphs(draw: st.DrawFn) -> list[RunStep]:
    size = draw(st.integers(1, 12))
    steps = [
        step(
            f"s{i}",
            *draw(st.sets(st.sampled_from([f"s{j}" for j in range(i)]), max_size=4))
            if i
            else (),
            retry=draw(st.integers(0, 3)),
            on=draw(st.sampled_from([VALUE_ERROR[:1], ("builtins.Exception",)])),
            timeout_s=draw(st.sampled_from([None, 0.5, 5.0])),
        )
        for i in range(size)
    ]
    return draw(st.permutations(steps))


@settings(max_examples=150)
@given(steps=graphs(), seed=st.integers(0, 2**32), cancelled=st.booleans())
@example(steps=[step("s0")], seed=0, cancelled=False)
def test_any_graph_with_any_executor_ends_once_and_in_order(
    steps: list[RunStep], seed: int, cancelled: bool
) -> None:
    rng = random.Random(seed)
    run = RunMachine("w", steps, rng=rng)
    executor = Executor(run, rng)
    executor.perform(run.start(0.0))
    plans = {plan.name: plan for plan in steps}

    for turn in range(10_000):
        if executor.ends:
            break
        if cancelled and turn == 7:
            executor.perform(run.cancel(executor.now))
        else:
            executor.act()

    assert len(executor.ends) == 1
    assert executor.under_way == set()
    rows = {row.step: row for row in run.rows()}
    assert executor.ends[0].status == run.status
    assert all(row.status not in ("waiting", "running") for row in rows.values())
    for name, attempt in executor.sent:
        assert attempt <= 1 + plans[name].more_attempts
    for name, row in rows.items():
        needed = [rows[needs] for needs in plans[name].dependencies]
        if row.status in ("done", "failed"):
            assert all(other.status == "done" for other in needed)
        elif run.status != "cancelled":  # what could run did
            assert any(other.status != "done" for other in needed)
        if row.status == "skipped":
            assert rows[row.cause].status == "failed"
            assert any(other.status in ("failed", "skipped") for other in needed)
        if row.status == "cancelled":
            assert run.status == "cancelled"
    first_sent = [name for name, attempt in executor.sent if attempt == 1]
    for name in first_sent:
        assert plans[name].dependencies <= set(executor.finished)
    if run.status == "done":
        assert sorted(executor.finished) == sorted(plans)
    if run.status == "failed":
        assert "failed" in {row.status for row in rows.values()}
    assert run.tick(1e9) == []
