"""One execution of a workflow: which step to send, when, and what became of it.

A step is sent the moment that all it waits for is done; there are no levels.
When one fails for good, what depends on it is skipped and all else goes on. The
run ends, once, when no step is open any more.

Every method takes `now`, seconds on any monotonic clock, and returns what the
caller must do. The caller sleeps until `deadline`, then calls `tick`. Events
about an attempt that is over, or of an unknown step, change nothing. All events
together cost as much as there are steps and dependencies, and timers their heap.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from mpreg_nb.errors import CallTimeout
from mpreg_nb.workflow.graph import type_name
from mpreg_nb.workflow.order import check_order, dependents_of
from mpreg_nb.workflow.states import (
    UNSAID,
    Attempt,
    Cancelled,
    Done,
    Execution,
    Failed,
    Resting,
    Running,
    RunStatus,
    Sent,
    Skipped,
    StepRow,
    StepState,
    TimedOut,
    Waiting,
    row,
)
from mpreg_nb.workflow.timers import Timer, Timers

TIMEOUT_TYPES = tuple(type_name(cls) for cls in CallTimeout.__mro__[:-1])
"""The classes of a timeout, as `failed` takes them: what retries compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """What the machine has to know of a step."""

    name: str
    dependencies: frozenset[str] = frozenset()
    more_attempts: int = 0
    retry_on: tuple[str, ...] = ("builtins.Exception",)  # see graph.type_name
    timeout_s: float | None = None  # of each attempt, from being sent


@dataclass(frozen=True, slots=True)
class StartStep:
    """Send `step`; say what becomes of it with the number of this attempt."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CancelStep:
    """Cancel this attempt; nobody waits for its outcome any more."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing is open any more. The last effect of a run, given once."""

    status: RunStatus


Effect: TypeAlias = StartStep | CancelStep | RunEnded


class Rng(Protocol):
    """The part of random.Random that is used."""

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        ...


def backoff_s(failures: int, draw: float) -> float:
    """Seconds to rest after the `failures`-th failure; `draw` is from [0, 1).

    draw * min(2 s, 50 ms * 2^(failures - 1)), called full jitter.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.

    >>> backoff_s(1, 0.5), backoff_s(2, 0.5), backoff_s(100, 0.5)
    (0.025, 0.05, 1.0)
    """
    return draw * min(2.0, 0.05 * 2.0 ** min(failures - 1, 10))


