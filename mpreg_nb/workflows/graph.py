"""The graph of a workflow: steps, references, options, validation, and its diagram.

A reference may stand anywhere inside the arguments of a step. Those inside
lists, tuples, dicts and sets are found here, by looking; those inside other
objects are found when the arguments are pickled, by the method
`__mpreg_reference__` that all placeholders have; see `Workflow.including`. Results
are put in their places where the step runs, by `serialize.references`.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import msgspec
from msgspec.structs import replace

from mpreg_nb.boundary import public
from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.names import check_name, name_of, nearest
from mpreg_nb.settings import LONGEST_TIME_S

MOST_STEPS = 10_000
"""In one workflow: a run of so many is still started, shown and kept with ease."""

Waits = tuple[str, Set[str]]
"""The name of a step, and the names of the steps that it waits for."""


def check_order(
    workflow: str, waits: Sequence[Waits], *, mentions: Sequence[Waits] = ()
) -> None:
    """Refuse steps of which some could never run.

    mentions: steps that refer to others without waiting for them, as undo does.

    Raises:
        InvalidWorkflow: there is no step, or more than 10,000; two have one name;
            one waits for a step that is not there, or in the end for itself.
    """
    faults = list(_faults(waits, mentions))
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise InvalidWorkflow(
            f"workflow {workflow!r} cannot run: {'; '.join(faults[:5])}{more}"
        )


def _faults(waits: Sequence[Waits], mentions: Sequence[Waits]) -> Iterable[str]:
    if not waits:
        yield "it has no steps. Add one: flow.step(name, function, ...)"
        return
    if len(waits) > MOST_STEPS:
        yield (
            f"it has {len(waits):,} steps, and a workflow may have {MOST_STEPS:,}. "
            "Give each step more to do, or map() a function over the data"
        )
        return
    counted = Counter(name for name, _ in waits)
    for name, count in counted.items():
        if count > 1:
            yield f"{count} steps are named {name!r}. Give each its own name"
    known = True
    for name, dependencies in (*waits, *mentions):
        for missing in sorted(n for n in dependencies if n not in counted):
            known = False
            yield unknown_step(missing, counted, asker=name)
    if known:
        cycle = find_cycle(dict(waits))
        if len(cycle) == 2:
            yield f"step {cycle[0]!r} waits for itself. Use the result of another step"
        elif cycle:
            yield (
                f"steps wait for each other in a cycle: {_shown(cycle)} (each "
                "gives its result to the next). Remove one of these references"
            )


def _shown(cycle: Sequence[str]) -> str:
    if len(cycle) > 12:
        cycle = [*cycle[:6], f"… {len(cycle) - 9:,} more …", *cycle[-3:]]
    return " → ".join(cycle)


def unknown_step(missing: str, known: Collection[str], *, asker: str) -> str:
    """Return the error for a reference to a missing step, with the existing names."""
    close = nearest(missing, known)
    if close is not None:
        cure = f"Did you mean {close!r}?"
    else:
        shown = ", ".join(sorted(known)[:6]) + (", …" if len(known) > 6 else "")
        cure = f"The steps are: {shown}"
    return (
        f"step {asker!r} refers to {missing!r}, which is not a step of this workflow. "
        f"{cure}"
    )


def find_cycle(dependencies: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """Return one cycle, its first step again at its end, or () where there is none.

    Each step of the answer is waited for by the next. Takes away the steps that
    wait for nothing until none is left (Kahn, CACM 5(11), 1962), without
    recursion: chains may be as long as a workflow.

    >>> find_cycle({"a": {"c"}, "b": {"a"}, "c": {"b"}, "d": {"c"}})
    ('a', 'b', 'c', 'a')
    """
    open_inputs = {name: len(needed) for name, needed in dependencies.items()}
    dependents = dependents_of(dependencies)
    ready = [name for name, count in open_inputs.items() if count == 0]
    while ready:
        name = ready.pop()
        del open_inputs[name]
        for dependent in dependents[name]:
            open_inputs[dependent] -= 1
            if open_inputs[dependent] == 0:
                ready.append(dependent)
    if not open_inputs:
        return ()
    # Whatever is left waits for something that is left: going from step to
    # dependency must come back to a step that was passed.
    passed: dict[str, int] = {}
    trail: list[str] = []
    name = next(iter(open_inputs))
    while name not in passed:
        passed[name] = len(trail)
        trail.append(name)
        name = min(needed for needed in dependencies[name] if needed in open_inputs)
    circle = trail[passed[name] :][::-1]
    first = circle.index(min(circle))
    circle = circle[first:] + circle[:first]
    return (*circle, circle[0])


def dependents_of(dependencies: Mapping[str, Set[str]]) -> dict[str, list[str]]:
    """Return step -> steps that depend on it, from step -> its dependencies."""
    dependents: dict[str, list[str]] = {name: [] for name in dependencies}
    for name, needed in dependencies.items():
        for dependency in needed:
            dependents[dependency].append(name)
    return dependents


PathItem: TypeAlias = Any
"""Taken of a result: the key of an item, or the name of an attribute."""

StepFunction: TypeAlias = Callable[..., Any] | str
"""What a step runs: a callable, or a name in the catalog."""


@public
class Placeholder:
    """Stands for a result, or a part of a result, of a step that has not run."""

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

    def _no_arithmetic(self, *others: object) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be computed with: its result exists only when the "
            "workflow runs. Compute inside a function that receives it"
        )

    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = _no_arithmetic
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = _no_arithmetic
    __floordiv__ = __mod__ = __pow__ = __and__ = __or__ = _no_arithmetic
    __rfloordiv__ = __rmod__ = __rpow__ = __rand__ = __ror__ = _no_arithmetic
    __neg__ = __abs__ = _no_arithmetic


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
    """Return `path` in the syntax of Python.

    >>> shown_path(("rows", 0))
    "['rows'][0]"
    """
    return "".join(f"[{key!r}]" for key in path)


def placeholders(value: Any) -> Iterator[Placeholder]:
    """Yield every placeholder inside `value`, repeated ones each time.

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


