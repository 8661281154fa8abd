"""Exceptions and failures across processes. Nodes import it, so cloudpickle stays out.

An exception is taken apart into its class, its arguments and its attributes, rather
than pickled whole: many exception classes pickle well and then fail to unpickle,
because their `__init__` wants other arguments than it passes on. Their classes may
refuse attributes, compute `args` or raise for missing names, so none of their code
runs: attributes are read and set as `BaseException` itself does it.

The caller gets an exception of a class that is made from the class that was raised
and `RemoteError`, so that `except` of both catches it. It carries a traceback of
frames that stand where the remote ones stood. An exception that nobody can derive
from comes back as itself.
"""

import builtins
import pickle
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from traceback import TracebackException, format_tb
from typing import Any, Literal, TypeAlias

import msgspec

from mpreg_nb.errors import (
    LONGEST_LINE,
    BadRequest,
    CallCancelled,
    CallTimeout,
    NodeLost,
    NoRoute,
    NotPicklable,
    NotTrusted,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    StepSkipped,
    WorkerCrashed,
)
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.messages import Failed, Failure
from mpreg_nb.serialize import classes
from mpreg_nb.serialize.classes import is_made_at_run_time, nearest_of_python
from mpreg_nb.serialize.tracebacks import (
    TracebackFrame,
    frames,
    learn_sources,
    sources,
    without_ours,
)
from mpreg_nb.serialize.tracebacks import rebuild as rebuild_traceback

Content: TypeAlias = tuple[
    type[BaseException], tuple[Any, ...], dict[str, Any], dict[str, Any]
]
"""Class, arguments, attributes, and those attributes that C code or slots hold."""

_NOT_TAKEN = frozenset({"obj"})  # of AttributeError: any object, of any size
_OWN_WAYS = ("__reduce__", "__reduce_ex__")
_STORED = types.MemberDescriptorType | types.GetSetDescriptorType


def read(error: BaseException, name: str) -> Any:
    """Return what Python keeps of every exception: `args`, `__cause__`, ..."""
    return vars(BaseException)[name].__get__(error)


def put(error: BaseException, name: str, value: object) -> None:
    """Set what Python keeps of every exception."""
    vars(BaseException)[name].__set__(error, value)


def attributes(error: BaseException) -> dict[str, Any]:
    """Return the dictionary of `error`."""
    found: dict[str, Any] = read(error, "__dict__")
    return found


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what tracebacks show of `error`."""
    attributes(error).setdefault("__notes__", []).append(note)


def is_group(error: BaseException) -> bool:
    """Return whether `error` is an exception group."""
    return issubclass(type(error), BaseExceptionGroup)


def group_members(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions that a group is made of; none for others."""
    if not is_group(error):
        return ()
    found: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(
        error
    )
    return found


def content(error: BaseException) -> Content:
    """Return the content to rebuild `error` from, without the members of a group."""
    args = read(error, "args")
    if is_group(error):
        args = (vars(BaseExceptionGroup)["message"].__get__(error),)
        return type(error), args, attributes(error), {}
    return type(error), args, attributes(error), _stored(error)


def _stored(error: BaseException) -> dict[str, Any]:
    """Return the attributes that are not in the dictionary of `error`."""
    found: dict[str, Any] = {}
    for cls in type(error).__mro__[:-2]:  # without BaseException and object
        for name, member in vars(cls).items():
            if (
                name[:2] == "__"
                or name in _NOT_TAKEN
                or not isinstance(member, _STORED)
            ):
                continue
            try:
                value = member.__get__(error)
            except AttributeError:  # nothing has been assigned to it
                continue
            if value is not None:
                found.setdefault(name, value)
    return found


def make(
    cls: type[BaseException],
    args: tuple[Any, ...],
    inner: tuple[BaseException, ...] = (),
) -> BaseException:
    """Return an exception that has its arguments, and the members of a group."""
    base = nearest_of_python(cls)
    given = (*args, list(inner)) if inner else args
    error: BaseException = base.__new__(cls, *given)
    base.__init__(error, *given)
    if not inner:
        put(error, "args", args)
    return error


def fill(
    error: BaseException, state: tuple[dict[str, Any], dict[str, Any]]
) -> BaseException:
    """Give `error` its attributes."""
    there, stored = state
    attributes(error).update(there)
    for name, value in stored.items():
        for cls in type(error).__mro__:
            member = vars(cls).get(name)
            if isinstance(member, _STORED):
                try:
                    member.__set__(error, value)
                except (AttributeError, TypeError, ValueError):
                    pass  # read-only, and so set from the arguments
                break
    return error


