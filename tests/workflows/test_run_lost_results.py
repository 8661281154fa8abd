"""Results that are lost during a run are made again, where that does no harm."""

import itertools
import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg_nb.workflows.run import (
    MOST_REMADE,
    FallbackCall,
    FallbackResult,
    RunMachine,
    RunStep,
    UndoCall,
)
from mpreg_nb.workflows.state import (
    CancelStep,
    Effect,
    FellBack,
    Items,
    ItemsChanged,
    Part,
    RunEnded,
    StartStep,
    StepDone,
)


class Half:
    """Draws 0.5 each time."""

    def random(self) -> float:
        return 0.5


def step(name: str, *dependencies: str, **more: Any) -> RunStep:
    more.setdefault("idempotent", True)
    return RunStep(name=name, dependencies=frozenset(dependencies), **more)


def machine(*steps: RunStep) -> RunMachine:
    return RunMachine("w", steps, rng=Half())


def ab(**more: Any) -> RunMachine:
    """Return a run in which `b` was sent, and refers to what `a` gave."""
    run = machine(step("a", **more), step("b", "a"))
    run.start(0.0)
    run.finished("a", 1, "old", 1.0)
    return run


def statuses(run: RunMachine) -> dict[str, str]:
    return {row.step: row.status for row in run.rows()}


def result(run: RunMachine, name: str) -> Any:
    found = run.result(name)
    assert found is not None
    return found.result


def test_a_lost_result_is_made_again_and_who_needs_it_is_sent_after_that() -> None:
    run = ab()

    assert run.lost("b", 1, "gone", 2.0, results={"a": ()}) == [StartStep("a", 2)]
    assert statuses(run) == {"a": "waiting", "b": "waiting"}
    assert run.finished("a", 2, "new", 3.0) == [StartStep("b", 2)]
    assert result(run, "a") == "new"
    assert run.finished("b", 2, "end", 4.0) == [RunEnded("done")]


def test_the_old_result_is_shown_until_the_new_one_arrives() -> None:
    run = ab()

    run.lost("b", 1, "gone", 2.0, results={"a": ()})

    assert result(run, "a") == "old"


def test_a_step_that_may_not_run_twice_is_not_made_again() -> None:
    run = ab(idempotent=False)

    assert run.lost("b", 1, "gone", 2.0, results={"a": ()}) is None
    run.failed("b", 1, "gone", 2.0)
    assert statuses(run) == {"a": "done", "b": "failed"}


def test_neither_a_step_that_is_undone_nor_a_fallback_is_made_again() -> None:
    assert ab(undo=UndoCall()).lost("b", 1, "x", 2.0, results={"a": ()}) is None

    run = machine(step("a", fallback=FallbackCall()), step("b", "a"))
    run.start(0.0)
    run.failed("a", 1, "broken", 1.0)
    run.finished("a", 1, "instead", 1.0, part="fallback")
    assert run.lost("b", 1, "x", 2.0, results={"a": ()}) is None


def test_two_who_need_it_have_it_made_once() -> None:
    run = machine(step("a"), step("b", "a"), step("c", "a"))
    run.start(0.0)
    run.finished("a", 1, "old", 1.0)

    assert run.lost("b", 1, "x", 2.0, results={"a": ()}) == [StartStep("a", 2)]
    assert run.lost("c", 1, "x", 2.0, results={"a": ()}) == []
    assert run.finished("a", 2, "new", 3.0) == [StartStep("b", 2), StartStep("c", 2)]


def test_a_step_that_learns_late_of_the_loss_is_sent_again_at_once() -> None:
    run = ab()

    assert run.lost("b", 1, "x", 2.0, results={}) == [StartStep("b", 2)]


