"""One run of a workflow, driven by this node.

The machine says which step to send when; each step is a call like any other, but
its large result stays where it was made, and its arguments name the results
that they refer to. What is small travels with the call.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, assert_never

import msgspec

from mpreg_nb.node.audience import Audience
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.choices import HandOver
from mpreg_nb.node.pending import Source
from mpreg_nb.node.run_step import StepSource, deal, execution, run_step, state_of
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.ids import Ids
from mpreg_nb.wire.messages import Call, Failed, Failure, Kept, Output, Reply, Started
from mpreg_nb.wire.runs import RunPicture, RunStart, RunState, StepPlan
from mpreg_nb.workflow.effects import CancelStep, Effect, RunEnded, StartStep
from mpreg_nb.workflow.run import RunMachine
from mpreg_nb.workflow.states import (
    Done,
    Resting,
    Running,
    Sent,
    StepRow,
    Waiting,
)
from mpreg_nb.workflow.states import Failed as StepFailed

TELL_EVERY_S = 0.1
"""How often changes of a run that goes on are told; failures and its end at once."""

MOST_UNDER_WAY = 512
"""Steps of one run at once, half of what a node takes; others are held back here."""

Result = bytes | Kept


class ActiveRun:
    """One execution: the machine, the calls under way, the results so far."""

    def __init__(
        self,
        request: RunStart,
        parts: tuple[Buffer, ...],
        source: Source,
        *,
        calls: Calls,
        hand_over: HandOver,
        ids: Ids,
        on_end: Callable[["ActiveRun"], None],
    ) -> None:
        self.id = request.id
        self.workflow = request.workflow
        self.started_at_s = time.time()
        self.audience = Audience(request.id, source)
        self._calls = calls
        self._give = hand_over
        self._ids = ids
        self._on_end = on_end
        self._quiet = request.quiet
        self._plans = {plan.name: plan for plan in request.steps}
        self._parts = deal(request.steps, parts)
        self._under_way: dict[str, bytes] = {}  # step -> call
        self._held: dict[str, int] = {}  # step -> attempt, in the order to send them
        self.began_s = time.monotonic()
        self._ended = math.inf
        self._told = 0  # revision of the machine that the caller knows
        self._loop = asyncio.get_running_loop()
        self._tell_timer: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._step_ended: dict[str, asyncio.Event] = {}
        self.machine = RunMachine(
            request.workflow,
            [run_step(plan) for plan in request.steps],
            rng=random.Random(),  # noqa: S311 - spreads retries, guards nothing
        )
        used = {name for plan in request.steps for name in plan.inputs}
        used.update(name for plan in request.steps for name in plan.after)
        self.outputs = [plan.name for plan in request.steps if plan.name not in used]
        """Names of the steps that no other step waits for."""

    def start(self) -> None:
        """Send the steps that wait for nothing."""
        self._perform(self.machine.start(time.monotonic()))

    def cancel(self) -> None:
        """Cancel what is under way, and with it the run."""
        self._perform(self.machine.cancel(time.monotonic()))

    def source_lost(self, source: Source) -> None:
        """Tell a caller that is gone nothing more; the run itself goes on."""
        self.audience.drop(source)

    async def ended(self, step: str) -> Result | tuple[Failed, tuple[Buffer, ...]]:
        """Wait for the end of `step` and return its result, or how it failed."""
        while not self._has_ended(step):
            await self._step_ended.setdefault(step, asyncio.Event()).wait()
        state = self.machine.state(step)
        match state:
            case Done():
                result: Result = state.result
                return result
            case StepFailed(failure=(Failed(), _)):
                failed: tuple[Failed, tuple[Buffer, ...]] = state.failure
                return failed
            case StepFailed():
                failure = Failure(kind="deadline", executed="unknown")
            case _:
                failure = Failure(kind="cancelled", cause=self._row(step).cause)
        return Failed(id=self.id, failure=failure), ()

    def kept(self) -> list[Kept]:
        """Return the results that other nodes, or this one, hold for this run."""
        states = [self.machine.state(step) for step in self._plans]
        results = [state.result for state in states if isinstance(state, Done)]
        return [result for result in results if isinstance(result, Kept)]

    def picture(self) -> RunPicture:
        """Return the run as a row of a table, with its graph."""
        return RunPicture(
            run=self.id,
            workflow=self.workflow,
            status=self.machine.status,
            steps=tuple(map(state_of, self.machine.rows())),
            edges=tuple(
                (needed, plan.name)
                for plan in self._plans.values()
                for needed in (*plan.inputs, *plan.after)
            ),
            started_at_s=self.started_at_s,
            duration_ms=self._duration_ms(),
        )

    def bare_plans(self) -> tuple[StepPlan, ...]:
        """Return the steps as they were asked for, without their arguments."""
        return tuple(
            msgspec.structs.replace(plan, payload=b"", parts=0)
            for plan in self._plans.values()
        )

    # ----------------------------------------------------------------- the work

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartStep(step, attempt):
                    self._held[step] = attempt
                case CancelStep(step):
                    self._held.pop(step, None)
                    call_id = self._under_way.pop(step, None)
                    if call_id is not None:
                        self._calls.cancel(call_id)
                case RunEnded():
                    self._finish()
                case _:
                    assert_never(effect)
        while self._held and len(self._under_way) < MOST_UNDER_WAY:
            step = next(iter(self._held))
            self._send(self._plans[step], self._held.pop(step))
        for step in [step for step in self._step_ended if self._has_ended(step)]:
            self._step_ended.pop(step).set()
        if self.machine.status == "running":
            self._set_alarm()
            if self._tell_timer is None:
                self._tell_timer = self._loop.call_later(TELL_EVERY_S, self._tell)

    def _send(self, plan: StepPlan, attempt: int) -> None:
        call_id = self._ids.next()
        self._under_way[plan.name] = call_id
        call = Call(
            id=call_id,
            function=plan.function,
            payload=plan.payload,
            version=plan.version,
            resources=plan.resources,
            node=plan.node,
            attempt=min(attempt, 255),
            inputs=tuple(self._result(name) for name in plan.inputs),
            keep=True,
            json=plan.json,
            quiet=self._quiet,
        )
        source = StepSource(self, plan.name, attempt)
        # In a turn of its own: the call may end at once, and the machine must be
        # done with the event that led here before it hears of the next.
        self._loop.call_soon(self._hand_over, source, call)

    def _hand_over(self, source: StepSource, call: Call) -> None:
        if self._under_way.get(source.step) == call.id:  # else it was cancelled
            self._give(self, source, call, self._parts.get(source.step, ()))

    def _result(self, step: str) -> Result:
        state = self.machine.state(step)
        if not isinstance(state, Done):
            raise AssertionError(f"step {step} was sent before its input was there")
        result: Result = state.result
        return result

    def said(
        self, step: str, attempt: int, message: Any, parts: tuple[Buffer, ...]
    ) -> None:
        """Take in what became of one attempt of one step."""
        now = time.monotonic()
        match message:
            case Reply():
                self._under_way.pop(step, None)
                result = message.kept or message.payload
                size_bytes = (
                    result.size_bytes if isinstance(result, Kept) else len(result)
                )
                effects = self.machine.finished(
                    step,
                    attempt,
                    result,
                    now,
                    execution=execution(message, message.node),
                    result_bytes=size_bytes,
                )
            case Failed(failure=failure):
                self._under_way.pop(step, None)
                effects = self.machine.failed(
                    step,
                    attempt,
                    (message, parts),
                    now,
                    types=failure.types,
                    retryable=failure.kind in ("node_lost", "worker_crashed"),
                    execution=execution(message, failure.node),
                )
            case Started():
                effects = self.machine.started(step, attempt, message.node, now)
            case Output():
                self.audience.printed(step, message)
                return
            case _:
                return
        self._perform(effects)
        self._tell_failures((step,))

    def _finish(self) -> None:
        self._ended = time.monotonic()
        for timer in (self._tell_timer, self._alarm):
            if timer is not None:
                timer.cancel()
        self._tell()
        self._on_end(self)

    def _tell_failures(self, steps: Iterable[str]) -> None:
        """Tell at once that one of `steps` failed for good; the run may take long."""
        if self.machine.status == "running" and any(
            isinstance(self.machine.state(step), StepFailed) for step in steps
        ):
            self._tell()

    def _tell(self) -> None:
        if self._tell_timer is not None:
            self._tell_timer.cancel()
            self._tell_timer = None
        rows = self.machine.changed_since(self._told)
        status = self.machine.status
        self._told = self.machine.revision
        if not self.audience or (not rows and status == "running"):
            return
        results: tuple[tuple[str, bytes], ...] = ()
        if status != "running":
            states = {step: self.machine.state(step) for step in self.outputs}
            results = tuple(
                (step, state.result)
                for step, state in states.items()
                if isinstance(state, Done) and isinstance(state.result, bytes)
            )
        self.audience.tell(
            RunState(
                id=self.id,
                status=status,
                steps=tuple(map(state_of, rows)),
                duration_ms=self._duration_ms(),
                results=results,
            )
        )

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.machine.deadline < math.inf:
            delay_s = max(0.0, self.machine.deadline - time.monotonic())
            self._alarm = self._loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        effects = self.machine.tick(time.monotonic())
        self._perform(effects)
        self._tell_failures(
            effect.step for effect in effects if isinstance(effect, CancelStep)
        )

    def _has_ended(self, step: str) -> bool:
        return not isinstance(
            self.machine.state(step), (Waiting, Sent, Running, Resting)
        )

    def _duration_ms(self) -> float:
        return (min(self._ended, time.monotonic()) - self.began_s) * 1e3

    def _row(self, step: str) -> StepRow:
        return next(row for row in self.machine.rows() if row.step == step)
