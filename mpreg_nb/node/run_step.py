"""One step between the machine of a run, the wire and the calls of the node."""

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from mpreg_nb.wire.codec import Buffer, Parts
from mpreg_nb.wire.failures import call_status, error_line, failure_line
from mpreg_nb.wire.messages import Failed, Failure, Reply
from mpreg_nb.wire.runs import (
    Given,
    RunStart,
    SideCall,
    StepCall,
    StepPlan,
    StepState,
)
from mpreg_nb.workflow.run_steps import FallbackCall, FallbackResult, RunStep, Undo
from mpreg_nb.workflow.states import (
    Execution,
    FallingBack,
    LacksResult,
    Part,
    StepRow,
    TimedOut,
)

if TYPE_CHECKING:
    from mpreg_nb.node.run import ActiveRun

LOST_ATTEMPTS = 2
"""More tries of an idempotent step whose node or worker was lost."""


class StepSource:
    """Where one attempt of one call of a step reports to."""

    __slots__ = (
        "_run",
        "attempt",
        "call_id",
        "function",
        "given",
        "part",
        "sent_s",
        "step",
    )

    def __init__(
        self, run: "ActiveRun", step: str, attempt: int, part: Part, call_id: bytes
    ) -> None:
        self._run = run
        self.step = step
        self.attempt = attempt
        self.part = part
        self.call_id = call_id
        self.given = False  # to the node, which will say what became of it
        self.function = ""
        self.sent_s = 0.0

    def send(self, message: msgspec.Struct, parts: Parts = ()) -> None:
        """Hand the message to the run."""
        self._run.said(self, message, tuple(parts))


Dealt = dict[tuple[str, Part], tuple[Buffer, ...]]
"""The parts of calls that have some, by step and part."""


def deal(
    request: RunStart, parts: tuple[Buffer, ...]
) -> tuple[Dealt, dict[str, tuple[bytes, tuple[Buffer, ...]]]]:
    """Return the parts of each call, and payload and parts of each input by name."""
    dealt: Dealt = {}
    first = 0
    for plan in request.steps if parts else ():
        sides: tuple[tuple[Part, StepPlan | SideCall | Given | None], ...] = (
            ("call", plan),
            ("split", plan.split),
            ("fallback", plan.fallback),
            ("undo", plan.undo),
        )
        for part, side in sides:
            if side is not None and side.parts:
                dealt[plan.name, part] = parts[first : first + side.parts]
                first += side.parts
    given: dict[str, tuple[bytes, tuple[Buffer, ...]]] = {}
    for value in request.inputs:
        given[value.name] = value.payload, parts[first : first + value.parts]
        first += value.parts
    return dealt, given


def needs(plan: StepPlan, given: Collection[str]) -> tuple[str, ...]:
    """Return the steps that a step waits for, without the inputs in `given`."""
    names = (*plan.inputs, *plan.after)
    if plan.split is not None:
        names = (*plan.split.inputs, *names)
    if not names:
        return ()
    return tuple(name for name in dict.fromkeys(names) if name not in given)


def run_step(
    plan: StepPlan,
    waits_for: Collection[str],
    given: Collection[str],
    fallback: FallbackResult | None,
) -> RunStep:
    """Return what the machine has to know of a step.

    waits_for: what `needs` says. given: names of inputs, there from the start.
    """
    more, retry_on = _attempts(plan, idempotent=plan.idempotent)
    undo = None
    if plan.undo is not None:
        undo_more, undo_on = _attempts(plan, idempotent=plan.undo.idempotent)
        undo = Undo(
            inputs=frozenset(plan.undo.inputs).difference(given),
            more_attempts=undo_more,
            retry_on=undo_on,
        )
    return RunStep(
        name=plan.name,
        dependencies=frozenset(waits_for),
        more_attempts=more,
        retry_on=retry_on,
        timeout_s=None if plan.timeout_ms is None else plan.timeout_ms / 1e3,
        is_map=plan.split is not None,
        fallback=FallbackCall() if isinstance(plan.fallback, SideCall) else fallback,
        undo=undo,
    )


def bare(plan: StepPlan) -> StepPlan:
    """Return a step as it was asked for, without the arguments of its calls."""
    sides = {"split": plan.split, "fallback": plan.fallback, "undo": plan.undo}
    without: dict[str, Any] = {
        name: side and replace(side, payload=b"", parts=0)
        for name, side in sides.items()
    }
    # Large arguments of a map travel as inputs that nobody gave a name.
    named = tuple(name for name in plan.inputs if not name.startswith("/"))
    return replace(plan, payload=b"", parts=0, inputs=named, **without)


def _attempts(plan: StepPlan, *, idempotent: bool) -> tuple[int, tuple[str, ...]]:
    if plan.attempts == 1 and idempotent:
        return LOST_ATTEMPTS, ()
    return plan.attempts - 1, plan.retry_on


def failed_of(failure: object, run_id: bytes) -> tuple[Failed, tuple[Buffer, ...]]:
    """Return a failure that the machine keeps as the message of a node would be."""
    match failure:
        case (Failed() as failed, tuple() as parts):
            return failed, parts
        case TimedOut(timeout_s, part):
            said = Failure(
                kind="deadline",
                executed="unknown",
                where=where(part),
                timeout_ms=int(timeout_s * 1e3),
            )
        case LacksResult(step):
            text = f"it refers to the result of step {step!r}, which has none"
            said = Failure(kind="bad_request", message=text)
        case _:
            raise AssertionError(f"a run does not fail with {failure!r}")
    return Failed(id=run_id, failure=said), ()


def where(part: Part, state: object = None) -> str:
    """Say which call of a step failed, if it is not its own, and what went before.

    >>> where(3), where("fallback"), where("call")
    ('item [3]', 'the fallback', '')
    """
    if isinstance(part, int):
        return f"item [{part}]"
    if part != "fallback":
        return ""
    if not isinstance(state, FallingBack):
        return "the fallback"
    failed, _ = failed_of(state.failure, b"")
    return f"the fallback, after {failure_line(failed.failure)}"


def call_of(source: StepSource, outcome: Reply | Failed, now: float) -> StepCall:
    """Return what the tables of callers note of a call that has ended."""
    failed = outcome if isinstance(outcome, Failed) else None
    kept = None if isinstance(outcome, Failed) else outcome.kept
    node = outcome.failure.node if isinstance(outcome, Failed) else outcome.node
    if failed is not None and failed.failure.kind == "no_route":
        node = ""  # who says that nobody fits has not taken it
    return StepCall(
        id=source.call_id,
        step=source.step,
        function=source.function,
        node=node,
        status="done" if failed is None else call_status(failed.failure),
        waited_us=outcome.waited_us,
        queued_us=outcome.queued_us,
        run_us=outcome.run_us,
        total_us=max(0, int((now - source.sent_s) * 1e6)),
        received_bytes=len(outcome.payload) if kept is None else kept.size_bytes,
        ended_at_s=time.time(),
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
        items=row.items,
        items_done=row.items_done,
        undo_error=_undo_error(row),
        error=_error(row.failure),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _error(failure: object) -> str:
    if failure is None:
        return ""
    failed, _ = failed_of(failure, b"")
    return error_line(failed.failure)


def _undo_error(row: StepRow) -> str:
    if row.undo_failure is None:
        return ""
    failed, _ = failed_of(row.undo_failure, b"")
    return failure_line(failed.failure)
