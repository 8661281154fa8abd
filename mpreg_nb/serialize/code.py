"""What a function ships: its parts, the modules next to the notebook, its content hash.

Equal functions rarely pickle to equal bytes: sets come in the order of this process's
string hashes, equal strings are written once or twice, classes carry a random mark, and
code the name of the file of its cell. So the content hash is taken of what a pickle
says: a reader that imports nothing and calls nothing reads it in one order.

A module counts as installed when its file is in the standard library, a site
directory or a folder of PYTHONPATH that pip has filled, or where a `.pth` file or an
editable install points. All other modules are the user's own: other machines cannot
import them, so they are shipped by value. A package that is installed in place
(`pip install -e`) is shipped by value once a file of it has changed since this process
started.

An `import` inside a function leaves no trace in what it captures, so its code is
searched for such statements, and the user's own modules among them are shipped too.

A node answers calls of builtins with the call's own payload, marked `builtin`, since it
does not open arguments; the caller applies the function to it.
"""

import dis
import hashlib
import importlib
import importlib.util
import inspect
import io
import os
import pickle
import site
import struct
import sys
import sysconfig
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from functools import lru_cache
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import psutil

from mpreg_nb.serialize.diagnose import type_name

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer
    from mpreg_nb.serialize.change_detection import Witnesses


SIGNATURE_LENGTH = 300
DOC_LENGTH = 2000
"""Longest texts of a card; they travel with the catalog."""


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """One global or closure variable that travels with a function."""

    name: str
    type_name: str
    size_bytes: int


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
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


