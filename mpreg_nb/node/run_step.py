"""One step between the machine of a run, the wire and the calls of the node."""

from typing import TYPE_CHECKING

import msgspec

from mpreg_nb.wire.codec import Buffer, Parts
from mpreg_nb.wire.messages import Failed, Reply
from mpreg_nb.wire.runs import StepPlan, StepState
from mpreg_nb.workflow.run_steps import RunStep
from mpreg_nb.workflow.states import Execution, StepRow

if TYPE_CHECKING:
    from mpreg_nb.node.run import ActiveRun

LOST_ATTEMPTS = 2
"""More tries of an idempotent step whose node or worker was lost."""


class StepSource:
    """Where the call of one attempt of one step reports to."""

    __slots__ = ("_run", "attempt", "step")

    def __init__(self, run: "ActiveRun", step: str, attempt: int) -> None:
        self._run = run
        self.step = step
        self.attempt = attempt

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Hand the message to the run."""
        self._run.said(self.step, self.attempt, message, tuple(parts))


def deal(
    plans: tuple[StepPlan, ...], parts: tuple[Buffer, ...]
) -> dict[str, tuple[Buffer, ...]]:
    """Return the parts of each step that has some, by its name."""
    dealt: dict[str, tuple[Buffer, ...]] = {}
    first = 0
    for plan in plans:
        if plan.parts:
            dealt[plan.name] = parts[first : first + plan.parts]
            first += plan.parts
    return dealt


def run_step(plan: StepPlan) -> RunStep:
    """Return what the machine has to know of a step."""
    more, retry_on = plan.attempts - 1, plan.retry_on
    if more == 0 and plan.idempotent:
        more, retry_on = LOST_ATTEMPTS, ()
    return RunStep(
        name=plan.name,
        dependencies=frozenset((*plan.inputs, *plan.after)),
        more_attempts=more,
        retry_on=retry_on,
        timeout_s=None if plan.timeout_ms is None else plan.timeout_ms / 1e3,
    )


def execution(outcome: Reply | Failed, node: str) -> Execution:
    """Return where an attempt ran and how long."""
    return Execution(
        node=node,
        version=outcome.version,
        queued_s=outcome.queued_us / 1e6,
        run_s=outcome.run_us / 1e6 if outcome.run_us else None,
    )


def state_of(row: StepRow) -> StepState:
    """Return the row of a step as it travels."""
    return StepState(
        name=row.step,
        status=row.status,
        node=row.node,
        version=row.version,
        attempts=row.attempts,
        queued_ms=_ms(row.queued_s),
        run_ms=_ms(row.run_s),
        started_ms=_ms(row.started_s),
        result_bytes=row.result_bytes,
        cause=row.cause,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
