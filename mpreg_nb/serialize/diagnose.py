"""Finds the object in an object graph that cannot be pickled."""

import io
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from mpreg_nb.errors import NotPicklable
from mpreg_nb.serialize.change_detection import NOT_PACKED

Trouble: TypeAlias = Callable[[object], BaseException | None]
"""Tries to pickle an object and returns why that fails, if it does."""

TRIES = 20_000
"""Objects that are tried before the search stops where it is."""

_ATOMS = (str, bytes, bytearray, int, float, complex, bool, type(None))
_NO_RESULT = "it stands for a result, which is not sent with it"
_SEND_RESULT = (
    "Send the result itself: future.result(). Or make both calls steps of a workflow, "
    "whose results go from node to node"
)
_CURES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (
        (types.GeneratorType, types.AsyncGeneratorType),
        "Make a list of its items: list(…), or [… async for …]",
    ),
    (
        types.CoroutineType,
        "Await it first. Nodes also run async functions, and return what they await",
    ),
    (io.IOBase, "Use its path, and open it inside the function"),
)
"""What to do about objects of kinds that people meet often."""
_DEEP = "it is nested too deeply, or refers to itself in a way that never ends"


def find_unpicklable(
    roots: Mapping[str, object], error: BaseException, trouble: Trouble
) -> NotPicklable:
    """Return the error to raise, with the path from a root to that object.

    `error` is what pickling of all of `roots` together raised.
    """
    if _is_recursion(error):
        return NotPicklable(", ".join(roots), _DEEP)
    search = _Search(trouble)
    path, value = search.descend("", roots, list(roots.items()))
    reason = search.reason or error
    if _is_recursion(reason):
        return NotPicklable(path, _DEEP)
    path = f"{path}: {type_name(type(value))}"
    if _is_future(value):
        return NotPicklable(path, _NO_RESULT, _SEND_RESULT)
    if isinstance(reason, NotPicklable):  # the object itself says what to do
        return NotPicklable(path, reason.reason, reason.cure)
    cure = next((cure for kinds, cure in _CURES if isinstance(value, kinds)), "")
    return NotPicklable(path, str(reason)[:500] or type(reason).__name__, cure)


def type_name(cls: type) -> str:
    """Return the name of a class with its module, as users know it.

    >>> type_name(int), type_name(deque)
    ('int', 'collections.deque')
    """
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_recursion(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(
        error.__cause__, RecursionError
    )


class _Search:
    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self._left = TRIES
        self._seen: set[int] = set()
        self.reason: BaseException | None = None

    def descend(
        self, path: str, value: object, inner: list[tuple[str, object]]
    ) -> tuple[str, object]:
        """Descend into objects that fail to pickle until none of their parts fails."""
        while True:
            for label, child in inner:
                if isinstance(child, _ATOMS) or id(child) in self._seen:
                    continue
                self._seen.add(id(child))
                self._left -= 1
                reason = self._trouble(child)
                if reason is not None:
                    self.reason = reason
                    path = path + label if label[:1] in ".[{" else label
                    value = child
                    break
                if self._left < 0:
                    return path, value
            else:
                return path, value
            inner = [] if _is_future(value) else list(_inside(value))


def _is_future(value: object) -> bool:
    """Whether `value` is a future of ours, of Python or of a library."""
    names = ("result", "done", "add_done_callback")
    return all(hasattr(type(value), name) for name in names)


def _inside(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what `value` holds. A label that is a whole name begins a new path."""
    match value:
        case dict():
            for key, item in value.items():
                yield f"[{_short(key)}]", item
            for key in value:
                yield f"{{key {_short(key)}}}", key
        case list() | tuple() | deque():
            yield from ((f"[{index}]", item) for index, item in enumerate(value))
        case set() | frozenset():
            yield from ((f"{{{_short(item)}}}", item) for item in value)
        case types.FunctionType():
            yield from _around(value)
        case types.MethodType():
            yield ".__self__", value.__self__
            yield ".__func__", value.__func__
        case partial():
            yield from ((".func", value.func), (".args", value.args))
            yield ".keywords", value.keywords
        case classmethod() | staticmethod():
            yield ".__func__", value.__func__
        case property():
            yield from ((".fget", value.fget), (".fset", value.fset))
        case type():
            for name, item in vars(value).items():
                if not isinstance(item, types.MemberDescriptorType):
                    yield f"{value.__name__}.{name}", item
        case types.ModuleType():
            for name, item in vars(value).items():
                if name not in NOT_PACKED:
                    yield f"{value.__name__}.{name}", item
        case _:
            yield from _attributes(value)


def _around(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the variables that a function takes from around it, and its defaults."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # nothing has been assigned to it yet
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    yield from ((".__defaults__", function.__defaults__),)
    yield from ((".__kwdefaults__", function.__kwdefaults__),)
    yield from ((f".{name}", item) for name, item in vars(function).items())


def _global_names(code: types.CodeType) -> Iterator[str]:
    # Names of attributes are among these too: harmless, since only what fails counts.
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    for name, item in getattr(value, "__dict__", {}).items():
        yield f".{name}", item
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType) and hasattr(value, name):
                yield f".{name}", getattr(value, name)
    if isinstance(value, BaseException):
        yield ".args", value.args


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:37]}..."
