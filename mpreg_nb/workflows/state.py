"""States of the steps of a run, their table, and the effects of the machine.

::

    Waiting ─▶ Sent ─▶ Running ─▶ Done ─▶ Undone | NotUndone
       │         │        ├─────▶ Failed
       │         └────────┼─────▶ FallingBack ─▶ FellBack | Failed
       │                  └─────▶ Resting ─▶ Sent, the next attempt
       └─▶ Skipped
                          what has not ended, at any time ─▶ Cancelled

A map step is Sent or Running as a whole; its items have states of their own.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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

Part: TypeAlias = Literal["call", "split", "fallback", "undo"] | int
"""Which of the calls of a step: its own, or for a map, that of one item by number.

A map begins with a "split": it takes the items apart and calls nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What the node that ran an attempt says about it; None: it did not say."""

    node: str = ""
    version: str = ""
    queued_s: float | None = None
    run_s: float | None = None


UNSAID = Execution()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a step. Times with `at` are on the clock of the caller."""

    number: int  # from 1
    sent_at_s: float
    started_at_s: float | None = None
    execution: Execution = UNSAID
    items: int = 0  # of a map, once they were counted
    items_done: int = 0

    def ended(self, now: float, said: Execution) -> "Attempt":
        """Return it with what was said of it, and the gaps filled by what was seen."""
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
        # dataclasses.replace takes three times as long.
        return Attempt(
            number=self.number,
            sent_at_s=self.sent_at_s,
            started_at_s=started_at_s,
            execution=execution,
            items=self.items,
            items_done=self.items_done,
        )


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The failure of an attempt that had no result after `timeout_s`."""

    timeout_s: float
    part: Part = "call"


@dataclass(frozen=True, slots=True)
class MissingResult:
    """The failure of an undo that refers to the result of `step`, which has none."""

    step: str


@dataclass(frozen=True, slots=True)
class Items:
    """The result of a map: handles of the results of its items, in order."""

    results: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StepWaiting:
    """Something that the step needs is not there yet."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The attempt is on its way, or in the queue of a node."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class StepRunning:
    """A node said that it began the attempt."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class StepBackoff:
    """The attempt failed; the next one is sent when its time has come."""

    attempt: Attempt
    failure: Any


@dataclass(frozen=True, slots=True)
class StepDone:
    """The attempt gave `result`, a handle that the machine does not look into."""

    attempt: Attempt
    result: Any
    result_bytes: int | None


@dataclass(frozen=True, slots=True)
class FellBack(StepDone):
    """It failed with `failure`, and `result` is that of its fallback."""

    failure: Any


@dataclass(frozen=True, slots=True)
class Undone(StepDone):
    """What it did was taken back; its result is still there."""


@dataclass(frozen=True, slots=True)
class NotUndone(StepDone):
    """What it did should have been taken back, and that failed."""

    undo_failure: Any


@dataclass(frozen=True, slots=True)
class FallingBack:
    """The attempt was the last and failed; the fallback is under way."""

    attempt: Attempt
    failure: Any


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The attempt failed and was the last; `failure` is not looked into."""

    attempt: Attempt
    failure: Any


@dataclass(frozen=True, slots=True)
class Skipped:
    """The step will not run because `cause`, a step before it, failed."""

    cause: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled; `attempt` is what was under way, if anything."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
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
    cause: str = ""  # the step that failed, where this one was skipped
    items: int = 0  # of a map
    items_done: int = 0
    undo_failure: Any = None  # why what it did could not be taken back
    failure: Any = None  # why it failed, or what its fallback covered


def row(step: str, state: StepState, *, run_started_at_s: float) -> StepRow:
    """Return what a table shows of `step`."""
    attempt: Attempt | None = None
    cause, result_bytes, undo_failure, failure = "", None, None, None
    match state:
        case StepWaiting():
            pass
        case Skipped():
            cause = state.cause
        case StepDone():
            attempt, result_bytes = state.attempt, state.result_bytes
            if isinstance(state, NotUndone):
                undo_failure = state.undo_failure
            elif isinstance(state, FellBack):
                failure = state.failure
        case StepFailed() | FallingBack() | StepBackoff():
            attempt, failure = state.attempt, state.failure
        case _:
            attempt = state.attempt
    if attempt is None:
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
        result_bytes=result_bytes,
        items=attempt.items,
        items_done=attempt.items_done,
        undo_failure=undo_failure,
        failure=failure,
    )


@dataclass(frozen=True, slots=True)
class StartStep:
    """Send this call of `step`; say what becomes of it with both numbers."""

    step: str
    attempt: int
    part: Part = "call"


@dataclass(frozen=True, slots=True)
class CancelStep:
    """Cancel this attempt; nobody waits for its outcome any more."""

    step: str
    attempt: int
    part: Part = "call"


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing is open any more. The last effect of a run, given once."""

    status: RunStatus


Effect: TypeAlias = StartStep | CancelStep | RunEnded


class StepTable:
    """What each step is in, what changed when, and how many have no end yet.

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
            case Sent(current) | StepRunning(current) if current.number == attempt:
                return current
        return None

    def rests(self, step: str, part: Part, attempt: int) -> bool:
        """Whether the attempt of this number failed and the next is not sent yet."""
        state = self.call(step, part)
        return isinstance(state, StepBackoff) and state.attempt.number == attempt

    def begun(
        self, step: str, part: Part, attempt: int, node: str, version: str, now: float
    ) -> bool:
        """Note that a node began the attempt; False if that is no news."""
        state = self.call(step, part)
        if not isinstance(state, Sent) or state.attempt.number != attempt:
            return False
        self.set(step, part, StepRunning(_begun(state.attempt, node, version, now)))
        whole = self._states[step]
        if part != "call" and isinstance(whole, Sent):
            self.change(step, StepRunning(_begun(whole.attempt, "", "", now)))
        return True

    def stop(self, step: str) -> list[CancelStep]:
        """Forget the calls of `step` and return how to cancel those under way."""
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
        """Note how far a map that is under way has come."""
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
            if isinstance(state, StepFailed)
        }


def _begun(attempt: Attempt, node: str, version: str, now: float) -> Attempt:
    queued_s = now - attempt.sent_at_s
    execution = Execution(node=node, version=version, queued_s=queued_s)
    return attempt.at(now, execution)
