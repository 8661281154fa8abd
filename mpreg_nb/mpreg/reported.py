"""Errors of functions that tell at once which command failed, how, with what types.

The error stays what it is, an instance of the class that was raised too; only what
it says changes. `.original` has what it said before.
"""

import weakref
from collections.abc import Callable
from typing import Any

from mpreg_nb.errors import RemoteError
from mpreg_nb.wire.failure_report import execution_failed
from mpreg_nb.wire.raised import message_of
from mpreg_nb.wire.taken_apart import make

_classes: "weakref.WeakKeyDictionary[type, type]" = weakref.WeakKeyDictionary()


def report(error: RemoteError) -> None:
    """Let `error` say what MPREG says of a function that failed."""
    if "_line" in vars(error):
        return
    told = message_of(error)
    name = error.type_name.removeprefix("builtins.")
    if not told.startswith(name):  # else its class is not here, and it says so itself
        told = f"{name.rpartition('.')[2]}: {told}"
    line = execution_failed(error.function, told, error.argument_types)
    _speaking(error, line)


def _speaking(error: RemoteError, line: str) -> RemoteError:
    vars(error)["_line"] = line
    error.__class__ = _class(type(error))
    return error


def _class(cls: type[RemoteError]) -> type[RemoteError]:
    speaking = _classes.get(cls)
    if speaking is None:
        body = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__str__": _line,
            "__reduce__": _reduce,
            "__reduce_ex__": lambda self, _protocol: _reduce(self),
        }
        speaking = _classes[cls] = make(type(cls), cls.__name__, (cls,), body)
    return speaking


def _line(error: RemoteError) -> str:
    return str(vars(error)["_line"])


def _reduce(error: RemoteError) -> tuple[Any, ...]:
    """Travel as the error before, whose class can be found or made anew."""
    cls: Any = type(error).__bases__[0]
    make, args = cls.__reduce__(error)
    args = tuple(cls if arg is type(error) else arg for arg in args)
    return _again, (make, args, _line(error))


def _again(make: Callable[..., RemoteError], args: Any, line: str) -> RemoteError:
    return _speaking(make(*args), line)