def is_constant(value: Any) -> bool:
    """Whether an argument is a reference or a small value that cannot change.

    >>> is_constant(3), is_constant("x" * 100_000), is_constant([3])
    (True, False, False)
    """
    if isinstance(value, str | bytes):
        return type(value) in (str, bytes) and len(value) <= MOST_CONSTANT
    return isinstance(value, Placeholder) or type(value) in CONSTANT


def references(value: Any) -> tuple[Reference, ...]:
    """Return the references inside `value`, as `placeholders` finds them."""
    return tuple(found.__mpreg_reference__() for found in placeholders(value))


CONSTANT = (int, float, complex, bool, type(None))

MOST_CONSTANT = 4096
"""Characters or bytes; longer ones are pickled for each run."""


class Undo(msgspec.Struct, frozen=True):
    """A call that reverses the effect of a step."""

    function: StepFunction
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The steps and inputs that its arguments refer to, sorted."""
        return tuple(sorted({r.step for r in references((self.args, self.kwargs))}))


class Value(msgspec.Struct, frozen=True):
    """A given value; wrapped, because the value may be None."""

    value: Any


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a workflow. `inputs` and `after` are what it waits for.

    A map makes the call once for each item of `over`, with the item before `args`.
    """

    name: str
    function: StepFunction
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    resources: frozenset[str] = frozenset()
    node: str | None = None  # the only node that may run it
    more_attempts: int = 0  # after the first
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    delay_s: float | None = None  # before the second attempt; None: short, by chance
    backoff: float = 1.0  # factor of each further delay
    timeout_s: float | None = None  # of each attempt, queueing included
    after: tuple[str, ...] = ()  # steps to wait for without taking their results
    inputs: tuple[str, ...] = ()  # sorted; those found in the arguments are added
    over: Value | None = None  # None: no map
    conditions: tuple[Reference, ...] = ()  # it runs if all of them are true
    fallback: Value | Callable[..., Any] | None = None  # a callable gets the exception
    undo: Undo | None = None
    is_constant: bool = False  # its arguments are references and values like numbers

    def __post_init__(self) -> None:
        over = None if self.over is None else self.over.value
        found = {r.step for r in references((self.args, dict(self.kwargs), over))}
        inputs = tuple(sorted(found.union(self.inputs)))
        msgspec.structs.force_setattr(self, "inputs", inputs)

    @property
    def dependencies(self) -> frozenset[str]:
        """The names of all steps that must be done before this step starts."""
        return frozenset((*self.used, *self.after))

    @property
    def used(self) -> frozenset[str]:
        """The names of the steps and inputs whose values it takes or looks at."""
        return frozenset((*self.inputs, *(found.step for found in self.conditions)))

    @property
    def condition(self) -> str:
        """What `.when` was given, in Python's syntax."""
        return " and ".join(f"{r.step}{shown_path(r.path)}" for r in self.conditions)

    @property
    def label(self) -> str:
        """The name of the function in a drawing."""
        return label(self.function)


def label(function: StepFunction) -> str:
    """Return the name under which `function` is shown."""
    return function if isinstance(function, str) else name_of(function)


def type_name(cls: type[BaseException]) -> str:
    """Return the name by which `retry(on=...)` compares classes across processes.

    >>> type_name(ValueError)
    'builtins.ValueError'
    """
    return f"{cls.__module__}.{cls.__qualname__}"


