"""Classes as plain parts, and classes made of such parts.

A class is made without running any code that came with it: no `__new__` of its
metaclass, no `__init_subclass__`, no `__set_name__`, no `__init__` of enum members.
They ran where the class was defined, and what they did is among its attributes.
Attributes are set in an order in which instances of the class can be made early:
a method may name such an instance, and a class may hold one.
"""

import abc
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import EnumMeta
from typing import Any, TypeAlias

Content: TypeAlias = dict[str, Any]

_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made at run time
_MADE_BY_PYTHON = frozenset({"__weakref__", "__slotnames__", "__annotate_func__"})
_AT_ONCE = ("__class__", "__dict__")  # what a made class takes for its own
_NOT_SET = _MADE_BY_PYTHON.union(_AT_ONCE)
_ABC = "_abc_impl"
_FIRST_LINE = "__firstlineno__"
_BY_VALUE = "_value2member_map_"

# What unpickling an instance may call.
_MAKING = frozenset(
    "__new__ __getnewargs__ __getnewargs_ex__ __init__ __post_init__ __setstate__ "
    "__setattr__ __getattr__ __getattribute__ __hash__ __eq__ __setitem__ "
    "append extend add".split()
)
_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    classmethod,
    staticmethod,
    property,
)


def is_made_at_run_time(cls: type) -> bool:
    """Whether `cls` is no type of the interpreter's own."""
    return bool(cls.__flags__ & _HEAP)


def nearest_of_python(cls: type) -> Any:
    """Return the nearest base of `cls` that is a type of the interpreter's own."""
    return next(base for base in cls.__mro__ if not is_made_at_run_time(base))


def is_made_by_base(cls: type) -> bool:
    """Whether what pickles pass on to `__new__` is what a type of Python's asks for."""
    own = (vars(base) for base in cls.__mro__ if is_made_at_run_time(base))
    return not any("__getnewargs__" in o or "__getnewargs_ex__" in o for o in own)


# --------------------------------------------------------------------- apart


def skeleton(cls: type) -> tuple[type, str, tuple[type, ...], Content]:
    """Return metaclass, name, bases and those attributes that a class begins with."""
    space: Content = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    own = vars(cls)
    if "__slots__" in own:
        hidden = (name for name in ("__dict__", "__weakref__") if name in own)
        space["__slots__"] = (*_members(cls), *hidden)
    for name in _AT_ONCE:
        if isinstance(own.get(name), property):
            space[name] = own[name]
    return type(cls), cls.__name__, cls.__bases__, space


def _members(cls: type) -> list[str]:
    """Return the names of the slots of `cls` itself, as they are mangled."""
    return sorted(
        name
        for name, value in vars(cls).items()
        if isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls
    )


def contents(cls: type, left_out: Collection[str] = ()) -> Iterator[Content]:
    """Yield all other attributes of `cls`, in the order in which to set them."""
    slots = _members(cls) if "__slots__" in vars(cls) else ()
    pieces: tuple[Content, ...] = ({}, {}, {}, {})
    for name in sorted(vars(cls)):
        value = vars(cls)[name]
        if name in slots or name in left_out or name in _NOT_SET:
            continue
        if name == _ABC:
            value = _registered(cls)
        elif name == _BY_VALUE:
            value = _named_only(cls, value)
        pieces[_turn(name, value)][name] = value
    return (piece for piece in pieces if piece)


def _turn(name: str, value: object) -> int:
    if name in _MAKING:
        return 0
    if name[:2] == "__":  # "__dataclass_fields__" and its like
        return 1
    return 2 if isinstance(value, _CODE) else 3


def _registered(cls: type) -> list[type]:
    """Return the classes that count as derived from `cls` by `register`."""
    dump: Any = getattr(abc, "_get_dump")(cls)  # noqa: B009  has no public name
    found = (reference() for reference in dump[0])
    return [one for one in found if one is not None]


# ------------------------------------------------------------------ together


class _Ready(Exception):
    """Ends the making of a class before `__init_subclass__` is called."""


