"""Turns a checked workflow into what a node can drive, and says where it would run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpreg_nb.client.client import Client
from mpreg_nb.client.options import CallOptions
from mpreg_nb.errors import InvalidWorkflow, NoRoute
from mpreg_nb.names import nearest
from mpreg_nb.routing.router import Router, Verdict, Wanted
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.payload import pack_call
from mpreg_nb.wire.runs import RunStart, StepPlan
from mpreg_nb.workflow.graph import Step, Workflow, type_name


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

    def request(self, workflow: Workflow) -> tuple[RunStart, tuple[Buffer, ...]]:
        """Register its functions, pickle its arguments, check it against the cluster.

        Raises:
            InvalidWorkflow: a function is not in the catalog.
            NoRoute: no live node holds what a step asks for.
            NotPicklable: an argument cannot travel.
        """
        plans: list[StepPlan] = []
        parts: list[Buffer] = []
        found: dict[str, list[Any]] = {}
        for step in workflow.steps:
            plan, step_parts, names = self._plan(step)
            found[step.name] = names
            plans.append(plan)
            parts.extend(step_parts)
        workflow.including(found)
        for step, plan in zip(workflow.steps, plans, strict=True):
            self._check(workflow, step, plan)
        request = RunStart(
            id=self._client.new_id(), workflow=workflow.name, steps=tuple(plans)
        )
        return request, tuple(parts)

    def rows(self, workflow: Workflow) -> tuple[PlanRow, ...]:
        """Return where each step would run now. Registers the functions."""
        rows = []
        for step in workflow.steps:
            name, options = self._callee(step)
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

    def _plan(self, step: Step) -> tuple[StepPlan, tuple[Buffer, ...], list[str]]:
        name, options = self._callee(step)
        packed, inputs = pack_call(step.args, dict(step.kwargs), step.inputs)
        payload, parts = self._client.inline(packed)
        timeout_ms = None if step.timeout_s is None else int(step.timeout_s * 1e3)
        plan = StepPlan(
            name=step.name,
            function=name,
            payload=payload,
            parts=len(parts),
            version=options.version,
            resources=step.resources,
            node=step.node,
            inputs=inputs,
            after=step.after,
            attempts=step.more_attempts + 1,
            retry_on=tuple(type_name(cls) for cls in step.retry_on),
            timeout_ms=timeout_ms,
            idempotent=options.idempotent,
        )
        return plan, parts, list(inputs)

    def _callee(self, step: Step) -> tuple[str, CallOptions]:
        if isinstance(step.function, str):
            return step.function, CallOptions()
        return self._registered(step.function)

    def _check(self, workflow: Workflow, step: Step, plan: StepPlan) -> None:
        if isinstance(step.function, str) and self._client.offer(plan.function) is None:
            names = {offer.function for _, offer in self._client.mirror.entries()}
            meant = nearest(plan.function, names)
            raise InvalidWorkflow(
                f"step {step.name!r} of workflow {workflow.name!r} calls "
                f"{plan.function!r}, which nobody has registered."
                + (f" Did you mean {meant!r}?" if meant else "")
                + " Pass the function itself, or register it first"
            )
        options = CallOptions(version=plan.version)
        verdicts = self._verdicts(step, plan.function, options)
        if any(not verdict.reason for verdict in verdicts):
            return
        newest = self._client.offer(plan.function)
        wanted = step.resources | (newest.resources if newest else frozenset())
        held = {
            picture.record.name: picture.record.resources
            for picture in self._client.mirror.nodes
            if picture.record.name in {verdict.node for verdict in verdicts}
        }
        raise NoRoute(plan.function, wanted, held, held=held, pinned=step.node)

    def _verdicts(
        self, step: Step, function: str, options: CallOptions
    ) -> tuple[Verdict, ...]:
        wanted = Wanted(function, options.version, step.resources, step.node)
        return self._router().explain(wanted, self._client.now())


def _load(verdict: Verdict) -> str:
    load = verdict.reported
    if load is None:
        return ""
    queued = f", {load.queued} queued" if load.queued else ""
    return f"{load.running} of {load.slots} busy{queued}"