def described(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the signature and the documentation of `function`, cut to length."""
    try:
        signature = str(inspect.signature(function))
    except (TypeError, ValueError):  # builtins need not have one
        signature = "(...)"
    if len(signature) > SIGNATURE_LENGTH:
        signature = f"{signature[: SIGNATURE_LENGTH - 4]}...)"
    doc = (inspect.getdoc(function) or "")[:DOC_LENGTH]
    # Half a character of UTF-16, as JSON may bring, is no text for others.
    return signature, doc.encode(errors="backslashreplace").decode()


def captures(
    taken: Mapping[str, object], size: Callable[[object], int]
) -> tuple[Capture, ...]:
    """Return the captured variables that hold data, largest first."""
    found = [
        Capture(name=name, type_name=type_name(type(value)), size_bytes=size(value))
        for name, value in taken.items()
        if not _is_importable(value)
    ]
    return tuple(sorted(found, key=lambda capture: (-capture.size_bytes, capture.name)))


def _is_importable(value: object) -> bool:
    code = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
    # Decorated functions count as what they wrap; of locks only new ones travel.
    return (
        isinstance(value, code)
        or hasattr(value, "__wrapped__")
        or type(value).__module__ in ("typing", "_thread")
    )


VERSION_DIGITS = 32
"""Hexadecimal digits of a version: 128 bits of the sha256."""

# Where cloudpickle's reduction of code, since Python 3.11, has what a rerun of an
# unchanged cell changes: the name of the cell's file and the line in it.
_CODE_FILE = 10
_CODE_LINE = 13

# In 3.13 classes tell their line, and their attributes in an unstable order.
_CLASS_LINE = "__firstlineno__"
_CLASS_ATTRIBUTES = "__static_attributes__"

_FLAT = frozenset({int, float, bool, str, bytes, type(None)})


class _Made:
    """A call in a pickle, read as data and not made."""

    def __init__(self, maker: object, args: tuple[object, ...]) -> None:
        self.maker = maker
        self.args = args
        self.state: object = None
        self.items: list[object] = []  # appended, added, or key and value in turn
        self.changes: list[_Made] = []  # calls that were given this as the first of two

    def __call__(self, *args: object) -> "_Made":
        return _made(self, args)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items += (key, value)

    def append(self, item: object) -> None:
        self.items.append(item)

    def extend(self, items: Iterable[object]) -> None:
        self.items.extend(items)

    add = append


class _Named:
    """Stands for what has this module and name; pickle wants it to be a class."""

    module: str
    name: str

    def __new__(cls, *args: object, **_: object) -> Any:
        return _made(cls, args)


def _made(maker: object, args: tuple[object, ...]) -> _Made:
    made = _Made(maker, args)
    # `setter(obj, state)` leaves no trace on the stack, so it is noted on `obj`.
    if len(args) == 2 and isinstance(args[0], _Made):
        args[0].changes.append(made)
    return made


class _Reader(pickle.Unpickler):
    """Reads a pickle into tuples, lists, dicts, sets, _Made and _Named."""

    def __init__(self, data: Any, buffers: Iterable[Any]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._named: dict[tuple[str, str], type[_Named]] = {}

    def find_class(self, module: str, name: str) -> type[_Named]:
        key = (module, name)
        if key not in self._named:
            body = {"module": module, "name": name}
            self._named[key] = type("_Named", (_Named,), body)
        return self._named[key]

    def persistent_load(self, pid: Any) -> _Made:
        return _Made("persistent", (pid,))


def read(head: Any, buffers: Iterable[Any] = ()) -> Any:
    """Read a pickle into inert objects; no code runs."""
    return _Reader(head, buffers).load()  # finds no class: runs nothing


def content_hash(said: object) -> str:
    """Return 32 hexadecimal digits for what `read` returned."""
    return _sum(said).hex()[:VERSION_DIGITS]


def code_files(said: object) -> list[str]:
    """Return the file names of all code in what `read` returned, each once."""
    names: dict[str, None] = {}
    seen: set[int] = set()
    pending = [said]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _Made):
            if _is_code(value):
                names[str(value.args[_CODE_FILE])] = None
            pending += (value.maker, value.state, *value.args, *value.items)
            pending += value.changes
        elif isinstance(value, dict):
            pending += (*value.keys(), *value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending += value
    return list(names)


_Numbers: TypeAlias = dict[int, int]
"""The id of a container -> in what order it was met."""


def _sum(root: object, around: tuple[_Numbers, ...] = ()) -> bytes:
    """Hash everything from `root` on: each container once, then by its number.

    `around` has the numbers of what a set is in whose items are hashed one by one.
    """
    hasher = hashlib.sha256()
    numbers: _Numbers = {}
    pending: list[object] = [root]
    while pending:
        value = pending.pop()
        write = _WRITERS.get(type(value))
        if write is not None:
            hasher.update(write(value))
            continue
        if isinstance(value, type) and issubclass(value, _Named):
            hasher.update(_text(f"{value.module}:{value.name}"))
            continue
        if isinstance(value, tuple) and _is_flat(value):
            hasher.update(_flat(value))  # constants: equal means same, no identity
            continue
        above = [n for n, met in enumerate(around) if id(value) in met]
        if above:
            hasher.update(b"^%d@%d;" % (above[0], around[above[0]][id(value)]))
            continue
        number = numbers.get(id(value))
        if number is not None:
            hasher.update(b"@%d;" % number)
            continue
        numbers[id(value)] = len(numbers)
        if isinstance(value, list) and len(value) > 32 and _is_flat(value):
            hasher.update(b"l" + _flat(value))
            continue
        tag, children = _opened(value, (*around, numbers))
        hasher.update(b"%s%d;" % (tag, len(children)))
        pending.extend(reversed(children))
    return hasher.digest()


def _opened(value: object, around: tuple[_Numbers, ...]) -> tuple[bytes, list[object]]:
    match value:
        case list() | tuple():
            return type(value).__name__.encode(), list(value)
        case dict():
            return b"dict", list(_entries(value))
        case set() | frozenset():
            kind = type(value).__name__.encode()
            if _is_flat(value):
                return kind, [tuple(sorted(value, key=repr))]
            return kind, [*sorted(_sum(item, around) for item in value)]
        case _Made():
            parts = [value.maker, *_arguments(value), value.state, *value.items]
            return b"made", [*parts, *value.changes]
        case _:  # an out-of-band buffer
            return b"raw", [bytes(memoryview(value).cast("B"))]  # type: ignore[arg-type]


def _entries(value: dict[Any, Any]) -> Iterator[object]:
    for key, item in value.items():
        if key == _CLASS_LINE:
            continue
        yield key
        yield tuple(sorted(item)) if key == _CLASS_ATTRIBUTES else item


def _arguments(made: _Made) -> list[object]:
    args = list(made.args)
    if _is_code(made):
        args[_CODE_FILE] = args[_CODE_LINE] = None
    elif getattr(made.maker, "name", "") == "_make_function":
        for arg in args:
            # `%run` sets it to None the first time, and not at all afterwards.
            if isinstance(arg, dict) and arg.get("__package__", "") is None:
                del arg["__package__"]
    elif getattr(made.maker, "module", "").startswith(_MARKING):
        args = [None if _is_mark(arg) else arg for arg in args]
    return args


_MARKING = ("cloudpickle", "mpreg_nb.serialize")  # makers that take a mark of a class


def _is_mark(arg: object) -> bool:
    return isinstance(arg, str) and len(arg) == 32 and not set(arg) - _HEX


_HEX = frozenset("0123456789abcdef")


def _is_code(made: _Made) -> bool:
    maker = made.maker
    return (
        isinstance(maker, _Made)
        and maker.args == ("CodeType",)
        and len(made.args) > _CODE_LINE
    )


def _is_flat(value: Collection[Any]) -> bool:
    return set(map(type, value)) <= _FLAT


def _flat(value: "list[Any] | tuple[Any, ...]") -> bytes:
    text = repr(value).encode(errors="surrogatepass")
    return b"f%d;%s" % (len(text), text)


def _text(value: str) -> bytes:
    data = value.encode(errors="surrogatepass")
    return b"s%d;%s" % (len(data), data)


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"d" + struct.pack(">d", value),
    str: _text,
    bytes: lambda value: b"b%d;%s" % (len(value), value),
    bytearray: lambda value: b"a%d;%s" % (len(value), value),
}


_SITE_NAMES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SOURCE_SUFFIXES = (".py", ".pyc", ".ipynb")


_PICKLED_OTHERWISE = frozenset({"multiprocessing.managers"})
"""Installed modules whose objects travel in another way than they pickle themselves."""


class Census:
    """Knows which modules of this process are the user's; checks new modules."""

    def __init__(self, registered: Set[str] = frozenset()) -> None:
        """`registered`: installed modules that the user wants shipped by value too."""
        self._registered = registered
        self._seen_registered: frozenset[str] = frozenset()
        self._own: dict[str, bool] = {}  # name -> whether it is the user's own
        self._seen = -1  # how many modules there were at the last look
        self.names: frozenset[str] = frozenset()
        self.marks: tuple[bytes, ...] = ()
        self._in_place: dict[str, str] = {}  # name -> file, as far as not changed

    def look(self) -> tuple[bytes, ...]:
        """Return how pickles write the names of modules that are shipped by value."""
        # Whether one came, was registered, or is not registered any longer.
        if len(sys.modules) != self._seen or self._registered != self._seen_registered:
            modules = sys.modules.copy()
            self._seen = len(modules)
            self._seen_registered = frozenset(self._registered)
            fresh = modules.keys() - self._own.keys()
            for name in fresh:
                path = _own_file(name, modules[name])
                is_found = path is not None and _is_found(name, path)
                self._own[name] = path is not None and not is_found
                if path is not None and is_found:
                    self._in_place[name] = path
            self._sum_up()
        return self.marks

    def _sum_up(self) -> None:
        self.names = frozenset(
            name for name, own in self._own.items() if own or self._is_registered(name)
        )
        names = (*sorted(self.names), *(sys.modules.keys() & _PICKLED_OTHERWISE))
        self.marks = tuple(map(mark, names))

    def _is_registered(self, name: str) -> bool:
        return name in self._seen_registered or any(
            name.startswith(f"{package}.") for package in self._seen_registered
        )

    def look_at_files(self) -> None:
        """Take packages that are installed in place for own ones if they changed.

        All modules of a package are: one may have names of another.
        """
        self.look()
        changed = {
            name.partition(".")[0]
            for name, path in self._in_place.items()
            if _changed_at(path) > _began_at()
        }
        for name in [n for n in self._in_place if n.partition(".")[0] in changed]:
            del self._in_place[name]
            self._own[name] = True
        if changed:
            self._sum_up()

    def watches(self, name: str | None) -> bool:
        """Whether the module is imported by workers, but may change here."""
        return name in self._in_place

    def owns(self, name: str | None) -> bool:
        """Whether the module of this name is shipped by value."""
        self.look()
        return name in self.names


def mark(name: str) -> bytes:
    """Return how a pickle writes a module's name when it refers to its contents."""
    data = name.encode(errors="surrogatepass")
    return b"\x8c%c%s" % (len(data), data) if len(data) < 256 else data


def is_own(name: str, module: ModuleType) -> bool:
    """Whether `module` came from a file of the user's and is not installed."""
    path = _own_file(name, module)
    return path is not None and not _is_found(name, path)


def _own_file(name: str, module: ModuleType) -> str | None:
    """Return the file of `module` if installers did not put it where it is."""
    if name.partition(".")[0] in ("__main__", "__mp_main__", "mpreg_nb"):
        return None  # the first two have no name to import: always by value
    where = getattr(module, "__dict__", {})
    path = where.get("__file__")
    if path is None and where.get("__path__") is not None:
        path = next((os.path.join(p, "x.py") for p in where["__path__"]), None)
    if not isinstance(path, str) or not path.endswith(_SOURCE_SUFFIXES):
        return None
    path = os.path.realpath(path)
    return None if is_installed_file(path) else path


def _changed_at(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:  # a package without a file of its own, or it is gone
        return 0.0


@lru_cache(maxsize=1)
def _began_at() -> float:
    return psutil.Process().create_time()


def _is_found(name: str, path: str) -> bool:
    """Whether workers find a file under the name that it was imported by here."""
    place = name.replace(".", os.sep)
    return any(path.startswith(os.path.join(root, place)) for root in named_roots())


@lru_cache(maxsize=1000)
def is_installed_file(path: str) -> bool:
    """Whether code with this file name is not the user's: installed, or generated."""
    if path.startswith("<"):
        return path == "<string>" or path.startswith("<frozen")
    return any(p in path for p in _SITE_NAMES) or path.startswith(installed_roots())


@lru_cache(maxsize=1)
def installed_roots() -> tuple[str, ...]:
    """Return the directories that hold nothing but what is installed."""
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(sorted(os.path.realpath(root) + os.sep for root in roots | _sites()))


@lru_cache(maxsize=1)
def named_roots() -> tuple[str, ...]:
    """Return the directories of the user's that installed files point to.

    A notebook may stand in one of these too: only what can be imported from there
    is installed.
    """
    roots = {root for place in _sites() for root in _named_by_pth(place)}
    return tuple(sorted(map(os.path.realpath, roots.union(_editable()))))


def _sites() -> set[str]:
    sites = {*site.getsitepackages(), site.getusersitepackages()}
    return sites.union(_targets(os.environ.get("PYTHONPATH", "")))


def _targets(path: str) -> Iterator[str]:
    """Yield the folders of `path` that `pip install --target` has filled.

    Workers have them on their path too. The folder of the notebook is the user's,
    whatever else lies there.
    """
    for place in filter(None, path.split(os.pathsep)):
        if os.path.isdir(place) and not os.path.samefile(place, os.curdir):
            if any(name.endswith(".dist-info") for name in os.listdir(place)):
                yield place


def _named_by_pth(place: str) -> Iterator[str]:
    if not os.path.isdir(place):
        return
    for name in os.listdir(place):
        if name.endswith(".pth"):
            with open(os.path.join(place, name), errors="replace") as lines:
                for line in map(str.strip, lines):
                    path = os.path.join(place, line)
                    if line and not line.startswith(("#", "import")):
                        if os.path.isdir(path):
                            yield path


def _editable() -> Iterator[str]:
    """Yield what setuptools' editable installs map to, without a `.pth` line."""
    for name, module in sys.modules.copy().items():
        if name.startswith("__editable__"):
            mapping = getattr(module, "MAPPING", {})
            yield from (os.path.dirname(path) for path in mapping.values())


_IMPORT = dis.opmap["IMPORT_NAME"]


def imported(function: types.FunctionType) -> Iterator[str]:
    """Yield the full names of all modules that `function` may import as it runs."""
    package = function.__globals__.get("__package__") or None
    for name, items, level in _statements(function.__code__):
        if level and package is None:
            continue
        try:
            full = importlib.util.resolve_name("." * level + name, package)
        except ImportError:  # more dots than packages: it will fail when it runs
            continue
        yield full
        yield from (f"{full}.{item}" for item in items if item != "*")


def _statements(code: types.CodeType) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Yield name, names taken from it, and level of each import in `code`."""
    if _IMPORT in code.co_code[::2]:
        told = list(dis.get_instructions(code))
        for at, instruction in enumerate(told):
            if instruction.opcode == _IMPORT:
                level, items = told[at - 2].argval, told[at - 1].argval
                yield instruction.argval, items or (), level or 0
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _statements(constant)


def own_modules(names: Iterable[str], census: Census) -> dict[str, types.ModuleType]:
    """Return those of the named modules, and the packages around, that are own."""
    found: dict[str, types.ModuleType] = {}
    for name in sorted(set(names)):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            inner = ".".join(parts[:length])
            if inner in found:
                continue
            module = _found(inner, census)
            if module is None:
                break
            found[inner] = module
    return found


def _found(name: str, census: Census) -> types.ModuleType | None:
    """Return a module of the user's own; imported now, if it was not before."""
    if name not in sys.modules:
        try:
            spec = importlib.util.find_spec(name)
            stub = types.ModuleType(name)
            vars(stub)["__file__"] = spec.origin if spec is not None else None
            if spec is None or not is_own(name, stub):
                return None
            importlib.import_module(name)
        except Exception:  # noqa: BLE001  it would fail in the function just as well
            return None
    return sys.modules[name] if census.owns(name) else None


_placed: set[str] = set()  # names of modules that came with functions


def place(modules: Mapping[str, types.ModuleType]) -> None:
    """Let functions import `modules`, unless this process has its own by that name."""
    for name, module in modules.items():
        if name not in sys.modules or name in _placed:
            _placed.add(name)
            sys.modules[name] = module


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
