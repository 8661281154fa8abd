"""States of the steps of a run, their table, and the effects of the machine.

::

    Waiting ─▶ Sent ─▶ Running ─▶ Done ─▶ Undone | NotUndone
       │         │        ├─────▶ Failed
       │         └────────┼─────▶ FallingBack ─▶ FellBack | Failed
       │                  └─────▶ Resting ─▶ Sent, the next attempt
       └─▶ Skipped        Done ─▶ Sent, where its result is lost
                          what has not ended, at any time ─▶ Cancelled

A map step is Sent or Running as a whole; its items have states of their own.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

StepStatus: TypeAlias = Literal[
    "waiting",
    "running",
    "done",
    "failed",
    "skipped",
    "cancelled",
    "fallback",
    "undone",
]
RunStatus: TypeAlias = Literal["running", "done", "failed", "cancelled"]

Part: TypeAlias = Literal["call", "condition", "split", "fallback", "undo"] | int
"""Which of the calls of a step: its own, or for a map, that of one item by number.

A map begins with a "split": it takes the items apart and calls nothing. A step with
conditions begins with a "condition", which calls nothing either.
"""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """The report of the node that ran an attempt; None where it is unknown."""

    node: str = ""
    version: str = ""
    queued_s: float | None = None
    run_s: float | None = None


UNSAID = Execution()


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try of a step. Times with `at` are on the clock of the caller."""

    number: int  # from 1
    sent_at_s: float
    started_at_s: float | None = None
    execution: Execution = UNSAID
    items: int = 0  # of a map, once they were counted
    items_done: int = 0

    def ended(self, now: float, said: Execution) -> "Attempt":
        """Return the ended attempt, with the report of the node where there is one."""
        started_at_s, run_s, queued_s = self.started_at_s, said.run_s, said.queued_s
        if started_at_s is None and run_s is not None:
            started_at_s = now - run_s
        if started_at_s is not None:
            run_s = now - started_at_s if run_s is None else run_s
            waited_s = started_at_s - self.sent_at_s
            queued_s = waited_s if queued_s is None else queued_s
        execution = Execution(
            node=said.node or self.execution.node,
            version=said.version or self.execution.version,
            queued_s=queued_s,
            run_s=run_s,
        )
        return self.at(started_at_s, execution)

    def at(self, started_at_s: float | None, execution: Execution) -> "Attempt":
        """Return it with another beginning and execution."""
        return replace(self, started_at_s=started_at_s, execution=execution)


class TimedOut(msgspec.Struct, frozen=True):
    """The failure of an attempt that had no result after `timeout_s`."""

    timeout_s: float
    part: Part = "call"


class MissingResult(msgspec.Struct, frozen=True):
    """The failure of an undo that refers to the result of `step`, which has none."""

    step: str


class InputSkipped(msgspec.Struct, frozen=True):
    """Why a step falls back whose input `step` was skipped.

    cause: the step whose condition was false; "" if it was that of `step`.
    """

    step: str
    cause: str


class ItemsChanged(msgspec.Struct, frozen=True):
    """The failure of a map that has `items` items when they are taken apart again."""

    items: int


class Items(msgspec.Struct, frozen=True):
    """The result of a map: handles of the results of its items, in order."""

    results: tuple[Any, ...]


class StepWaiting(msgspec.Struct, frozen=True):
    """The step waits for results of other steps."""


class Sent(msgspec.Struct, frozen=True):
    """The attempt was sent to a node and has not started."""

    attempt: Attempt


class StepRunning(msgspec.Struct, frozen=True):
    """A node has started the attempt."""

    attempt: Attempt


class StepBackoff(msgspec.Struct, frozen=True):
    """The attempt failed; the next one is sent after a backoff."""

    attempt: Attempt
    failure: Any


class StepDone(msgspec.Struct, frozen=True):
    """The attempt gave `result`, a handle that the machine does not look into."""

    attempt: Attempt
    result: Any
    result_bytes: int | None


class FellBack(StepDone, frozen=True):
    """It failed with `failure`, and `result` is that of its fallback."""

    failure: Any


class Undone(StepDone, frozen=True):
    """The step was undone; its result is still available."""


