"""References to results of steps, inside the pickle of a step's arguments.

Each becomes a persistent id, at any depth in any object, and the worker puts the
result, or the part of it that is meant, in its place.
"""

import pickle
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, Protocol, Self, TypeAlias

MARK = "__mpreg_reference__"
"""The method of a placeholder that returns the reference it stands for."""

Pid: TypeAlias = tuple[int, str, tuple[Any, ...], str | None]
"""Number of the input, its step's name, the path into it, and the literal."""


class StepResult(Protocol):
    """The target of a placeholder: a `step`, and the `path` into its result.

    With a `literal` that is not None, the path follows only keys of dicts, and
    where one is missing the literal is meant.
    """

    @property
    def step(self) -> str:
        """The name of the step."""

    @property
    def path(self) -> tuple[Any, ...]:
        """Keys, indices and names of attributes, one after the other."""


class Referring:
    """A mixin for picklers that writes placeholders as references."""

    _numbers: dict[str, int]  # steps in the order of their first mention

    def refer(self, steps: Iterable[str] = ()) -> Self:
        """Assign the first numbers to `steps`; must be called first."""
        self._numbers = {step: number for number, step in enumerate(steps)}
        return self

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps referred to; the worker gets their results in this order."""
        return tuple(self._numbers)

    def persistent_id(self, value: object) -> Pid | None:
        """Return what to write for `value`, if it is a placeholder."""
        placeholder = getattr(type(value), MARK, None)
        if placeholder is None:
            return None
        reference: StepResult = placeholder(value)
        step = reference.step
        number = self._numbers.setdefault(step, len(self._numbers))
        literal: str | None = getattr(reference, "literal", None)
        return number, step, tuple(reference.path), literal


class ReferringPickler(Referring, pickle.Pickler):
    """A plain pickler that writes placeholders as references."""


class Resolving(pickle.Unpickler):
    """An unpickler that replaces references by results.

    `missing` is set when a result lacks what was referred to.
    """

    def __init__(
        self, parts: Sequence[Any], inputs: Sequence[Any], unpack: Any
    ) -> None:
        super().__init__(BytesIO(parts[0]), buffers=parts[1:])
        self._inputs = inputs
        self._unpack = unpack
        self._values: dict[int, Any] = {}  # number of an input -> its value
        self.missing: LookupError | None = None

    def persistent_load(self, pid: Pid) -> Any:
        """Return what `pid` refers to."""
        number, step, path, literal = pid
        if number not in self._values:
            name = f"the result of step {step!r}"
            self._values[number] = self._unpack(self._inputs[number], name=name)
        value = self._values[number]
        if literal is not None:
            return by_keys(value, path, literal)
        try:
            return follow(value, path, step)
        except LookupError as error:
            self.missing = error
            raise


def by_keys(value: Any, path: Sequence[Any], literal: str) -> Any:
    """Follow keys of dicts only; `literal` where one is missing.

    >>> by_keys({"a": {"b": 1}}, ("a", "b"), "x.a.b")
    1
    >>> by_keys({"a": 5}, ("a", "b"), "x.a.b")
    'x.a.b'
    """
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return literal
        value = value[key]
    return value


def follow(value: Any, path: Sequence[Any], step: str) -> Any:
    """Follow a path by items, or by attributes where there is no such item.

    >>> follow({"rows": [3, 4]}, ("rows", 1), "load")
    4
    >>> follow(1 + 2j, ("imag",), "load")
    2.0

    Raises:
        LookupError: there is neither.
    """
    for depth, key in enumerate(path):
        try:
            value = value[key]
            continue
        except (LookupError, TypeError):  # TypeError: no items, or none by such keys
            if isinstance(key, str) and key.isidentifier() and hasattr(value, key):
                value = getattr(value, key)
                continue
        where = "".join(f"[{gone!r}]" for gone in path[:depth])
        has = f" with the keys {list(value)[:10]!r}" if isinstance(value, dict) else ""
        raise LookupError(
            f"the result of step {step!r}{where} has no item or attribute {key!r}. "
            f"It is of type {type(value).__name__}{has}"
        )
    return value
