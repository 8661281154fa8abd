"""One step of a workflow as it travels: its calls with their arguments pickled."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from msgspec.structs import replace

from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster.shipping import unwrapped
from mpreg_nb.settings import INLINE_BYTES
from mpreg_nb.wire.codec import Buffer, Parts
from mpreg_nb.wire.payload import pack, pack_call, size_bytes
from mpreg_nb.wire.runs import Given, SideCall, StepPlan
from mpreg_nb.workflow.graph import Function, Reference, Step, Value, type_name

Callee: TypeAlias = Callable[[Function], tuple[str, CallOptions]]
"""Gives the name under which a function is registered, and how to call just that."""

Inline: TypeAlias = Callable[[Parts], tuple[bytes, tuple[Buffer, ...]]]
"""Parts as payload and parts of a message: one of both is empty."""


@dataclass(slots=True)
class Packed:
    """A step, the parts of all its calls, and the steps that they refer to."""

    plan: StepPlan
    parts: tuple[Buffer, ...] = ()
    inputs: tuple[str, ...] = ()
    undo_inputs: tuple[str, ...] = ()
    callees: tuple[tuple[Function, SideCall], ...] = ()
    """Functions that are called besides that of the step."""
    given: tuple[tuple[Given, Parts], ...] = ()
    """Large arguments that all items of a map share; they travel as inputs do."""


class Packer:
    """Pickles the arguments of steps, and registers their functions."""

    def __init__(self, callee: Callee, inline: Inline) -> None:
        self._callee = callee
        self._inline = inline
        self._number = count()  # for names of shared arguments

    def step(self, step: Step) -> Packed:
        """Return what travels of `step`.

        Raises:
            NotPicklable: an argument cannot travel.
            PayloadTooLarge: nor can so much.
        """
        function, args, kwargs = unwrapped(step.function, step.args, step.kwargs)
        name, options = self._callee(function)
        item = f"{step.name}/item"
        if step.over is not None:
            before = len(args) - len(step.args)  # those that a partial brings
            args = (*args[:before], Reference(item), *args[before:])
            found: tuple[str, ...] = (item,)
        else:
            found = step.inputs
        packed, found = pack_call(args, dict(kwargs), found)
        given: tuple[tuple[Given, Parts], ...] = ()
        if step.over is not None and size_bytes(packed) > INLINE_BYTES:
            kwargs, given = self._shared(kwargs)
            packed, found = pack_call(args, kwargs, (item,))
        payload, parts = self._inline(packed)
        plan = StepPlan(
            name=step.name,
            function=name,
            payload=payload,
            parts=len(parts),
            version=options.version,
            resources=step.resources,
            node=step.node,
            inputs=found if step.over is None else found[1:],
            after=step.after,
            attempts=step.more_attempts + 1,
            retry_on=tuple(type_name(cls) for cls in step.retry_on),
            timeout_ms=None if step.timeout_s is None else int(step.timeout_s * 1e3),
            idempotent=options.idempotent,
        )
        if step.over is None and step.fallback is None and step.undo is None:
            return Packed(plan, parts, plan.inputs)
        made = self._with_sides(step, plan, parts)
        made.given = given
        shared = {value.name for value, _ in given}
        made.inputs = tuple(name for name in made.inputs if name not in shared)
        return made

    def given(self, inputs: Mapping[str, Any]) -> Iterator[tuple[Given, Parts]]:
        """Return the inputs of a workflow, each with its parts.

        Raises:
            NotPicklable: one cannot travel.
        """
        for name, value in inputs.items():
            yield self._value(value, name=name, what=f"input {name!r}")

    def _shared(
        self, all_given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[tuple[Given, Parts], ...]]:
        """Take the large arguments out of a map: they would travel with each item."""
        kwargs = dict(all_given)
        given: list[tuple[Given, Parts]] = []
        for key, value in all_given.items():
            packed, refers = pack_call((), {key: value})
            if not refers and size_bytes(packed) > INLINE_BYTES:
                name = f"/{next(self._number)}"  # no name of a step has a slash
                given.append(self._value(value, name=name, what=key))
                kwargs[key] = Reference(name)
        return kwargs, tuple(given)

    def _with_sides(
        self, step: Step, plan: StepPlan, parts: tuple[Buffer, ...]
    ) -> Packed:
        made = Packed(plan, parts, plan.inputs)
        split: SideCall | None = None
        fallback: SideCall | Given | None = None
        undo: SideCall | None = None
        if step.over is not None:
            kwargs = {"over": step.over.value, "step": step.name}
            function, _, _ = unwrapped(step.function, (), {})
            split = self._call(made, function, (), kwargs)
            made.inputs = (*split.inputs, *made.inputs)
        if isinstance(step.fallback, Value):
            what = f"the fallback of step {step.name!r}"
            fallback, more = self._value(step.fallback.value, name="", what=what)
            made.parts = (*made.parts, *more)
        elif step.fallback is not None:
            failure = (Reference(f"{step.name}/failure"),)
            fallback = self._call(made, step.fallback, failure, {}, inputs=())
            made.callees = (*made.callees, (step.fallback, fallback))
        if step.undo is not None:
            takes_back = step.undo
            function = takes_back.function
            undo = self._call(made, function, takes_back.args, takes_back.kwargs)
            made.undo_inputs = undo.inputs
            made.callees = (*made.callees, (function, undo))
        made.plan = replace(plan, split=split, fallback=fallback, undo=undo)
        return made

    def _call(
        self,
        made: Packed,
        function: Function,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: tuple[str, ...] | None = None,
    ) -> SideCall:
        function, args, kwargs = unwrapped(function, args, kwargs)
        name, options = self._callee(function)
        packed, found = pack_call(args, kwargs)
        payload, parts = self._inline(packed)
        made.parts = (*made.parts, *parts)
        return SideCall(
            function=name,
            payload=payload,
            parts=len(parts),
            version=options.version,
            inputs=found if inputs is None else inputs,
            idempotent=options.idempotent,
        )

    def _value(self, value: Any, *, name: str, what: str) -> tuple[Given, Parts]:
        payload, parts = self._inline(pack(value, name=what))
        return Given(name=name, payload=payload, parts=len(parts)), parts
