"""The two functions that every node has, to try the way there and back.

A node does not open arguments, so it answers a call of these with the call's
own payload, marked `builtin`; the caller applies the function to it.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any


def echo(value: Any, /) -> Any:
    """Return `value`."""
    return value


def echos(*values: Any) -> list[Any]:
    """Return all `values`, as a list."""
    return list(values)


BUILTINS: dict[str, Callable[..., Any]] = {"echo": echo, "echos": echos}

BUILTIN_VERSIONS: dict[str, str] = {
    name: sha256(f"builtin\0{name}".encode()).hexdigest()[:32] for name in BUILTINS
}