def _has_own_ways(cls: type[BaseException]) -> bool:
    """Return whether `cls` defines its own pickling."""
    return any(
        is_made_at_run_time(base) and not vars(base).keys().isdisjoint(_OWN_WAYS)
        for base in cls.__mro__
    )


def reduce(error: BaseException, protocol: int) -> Any:
    """Return how to pickle `error`, whatever its `__init__` asks for."""
    if _has_own_ways(type(error)):
        try:
            return error.__reduce_ex__(protocol)
        except Exception:  # noqa: BLE001, S110  a way that fails is none
            pass
    cls, args, state, stored = content(error)
    return make, (cls, args, group_members(error)), (state, stored), None, None, fill


Pack: TypeAlias = Callable[[object], bytes]
"""Pickles a value so that it can be unpickled again, or raises."""

CAME = "_mpreg_came"
"""The attribute of an error from afar in which we keep what it is made of."""

TEXT_LENGTH = 64 * 1024
MESSAGE_LENGTH = 8 * 1024
PICKLE_BYTES = 1 << 20
"""An exception whose pickle is larger travels with its large values cut."""

ERRORS = 32
"""Longest chain of causes, members of groups included."""


class ExceptionRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One exception. Others of its report are told by their number in it."""

    types: tuple[str, ...]  # qualified names of its class and the bases
    message: str
    frames: tuple[TracebackFrame, ...]
    # A `Content`, or the exception itself in a tuple; empty where neither can travel.
    pickled: bytes = b""
    cause: int | None = None
    context: int | None = None
    hides_context: bool = False
    members: tuple[int, ...] = ()  # of a group


class ExceptionReport(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An exception, first, and all that it came from."""

    errors: tuple[ExceptionRecord, ...]
    text: str  # as a traceback is printed
    sources: dict[str, str]  # file name of a cell -> its text


def type_names(cls: type) -> tuple[str, ...]:
    """Return the qualified names of a class and its bases, nearest first.

    >>> type_names(KeyError)[:2]
    ('builtins.KeyError', 'builtins.LookupError')
    """
    names = (f"{c.__module__}.{c.__qualname__}" for c in cls.__mro__[:-1])
    return tuple(map(_encodable, names))  # a module may be named by anything


def raised_class(error: BaseException) -> type[BaseException]:
    """Return the class that was raised, also of an error from another process."""
    return type(_here(error))


def message_of(error: BaseException) -> str:
    """Return what `error` says, cut to length."""
    try:
        return shortened(str(error), MESSAGE_LENGTH)
    except BaseException as trouble:  # noqa: BLE001  any class may define __str__
        return f"(its __str__ raised {type(trouble).__name__})"


