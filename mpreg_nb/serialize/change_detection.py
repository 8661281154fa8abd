"""Detects whether a packed function has changed; cheap enough to run before each call.

When a function is packed, everything that it reaches is noted here: its code,
defaults and closure, the globals that it reads, and the same of each helper, class
and module that is packed with it. `Witnesses.hold` compares the notes with the
present; that takes microseconds and pickles nothing.

Objects are compared by id, which C does in one go for many. An id means something
only while its object lives: numbers and texts are kept for that, of all else a weak
reference tells when it is gone. Small data that can be changed in place is compared
by content. Large data is compared by identity alone.
"""

import functools
import itertools
import marshal
import pickle
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from io import BytesIO
from typing import Any, Protocol, TypeAlias

SMALL_BYTES = 64 * 1024
"""Data of at most this size is compared by content."""

SMALL_OBJECTS = 1000
"""Objects inside one value that are looked at; one with more of them is large."""

_MISSING: Any = object()
_ABSENT = itertools.repeat(_MISSING)
_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), type(...)})
_MARSHALLED = frozenset({int, float, complex, bool, str, type(None)})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
_PARTS: dict[type, Callable[[Any], Iterable[object]]] = {
    types.MethodType: lambda method: (method.__self__, method.__func__),
    functools.partial: lambda made: (made.func, *made.args, *_flat(made.keywords)),
    functools._lru_cache_wrapper: lambda cached: (cached.__wrapped__,),
    functools.cached_property: lambda cached: (cached.func,),
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
    property: lambda found: (found.fget, found.fset, found.fdel),
}
_OF_CLASS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_CONSTANT_MODULES = frozenset(
    {"datetime", "decimal", "fractions", "pathlib", "re", "uuid", "zoneinfo"}
)
_UNSTABLE = frozenset({"__slotnames__", "__abstractmethods__", "_abc_impl"})
NOT_PACKED = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})
"""What importing puts into a module; it does not travel with one of the user's own."""


Functions: TypeAlias = Mapping[int, tuple[types.FunctionType, tuple[str, ...]]]
"""By id: a function that was packed by value, and the names of globals it reads."""


class _Note(Protocol):
    def holds(self, value: Any) -> bool:
        """Return whether `value` is the recorded object, or equals it."""
        ...


class Witnesses:
    """Everything that one packed function refers to, recorded when it was packed."""

    def __init__(
        self,
        root: object,
        functions: Functions,
        by_value: Iterable[object],
        imports: Mapping[str, types.ModuleType],
        watches: Callable[[str | None], bool] = lambda name: False,
    ) -> None:
        """Note what `root` reaches.

        by_value: classes and modules that were packed by value.
        imports: modules that functions import as they run. watches: whether a module
            that was packed by its name may still change here.
        """
        self._alive = [True]
        self._references: list[weakref.ref[Any]] = []
        self._large: list[object] = []
        self._notes: list[tuple[weakref.ref[Any], _Note]] = []
        self._imports = {name: id(module) for name, module in imports.items()}
        builder = _Builder(self, functions, {id(each) for each in by_value}, watches)
        self._root = builder.begin(root, imports.values())

    def hold(self, root: object) -> bool:
        """Return whether packing `root` again would give the same bytes."""
        if not self._alive:
            return False
        if self._root is not None and not self._root.holds(root):
            return False
        for reference, note in self._notes:
            if not note.holds(reference()):
                return False
        for name, place in self._imports.items():
            if id(sys.modules.get(name)) != place:
                return False
        return True

    def let_go(self) -> None:
        """Release large data that nothing else references."""
        # The list has one reference, the argument of getrefcount is another.
        large = self._large
        if any(sys.getrefcount(large[at]) <= 2 for at in range(len(large))):
            large.clear()
            self._alive.clear()

    # What `_Builder` adds.

    def keep(self, value: object) -> None:
        """Keep a reference to large data that cannot be weakly referenced."""
        self._large.append(value)

    def refer(self, value: Any) -> weakref.ref[Any]:
        """Return a weak reference; when its object is deleted, the record is outdated.

        Raises TypeError where objects of that type have none.
        """
        alive = self._alive

        def gone(_: weakref.ref[Any]) -> None:
            alive.clear()

        reference = weakref.ref(value, gone)
        self._references.append(reference)
        return reference

    def add(self, reference: weakref.ref[Any], note: _Note) -> None:
        """Compare what is referred to with `note` each time."""
        self._notes.append((reference, note))


