"""How a pickler writes what other processes cannot import.

cloudpickle writes functions of `__main__` by value. This adds: modules beside the
notebook; classes (`wire.taken_apart`), which stay the same class everywhere
(`wire.classes`); enum members, types of `typing`, caches, locks and sentinels of the
standard library that pickle stumbles over.
"""

import dataclasses
import functools
import importlib
import sys
import threading
import types
import weakref
from collections.abc import Callable
from enum import Enum, auto
from io import BytesIO
from typing import Any, ClassVar

from mpreg_nb.wire import classes, exceptions, taken_apart, type_parameters
from mpreg_nb.wire.digest import digest, read
from mpreg_nb.wire.imports import imported
from mpreg_nb.wire.modules import Census, is_installed_file

PROTOCOL = 5

census = Census()


class Form(Enum):
    """How classes by value are written."""

    APART = auto()  # as a pickle of their own, remembered: for arguments and results
    WHOLE = auto()  # in the stream, sharing what they use with it: for functions
    NAMELESS = auto()  # in the stream, without key and revision: for digests


class ByValue:
    """To stand before cloudpickle's pickler among the bases of a pickler."""

    # What unpickling calls for a class written apart, and for one in the stream;
    # and of cloudpickle, whether others can import a class, and how to write a
    # function by value. Set by the pickler.
    find_class: Callable[..., type]
    expect_class: Callable[..., type]
    is_importable: Callable[[type], bool]
    reduce_function: Any
    global_names: Callable[[types.CodeType], tuple[str, ...]]
    dispatch_table: ClassVar[Any]

    def __init__(
        self, file: BytesIO, keep: Any = None, *, form: Form = Form.APART
    ) -> None:
        super().__init__(file, PROTOCOL, keep)  # type: ignore[call-arg]
        self.form = form
        self.classes: list[type] = []  # that were written by value
        self.taken: dict[str, object] = {}  # variables of functions by value
        self.imports: set[str] = set()  # modules that those may import as they run
        self.compiled = False  # whether there is code, which is bound to one Python
        self.witnesses: list[classes.Witness] = []
        # By id, with the names of the globals that they read.
        self.functions: dict[int, tuple[types.FunctionType, tuple[str, ...]]] = {}
        self.modules: list[types.ModuleType] = []  # that were written by value
        self._locks: set[int] = set()  # ids of those that modules of the user's hold

    def reducer_override(self, obj: Any) -> Any:
        """Return how to write `obj`, where that is a matter of this module."""
        kind = type(obj)  # isinstance() would ask `obj` too, which may raise
        if issubclass(kind, type):
            return self._class(obj)
        if issubclass(kind, types.ModuleType) and census.owns(obj.__name__):
            self._free_locks(vars(obj))
            self.modules.append(obj)
            return reduce_module(obj)
        if id(obj) in self._locks:
            return _LOCKS[type(obj)], ()
        if kind is types.FunctionType:
            if census.owns(obj.__module__):
                self._free_locks(obj.__globals__)
                reduced: Any = self.reduce_function(obj)
            else:
                reduced = super().reducer_override(obj)  # type: ignore[misc]
            if isinstance(reduced, tuple):
                self._note(obj, reduced[2][1])
            return reduced
        if kind is _Piece:
            return classes.fill_piece, (obj.of, obj.content)
        if issubclass(kind, Enum) and self._goes_by_value(kind):
            return self._member(obj)
        if _is_proxy(kind):
            return _reduce_proxy(obj)
        if issubclass(kind, BaseException):
            return exceptions.reduce(obj, PROTOCOL)
        if self.form is Form.APART:
            return NotImplemented
        return self._without_newobj(obj)

    def _member(self, member: Enum) -> Any:
        as_value = self.form is Form.APART
        if not taken_apart.is_member(
            member, as_value=as_value
        ):  # flags that were put together
            return type(member), (member.value,)
        made_from, state = taken_apart.member_parts(member)
        if as_value:
            return taken_apart.make_member, made_from  # its class is complete
        fill = taken_apart.fill_member
        return taken_apart.make_member, made_from, state, None, None, fill

    def _without_newobj(self, obj: Any) -> Any:
        """Write instances as made by a call of ours.

        The reader of digests knows no classes, and a class may not be complete when
        an instance of it is made.
        """
        reduce = self.dispatch_table.get(type(obj))
        reduced: Any = obj.__reduce_ex__(PROTOCOL) if reduce is None else reduce(obj)
        if isinstance(reduced, tuple):
            make = _NEW.get(getattr(reduced[0], "__name__", ""))
            if make is not None:
                return (make, *reduced[1:])
        return reduced

    def _free_locks(self, space: dict[str, Any]) -> None:
        """Let locks of a module go as new ones, as if it were imported there."""
        self._locks.update(id(x) for x in space.values() if type(x) in _LOCKS)

    def _note(self, function: types.FunctionType, state: dict[str, Any]) -> None:
        """Remember which variables `function` takes from around it."""
        self.compiled = True
        found = state["__globals__"]
        absent = {n for n in NOTEBOOK_NAMES & found.keys() if _is_notebooks(found[n])}
        for name in absent:
            del found[name]
        names = self.global_names(function.__code__)
        names = tuple(name for name in names if name not in absent)
        self.functions[id(function)] = (function, names)
        self.imports.update(imported(function))
        space = function.__globals__
        for name, value in found.items():
            self.taken.setdefault(name, value)
            self.witnesses.append((space, name, classes.stamp(value)))
        if is_installed_file(function.__code__.co_filename):
            return  # its closure is a matter of the library that made it
        cells = function.__closure__ or ()
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            try:
                self.taken.setdefault(name, cell.cell_contents)
            except ValueError:  # nothing has been assigned to it yet
                continue

    def _class(self, cls: type) -> Any:
        if self.form is Form.APART:
            known = classes.packed(cls)
            if known is not None:
                return self._apart(cls, known)
        if not self._goes_by_value(cls):
            return super().reducer_override(cls)  # type: ignore[misc]
        self.classes.append(cls)
        if self.form is Form.APART:
            return self._apart(cls, self._pack(cls))
        key, revision = ("", "") if self.form is Form.NAMELESS else self.identify(cls)
        parts = taken_apart.skeleton(cls)
        place = (parts, key, revision, cls.__module__, cls.__qualname__)
        left_out = _DERIVED if self.form is Form.NAMELESS else frozenset[str]()
        contents = taken_apart.contents(cls, left_out)
        pieces = tuple(_Piece(cls, content) for content in contents)
        return type(self).expect_class, place, pieces, None, None, classes.fill

    def _goes_by_value(self, cls: type) -> bool:
        return census.owns(cls.__module__) or (
            taken_apart.is_made_at_run_time(cls) and not type(self).is_importable(cls)
        )

    def _apart(self, cls: type, kept: classes.Packed) -> tuple[Any, ...]:
        place = (kept.key, kept.revision, kept.pickle, cls.__module__, cls.__qualname__)
        return type(self).find_class, place

    @classmethod
    def _pack(cls, packed: type) -> classes.Packed:
        key, revision = cls.identify(packed)
        file = BytesIO()
        whole: Any = cls(file, form=Form.WHOLE)
        whole.dump(packed)
        return classes.keep(packed, key, revision, file.getvalue(), whole.witnesses)

    @classmethod
    def identify(cls, named: type) -> tuple[str, str]:
        """Return the key and the present revision of a class."""
        return classes.identify(named, cls.digest(named))

    @classmethod
    def digest(cls, named: type) -> str:
        """Return the digest of the present content of a class."""
        file = BytesIO()
        nameless: Any = cls(file, form=Form.NAMELESS)
        nameless.dump(named)
        return digest(read(file.getbuffer()))


