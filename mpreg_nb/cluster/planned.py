"""The drawing of a run that somebody else began: made of what its node was asked."""

from collections.abc import Iterator, Sequence

from mpreg_nb.wire.runs import StepPlan
from mpreg_nb.workflow.diagram import Arrow, Box, Diagram


def planned_diagram(workflow: str, plans: Sequence[StepPlan]) -> Diagram:
    """Return the workflow of a run as boxes and arrows."""
    return Diagram(
        name=workflow,
        boxes=tuple(map(_box, plans)),
        arrows=tuple(arrow for plan in plans for arrow in _arrows(plan)),
    )


def _box(plan: StepPlan) -> Box:
    return Box(
        name=plan.name,
        function=plan.function,
        resources=tuple(sorted(plan.resources)),
        notes=tuple(_notes(plan)),
    )


def _arrows(plan: StepPlan) -> Iterator[Arrow]:
    for source in plan.inputs:
        yield Arrow(source=source, target=plan.name)
    for source in plan.after:
        if source not in plan.inputs:
            yield Arrow(source=source, target=plan.name, order_only=True)


def _notes(plan: StepPlan) -> Iterator[str]:
    if plan.node is not None:
        yield f"only on {plan.node}"
    if plan.attempts > 1:
        yield f"retry {plan.attempts - 1}"
    if plan.timeout_ms is not None:
        yield f"within {plan.timeout_ms / 1e3:g} s"
