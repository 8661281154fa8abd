"""Values, calls and functions to bytes and back; the only user of cloudpickle.

Parts are the pickle first, then its out-of-band buffers. Nodes pass parts on and
never open them; clients and workers do that here.

Plain pickle comes first: it takes a fifth of the time. What it cannot do, and what it
would refer to by a name that other processes cannot import (`__main__`, modules next to
the notebook), is pickled again by value. To what cloudpickle writes by value this adds
modules next to the notebook, classes that stay the same class everywhere
(`serialize.classes`), enum members, types of `typing`, caches, locks and sentinels.
"""

import dataclasses
import functools
import importlib
import os
import pickle
import sys
import threading
import types
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from io import BytesIO
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
from cloudpickle import cloudpickle as reductions

from mpreg_nb.errors import NotPicklable
from mpreg_nb.names import name_of
from mpreg_nb.protocol.messages import PYTHON
from mpreg_nb.serialize import classes, exceptions
from mpreg_nb.serialize.change_detection import NOT_PACKED, Witnesses
from mpreg_nb.serialize.classes import make
from mpreg_nb.serialize.code import (
    Census,
    Shipped,
    captures,
    code_files,
    content_hash,
    described,
    imported,
    is_installed_file,
    mark,
    own_modules,
    place,
    read,
)
from mpreg_nb.serialize.diagnose import find_unpicklable
from mpreg_nb.serialize.exceptions import describe
from mpreg_nb.serialize.references import Referring, ReferringPickler, Resolving
from mpreg_nb.serialize.tracebacks import learn_sources, sources

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts


PROTOCOL = 5

census = Census(reductions._PICKLE_BY_VALUE_MODULES)


class Form(Enum):
    """The form in which classes by value are written."""

    APART = auto()  # as a pickle of their own, remembered: for arguments and results
    WHOLE = auto()  # in the stream, sharing what they use with it: for functions
    NAMELESS = auto()  # in the stream, without key and revision: for digests


class ByValue:
    """A base class before cloudpickle's pickler: writes the user's code by value."""

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
        """Return how to reduce `obj`, or NotImplemented to leave it to cloudpickle."""
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
        if not classes.is_member(
            member, as_value=as_value
        ):  # flags that were put together
            return type(member), (member.value,)
        made_from, state = classes.member_parts(member)
        if as_value:
            return classes.make_member, made_from  # its class is complete
        fill = classes.fill_member
        return classes.make_member, made_from, state, None, None, fill

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
        """Write locks of a module as new ones, as after an import."""
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
        parts = classes.skeleton(cls)
        place = (parts, key, revision, cls.__module__, cls.__qualname__)
        left_out = _DERIVED if self.form is Form.NAMELESS else frozenset[str]()
        contents = classes.contents(cls, left_out)
        pieces = tuple(_Piece(cls, content) for content in contents)
        return type(self).expect_class, place, pieces, None, None, classes.fill

    def _goes_by_value(self, cls: type) -> bool:
        return census.owns(cls.__module__) or (
            classes.is_made_at_run_time(cls) and not type(self).is_importable(cls)
        )

    def _apart(self, cls: type, kept: classes.PackedClass) -> tuple[Any, ...]:
        place = (kept.key, kept.revision, kept.pickle, cls.__module__, cls.__qualname__)
        return type(self).find_class, place

    @classmethod
    def _pack(cls, packed: type) -> classes.PackedClass:
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
        return content_hash(read(file.getbuffer()))


# What pydantic makes of the other attributes of a class, with ids of objects in it.
_DERIVED = frozenset(
    "__pydantic_core_schema__ __pydantic_serializer__ __pydantic_validator__".split()
)


class _Piece:
    """Attributes of a class that is being written; those of a piece are set at once."""

    def __init__(self, of: type, content: classes.Content) -> None:
        self.of = of
        self.content = content


def new(cls: Any, *args: Any) -> Any:
    """Return a new instance of `cls`. Pickles call this."""
    if classes.is_being_filled(cls) and classes.is_made_by_base(cls):
        return classes.nearest_of_python(cls).__new__(cls, *args)
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
    """Return whether other processes can import `obj` by its name."""
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
    """Return `function` with an empty cache."""
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_cached_property(cached: Any) -> Any:
    return make_cached_property, (cached.func, cached.attrname)


def make_cached_property(function: Any, name: str | None) -> Any:
    """Return a cached property with its name set."""
    made: Any = functools.cached_property(function)
    made.attrname = name
    return made


