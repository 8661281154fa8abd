"""Whether a function can do nothing but return a value.

After each item of a chunk the worker restores what its function may have changed:
environment, folder, signal handlers and the like. That takes longer than a short
function. One of arithmetic and of builtins that have no effects changes nothing if
what it is given are plain values: it reaches no other object. Where that is not sure,
the answer is no.
"""

import builtins
import math
from opcode import opmap
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

from mpreg_nb.serialize.chunks import are_plain

_HARMLESS = {
    name: vars(builtins)[name]
    for name in (
        "abs all any ascii bin bool bytearray bytes chr complex dict divmod enumerate "
        "filter float format frozenset hash hex int isinstance iter len list map max "
        "min next oct ord pow range repr reversed round set slice sorted str sum tuple "
        "zip"
    ).split()
} | {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception)
}

_EFFECTS = bytes(
    number
    for name, number in opmap.items()
    if name.startswith(("IMPORT_", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"))
    or name in ("STORE_NAME", "DELETE_NAME", "STORE_ATTR", "DELETE_ATTR")
    or name == "LOAD_BUILD_CLASS"
)
_OF_OUTER = bytes((opmap["STORE_DEREF"], opmap["DELETE_DEREF"]))

_AWAITED = 0x80 | 0x100 | 0x200
"""Of `inspect`: the flags of coroutine functions and asynchronous generators."""

_FRAMES = frozenset(("gi_frame", "f_globals", "f_builtins", "f_back", "tb_frame"))


def is_pure(function: object) -> bool:
    """Whether calls of `function` with plain values surely change nothing.

    >>> is_pure(lambda x: math.sqrt(x) + 1), is_pure(lambda x: print(x))
    (True, False)
    """
    return _may_be_used(function, set())


def _may_be_used(value: Any, seen: set[int]) -> bool:
    """Whether to use a value changes nothing; `seen`: functions that are looked at."""
    if type(value) is not FunctionType:
        return value is math or are_plain((value,)) or _is_harmless(value)
    if id(value) in seen:
        return True
    seen.add(id(value))
    around = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if vars(value) or not are_plain(around):
        return False
    if vars(builtins) is not value.__builtins__:
        return False
    try:
        closed = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:  # nothing has been assigned to it yet
        return False
    return all(_may_be_used(each, seen) for each in closed) and all(
        _changes_nothing(code, value, seen) for code in _codes(value.__code__)
    )


def _codes(code: CodeType) -> list[CodeType]:
    found = [code]
    for each in code.co_consts:
        if type(each) is CodeType:
            found += _codes(each)
    return found


def _changes_nothing(code: CodeType, function: FunctionType, seen: set[int]) -> bool:
    operations = set(code.co_code[::2])
    effects = _EFFECTS + _OF_OUTER if function.__closure__ else _EFFECTS
    if code.co_flags & _AWAITED or not operations.isdisjoint(effects):
        return False
    return all(_may_be_named(name, function, seen) for name in code.co_names)


def _may_be_named(name: str, function: FunctionType, seen: set[int]) -> bool:
    """Whether a global of this name, and an attribute of any value, is harmless."""
    if name.startswith("_") or name in _FRAMES:
        return False
    if name in function.__globals__:
        return _may_be_used(function.__globals__[name], seen)
    if hasattr(builtins, name) and not _is_harmless(getattr(builtins, name)):
        return False
    return not hasattr(math, name) or _is_harmless(getattr(math, name))


def _is_harmless(value: object) -> bool:
    """Whether this is a builtin without effects, or something of `math`."""
    if type(value) is BuiltinFunctionType:
        return value.__module__ == "math" or _HARMLESS.get(value.__name__) is value
    if type(value) is type:
        return _HARMLESS.get(value.__name__) is value
    return type(value) is float