def test_what_was_needed_to_make_it_is_made_again_too() -> None:
    run = machine(step("a"), step("b", "a"), step("c", "b"))
    run.start(0.0)
    run.finished("a", 1, "a1", 1.0)
    run.finished("b", 1, "b1", 1.0)

    assert run.lost("c", 1, "x", 2.0, results={"b": ()}) == [StartStep("b", 2)]
    assert run.lost("b", 2, "x", 2.0, results={"a": ()}) == [StartStep("a", 2)]
    assert run.finished("a", 2, "a2", 3.0) == [StartStep("b", 3)]
    assert run.finished("b", 3, "b2", 3.0) == [StartStep("c", 2)]


def test_steps_that_wait_for_others_too_are_sent_when_those_are_done() -> None:
    run = machine(step("a"), step("slow"), step("b", "a"), step("c", "a", "slow"))
    run.start(0.0)
    run.finished("a", 1, "old", 1.0)
    run.lost("b", 1, "x", 2.0, results={"a": ()})

    assert run.finished("slow", 1, "slow", 2.0) == [StartStep("c", 1)]
    assert run.lost("c", 1, "x", 2.0, results={"a": ()}) == []
    assert run.finished("a", 2, "new", 3.0) == [StartStep("b", 2), StartStep("c", 2)]


def test_a_loss_spends_no_retry_of_either_step() -> None:
    run = machine(step("a", more_attempts=1), step("b", "a", more_attempts=1))
    run.start(0.0)
    run.finished("a", 1, "old", 1.0)
    run.lost("b", 1, "x", 2.0, results={"a": ()})

    run.failed("a", 2, "broken", 3.0, types=("builtins.Exception",))
    assert run.tick(9.0) == [StartStep("a", 3)]
    run.finished("a", 3, "new", 9.0)
    run.failed("b", 2, "broken", 9.0, types=("builtins.Exception",))
    assert run.tick(19.0) == [StartStep("b", 3)]
    run.failed("b", 3, "broken", 19.0, types=("builtins.Exception",))

    assert statuses(run) == {"a": "done", "b": "failed"}


def test_a_result_that_is_lost_again_and_again_is_given_up() -> None:
    run = ab()

    for number in range(1, MOST_REMADE + 1):
        assert run.lost("b", number, "x", 2.0, results={"a": ()}) is not None
        run.finished("a", number + 1, "new", 3.0)

    assert run.lost("b", MOST_REMADE + 1, "x", 4.0, results={"a": ()}) is None


def test_who_needs_it_fails_with_the_loss_when_it_cannot_be_made_again() -> None:
    run = ab()
    run.lost("b", 1, "gone", 2.0, results={"a": ()})

    effects = run.failed("a", 2, "broken", 3.0)

    assert effects == [RunEnded("failed")]
    assert run.failures() == {"a": "broken", "b": "gone"}


def test_a_long_chain_that_cannot_be_made_again_fails_as_a_whole() -> None:
    names = [f"s{number}" for number in range(3000)]
    steps = [step(names[0])]
    steps += [step(name, before) for before, name in itertools.pairwise(names)]
    run = machine(*steps)
    run.start(0.0)
    for name in names[:-1]:
        run.finished(name, 1, name, 1.0)

    run.lost(names[-1], 1, "gone", 2.0, results={names[-2]: ()})
    for before, name in reversed(list(itertools.pairwise(names[:-1]))):
        run.lost(name, 2, "gone", 2.0, results={before: ()})
    effects = run.failed(names[0], 2, "broken", 3.0)

    assert effects == [RunEnded("failed")]
    assert {*statuses(run).values()} == {"failed"}


def test_a_fallback_takes_the_place_of_what_cannot_be_made_again() -> None:
    run = ab(fallback=FallbackResult(result="instead"))
    run.lost("b", 1, "gone", 2.0, results={"a": ()})

    assert run.failed("a", 2, "broken", 3.0) == [StartStep("b", 2)]
    assert result(run, "a") == "instead"


