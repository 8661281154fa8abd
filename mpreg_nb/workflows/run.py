"""The state machine of one run: which calls to send, when to retry, what to undo.

A step is sent the moment that all it waits for is done; there are no levels. One with
a condition has it tested first; where it is false, the step is skipped, and so is what
uses its result, unless that has a fallback. What only comes after it goes on. When a
step fails for good, its fallback gives the result; without one, what depends on it is
skipped and all else continues. A map is sent as a split, then as one call for each
item; an item that fails for good fails the map. When no step is open any more and not
all went well, the steps that are done are undone one after another, the last first.
Then the run ends, once.

Every method takes `now`, seconds on any monotonic clock, and returns what the
caller must do. The caller sleeps until `deadline`, then calls `tick`. Events
about an attempt that is over, or of an unknown step, change nothing.

The time of an attempt runs from being sent; that of an item from when a node started
it, since the items of a map queue behind each other.

Source of undoing: Garcia-Molina, Salem, "Sagas", SIGMOD 1987.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeAlias

from mpreg_nb.errors import CallTimeout
from mpreg_nb.workflows.graph import (
    LONGEST_DELAY_S,
    check_order,
    dependents_of,
    type_name,
)
from mpreg_nb.workflows.state import (
    UNSAID,
    Attempt,
    Cancelled,
    CancelStep,
    Effect,
    Execution,
    FallingBack,
    FellBack,
    InputSkipped,
    Items,
    MissingResult,
    NotUndone,
    Part,
    RunEnded,
    RunStatus,
    Sent,
    Skipped,
    StartStep,
    StepBackoff,
    StepDone,
    StepFailed,
    StepRunning,
    StepTable,
    StepWaiting,
    TableReads,
    TimedOut,
    Undone,
)

SPLIT_ATTEMPTS = 2
"""More tries to take items apart when a node or worker is lost: that does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackCall:
    """A fallback: after the last failure, the result of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackResult:
    """A fallback: after the last failure, this value."""

    result: Any  # a handle that the machine does not look into
    result_bytes: int | None = None


Fallback: TypeAlias = FallbackCall | FallbackResult


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoCall:
    """A call that reverses a step; `inputs` are the steps it refers to."""

    inputs: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """One step. For a map, attempts and time are those of each item."""

    name: str
    dependencies: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)  # see graph.type_name
    delay_s: float | None = None  # before the second attempt; None: by chance
    backoff: float = 1.0  # factor of each further delay
    timeout_s: float | None = None  # of each attempt, from being sent; see run.py
    is_map: bool = False
    has_condition: bool = False
    after: frozenset[str] = frozenset()  # dependencies whose results it does not use
    fallback: Fallback | None = None
    undo: UndoCall | None = None

    def more(self, part: Part, types: Iterable[str], *, retryable: bool) -> int:
        """Return how many more attempts a failure of this kind may lead to.

        types: the names of the exception's classes, its own first.
        retryable: the node or its worker was lost.
        """
        match part:
            case "fallback":
                return 0
            case "undo":
                undo = self.undo or UndoCall()
                more, retry_on = undo.more_attempts, undo.retry_on
            case "split" | "condition" if retryable:
                return max(self.more_attempts, SPLIT_ATTEMPTS)
            case _:
                more, retry_on = self.more_attempts, self.retry_on
        return more if retryable or not set(retry_on).isdisjoint(types) else 0

    def rest_s(self, failures: int, draw: float) -> float:
        """Return seconds to wait after the `failures`-th failure.

        delay * backoff^(failures - 1), at most an hour; without a delay `backoff_s`.

        >>> RunStep(name="fit", delay_s=0.5, backoff=2.0).rest_s(3, 0.9)
        2.0
        """
        if self.delay_s is None:
            return backoff_s(failures, draw)
        return min(LONGEST_DELAY_S, self.delay_s * self.backoff ** (failures - 1))


class Rng(Protocol):
    """The part of random.Random that is used."""

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        ...


def backoff_s(failures: int, draw: float) -> float:
    """Return seconds to wait after the `failures`-th failure; `draw` is from [0, 1).

    draw * min(2 s, 50 ms * 2^(failures - 1)), called full jitter.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.

    >>> backoff_s(1, 0.5), backoff_s(2, 0.5), backoff_s(100, 0.5)
    (0.025, 0.05, 1.0)
    """
    return draw * min(2.0, 0.05 * 2.0 ** min(failures - 1, 10))


class Compensation:
    """The steps to undo, one after another, once all others have ended.

    A step that fell back is not: what it was to do, it did not do.
    """

    def __init__(self, table: StepTable, undos: Mapping[str, UndoCall | None]) -> None:
        self._table = table
        self._undos = {step: undo for step, undo in undos.items() if undo is not None}
        self._todo: list[str] = []  # the step that was done last comes last
        self.has_begun = False
        self.run_status: RunStatus = "done"
        """How the run ends when all is undone that can be."""

    def done(self, step: str, state: StepDone) -> None:
        """Record a step that is done, and may have to be undone."""
        if step in self._undos and not isinstance(state, FellBack):
            self._todo.append(step)

    def begin(self, status: RunStatus) -> None:
        """Start to undo if the run failed; forget the steps if it succeeded."""
        self.has_begun = True
        self.run_status = status
        if status == "done":
            self._todo.clear()

    def next(self) -> str | None:
        """Return the next step to undo; None if there is none left.

        Those that refer to a result that there is not are passed over.
        """
        while self._todo:
            step = self._todo.pop()
            lacking = [
                needed
                for needed in sorted(self._undos[step].inputs)
                if not isinstance(self._table[needed], StepDone)
            ]
            if not lacking:
                return step
            self.not_undone(step, MissingResult(lacking[0]))
        return None

    def undone(self, step: str) -> None:
        """Record that `step` was undone."""
        done = self._done(step)
        state = Undone(done.attempt, done.result, done.result_bytes)
        self._table.change(step, state)

    def not_undone(self, step: str, failure: Any) -> None:
        """Record that `step` could not be undone, and why."""
        done = self._done(step)
        state = NotUndone(done.attempt, done.result, done.result_bytes, failure)
        self._table.change(step, state)

    def _done(self, step: str) -> StepDone:
        state = self._table[step]
        if not isinstance(state, StepDone):
            raise AssertionError(f"step {step} was not done and cannot be undone")
        return state


NAMED_NODES = 3
"""How many of the nodes that ran items are named where there are more."""


class MapStep:
    """Results of the items of a map by position, and the nodes that ran them."""

    def __init__(self, items: int) -> None:
        self._results: list[Any] = [None] * items
        self._open = items
        self._size_bytes = 0
        self._nodes: dict[str, None] = {}
        self._version = ""
        self.execution = Execution()

    @property
    def done(self) -> int:
        """How many items have a result."""
        return len(self._results) - self._open

    @property
    def is_done(self) -> bool:
        """Return whether all items have a result."""
        return self._open == 0

    @property
    def size_bytes(self) -> int:
        """Return the size of all results so far."""
        return self._size_bytes

    def finished(
        self, item: int, result: Any, result_bytes: int | None, said: Execution
    ) -> None:
        """Note the result of an item; to be called once for each."""
        self._results[item] = result
        self._open -= 1
        self._size_bytes += result_bytes or 0
        if said.node not in self._nodes or said.version != self._version:
            self._nodes[said.node] = None
            self._version = said.version
            self.execution = Execution(node=shown(self._nodes), version=said.version)

    def gathered(self) -> Items:
        """Return all results in the order of the items."""
        return Items(tuple(self._results))


def shown(nodes: dict[str, None]) -> str:
    """Name the nodes that ran items.

    >>> shown(dict.fromkeys(["n2", "n1"]))
    'n1, n2'
    >>> shown(dict.fromkeys(["n1", "n2", "n3", "n4", "n5"]))
    'n1, n2, n3 and 2 more'
    """
    names = sorted(filter(None, nodes))
    more = len(names) - NAMED_NODES
    listed = ", ".join(names[:NAMED_NODES])
    return f"{listed} and {more} more" if more > 0 else listed


class Timer(NamedTuple):
    """Compared by its first two fields; `order` is never the same twice."""

    at_s: float
    order: int
    step: str
    attempt: int
    after_s: float
    rested: bool  # the next attempt may be sent; else: the time of this one is up
    part: Part = "call"


class Timers:
    """Timers of attempts. `still_wanted` says which of them have not been overtaken.

    An attempt that ends leaves its timer behind, to be dropped when it comes up:
    that costs nothing at the end of the attempt.
    """

    def __init__(self, still_wanted: Callable[[Timer], bool]) -> None:
        self._still_wanted = still_wanted
        self._heap: list[Timer] = []
        self._order = count()

    def add(
        self,
        now: float,
        after_s: float,
        step: str,
        attempt: int,
        *,
        rested: bool,
        part: Part = "call",
    ) -> None:
        """Add a timer that expires `after_s` from now."""
        order = next(self._order)
        timer = Timer(now + after_s, order, step, attempt, after_s, rested, part)
        heapq.heappush(self._heap, timer)

    @property
    def deadline(self) -> float:
        """When the next timer expires; infinity if there is none."""
        while self._heap and not self._still_wanted(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0].at_s if self._heap else math.inf

    def pop(self) -> Timer:
        """Remove and return the timer that expires next."""
        return heapq.heappop(self._heap)


TIMEOUT_TYPES = tuple(type_name(cls) for cls in CallTimeout.__mro__[:-1])
"""The classes of a timeout, as `failed` takes them: what retries compare."""


class RunMachine(TableReads):
    """The states of all steps of one run; see the head of this file.

    Invariant: `status` is "running" exactly while a step has no end yet, or one is
    being undone.
    """

    def __init__(
        self,
        workflow: str,
        steps: Sequence[RunStep],
        *,
        rng: Rng,
        done: Mapping[str, StepDone] | None = None,
    ) -> None:
        """Take steps in any order; `rng` spreads retries.

        done: what is not to be run, for it has a result from an earlier run.

        Raises:
            InvalidWorkflow: these steps could never all be run.
        """
        check_order(
            workflow,
            [(step.name, step.dependencies) for step in steps],
            mentions=[(step.name, step.undo.inputs) for step in steps if step.undo],
        )
        self.workflow = workflow
        self.status: RunStatus = "running"
        self._rng = rng
        self._steps = {step.name: step for step in steps}
        self._table = StepTable(self._steps)
        self._fans: dict[str, MapStep] = {}  # of the maps under way
        self._dependents = dependents_of(
            {step.name: step.dependencies for step in steps}
        )
        self._missing = {step.name: len(step.dependencies) for step in steps}
        self._undoing = Compensation(self._table, {s.name: s.undo for s in steps})
        self._timers = Timers(self._still_wanted)
        for step, state in (done or {}).items():
            self._complete(step, state)

    # ------------------------------------------------------------ what happens

    def start(self, now: float) -> list[Effect]:
        """Send the steps that wait for nothing; a second time, nothing."""
        if self._table.started_at_s != math.inf or self.status != "running":
            return []
        self._table.started_at_s = now
        ready = [
            step
            for step, state in self._table.items()
            if self._missing[step] == 0 and isinstance(state, StepWaiting)
        ]
        effects: list[Effect] = [self._begin(step, now) for step in ready]
        return effects + self._end(now)

    def started(
        self,
        step: str,
        attempt: int,
        node: str,
        now: float,
        *,
        version: str = "",
        part: Part = "call",
    ) -> list[Effect]:
        """Record that `node` started the attempt."""
        if self._table.begun(step, part, attempt, node, version, now):
            timeout_s = self._steps[step].timeout_s
            if isinstance(part, int) and timeout_s is not None:
                self._timers.add(now, timeout_s, step, attempt, rested=False, part=part)
        return []

    def decided(
        self, step: str, attempt: int, now: float, *, is_true: bool
    ) -> list[Effect]:
        """Record whether the condition of a step holds: send the step, or skip it."""
        if self._table.under_way(step, "condition", attempt) is None:
            return []
        self._table.drop(step, "condition")
        return [self._begin_call(step, now)] if is_true else self._skip(step, now)

    def divided(
        self,
        step: str,
        attempt: int,
        items: int,
        now: float,
        *,
        execution: Execution = UNSAID,
    ) -> list[Effect]:
        """Record how many items a map has, and send them all."""
        if self._table.under_way(step, "split", attempt) is None:
            return []
        self._table.drop(step, "split")
        fan = self._fans[step] = MapStep(items)
        whole = replace(self._table.whole(step), items=items)
        if fan.is_done:
            return self._gather(step, whole.ended(now, execution), now)
        self._table.change_whole(step, whole)
        return [self._send(step, 1, now, item) for item in range(items)]

    def finished(
        self,
        step: str,
        attempt: int,
        result: Any,
        now: float,
        *,
        execution: Execution = UNSAID,
        result_bytes: int | None = None,
        part: Part = "call",
    ) -> list[Effect]:
        """Record the result of an attempt; send the steps that waited only for it."""
        under_way = self._table.under_way(step, part, attempt)
        if under_way is None or part in ("split", "condition"):
            return []
        if part == "call":
            ended = under_way.ended(now, execution)
            self._complete(step, StepDone(ended, result, result_bytes))
            return self._release(step, now)
        self._table.drop(step, part)
        if isinstance(part, int):
            fan = self._fans[step]
            fan.finished(part, result, result_bytes, execution)
            whole = replace(self._table.whole(step), items_done=fan.done)
            if fan.is_done:
                return self._gather(step, whole.ended(now, fan.execution), now)
            self._table.change_whole(step, whole)
            return []
        if part == "undo":
            self._undoing.undone(step)
            return self._undo_next(now)
        state, ended = self._table[step], under_way.ended(now, execution)
        if isinstance(state, FallingBack):
            ended = replace(ended, number=state.attempt.number + ended.number)
            self._complete(step, FellBack(ended, result, result_bytes, state.failure))
        return self._release(step, now)

    def failed(
        self,
        step: str,
        attempt: int,
        failure: Any,
        now: float,
        *,
        types: Iterable[str] = (),
        retryable: bool = False,
        execution: Execution = UNSAID,
        part: Part = "call",
    ) -> list[Effect]:
        """Record that an attempt failed: retry, fall back, or fail the step.

        types: the names of the exception's classes, its own first, each as
            `graph.type_name` gives it; one of them in the step's `retry_on`
            spends one of its retries.
        retryable: the node or its worker was lost, which is no fault of the
            function: spends a retry whatever `retry_on` is.
        """
        under_way = self._table.under_way(step, part, attempt)
        if under_way is None:
            return []
        ended = under_way.ended(now, execution)
        if attempt <= self._steps[step].more(part, types, retryable=retryable):
            self._table.set(step, part, StepBackoff(ended, failure))
            rest_s = self._steps[step].rest_s(attempt, self._rng.random())
            self._timers.add(now, rest_s, step, attempt, rested=True, part=part)
            return []
        if part != "call":
            self._table.drop(step, part)
        if part == "undo":
            self._undoing.not_undone(step, failure)
            return self._undo_next(now)
        if part == "fallback":
            return self._give_up(step, StepFailed(ended, failure), now)
        effects: list[Effect] = []
        if part not in ("call", "condition"):  # the other items are no longer needed
            ended = self._table.whole(step).ended(now, ended.execution)
            effects += self._table.stop(step)
        return effects + self._fall_back(step, ended, failure, now)

    def cancel(self, now: float) -> list[Effect]:
        """Cancel every step that is still open, then undo what is done.

        Once steps are being undone it is too late to cancel: nothing changes.
        """
        if self.status != "running" or self._undoing.has_begun:
            return []
        effects: list[Effect] = []
        for step, state in self._table.items():
            match state:
                case Sent(attempt) | StepBackoff(attempt) | FallingBack(attempt):
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(attempt))
                case StepRunning(attempt):
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(attempt.ended(now, UNSAID)))
                case StepWaiting():  # its condition may be under way
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(None))
                case StepDone() | StepFailed() | Skipped() | Cancelled():
                    pass
        return effects + self._end(now, "cancelled")

    def tick(self, now: float) -> list[Effect]:
        """Time out expired attempts; send retries whose backoff has ended."""
        effects: list[Effect] = []
        while self.deadline <= now:
            _, _, step, attempt, after_s, rested, part = self._timers.pop()
            if rested:
                effects.append(self._send(step, attempt + 1, now, part))
                continue
            effects.append(CancelStep(step, attempt, part))
            late, types = TimedOut(after_s, part), TIMEOUT_TYPES
            effects += self.failed(step, attempt, late, now, types=types, part=part)
        return effects

    @property
    def deadline(self) -> float:
        """When `tick` must be called next; infinity if only events change the run."""
        return self._timers.deadline

    # --------------------------------------------------------------- decisions

    def _begin(self, step: str, now: float) -> StartStep:
        if self._steps[step].has_condition:
            return self._send(step, 1, now, "condition")
        return self._begin_call(step, now)

    def _begin_call(self, step: str, now: float) -> StartStep:
        if not self._steps[step].is_map:
            return self._send(step, 1, now, "call")
        self._table.change(step, Sent(Attempt(number=1, sent_at_s=now)))
        return self._send(step, 1, now, "split")

    def _send(self, step: str, attempt: int, now: float, part: Part) -> StartStep:
        self._table.set(step, part, Sent(Attempt(number=attempt, sent_at_s=now)))
        if isinstance(part, int):
            whole = self._table.whole(step)
            if attempt > whole.number:
                self._table.change_whole(step, replace(whole, number=attempt))
        elif (timeout_s := self._steps[step].timeout_s) is not None:
            self._timers.add(now, timeout_s, step, attempt, rested=False, part=part)
        return StartStep(step, attempt, part)

    def _still_wanted(self, timer: Timer) -> bool:
        step, part, attempt = timer.step, timer.part, timer.attempt
        if timer.rested:
            return self._table.rests(step, part, attempt)
        return self._table.under_way(step, part, attempt) is not None

    def _gather(self, step: str, ended: Attempt, now: float) -> list[Effect]:
        fan = self._fans.pop(step)
        self._complete(step, StepDone(ended, fan.gathered(), fan.size_bytes))
        return self._release(step, now)

    def _complete(self, step: str, state: StepDone) -> None:
        self._table.close(step, state)
        self._undoing.done(step, state)
        for dependent in self._dependents[step]:
            self._missing[dependent] -= 1

    def _release(self, step: str, now: float) -> list[Effect]:
        """Start the steps that waited only for `step`, unless they are done."""
        effects: list[Effect] = []
        for dependent in self._dependents[step]:
            waits = isinstance(self._table[dependent], StepWaiting)
            if waits and self._missing[dependent] == 0:
                effects.append(self._begin(dependent, now))
        return effects if self._table.open else effects + self._end(now)

    def _fall_back(
        self, step: str, ended: Attempt, failure: Any, now: float
    ) -> list[Effect]:
        self._fans.pop(step, None)
        fallback = self._steps[step].fallback
        if fallback is None:
            return self._give_up(step, StepFailed(ended, failure), now)
        if isinstance(fallback, FallbackResult):
            result, result_bytes = fallback.result, fallback.result_bytes
            self._complete(step, FellBack(ended, result, result_bytes, failure))
            return self._release(step, now)
        self._table.change(step, FallingBack(ended, failure))
        return [self._send(step, 1, now, "fallback")]

    def _give_up(self, step: str, state: StepFailed, now: float) -> list[Effect]:
        self._table.close(step, state)
        pending = [step]
        while pending:
            for dependent in self._dependents[pending.pop()]:
                if isinstance(self._table[dependent], StepWaiting):
                    self._table.close(dependent, Skipped(step))
                    pending.append(dependent)
        return self._end(now)

    def _skip(self, step: str, now: float) -> list[Effect]:
        """Skip a step whose condition is false, and what cannot run without it."""
        effects: list[Effect] = []
        self._table.close(step, Skipped(""))
        pending = [step]
        while pending:
            skipped = pending.pop()
            cause = "" if skipped == step else step
            for dependent in self._dependents[skipped]:
                if not isinstance(self._table[dependent], StepWaiting):
                    continue
                if skipped in self._steps[dependent].after:
                    self._missing[dependent] -= 1
                    if self._missing[dependent] == 0:
                        effects.append(self._begin(dependent, now))
                elif self._steps[dependent].fallback is None:
                    self._table.close(dependent, Skipped(step))
                    pending.append(dependent)
                else:
                    unsent = Attempt(number=0, sent_at_s=now)
                    failure = InputSkipped(skipped, cause)
                    effects += self._fall_back(dependent, unsent, failure, now)
        return effects + self._end(now)

    def _end(self, now: float, status: RunStatus | None = None) -> list[Effect]:
        if self._table.open or self._undoing.has_begun:
            return []
        self._undoing.begin(status or ("failed" if self.failures() else "done"))
        return self._undo_next(now)

    def _undo_next(self, now: float) -> list[Effect]:
        step = self._undoing.next()
        if step is not None:
            return [self._send(step, 1, now, "undo")]
        self.status = self._undoing.run_status
        return [RunEnded(self.status)]
