"""How a workflow is written down: `flow.step(...)`, `.on(...)`, `.run()`.

A `Flow` is filled step by step and may be incomplete in between. `freeze()`
turns it into a `Workflow`, which is complete and checked. What then happens to
it is up to the `Runner` that the flow was made with.
"""

from collections.abc import Container, Mapping
from typing import Any, Generic, NoReturn, Self, TypeVar

from mpreg_nb.errors import InvalidWorkflow, NotPicklable
from mpreg_nb.names import check_name
from mpreg_nb.workflow.diagram import Diagram
from mpreg_nb.workflow.graph import (
    Function,
    PathItem,
    Placeholder,
    Reference,
    Step,
    Workflow,
    placeholders,
    shown_path,
)
from mpreg_nb.workflow.options import Options
from mpreg_nb.workflow.runner import Draw, Runner

RunT = TypeVar("RunT")
PlanT = TypeVar("PlanT")


def ref(step: str) -> Reference:
    """Refer to the result of `step`, a step of the same workflow, now or later."""
    return Reference(check_name("step", step))


class Flow(Generic[RunT, PlanT]):
    """A workflow in the making. Shows itself as a drawing."""

    def __init__(
        self, name: str, runner: Runner[RunT, PlanT], *, draw: Draw | None = None
    ) -> None:
        self.name = check_name("workflow", name)
        self._runner = runner
        self._draw = draw
        self._handles: dict[str, StepHandle[RunT, PlanT]] = {}  # by name, as added

    def step(
        self, name: str, function: Function, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add a call of `function`, a callable or a name in the catalog.

        A step object or `ref(name)`, at any depth inside the arguments, stands
        for the result of that step. A string never does.

        Raises:
            InvalidWorkflow: the name is taken, or an argument is a step of
                another workflow.
            TypeError: `function` is neither a callable nor a name.
        """
        check_name("step", name)
        if name in self._handles:
            raise InvalidWorkflow(
                f"workflow {self.name!r} has a step {name!r} already. Use another "
                "name, or begin anew with mp.workflow(...)"
            )
        return self._put(name, function, args, kwargs)

    def replace(
        self, name: str, function: Function, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add a step as `step` does, in the place of the one that has this name.

        Whatever refers to that one refers to the new one from then on.
        """
        return self._put(check_name("step", name), function, args, kwargs)

    def _put(
        self,
        name: str,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> "StepHandle[RunT, PlanT]":
        if isinstance(function, str):
            check_name("function", function)
        elif not callable(function):
            raise TypeError(
                f"step {name!r} needs a function or the name of one, not "
                f"{type(function).__name__}. Its arguments come after it: "
                f"flow.step({name!r}, function, ...)"
            )
        self._check_owner(name, (args, kwargs))
        handle = StepHandle(self, name, function, args, kwargs)
        self._handles[name] = handle
        return handle

    def freeze(self) -> Workflow:
        """Return what was written so far as a checked workflow.

        Raises:
            InvalidWorkflow: some of it could never run; see `Workflow`.
        """
        return Workflow(self.name, self._steps())

    def run(self) -> RunT:
        """Check it, execute it and wait for the end; return the run."""
        return self._runner.run(self.freeze())

    def start(self) -> RunT:
        """Check it and begin to execute it; return the run at once."""
        return self._runner.start(self.freeze())

    def plan(self) -> PlanT:
        """Check it and say where each step would run now."""
        return self._runner.plan(self.freeze())

    def diagram(self) -> Diagram:
        """Return what was written so far as boxes and arrows, complete or not."""
        return Diagram.of(self.name, self._steps())

    def _steps(self) -> tuple[Step, ...]:
        return tuple(handle._frozen() for handle in self._handles.values())

    def _check_owner(self, step: str, arguments: object) -> None:
        for found in placeholders(arguments):
            owner = found._step if isinstance(found, StepPart) else found
            if isinstance(owner, StepHandle) and owner.flow is not self:
                raise InvalidWorkflow(
                    f"step {step!r} refers to {owner.name!r} of another workflow "
                    f"({owner.flow.name!r}, perhaps made by an earlier run of the "
                    f"cell). Add {owner.name!r} to this one first, or refer to it by "
                    f"name: mp.ref({owner.name!r})"
                )

    def __repr__(self) -> str:
        if self._draw is not None:
            return str(self._draw(self.diagram()))
        steps = [handle._shown() for handle in self._handles.values()]
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


class StepHandle(Placeholder, Generic[RunT, PlanT]):
    """A step of a flow: stands for its result, and takes the step's modifiers.

    Each modifier changes this step and returns it, so that they can be chained;
    `step`, `run`, `start` and `plan` go on with the flow.
    """

    __slots__ = ("_args", "_function", "_kwargs", "_options", "flow", "name")

    def __init__(
        self,
        flow: Flow[RunT, PlanT],
        name: str,
        function: Function,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.flow = flow
        self.name = name
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._options = Options()

    def on(self, *resources: str, node: str | None = None) -> Self:
        """Run it only where all of `resources` are held, and only on `node`.

        Called again, it narrows further.
        """
        self._options = self._options.on(resources, node)
        return self

    def retry(
        self,
        more_attempts: int,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    ) -> Self:
        """Try again up to `more_attempts` times (0 to 100) after it failed.

        on: the exceptions to try again after, with their subclasses; a timeout
            of the step counts as TimeoutError. The loss of a node or a worker
            process is tried again after whatever `on` is.
        """
        self._options = self._options.retry(more_attempts, on)
        return self

    def timeout(self, seconds: float, /) -> Self:
        """Fail each attempt that has no result `seconds` after it was sent."""
        self._options = self._options.timeout(seconds)
        return self

    def after(self, *steps: "str | Placeholder") -> Self:
        """Wait also for `steps` (or their names), without taking their results.

        If one of them does not succeed, this step is skipped, as for an input.
        """
        self.flow._check_owner(self.name, steps)
        names = tuple(
            step.__mpreg_reference__().step if isinstance(step, Placeholder) else step
            for step in steps
        )
        self._options = self._options.waiting_for(names)
        return self

    def step(
        self, name: str, function: Function, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add another step to the same flow; see `Flow.step`."""
        return self.flow.step(name, function, *args, **kwargs)

    def run(self) -> RunT:
        """Execute the whole flow; see `Flow.run`."""
        return self.flow.run()

    def start(self) -> RunT:
        """Begin to execute the whole flow; see `Flow.start`."""
        return self.flow.start()

    def plan(self) -> PlanT:
        """Say where each step of the flow would run now; see `Flow.plan`."""
        return self.flow.plan()

    def __getitem__(self, key: PathItem) -> "StepPart":
        """Refer to an item of the result, or where there is none, an attribute."""
        return StepPart(self, ref(self.name)[key])

    def __mpreg_reference__(self) -> Reference:
        """Return the reference to send in place of this object."""
        return Reference(self.name)

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            f"step {self.name!r} of workflow {self.flow.name!r}",
            "it stands for a result that is not there yet",
            "Pass it as an argument of flow.step(...); outside of the workflow use "
            f"run[{self.name!r}]",
        )

    def _frozen(self) -> Step:
        return Step(
            name=self.name,
            function=self._function,
            args=self._args,
            kwargs=self._kwargs,
            resources=self._options.resources,
            node=self._options.node,
            more_attempts=self._options.more_attempts,
            retry_on=self._options.retry_on,
            timeout_s=self._options.timeout_s,
            after=self._options.after,
        )

    def _shown(self) -> str:
        needed = ", ".join(sorted(self._frozen().dependencies))
        held = ", ".join(sorted(self._options.resources))
        return (
            self.name
            + (f" ← {needed}" if needed else "")
            + (f" on {held}" if held else "")
        )

    def __repr__(self) -> str:
        return f"<step {self._shown()}>"

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Mapping[str, str]:
        # A chain ends in its last step: shown in a notebook, it is the flow.
        return self.flow._repr_mimebundle_(include, exclude)


class StepPart(Placeholder):
    """An item or attribute of the result of a step, at any depth."""

    __slots__ = ("_reference", "_step")

    def __init__(self, step: StepHandle[Any, Any], reference: Reference) -> None:
        self._step = step
        self._reference = reference

    def __getitem__(self, key: PathItem) -> "StepPart":
        """Refer to an item of it, or where there is none, an attribute."""
        return StepPart(self._step, self._reference[key])

    def __mpreg_reference__(self) -> Reference:
        """Return the reference to send in place of this object."""
        return self._reference

    def __reduce__(self) -> NoReturn:
        self._step.__reduce__()

    def __repr__(self) -> str:
        return f"<step {self._step.name}{shown_path(self._reference.path)}>"
