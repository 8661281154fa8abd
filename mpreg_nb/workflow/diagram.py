"""A workflow as boxes and arrows: plain data, for whoever draws it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mpreg_nb.workflow.graph import Function, Step, Value, label

BoxKind: TypeAlias = Literal["step", "map", "input"]
"""A map runs its function once for each item; an input is a hole to be filled."""

Needs: TypeAlias = Callable[[Function], frozenset[str]]
"""Returns the resources that a function was declared or registered with."""


def no_needs(function: Function) -> frozenset[str]:
    """Return the resources of a function where there is no cluster to ask."""
    return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One step, or one input of the whole workflow, as a drawing shows it."""

    name: str
    kind: BoxKind = "step"
    function: str = ""
    resources: tuple[str, ...] = ()  # of the step and of its function
    notes: tuple[str, ...] = ()  # such as "retry 2"
    undo: str = ""  # what takes its effects back when a later step fails
    missing: bool = False  # referred to, and not there (yet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """`target` waits for `source`, and takes its result unless `order_only`."""

    source: str
    target: str
    order_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """What to draw. It need not be a valid workflow: it may be in the making."""

    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    @classmethod
    def of(
        cls,
        name: str,
        steps: Sequence[Step],
        inputs: Iterable[str] = (),
        needs: Needs = no_needs,
    ) -> "Diagram":
        """Make the picture of `steps`, checked or not, in the order they have.

        inputs: names of what is given to the whole workflow.
        """
        boxes = {given: Box(name=given, kind="input") for given in inputs}
        boxes |= {step.name: _box(step, needs) for step in steps}
        for step in steps:
            for source in sorted(n for n in step.dependencies if n not in boxes):
                boxes[source] = Box(name=source, missing=True)
        places = {name: place for place, name in enumerate(boxes)}
        arrows = (
            Arrow(source=source, target=step.name, order_only=source not in step.inputs)
            for step in steps
            for source in sorted(step.dependencies, key=places.__getitem__)
        )
        return cls(name=name, boxes=tuple(boxes.values()), arrows=tuple(arrows))


def _box(step: Step, needs: Needs) -> Box:
    return Box(
        name=step.name,
        kind="step" if step.over is None else "map",
        function=step.label,
        resources=tuple(sorted(step.resources | needs(step.function))),
        notes=tuple(_notes(step)),
        undo="" if step.undo is None else label(step.undo.function),
    )


def _notes(step: Step) -> Iterator[str]:
    if step.node is not None:
        yield f"only on {step.node}"
    if step.more_attempts:
        yield f"retry {step.more_attempts}"
    if step.timeout_s is not None:
        yield f"within {step.timeout_s:g} s"
    if isinstance(step.fallback, Value):
        yield "fallback: a value"
    elif step.fallback is not None:
        yield f"fallback: {label(step.fallback)}"
