"""How a workflow is written down: `flow.step(...)`, `.on(...)`, `.run()`.

A `Flow` is filled step by step and may be incomplete in between. `freeze()`
turns it into a `Workflow`, which is complete and checked. What then happens to
it is up to the `Runner` that the flow was made with.
"""

from collections.abc import Container, Mapping
from typing import Any, Generic, TypeVar

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.names import check_name, nearest
from mpreg_nb.wire.boundary import public
from mpreg_nb.workflow.diagram import Diagram, Needs, no_needs
from mpreg_nb.workflow.graph import (
    Function,
    Reference,
    Step,
    Value,
    Workflow,
    placeholders,
)
from mpreg_nb.workflow.handles import Hole, Part
from mpreg_nb.workflow.handles import StepHandle as StepHandle
from mpreg_nb.workflow.runner import Draw, Runner

RunT = TypeVar("RunT")
PlanT = TypeVar("PlanT")


@public
def ref(step: str) -> Reference:
    """Return a reference to the result of `step` of the same workflow.

    The step may be added later. `[...]` takes an item or attribute of the result.
    """
    return Reference(check_name("step", step))


@public
class Flow(Generic[RunT, PlanT]):
    """A workflow that is being written. Shows itself as a drawing."""

    def __init__(
        self,
        name: str,
        runner: Runner[RunT, PlanT],
        *,
        draw: Draw | None = None,
        needs: Needs = no_needs,
    ) -> None:
        self.needs = needs
        self.name = check_name("workflow", name)
        self._runner = runner
        self._draw = draw
        self._handles: dict[str, StepHandle[RunT, PlanT]] = {}  # by name, as added
        self._inputs: dict[str, Hole] = {}  # likewise

    def step(
        self, name: str, function: Function, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add a call of `function`, a callable or the name of a registered function.

        A step object or `ref(name)`, at any depth inside the arguments, is replaced by
        the result of that step. A string never is.

        Raises:
            InvalidWorkflow: the name is taken, or an argument is a step of
                another workflow.
            TypeError: `function` is neither a callable nor a name.
        """
        return self._put(self._new(name), function, args, kwargs)

    def map(
        self, name: str, function: Function, /, *, over: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add a step that calls `function(item, **kwargs)` for each item of `over`.

        over: a step, reference or input whose value has the items, or any iterable.
            At most 10,000 items; they run in parallel on the nodes that fit.

        The result of the step is the list of the results, in the order of the items.
        If an item fails after all retries, the step fails. `retry` and `timeout` apply
        to each item. Raises the errors of `step`.
        """
        if isinstance(over, str):
            raise TypeError(
                "map(over=...) takes a step, a reference or an iterable, not a "
                f"string: over=mp.ref({over!r})"
            )
        return self._put(self._new(name), function, (), kwargs, Value(over))

    def input(self, name: str) -> Hole:
        """Return a placeholder for a value that each run gives: `flow.run(name=...)`.

        It can be an argument wherever a step can, and `[...]` on it takes an item or
        attribute of the value.
        """
        check_name("input", name)
        if name in self._handles:
            raise InvalidWorkflow(
                f"workflow {self.name!r} has a step {name!r}, so no input can have "
                "that name. Use another"
            )
        return self._inputs.setdefault(name, Hole(self, name))

    def replace(
        self, name: str, function: Function, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add a step as `step` does, in place of the step that has this name.

        References to the old step then refer to the new one.
        """
        if name not in self._handles:
            self._new(name)
        return self._put(name, function, args, kwargs)

    def _new(self, name: str) -> str:
        check_name("step", name)
        for a_kind, names in (("a step", self._handles), ("an input", self._inputs)):
            if name in names:
                raise InvalidWorkflow(
                    f"workflow {self.name!r} has {a_kind} {name!r} already. Use "
                    "another name, or start a new workflow: mp.workflow(...)"
                )
        return name

    def _put(
        self,
        name: str,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        over: Value | None = None,
    ) -> "StepHandle[RunT, PlanT]":
        if isinstance(function, str):
            check_name("function", function)
        elif not callable(function):
            raise TypeError(
                f"step {name!r} needs a function or the name of one, not "
                f"{type(function).__name__}. Its arguments come after it: "
                f"flow.step({name!r}, function, ...)"
            )
        self.check_owner(name, (args, kwargs, over and over.value))
        handle = StepHandle(self, name, function, args, kwargs, over)
        self._handles[name] = handle
        return handle

    def freeze(self, /, **inputs: Any) -> Workflow:
        """Return the steps so far as a checked workflow, with values for its inputs.

        Raises:
            InvalidWorkflow: a step could never run, see `Workflow`; an input has no
                value; or there is no input of that name.
        """
        self._check_inputs(inputs)
        return Workflow(self.name, self._steps(), inputs)

    def run(self, /, **inputs: Any) -> RunT:
        """Check the workflow, execute it, wait for its end, and return the run.

        inputs: a value for each input of the workflow.

        Raises:
            InvalidWorkflow: a step could never run, or an input has no value; nothing
                has run.
            WorkflowFailed: steps failed after all retries; `.run` is the run.
        """
        return self._runner.run(self.freeze(**inputs))

    def start(self, /, **inputs: Any) -> RunT:
        """Check the workflow, start it, and return the run at once.

        Raises:
            InvalidWorkflow: as `run`.
        """
        return self._runner.start(self.freeze(**inputs))

    def plan(self, /, **inputs: Any) -> PlanT:
        """Check the workflow and return where each step would run now.

        Columns: step, function, version, resources, candidates, rejected, chosen.

        Raises:
            InvalidWorkflow: a step could never run, or an input has no value.
        """
        return self._runner.plan(self.freeze(**inputs))

    def diagram(self) -> Diagram:
        """Return the steps so far as boxes and arrows, complete or not."""
        return Diagram.of(self.name, self._steps(), self._inputs, self.needs)

    def _steps(self) -> tuple[Step, ...]:
        return tuple(handle.frozen() for handle in self._handles.values())

    def check_owner(self, step: str, arguments: object) -> None:
        """Refuse arguments of `step` that belong to another flow.

        Raises:
            InvalidWorkflow: one is a step or an input of another.
        """
        for found in placeholders(arguments):
            owner = found.whole if isinstance(found, Part) else found
            if isinstance(owner, StepHandle | Hole) and owner.flow is not self:
                raise InvalidWorkflow(
                    f"step {step!r} refers to {owner.name!r} of another workflow "
                    f"({owner.flow.name!r}, perhaps made by an earlier run of the "
                    f"cell). Add {owner.name!r} to this one first, or refer to it by "
                    f"name: mp.ref({owner.name!r})"
                )

    def _check_inputs(self, given: Mapping[str, Any]) -> None:
        faults: list[str] = []
        for name in given:
            if name not in self._inputs:
                meant = nearest(name, self._inputs)
                has = ", ".join(map(repr, sorted(self._inputs))) or "none"
                cure = f"Did you mean {meant!r}?" if meant else f"Its inputs are: {has}"
                faults.append(f"it has no input {name!r}. {cure}")
        faults += [
            f"input {name!r} has no value. Give it one: flow.run({name}=...)"
            for name in self._inputs
            if name not in given
        ]
        if faults:
            raise InvalidWorkflow(
                f"workflow {self.name!r} cannot run: {'; '.join(faults)}"
            )

    def __repr__(self) -> str:
        if self._draw is not None:
            return str(self._draw(self.diagram()))
        steps = [handle.shown() for handle in self._handles.values()]
        more = f"; … {len(steps) - 12} more" if len(steps) > 12 else ""
        return f"<workflow {self.name}: {'; '.join(steps[:12]) or 'no steps'}{more}>"

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Mapping[str, str]:
        if self._draw is None:
            return {"text/plain": repr(self)}
        return self._draw(self.diagram())._repr_mimebundle_(include, exclude)