def test_a_run_is_cancelled_while_a_result_is_made_again() -> None:
    run = ab()
    run.lost("b", 1, "gone", 2.0, results={"a": ()})

    assert run.cancel(3.0) == [CancelStep("a", 2), RunEnded("cancelled")]
    assert run.finished("a", 2, "new", 4.0) == []


# -------------------------------------------------------------------------- maps


def map_of(items: int = 3, **more: Any) -> RunMachine:
    run = machine(step("m", is_map=True, **more), step("b", "m"))
    run.start(0.0)
    run.divided("m", 1, items, 1.0)
    return run


def test_only_those_items_of_a_map_are_made_again_whose_results_are_lost() -> None:
    run = map_of(3)
    for item in range(3):
        run.finished("m", 1, f"old {item}", 1.0, part=item, result_bytes=10)

    effects = run.lost("b", 1, "x", 2.0, results={"m": [1]})
    assert effects == [StartStep("m", 2, "split")]
    assert run.divided("m", 2, 3, 3.0) == [StartStep("m", 2, 1)]
    assert run.finished("m", 2, "new 1", 4.0, part=1, result_bytes=10) == [
        StartStep("b", 2)
    ]

    assert result(run, "m") == Items(("old 0", "new 1", "old 2"))
    assert [row.result_bytes for row in run.rows() if row.step == "m"] == [30]


def test_all_items_are_made_again_where_they_are_others_than_before() -> None:
    run = map_of(2)
    for item in range(2):
        run.finished("m", 1, "old", 1.0, part=item)
    run.lost("b", 1, "x", 2.0, results={"m": [1]})

    effects = run.divided("m", 2, 3, 3.0)

    assert effects == [StartStep("m", 2, item) for item in range(3)]


def test_items_that_are_lost_before_they_are_sent_are_taken_apart_again() -> None:
    run = map_of(3, idempotent=False)
    run.finished("m", 1, "done", 1.0, part=0)

    assert run.lost("m", 1, "x", 2.0, results={"m": ()}, part=1) == [
        StartStep("m", 2, "split")
    ]
    assert run.lost("m", 1, "x", 2.0, results={"m": ()}, part=2) == []
    assert run.divided("m", 2, 3, 3.0) == [StartStep("m", 2, 1), StartStep("m", 2, 2)]


def test_a_map_fails_whose_items_are_others_when_taken_apart_again() -> None:
    run = map_of(3)
    run.lost("m", 1, "x", 2.0, results={"m": ()}, part=1)

    effects = run.divided("m", 2, 4, 3.0)

    assert effects == [CancelStep("m", 1, 0), CancelStep("m", 1, 2), RunEnded("failed")]
    assert run.failures() == {"m": ItemsChanged(4)}


def test_an_item_waits_for_what_all_items_need() -> None:
    run = machine(step("k"), step("m", "k", is_map=True, idempotent=False))
    run.start(0.0)
    run.finished("k", 1, "old", 1.0)
    run.divided("m", 1, 2, 1.0)
    run.finished("m", 1, "first", 1.5, part=0)

    assert run.lost("m", 1, "x", 2.0, results={"k": ()}, part=1) == [StartStep("k", 2)]
    assert run.finished("k", 2, "new", 3.0) == [StartStep("m", 2, 1)]
    run.finished("m", 2, "second", 4.0, part=1)

    assert result(run, "m") == Items(("first", "second"))


# ---------------------------------------------------------------- by chance


