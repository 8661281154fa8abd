"""What a workflow is made of: steps, and references to their results.

A reference may stand anywhere inside the arguments of a step. Those inside
lists, tuples, dicts and sets are found here, by looking; those inside other
objects are found when the arguments are pickled, by the method
`__mpreg_reference__` that all placeholders have. See `Workflow.including`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NoReturn, TypeAlias

from mpreg_nb.names import nearest
from mpreg_nb.workflow.order import check_order

PathItem: TypeAlias = Any
"""Taken of a result: the key of an item, or the name of an attribute."""

Function: TypeAlias = Callable[..., Any] | str
"""What a step runs: a callable, or a name in the catalog."""


class Placeholder:
    """Stands for a result, or a part of one, that is not there yet."""

    __slots__ = ()

    def __mpreg_reference__(self) -> "Reference":
        """Return the reference to send in place of this object."""
        raise NotImplementedError

    def __iter__(self) -> NoReturn:
        # Without this, Python would iterate by [0], [1], ... and never end.
        raise TypeError(
            f"{self!r} cannot be iterated: the result is there only when the "
            "workflow runs. Take parts by key, as in step[0], or iterate inside "
            "the function that gets it"
        )

    def __contains__(self, item: object) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be searched with `in`: the result is there only "
            "when the workflow runs. Look inside the function that gets it"
        )


@dataclass(frozen=True, slots=True, repr=False)
class Reference(Placeholder):
    """The result of `step`, or what `path` leads to inside it."""

    step: str
    path: tuple[PathItem, ...] = ()

    def __mpreg_reference__(self) -> "Reference":
        """Return this reference."""
        return self

    def __getitem__(self, key: PathItem) -> "Reference":
        """Refer to an item of it, or where it has no such item, an attribute."""
        if isinstance(key, Placeholder):
            raise TypeError(
                f"{key!r} cannot be a key of {self!r}: keys are plain values. "
                "Look the item up inside the function that gets both"
            )
        return Reference(self.step, (*self.path, key))

    def __repr__(self) -> str:
        return f"<ref {self.step}{shown_path(self.path)}>"

    def resolve(self, result: Any) -> Any:
        """Return what this refers to, given the result of its step.

        Raises:
            LookupError: the result has no such item or attribute.
        """
        return follow(result, self.path, origin=f"the result of step {self.step!r}")


def shown_path(path: Iterable[PathItem]) -> str:
    """Write `path` as it is written in code.

    >>> shown_path(("rows", 0))
    "['rows'][0]"
    """
    return "".join(f"[{key!r}]" for key in path)


def follow(value: Any, path: Iterable[PathItem], *, origin: str = "the result") -> Any:
    """Take one item or attribute after the other, beginning at `value`.

    A key takes the item; where there is no such item and the key could name an
    attribute, it takes that. `origin` is what messages call `value`.

    >>> follow({"rows": [3, 4]}, ("rows", 1))
    4
    >>> follow(1 + 2j, ("imag",))
    2.0

    Raises:
        LookupError: there is neither; the message tells what there is.
    """
    gone: tuple[PathItem, ...] = ()
    for key in path:
        value = _take(value, key, origin + shown_path(gone))
        gone = (*gone, key)
    return value


def _take(value: Any, key: PathItem, place: str) -> Any:
    try:
        return value[key]
    except (LookupError, TypeError):  # TypeError: no items, or none by such a key
        pass
    could_name = isinstance(key, str) and key.isidentifier()
    if could_name and hasattr(value, key):
        return getattr(value, key)
    what = "item or attribute" if could_name else "item"
    raise LookupError(f"{place} has no {what} {key!r}. It is {_described(value, key)}")


def _described(value: Any, key: PathItem) -> str:
    """Say what `value` has, what is most like `key` first."""
    kind = type(value).__name__
    if isinstance(value, Sequence):
        return f"a {kind} of length {len(value)}"
    if isinstance(value, Mapping):
        what, wanted = "keys", repr(key)
        names = [repr(known) for known in islice(value, 1000)]
    else:
        what, wanted = "attributes", str(key)
        names = [name for name in dir(value) if not name.startswith("_")]
    if not names:
        return f"a {kind} without {what}"
    close = nearest(wanted, names)
    shown = [*([close] if close else []), *(name for name in names if name != close)]
    listed = ", ".join(f"{name:.60}" for name in shown[:6])
    return f"a {kind} with the {what} {listed}{', …' if len(shown) > 6 else ''}"


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


def references(value: Any) -> frozenset[Reference]:
    """Return the references inside `value`, as `placeholders` finds them."""
    return frozenset(found.__mpreg_reference__() for found in placeholders(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a workflow. `inputs` and `after` are what it waits for."""

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

    def __post_init__(self) -> None:
        found = {r.step for r in references((self.args, dict(self.kwargs)))}
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
    """Steps that have been checked: each can run once those it waits for have.

    Raises:
        InvalidWorkflow: there is no step, or more than 10,000; two have one name;
            one waits for a step that is not there, or in the end for itself.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        check_order(self.name, [(step.name, step.dependencies) for step in self.steps])

    @property
    def last_steps(self) -> tuple[str, ...]:
        """The names of the steps that no other step waits for."""
        needed = frozenset[str]().union(*(step.dependencies for step in self.steps))
        return tuple(step.name for step in self.steps if step.name not in needed)

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
        return Workflow(self.name, tuple(steps))