class _Catch:
    """An attribute that gets hold of the class which is being made."""

    made: Any = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.made = owner
        raise _Ready


def make(metaclass: type, name: str, bases: tuple[type, ...], space: Content) -> type:
    """Return a class with no more than the attributes that it begins with."""
    base = nearest_of_python(metaclass)
    if base is not type:  # one of C, with more to a class than its attributes
        made: type = base.__new__(metaclass, name, bases, space)
        return made
    catch = _Catch()
    try:
        type.__new__(metaclass, name, bases, {**space, _CATCH: catch})
    except (_Ready, RuntimeError):  # 3.11 wraps what __set_name__ raises
        if catch.made is None:
            raise
    made = catch.made
    type.__delattr__(made, _CATCH)
    if issubclass(metaclass, abc.ABCMeta):
        getattr(abc, "_abc_init")(made)  # noqa: B009  has no public name
    return made


_CATCH = "__mpreg_catch__"


def set_contents(cls: type, content: Content) -> None:
    """Set attributes of `cls`, past what its metaclass has to say about it."""
    put: Callable[[type, str, Any], None] = nearest_of_python(type(cls)).__setattr__
    for name, value in content.items():
        if name == _ABC:
            for other in value:
                abc.ABCMeta.register(cls, other)  # type: ignore[arg-type]
        else:
            put(cls, name, value)
    if _FIRST_LINE in content:  # 3.13 drops it when __module__ is set
        put(cls, _FIRST_LINE, content[_FIRST_LINE])


# --------------------------------------------------------------------- enums


# %autoreload gives members of the class that it replaces to the class that comes, which
# has its own of the same names. Of two, the one that was sent last is meant.
_sent: "weakref.WeakKeyDictionary[type, dict[str, Any]]" = weakref.WeakKeyDictionary()


def is_member(member: Any, *, as_value: bool) -> bool:
    """Whether `member`, which is sent, is one with a name, or stands for it.

    `as_value`: not as a part of its class, which all of its members are.
    """
    cls = type(member)
    named = vars(cls).get("_member_map_", {}).get(member._name_ or "")
    if named is member:
        if as_value:
            _sent.get(cls, {}).pop(member._name_, None)
        return True
    if named is None or named._value_ != member._value_:
        return False
    _sent.setdefault(cls, {})[member._name_] = member
    return True


def _is_named(cls: type, value: object) -> bool:
    members: Content = vars(cls).get("_member_map_", {})
    return members.get(getattr(value, "_name_", None) or "") is value


def _named_only(cls: type, values: dict[Any, Any]) -> dict[Any, Any]:
    """Leave out combinations of flags, which are made as they are asked for."""
    if not isinstance(cls, EnumMeta):
        return values
    return {key: one for key, one in values.items() if _is_named(cls, one)}


def member_parts(member: Any) -> tuple[tuple[type, str, tuple[Any, ...]], Content]:
    """Return what to make a member from, and the attributes to give it."""
    cls = type(member)
    base = nearest_of_python(cls)
    args: tuple[Any, ...] = ()
    if base is not object:
        given = getattr(base, "__getnewargs__", None)
        args = given(member) if given is not None else base.__reduce__(member)[1]
    state = {**vars(member), **_in_slots(member)}
    return (cls, member._name_, args), state


def _in_slots(member: Any) -> Content:
    names = (name for cls in type(member).__mro__ for name in _members(cls))
    return {name: getattr(member, name) for name in names if hasattr(member, name)}


def make_member(cls: Any, name: str, args: Iterable[Any]) -> Any:
    """Return the member `name` of an enum, without attributes where it is new."""
    sent = _sent.get(cls, {}).get(name)
    if sent is not None:
        return sent
    known = vars(cls).get("_member_map_", {}).get(name)
    return nearest_of_python(cls).__new__(cls, *args) if known is None else known


def fill_member(member: Any, state: Content) -> None:
    """Give a new member its attributes."""
    if "_value_" not in vars(member):
        for name, value in state.items():
            object.__setattr__(member, name, value)