def _is_proxy(kind: type) -> bool:
    """Whether objects of `kind` stand for one in a server of `multiprocessing`."""
    managers = sys.modules.get("multiprocessing.managers")
    return managers is not None and issubclass(kind, managers.BaseProxy)


def _reduce_proxy(proxy: Any) -> Any:
    """Pickle a proxy with the key of its server, as for a child of this process."""
    rebuild, (make, token, serializer, options) = proxy.__reduce__()
    options = {**options, "authkey": bytes(proxy._authkey)}
    return rebuild, (make, token, serializer, options)


def _reduce_weak(mapping: Any) -> Any:
    return type(mapping), (dict(mapping),)


def _reduce_name(named: Any) -> Any:
    return classes.reduce_named(named, census.owns)


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


def reduce_module(module: types.ModuleType) -> Any:
    """Return how to write a module of the user's own."""
    content = {
        name: value for name, value in vars(module).items() if name not in NOT_PACKED
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
    **dict.fromkeys(classes.KINDS, _reduce_name),
}
"""What to put before cloudpickle's table of reducers."""


IN_BAND_BYTES = 16 * 1024
"""A smaller buffer is cheaper inside the pickle than as a part of its own."""

_MAIN = mark("__main__")

_RAISED = (Exception, SystemExit, GeneratorExit)
"""What user code may raise as it is pickled; Stop, a KeyboardInterrupt, goes on."""


def size_bytes(parts: "Parts") -> int:
    """Return how much `parts` hold together."""
    return sum(memoryview(part).nbytes for part in parts)


# ------------------------------------------------------------------- values


def pack(value: object, *, name: str = "value") -> "tuple[Buffer, ...]":
    """Return `value` as parts. Large arrays in it are referred to, not copied.

    `name` is what the path in an error begins with.

    Raises:
        NotPicklable: something in it cannot travel; the error has the path to it.
    """
    buffers: list[Buffer] = []
    keep = _keeper(buffers)
    try:
        head = pickle.dumps(value, PROTOCOL, buffer_callback=keep)
        if _MAIN not in head and not _refers_to_own(head):
            return (head, *buffers)
    except _RAISED:
        pass
    buffers.clear()
    file = BytesIO()
    _dump(Pickler(file, keep), value, {name: value})
    return (file.getvalue(), *buffers)


def pack_whole(value: object, *, name: str = "value") -> bytes:
    """Return `value` as one piece of bytes; large arrays in it are copied.

    Raises:
        NotPicklable: something in it cannot travel; the error has the path to it.
    """
    try:
        whole = pickle.dumps(value, PROTOCOL)
        if _MAIN not in whole and not _refers_to_own(whole):
            return whole
    except _RAISED:
        pass
    file = BytesIO()
    _dump(Pickler(file, lambda _: True), value, {name: value})
    return file.getvalue()


def pack_together(values: list[object]) -> bytes | None:
    """Return the pickle of a list of values that share nothing that can be changed.

    None: they are to be packed one by one, some need more than plain pickle.
    """
    try:
        whole = pickle.dumps(values, PROTOCOL)
    except _RAISED:
        return None
    return None if _MAIN in whole or _refers_to_own(whole) else whole


