"""What a workflow is made of: steps, and references to their results.

A reference may stand anywhere inside the arguments of a step. Those inside
lists, tuples, dicts and sets are found here, by looking; those inside other
objects are found when the arguments are pickled, by the method
`__mpreg_reference__` that all placeholders have; see `Workflow.including`. Results
are put in their places where the step runs, by `wire.references`.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeAlias

from mpreg_nb.workflow.order import check_order

PathItem: TypeAlias = Any
"""Taken of a result: the key of an item, or the name of an attribute."""

Function: TypeAlias = Callable[..., Any] | str
"""What a step runs: a callable, or a name in the catalog."""


class Placeholder:
    """Stands for a result, or a part of one, that is not there yet."""

    __slots__ = ()

    @abstractmethod
    def __mpreg_reference__(self) -> "Reference":
        """Return the reference to send in place of this object."""

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} has no truth value: its result exists only when the "
            "workflow runs. Test the result inside a function that receives it. "
            "To test whether a step exists: step is not None"
        )

    def __iter__(self) -> NoReturn:
        # Without this, Python would iterate by [0], [1], ... and never end.
        raise TypeError(
            f"{self!r} cannot be iterated: the result exists only when the workflow "
            "runs. Take parts by key, as in step[0], or iterate inside the function "
            "that receives it"
        )

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be searched with `in`: the result exists only when the "
            "workflow runs. Search inside the function that receives it"
        )


@dataclass(frozen=True, slots=True, repr=False)
class Reference(Placeholder):
    """The result of `step`, or what `path` leads to inside it."""

    step: str  # or the name of an input of the whole workflow
    path: tuple[PathItem, ...] = ()

    def __mpreg_reference__(self) -> "Reference":
        """Return this reference."""
        return self

    def __getitem__(self, key: PathItem) -> "Reference":
        """Refer to an item of it, or where it has no such item, an attribute."""
        if isinstance(key, Placeholder):
            raise TypeError(
                f"{key!r} cannot be a key of {self!r}: keys are plain values. "
                "Take the item inside a function that receives both"
            )
        return Reference(self.step, (*self.path, key))

    def __repr__(self) -> str:
        return f"<ref {self.step}{shown_path(self.path)}>"


def shown_path(path: Iterable[PathItem]) -> str:
    """Write `path` as it is written in code.

    >>> shown_path(("rows", 0))
    "['rows'][0]"
    """
    return "".join(f"[{key!r}]" for key in path)


def placeholders(value: Any) -> Iterator[Placeholder]:
    """Yield every placeholder inside `value`, each as often as it stands there.

    Looks into lists, tuples, dicts (their keys too), sets and frozensets, at any
    depth, into each object once, so that cycles end. Strings are never references.
    """
    seen: set[int] = set()  # ids; all stay alive, being inside of `value`
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, Placeholder):
            yield inner
        elif isinstance(inner, (list, tuple, set, frozenset, dict)):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            if isinstance(inner, dict):
                pending.extend(inner.values())
            pending.extend(inner)


def references(value: Any) -> tuple[Reference, ...]:
    """Return the references inside `value`, as `placeholders` finds them."""
    return tuple(found.__mpreg_reference__() for found in placeholders(value))


@dataclass(frozen=True, slots=True)
class Undo:
    """A call that takes back what a step did."""

    function: Function
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The steps and inputs that its arguments refer to, sorted."""
        return tuple(sorted({r.step for r in references((self.args, self.kwargs))}))


@dataclass(frozen=True, slots=True)
class Value:
    """A value that is given; in a type of its own, for it may be None."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a workflow. `inputs` and `after` are what it waits for.

    A map makes the call once for each item of `over`, with the item before `args`.
    """

    name: str
    function: Function
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    resources: frozenset[str] = frozenset()
    node: str | None = None  # the only node that may run it
    more_attempts: int = 0  # after the first
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    timeout_s: float | None = None  # of each attempt, queueing included
    after: tuple[str, ...] = ()  # steps to wait for without taking their results
    inputs: tuple[str, ...] = ()  # sorted; those found in the arguments are added
    over: Value | None = None  # None: no map
    fallback: Value | Callable[..., Any] | None = None  # a callable gets the exception
    undo: Undo | None = None

    def __post_init__(self) -> None:
        over = None if self.over is None else self.over.value
        found = {r.step for r in references((self.args, dict(self.kwargs), over))}
        inputs = tuple(sorted(found.union(self.inputs)))
        object.__setattr__(self, "inputs", inputs)

    @property
    def dependencies(self) -> frozenset[str]:
        """The names of all steps that have to be done before this one begins."""
        return frozenset((*self.inputs, *self.after))

    @property
    def label(self) -> str:
        """What to call the function in a drawing."""
        return label(self.function)


def label(function: Function) -> str:
    """Return the name of `function`, or of its type where it has none."""
    if isinstance(function, str):
        return function
    inner = getattr(function, "func", function)  # functools.partial has no name
    return str(getattr(inner, "__name__", type(function).__name__))


def type_name(cls: type[BaseException]) -> str:
    """Return the name by which `retry(on=...)` compares classes across processes.

    >>> type_name(ValueError)
    'builtins.ValueError'
    """
    return f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True, slots=True)
class Workflow:
    """A checked workflow: each step can run once the steps that it uses are done.

    `inputs` are values that steps refer to by name, as they refer to results.

    Raises:
        InvalidWorkflow: there is no step, or more than 10,000; two steps have one
            name; a step refers to a missing step; or steps wait for each other.
    """

    name: str
    steps: tuple[Step, ...]
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        undos = {step.name: step.undo for step in self.steps}
        self.check_mentions({step: undo.inputs for step, undo in undos.items() if undo})

    @property
    def last_steps(self) -> tuple[str, ...]:
        """The names of the steps that no other step waits for."""
        needed = frozenset[str]().union(*(step.dependencies for step in self.steps))
        return tuple(step.name for step in self.steps if step.name not in needed)

    def check_mentions(self, found: Mapping[str, Iterable[str]]) -> None:
        """Refuse what could never run; `found` maps steps to what undo refers to.

        Raises:
            InvalidWorkflow: as the making of a workflow does.
        """
        given = self.inputs.keys()
        check_order(
            self.name,
            [(step.name, step.dependencies - given) for step in self.steps],
            mentions=[
                (step, frozenset(names) - given) for step, names in found.items()
            ],
        )

    def including(self, found: Mapping[str, Iterable[str]]) -> "Workflow":
        """Return this workflow with inputs that only pickling could find.

        `found` maps names of steps to the names of the steps that their arguments
        refer to. Raises InvalidWorkflow as the making of a workflow does.
        """
        steps = (
            replace(step, inputs=(*step.inputs, *found[step.name]))
            if step.name in found
            else step
            for step in self.steps
        )
        return Workflow(self.name, tuple(steps), self.inputs)