# -------------------------------------------------------------------- notes


class _Values:
    """A record of several values, compared in order."""

    __slots__ = ("_atoms", "_ids", "_inner")

    def __init__(
        self, ids: list[int], atoms: dict[int, object], inner: dict[int, _Note]
    ) -> None:
        self._ids = ids
        self._atoms = atoms  # place -> number or text, kept so that its id is its own
        self._inner = inner  # place -> what is compared by content

    def holds(self, values: list[Any]) -> bool:
        if list(map(id, values)) != self._ids and not self._equal(values):
            return False
        for place, note in self._inner.items():
            if not note.holds(values[place]):
                return False
        return True

    def _equal(self, values: list[Any]) -> bool:
        """Return whether other objects can equal the recorded ones."""
        if len(values) != len(self._ids):
            return False
        for place, value in enumerate(values):
            if id(value) == self._ids[place] or place in self._inner:
                continue
            before = self._atoms.get(place, _MISSING)
            if type(before) is not type(value) or repr(before) != repr(value):
                return False
            self._atoms[place] = value
            self._ids[place] = id(value)
        return True


class _Names:
    """Some names of a namespace; with `size`, of one that has no others."""

    __slots__ = ("_names", "_size", "_values")

    def __init__(
        self, names: tuple[str, ...], values: _Values, size: int | None
    ) -> None:
        self._names = names
        self._values = values
        self._size = size

    def holds(self, space: Mapping[str, Any]) -> bool:
        if self._size is not None and len(space) != self._size:
            return False
        return self._values.holds(list(map(space.get, self._names, _ABSENT)))


class _Function:
    """A record of a function: its code, defaults, closure, and the globals it reads."""

    __slots__ = ("_carried", "_code", "_globals")

    def __init__(
        self, code: types.CodeType, carried: _Values | None, space: _Names | None
    ) -> None:
        self._code = code
        self._carried = carried
        self._globals = space

    def holds(self, function: types.FunctionType) -> bool:
        if function.__code__ is not self._code:
            return False
        if self._carried is None:
            if (
                function.__defaults__
                or function.__kwdefaults__
                or function.__closure__
                or function.__dict__
            ):
                return False
        elif not self._carried.holds(_carried(function)):
            return False
        return self._globals is None or self._globals.holds(function.__globals__)


class _Space:
    """All attributes of a module or class, or of an object that has them in a dict."""

    __slots__ = ("_names", "_parts", "_read")

    def __init__(
        self,
        names: _Names | None,
        read: Callable[[Any], list[Any]] | None,
        parts: _Values | None,
    ) -> None:
        self._names = names
        self._read = read
        self._parts = parts

    def holds(self, value: Any) -> bool:
        if self._names is not None and not self._names.holds(value.__dict__):
            return False
        if self._read is None or self._parts is None:
            return True
        return self._parts.holds(self._read(value))


class _Parts:
    """A record of an object that equals any other with the same parts."""

    __slots__ = ("_kind", "_read", "_values")

    def __init__(
        self, kind: type, read: Callable[[Any], Iterable[Any]], values: _Values
    ) -> None:
        self._kind = kind
        self._read = read
        self._values = values

    def holds(self, value: Any) -> bool:
        return type(value) is self._kind and self._values.holds([*self._read(value)])


