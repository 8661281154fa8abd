"""Turns a workflow into messages for a node, and plans where steps would run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeAlias
from weakref import ref

import msgspec

from mpreg_nb.call_context import depth_of_calls
from mpreg_nb.client.calls import PLAIN, CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.client.deferred import DeferredArguments, ValueReference
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.cluster.registration import Callee, unwrapped
from mpreg_nb.errors import InvalidWorkflow, NoRoute
from mpreg_nb.names import nearest
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Offer
from mpreg_nb.protocol.messages import (
    Condition,
    Given,
    RunStart,
    SideCall,
    StepPlan,
    run_id,
)
from mpreg_nb.routing.router import CandidateVerdict, NoCandidate, Wanted
from mpreg_nb.serialize.pickle import pack, pack_call, size_bytes
from mpreg_nb.settings import INLINE_BYTES
from mpreg_nb.view.explain import PlanRow
from mpreg_nb.workflows.graph import (
    Arrow,
    Box,
    Diagram,
    Needs,
    Reference,
    Step,
    StepFunction,
    Value,
    Workflow,
    notes,
    type_name,
)
from mpreg_nb.working_folder import here

Callees: TypeAlias = Mapping[int, Callee]
"""How to call each function of a workflow that is no name, by the id of the object."""

Inline: TypeAlias = Callable[[Parts], tuple[bytes, tuple[Buffer, ...]]]
"""Splits parts into the payload and the parts of a message; one of both is empty."""


class PackedStep(msgspec.Struct):
    """A step as it travels, the parts of its calls, and the steps they refer to."""

    plan: StepPlan
    parts: tuple[Buffer, ...] = ()
    inputs: tuple[str, ...] = ()
    undo_inputs: tuple[str, ...] = ()
    callees: tuple[tuple[StepFunction, SideCall], ...] = ()
    """Functions that are called besides that of the step."""
    given: tuple[tuple[Given, Parts], ...] = ()
    """Large arguments that all items of a map share, and values of the engine; they
    travel as inputs do."""


MAY_RUN_TWICE = replace(PLAIN, idempotent=True)


def functions_of(workflow: Workflow) -> Iterator[Any]:
    """Return the functions that a workflow calls and that are no names."""
    for step in workflow.steps:
        undo = None if step.undo is None else step.undo.function
        for function in (step.function, step.fallback, undo):
            if callable(function):
                yield unwrapped(function, (), {})[0]


class StepSerializer:
    """Pickles the arguments of the steps of one workflow."""

    def __init__(
        self,
        callees: Callees,
        inline: Inline,
        offer: Callable[[str], Offer | None],
        deferred: DeferredArguments,
    ) -> None:
        """offer: returns the newest registration of a name, as far as it is known."""
        self._callees = callees
        self._inline = inline
        self._offer = offer
        self._deferred = deferred
        self._number = count()  # for names of shared arguments
        self.holds: list[object] = []
        """Keeps the values of the engine that steps take, until the run is dropped."""

    def step(self, step: Step) -> PackedStep:
        """Return the step as it travels.

        Raises:
            NotPicklable: an argument cannot be pickled.
            PayloadTooLarge: the arguments are larger than a step may carry.
            NotComputed: an argument stands for a value that Dask has to compute.
        """
        function, args, kwargs = unwrapped(step.function, step.args, step.kwargs)
        args, kwargs, given = self._without_deferred(args, kwargs)
        name, options = self.callee(function)
        item = f"{step.name}/item"
        if step.over is not None:
            before = len(args) - len(step.args)  # those that a partial brings
            args = (*args[:before], Reference(item), *args[before:])
            found: tuple[str, ...] = (item,)
        else:
            found = step.inputs
        packed, found = pack_call(args, dict(kwargs), found)
        if step.over is not None and size_bytes(packed) > INLINE_BYTES:
            kwargs, shared = self._shared(kwargs)
            packed, found = pack_call(args, kwargs, (item,))
            given = (*given, *shared)
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
            delay_ms=None if step.delay_s is None else int(step.delay_s * 1e3),
            backoff=step.backoff,
            timeout_ms=None if step.timeout_s is None else int(step.timeout_s * 1e3),
            idempotent=options.idempotent,
        )
        sides = (step.over, step.fallback, step.undo)
        made = PackedStep(plan, parts, plan.inputs, given=given)
        if step.conditions or any(side is not None for side in sides):
            self._add_sides(made, step)
        unnamed = {value.name for value, _ in made.given}
        if unnamed:
            made.inputs = tuple(n for n in made.inputs if n not in unnamed)
            made.undo_inputs = tuple(n for n in made.undo_inputs if n not in unnamed)
        return made

    def callee(self, function: StepFunction) -> Callee:
        """Return how to call the function of a step."""
        function, _, _ = unwrapped(function, (), {})
        if not isinstance(function, str):
            return self._callees[id(function)]
        offer = self._offer(function)
        return function, MAY_RUN_TWICE if offer and offer.idempotent else PLAIN

    def given(self, inputs: Mapping[str, Any]) -> Iterator[tuple[Given, Parts]]:
        """Return the inputs of a workflow, each with its parts.

        Raises:
            NotPicklable: an input cannot be pickled.
        """
        for name, value in inputs.items():
            yield self._value(value, name=name, what=f"input {name!r}")

    def _shared(
        self, all_given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], tuple[tuple[Given, Parts], ...]]:
        """Replace the large arguments of a map, which would travel with each item."""
        kwargs = dict(all_given)
        given: list[tuple[Given, Parts]] = []
        for key, value in all_given.items():
            packed, refers = pack_call((), {key: value})
            if not refers and size_bytes(packed) > INLINE_BYTES:
                name = f"/{next(self._number)}"  # no name of a step has a slash
                given.append(self._value(value, name=name, what=key))
                kwargs[key] = Reference(name)
        return kwargs, tuple(given)

    def _without_deferred(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any], tuple[tuple[Given, Parts], ...]]:
        """Refer to values of the engine as to inputs, which nobody gave a name."""
        if not self._deferred.found(*args, *kwargs.values()):
            return args, kwargs, ()
        made = self._deferred.replaced(args, kwargs)
        self.holds += made.holds
        given = tuple(
            (Given(name=name, payload=b"", key=key), ())
            for name, key in made.keys.items()
        )
        return made.args, made.kwargs, given

    def _add_sides(self, made: PackedStep, step: Step) -> None:
        split: SideCall | None = None
        fallback: SideCall | Given | None = None
        undo: SideCall | None = None
        condition: Condition | None = None
        function, _, _ = unwrapped(step.function, (), {})
        if step.conditions:
            kwargs = {"over": step.conditions, "step": step.name, "is_condition": True}
            call = self._call(made, function, (), kwargs)
            condition = Condition(shown=step.condition, **msgspec.structs.asdict(call))
        if step.over is not None:
            kwargs = {"over": step.over.value, "step": step.name}
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
            undone_by = step.undo.function
            undo = self._call(made, undone_by, step.undo.args, step.undo.kwargs)
            made.undo_inputs = undo.inputs
            made.callees = (*made.callees, (undone_by, undo))
        made.plan = msgspec.structs.replace(
            made.plan, condition=condition, split=split, fallback=fallback, undo=undo
        )

    def _call(
        self,
        made: PackedStep,
        function: StepFunction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: tuple[str, ...] | None = None,
    ) -> SideCall:
        function, args, kwargs = unwrapped(function, args, kwargs)
        name, options = self.callee(function)
        args, kwargs, given = self._without_deferred(args, kwargs)
        made.given = (*made.given, *given)
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
        if self._deferred.found(value):
            made = self._deferred.replaced((), {what: value})
            self.holds += made.holds
            if not name or not isinstance(made.kwargs[what], ValueReference):
                raise TypeError(
                    f"{what} has a value inside that Dask has to compute. Make it an "
                    "argument of a step, or an input by itself"
                )
            (key,) = made.keys.values()
            return Given(name=name, payload=b"", key=key), ()
        payload, parts = self._inline(pack(value, name=what))
        return Given(name=name, payload=payload, parts=len(parts)), parts


class PlannedRun(msgspec.Struct, frozen=True):
    """A workflow that is ready to start: the message, its parts, the drawing."""

    request: RunStart
    parts: tuple[Buffer, ...]
    diagram: Diagram
    holds: Sequence[object] = ()
    """Keeps the values of the engine that steps take."""


class _Prepared(msgspec.Struct):
    """What all runs of a workflow have in common."""

    callees: list[tuple[Callee, frozenset[str]]]  # of its functions, and their needs
    packed: dict[str, PackedStep]
    plans: tuple[StepPlan, ...]
    diagram: Diagram
    workflow: "ref[Workflow] | None" = None


class Planner:
    """Prepares workflows for one cluster."""

    def __init__(self, client: Client, needs: Needs) -> None:
        """needs: returns the resources that a function was registered with."""
        self._client = client
        self._needs = needs
        self._known: dict[int, _Prepared] = {}  # by the id of the workflow

    def prepared(self, workflow: Workflow, callees: Callees) -> PlannedRun:
        """Pickle the arguments of a workflow, and check it against the cluster.

        Raises:
            InvalidWorkflow: a function is not in the catalog.
            NoRoute: no live node holds all resources of a step.
            NotPicklable: an argument cannot be pickled.
            NotComputed: an argument stands for a value that Dask has to compute.
        """
        packer = self._serializer(callees)
        prepared = self._prepared(workflow, packer)
        packed = prepared.packed
        for step in workflow.steps:
            made = packed[step.name]
            self._check(workflow, step, step.function, made.plan)
            for function, side in made.callees:
                self._check(workflow, step, function, side)
        parts: list[Buffer] = []
        for made in packed.values():
            parts.extend(made.parts)
        inputs: list[Given] = []
        shared = [pair for made in packed.values() for pair in made.given]
        for given, given_parts in (*shared, *packer.given(workflow.inputs)):
            inputs.append(given)
            parts.extend(given_parts)
        request = RunStart(
            id=run_id(),
            workflow=workflow.name,
            steps=prepared.plans,
            inputs=tuple(inputs),
            folder=here(),
            chain_ms=CONFIG.chain_ms,
            chunk_ms=CONFIG.map_chunk_ms,
            depth=depth_of_calls(),
        )
        return PlannedRun(request, tuple(parts), prepared.diagram, packer.holds)

    def _prepared(self, workflow: Workflow, packer: StepSerializer) -> "_Prepared":
        """Return what all runs of a workflow have in common, as its functions are now.

        It is kept for as long as the workflow lives, if that cannot change.
        """
        functions = {id(s.function): s.function for s in workflow.steps}
        callees = [
            (packer.callee(each), self._needs(each)) for each in functions.values()
        ]
        known = self._known.get(id(workflow))
        if known is not None and known.callees == callees:
            return known
        packed = {step.name: packer.step(step) for step in workflow.steps}
        _check_found(workflow, packed)
        prepared = _Prepared(
            callees,
            packed,
            tuple(made.plan for made in packed.values()),
            Diagram.of(workflow.name, workflow.steps, workflow.inputs, self._needs),
        )
        if workflow.is_constant:
            key = id(workflow)
            prepared.workflow = ref(workflow, lambda _: self._known.pop(key, None))
            self._known[key] = prepared
        return prepared

    def _serializer(self, callees: Callees) -> StepSerializer:
        client = self._client
        return StepSerializer(callees, client.inline, client.offer, client.deferred)

    def rows(self, workflow: Workflow, callees: Callees) -> tuple[PlanRow, ...]:
        """Return where each step would run now."""
        packer = self._serializer(callees)
        rows = []
        for step in workflow.steps:
            name, options = packer.callee(step.function)
            verdicts = self._verdicts(step, name, options)
            fitting = [verdict for verdict in verdicts if not verdict.reason]
            best = min(fitting, key=lambda v: (v.score, v.node), default=None)
            newest = self._client.offer(name)
            version = options.version or (newest.version if newest else "")
            resources = step.resources | (newest.resources if newest else frozenset())
            rows.append(
                PlanRow(
                    step=step.name,
                    function=name,
                    version=version[:6],
                    resources=tuple(sorted(resources)),
                    candidates=tuple(verdict.node for verdict in fitting),
                    rejected=tuple((v.node, v.reason) for v in verdicts if v.reason),
                    chosen=best.node if best is not None else "",
                    loads=tuple((v.node, _load(v)) for v in fitting),
                )
            )
        return tuple(rows)

    def _check(
        self,
        workflow: Workflow,
        step: Step,
        function: StepFunction,
        call: StepPlan | SideCall,
    ) -> None:
        name = call.function
        if isinstance(function, str) and self._client.offer(name) is None:
            meant = nearest(name, self._client.state.functions)
            raise InvalidWorkflow(
                f"step {step.name!r} of workflow {workflow.name!r} calls {name!r}, "
                "which is not registered."
                + (f" Did you mean {meant!r}?" if meant else "")
                + " Pass the function itself, or register it first"
            )
        if function is step.fallback:  # it runs wherever its function can
            step = msgspec.structs.replace(step, resources=frozenset(), node=None)
        options = CallOptions(version=call.version)
        asked = Wanted(name, options.version, step.resources, step.node)
        if self._client.calls.router.fitting(asked, self._client.now()):
            return
        verdicts = self._verdicts(step, name, options)
        if any(not verdict.reason for verdict in verdicts):
            return
        newest = self._client.offer(name)
        wanted = step.resources | (newest.resources if newest else frozenset())
        held = {
            picture.record.name: picture.record.resources
            for picture in self._client.state.nodes
            if picture.record.name in {verdict.node for verdict in verdicts}
        }
        choice = self._client.calls.router.choose(
            Wanted(name, call.version, step.resources, step.node), self._client.now()
        )
        engine = self._client.state.engine
        reason = choice.reason_on(engine) if isinstance(choice, NoCandidate) else ""
        raise NoRoute(
            name,
            wanted,
            held,
            held=held,
            pinned=step.node,
            reason=reason,
            engine=engine,
        )

    def _verdicts(
        self, step: Step, function: str, options: CallOptions
    ) -> tuple[CandidateVerdict, ...]:
        wanted = Wanted(function, options.version, step.resources, step.node)
        return self._client.calls.router.explain(wanted, self._client.now())


def _check_found(workflow: Workflow, packed: Mapping[str, PackedStep]) -> None:
    """Check a workflow again if pickling found references inside of other objects."""
    hidden = any(
        not set(packed[step.name].inputs) <= set(step.inputs)
        or (
            step.undo
            and not set(packed[step.name].undo_inputs) <= set(step.undo.inputs)
        )
        for step in workflow.steps
    )
    if hidden:
        complete = workflow.including({name: p.inputs for name, p in packed.items()})
        complete.check_mentions({name: p.undo_inputs for name, p in packed.items()})


def _load(verdict: CandidateVerdict) -> str:
    load = verdict.reported
    if load is None:
        return ""
    queued = f", {load.queued} queued" if load.queued else ""
    return f"{load.running} of {load.slots} busy{queued}"


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
        notes=notes(
            condition="" if plan.condition is None else plan.condition.shown,
            node=plan.node,
            more_attempts=plan.attempts - 1,
            delay_s=None if plan.delay_ms is None else plan.delay_ms / 1e3,
            backoff=plan.backoff,
            timeout_s=None if plan.timeout_ms is None else plan.timeout_ms / 1e3,
            fallback=""
            if plan.fallback is None
            else "a value"
            if isinstance(plan.fallback, Given)
            else plan.fallback.function,
        ),
        undo="" if plan.undo is None else plan.undo.function,
    )


def _arrows(plan: StepPlan) -> Iterator[Arrow]:
    looked_at = (plan.condition, plan.split)
    sides = (name for side in looked_at if side is not None for name in side.inputs)
    inputs = dict.fromkeys((*sides, *plan.inputs))
    for source in inputs:
        yield Arrow(source=source, target=plan.name)
    for source in plan.after:
        if source not in inputs:
            yield Arrow(source=source, target=plan.name, order_only=True)