def describe(error: BaseException, pack: Pack) -> bytes:
    """Return the report of `error`."""
    chain = list(_chain(error))
    numbers = {id(one): number for number, one in enumerate(chain)}
    errors = tuple(_raised(one, numbers, pack) for one in chain)
    filenames = (frame.filename for one in errors for frame in one.frames)
    report = ExceptionReport(
        errors=errors, text=_printed(error), sources=sources(filenames)
    )
    return msgspec.msgpack.encode(report)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and everything it refers to, each once, nearest first."""
    pending = [error]
    seen: set[int] = set()
    while pending and len(seen) < ERRORS:
        one = pending.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        near = [read(one, "__cause__"), read(one, "__context__"), *group_members(one)]
        pending += [other for other in near if other is not None]


def _raised(
    error: BaseException, numbers: dict[int, int], pack: Pack
) -> ExceptionRecord:
    group = group_members(error)
    # Where the chain was cut, a group has none of its members, rather than some.
    complete = all(id(member) in numbers for member in group)
    return ExceptionRecord(
        types=type_names(raised_class(error)),
        message=message_of(error),
        frames=frames(read(error, "__traceback__")),
        pickled=_pickled(error, pack) if complete else b"",
        cause=numbers.get(id(read(error, "__cause__"))),
        context=numbers.get(id(read(error, "__context__"))),
        hides_context=read(error, "__suppress_context__"),
        members=tuple(numbers[id(member)] for member in group) if complete else (),
    )


def _here(error: BaseException) -> BaseException:
    """Return the error to describe: of an error from another process, the original."""
    came = attributes(error).get(CAME)
    if came is None and issubclass(type(error), RemoteError):
        original = attributes(error).get("original")
    else:
        original = None if came is None else came.original
    return original if isinstance(original, BaseException) else error


def _pickled(error: BaseException, pack: Pack) -> bytes:
    error = _here(error)
    cls, args, state, slots = content(error)
    state = {name: value for name, value in state.items() if name != CAME}
    if not _can_be_made(cls, args, group_members(error)):
        return _tried((error,), pack)  # it is one of C, with a way of its own
    data = _tried((cls, args, state, slots), pack)
    if data:
        return data
    args = tuple(_fit(arg, pack) for arg in args)
    state = {name: _fit(value, pack) for name, value in state.items()}
    slots = {name: _fit(value, pack) for name, value in slots.items()}
    return _tried((cls, args, state, slots), pack)


def _can_be_made(
    cls: type[BaseException], args: tuple[Any, ...], inner: tuple[BaseException, ...]
) -> bool:
    try:
        make(cls, args, inner)
    except Exception:  # noqa: BLE001  whatever a type of C says to other arguments
        return False
    return True


def _tried(value: Content | tuple[BaseException], pack: Pack) -> bytes:
    try:
        data = pack(value)
    except BaseException:  # noqa: BLE001  user code runs in there; the text remains
        return b""
    return data if len(data) <= PICKLE_BYTES else b""


def _fit(value: object, pack: Pack) -> object:
    """Return `value`, or its text if it is large or cannot be pickled."""
    try:
        if len(pack(value)) <= TEXT_LENGTH:
            return value
        return shortened(value if isinstance(value, str) else repr(value))
    except BaseException:  # noqa: BLE001  user code runs in there
        return f"<{type(value).__name__} that cannot be pickled>"


def _printed(error: BaseException) -> str:
    traceback = without_ours(read(error, "__traceback__"))
    try:
        told = TracebackException(type(error), error, traceback, compact=True)
        _shorten(told)
        text = "".join(told.format())
    except BaseException:  # noqa: BLE001  any class may define __str__ and the like
        places = "".join(format_tb(traceback))
        said = f"{type_names(type(error))[0]}: {message_of(error)}\n"
        text = f"Traceback (most recent call last):\n{places}{said}"
    return shortened(text, TEXT_LENGTH)


def _shorten(told: TracebackException) -> None:
    """Cut the messages before they are copied into the text."""
    pending: list[Any] = [told]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            text = getattr(one, "_str", None)
            if isinstance(text, str):
                one._str = shortened(text, MESSAGE_LENGTH)
            pending += (one.__cause__, one.__context__, *(one.exceptions or ()))


def shortened(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Return `text` with its middle left out, where it is longer than `length`.

    >>> shortened("abcdefgh" * 100, 60)
    'abcdefghabcdefg [... 765 characters ...] efghabcdefghabcdefgh'
    """
    if len(text) > length:
        head = length // 4
        tail = length - 2 * head - length // 6
        left_out = len(text) - head - tail
        text = f"{text[:head]} [... {left_out} characters ...] {text[-tail:]}"
    return _encodable(text)


def _encodable(text: str) -> str:
    if text.isascii():
        return text
    return text.encode(errors="backslashreplace").decode()


_decode = msgspec.msgpack.Decoder(ExceptionReport).decode

Travelled: TypeAlias = Content | tuple[BaseException]


class _Came(msgspec.Struct, frozen=True):
    """What an error from another process was rebuilt from."""

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
    """Set one of our attributes, unless the user's class has one of that name."""
    own = (vars(cls) for cls in type(error).__mro__ if not issubclass(RemoteError, cls))
    if type(error) is RemoteError:
        attributes(error)[name] = value
    elif not any(name in of_class for of_class in own):
        attributes(error).setdefault(name, value)


Rebuilt: TypeAlias = tuple[
    Exception, BaseException | None, Sequence[BaseException | None]
]


def _rebuilt(report: ExceptionReport) -> Rebuilt:
    """Return the error to raise, the original, and all errors of the report."""
    travelled = [_travelled(raised) for raised in report.errors]
    originals = _originals(report.errors, travelled)
    first, original = report.errors[0], originals[0]
    error = _combined(first, travelled[0], original)
    others = [
        one or _plain(raised)
        for one, raised in zip(originals, report.errors, strict=True)
    ]
    return error, original, others


def _travelled(raised: ExceptionRecord) -> Travelled | None:
    if not raised.pickled:
        return None
    try:
        found: Travelled = pickle.loads(raised.pickled)  # noqa: S301  proven peers only
    except BaseException:  # noqa: BLE001  a class that this process does not have
        return None
    return found