class _Content:
    """A record of small data: its pickle."""

    __slots__ = ("_copied", "_copy", "_kind")

    def __init__(
        self, kind: type, copied: Callable[[Any], object], copy: object
    ) -> None:
        self._kind = kind
        self._copied = copied
        self._copy = copy

    def holds(self, value: Any) -> bool:
        if type(value) is not self._kind:
            return False
        return bool(self._copied(value) == self._copy)


# ------------------------------------------------------------------ building


class _Builder:
    """Records everything that a function refers to, each object once."""

    def __init__(
        self,
        made: Witnesses,
        functions: Functions,
        by_value: set[int],
        watches: Callable[[str | None], bool],
    ) -> None:
        self._watches = watches
        self._made = made
        self._functions = functions
        self._by_value = by_value
        self._met: dict[int, object] = {}  # by id; held, so that ids stay theirs
        self._pending: list[tuple[weakref.ref[Any], Any]] = []
        self._spaces: set[int] = set()  # ids of dicts of which every name is noted
        self._left = SMALL_OBJECTS  # inside the present value
        self._instances = SMALL_OBJECTS  # in all
        self._in_code = False  # whether attributes of a class or module are noted
        self._module_space: Mapping[str, Any] | None = None  # that is noted now

    def begin(self, root: Any, imports: Iterable[types.ModuleType]) -> _Note | None:
        """Record everything; return the record of `root` itself."""
        for module in imports:
            self._note(module)
        # Each look at a method makes another object of it.
        is_method = isinstance(root, types.MethodType)
        note = self._made_of(root) if is_method else self._note(root)
        while self._pending:
            reference, value = self._pending.pop()
            self._left = SMALL_OBJECTS
            self._made.add(reference, self._opened(value))
        return note

    def _values(self, values: list[Any], *, fresh: bool = False) -> _Values:
        """fresh: each is a separate value, not a part of a larger one."""
        ids: list[int] = []
        atoms: dict[int, object] = {}
        inner: dict[int, _Note] = {}
        for place, value in enumerate(values):
            if fresh:
                self._left = SMALL_OBJECTS
            ids.append(id(value))
            if type(value) in _ATOMS and not _is_long(value):
                atoms[place] = value
                continue
            note = self._note(value)
            if note is not None:
                inner[place] = note
        return _Values(ids, atoms, inner)

    def _note(self, value: Any) -> _Note | None:
        """Return how to compare `value` by content; None where its id is enough."""
        kind = type(value)
        if value is _MISSING or id(value) in self._met or kind in _OF_CLASS:
            return None
        if kind in _ATOMS:  # a long one: it knows its hash
            return _Content(kind, _hashed, _hashed(value))
        read = _reader(kind)
        if read is not None:
            return self._container(value, read)
        if self._is_open(value):
            return self._open(value)
        content = None if self._is_fixed(value) else self._content(value)
        if content is None:
            self._guard(value)
        return content

    def _open(self, value: Any) -> _Note | None:
        """Note what is inside of `value`: apart, where it can be referred to."""
        try:
            reference = self._made.refer(value)
        except TypeError:
            return self._made_of(value)
        self._met[id(value)] = value
        self._pending.append((reference, value))
        return None

    def _guard(self, value: Any) -> None:
        """Keep the id of `value` from being used for another object."""
        self._met[id(value)] = value
        try:
            self._made.refer(value)
        except TypeError:
            self._made.keep(value)

    def _is_open(self, value: Any) -> bool:
        """Whether what is inside of `value` is packed, and is to be noted."""
        if isinstance(value, types.FunctionType):
            packed = id(value) in self._functions or self._is_watched(value)
            return packed and not self._is_of_module(value)
        if isinstance(value, types.ModuleType):
            return id(value) in self._by_value or self._watches(value.__name__)
        if isinstance(value, type):
            return id(value) in self._by_value or self._is_watched(value)
        if type(value) in _PARTS or hasattr(type(value), "__mpreg_parts__"):
            return True
        if self._instances and not self._is_fixed(value) and _is_plain(type(value)):
            self._instances -= 1
            return True
        return False

    def _is_watched(self, value: types.FunctionType | type) -> bool:
        """Whether `value` is of a module that may change; that is noted then."""
        if not self._watches(value.__module__):
            return False
        module = sys.modules.get(value.__module__)
        if module is not None and id(module) not in self._met:
            self._open(module)
        return True

    def _is_of_module(self, function: types.FunctionType) -> bool:
        """Whether it is plainly defined in the module that is noted now.

        A reload makes another one; so the id is enough, as for a module's data.
        """
        space = self._module_space
        return function.__globals__ is space and not _carried(function)

    def _is_fixed(self, value: Any) -> bool:
        """Whether nothing inside of `value` is looked at."""
        kind = type(value)
        return (
            isinstance(value, type | types.ModuleType | types.CodeType | Enum)
            or kind.__module__ in _CONSTANT_MODULES
            or kind.__module__.startswith("mpreg_nb.")
        )

    # ------------------------------------------------------- what is inside

    def _opened(self, value: Any) -> _Note:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, type):
            more = (type(value), *value.__bases__)
            return self._space(vars(value), _UNSTABLE, more)
        return self._made_of(value)

    def _function(self, function: types.FunctionType) -> _Function:
        carried = _carried(function)
        space = function.__globals__
        names = self._functions.get(id(function), (function, ()))[1]
        noted: _Names | None = None
        if names and id(space) not in self._spaces:
            values = [space.get(name, _MISSING) for name in names]
            noted = _Names(names, self._values(values, fresh=True), None)
        return _Function(
            function.__code__,
            self._values(carried, fresh=True) if carried else None,
            noted,
        )

    def _module(self, module: types.ModuleType) -> _Space:
        space = vars(module)
        self._spaces.add(id(space))
        self._module_space = space
        noted = self._space(space, NOT_PACKED, ())
        self._module_space = None
        return noted

    def _space(
        self, space: Mapping[str, Any], without: frozenset[str], more: Iterable[object]
    ) -> _Space:
        self._in_code = True
        names = tuple(name for name in space if name not in without)
        values = self._values([space[name] for name in names], fresh=True)
        self._values([*more], fresh=True)
        self._in_code = False
        return _Space(_Names(names, values, len(space)), None, None)

    def _made_of(self, value: Any) -> _Note:
        kind = type(value)
        read: Callable[[Any], Iterable[object]] | None = _PARTS.get(kind)
        if read is None and hasattr(kind, "__mpreg_parts__"):
            read = kind.__mpreg_parts__
        if read is not None:
            return _Parts(kind, read, self._values([*read(value)]))
        names: _Names | None = None
        space = getattr(value, "__dict__", None)
        if space is not None:
            values = self._values([*space.values()])
            names = _Names(tuple(space), values, len(space))
        slots = tuple(_slots(kind))
        if not slots:
            return _Space(names, None, None)

        def in_slots(held: Any) -> list[Any]:
            return [getattr(held, name, _MISSING) for name in slots]

        return _Space(names, in_slots, self._values(in_slots(value)))

    def _container(
        self, value: Any, read: Callable[[Any], Iterable[object]]
    ) -> _Note | None:
        kind = type(value)
        if len(value) <= SMALL_BYTES // 2 and _is_marshalled(value):
            copy = marshal.dumps(value, _MARSHAL_VERSION)
            if len(copy) <= SMALL_BYTES:
                return _Content(kind, _marshalled, copy)
        elif len(value) < self._left:
            parts = [*read(value)]
            self._left -= len(parts)
            self._met[id(value)] = value  # it may be inside of itself
            values = self._values(parts)
            del self._met[id(value)]
            return _Parts(kind, read, values)
        self._guard(value)
        return None

    def _content(self, value: Any) -> _Note | None:
        """Return how to compare data of a library; None: by identity."""
        if self._in_code or self._left <= 0 or callable(value):
            return None
        self._left -= 1
        copied = _array if _is_array(value) else _pickled
        copy = copied(value)
        return None if copy is None else _Content(type(value), copied, copy)


