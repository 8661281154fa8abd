"""Which modules are shipped by value: those beside the notebook, not installed.

A module counts as installed when its file is where installers put files, under
the standard library or a site directory, or where a `.pth` file or an editable
install says that it is found. Everything else that was imported from a file is taken to
be the user's own, which other machines cannot import.

A package that is installed in place (`pip install -e`) is imported by workers as it
is when they first need it. Once a file of it has changed since this process began,
that may be another code than the one here, and it is shipped by value too.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType

import psutil

_SITE_NAMES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_SOURCE_SUFFIXES = (".py", ".pyc", ".ipynb")


_PICKLED_OTHERWISE = frozenset({"multiprocessing.managers"})
"""Installed modules whose objects travel in another way than they pickle themselves."""


class Census:
    """What is known of the modules of this process; looks again when some came."""

    def __init__(self) -> None:
        self._own: dict[str, bool] = {}  # name -> whether it is the user's own
        self.seen = -1  # how many modules there were at the last look
        self.names: frozenset[str] = frozenset()
        self.marks: tuple[bytes, ...] = ()
        self._in_place: dict[str, str] = {}  # name -> file, as far as not changed

    def look(self) -> tuple[bytes, ...]:
        """Return how pickles write the names of modules that are shipped by value."""
        if len(sys.modules) != self.seen:
            modules = sys.modules.copy()
            self.seen = len(modules)
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
        self.names = frozenset(name for name, own in self._own.items() if own)
        names = (*sorted(self.names), *(sys.modules.keys() & _PICKLED_OTHERWISE))
        self.marks = tuple(map(mark, names))

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
    return {*site.getsitepackages(), site.getusersitepackages()}


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
