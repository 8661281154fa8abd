"""What stands for a step, a part of its result, or an input, in the making."""

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from mpreg_nb.errors import NotPicklable
from mpreg_nb.wire.boundary import public
from mpreg_nb.workflow.graph import (
    Function,
    PathItem,
    Placeholder,
    Reference,
    Step,
    Value,
    shown_path,
)
from mpreg_nb.workflow.options import Options

if TYPE_CHECKING:
    from mpreg_nb.workflow.builder import Flow

RunT = TypeVar("RunT")
PlanT = TypeVar("PlanT")


@public
class _Incomparable(Placeholder):
    """A placeholder that equals nothing: each stands for a result of its own."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        # Lists and dicts take one object for equal by themselves; dataclasses ask.
        if self is other:
            return True
        raise TypeError(
            f"{self!r} cannot be compared: its result exists only when the "
            "workflow runs. Compare inside a function that receives it. To test "
            "whether two names are one step: a is b"
        )

    __hash__ = object.__hash__


class StepHandle(_Incomparable, Generic[RunT, PlanT]):
    """A step of a workflow: it stands for its result, and has the step's modifiers.

    Each modifier changes this step and returns it, so calls can be chained; `step`,
    `map`, `run`, `start` and `plan` are those of the workflow.
    """

    __slots__ = ("_args", "_function", "_kwargs", "_options", "_over", "flow", "name")

    def __init__(
        self,
        flow: "Flow[RunT, PlanT]",
        name: str,
        function: Function,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        over: Value | None = None,
    ) -> None:
        self.flow = flow
        self.name = name
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._over = over
        self._options = Options()

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
    ) -> Self:
        """Retry the step up to `more_attempts` times (0 to 100) after it fails.

        on: retry only after these exceptions and their subclasses; a timeout of the
            step counts as TimeoutError. The loss of a node or a worker process is
            always retried.
        """
        self._options = self._options.retry(more_attempts, on)
        return self

    def timeout(self, seconds: float, /) -> Self:
        """Fail each attempt that has no result `seconds` after it was sent.

        In a map, the time of an item starts when a node starts it.
        """
        self._options = self._options.timeout(seconds)
        return self

    def after(self, *steps: "str | Placeholder") -> Self:
        """Run this step after `steps` (or their names), without using their results.

        If one of them does not succeed, this step is skipped.
        """
        self.flow.check_owner(self.name, steps)
        names = tuple(
            step.__mpreg_reference__().step if isinstance(step, Placeholder) else step
            for step in steps
        )
        self._options = self._options.waiting_for(names)
        return self

    def fallback(self, value_or_function: Any, /) -> Self:
        """Use this value if the step fails after all retries; the workflow continues.

        A function instead of a value is called with the exception, on any node that
        fits the step, and returns the value. If it fails too, or takes longer than
        `timeout`, the step fails.
        """
        self._options = self._options.falling_back(value_or_function)
        return self

    def undo(self, function: Function, /, *args: Any, **kwargs: Any) -> Self:
        """Call `function` if this step is done and the run fails or is cancelled.

        Undo functions run after all steps have ended, one at a time, the last finished
        step first. Each runs where its step may run, with the step's `retry` and
        `timeout`, and cannot be cancelled. The arguments may refer to results of
        finished steps, including this one: `book.undo(cancel, book["id"])`. The run and
        its error list the undo functions that failed. A step that used its fallback is
        not undone.
        """
        self.flow.check_owner(self.name, (args, kwargs))
        self._options = self._options.undoing(function, args, kwargs)
        return self

    def step(
        self, name: str, function: Function, /, *args: Any, **kwargs: Any
    ) -> "StepHandle[RunT, PlanT]":
        """Add another step to the same workflow; see `Flow.step`."""
        return self.flow.step(name, function, *args, **kwargs)

    def map(
        self, name: str, function: Function, /, *, over: Any, **kwargs: Any
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

    def __getitem__(self, key: PathItem) -> "Part":
        """Refer to an item of the result, or where there is none, an attribute."""
        return Part(self, Reference(self.name)[key])

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

    def frozen(self) -> Step:
        """Return the step as it is now."""
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
            over=self._over,
            fallback=self._options.fallback,
            undo=self._options.undo,
        )

    def shown(self) -> str:
        """Return its name, inputs and resources in one line."""
        needed = ", ".join(sorted(self.frozen().dependencies))
        needed_of_node = self._options.resources | self.flow.needs(self._function)
        held = ", ".join(sorted(needed_of_node))
        return (
            self.name
            + (" (map)" if self._over is not None else "")
            + (f" ← {needed}" if needed else "")
            + (f" on {held}" if held else "")
        )

    def __repr__(self) -> str:
        return f"<step {self.shown()}>"

    def _repr_mimebundle_(
        self,
        include: Container[str] | None = None,
        exclude: Container[str] | None = None,
    ) -> Mapping[str, str]:
        # A chain ends in its last step: shown in a notebook, it is the flow.
        return self.flow._repr_mimebundle_(include, exclude)


@public
class Hole(_Incomparable):
    """An input of a whole flow: stands for the value that it is run with."""

    __slots__ = ("flow", "name")

    def __init__(self, flow: "Flow[Any, Any]", name: str) -> None:
        self.flow = flow
        self.name = name

    def __getitem__(self, key: PathItem) -> "Part":
        """Refer to an item of the value, or where there is none, an attribute."""
        return Part(self, Reference(self.name)[key])

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
class Part(_Incomparable):
    """An item or attribute of the result of a step or of an input, at any depth."""

    __slots__ = ("_reference", "whole")

    def __init__(
        self, whole: StepHandle[Any, Any] | Hole, reference: Reference
    ) -> None:
        self.whole = whole
        self._reference = reference

    def __getitem__(self, key: PathItem) -> "Part":
        """Refer to an item of it, or where there is none, an attribute."""
        return Part(self.whole, self._reference[key])

    def __mpreg_reference__(self) -> Reference:
        """Return the reference to send in place of this object."""
        return self._reference

    def __reduce__(self) -> NoReturn:
        self.whole.__reduce__()

    def __repr__(self) -> str:
        kind = "input" if isinstance(self.whole, Hole) else "step"
        return f"<{kind} {self.whole.name}{shown_path(self._reference.path)}>"