def _originals(
    errors: Sequence[ExceptionRecord], travelled: Sequence[Travelled | None]
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
    error: BaseException,
    raised: ExceptionRecord,
    others: Sequence[BaseException | None],
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


def _plain(raised: ExceptionRecord) -> RemoteError:
    """Return a RemoteError for an exception that this process cannot rebuild."""
    name = raised.types[0].removeprefix("builtins.")
    text = f"{name}: {raised.message}" if raised.message else name
    error = RemoteError(text, type_name=raised.types[0])
    error.__traceback__ = rebuild_traceback(raised.frames)
    return error


def _combined(
    raised: ExceptionRecord, found: Travelled | None, original: BaseException | None
) -> Exception:
    if original is not None and found is not None:
        both = _both(type(original)) if len(found) > 1 else None
        if both is not None and len(found) > 1:
            members = group_members(original) if raised.members else ()
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
        return classes.make(type(cls), cls.__name__, bases, body)
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


def remote_error(parts: Parts, *, function: str, node: str) -> Exception:
    """Return the RemoteError to raise for what `pack_exception` returned.

    It is also an instance of the class that was raised, where that is an
    Exception, and its traceback shows the remote lines. Raise it as it is.
    """
    return rebuild(bytes(parts[0]), function, node)


def error_of(
    failed: Failed,
    parts: Parts,
    *,
    function: str,
    resources: frozenset[str] = frozenset(),
    node: str | None = None,
    timeout_s: float = 0.0,
) -> Exception:
    """Return the error to raise for `failed`, an answer to a call of `function`.

    `node` is where the call was narrowed to, `timeout_s` what it was given. In which
    call of a step it was raised is in a note, and in the attribute `where`.
    """
    failure = failed.failure
    timeout_s = failure.timeout_ms / 1e3 or timeout_s
    error = _plain_error(
        failed,
        parts,
        function=function,
        resources=resources,
        node=node,
        timeout_s=timeout_s,
    )
    if failure.where:
        add_note(error, f"In {failure.where}.")
        tell(error, "where", failure.where)
    return error


def _plain_error(
    failed: Failed,
    parts: Parts,
    *,
    function: str,
    resources: frozenset[str],
    node: str | None,
    timeout_s: float,
) -> Exception:
    failure = failed.failure
    match failure.kind:
        case "application":
            whole = parts or (failed.payload,)
            error = remote_error(whole, function=function, node=failure.node)
            tell(error, "argument_types", failure.argument_types)
            return error
        case "no_route":
            return NoRoute(
                function,
                frozenset(failure.lines) or resources,
                dict(failure.offers),
                held=dict(failure.held),
                pinned=node,
                similar=failure.similar or None,
                reason=failure.cause,
                executed=failure.executed,
                engine=failure.engine,
            )
        case "no_code":
            return NoRoute(function, resources, {}, executed=failure.executed)
        case "overloaded":
            queued = failure.size_bytes
            return Overloaded(function, queued, executed=failure.executed)
        case "unauthenticated":
            return NotTrusted(failure.message)
        case "deadline":
            part = failure.where.partition(",")[0]  # such as "the fallback"
            late = f"{part} of {function}" if part else function
            return CallTimeout(late, timeout_s, executed=failure.executed)
        case "cancelled":
            return CallCancelled(function, executed=failure.executed)
        case "draining":
            return NodeLost(
                failure.node,
                "it is leaving the cluster",
                function=function,
                executed="no",
            )
        case "node_lost":
            return NodeLost(
                failure.node,
                failure.message or "the connection was lost",
                function=function,
                executed=failure.executed,
                retry_budget_exhausted=failure.retry_budget_exhausted,
            )
        case "gone":
            return NodeLost(
                failure.node,
                failure.message or "it no longer holds the result",
                function=function,
                executed="no" if failure.lost else "yes",
            )
        case "worker_crashed":
            return WorkerCrashed(
                function,
                failure.node,
                failure.cause,
                memory_mb=failure.memory_mb,
                last_lines=failure.lines,
                executed=failure.executed,
                retry_budget_exhausted=failure.retry_budget_exhausted,
            )
        case "too_large":
            return PayloadTooLarge(
                f"the arguments or the result of {function}",
                failure.size_bytes,
                failure.limit_bytes,
            )
        case "not_picklable":
            reason, _, cure = failure.message.partition("\n")
            cure = cure or "Return what it is created from, or plain data"
            return NotPicklable(f"the result of {function}", reason, cure)
        case "bad_request":
            return BadRequest(failure.message)
        case "skipped":
            return StepSkipped(failure.message, failure.cause)


class _Packed:
    """Pickled as a call that makes the error."""

    def __init__(self, failed: bytes, parts: tuple[bytes, ...], function: str) -> None:
        self._made_of = failed, parts, function

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, self._made_of


def pack_error(failed: Failed, parts: Parts, *, function: str) -> bytes:
    """Return a pickle of the error to raise for `failed`, without making it here."""
    encoded = msgspec.msgpack.encode(failed)
    return pickle.dumps(_Packed(encoded, tuple(map(bytes, parts)), function), 5)


def restored(failed: bytes, parts: Parts, function: str) -> Exception:
    """Return the error of an encoded failure. Pickles call this."""
    message = msgspec.msgpack.decode(failed, type=Failed)
    return error_of(message, parts, function=function)


def failure_line(failure: Failure) -> str:
    """Describe a failure in one line, without the error object."""
    match failure.kind:
        case "application":
            return failure.message
        case "deadline":
            return f"no result within {failure.timeout_ms / 1e3:g} s"
        case "worker_crashed":
            return f"the worker process ended: {failure.cause}"
        case "skipped":
            return f"step {failure.message} was skipped"
    return failure.message or failure.kind.replace("_", " ")


_CLASSES: dict[str, type[Exception]] = {
    "no_route": NoRoute,
    "no_code": NoRoute,
    "overloaded": Overloaded,
    "deadline": CallTimeout,
    "cancelled": CallCancelled,
    "draining": NodeLost,
    "node_lost": NodeLost,
    "gone": NodeLost,
    "worker_crashed": WorkerCrashed,
    "too_large": PayloadTooLarge,
    "not_picklable": NotPicklable,
    "bad_request": BadRequest,
    "skipped": StepSkipped,
}


def error_line(failure: Failure) -> str:
    """Return class and first line of an error, and in which call of a step it came.

    >>> error_line(Failure(kind="application", message="ValueError: no\\nmore"))
    'ValueError: no'
    >>> error_line(Failure(kind="deadline", timeout_ms=500, where="item [3]"))
    'CallTimeout: no result within 0.5 s (item [3])'
    """
    line = failure_line(failure).partition("\n")[0]
    if failure.kind == "node_lost" and failure.node:
        line = f"node {failure.node}: {line}"
    if failure.kind == "no_route":
        line = f"no live node holds {', '.join(failure.lines) or 'the function'}"
    if failure.kind != "application":
        line = f"{_CLASSES[failure.kind].__name__}: {line}"
    if len(line) > LONGEST_LINE:
        line = line[: LONGEST_LINE - 1] + "…"
    return f"{line} ({failure.where})" if failure.where else line


CallStatus: TypeAlias = Literal["done", "failed", "cancelled", "lost"]

_STATUS: dict[str, CallStatus] = {
    "cancelled": "cancelled",
    "draining": "lost",
    "node_lost": "lost",
    "gone": "lost",
    "worker_crashed": "lost",
}


def call_status(failure: Failure) -> CallStatus:
    """Return how a call without a result ended, as tables name it."""
    return _STATUS.get(failure.kind, "failed")


MOST_TYPES = 32
LONGEST_TYPE = 128
LONGEST_REPORT = 2000
"""Characters of the error in one line; the whole of it travels beside."""


def unpicklable(error: NotPicklable) -> str:
    """Return the message for a result that cannot be pickled: reason, and cure if any.

    The cure is in a line of its own, so that the caller can tell them apart.

    >>> unpicklable(NotPicklable("result: Lock", "it is locked"))
    'result: Lock: it is locked'
    """
    reason = f"{error.path}: {error.reason}".replace("\n", " ")
    return f"{reason}\n{error.cure}" if error.cure else reason


def argument_types(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the types, those of keyword arguments with their keyword.

    >>> argument_types(("test", [1]), {"limit": 3})
    ('str', 'list', 'limit=int')
    """
    names = [type(value).__name__ for value in args[: MOST_TYPES + 1]]
    for key, value in kwargs.items():
        if len(names) > MOST_TYPES:
            break
        names.append(f"{key}={type(value).__name__}")
    if len(names) > MOST_TYPES:
        names[MOST_TYPES:] = ["..."]
    return tuple(shortened(name, LONGEST_TYPE) for name in names)


def execution_failed(command: str, error: str, types: Iterable[str]) -> str:
    """Return the line about a function that raised; `error` is "Class: message".

    >>> print(execution_failed("add", "KeyError: 1", ["str", "set"]))
    Function execution failed: command=add, error=KeyError: 1, args_types=['str', 'set']
    """
    told = shortened(error, LONGEST_REPORT)
    return one_line(
        f"Function execution failed: command={command}, error={told}, "
        f"args_types={list(types)}"
    )


def one_line(text: str) -> str:
    r"""Return `text` with its control characters written out.

    >>> one_line("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
