"""What a step of a run can be in, and how that reads in a table.

::

    Waiting ─▶ Sent ─▶ Running ─▶ Done ─▶ Undone | NotUndone
       │         │        ├─────▶ Failed
       │         └────────┼─────▶ FallingBack ─▶ FellBack | Failed
       │                  └─────▶ Resting ─▶ Sent, the next attempt
       └─▶ Skipped
                          what has not ended, at any time ─▶ Cancelled

A map step is Sent or Running as a whole; its items have states of their own.
"""

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
class LacksResult:
    """The failure of an undo that refers to the result of `step`, which has none."""

    step: str


@dataclass(frozen=True, slots=True)
class Items:
    """The result of a map: handles of the results of its items, in order."""

    results: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that the step needs is not there yet."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The attempt is on its way, or in the queue of a node."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Running:
    """A node said that it began the attempt."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Resting:
    """The attempt failed; the next one is sent when its time has come."""

    attempt: Attempt
    failure: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The attempt gave `result`, a handle that the machine does not look into."""

    attempt: Attempt
    result: Any
    result_bytes: int | None


@dataclass(frozen=True, slots=True)
class FellBack(Done):
    """It failed with `failure`, and `result` is that of its fallback."""

    failure: Any


@dataclass(frozen=True, slots=True)
class Undone(Done):
    """What it did was taken back; its result is still there."""


@dataclass(frozen=True, slots=True)
class NotUndone(Done):
    """What it did should have been taken back, and that failed."""

    undo_failure: Any


@dataclass(frozen=True, slots=True)
class FallingBack:
    """The attempt was the last and failed; the fallback is under way."""

    attempt: Attempt
    failure: Any


@dataclass(frozen=True, slots=True)
class Failed:
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


UnderWay: TypeAlias = Sent | Running | Resting
"""What one call of a step is in from its first attempt to its outcome."""

StepState: TypeAlias = (
    Waiting | UnderWay | FallingBack | Done | Failed | Skipped | Cancelled
)
"""`Done` has subclasses: whatever has a result is done."""

STATUS: dict[type[StepState], StepStatus] = {
    Waiting: "waiting",
    Sent: "waiting",
    Running: "running",
    Resting: "waiting",
    FallingBack: "running",
    Done: "done",
    FellBack: "fallback",
    Undone: "undone",
    NotUndone: "done",
    Failed: "failed",
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
        case Waiting():
            pass
        case Skipped():
            cause = state.cause
        case Done():
            attempt, result_bytes = state.attempt, state.result_bytes
            if isinstance(state, NotUndone):
                undo_failure = state.undo_failure
            elif isinstance(state, FellBack):
                failure = state.failure
        case Failed() | FallingBack() | Resting():
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
