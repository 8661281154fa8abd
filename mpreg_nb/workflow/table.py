"""The states of all steps of one run, and of the calls that a step is made of."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from mpreg_nb.workflow.effects import CancelStep
from mpreg_nb.workflow.states import (
    Attempt,
    Execution,
    Failed,
    Part,
    Resting,
    Running,
    Sent,
    StepRow,
    StepState,
    UnderWay,
    Waiting,
    row,
)


class StepTable:
    """What each step is in, what changed when, and how many have no end yet.

    The call of a plain step has the state of the step itself. The split and the
    items of a map, fallbacks and undo functions have states beside it.
    """

    def __init__(self, steps: Iterable[str]) -> None:
        self._states: dict[str, StepState] = dict.fromkeys(steps, Waiting())
        self._parts: dict[str, dict[Part, UnderWay]] = {}
        self._changed: dict[str, int] = {}  # step -> revision, in that order
        self.revision = 0  # counts changes of states
        self.open = len(self._states)
        self.started_at_s = math.inf  # until started

    def __getitem__(self, step: str) -> StepState:
        return self._states[step]

    def items(self) -> Iterator[tuple[str, StepState]]:
        """Return all steps with their states, in the order they were given."""
        return iter(self._states.items())

    def change(self, step: str, state: StepState) -> None:
        """Note what `step` is in now."""
        self.revision += 1
        self._states[step] = state
        self._changed.pop(step, None)  # so that it comes last
        self._changed[step] = self.revision

    def close(self, step: str, state: StepState) -> None:
        """Note how `step` has ended."""
        self.change(step, state)
        self.open -= 1

    # ------------------------------------------------------------------- calls

    def call(self, step: str, part: Part) -> StepState | None:
        """Return what a call of `step` is in; None if it is not under way."""
        if part == "call":
            return self._states.get(step)
        return self._parts.get(step, {}).get(part)

    def set(self, step: str, part: Part, state: UnderWay) -> None:
        """Note what a call of `step` is in now."""
        if part == "call":
            self.change(step, state)
        else:
            self._parts.setdefault(step, {})[part] = state

    def drop(self, step: str, part: Part) -> None:
        """Forget a call that is over."""
        del self._parts[step][part]

    def under_way(self, step: str, part: Part, attempt: int) -> Attempt | None:
        """Return the attempt of this number if it was sent and is not over."""
        match self.call(step, part):
            case Sent(current) | Running(current) if current.number == attempt:
                return current
        return None

    def rests(self, step: str, part: Part, attempt: int) -> bool:
        """Whether the attempt of this number failed and the next is not sent yet."""
        state = self.call(step, part)
        return isinstance(state, Resting) and state.attempt.number == attempt

    def begun(
        self, step: str, part: Part, attempt: int, node: str, version: str, now: float
    ) -> bool:
        """Note that a node began the attempt; False if that is no news."""
        state = self.call(step, part)
        if not isinstance(state, Sent) or state.attempt.number != attempt:
            return False
        self.set(step, part, Running(_begun(state.attempt, node, version, now)))
        whole = self._states[step]
        if part != "call" and isinstance(whole, Sent):
            self.change(step, Running(_begun(whole.attempt, "", "", now)))
        return True

    def stop(self, step: str) -> list[CancelStep]:
        """Forget the calls of `step` and return how to cancel those under way."""
        calls: dict[Part, Any] = {"call": self._states[step]}
        parts = self._parts.pop(step, None)
        return [
            CancelStep(step, state.attempt.number, part)
            for part, state in (calls if parts is None else parts).items()
            if isinstance(state, Sent | Running)
        ]

    def whole(self, step: str) -> Attempt:
        """Return the attempt of a map that is under way."""
        state = self._states[step]
        if not isinstance(state, Sent | Running):
            raise AssertionError(f"map {step} is not under way")
        return state.attempt

    def change_whole(self, step: str, attempt: Attempt) -> None:
        """Note how far a map that is under way has come."""
        sent = isinstance(self._states[step], Sent)
        self.change(step, Sent(attempt) if sent else Running(attempt))

    # ------------------------------------------------------------------- reads

    def rows(self) -> tuple[StepRow, ...]:
        """Return all steps as a table shows them, in the order they were given."""
        return tuple(map(self._row, self._states))

    def changed_since(self, revision: int) -> tuple[StepRow, ...]:
        """Return the steps whose states changed after `revision`, latest last."""
        steps: list[str] = []
        for step, changed_in in reversed(self._changed.items()):
            if changed_in <= revision:
                break
            steps.append(step)
        return tuple(self._row(step) for step in reversed(steps))

    def _row(self, step: str) -> StepRow:
        return row(step, self._states[step], run_started_at_s=self.started_at_s)


class TableReads:
    """What may be read of the table by who does not own it."""

    _table: StepTable

    @property
    def revision(self) -> int:
        """Counts the changes of states."""
        return self._table.revision

    def rows(self) -> tuple[StepRow, ...]:
        """Return all steps as a table shows them, in the order they were given."""
        return self._table.rows()

    def changed_since(self, revision: int) -> tuple[StepRow, ...]:
        """Return the steps whose states changed after `revision`, latest last."""
        return self._table.changed_since(revision)

    def state(self, step: str) -> StepState:
        """Return what `step` is in; its result or failure is in that.

        Raises:
            KeyError: this run has no such step.
        """
        return self._table[step]

    def failures(self) -> dict[str, Any]:
        """Return the failures of the steps that failed for good, by step."""
        return {
            step: state.failure
            for step, state in self._table.items()
            if isinstance(state, Failed)
        }


def _begun(attempt: Attempt, node: str, version: str, now: float) -> Attempt:
    queued_s = now - attempt.sent_at_s
    execution = Execution(node=node, version=version, queued_s=queued_s)
    return attempt.at(now, execution)
