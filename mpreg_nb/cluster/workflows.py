"""Turns a checked workflow into what a node can drive, and says where it would run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mpreg_nb.client.client import Client
from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster.packing import Packed, Packer
from mpreg_nb.cluster.shipping import unwrapped
from mpreg_nb.errors import InvalidWorkflow, NoRoute
from mpreg_nb.names import nearest
from mpreg_nb.routing.router import Refused, Router, Verdict, Wanted
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.ids import run_id
from mpreg_nb.wire.runs import Given, RunStart, SideCall, StepPlan
from mpreg_nb.wire.working_folder import here
from mpreg_nb.workflow.graph import Function, Step, Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """Where one step would run now, and why nowhere else."""

    step: str
    function: str
    version: str
    resources: tuple[str, ...]
    candidates: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]  # node, reason
    chosen: str
    loads: tuple[tuple[str, str], ...] = ()  # candidate -> how busy it is, in words


class Planner:
    """Prepares workflows for one cluster."""

    def __init__(
        self,
        client: Client,
        router: Callable[[], Router],
        registered: Callable[[Any], tuple[str, CallOptions]],
    ) -> None:
        self._client = client
        self._router = router
        self._registered = registered
        self._packer = Packer(self._callee, client.inline)

    def request(self, workflow: Workflow) -> tuple[RunStart, tuple[Buffer, ...]]:
        """Register its functions, pickle its arguments, check it against the cluster.

        Raises:
            InvalidWorkflow: a function is not in the catalog.
            NoRoute: no live node holds what a step asks for.
            NotPicklable: an argument cannot travel.
        """
        packed = {step.name: self._packer.step(step) for step in workflow.steps}
        _check_found(workflow, packed)
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
        for given, given_parts in (*shared, *self._packer.given(workflow.inputs)):
            inputs.append(given)
            parts.extend(given_parts)
        request = RunStart(
            id=run_id(),
            workflow=workflow.name,
            steps=tuple(made.plan for made in packed.values()),
            inputs=tuple(inputs),
            folder=here(),
        )
        return request, tuple(parts)

    def rows(self, workflow: Workflow) -> tuple[PlanRow, ...]:
        """Return where each step would run now. Registers the functions."""
        rows = []
        for step in workflow.steps:
            name, options = self._callee(step.function)
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

    def _callee(self, function: Function) -> tuple[str, CallOptions]:
        function, _, _ = unwrapped(function, (), {})
        if isinstance(function, str):
            return function, CallOptions()
        return self._registered(function)

    def _check(
        self,
        workflow: Workflow,
        step: Step,
        function: Function,
        call: StepPlan | SideCall,
    ) -> None:
        name = call.function
        if isinstance(function, str) and self._client.offer(name) is None:
            names = {offer.function for _, offer in self._client.mirror.entries()}
            meant = nearest(name, names)
            raise InvalidWorkflow(
                f"step {step.name!r} of workflow {workflow.name!r} calls {name!r}, "
                "which is not registered."
                + (f" Did you mean {meant!r}?" if meant else "")
                + " Pass the function itself, or register it first"
            )
        if function is step.fallback:  # it runs wherever its function can
            step = replace(step, resources=frozenset(), node=None)
        verdicts = self._verdicts(step, name, CallOptions(version=call.version))
        if any(not verdict.reason for verdict in verdicts):
            return
        newest = self._client.offer(name)
        wanted = step.resources | (newest.resources if newest else frozenset())
        held = {
            picture.record.name: picture.record.resources
            for picture in self._client.mirror.nodes
            if picture.record.name in {verdict.node for verdict in verdicts}
        }
        choice = self._router().choose(
            Wanted(name, call.version, step.resources, step.node), self._client.now()
        )
        reason = choice.reason if isinstance(choice, Refused) else ""
        raise NoRoute(name, wanted, held, held=held, pinned=step.node, reason=reason)

    def _verdicts(
        self, step: Step, function: str, options: CallOptions
    ) -> tuple[Verdict, ...]:
        wanted = Wanted(function, options.version, step.resources, step.node)
        return self._router().explain(wanted, self._client.now())


def _check_found(workflow: Workflow, packed: Mapping[str, Packed]) -> None:
    """Check again, if pickling found references inside of other objects."""
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


def _load(verdict: Verdict) -> str:
    load = verdict.reported
    if load is None:
        return ""
    queued = f", {load.queued} queued" if load.queued else ""
    return f"{load.running} of {load.slots} busy{queued}"
