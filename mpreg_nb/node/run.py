"""One run of a workflow, driven by this node.

The machine says which step to send when; each step is a call like any other, but
its large result stays where it was made, and its arguments name the results
that they refer to. What is small travels with the call.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

import msgspec

from mpreg_nb.node.audience import Audience
from mpreg_nb.node.calls import Calls
from mpreg_nb.node.choices import HandOver
from mpreg_nb.node.pending import Source
from mpreg_nb.node.run_calls import RunCalls, size_bytes
from mpreg_nb.node.run_step import (
    StepSource,
    bare,
    call_of,
    execution,
    failed_of,
    needs,
    run_step,
    state_of,
    where,
)
from mpreg_nb.node.store import Store
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.ids import Ids
from mpreg_nb.wire.messages import (
    Failed,
    Failure,
    Kept,
    Output,
    Reply,
    Result,
    Started,
)
from mpreg_nb.wire.runs import RunPicture, RunStart, RunState, StepCall, StepPlan
from mpreg_nb.workflow.effects import CancelStep, Effect, RunEnded, StartStep
from mpreg_nb.workflow.run import RunMachine
from mpreg_nb.workflow.states import (
    Cancelled,
    Done,
    FallingBack,
    Resting,
    Running,
    Sent,
    StepRow,
    Waiting,
)
from mpreg_nb.workflow.states import Failed as StepFailed

TELL_EVERY_S = 0.1
"""How often changes of a run that goes on are told; failures and its end at once."""


class ActiveRun:
    """One execution: the machine, the calls under way, the results so far."""

    def __init__(
        self,
        request: RunStart,
        parts: tuple[Buffer, ...],
        source: Source,
        *,
        me: str,
        calls: Calls,
        store: Store,
        hand_over: HandOver,
        ids: Ids,
        on_end: Callable[["ActiveRun"], None],
        done: Mapping[str, Done] | None = None,
    ) -> None:
        """`done` is what need not run, for it has a result from an earlier run."""
        self.id = request.id
        self.request = request
        self.parts = parts
        self.workflow = request.workflow
        self.started_at_s = time.time()
        self.audience = Audience(request.id, source)
        self._on_end = on_end
        self._plans = {plan.name: plan for plan in request.steps}
        self.began_s = time.monotonic()
        self._ended = math.inf
        self._call_rows: list[StepCall] = []  # of calls that ended, not yet told
        self._told = 0  # revision of the machine that the caller knows
        self._loop = asyncio.get_running_loop()
        self._tell_timer: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._step_ended: dict[str, asyncio.Event] = {}
        given = {value.name for value in request.inputs}
        self._calls = RunCalls(
            self,
            request,
            parts,
            me=me,
            calls=calls,
            store=store,
            hand_over=hand_over,
            ids=ids,
        )
        self._needs = {plan.name: needs(plan, given) for plan in request.steps}
        fallbacks = self._calls.fallbacks
        self.machine = RunMachine(
            request.workflow,
            [
                run_step(plan, self._needs[plan.name], given, fallbacks.get(plan.name))
                for plan in request.steps
            ],
            rng=random.Random(),  # noqa: S311 - spreads retries, guards nothing
            done=done,
        )
        used = {name for names in self._needs.values() for name in names}
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
                return self._calls.result(step)
            case StepFailed():
                return failed_of(state.failure, self.id)
            case _:
                failure = Failure(kind="cancelled", cause=self._row(step).cause)
        return Failed(id=self.id, failure=failure), ()

    def kept(self) -> list[Kept]:
        """Return the results that other nodes, or this one, hold for this run."""
        return self._calls.kept({s: self.machine.state(s) for s in self._plans})

    def picture(self) -> RunPicture:
        """Return the run as a row of a table, with its graph."""
        return RunPicture(
            run=self.id,
            workflow=self.workflow,
            status=self.machine.status,
            steps=tuple(map(state_of, self.machine.rows())),
            edges=tuple(
                (needed, step)
                for step, names in self._needs.items()
                for needed in names
            ),
            started_at_s=self.started_at_s,
            duration_ms=self._duration_ms(),
        )

    def bare_plans(self) -> tuple[StepPlan, ...]:
        """Return the steps as they were asked for, without their arguments."""
        return tuple(map(bare, self._plans.values()))

    # ----------------------------------------------------------------- the work

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartStep():
                    self._calls.start(effect)
                case CancelStep():
                    self._calls.cancel(effect)
                case RunEnded():
                    self._finish()
                case _:
                    assert_never(effect)
        self._calls.flush()
        for step in [step for step in self._step_ended if self._has_ended(step)]:
            self._step_ended.pop(step).set()
        if self.machine.status == "running":
            self._set_alarm()
            if self._tell_timer is None:
                self._tell_timer = self._loop.call_later(TELL_EVERY_S, self._tell)

    def said(self, source: StepSource, message: Any, parts: tuple[Buffer, ...]) -> None:
        """Take in what became of one attempt of one call of a step."""
        now = time.monotonic()
        step, attempt, part = source.step, source.attempt, source.part
        match message:
            case Reply():
                self._note(source, message, now)
                self._calls.over(source)
                effects = self._returned(source, message, parts, now)
            case Failed(failure=failure):
                refused = failure.kind == "overloaded"
                if not self._calls.over(source, refused=refused):
                    self._perform(())
                    return
                self._note(source, message, now)
                if part != "call":
                    named = where(part, self.machine.state(step))
                    failure = msgspec.structs.replace(failure, where=named)
                    message = msgspec.structs.replace(message, failure=failure)
                effects = self.machine.failed(
                    step,
                    attempt,
                    (message, parts),
                    now,
                    types=failure.types,
                    retryable=failure.kind in ("node_lost", "worker_crashed"),
                    execution=execution(message, failure.node),
                    part=part,
                )
            case Started():
                node = message.node
                effects = self.machine.started(step, attempt, node, now, part=part)
            case Output():
                self.audience.printed(step, message, parts)
                return
            case _:
                return
        self._perform(effects)
        if part != "call" and self._has_ended(step):
            self._calls.gone(step)
        self._tell_failures((step,))

    def _note(self, source: StepSource, outcome: Reply | Failed, now: float) -> None:
        """Keep what callers' tables note of a call; a cancelled run says it itself."""
        cancelled = isinstance(self.machine.state(source.step), Cancelled)
        if self.audience and source.part != "split" and not cancelled:
            self._call_rows.append(call_of(source, outcome, now))

    def _returned(
        self, source: StepSource, reply: Reply, parts: tuple[Buffer, ...], now: float
    ) -> list[Effect]:
        step, attempt, part = source.step, source.attempt, source.part
        said = execution(reply, reply.node)
        if part == "split":
            items = self._calls.deal_out(step, reply, parts)
            return self.machine.divided(step, attempt, items, now, execution=said)
        result = reply.kept or reply.payload
        return self.machine.finished(
            step,
            attempt,
            result,
            now,
            execution=said,
            result_bytes=size_bytes(result),
            part=part,
        )

    def _finish(self) -> None:
        self._ended = time.monotonic()
        for timer in (self._tell_timer, self._alarm):
            if timer is not None:
                timer.cancel()
        self._calls.stop()
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
        calls, self._call_rows = tuple(self._call_rows), []
        results: tuple[tuple[str, bytes], ...] = ()
        if status != "running":
            ended = {step: self.machine.state(step) for step in self.outputs}
            done = [step for step, state in ended.items() if isinstance(state, Done)]
            found = [(step, self._calls.result(step)) for step in done]
            results = tuple((step, r) for step, r in found if isinstance(r, bytes))
        self.audience.tell(
            RunState(
                id=self.id,
                status=status,
                steps=tuple(map(state_of, rows)),
                duration_ms=self._duration_ms(),
                results=results,
                calls=calls,
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
            self.machine.state(step), (Waiting, Sent, Running, Resting, FallingBack)
        )

    def _duration_ms(self) -> float:
        return (min(self._ended, time.monotonic()) - self.began_s) * 1e3

    def _row(self, step: str) -> StepRow:
        return next(row for row in self.machine.rows() if row.step == step)