class Workflow(msgspec.Struct, frozen=True, weakref=True):
    """A checked workflow: each step can run once the steps that it uses are done.

    `inputs` are values that steps refer to by name, as they refer to results.

    Raises:
        InvalidWorkflow: there is no step, or more than 10,000; two steps have one
            name; a step refers to a missing step; or steps wait for each other.
    """

    name: str
    steps: tuple[Step, ...]
    inputs: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        undos = {step.name: step.undo for step in self.steps}
        self.check_mentions({step: undo.inputs for step, undo in undos.items() if undo})

    @property
    def is_constant(self) -> bool:
        """Whether each run of it sends the same arguments."""
        return not self.inputs and all(step.is_constant for step in self.steps)

    def check_mentions(self, found: Mapping[str, Iterable[str]]) -> None:
        """Raise for steps that can never run; `found` maps steps to references of undo.

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


MOST_RETRIES = 100
"""More would hide a fault instead of riding it out."""

LONGEST_DELAY_S = 3600.0
"""Before one attempt, however fast the delays grow."""

MOST_BACKOFF = 100.0
"""The largest factor between two delays."""


class StepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a step may run, how often, how long, after what, and what if it fails."""

    resources: frozenset[str] = frozenset()
    node: str | None = None
    more_attempts: int = 0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    delay_s: float | None = None
    backoff: float = 1.0
    timeout_s: float | None = None
    after: tuple[str, ...] = ()  # in the order given, each once
    conditions: tuple[Reference, ...] = ()  # likewise
    fallback: Value | Callable[..., Any] | None = None
    undo: Undo | None = None

    def on(self, resources: tuple[str, ...], node: str | None) -> "StepOptions":
        """Return these narrowed to nodes with `resources`, and to `node`."""
        names = frozenset(check_name("resource", name) for name in resources)
        return replace(
            self,
            resources=self.resources | names,
            node=self.node if node is None else check_name("node", node),
        )

    def retry(
        self,
        more_attempts: object,
        on: object,
        delay: object = None,
        backoff: object = 1.0,
    ) -> "StepOptions":
        """Return these with `more_attempts` after exceptions of the classes `on`."""
        if isinstance(more_attempts, bool) or not isinstance(more_attempts, int):
            raise TypeError(
                "retry takes the number of further attempts, a whole number, not "
                f"{type(more_attempts).__name__}: .retry(2)"
            )
        if not 0 <= more_attempts <= MOST_RETRIES:
            raise ValueError(
                f"retry takes 0 to {MOST_RETRIES} more attempts, not {more_attempts}"
            )
        given = on if isinstance(on, tuple) else (on,)
        types = tuple(
            cls
            for cls in given
            if isinstance(cls, type) and issubclass(cls, BaseException)
        )
        if not types or len(types) < len(given):
            raise TypeError(
                "retry(on=...) takes an exception class or a tuple of them, not "
                f"{on!r:.80}: .retry(2, on=ValueError)"
            )
        delay_s = None if delay is None else _in_range("delay", delay, 0.0)
        factor = _in_range("backoff", backoff, 1.0)
        if delay_s is None and factor != 1.0:
            raise TypeError(
                "retry(backoff=...) multiplies a delay, so give the first delay too: "
                f".retry({more_attempts}, delay=0.5, backoff={backoff!r})"
            )
        return replace(
            self,
            more_attempts=more_attempts,
            retry_on=types,
            delay_s=delay_s,
            backoff=factor,
        )

    def when(self, condition: object) -> "StepOptions":
        """Return these with one more condition."""
        if not isinstance(condition, Placeholder):
            if isinstance(condition, str):
                cure = f"mp.ref({condition!r})"
            else:
                cure = "a step whose result it is: .when(check), .when(check['alarm'])"
            raise TypeError(
                "when takes a step, an input, or a part of the result of one, not "
                f"{type(condition).__name__}. Give it {cure}"
            )
        reference = condition.__mpreg_reference__()
        conditions = dict.fromkeys((*self.conditions, reference))
        return replace(self, conditions=tuple(conditions))

    def timeout(self, seconds: object) -> "StepOptions":
        """Return these with at most `seconds` for each attempt."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(
                f"timeout takes seconds, a number, not {type(seconds).__name__}: "
                ".timeout(5)"
            )
        if not 0 < seconds <= LONGEST_TIME_S:
            raise ValueError(
                f"timeout takes seconds above 0, at most {LONGEST_TIME_S:,.0f}, not "
                f"{seconds!r}. Leave .timeout() out for no limit"
            )
        return replace(self, timeout_s=float(seconds))

    def waiting_for(self, steps: tuple[str, ...]) -> "StepOptions":
        """Return these options with `steps` added to the dependencies."""
        names = (check_name("step", step) for step in steps)
        return replace(self, after=tuple(dict.fromkeys((*self.after, *names))))

    def falling_back(self, on: object) -> "StepOptions":
        """Return these with a value, or what a callable returns, after a failure."""
        if callable(on):
            return replace(self, fallback=on)
        if any(True for _ in placeholders(on)):
            raise TypeError(
                "a fallback value cannot refer to results of steps. Give a "
                "function: it receives the exception and returns the value"
            )
        return replace(self, fallback=Value(on))

    def undoing(
        self, function: StepFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "StepOptions":
        """Return these options with a call that reverses the step."""
        if isinstance(function, str):
            check_name("function", function)
        elif not callable(function):
            raise TypeError(
                "undo takes a function or the name of one, then its arguments, not "
                f"{type(function).__name__}: .undo(cancel_booking, step)"
            )
        return replace(self, undo=Undo(function, args, kwargs))


_RANGES = {"delay": ("seconds", LONGEST_DELAY_S), "backoff": ("a factor", MOST_BACKOFF)}


def _in_range(option: str, given: object, least: float) -> float:
    what, most = _RANGES[option]
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError(
            f"retry({option}=...) takes {what}, a number, not "
            f"{type(given).__name__}: .retry(3, delay=0.5, backoff=2)"
        )
    if not least <= given <= most:
        raise ValueError(
            f"retry({option}=...) takes {what} from {least:g} to {most:g}, "
            f"not {given!r}"
        )
    return float(given)


BoxKind: TypeAlias = Literal["step", "map", "input"]
"""A map runs its function once for each item; an input is a hole to be filled."""

Needs: TypeAlias = Callable[[StepFunction], frozenset[str]]
"""Returns the resources that a function was declared or registered with."""


def no_needs(function: StepFunction) -> frozenset[str]:
    """Return the resources of a function where there is no cluster to ask."""
    return frozenset()


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One step, or one input of the whole workflow, as a drawing shows it."""

    name: str
    kind: BoxKind = "step"
    function: str = ""
    resources: tuple[str, ...] = ()  # of the step and of its function
    notes: tuple[str, ...] = ()  # such as "retry 2"
    undo: str = ""  # what takes its effects back when a later step fails
    missing: bool = False  # referred to, and not there (yet)


