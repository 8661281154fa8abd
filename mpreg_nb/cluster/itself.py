"""A decorated function that uses its own name means itself, also while it is shipped.

It is shipped before its name is bound to it; until then the name stands for nothing,
or for what an earlier run of the cell left there.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpreg_nb.cluster.functions import Function

_NOTHING: Any = object()


@contextmanager
def bound_to_itself(function: Function[..., Any]) -> Iterator[None]:
    """Let the own name of `function` stand for it in the block.

    Where the name stands for something else than an older registered function, that
    is what it means, and it is left alone.
    """
    local = function.local
    if not isinstance(local, types.FunctionType):
        yield
        return
    name = local.__name__
    cell = _cell(local, name)
    if cell is not None:
        before = _content(cell)
        replaced = before is _NOTHING or isinstance(before, Function)
        if replaced:
            cell.cell_contents = function
        try:
            yield
        finally:
            if replaced and before is _NOTHING:
                del cell.cell_contents
            elif replaced:
                cell.cell_contents = before
        return
    variables = local.__globals__
    before = variables.get(name, _NOTHING)
    replaced = _uses(local.__code__, name) and (
        before is _NOTHING or isinstance(before, Function)
    )
    if replaced:
        variables[name] = function
    try:
        yield
    finally:
        if replaced and before is _NOTHING:
            variables.pop(name, None)
        elif replaced:
            variables[name] = before


def _cell(function: types.FunctionType, name: str) -> types.CellType | None:
    if name not in function.__code__.co_freevars or function.__closure__ is None:
        return None
    return function.__closure__[function.__code__.co_freevars.index(name)]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _NOTHING


def _uses(code: types.CodeType, name: str) -> bool:
    return name in code.co_names or any(
        _uses(inner, name)
        for inner in code.co_consts
        if isinstance(inner, types.CodeType)
    )
