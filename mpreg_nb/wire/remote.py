"""From the report of an exception to the exception that the caller gets.

It is made from the class that was raised and `RemoteError`, so that both catch
it, and carries a traceback of frames that stand where the remote ones stood.
"""

import builtins
import pickle
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import RemoteError
from mpreg_nb.wire.raised import Content, Raised, Report
from mpreg_nb.wire.tracebacks import learn_sources
from mpreg_nb.wire.tracebacks import rebuild as rebuild_traceback

_decode = msgspec.msgpack.Decoder(Report).decode
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made at run time


def rebuild(data: bytes, function: str, node: str) -> Exception:
    """Return the RemoteError to raise for the report in `data`."""
    report = _decode(data)
    learn_sources(report.sources)
    contents = [_content(raised) for raised in report.errors]
    originals = _originals(report.errors, contents)
    first, original = report.errors[0], originals[0]
    error = _combined(first, contents[0], original)
    error.__dict__.setdefault("function", function)
    error.__dict__.setdefault("node", node)
    error.__dict__.setdefault("type_name", first.types[0])
    error.__dict__["remote_traceback"] = report.text
    error.__dict__["original"] = original
    error.__dict__["_travels"] = (data, function, node)
    others = [
        one or _plain(raised)
        for one, raised in zip(originals, report.errors, strict=True)
    ]
    _link(error, first, others)
    error.add_note(f"raised by {function} on {node}")
    return error


def _content(raised: Raised) -> Content | None:
    if not raised.pickled:
        return None
    try:
        content: Content = pickle.loads(raised.pickled)  # noqa: S301  proven peers only
    except Exception:  # noqa: BLE001  a class that this process does not have
        return None
    return content


def _originals(
    errors: Sequence[Raised], contents: Sequence[Content | None]
) -> list[BaseException | None]:
    """Make the exceptions as they were raised; last first, as groups need it."""
    made: list[BaseException | None] = [None] * len(errors)
    for number in reversed(range(len(errors))):
        content = contents[number]
        if content is not None:
            members = [made[m] or _plain(errors[m]) for m in errors[number].members]
            made[number] = _made(content[0], content, members)
    for one, raised in zip(made, errors, strict=True):
        if one is not None:
            _link(one, raised, made)
    return made


def _link(
    error: BaseException, raised: Raised, others: Sequence[BaseException | None]
) -> None:
    error.__traceback__ = rebuild_traceback(raised.frames)
    if raised.cause is not None:
        error.__cause__ = others[raised.cause]
    if raised.context is not None:
        error.__context__ = others[raised.context]
    error.__suppress_context__ = raised.hides_context


def _made(
    cls: type[BaseException], content: Content, members: Sequence[BaseException]
) -> BaseException | None:
    """Return an instance of `cls`, without calling any `__init__` of the user's."""
    _, args, state, slots = content
    base: Any = cls
    while base.__flags__ & _HEAP:
        base = base.__base__
    given = (*args, list(members)) if issubclass(cls, BaseExceptionGroup) else args
    try:
        error: BaseException = base.__new__(cls, *given)
        base.__init__(error, *given)
    except Exception:  # noqa: BLE001  arguments were cut that this class insists on
        return None
    if not members:
        error.args = args
    error.__dict__.update(state)
    for name, value in slots.items():
        try:
            setattr(error, name, value)
        except (AttributeError, TypeError, ValueError):
            continue  # read-only, and so set from the arguments
    return error


def _plain(raised: Raised) -> RemoteError:
    """Return an error for one that this process cannot make."""
    name = raised.types[0].removeprefix("builtins.")
    text = f"{name}: {raised.message}" if raised.message else name
    error = RemoteError(text, type_name=raised.types[0])
    error.__traceback__ = rebuild_traceback(raised.frames)
    return error


def _combined(
    raised: Raised, content: Content | None, original: BaseException | None
) -> Exception:
    if original is not None and content is not None:
        both = _both(type(original))
        members = getattr(original, "exceptions", ())
        error = _made(both, content, members) if both is not None else None
        return error if isinstance(error, Exception) else _plain(raised)
    for name in raised.types:  # the nearest base that everybody has
        cls = getattr(builtins, name.removeprefix("builtins."), None)
        if (
            isinstance(cls, type)
            and issubclass(cls, Exception)
            and cls is not Exception
        ):
            both = _both(cls)
            stub: Content = (cls, (str(_plain(raised)),), {}, {})
            error = _made(both, stub, ()) if both is not None else None
            return error if isinstance(error, Exception) else _plain(raised)
    return _plain(raised)


Both: TypeAlias = type[Exception] | None

_classes: "weakref.WeakKeyDictionary[type, Both]" = weakref.WeakKeyDictionary()


def _both(cls: type[BaseException]) -> Both:
    """Return the class made of `cls` and RemoteError; None where there can be none."""
    if cls not in _classes:
        _classes[cls] = _make_both(cls)
    return _classes[cls]


def _make_both(cls: type[BaseException]) -> Both:
    if not issubclass(cls, Exception) or issubclass(cls, RemoteError):
        return None
    bases = (RemoteError,) if issubclass(RemoteError, cls) else (cls, RemoteError)
    body = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__str__": _text,
        "__repr__": _shown,
        "__reduce__": _reduce,
        "__reduce_ex__": lambda self, _protocol: _reduce(self),
    }
    metaclass: Any = type(cls)
    try:
        both: Both = metaclass(cls.__name__, bases, body)
    except Exception:  # noqa: BLE001  a final class, or layouts that do not go together
        return None
    return both


def _text(error: RemoteError) -> str:
    return RemoteError.__str__(error) if error.original is None else str(error.original)


def _shown(error: RemoteError) -> str:
    if error.original is None:
        return f"{type(error).__name__}({str(error)!r})"
    return repr(error.original)


def _reduce(error: RemoteError) -> tuple[Any, ...]:
    return rebuild, error.__dict__["_travels"]
