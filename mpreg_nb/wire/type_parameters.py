"""How names for types are written that other processes cannot import.

`typing` pickles these by the name that they were given, which only the notebook
has. A name that comes back to the process that made it is the same object there.
"""

import sys
import typing
import weakref
from collections.abc import Callable
from typing import Any
from uuid import uuid4

_marks: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()
_marked: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()


def _mark(named: Any) -> str:
    mark = _marks.setdefault(named, uuid4().hex)
    _marked.setdefault(mark, named)
    return mark


def _is_importable(named: Any, by_value: Callable[[str], bool]) -> bool:
    module = named.__module__
    if module in (None, "__main__") or by_value(module):
        return False
    return getattr(sys.modules.get(module), named.__name__, None) is named


def reduce_named(named: Any, by_value: Callable[[str], bool]) -> Any:
    """Return how to write `named`; `by_value` tells which modules nobody imports."""
    if _is_importable(named, by_value):
        return str(named.__name__)
    kind = type(named)
    if kind is typing.NewType:
        content: tuple[Any, ...] = (named.__supertype__,)
    elif kind.__name__ == "TypeAliasType":
        return _reduce_alias(named)
    else:
        content = _parameter(named)
    place = (kind, named.__name__, named.__module__, _mark(named), *content)
    return make_named, place


def _parameter(named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what else to make a TypeVar, ParamSpec or TypeVarTuple from."""
    options: dict[str, Any] = {}
    if not isinstance(named, typing.TypeVarTuple):
        options = {
            "bound": named.__bound__,
            "covariant": named.__covariant__,
            "contravariant": named.__contravariant__,
        }
        if getattr(named, "__infer_variance__", False):
            options["infer_variance"] = True
    if sys.version_info >= (3, 13) and named.has_default():
        options["default"] = named.__default__
    return getattr(named, "__constraints__", ()), options


def make_named(kind: Any, name: str, module: str, mark: str, *content: Any) -> Any:
    """Return a name for a type. Pickles call this."""
    known = _marked.get(mark)
    if known is not None:
        return known
    if kind is typing.NewType:
        made = kind(name, *content)
    else:
        constraints, options = content
        made = kind(name, *constraints, **options)
    made.__module__ = module
    _marks[made] = mark
    return _marked.setdefault(mark, made)


def _reduce_alias(alias: Any) -> Any:
    place = alias.__name__, alias.__module__
    if alias.__type_params__:
        return make_generic_alias, (*place, alias.__type_params__, alias.__value__)
    box: list[Any] = []
    state = (box, alias.__value__)
    return make_alias, (*place, box), state, None, None, fill_alias


def make_alias(name: str, module: str, box: list[Any]) -> Any:
    """Return what a `type` statement makes, with the value that will be in `box`.

    Only the statement takes a value that may name the alias. Pickles call this.
    """
    space: dict[str, Any] = {"__name__": module, "box": box}
    exec(f"type {name} = box[0]", space)  # noqa: S102  a name that was one before
    return space[name]


def fill_alias(_: object, state: tuple[list[Any], Any]) -> None:
    """Give an alias its value. Pickles call this."""
    box, value = state
    box.append(value)


def make_generic_alias(
    name: str, module: str, parameters: tuple[Any, ...], value: Any
) -> Any:
    """Return what a `type` statement with parameters makes. Pickles call this."""
    # An alias is of the module whose code makes it.
    space = {"__name__": module, "make": getattr(typing, "TypeAliasType")}  # noqa: B009
    given = {"name": name, "value": value, "parameters": parameters}
    return eval("make(name, value, type_params=parameters)", space, given)  # noqa: S307


KINDS: tuple[type, ...] = (
    typing.TypeVar,
    typing.ParamSpec,
    typing.TypeVarTuple,
    typing.NewType,
    *(
        getattr(typing, name)
        for name in ("TypeAliasType",)  # since 3.12
        if hasattr(typing, name)
    ),
)
"""The types of such names."""
