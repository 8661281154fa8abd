"""What a function is when it travels: its parts, its version and its card."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mpreg_nb.wire.culprit import type_name

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer
    from mpreg_nb.wire.witnesses import Witnesses

SIGNATURE_LENGTH = 300
DOC_LENGTH = 2000
"""Longest texts of a card; they travel with the catalog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One global or closure variable that travels with a function."""

    name: str
    type_name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A function, ready to be registered."""

    parts: "tuple[Buffer, ...]"
    version: str  # 32 hexadecimal digits; equal code and captures, equal version
    captures: tuple[Capture, ...]
    signature: str  # "(rows, lr=0.1)"
    doc: str
    size_bytes: int  # of all parts
    sources: Mapping[str, str]  # file name of a cell -> its text; travels along
    python: str = ""  # minor version that alone runs it; "" where all is imported
    witnesses: "Witnesses"  # tell whether it still is what was packed


def name_of(function: Any) -> str:
    """Return the name of a function, or of what a partial or object calls.

    >>> name_of(partial(len)), name_of(name_of)
    ('len', 'name_of')
    """
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if name and isinstance(name, str) else type(function).__name__


def described(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the signature and the documentation of `function`, cut to length."""
    try:
        signature = str(inspect.signature(function))
    except (TypeError, ValueError):  # builtins need not have one
        signature = "(...)"
    if len(signature) > SIGNATURE_LENGTH:
        signature = f"{signature[: SIGNATURE_LENGTH - 4]}...)"
    return signature, (inspect.getdoc(function) or "")[:DOC_LENGTH]


def captures(
    taken: Mapping[str, object], size: Callable[[object], int]
) -> tuple[Capture, ...]:
    """Return those of the `taken` variables that are data, largest first."""
    found = [
        Capture(name=name, type_name=type_name(type(value)), size_bytes=size(value))
        for name, value in taken.items()
        if not _is_code(value)
    ]
    return tuple(sorted(found, key=lambda capture: (-capture.size_bytes, capture.name)))


def _is_code(value: object) -> bool:
    code = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
    # Decorated functions count as what they wrap; of locks only new ones travel.
    return (
        isinstance(value, code)
        or hasattr(value, "__wrapped__")
        or type(value).__module__ in ("typing", "_thread")
    )