# What pydantic makes of the other attributes of a class, with ids of objects in it.
_DERIVED = frozenset(
    "__pydantic_core_schema__ __pydantic_serializer__ __pydantic_validator__".split()
)


class _Piece:
    """Attributes of a class that is being written; those of a piece are set at once."""

    def __init__(self, of: type, content: taken_apart.Content) -> None:
        self.of = of
        self.content = content


def new(cls: Any, *args: Any) -> Any:
    """Return a new instance of `cls`. Pickles call this."""
    if classes.is_being_filled(cls) and taken_apart.is_made_by_base(cls):
        return taken_apart.nearest_of_python(cls).__new__(cls, *args)
    return cls.__new__(cls, *args)


def new_by_names(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a new instance of `cls`. Pickles call this."""
    return cls.__new__(cls, *args, **kwargs)


_NEW: dict[str, Callable[..., Any]] = {
    "__newobj__": new,
    "__newobj_ex__": new_by_names,
}


# ------------------------------------------------- what pickle stumbles over


def _importable(obj: Any) -> bool:
    """Whether other processes find `obj` under its name."""
    name = obj.__module__
    if name == "__main__" or census.owns(name):
        return False
    found: Any = sys.modules.get(name)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


NOTEBOOK_NAMES = frozenset({"get_ipython", "display", "exit", "quit"})
"""Names that IPython defines. Functions use what these names mean where they run."""


def _is_notebooks(value: Any) -> bool:
    """Whether IPython gave a name of `NOTEBOOK_NAMES` this value."""
    module = str(getattr(value, "__module__", ""))
    return module.partition(".")[0] in ("IPython", "ipykernel")


def _reduce_cache(cached: Any) -> Any:
    if _importable(cached):
        return str(cached.__qualname__)
    limits = cached.cache_parameters()
    return make_cache, (cached.__wrapped__, limits["maxsize"], limits["typed"])


def make_cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    """Return `function` with a cache that is empty."""
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_cached_property(cached: Any) -> Any:
    return make_cached_property, (cached.func, cached.attrname)


def make_cached_property(function: Any, name: str | None) -> Any:
    """Return a cached property that knows its name, which only a class could tell."""
    made: Any = functools.cached_property(function)
    made.attrname = name
    return made


def _is_proxy(kind: type) -> bool:
    """Whether objects of `kind` stand for one in a server of `multiprocessing`."""
    managers = sys.modules.get("multiprocessing.managers")
    return managers is not None and issubclass(kind, managers.BaseProxy)


def _reduce_proxy(proxy: Any) -> Any:
    """Let a proxy go with the key of its server, as to a child of this process."""
    rebuild, (make, token, serializer, options) = proxy.__reduce__()
    options = {**options, "authkey": bytes(proxy._authkey)}
    return rebuild, (make, token, serializer, options)


def _reduce_weak(mapping: Any) -> Any:
    return type(mapping), (dict(mapping),)


def _reduce_name(named: Any) -> Any:
    return type_parameters.reduce_named(named, census.owns)


def _reduce_module(module: types.ModuleType) -> Any:
    if sys.modules.get(module.__name__) is module:
        return importlib.import_module, (module.__name__,)
    return reduce_module(module)


def _reduce_missing(_: object) -> Any:
    return getattr, (dataclasses, "MISSING")


_LOCKS = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}
_LOADED = ("__builtins__", "__loader__", "__spec__", "__cached__")


def reduce_module(module: types.ModuleType) -> Any:
    """Return how to write a module of the user's own."""
    content = {
        name: value for name, value in vars(module).items() if name not in _LOADED
    }
    return types.ModuleType, (module.__name__,), content, None, None, fill_module


def fill_module(module: types.ModuleType, content: dict[str, Any]) -> None:
    """Give a module its content. Pickles call this."""
    vars(module).update(content)


REDUCERS: dict[type, Callable[[Any], Any]] = {
    functools._lru_cache_wrapper: _reduce_cache,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak,
    weakref.WeakValueDictionary: _reduce_weak,
    type(dataclasses.MISSING): _reduce_missing,
    types.ModuleType: _reduce_module,
    **dict.fromkeys(type_parameters.KINDS, _reduce_name),
}
"""What to put before cloudpickle's table of reducers."""
