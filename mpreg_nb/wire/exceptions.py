"""Exceptions as plain parts, and exceptions made of such parts.

Their classes may refuse attributes, compute `args`, raise for names that they lack,
or want arguments that nobody kept. So none of their code is run: attributes are read
and set as `BaseException` itself does it.
"""

import types
from typing import Any, TypeAlias

from mpreg_nb.wire.taken_apart import is_made_at_run_time, nearest_of_python

Content: TypeAlias = tuple[
    type[BaseException], tuple[Any, ...], dict[str, Any], dict[str, Any]
]
"""Class, arguments, attributes, and those attributes that C code or slots hold."""

_NOT_TAKEN = frozenset({"obj"})  # of AttributeError: any object, of any size
_OWN_WAYS = ("__reduce__", "__reduce_ex__")
_STORED = types.MemberDescriptorType | types.GetSetDescriptorType


def read(error: BaseException, name: str) -> Any:
    """Return what Python keeps of every exception: `args`, `__cause__`, ..."""
    return vars(BaseException)[name].__get__(error)


def put(error: BaseException, name: str, value: object) -> None:
    """Set what Python keeps of every exception."""
    vars(BaseException)[name].__set__(error, value)


def attributes(error: BaseException) -> dict[str, Any]:
    """Return the dictionary of `error`."""
    found: dict[str, Any] = read(error, "__dict__")
    return found


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what tracebacks show of `error`."""
    attributes(error).setdefault("__notes__", []).append(note)


def is_group(error: BaseException) -> bool:
    """Whether `error` has members."""
    return issubclass(type(error), BaseExceptionGroup)


def members(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions that a group is made of; none for others."""
    if not is_group(error):
        return ()
    found: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(
        error
    )
    return found


def content(error: BaseException) -> Content:
    """Return what to make `error` from again, but for the members of a group."""
    args = read(error, "args")
    if is_group(error):
        args = (vars(BaseExceptionGroup)["message"].__get__(error),)
        return type(error), args, attributes(error), {}
    return type(error), args, attributes(error), _stored(error)


def _stored(error: BaseException) -> dict[str, Any]:
    """Return the attributes that are not in the dictionary of `error`."""
    found: dict[str, Any] = {}
    for cls in type(error).__mro__[:-2]:  # without BaseException and object
        for name, member in vars(cls).items():
            if (
                name[:2] == "__"
                or name in _NOT_TAKEN
                or not isinstance(member, _STORED)
            ):
                continue
            try:
                value = member.__get__(error)
            except AttributeError:  # nothing has been assigned to it
                continue
            if value is not None:
                found.setdefault(name, value)
    return found


def make(
    cls: type[BaseException],
    args: tuple[Any, ...],
    inner: tuple[BaseException, ...] = (),
) -> BaseException:
    """Return an exception that has its arguments, and the members of a group."""
    base = nearest_of_python(cls)
    given = (*args, list(inner)) if inner else args
    error: BaseException = base.__new__(cls, *given)
    base.__init__(error, *given)
    if not inner:
        put(error, "args", args)
    return error


def fill(
    error: BaseException, state: tuple[dict[str, Any], dict[str, Any]]
) -> BaseException:
    """Give `error` its attributes."""
    there, stored = state
    attributes(error).update(there)
    for name, value in stored.items():
        for cls in type(error).__mro__:
            member = vars(cls).get(name)
            if isinstance(member, _STORED):
                try:
                    member.__set__(error, value)
                except (AttributeError, TypeError, ValueError):
                    pass  # read-only, and so set from the arguments
                break
    return error


def _has_own_ways(cls: type[BaseException]) -> bool:
    """Whether `cls` says itself how it is pickled."""
    return any(
        is_made_at_run_time(base) and not vars(base).keys().isdisjoint(_OWN_WAYS)
        for base in cls.__mro__
    )


def reduce(error: BaseException, protocol: int) -> Any:
    """Return how to pickle `error`, whatever its `__init__` asks for."""
    if _has_own_ways(type(error)):
        try:
            return error.__reduce_ex__(protocol)
        except Exception:  # noqa: BLE001, S110  a way that fails is none
            pass
    cls, args, state, stored = content(error)
    return make, (cls, args, members(error)), (state, stored), None, None, fill
