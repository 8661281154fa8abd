"""What is said of the steps of a run at one moment: in drawings, cards and views.

In plain mode no times are said, unless they are asked for.
"""

from collections.abc import Iterable

from mpreg_nb.view.plain import plain
from mpreg_nb.view.units import count, duration
from mpreg_nb.wire.runs import StepState

_WITH_RESULT = ("done", "fallback")


def states(steps: Iterable[StepState]) -> dict[str, str]:
    """Return the status of each step, by its name."""
    return {step.name: step.status for step in steps}


def details(steps: Iterable[StepState], *, timed: bool | None = None) -> dict[str, str]:
    """Return what there is to say besides: "on gpu-1, 1.20 s".

    timed: whether to tell times; by default where it is not plain mode.
    """
    timed = not plain() if timed is None else timed
    return {step.name: _detail(step, timed=timed) for step in steps}


def counts(steps: Iterable[StepState]) -> dict[str, int]:
    """Return how many items the maps among the steps have, where that is known."""
    return {step.name: step.items for step in steps if step.items}


def status(step: StepState) -> str:
    """Return the status of a step in a few words: "running, 7 of 12 done"."""
    undone = "NOT undone" if step.undo_error else ""
    return ", ".join(filter(None, (step.status, items(step), undone)))


def explained(step: StepState) -> str:
    """Return the status with its reason: "failed: ValueError: no".

    >>> explained(StepState(name="fit", status="fallback", error="ValueError: no"))
    'fallback after ValueError: no'
    """
    if step.error:
        return (
            status(step) + (": " if step.status == "failed" else " after ") + step.error
        )
    if step.status == "skipped" and step.cause:
        return f"{status(step)} (because of {step.cause})"
    return status(step)


def items(step: StepState) -> str:
    """Return how far a map is: "7 of 12 done"; nothing for other steps.

    >>> items(StepState(name="fits", status="done", items=12, items_done=12))
    '12 items'
    """
    if not step.items:
        return ""
    if step.items_done == step.items:
        return count(step.items, "item")
    return f"{step.items_done:,} of {step.items:,} done"


def nodes(step: StepState, most: int = 2) -> str:
    """Return where a step ran: a node, or how many where a map took more than `most`.

    >>> nodes(StepState(name="fits", status="done", node="n1, n2, n3"))
    '3 nodes'
    """
    taking = step.node.count(", ") + 1
    return step.node if taking <= most else f"{taking} nodes"


def _detail(step: StepState, *, timed: bool) -> str:
    if step.cause and step.status not in _WITH_RESULT:
        return f"because of {step.cause}"
    if step.undo_error:
        return "NOT undone"
    parts = [items(step)] if step.items_done < step.items else []
    if step.error:  # first, since a box cuts what is too long for it
        parts.append(step.error if step.status == "failed" else f"after {step.error}")
    if step.node:
        parts.append(f"on {nodes(step)}")
    if timed and step.run_ms is not None:
        parts.append(duration(step.run_ms))
    return ", ".join(parts)