class RunMachine:
    """The states of all steps of one run; see the head of this file.

    Invariant: `_open` counts the steps that are neither done, failed, skipped
    nor cancelled, and `status` is "running" exactly while it is above 0.
    """

    def __init__(self, workflow: str, steps: Sequence[RunStep], *, rng: Rng) -> None:
        """Take steps in any order; `rng` spreads retries.

        Raises:
            InvalidWorkflow: these steps could never all be run.
        """
        check_order(workflow, [(step.name, step.dependencies) for step in steps])
        self.workflow = workflow
        self.status: RunStatus = "running"
        self.revision = 0  # counts changes of states
        self._rng = rng
        self._steps = {step.name: step for step in steps}
        self._states: dict[str, StepState] = dict.fromkeys(self._steps, Waiting())
        self._dependents = dependents_of(
            {step.name: step.dependencies for step in steps}
        )
        self._missing = {step.name: len(step.dependencies) for step in steps}
        self._open = len(steps)
        self._started_at_s = math.inf  # until started
        self._timers = Timers(self._still_wanted)
        self._changed: dict[str, int] = {}  # step -> revision, in that order

    def start(self, now: float) -> list[Effect]:
        """Send the steps that wait for nothing; a second time, nothing."""
        if self._started_at_s != math.inf or self.status != "running":
            return []
        self._started_at_s = now
        ready = [name for name, missing in self._missing.items() if missing == 0]
        return [self._send(name, 1, now) for name in ready]

    def started(
        self, step: str, attempt: int, node: str, now: float, *, version: str = ""
    ) -> list[Effect]:
        """Note that `node` began the attempt."""
        state = self._states.get(step)
        if isinstance(state, Sent) and state.attempt.number == attempt:
            begun = replace(
                state.attempt,
                started_at_s=now,
                execution=Execution(
                    node=node,
                    version=version,
                    queued_s=now - state.attempt.sent_at_s,
                ),
            )
            self._change(step, Running(begun))
        return []

    def finished(
        self,
        step: str,
        attempt: int,
        result: Any,
        now: float,
        *,
        execution: Execution = UNSAID,
        result_bytes: int | None = None,
    ) -> list[Effect]:
        """Note that the attempt gave `result`, and send what waited only for it."""
        under_way = self._under_way(step, attempt)
        if under_way is None:
            return []
        ended = under_way.ended(now, execution)
        self._close(step, Done(ended, result, result_bytes))
        effects: list[Effect] = []
        for dependent in self._dependents[step]:
            self._missing[dependent] -= 1
            if self._missing[dependent] == 0:
                effects.append(self._send(dependent, 1, now))
        return effects + self._end()

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
    ) -> list[Effect]:
        """Note that the attempt failed: try again, or skip what depends on it.

        types: the names of the exception's classes, its own first, each as
            `graph.type_name` gives it; one of them in the step's `retry_on`
            spends one of its retries.
        retryable: the node or its worker was lost, which is no fault of the
            function: spends a retry whatever `retry_on` is.
        """
        under_way = self._under_way(step, attempt)
        if under_way is None:
            return []
        plan = self._steps[step]
        ended = under_way.ended(now, execution)
        wanted = retryable or not set(plan.retry_on).isdisjoint(types)
        if wanted and attempt <= plan.more_attempts:
            self._change(step, Resting(ended, failure))
            rest_s = backoff_s(attempt, self._rng.random())
            self._timers.add(now, rest_s, step, attempt, rested=True)
            return []
        self._close(step, Failed(ended, failure))
        self._skip_dependents(step)
        return self._end()

    def cancel(self, now: float) -> list[Effect]:
        """Cancel every step that is still open, and with them the run."""
        if self.status != "running":
            return []
        effects: list[Effect] = []
        for step, state in self._states.items():
            match state:
                case Sent(attempt):
                    effects.append(CancelStep(step, attempt.number))
                    self._close(step, Cancelled(attempt))
                case Running(attempt):
                    effects.append(CancelStep(step, attempt.number))
                    self._close(step, Cancelled(attempt.ended(now, UNSAID)))
                case Resting(attempt):
                    self._close(step, Cancelled(attempt))
                case Waiting():
                    self._close(step, Cancelled(None))
                case Done() | Failed() | Skipped() | Cancelled():
                    pass
        return effects + self._end("cancelled")

    def tick(self, now: float) -> list[Effect]:
        """End the attempts whose time is up; send those that have rested."""
        effects: list[Effect] = []
        while self.deadline <= now:
            timer = self._timers.pop()
            if timer.rested:
                effects.append(self._send(timer.step, timer.attempt + 1, now))
                continue
            effects.append(CancelStep(timer.step, timer.attempt))
            effects += self.failed(
                timer.step,
                timer.attempt,
                TimedOut(timer.after_s),
                now,
                types=TIMEOUT_TYPES,
            )
        return effects

    @property
    def deadline(self) -> float:
        """When `tick` has something to do next; infinity: not before an event."""
        return self._timers.deadline

    def rows(self) -> tuple[StepRow, ...]:
        """Return all steps as a table shows them, in the order they were given."""
        return tuple(self._row(step) for step in self._steps)

    def changed_since(self, revision: int) -> tuple[StepRow, ...]:
        """Return the steps whose states changed after `revision`, latest last."""
        steps: list[str] = []
        for step, changed_in in reversed(self._changed.items()):
            if changed_in <= revision:
                break
            steps.append(step)
        return tuple(self._row(step) for step in reversed(steps))

    def state(self, step: str) -> StepState:
        """Return what `step` is in; its result or failure is in that.

        Raises:
            KeyError: this run has no such step.
        """
        return self._states[step]

    def failures(self) -> dict[str, Any]:
        """Return the failures of the steps that failed for good, by step."""
        return {
            step: state.failure
            for step, state in self._states.items()
            if isinstance(state, Failed)
        }

    def _row(self, step: str) -> StepRow:
        return row(step, self._states[step], run_started_at_s=self._started_at_s)

    def _under_way(self, step: str, attempt: int) -> Attempt | None:
        """Return the attempt of this number if it was sent and is not over."""
        match self._states.get(step):
            case Sent(current) | Running(current) if current.number == attempt:
                return current
        return None

    def _send(self, step: str, attempt: int, now: float) -> StartStep:
        self._change(step, Sent(Attempt(number=attempt, sent_at_s=now)))
        timeout_s = self._steps[step].timeout_s
        if timeout_s is not None:
            self._timers.add(now, timeout_s, step, attempt, rested=False)
        return StartStep(step, attempt)

    def _still_wanted(self, timer: Timer) -> bool:
        if timer.rested:
            state = self._states[timer.step]
            return isinstance(state, Resting) and state.attempt.number == timer.attempt
        return self._under_way(timer.step, timer.attempt) is not None

    def _skip_dependents(self, failed: str) -> None:
        pending = [failed]
        while pending:
            for dependent in self._dependents[pending.pop()]:
                if isinstance(self._states[dependent], Waiting):
                    self._close(dependent, Skipped(failed))
                    pending.append(dependent)

    def _change(self, step: str, state: StepState) -> None:
        self.revision += 1
        self._states[step] = state
        self._changed.pop(step, None)  # so that it comes last
        self._changed[step] = self.revision

    def _close(self, step: str, state: StepState) -> None:
        self._change(step, state)
        self._open -= 1

    def _end(self, status: RunStatus | None = None) -> list[Effect]:
        if self._open or self.status != "running":
            return []
        self.status = status or ("failed" if self.failures() else "done")
        return [RunEnded(self.status)]