class Arrow(msgspec.Struct, frozen=True, kw_only=True):
    """`target` waits for `source`, and takes its result unless `order_only`."""

    source: str
    target: str
    order_only: bool = False


class Diagram(msgspec.Struct, frozen=True, kw_only=True):
    """Boxes and arrows to draw; the workflow may be incomplete."""

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
            Arrow(source=source, target=step.name, order_only=source not in step.used)
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
        notes=notes(
            condition=step.condition,
            node=step.node,
            more_attempts=step.more_attempts,
            delay_s=step.delay_s,
            backoff=step.backoff,
            timeout_s=step.timeout_s,
            fallback=""
            if step.fallback is None
            else "a value"
            if isinstance(step.fallback, Value)
            else label(step.fallback),
        ),
        undo="" if step.undo is None else label(step.undo.function),
    )


def _delays(more_attempts: int, delay_s: float | None, backoff: float) -> str:
    """Return when the attempts of a retry come.

    >>> _delays(5, 0.5, 2.0), _delays(2, 1.0, 1.0)
    (' after 0.5, 1, 2 s, …', ' after 1 s each')
    """
    if delay_s is None:
        return ""
    if backoff == 1.0:
        return f" after {delay_s:g} s" + " each" * (more_attempts > 1)
    first = [delay_s * backoff**n for n in range(min(more_attempts, 3))]
    shown = ", ".join(f"{min(delay, LONGEST_DELAY_S):g}" for delay in first)
    return f" after {shown} s" + ", …" * (more_attempts > len(first))


def notes(
    *,
    condition: str,
    node: str | None,
    more_attempts: int,
    delay_s: float | None,
    backoff: float,
    timeout_s: float | None,
    fallback: str,
) -> tuple[str, ...]:
    """Return what the box of a step says of its options.

    fallback: "" for none, "a value", or the name of a function.
    """
    said: list[str] = []
    if condition:
        said.append(f"when {condition}")
    if node is not None:
        said.append(f"only on {node}")
    if more_attempts:
        said.append(f"retry {more_attempts}{_delays(more_attempts, delay_s, backoff)}")
    if timeout_s is not None:
        said.append(f"within {timeout_s:g} s")
    if fallback:
        said.append(f"fallback: {fallback}")
    return tuple(said)
