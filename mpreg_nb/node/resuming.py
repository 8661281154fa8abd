"""What of a run that has ended can be used again, by another run of the same steps."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from mpreg_nb.node.run import ActiveRun
from mpreg_nb.wire.messages import Kept
from mpreg_nb.wire.runs import SideCall, StepPlan
from mpreg_nb.workflow.states import Attempt, Done, Items, NotUndone, Undone

_replace: Any = msgspec.structs.replace


def kept_by(state: Done) -> tuple[Kept, ...]:
    """Return the results of one step that nodes hold; of a map there may be many."""
    result = state.result
    results = result.results if isinstance(result, Items) else (result,)
    return tuple(one for one in results if isinstance(one, Kept))


def finished(run: ActiveRun) -> dict[str, Done]:
    """Return the steps of `run` that have a result which still holds.

    What was undone does not, nor what was made of it.
    """
    states = {plan.name: run.machine.state(plan.name) for plan in run.request.steps}
    pending = [step for step, state in states.items() if isinstance(state, Undone)]
    stale = set(pending)
    users: dict[str, list[str]] = {}
    for plan in run.request.steps:
        for needed in (*_used(plan), *plan.after):
            users.setdefault(needed, []).append(plan.name)
    while pending:
        more = set(users.get(pending.pop(), ())) - stale
        stale |= more
        pending += more
    return {
        step: state
        for step, state in states.items()
        if isinstance(state, Done) and step not in stale
    }


def reusable(
    run: ActiveRun, done: Mapping[str, Done], held: Collection[bytes]
) -> dict[str, Done]:
    """Return those of `done` that need not run again.

    A result that no node holds any more is made again where a step that will run
    needs it, or where it is one of the last of the workflow.

    held: ids of the results that are still there.
    """
    gone = {
        step
        for step, state in done.items()
        if any(kept.id not in held for kept in kept_by(state))
    }
    plans = {plan.name: plan for plan in run.request.steps}
    again = [step for step in plans if step not in done]
    again += [step for step in run.outputs if step in gone]
    will_run = set(again)
    while again:
        for needed in _used(plans[again.pop()]):
            if needed in gone and needed not in will_run:
                will_run.add(needed)
                again.append(needed)
    return {step: _earlier(done[step]) for step in done if step not in will_run}


def newest(
    plans: Iterable[StepPlan], versions: Mapping[str, str]
) -> tuple[StepPlan, ...]:
    """Return `plans` with the versions of the functions that `versions` names."""

    def renewed(call: Any) -> Any:
        if not isinstance(call, StepPlan | SideCall):
            return call
        return _replace(call, version=versions.get(call.function, call.version))

    return tuple(
        _replace(
            renewed(plan), fallback=renewed(plan.fallback), undo=renewed(plan.undo)
        )
        for plan in plans
    )


def _used(plan: StepPlan) -> tuple[str, ...]:
    """Return the steps whose results a step takes."""
    return plan.inputs if plan.split is None else (*plan.split.inputs, *plan.inputs)


def _earlier(state: Done) -> Done:
    """Return the end of a step as that of an earlier run: here it was not sent."""
    if isinstance(state, NotUndone):
        state = Done(state.attempt, state.result, state.result_bytes)
    attempt: Attempt = state.attempt
    return replace(state, attempt=replace(attempt, number=0, started_at_s=None))
