"""Commands of one request, whose strings may stand for each other's results."""

import copy
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpreg_nb.names import check_name, check_resources
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.mentions import Others, mention
from mpreg_nb.wire.payload import pack_call
from mpreg_nb.workflow.order import check_order


@dataclass(frozen=True, slots=True)
class RPCCommand:
    """Run the function `fun`, and name the result `name`.

    In `args` and `kwargs`, at any depth of lists, tuples, sets and values of dicts,
    a string that equals the name of another command of the request is replaced by
    its result, and "name.field.sub" by that field of the result. If the field does
    not exist, the string stays, and the command still waits for the other one.
    `args` that is neither a tuple nor a list is one argument. `locs` are resources:
    the command runs on a node where the function and the node have all of them.
    """

    name: str
    fun: str
    args: Any = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    locs: Iterable[str] = frozenset()

    def __post_init__(self) -> None:
        check_name("command", self.name)
        check_name("function", self.fun)
        object.__setattr__(self, "locs", check_resources(self.locs))
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(
                f"kwargs of command {self.name!r} must be a dict of keyword "
                f"arguments, not {type(self.kwargs).__name__}"
            )

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The positional arguments."""
        args = self.args
        return tuple(args) if isinstance(args, tuple | list) else (args,)

    @property
    def resources(self) -> frozenset[str]:
        """The `locs`, checked."""
        return frozenset(self.locs)


@dataclass(frozen=True, slots=True)
class Packed:
    """A command, ready to be sent."""

    command: RPCCommand
    parts: tuple[Buffer, ...]
    inputs: tuple[str, ...]  # commands whose results the parts refer to


def pack_commands(commands: Sequence[RPCCommand]) -> list[Packed]:
    """Find what refers to what, and pickle the arguments.

    Raises:
        InvalidWorkflow: two commands have one name, or they wait for each other.
        NotPicklable: an argument cannot travel.
    """
    names = [command.name for command in commands]
    check_order("of commands", [(name, frozenset()) for name in names])
    known = frozenset(names)
    packed = [_packed(command, Others(known, command.name)) for command in commands]
    waits = [(one.command.name, frozenset(one.inputs)) for one in packed]
    check_order("of commands", waits)
    return packed


def last_commands(packed: Iterable[Packed]) -> list[str]:
    """Return the names of the commands whose results no other command uses."""
    used = {name for one in packed for name in one.inputs}
    return [one.command.name for one in packed if one.command.name not in used]


def _packed(command: RPCCommand, others: Container[str]) -> Packed:
    put = _References(others)
    args = tuple(map(put, command.arguments))
    kwargs = {key: put(value) for key, value in command.kwargs.items()}
    parts, inputs = pack_call(args, kwargs)
    return Packed(command, parts, inputs)


@dataclass(frozen=True, slots=True)
class ResultOf:
    """Stands for the result of command `step`, or the field that `path` leads to."""

    step: str
    path: tuple[str, ...]
    literal: str  # meant where there is no such field

    def __mpreg_reference__(self) -> "ResultOf":
        """Return itself: it has all that a worker must know."""
        return self


class _References:
    """Puts references in the place of strings that are some.

    Containers without any are passed on as they are.
    """

    def __init__(self, names: Container[str]) -> None:
        self._names = names
        self._inside: set[int] = set()  # ids of the containers around a value

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            found = mention(value, self._names)
            return value if found is None else ResultOf(*found, str(value))
        if not isinstance(value, list | tuple | dict | set | frozenset):
            return value
        if id(value) in self._inside:
            return value  # a container that holds itself
        self._inside.add(id(value))
        filled = self._filled(value)
        self._inside.discard(id(value))
        return filled

    def _filled(self, value: Any) -> Any:
        before = list(value.values() if isinstance(value, dict) else value)
        after = list(map(self, before))
        if all(one is other for one, other in zip(before, after, strict=True)):
            return value
        if isinstance(value, tuple):
            named = getattr(value, "_make", tuple)  # of a named tuple
            return named(after)
        if isinstance(value, set | frozenset):
            return type(value)(after)
        twin = copy.copy(value)  # keeps the order, the default, the class
        if isinstance(value, dict):
            twin.update(zip(value, after, strict=True))
        else:
            twin[:] = after
        return twin
