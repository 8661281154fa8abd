"""Classes and type parameters across processes: one class for each definition.

A class that cannot be imported is sent by value. Its *key* is the digest of what it
was when it was first sent: a cell that runs again unchanged makes a class of the same
key, and instances of it are instances of the same class in every worker. Its
*revision* is the digest of what it is now; a process that has the class takes the new
content over when the revision differs. The process that defined a class never has it
changed by what comes back.

A class is rebuilt without running code that came with it: no `__new__` of its
metaclass, no `__init_subclass__`, no `__set_name__`, no `__init__` of enum members.
Attributes are set in an order in which instances of the class can be made early: a
method may name such an instance, and a class may hold one.

`typing` pickles type variables and aliases by a name that only the notebook has, so
they are sent by value too. One that comes back to the process that made it is the
same object there.
"""

import abc
import sys
import types
import typing
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import EnumMeta
from threading import get_ident
from typing import Any, TypeAlias
from uuid import uuid4

import msgspec

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
    """Return whether `__new__` takes the arguments of a built-in type."""
    own = (vars(base) for base in cls.__mro__ if is_made_at_run_time(base))
    return not any("__getnewargs__" in o or "__getnewargs_ex__" in o for o in own)


# --------------------------------------------------------------------- apart


def skeleton(cls: type) -> tuple[type, str, tuple[type, ...], Content]:
    """Return metaclass, name, bases, and the attributes needed to create a class."""
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
    """Yield all other attributes of `cls`, in the order to set them."""
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
    """An attribute that receives the class while it is created."""

    made: Any = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.made = owner
        raise _Ready


def make(metaclass: type, name: str, bases: tuple[type, ...], space: Content) -> type:
    """Create a class with only the attributes of its `skeleton`."""
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
    """Set attributes of `cls` without calling its metaclass."""
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
    """Leave out combinations of flags, which are created on demand."""
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


Witness: TypeAlias = tuple[dict[str, Any], str, object]
"""A namespace, a name in it, and what it meant when a class was packed."""

_PLAIN = (int, float, str, bool, bytes, type(None))
_MISSING = object()


class PackedClass(msgspec.Struct, frozen=True):
    """A class pickled by value, and the stamps of what the pickle contains."""

    key: str
    revision: str
    pickle: bytes
    witnesses: tuple[Witness, ...]
    attributes: tuple[object, ...]

    def is_fresh(self, cls: type) -> bool:
        """Whether nothing has been assigned since that this pickle depends on."""
        return self.attributes == _attributes(cls) and all(
            stamp(space.get(name, _MISSING)) == meant
            for space, name, meant in self.witnesses
        )


def stamp(value: object) -> object:
    """Return a stamp that changes when a name is assigned again."""
    return value if type(value) in _PLAIN else id(value)


def _attributes(cls: type) -> tuple[object, ...]:
    return tuple(map(stamp, vars(cls).values()))


class Made(msgspec.Struct, frozen=True):
    """The content that a class from a pickle was filled with."""

    revision: str
    attributes: tuple[object, ...]


_by_key: "weakref.WeakValueDictionary[str, type]" = weakref.WeakValueDictionary()
_keys: "weakref.WeakKeyDictionary[type, str]" = weakref.WeakKeyDictionary()
_packed: "weakref.WeakKeyDictionary[type, PackedClass]" = weakref.WeakKeyDictionary()
_made: "weakref.WeakKeyDictionary[type, Made]" = weakref.WeakKeyDictionary()
_unfilled: dict[tuple[int, int], str] = {}  # thread, id of class -> revision to take


def packed(cls: type) -> PackedClass | None:
    """Return the last pickle of `cls`, or None if `cls` has changed since."""
    known = _packed.get(cls)
    if known is None or not known.is_fresh(cls):
        return None
    if cls not in _made:
        _by_key[known.key] = cls
    return known


def identify(cls: type, digest: str) -> tuple[str, str]:
    """Return key and revision of `cls`, whose content has this digest."""
    key = _keys.setdefault(cls, digest)
    made = _made.get(cls)
    if made is None:
        _by_key[key] = cls  # defined here: of equal ones, the one sent last counts
    elif made.attributes == _attributes(cls):
        return key, made.revision
    return key, digest


def keep(
    cls: type, key: str, revision: str, pickle: bytes, witnesses: Iterable[Witness]
) -> PackedClass:
    """Store the pickle of `cls`."""
    kept = PackedClass(key, revision, pickle, tuple(witnesses), _attributes(cls))
    _packed[cls] = kept
    return kept


def known(
    key: str, module: str, name: str, digest: Callable[[type], str]
) -> type | None:
    """Return the class with `key`, if this process has it.

    A cell that is run again replaces its classes: what the name means now counts.
    A module that is loaded again leaves those that were taken from it before in use:
    the one that was sent counts.
    """
    sent = _by_key.get(key)
    if sent is not None and module != "__main__":
        return sent
    current: Any = sys.modules.get(module)
    for part in name.split("."):
        current = getattr(current, part, None)
    if isinstance(current, type):
        if current not in _keys:
            identify(current, digest(current))
        if _keys[current] == key:
            return current
    return sent


def has(cls: type, revision: str) -> bool:
    """Whether `cls` was defined in this process or has the content of `revision`."""
    made = _made.get(cls)
    return made is None or made.revision == revision


def expect(cls: type | None, key: str, revision: str, make: Callable[[], type]) -> type:
    """Return `cls`, or a new empty class; `fill_piece` and `fill` complete it."""
    if cls is None:
        cls = make()
        _by_key[key] = cls
        _keys[cls] = key
        _made[cls] = Made("", ())
    place = get_ident(), id(cls)
    if has(cls, revision):
        _unfilled.pop(place, None)  # of a pickle that broke off
    else:
        _unfilled[place] = revision
    return cls


def is_being_filled(cls: type) -> bool:
    """Whether the content of `cls` is being set, by this thread."""
    return (get_ident(), id(cls)) in _unfilled


def fill_piece(cls: type, content: dict[str, Any]) -> None:
    """Set a part of the content of `cls`, unless it is set. Pickles call this."""
    if is_being_filled(cls):
        set_contents(cls, content)


def fill(cls: type, _: object) -> None:
    """Mark the content of `cls` as complete. Pickles call this."""
    revision = _unfilled.pop((get_ident(), id(cls)), None)
    if revision is not None:
        _made[cls] = Made(revision, _attributes(cls))


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
    """Return how to reduce `named`; `by_value` says which modules are sent by value."""
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
