"""Modules beside the notebook that functions import only when they run.

An `import` inside of a function leaves no trace in what it captures, so the code
is searched for such statements, and the user's own modules among those travel
with the function.
"""

import dis
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator, Mapping

from mpreg_nb.wire.modules import Census, is_own

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
