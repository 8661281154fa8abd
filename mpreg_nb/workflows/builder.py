"""The fluent builder: `flow.step(...)`, `.on(...)`, `.run()`, and its handles.

A `Flow` is filled step by step and may be incomplete in between. `freeze()`
turns it into a `Workflow`, which is complete and checked. What then happens to
it is up to the `Runner` that the flow was made with.
"""

import operator
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NoReturn,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
)

from mpreg_nb.boundary import public
from mpreg_nb.errors import InvalidWorkflow, NotPicklable
from mpreg_nb.names import check_name, nearest
from mpreg_nb.workflows.graph import (
    Diagram,
    Needs,
    PathItem,
    Placeholder,
    Reference,
    Step,
    StepFunction,
    StepOptions,
    Value,
    Workflow,
    is_constant,
    no_needs,
    placeholders,
    shown_path,
)

RunT = TypeVar("RunT")
PlanT = TypeVar("PlanT")


@public
class _Incomparable(Placeholder):
    """A placeholder that cannot be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        # Lists and dicts take one object for equal by themselves; dataclasses ask.
        if self is other:
            return True
        return self._no_order(other)

    def _no_order(self, other: object) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be compared: its result exists only when the "
            "workflow runs. Compare inside a function that receives it. To test "
            "whether two names are one step: a is b"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _no_order
    __hash__ = object.__hash__


@public
class StepHandle(_Incomparable, Generic[RunT, PlanT]):
    """A step of a workflow: it stands for its result, and has the step's modifiers.

    Each modifier changes this step and returns it, so calls can be chained; `step`,
    `map`, `run`, `start` and `plan` are those of the workflow.
    """

    __slots__ = (
        "_args",
        "_frozen",
        "_function",
        "_kwargs",
        "_options",
        "_over",
        "flow",
        "name",
    )

    def __init__(
        self,
        flow: "Flow[RunT, PlanT]",
        name: str,
        function: StepFunction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        over: Value | None = None,
    ) -> None:
        self.flow = flow
        """The workflow that the step belongs to."""
        self.name = name
        """The name of the step."""
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._over = over
        self._options = StepOptions()
        self._frozen: tuple[StepOptions, Step] | None = None

    if not TYPE_CHECKING:  # checkers say themselves which attributes there are

        def __getattr__(self, name: str) -> NoReturn:
            text = f"a step has no attribute {name!r}"
            if not name.startswith("_"):  # such are asked for by libraries
                meant = nearest(name, [n for n in dir(self) if not n.startswith("_")])
                text += (
                    f". Did you mean {meant!r}?"
                    if meant
                    else ": its result exists only when the workflow runs. Use "
                    f".{name} inside a function that receives the step"
                )
            raise AttributeError(text, name=name, obj=self)

    def on(self, *resources: str, node: str | None = None) -> Self:
        """Run the step only on nodes that hold all of `resources`, and only on `node`.

        Further calls restrict it further.
        """
        self._options = self._options.on(resources, node)
        return self

    def retry(
        self,
        more_attempts: int,
        on: type[BaseException] | tuple[type[BaseException], ...] = Exception,
        *,
        delay: float | None = None,
        backoff: float = 1.0,
    ) -> Self:
        """Retry the step up to `more_attempts` times (0 to 100) after it fails.

        on: retry only after these exceptions and their subclasses; a timeout of the
            step counts as TimeoutError. The loss of a node or a worker process is
            always retried.
        delay: seconds to wait before the second attempt, 0 to 3600. None waits a
            random time of at most 0.05 s, which doubles with each attempt up to 2 s.
        backoff: factor by which each further delay is longer, 1 to 100; no delay is
            longer than an hour. `.retry(3, delay=1, backoff=2)` waits 1, 2 and 4 s.
        """
        self._options = self._options.retry(more_attempts, on, delay, backoff)
        return self

    def when(self, condition: Placeholder, /) -> Self:
        """Run the step only if `condition` is true; otherwise the step is skipped.

        condition: a step, an input, or a part of the result of one, such as
            `check["alarm"]` or `mp.ref("check")["alarm"]`. Its truth is that of
            Python's `if`, found where the step may run. Further calls add conditions:
            all of them must be true.

        Steps that use the result of a skipped step are skipped too, or have the result
        of their `fallback`. Steps that are only `after` it run. The run can still be
        done: a skipped step is no failure.
        """
        self.flow._check_owner(self.name, (condition,))
        self._options = self._options.when(condition)
        return self

    def timeout(self, seconds: float, /) -> Self:
        """Fail each attempt that has no result `seconds` after it was sent.

        In a map, the time of an item starts when a node starts it. A fallback that is
        a function has as long again.
        """
        self._options = self._options.timeout(seconds)
        return self

    def after(self, *steps: "str | Placeholder") -> Self:
        """Run this step after `steps` (or their names), without using their results.

        If one of them does not succeed, this step is skipped.
        """
        self.flow._check_owner(self.name, steps)
        names = tuple(
            step.__mpreg_reference__().step if isinstance(step, Placeholder) else step
            for step in steps
        )
        self._options = self._options.waiting_for(names)
        return self

    def fallback(self, value_or_function: Any, /) -> Self:
        """Use this value if the step fails after all retries; the workflow continues.

        Also if the step cannot run because `when` skipped a step whose result it uses.
        A function instead of a value is called with the exception, on any node that
        fits the step, and returns the value. If it fails too, or takes longer than
        `timeout`, the step fails.
        """
        self._options = self._options.falling_back(value_or_function)
        return self

    def undo(self, function: StepFunction, /, *args: Any, **kwargs: Any) -> Self:
        """Call `function` if this step is done and the run fails or is cancelled.

        Undo functions run after all steps have ended, one at a time, the last finished
        step first. Each runs where its step may run, with the step's `retry` and
        `timeout`, and cannot be cancelled. The arguments may refer to results of
        finished steps, including this one: `book.undo(cancel, book["id"])`. The run and
        its error list the undo functions that failed. A step that used its fallback is
        not undone.
        """
        self.flow._check_owner(self.name, (args, kwargs))
        self._options = self._options.undoing(function, args, kwargs)
        return self

    def step(
        self, name: str, function: StepFunction, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add another step to the same workflow; see `Flow.step`."""
        return self.flow.step(name, function, *args, **kwargs)

    def map(
        self, name: str, function: StepFunction, /, *, over: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add a step that runs once per item to the same workflow; see `Flow.map`."""
        return self.flow.map(name, function, over=over, **kwargs)

    def run(self, /, **inputs: Any) -> RunT:
        """Execute the whole workflow; see `Flow.run`."""
        return self.flow.run(**inputs)

    def start(self, /, **inputs: Any) -> RunT:
        """Start the whole workflow; see `Flow.start`."""
        return self.flow.start(**inputs)

    def plan(self, /, **inputs: Any) -> PlanT:
        """Return where each step of the workflow would run now; see `Flow.plan`."""
        return self.flow.plan(**inputs)

    def __getitem__(self, key: PathItem) -> "InputPart":
        """Refer to an item of the result, or where there is none, an attribute."""
        return InputPart(self, Reference(self.name)[key])

    def __mpreg_reference__(self) -> Reference:
        """Return the reference to send in place of this object."""
        return Reference(self.name)

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            f"step {self.name!r} of workflow {self.flow.name!r}",
            "it stands for a result that does not exist yet",
            "Pass it as an argument to flow.step(...); outside the workflow use "
            f"run[{self.name!r}]",
        )

    def _freeze(self) -> Step:
        """Return the step as it is now; the same object while nothing can change."""
        if self._frozen is not None and self._frozen[0] is self._options:
            return self._frozen[1]
        constant = not isinstance(self._function, partial) and all(
            map(is_constant, (*self._args, *self._kwargs.values()))
        )
        sides = (self._over, self._options.fallback, self._options.undo)
        constant = constant and all(side is None for side in sides)
        step = Step(
            name=self.name,
            function=self._function,
            args=self._args,
            kwargs=self._kwargs,
            resources=self._options.resources,
            node=self._options.node,
            more_attempts=self._options.more_attempts,
            retry_on=self._options.retry_on,
            delay_s=self._options.delay_s,
            backoff=self._options.backoff,
            timeout_s=self._options.timeout_s,
            after=self._options.after,
            over=self._over,
            conditions=self._options.conditions,
            fallback=self._options.fallback,
            undo=self._options.undo,
            is_constant=constant and not self._options.conditions,
        )
        self._frozen = (self._options, step) if step.is_constant else None
        return step

    def _shown(self) -> str:
        """Return its name, inputs and resources in one line."""
        needed = ", ".join(sorted(self._freeze().dependencies))
        needed_of_node = self._options.resources | self.flow._needs(self._function)
        held = ", ".join(sorted(needed_of_node))
        return (
            self.name
            + (" (map)" if self._over is not None else "")
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


@public
class FlowInput(_Incomparable):
    """An input of a whole flow: stands for the value that it is run with."""

    __slots__ = ("flow", "name")

    def __init__(self, flow: "Flow[Any, Any]", name: str) -> None:
        self.flow = flow
        self.name = name

    def __getitem__(self, key: PathItem) -> "InputPart":
        """Refer to an item of the value, or where there is none, an attribute."""
        return InputPart(self, Reference(self.name)[key])

    def __mpreg_reference__(self) -> Reference:
        """Return the reference to send in place of this object."""
        return Reference(self.name)

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(
            f"input {self.name!r} of workflow {self.flow.name!r}",
            "it stands for a value that each run of the workflow gives",
            "Pass it as an argument to flow.step(...)",
        )

    def __repr__(self) -> str:
        return f"<input {self.name}>"


@public
class InputPart(_Incomparable):
    """An item or attribute of the result of a step or of an input, at any depth."""

    __slots__ = ("_reference", "whole")

    def __init__(
        self, whole: StepHandle[Any, Any] | FlowInput, reference: Reference
    ) -> None:
        self.whole = whole
        self._reference = reference

    def __getitem__(self, key: PathItem) -> "InputPart":
        """Refer to an item of it, or where there is none, an attribute."""
        return InputPart(self.whole, self._reference[key])

    def __mpreg_reference__(self) -> Reference:
        """Return the reference to send in place of this object."""
        return self._reference

    def __reduce__(self) -> NoReturn:
        self.whole.__reduce__()

    def __repr__(self) -> str:
        kind = "input" if isinstance(self.whole, FlowInput) else "step"
        return f"<{kind} {self.whole.name}{shown_path(self._reference.path)}>"


RunT_co = TypeVar("RunT_co", covariant=True)
PlanT_co = TypeVar("PlanT_co", covariant=True)


class Runner(Protocol[RunT_co, PlanT_co]):
    """What can execute a workflow: a cluster, or a stand-in for one."""

    def run(self, workflow: Workflow) -> RunT_co:
        """Execute the workflow, wait for its end, and raise if it failed."""
        ...

    def start(self, workflow: Workflow) -> RunT_co:
        """Start to execute the workflow and return at once."""
        ...

    def plan(self, workflow: Workflow) -> PlanT_co:
        """Return where each step would run now."""
        ...


class Drawable(Protocol):
    """A drawn diagram. Its `str` is a drawing in text."""

    def __str__(self) -> str: ...

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Mapping[str, str]: ...


Draw: TypeAlias = Callable[[Diagram], Drawable]
"""How a flow shows itself in a notebook, such as `mpreg_nb.view.diagram_svg`."""


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
        self._needs = needs
        self.name = check_name("workflow", name)
        """The name of the workflow, and of its runs."""
        self._runner = runner
        self._draw = draw
        self._handles: dict[str, StepHandle[RunT, PlanT]] = {}  # by name, as added
        self._inputs: dict[str, FlowInput] = {}  # likewise
        self._frozen: Workflow | None = None  # if nothing has changed since

    def step(
        self, name: str, function: StepFunction, /, *args: Any, **kwargs: Any
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
        self, name: str, function: StepFunction, /, *, over: Any, **kwargs: Any
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

    def input(self, name: str) -> FlowInput:
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
        return self._inputs.setdefault(name, FlowInput(self, name))

    def replace(
        self, name: str, function: StepFunction, /, *args: Any, **kwargs: Any
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
        function: StepFunction,
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
        self._check_owner(name, (args, kwargs, over and over.value))
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
        in_order = {name: inputs[name] for name in self._inputs}
        steps, known = self._steps(), self._frozen
        if known is not None and not in_order and len(known.steps) == len(steps):
            if all(map(operator.is_, known.steps, steps)):
                return known
        made = Workflow(self.name, steps, in_order)
        self._frozen = made if made.is_constant else None
        return made

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
        return Diagram.of(self.name, self._steps(), self._inputs, self._needs)

    def _steps(self) -> tuple[Step, ...]:
        return tuple(handle._freeze() for handle in self._handles.values())

    def _check_owner(self, step: str, arguments: object) -> None:
        """Raise if an argument of `step` belongs to another flow.

        Raises:
            InvalidWorkflow: one is a step or an input of another.
        """
        for found in placeholders(arguments):
            owner = found.whole if isinstance(found, InputPart) else found
            if isinstance(owner, StepHandle | FlowInput) and owner.flow is not self:
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


def frozen(workflow: Workflow | Flow[Any, Any]) -> Workflow:
    """Return the checked workflow of what was built with `cluster.workflow`.

    Raises:
        InvalidWorkflow: as `Flow.freeze`.
        TypeError: it is no workflow.
    """
    if isinstance(workflow, Flow):
        return workflow.freeze()
    if isinstance(workflow, Workflow):
        return workflow
    raise TypeError(
        f"a workflow is expected, not {type(workflow).__name__}: create one by "
        "cluster.workflow(name), add steps to it, then run it: flow.run()"
    )