class NotUndone(StepDone, frozen=True):
    """The undo of the step failed."""

    undo_failure: Any


class FallingBack(msgspec.Struct, frozen=True):
    """The last attempt failed; the fallback is running."""

    attempt: Attempt
    failure: Any


class StepFailed(msgspec.Struct, frozen=True):
    """The last attempt failed; `failure` is opaque to the machine."""

    attempt: Attempt
    failure: Any


class Skipped(msgspec.Struct, frozen=True):
    """The step will not run because `cause`, a step before it, has no result.

    cause: "" if the condition of the step itself was false.
    """

    cause: str


class Cancelled(msgspec.Struct, frozen=True):
    """The run was cancelled; `attempt` is the attempt in progress, or None."""

    attempt: Attempt | None


UnderWay: TypeAlias = Sent | StepRunning | StepBackoff
"""What one call of a step is in from its first attempt to its outcome."""

StepState: TypeAlias = (
    StepWaiting | UnderWay | FallingBack | StepDone | StepFailed | Skipped | Cancelled
)
"""`Done` has subclasses: whatever has a result is done."""

STATUS: dict[type[StepState], StepStatus] = {
    StepWaiting: "waiting",
    Sent: "waiting",
    StepRunning: "running",
    StepBackoff: "waiting",
    FallingBack: "running",
    StepDone: "done",
    FellBack: "fallback",
    Undone: "undone",
    NotUndone: "done",
    StepFailed: "failed",
    Skipped: "skipped",
    Cancelled: "cancelled",
}


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run at one moment. Times are those of the last attempt."""

    step: str
    status: StepStatus
    node: str = ""
    version: str = ""
    attempts: int = 0  # sent so far
    started_s: float | None = None  # after the start of the run
    queued_s: float | None = None  # from being sent until a node began it
    run_s: float | None = None  # None until it ended
    result_bytes: int | None = None
    cause: str = ""  # see Skipped
    items: int = 0  # of a map
    items_done: int = 0
    undo_failure: Any = None  # why what it did could not be taken back
    failure: Any = None  # why it failed, or what its fallback covered


def row(step: str, state: StepState, *, run_started_at_s: float) -> StepRow:
    """Return what a table shows of `step`."""
    attempt: Attempt | None = getattr(state, "attempt", None)
    if attempt is None:
        cause = getattr(state, "cause", "")
        return StepRow(step=step, status=STATUS[type(state)], cause=cause)
    started_at_s = attempt.started_at_s
    return StepRow(
        step=step,
        status=STATUS[type(state)],
        node=attempt.execution.node,
        version=attempt.execution.version,
        attempts=attempt.number,
        started_s=None if started_at_s is None else started_at_s - run_started_at_s,
        queued_s=attempt.execution.queued_s,
        run_s=attempt.execution.run_s,
        result_bytes=getattr(state, "result_bytes", None),
        items=attempt.items,
        items_done=attempt.items_done,
        undo_failure=getattr(state, "undo_failure", None),
        failure=getattr(state, "failure", None),
    )


class StartStep(msgspec.Struct, frozen=True):
    """Send this call of `step`; report its outcome with both numbers."""

    step: str
    attempt: int
    part: Part = "call"


class CancelStep(msgspec.Struct, frozen=True):
    """Cancel this attempt; its outcome is no longer needed."""

    step: str
    attempt: int
    part: Part = "call"


class RunEnded(msgspec.Struct, frozen=True):
    """All steps have ended. The last effect of a run, emitted once."""

    status: RunStatus


Effect: TypeAlias = StartStep | CancelStep | RunEnded


class StepTable:
    """The state of each step, the revision of its last change, and the open steps.

    The call of a plain step has the state of the step itself. The split and the
    items of a map, fallbacks and undo functions have states beside it.
    """

    def __init__(self, steps: Iterable[str]) -> None:
        self._states: dict[str, StepState] = dict.fromkeys(steps, StepWaiting())
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
        """Set the state of `step`."""
        self.revision += 1
        self._states[step] = state
        self._changed.pop(step, None)  # so that it comes last
        self._changed[step] = self.revision

    def close(self, step: str, state: StepState) -> None:
        """Set the final state of `step`."""
        self.change(step, state)
        self.open -= 1

    def reopen(self, step: str, state: UnderWay) -> None:
        """Have `step` go on that was done: its result is lost."""
        self.change(step, state)
        self.open += 1

    # ------------------------------------------------------------------- calls

    def call(self, step: str, part: Part) -> StepState | None:
        """Return the state of a call of `step`; None if it is not in progress."""
        if part == "call":
            return self._states.get(step)
        return self._parts.get(step, {}).get(part)

    def set(self, step: str, part: Part, state: UnderWay) -> None:
        """Set the state of a call of `step`."""
        if part == "call":
            self.change(step, state)
        else:
            self._parts.setdefault(step, {})[part] = state

    def drop(self, step: str, part: Part) -> None:
        """Forget a call that is over."""
        if part == "condition":  # the first; what has parts later is a map
            del self._parts[step]
        else:
            del self._parts[step][part]

    def under_way(self, step: str, part: Part, attempt: int) -> Attempt | None:
        """Return the attempt of this number if it was sent and is not over."""
        match self.call(step, part):
            case Sent(current) | StepRunning(current) if current.number == attempt:
                return current
        return None

    def rests(self, step: str, part: Part, attempt: int) -> bool:
        """Return whether the attempt failed and its retry has not been sent."""
        state = self.call(step, part)
        return isinstance(state, StepBackoff) and state.attempt.number == attempt

    def begun(
        self, step: str, part: Part, attempt: int, node: str, version: str, now: float
    ) -> bool:
        """Record that a node started the attempt; return False if it was known."""
        state = self.call(step, part)
        if not isinstance(state, Sent) or state.attempt.number != attempt:
            return False
        self.set(step, part, StepRunning(_begun(state.attempt, node, version, now)))
        whole = self._states[step]
        if part != "call" and isinstance(whole, Sent):
            self.change(step, StepRunning(_begun(whole.attempt, "", "", now)))
        return True

    def stop(self, step: str) -> list[CancelStep]:
        """Remove the calls of `step`; return the effects that cancel them."""
        calls: dict[Part, Any] = {"call": self._states[step]}
        parts = self._parts.pop(step, None)
        return [
            CancelStep(step, state.attempt.number, part)
            for part, state in (calls if parts is None else parts).items()
            if isinstance(state, Sent | StepRunning)
        ]

    def whole(self, step: str) -> Attempt:
        """Return the attempt of a map that is under way."""
        state = self._states[step]
        if not isinstance(state, Sent | StepRunning):
            raise AssertionError(f"map {step} is not under way")
        return state.attempt

    def change_whole(self, step: str, attempt: Attempt) -> None:
        """Update the progress of a running map."""
        sent = isinstance(self._states[step], Sent)
        self.change(step, Sent(attempt) if sent else StepRunning(attempt))

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
    """The read-only part of a StepTable."""

    _table: StepTable

    @property
    def revision(self) -> int:
        """Counts the changes of states."""
        return self._table.revision

    def rows(self) -> tuple[StepRow, ...]:
        """Return all steps as a table shows them, in the order they were given."""
        return self._table.rows()

    def statuses(self) -> list[StepStatus]:
        """Return the status of each step, in the order they were given."""
        return [STATUS[type(state)] for _, state in self._table.items()]

    def changed_since(self, revision: int) -> tuple[StepRow, ...]:
        """Return the steps whose states changed after `revision`, latest last."""
        return self._table.changed_since(revision)

    def state(self, step: str) -> StepState:
        """Return the state of `step`, with its result or failure.

        Raises:
            KeyError: this run has no such step.
        """
        return self._table[step]

    def failures(self) -> dict[str, Any]:
        """Return the failures of the steps that failed for good, by step."""
        return {
            step: state.failure
            for step, state in self._table.items()
            if isinstance(state, StepFailed)
        }


def _begun(attempt: Attempt, node: str, version: str, now: float) -> Attempt:
    queued_s = now - attempt.sent_at_s
    execution = Execution(node=node, version=version, queued_s=queued_s)
    return attempt.at(now, execution)
