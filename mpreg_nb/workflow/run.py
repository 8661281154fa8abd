"""One execution of a workflow: which call to send, when, and what became of it.

A step is sent the moment that all it waits for is done; there are no levels.
When one fails for good, its fallback gives the result; where there is none, what
depends on it is skipped and all else goes on. A map is sent as a split, then as
one call for each item; an item that fails for good fails the map. Once no step is
open any more, and not all went well, the steps that are done are undone, the last
first, one after another. Then the run ends, once.

Every method takes `now`, seconds on any monotonic clock, and returns what the
caller must do. The caller sleeps until `deadline`, then calls `tick`. Events
about an attempt that is over, or of an unknown step, change nothing. All events
together cost as much as there are calls and dependencies, and timers their heap.

The time of an attempt runs from being sent; that of an item from when a node began
it, since the items of a map queue behind each other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpreg_nb.errors import CallTimeout
from mpreg_nb.workflow.effects import CancelStep, Effect, RunEnded, StartStep
from mpreg_nb.workflow.fan_out import FanOut
from mpreg_nb.workflow.graph import type_name
from mpreg_nb.workflow.order import check_order, dependents_of
from mpreg_nb.workflow.run_steps import FallbackResult, Rng, RunStep, backoff_s
from mpreg_nb.workflow.states import (
    UNSAID,
    Attempt,
    Cancelled,
    Done,
    Execution,
    Failed,
    FallingBack,
    FellBack,
    Part,
    Resting,
    Running,
    RunStatus,
    Sent,
    Skipped,
    TimedOut,
    Waiting,
)
from mpreg_nb.workflow.table import StepTable, TableReads
from mpreg_nb.workflow.timers import Timer, Timers
from mpreg_nb.workflow.undoing import Undoing

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
        done: Mapping[str, Done] | None = None,
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
        self._fans: dict[str, FanOut] = {}  # of the maps under way
        self._dependents = dependents_of(
            {step.name: step.dependencies for step in steps}
        )
        self._missing = {step.name: len(step.dependencies) for step in steps}
        self._undoing = Undoing(self._table, {s.name: s.undo for s in steps})
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
            if self._missing[step] == 0 and isinstance(state, Waiting)
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
        """Note that `node` began the attempt."""
        if self._table.begun(step, part, attempt, node, version, now):
            timeout_s = self._steps[step].timeout_s
            if isinstance(part, int) and timeout_s is not None:
                self._timers.add(now, timeout_s, step, attempt, rested=False, part=part)
        return []

    def divided(
        self,
        step: str,
        attempt: int,
        items: int,
        now: float,
        *,
        execution: Execution = UNSAID,
    ) -> list[Effect]:
        """Note that the split of a map gave so many items, and send them all."""
        if self._table.under_way(step, "split", attempt) is None:
            return []
        self._table.drop(step, "split")
        fan = self._fans[step] = FanOut(items)
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
        """Note that the attempt gave `result`, and send what waited only for it."""
        under_way = self._table.under_way(step, part, attempt)
        if under_way is None or part == "split":
            return []
        if part == "call":
            ended = under_way.ended(now, execution)
            self._complete(step, Done(ended, result, result_bytes))
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
        """Note that the attempt failed: try again, fall back, or give up.

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
            self._table.set(step, part, Resting(ended, failure))
            rest_s = backoff_s(attempt, self._rng.random())
            self._timers.add(now, rest_s, step, attempt, rested=True, part=part)
            return []
        if part != "call":
            self._table.drop(step, part)
        if part == "undo":
            self._undoing.not_undone(step, failure)
            return self._undo_next(now)
        if part == "fallback":
            return self._give_up(step, Failed(ended, failure), now)
        effects: list[Effect] = []
        if part != "call":  # nobody waits for the other items of the map any more
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
                case Sent(attempt) | Resting(attempt) | FallingBack(attempt):
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(attempt))
                case Running(attempt):
                    effects += self._table.stop(step)
                    self._table.close(step, Cancelled(attempt.ended(now, UNSAID)))
                case Waiting():
                    self._table.close(step, Cancelled(None))
                case Done() | Failed() | Skipped() | Cancelled():
                    pass
        return effects + self._end(now, "cancelled")

    def tick(self, now: float) -> list[Effect]:
        """End the attempts whose time is up; send those that have rested."""
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
        """When `tick` has something to do next; infinity: not before an event."""
        return self._timers.deadline

    # --------------------------------------------------------------- decisions

    def _begin(self, step: str, now: float) -> StartStep:
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
        self._complete(step, Done(ended, fan.gathered(), fan.size_bytes))
        return self._release(step, now)

    def _complete(self, step: str, state: Done) -> None:
        self._table.close(step, state)
        self._undoing.done(step, state)
        for dependent in self._dependents[step]:
            self._missing[dependent] -= 1

    def _release(self, step: str, now: float) -> list[Effect]:
        """Begin the steps that waited for `step` only, unless they were done before."""
        effects: list[Effect] = []
        for dependent in self._dependents[step]:
            waits = isinstance(self._table[dependent], Waiting)
            if waits and self._missing[dependent] == 0:
                effects.append(self._begin(dependent, now))
        return effects if self._table.open else effects + self._end(now)

    def _fall_back(
        self, step: str, ended: Attempt, failure: Any, now: float
    ) -> list[Effect]:
        self._fans.pop(step, None)
        fallback = self._steps[step].fallback
        if fallback is None:
            return self._give_up(step, Failed(ended, failure), now)
        if isinstance(fallback, FallbackResult):
            result, result_bytes = fallback.result, fallback.result_bytes
            self._complete(step, FellBack(ended, result, result_bytes, failure))
            return self._release(step, now)
        self._table.change(step, FallingBack(ended, failure))
        return [self._send(step, 1, now, "fallback")]

    def _give_up(self, step: str, state: Failed, now: float) -> list[Effect]:
        self._table.close(step, state)
        pending = [step]
        while pending:
            for dependent in self._dependents[pending.pop()]:
                if isinstance(self._table[dependent], Waiting):
                    self._table.close(dependent, Skipped(step))
                    pending.append(dependent)
        return self._end(now)

    def _end(self, now: float, status: RunStatus | None = None) -> list[Effect]:
        if self._table.open or self.status != "running":
            return []
        self._undoing.begin(status or ("failed" if self.failures() else "done"))
        return self._undo_next(now)

    def _undo_next(self, now: float) -> list[Effect]:
        step = self._undoing.next()
        if step is not None:
            return [self._send(step, 1, now, "undo")]
        self.status = self._undoing.run_status
        return [RunEnded(self.status)]