class Executor:
    """Runs what a machine sends, and loses results; a call fails if it lacks one."""

    def __init__(self, run: RunMachine, steps: list[RunStep], seed: int) -> None:
        self.run = run
        self.plans = {plan.name: plan for plan in steps}
        self.rng = random.Random(seed)
        self.under_way: list[tuple[str, Part, int]] = []
        self.sent: set[tuple[str, Part, int]] = set()
        self.ran: Counter[tuple[str, Part]] = Counter()
        self.lost: set[object] = set()
        self.split: dict[str, object] = {}
        self.ends: list[RunEnded] = []
        self.now = 0.0

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert self.ends == [], "an effect after the end"
            match effect:
                case StartStep(name, attempt, part):
                    key = (name, part, attempt)
                    assert key not in self.sent
                    self.sent.add(key)
                    self.under_way.append(key)
                case CancelStep(name, attempt, part):
                    self.under_way.remove((name, part, attempt))
                case RunEnded():
                    self.ends.append(effect)

    def act(self) -> None:
        self.now += 1.0
        if not self.under_way or self.rng.random() < 0.1:
            self.perform(self.run.tick(self.now))
            return
        key = self.under_way.pop(self.rng.randrange(len(self.under_way)))
        name, part, attempt = key
        lacking = {} if part == "fallback" else self._lacking(name, part)
        if lacking:
            effects = self.run.lost(
                name, attempt, "lost", self.now, results=lacking, part=part
            )
            if effects is None:
                effects = self.run.failed(name, attempt, "lost", self.now, part=part)
        elif self.rng.random() < 0.1:
            self.ran[name, part] += 1
            effects = self.run.failed(name, attempt, "broken", self.now, part=part)
        elif part == "condition":
            holds = self.rng.random() < 0.8
            effects = self.run.decided(name, attempt, self.now, is_true=holds)
        elif part == "split":
            self.split[name] = key
            effects = self.run.divided(name, attempt, 3, self.now)
        else:
            self.ran[name, part] += 1
            effects = self.run.finished(name, attempt, key, self.now, part=part)
        self.perform(effects)
        if self.rng.random() < 0.15:
            self._lose()

    def _lacking(self, name: str, part: Part) -> dict[str, list[int]]:
        lacking: dict[str, list[int]] = {}
        if isinstance(part, int) and self.split[name] in self.lost:
            lacking[name] = []
        for needed in self.plans[name].dependencies:
            held = result(self.run, needed)
            if isinstance(held, Items):
                items = [n for n, one in enumerate(held.results) if one in self.lost]
                if items:
                    lacking[needed] = items
            elif held in self.lost:
                lacking[needed] = []
        return lacking

    def _lose(self) -> None:
        held: list[object] = list(self.split.values())
        for name in self.plans:
            state = self.run.state(name)
            if isinstance(state, StepDone) and not isinstance(state, FellBack):
                found = state.result
                held += found.results if isinstance(found, Items) else [found]
        if held:
            self.lost.add(self.rng.choice(held))


@st.composite
def graphs(draw: st.DrawFn) -> list[RunStep]:
    steps: list[RunStep] = []
    for number in range(draw(st.integers(2, 8))):
        names = [earlier.name for earlier in steps]
        some = st.sets(st.sampled_from(names), max_size=3) if names else st.just(set())
        steps.append(
            step(
                f"s{number}",
                *draw(some),
                is_map=draw(st.booleans()),
                has_condition=draw(st.booleans()),
                idempotent=draw(st.sampled_from([True, True, False])),
                fallback=draw(st.sampled_from([None, FallbackCall()])),
            )
        )
    return steps


@settings(max_examples=200)
@given(steps=graphs(), seed=st.integers(0, 2**32), cancelled=st.booleans())
def test_whatever_is_lost_a_run_ends_and_repeats_only_what_may_run_twice(
    steps: list[RunStep], seed: int, cancelled: bool
) -> None:
    run = machine(*steps)
    executor = Executor(run, steps, seed)
    executor.perform(run.start(0.0))

    for turn in range(5_000):
        if executor.ends:
            break
        if cancelled and turn == 12:
            executor.perform(run.cancel(executor.now))
        else:
            executor.act()

    assert len(executor.ends) == 1
    assert executor.under_way == []
    for (name, part), times in executor.ran.items():
        if not executor.plans[name].idempotent and part != "fallback":
            assert times == 1
    if run.status == "done":
        assert {*statuses(run).values()} <= {"done", "fallback", "skipped"}
