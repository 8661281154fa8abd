"""The line that says at once what failed: command, error, types of the arguments.

The types are those that the function was really given, with results of other
commands in their places, so the process that ran it tells them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpreg_nb.errors import NotPicklable
from mpreg_nb.wire.raised import shortened

MOST_TYPES = 32
LONGEST_TYPE = 128
LONGEST_REPORT = 2000
"""Characters of the error in one line; the whole of it travels beside."""


def unpicklable(error: NotPicklable) -> str:
    """Return the message of a result that cannot travel: reason, and cure if any.

    The cure is in a line of its own, so that the caller can tell them apart.

    >>> unpicklable(NotPicklable("result: Lock", "it is locked"))
    'result: Lock: it is locked'
    """
    reason = f"{error.path}: {error.reason}".replace("\n", " ")
    return f"{reason}\n{error.cure}" if error.cure else reason


def argument_types(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the types, those of keyword arguments with their keyword.

    >>> argument_types(("test", [1]), {"limit": 3})
    ('str', 'list', 'limit=int')
    """
    names = [type(value).__name__ for value in args[: MOST_TYPES + 1]]
    for key, value in kwargs.items():
        if len(names) > MOST_TYPES:
            break
        names.append(f"{key}={type(value).__name__}")
    if len(names) > MOST_TYPES:
        names[MOST_TYPES:] = ["..."]
    return tuple(shortened(name, LONGEST_TYPE) for name in names)


def execution_failed(command: str, error: str, types: Iterable[str]) -> str:
    """Return the line about a function that raised; `error` is "Class: message".

    >>> print(execution_failed("add", "KeyError: 1", ["str", "set"]))
    Function execution failed: command=add, error=KeyError: 1, args_types=['str', 'set']
    """
    told = shortened(error, LONGEST_REPORT)
    return one_line(
        f"Function execution failed: command={command}, error={told}, "
        f"args_types={list(types)}"
    )


def one_line(text: str) -> str:
    r"""Return `text` with its control characters written out.

    >>> one_line("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
