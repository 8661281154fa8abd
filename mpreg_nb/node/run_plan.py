"""What a node works out of the steps of a workflow before they run.

Of plain steps it depends only on how they refer to each other and what they allow. It
is kept for the next run of the same steps.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from mpreg_nb.protocol.messages import RunStart, SideCall, StepPlan
from mpreg_nb.workflows.run import (
    FallbackCall,
    FallbackResult,
    RunStep,
    UndoCall,
    checked_dependents,
)

NONE: frozenset[str] = frozenset()

LOST_ATTEMPTS = 2
"""More tries of an idempotent step whose node or worker was lost."""


def used(plan: StepPlan) -> tuple[str, ...]:
    """Return the steps and inputs whose values a step takes or looks at."""
    if plan.split is None and plan.condition is None:
        return plan.inputs
    sides = (plan.condition, plan.split)
    return (*(n for side in sides if side for n in side.inputs), *plan.inputs)


def needs(plan: StepPlan, given: Collection[str]) -> tuple[str, ...]:
    """Return the steps that a step waits for, without the inputs in `given`."""
    names = (*used(plan), *plan.after)
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
        undo = UndoCall(
            inputs=frozenset(plan.undo.inputs).difference(given),
            more_attempts=undo_more,
            retry_on=undo_on,
        )
    return RunStep(
        name=plan.name,
        dependencies=frozenset(waits_for),
        more_attempts=more,
        retry_on=retry_on,
        delay_s=None if plan.delay_ms is None else plan.delay_ms / 1e3,
        backoff=plan.backoff,
        timeout_s=None if plan.timeout_ms is None else plan.timeout_ms / 1e3,
        is_map=plan.split is not None,
        has_condition=plan.condition is not None,
        after=frozenset(plan.after).difference(used(plan)) if plan.after else NONE,
        idempotent=plan.idempotent,
        fallback=FallbackCall() if isinstance(plan.fallback, SideCall) else fallback,
        undo=undo,
    )


def followers(
    plans: Iterable[StepPlan], waits_for: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return step -> one that a worker may go on with when it has its result.

    That one needs nothing else but inputs. Both are plain calls. A step with a
    timeout has no follower: its retry could find that the follower has run.

    waits_for: what `needs` says of each step.
    """
    found: dict[str, str] = {}
    plain = {plan.name: plan for plan in plans if _is_plain(plan)}
    for plan in plain.values():
        needed = waits_for[plan.name]
        if len(needed) != 1 or plan.parts:
            continue
        before = plain.get(needed[0])
        if before is not None and before.timeout_ms is None:
            found.setdefault(before.name, plan.name)
    return found


def _is_plain(plan: StepPlan) -> bool:
    sides = (plan.condition, plan.split, plan.undo)
    return not plan.json and all(side is None for side in sides)


def _attempts(plan: StepPlan, *, idempotent: bool) -> tuple[int, tuple[str, ...]]:
    if plan.attempts == 1 and idempotent:
        return LOST_ATTEMPTS, ()
    return plan.attempts - 1, plan.retry_on


class RunPlan(msgspec.Struct, frozen=True):
    """The steps of a workflow as its runs need them. Many runs may share it."""

    needs: Mapping[str, tuple[str, ...]]
    """What each step waits for, without the inputs."""
    steps: tuple[RunStep, ...]
    dependents: Mapping[str, list[str]]
    followers: Mapping[str, str]
    outputs: tuple[str, ...]
    """The steps that no other step waits for."""


def run_plan(
    request: RunStart, fallbacks: Mapping[str, FallbackResult] | None = None
) -> RunPlan:
    """Work it out. fallbacks: results of steps that were given, should they fail.

    Raises:
        InvalidWorkflow: these steps could never all be run.
    """
    plans, results = request.steps, fallbacks or {}
    given = {value.name for value in request.inputs}
    waits_for = {plan.name: needs(plan, given) for plan in plans}
    steps = tuple(
        run_step(plan, waits_for[plan.name], given, results.get(plan.name))
        for plan in plans
    )
    needed = {name for names in waits_for.values() for name in names}
    return RunPlan(
        needs=waits_for,
        steps=steps,
        dependents=checked_dependents(request.workflow, steps),
        followers=followers(plans, waits_for),
        outputs=tuple(plan.name for plan in plans if plan.name not in needed),
    )


MOST_KEPT_STEPS = 20_000
"""Steps of all plans that are kept, some 20 MB; those not used for longest go first."""


class RunPlans:
    """The plans of the workflows that ran last, for their next runs."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[Any, ...], RunPlan] = OrderedDict()
        self._steps = 0

    def of(self, request: RunStart, fallbacks: Mapping[str, FallbackResult]) -> RunPlan:
        """Return the plan of a run, if it is known as it was worked out before.

        Raises:
            InvalidWorkflow: these steps could never all be run.
        """
        if not all(_is_plain(p) and p.fallback is None for p in request.steps):
            return run_plan(request, fallbacks)
        key = (tuple(v.name for v in request.inputs), *map(_shape, request.steps))
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan
        plan = self._plans[key] = run_plan(request)
        self._steps += len(plan.steps)
        while self._steps > MOST_KEPT_STEPS:
            _, oldest = self._plans.popitem(last=False)
            self._steps -= len(oldest.steps)
        return plan


def _shape(plan: StepPlan) -> tuple[object, ...]:
    """Return all of a plain step that its part of a `RunPlan` depends on."""
    return (
        plan.name,
        plan.inputs,
        plan.after,
        plan.parts,
        plan.attempts,
        plan.retry_on,
        plan.delay_ms,
        plan.backoff,
        plan.timeout_ms,
        plan.idempotent,
    )
