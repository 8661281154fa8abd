"""The drawing of a run that somebody else began: made of what its node was asked."""

from collections.abc import Callable, Iterator, Sequence

from mpreg_nb.wire.runs import Given, SideCall, StepPlan
from mpreg_nb.workflow.diagram import Arrow, Box, Diagram


def planned_diagram(
    workflow: str,
    plans: Sequence[StepPlan],
    needs: Callable[[str], frozenset[str]],
) -> Diagram:
    """Return the workflow of a run as boxes and arrows.

    needs: returns the resources that the function of a name was registered with.
    """
    arrows = tuple(arrow for plan in plans for arrow in _arrows(plan))
    steps = {plan.name for plan in plans}
    inputs = dict.fromkeys(a.source for a in arrows if a.source not in steps)
    boxes = (_box(plan, needs(plan.function)) for plan in plans)
    given = (Box(name=name, kind="input") for name in inputs)
    return Diagram(name=workflow, boxes=(*given, *boxes), arrows=arrows)


def _box(plan: StepPlan, needs: frozenset[str]) -> Box:
    return Box(
        name=plan.name,
        kind="step" if plan.split is None else "map",
        function=plan.function,
        resources=tuple(sorted(plan.resources | needs)),
        notes=tuple(_notes(plan)),
        undo="" if plan.undo is None else plan.undo.function,
    )


def _arrows(plan: StepPlan) -> Iterator[Arrow]:
    split = () if plan.split is None else plan.split.inputs
    inputs = dict.fromkeys((*split, *plan.inputs))
    for source in inputs:
        yield Arrow(source=source, target=plan.name)
    for source in plan.after:
        if source not in inputs:
            yield Arrow(source=source, target=plan.name, order_only=True)


def _notes(plan: StepPlan) -> Iterator[str]:
    if plan.node is not None:
        yield f"only on {plan.node}"
    if plan.attempts > 1:
        yield f"retry {plan.attempts - 1}"
    if plan.timeout_ms is not None:
        yield f"within {plan.timeout_ms / 1e3:g} s"
    match plan.fallback:
        case Given():
            yield "fallback: a value"
        case SideCall(function=function):
            yield f"fallback: {function}"