# ------------------------------------------------------------ ways to look


def _flat(mapping: dict[Any, Any]) -> Iterator[object]:
    for key, value in dict.items(mapping):
        yield key
        yield value


def _carried(function: types.FunctionType) -> list[Any]:
    """Return defaults, variables of the closure, and attributes of a function."""
    carried: list[Any] = [*(function.__defaults__ or ())]
    if function.__kwdefaults__:
        carried += _flat(function.__kwdefaults__)
    for cell in function.__closure__ or ():
        try:
            carried.append(cell.cell_contents)
        except ValueError:  # nothing has been assigned to it yet
            carried.append(_MISSING)
    if function.__dict__:
        carried += _flat(function.__dict__)
    return carried


def _reader(kind: type) -> Callable[[Any], Iterable[object]] | None:
    """Return the function that lists the items of a container or of its subclasses."""
    if issubclass(kind, dict):
        return _flat
    for base in (list, tuple, set, frozenset, deque):
        if issubclass(kind, base):
            return base.__iter__
    return None


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType):
                yield name


def _is_plain(kind: type) -> bool:
    """Whether objects of this class have nothing but attributes, and pickle those."""
    for method in ("__reduce__", "__reduce_ex__"):
        if getattr(kind, method) is not getattr(object, method):
            return False
    own = object.__basicsize__ + _WORD * (2 + len([*_slots(kind)]))
    return kind.__basicsize__ <= own and all(
        base is object or base.__flags__ & _IS_HEAP_TYPE for base in kind.__mro__
    )