def _keeper(buffers: "list[Buffer]") -> Callable[[pickle.PickleBuffer], bool]:
    """Return the buffer callback: small buffers stay in the pickle, others don't."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < IN_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    return keep


def pack_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> "tuple[Buffer, ...]":
    """Return the parts of a plain call: those of `pack((args, kwargs))`.

    Raises:
        NotPicklable: with a path that begins with the argument.
    """
    try:
        return pack((args, kwargs))
    except NotPicklable as error:
        raise find_unpicklable(
            _named(args, kwargs), error, _trouble
        ) from error.__cause__


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, object]:
    return {**{f"args[{n}]": arg for n, arg in enumerate(args)}, **kwargs}


def _refers_to_own(head: bytes) -> bool:
    """Whether `head` names a module beside the notebook."""
    for name in census.look():
        if name in head:
            return True
    return False


def _dump(pickler: pickle.Pickler, value: object, roots: Mapping[str, object]) -> None:
    try:
        pickler.dump(value)
    except _RAISED as error:
        raise find_unpicklable(roots, error, _trouble) from error


def _trouble(value: object) -> BaseException | None:
    """Return the reason that `value` cannot be pickled, or None if it can."""
    try:
        Pickler(BytesIO(), lambda _: False).dump(value)
    except _RAISED as error:  # user code runs in there
        return error
    return None


def unpack(parts: "Parts", *, name: str = "value") -> Any:
    """Return what `pack` was given; arrays are views over `parts`, not copies.

    Raises:
        NotPicklable: it cannot be rebuilt in this process.
    """
    try:
        if len(parts) == 1:
            return pickle.loads(parts[0])  # noqa: S301  peers have proven themselves
        return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301
    except KeyboardInterrupt:  # Stop, or the end of a call in a worker
        raise
    except BaseException as error:  # a pickle calls what it likes, sys.exit too
        raise _cannot_rebuild(name, error) from error


def _cannot_rebuild(name: str, error: BaseException) -> NotPicklable:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        cure = f"Install {package!r} where it is unpickled, in the same version"
        return NotPicklable(name, f"it needs the module {error.name!r}", cure)
    reason = f"rebuilding it raised {type(error).__name__}: {str(error)[:500]}"
    cure = "Use the same versions of Python and packages in the kernel and on nodes"
    return NotPicklable(name, reason, cure)


def find_class(key: str, revision: str, data: bytes, module: str, name: str) -> type:
    """Return a class that was pickled separately. Pickles call this."""
    cls = classes.known(key, module, name, Pickler.digest)
    if cls is not None and classes.has(cls, revision):
        return cls
    return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301  as above


def expect_class(
    parts: tuple[type, str, tuple[type, ...], dict[str, Any]],
    key: str,
    revision: str,
    module: str,
    name: str,
) -> type:
    """Return a class whose content follows in the stream. Pickles call this."""
    cls = classes.known(key, module, name, Pickler.digest)
    return classes.expect(cls, key, revision, lambda: make(*parts))


def _global_names(code: CodeType) -> tuple[str, ...]:
    return tuple(reductions._extract_code_globals(code))


class Pickler(ByValue, cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler for all values that can be sent."""

    find_class = staticmethod(find_class)
    expect_class = staticmethod(expect_class)
    is_importable = staticmethod(reductions._should_pickle_by_reference)
    reduce_function = cloudpickle.Pickler._dynamic_function_reduce
    global_names = staticmethod(_global_names)
    dispatch_table: ClassVar = ChainMap(REDUCERS, cloudpickle.Pickler.dispatch_table)


# -------------------------------------------------------------------- steps


class _ReferringByValue(Referring, Pickler):
    """A pickler by value that writes placeholders as references."""


def pack_call(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], inputs: Sequence[str] = ()
) -> "tuple[tuple[Buffer, ...], tuple[str, ...]]":
    """Return the parts of a step's arguments, and the steps they refer to.

    An object with `__mpreg_reference__()` is replaced by what that returns: an
    object with `step`, `path` and, in the MPREG dialect, `literal`. The steps come
    in the order in which the worker wants their results: `inputs` first, then
    others as they were found.

    Raises:
        NotPicklable: with a path that begins with the argument.
    """
    value = (args, dict(kwargs))
    buffers: list[Buffer] = []
    keep = _keeper(buffers)
    file = BytesIO()
    plain = ReferringPickler(file, PROTOCOL, buffer_callback=keep).refer(inputs)
    try:
        plain.dump(value)
        head = file.getvalue()
        if _MAIN not in head and not _refers_to_own(head):
            return (head, *buffers), plain.steps
    except _RAISED:
        pass
    buffers.clear()
    file = BytesIO()
    referring = _ReferringByValue(file, keep).refer(inputs)
    _dump(referring, value, _named(args, kwargs))
    return (file.getvalue(), *buffers), referring.steps


