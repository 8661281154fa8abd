"""Arguments that stand for values which Dask has, or has yet to compute.

A Dask collection, a delayed value or a Dask future is no value: where the workers are
those of a Dask cluster, the function gets what it stands for. Dask brings that to the
worker; it does not pass this process. Nodes of mpreg_nb cannot do that, so it is
refused there.
"""

import sys
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import msgspec

from mpreg_nb.errors import NotComputed


class ValueReference:
    """Is pickled as a reference, as the result of a step is."""

    __slots__ = ("path", "step")

    def __init__(self, name: str) -> None:
        self.step = name
        self.path: tuple[Any, ...] = ()

    def __mpreg_reference__(self) -> "ValueReference":
        """Return itself."""
        return self


class Replaced(msgspec.Struct):
    """Arguments with references in the place of what stands for values."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    keys: dict[str, str] = {}
    """Name of a reference -> key of the value."""
    holds: list[object] = []
    """Keeps the values until they are no longer needed."""


def stands_for_value(value: object) -> bool:
    """Return whether `value` is of Dask, and not computed."""
    kind = type(value)
    if hasattr(kind, "__dask_graph__"):
        return value.__dask_graph__() is not None  # type: ignore[attr-defined]
    client = sys.modules.get("distributed.client")
    return client is not None and isinstance(value, client.Future)


class DeferredArguments:
    """Finds such arguments, and refuses them: no Dask cluster runs the calls."""

    def __init__(self) -> None:
        self._number = count()

    async def close(self) -> None:
        """End what was made to have values computed."""

    def submit(self, value: Any, where: str) -> tuple[str, object]:
        """Have a value computed; return its key, and what keeps it while that lives.

        where: the argument that it is in, such as `args[0]`.

        Raises:
            NotComputed: no Dask cluster runs the calls.
        """
        raise NotComputed(where, f"Dask {type(value).__name__}")

    def found(self, *values: object) -> bool:
        """Return whether something stands for a value, in `values` or inside them.

        >>> DeferredArguments().found([1, {"a": 2}])
        False
        """
        # Where nobody has imported Dask, there is nothing to look for.
        return "dask" in sys.modules and any(map(_found, values))

    def replaced(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Replaced:
        """Have all such values in the arguments computed, and refer to them.

        Raises:
            NotComputed: no Dask cluster runs the calls.
        """
        made = Replaced()
        made.args = tuple(
            self._one(made, arg, f"args[{n}]") for n, arg in enumerate(args)
        )
        made.kwargs = {name: self._one(made, arg, name) for name, arg in kwargs.items()}
        return made

    def _one(self, made: Replaced, value: Any, where: str) -> Any:
        kind = type(value)
        if kind in (list, tuple, set):
            return kind(self._one(made, each, where) for each in value)
        if kind is dict:
            return {key: self._one(made, each, where) for key, each in value.items()}
        if kind in _PLAIN or not stands_for_value(value):
            return value
        key, hold = self.submit(value, where)
        name = f"/dask-{next(self._number)}"  # no name of a step has a slash
        made.keys[name] = key
        made.holds.append(hold)
        return ValueReference(name)


_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})


def _found(value: object) -> bool:
    return any(map(stands_for_value, _leaves(value)))


def _leaves(value: object) -> Iterator[object]:
    kind = type(value)
    if kind in (list, tuple, set):
        for each in value:  # type: ignore[attr-defined]
            if type(each) not in _PLAIN:
                yield from _leaves(each)
    elif kind is dict:
        for each in value.values():  # type: ignore[attr-defined]
            if type(each) not in _PLAIN:
                yield from _leaves(each)
    elif kind not in _PLAIN:
        yield value
