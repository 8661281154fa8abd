"""From the report of an exception to the exception that the caller gets.

It is made from the class that was raised and `RemoteError`, so that both catch
it, and carries a traceback of frames that stand where the remote ones stood. An
exception of C that nobody can derive from comes back as itself.
"""

import builtins
import pickle
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import RemoteError
from mpreg_nb.wire import exceptions, taken_apart
from mpreg_nb.wire.exceptions import Content, add_note, attributes, fill, make, put
from mpreg_nb.wire.raised import CAME, Raised, Report, message_of
from mpreg_nb.wire.tracebacks import learn_sources
from mpreg_nb.wire.tracebacks import rebuild as rebuild_traceback

_decode = msgspec.msgpack.Decoder(Report).decode

Travelled: TypeAlias = Content | tuple[BaseException]


@dataclass(frozen=True, slots=True)
class _Came:
    """What an error from afar was made of."""

    report: bytes
    function: str
    node: str
    original: BaseException | None
    message: str


def rebuild(data: bytes, function: str, node: str) -> Exception:
    """Return the error to raise for the report in `data`; never fails.

    It is a RemoteError, and an instance of the class that was raised where there
    can be such a class.
    """
    report = _decode(data)
    learn_sources(report.sources)
    try:
        error, original, others = _rebuilt(report)
    except BaseException as trouble:  # noqa: BLE001  code of the user's runs in there
        error, original, others = _plain(report.errors[0]), None, ()
        name = type(trouble).__name__
        add_note(error, f"It could not be rebuilt here: {name}: {message_of(trouble)}")
    first = report.errors[0]
    came = _Came(data, function, node, original, first.message)
    attributes(error)[CAME] = came
    tell(error, "function", function)
    tell(error, "node", node)
    tell(error, "type_name", first.types[0])
    tell(error, "remote_traceback", report.text)
    tell(error, "original", original)
    _link(error, first, others)
    add_note(error, f"raised by {function} on {node}")
    return error


def tell(error: BaseException, name: str, value: object) -> None:
    """Set an attribute of ours, unless the user's class has one of that name."""
    own = (vars(cls) for cls in type(error).__mro__ if not issubclass(RemoteError, cls))
    if type(error) is RemoteError:
        attributes(error)[name] = value
    elif not any(name in of_class for of_class in own):
        attributes(error).setdefault(name, value)


Rebuilt: TypeAlias = tuple[
    Exception, BaseException | None, Sequence[BaseException | None]
]


def _rebuilt(report: Report) -> Rebuilt:
    """Return the error to raise, the one that was raised, and all of its report."""
    travelled = [_travelled(raised) for raised in report.errors]
    originals = _originals(report.errors, travelled)
    first, original = report.errors[0], originals[0]
    error = _combined(first, travelled[0], original)
    others = [
        one or _plain(raised)
        for one, raised in zip(originals, report.errors, strict=True)
    ]
    return error, original, others


def _travelled(raised: Raised) -> Travelled | None:
    if not raised.pickled:
        return None
    try:
        found: Travelled = pickle.loads(raised.pickled)  # noqa: S301  proven peers only
    except BaseException:  # noqa: BLE001  a class that this process does not have
        return None
    return found


def _originals(
    errors: Sequence[Raised], travelled: Sequence[Travelled | None]
) -> list[BaseException | None]:
    """Make the exceptions as they were raised; last first, as groups need it."""
    made: list[BaseException | None] = [None] * len(errors)
    for number in reversed(range(len(errors))):
        found = travelled[number]
        if found is not None and len(found) == 1:
            made[number] = found[0]
        elif found is not None:
            inner = [made[m] or _plain(errors[m]) for m in errors[number].members]
            made[number] = _made(found[0], found, inner)
    for one, raised in zip(made, errors, strict=True):
        if one is not None:
            _link(one, raised, made)
    return made


def _link(
    error: BaseException, raised: Raised, others: Sequence[BaseException | None]
) -> None:
    put(error, "__traceback__", rebuild_traceback(raised.frames))
    if raised.cause is not None and others:
        put(error, "__cause__", others[raised.cause])
    if raised.context is not None and others:
        put(error, "__context__", others[raised.context])
    put(error, "__suppress_context__", raised.hides_context)


def _made(
    cls: type[BaseException], content: Content, members: Sequence[BaseException]
) -> BaseException | None:
    """Return an instance of `cls`, without calling any code of the user's."""
    _, args, state, slots = content
    try:
        error = make(cls, args, tuple(members))
    except Exception:  # noqa: BLE001  arguments were cut that this class insists on
        return None
    notes = list(state.get("__notes__", ()))
    return fill(error, ({**state, "__notes__": notes} if notes else state, slots))


def _plain(raised: Raised) -> RemoteError:
    """Return an error for one that this process cannot make."""
    name = raised.types[0].removeprefix("builtins.")
    text = f"{name}: {raised.message}" if raised.message else name
    error = RemoteError(text, type_name=raised.types[0])
    error.__traceback__ = rebuild_traceback(raised.frames)
    return error


def _combined(
    raised: Raised, found: Travelled | None, original: BaseException | None
) -> Exception:
    if original is not None and found is not None:
        both = _both(type(original)) if len(found) > 1 else None
        if both is not None and len(found) > 1:
            members = exceptions.members(original) if raised.members else ()
            error = _made(both, found, members)
            if isinstance(error, Exception):
                return error
        if isinstance(original, Exception) and not isinstance(original, RemoteError):
            return original
        return _plain(raised)
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

    def set_attribute(error: BaseException, name: str, value: object) -> None:
        if name in _KEPT_BY_PYTHON:  # context managers set tracebacks, of frozen too
            put(error, name, value)
        else:
            cls.__setattr__(error, name, value)

    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__str__": _text,
        "__repr__": _shown,
        "__reduce__": _reduce,
        "__reduce_ex__": lambda self, _protocol: _reduce(self),
        "__setattr__": set_attribute,
    }
    try:
        return taken_apart.make(type(cls), cls.__name__, bases, body)
    except TypeError:  # layouts that do not go together, or a final class of C
        return None


_KEPT_BY_PYTHON = frozenset(
    {"__traceback__", "__cause__", "__context__", "__suppress_context__"}
)


def _came(error: BaseException) -> _Came:
    came: _Came = attributes(error)[CAME]
    return came


def _text(error: BaseException) -> str:
    came = attributes(error).get(CAME)
    if came is None or came.original is None:
        return RemoteError.__str__(error)  # type: ignore[arg-type]
    try:
        return str(came.original)
    except Exception:  # noqa: BLE001  any class may define __str__
        return str(came.message)


def _shown(error: BaseException) -> str:
    came = attributes(error).get(CAME)
    name = type(error).__name__
    if came is None or came.original is None:
        return f"{name}({str(error)!r})"
    try:
        return repr(came.original)
    except Exception:  # noqa: BLE001  any class may define __repr__
        return f"{name}({came.message!r})"


def _reduce(error: BaseException) -> tuple[Any, ...]:
    came = _came(error)
    return rebuild, (came.report, came.function, came.node)