def unpack_call(
    parts: "Parts", inputs: "Sequence[Parts]" = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs); `inputs` are results of the steps of `pack_call`.

    Raises:
        NotPicklable: they cannot be rebuilt in this process.
        LookupError: a result lacks the part that is referred to.
    """
    loader = Resolving(parts, inputs, unpack)
    try:
        args, kwargs = loader.load()
    except NotPicklable:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as in `unpack`
        if error is loader.missing:
            raise
        raise _cannot_rebuild("the arguments", error) from error
    return args, kwargs


# ---------------------------------------------------------------- functions


def pack_function(function: Callable[..., Any]) -> Shipped:
    """Return `function` with all of its code that is not installed.

    Raises:
        NotPicklable: something that it captures cannot travel.
    """
    census.look_at_files()
    buffers: list[Buffer] = []
    keep = _keeper(buffers)
    modules: dict[str, ModuleType] = {}
    while True:
        file = BytesIO()
        first = Pickler(file, keep, form=Form.NAMELESS)
        _dump(first, (function, modules), {name_of(function): function, **modules})
        imports = own_modules(first.imports, census)
        if imports.keys() <= modules.keys():
            break
        modules |= imports
        buffers.clear()
    said = read(file.getbuffer(), buffers)
    if first.classes:
        buffers.clear()
        file = BytesIO()
        Pickler(file, keep, form=Form.WHOLE).dump((function, modules))
    texts = sources(code_files(said))
    code = file.getvalue()
    beside = len(code) >= IN_BAND_BYTES
    head = pickle.dumps((None if beside else code, texts), PROTOCOL)
    parts = (head, code, *buffers) if beside else (head, *buffers)
    signature, doc = described(function)
    return Shipped(
        parts=parts,
        version=content_hash(said),
        captures=captures(first.taken, _captured_bytes),
        signature=signature,
        doc=doc,
        size_bytes=size_bytes(parts),
        sources=texts,
        python=PYTHON if first.compiled else "",
        witnesses=Witnesses(
            function,
            first.functions,
            (*first.classes, *first.modules),
            modules,
            census.watches,
        ),
    )


def _captured_bytes(value: object) -> int:
    return size_bytes(pack(value))


def unpack_function(parts: "Parts") -> Callable[..., Any]:
    """Return the function; its source lines are known to tracebacks from here on.

    Raises:
        NotPicklable: it cannot be rebuilt in this process.
    """
    code, texts = unpack(parts[:1], name="the function")
    learn_sources(texts)
    rest = parts[1:] if code is None else (code, *parts[1:])
    function: Callable[..., Any]
    function, modules = unpack(rest, name="the function")
    place(modules)
    return function


# --------------------------------------------------------------- exceptions


def pack_exception(error: BaseException) -> "tuple[Buffer, ...]":
    """Return `error` with its traceback, causes and text; never fails."""
    return (describe(error, _packed_alone),)


def _packed_alone(value: object) -> bytes:
    """Return one pickle of `value`, checked to be readable."""
    file = BytesIO()
    Pickler(file).dump(value)
    data = file.getvalue()
    pickle.loads(data)  # noqa: S301  our own, to see that it can be done
    return data


MOST_PREPARED = 1000
"""Executors whose initializers a worker remembers; the oldest are forgotten."""

_prepared: dict[bytes, dict[str, str | None]] = {}
"""Executor -> the variables of the environment that its initializer set, or removed.

Workers restore the environment after each call; those of an executor are to have it."""

_preparing = threading.Lock()


class Initializer:
    """A function that runs once in each worker, before calls of an executor."""

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Take `function` as it is now.

        Raises:
            NotPicklable: it, or one of its arguments, cannot travel.
        """
        self._key = os.urandom(16)
        packed = pack((function, args), name="initializer")
        self._parts = tuple(map(bytes, packed))  # pickled once, not with each call

    def run_once(self) -> None:
        """Run the function, unless it has run in this process.

        Raises what it raises; then it runs again before the next call.
        """
        with _preparing:
            if self._key in _prepared:
                _set_variables(_prepared[self._key])
                return
            function, args = unpack(self._parts, name="initializer")
            before = dict(os.environ)
            function(*args)
            names = before.keys() | os.environ.keys()
            _prepared[self._key] = {
                name: os.environ.get(name)
                for name in names
                if os.environ.get(name) != before.get(name)
            }
            if len(_prepared) > MOST_PREPARED:
                del _prepared[next(iter(_prepared))]


def _set_variables(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def apply(
    function: Callable[..., Any],
    args: Iterable[Any],
    kwargs: Any,
    initializer: Initializer | None = None,
) -> Any:
    """Return `function(*args, **kwargs)`."""
    if initializer is not None:
        initializer.run_once()
    return function(*args, **kwargs)


def apply_each(
    function: Callable[..., Any],
    items: Iterable[tuple[Any, ...]],
    initializer: Initializer | None = None,
) -> list[Any]:
    """Return `function(*item)` for each of `items`."""
    if initializer is not None:
        initializer.run_once()
    return [function(*item) for item in items]