_WORD = 8
_IS_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def _is_long(value: Any) -> bool:
    return type(value) in (str, bytes) and len(value) > SMALL_BYTES


def _hashed(value: Any) -> tuple[int, int]:
    return len(value), hash(value)  # the hash is remembered by the object


# Later versions of marshal also tell which objects are the same, by reference counts.
_MARSHAL_VERSION = 2


def _marshalled(value: Any) -> object:
    try:
        return marshal.dumps(value, _MARSHAL_VERSION)
    except ValueError:  # something else is in it now
        return None


def _is_marshalled(value: Any, depth: int = 20) -> bool:
    """Return whether `value` has only numbers, texts and containers of them."""
    kind = type(value)
    if kind in _MARSHALLED:
        return True
    if kind not in _CONTAINERS or not depth or len(value) > SMALL_BYTES:
        return False
    items = _flat(value) if kind is dict else value
    return all(_is_marshalled(item, depth - 1) for item in items)


def _is_array(value: Any) -> bool:
    kind = type(value)
    return kind.__module__ == "numpy" and kind.__name__ == "ndarray"


def _array(value: Any) -> object:
    if value.nbytes > SMALL_BYTES or value.dtype.hasobject:
        return None
    return value.shape, value.dtype.str, value.tobytes()


def _pickled(value: Any) -> bytes | None:
    """Return a pickle of `value`, or None if the pickle is large."""
    small = _Small()
    try:
        pickle.Pickler(small, 5, buffer_callback=small.count).dump(value)
    except Exception:  # noqa: BLE001  user code runs in there; it is large, or by id
        return None
    return small.getvalue()


class _Small(BytesIO):
    """A file for pickles that raises once the pickle is large."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > SMALL_BYTES:
            raise OverflowError
        return super().write(data)

    def count(self, buffer: pickle.PickleBuffer) -> bool:
        """Have a buffer in the pickle, unless it is too large for that."""
        if buffer.raw().nbytes > SMALL_BYTES:
            raise OverflowError
        return True
