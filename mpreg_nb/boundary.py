"""The boundary between this package and its users: errors leave it without our frames.

Where a public function returns to code that is not ours, the traceback of an error
that the user caused is cut to the user's own lines, on this side and on the nodes:
in a script, in a cell and in a debugger the user's line is the last one.
"""

import os
import sys
from collections.abc import Iterator
from functools import wraps
from types import CodeType, TracebackType
from typing import Any, TypeVar

VARIABLE = "MPREG_NB_DEBUG"
"""MPREG_NB_DEBUG=1 leaves every traceback whole."""

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep

_SPECIAL = frozenset(
    f"__{name}__"
    for name in (
        "init call getitem getattr await aenter bool iter contains eq lt le gt ge "
        "add sub mul matmul truediv floordiv mod pow and or neg abs "
        "radd rsub rmul rmatmul rtruediv rfloordiv rmod rpow rand ror"
    ).split()
)
"""Methods with underscores that users reach by syntax."""

# As `inspect` has them; importing it would cost more than all else here.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200

T = TypeVar("T")


def public(thing: T) -> T:
    """Make a function, or all public methods of a class, leave out our frames.

    Does nothing to what a function returns or raises, but for the traceback.
    """
    if not isinstance(thing, type):
        wrapped: T = _wrapped(thing)
        return wrapped
    for name, member in list(vars(thing).items()):
        if name.startswith("_") and name not in _SPECIAL:
            continue
        if isinstance(member, property):
            getter = _wrapped(member.fget)
            setattr(thing, name, property(getter, member.fset, member.fdel))
        elif isinstance(member, staticmethod | classmethod):
            setattr(thing, name, type(member)(_wrapped(member.__func__)))
        else:
            setattr(thing, name, _wrapped(member))
    return thing


def _wrapped(function: Any) -> Any:
    """Return `function` in a frame that drops itself, and ours below, from errors.

    A bare `raise` adds no entry to the traceback: what is set here is what leaves.
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or code.co_flags & _ASYNC_GENERATOR:
        return function
    if code.co_flags & _COROUTINE:

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                leave(error, code)
                raise

        return awaited
    if code.co_flags & _GENERATOR:

        @wraps(function)
        def iterated(*args: Any, **kwargs: Any) -> Any:
            try:
                return (yield from function(*args, **kwargs))
            except BaseException as error:
                leave(error, code)
                raise

        return iterated

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            leave(error, code)
            raise

    return called


def leave(error: BaseException, code: CodeType | None = None) -> None:
    """Cut the traceback of `error` if its handler is called by code of others.

    To be called by the handler, just before a bare `raise`.

    code: of the public function that was called; names the nearest of its keywords
        where an unknown one was given.
    """
    caller = sys._getframe(2).f_code
    # An import asks a module what it has, and takes no for an answer.
    if caller.co_filename.startswith((PACKAGE, "<frozen importlib")):
        return
    if code is not None and isinstance(error, TypeError):
        _name_nearest_keyword(error, code)
    if wants_all_frames():
        return
    if is_meant(error, error.__traceback__):
        cut(error)


def _name_nearest_keyword(error: TypeError, code: CodeType) -> None:
    """Name the keyword of `code` that an unknown one was meant to be."""
    import re  # only once there is an error

    from mpreg_nb.names import nearest

    traceback = error.__traceback__
    if traceback is None or traceback.tb_next is not None:
        return  # the call was accepted
    unknown = re.search(r"unexpected keyword argument '(\w+)'$", str(error))
    if unknown is None:
        return
    keywords = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    meant = nearest(unknown[1], keywords[code.co_posonlyargcount :])
    if meant:
        error.args = (f"{error}. Did you mean {meant!r}?",)


def wants_all_frames() -> bool:
    """Return whether the user wants to see our frames too."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def is_meant(error: BaseException, traceback: TracebackType | None) -> bool:
    """Return whether `error` is for the user, rather than a fault of this package.

    That is: one of our errors; what ended a wait; what code of the user raised; what
    a `raise` of ours says; arguments that do not fit a public function.
    """
    from mpreg_nb.errors import MpregError

    if isinstance(error, MpregError) or ended_a_wait(error):
        return True
    places = list(walk(traceback))
    if not places:
        return False
    last = places[-1]
    code = last.tb_frame.f_code
    if code.co_filename == __file__:  # the call itself was refused
        return isinstance(error, TypeError)
    if _home(last).startswith(PACKAGE):
        return _is_raise(code, last.tb_lasti)
    # Code of the user may have called a library, here or on a node.
    return any(not _is_of_others(at.tb_frame.f_code.co_filename) for at in places)


def ended_a_wait(error: BaseException) -> bool:
    """Return whether `error` ended a wait from outside; where is of no use then."""
    from asyncio import CancelledError
    from concurrent.futures import CancelledError as Cancelled

    ends = KeyboardInterrupt, CancelledError, Cancelled, TimeoutError
    return isinstance(error, ends)


def _is_raise(code: CodeType, instruction: int) -> bool:
    import dis  # only once there is an error

    return code.co_code[instruction] == dis.opmap["RAISE_VARARGS"]


def cut(error: BaseException) -> None:
    """Take our frames out of `error`, its parts and its reasons.

    Reasons in which no code of the user has a part go: our messages say the reason,
    and how it was found out is of no use to the user.
    """
    from mpreg_nb.errors import MpregError, RemoteError

    # Not by assignment: exceptions of users may refuse to have attributes set.
    BaseException.with_traceback(error, without_ours(error.__traceback__))
    if isinstance(error, MpregError) and not isinstance(error, RemoteError):
        _cut_reasons(error)
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            cut(part)


def _cut_reasons(error: BaseException) -> None:
    if error.__cause__ is not None:
        if not is_of_the_user(error.__cause__):
            error.__cause__ = None
    elif not error.__suppress_context__:
        context = error.__context__
        while context is not None and not is_of_the_user(context):
            context = context.__cause__ or context.__context__
        error.__context__ = context


def is_of_the_user(reason: BaseException | None) -> bool:
    """Return whether `reason` was raised in code that is neither ours nor installed."""
    return reason is not None and any(
        not _is_of_others(at.tb_frame.f_code.co_filename)
        for at in walk(reason.__traceback__)
    )


def _is_of_others(filename: str) -> bool:
    return (
        filename.startswith((PACKAGE, LIBRARY, "<frozen "))
        or "site-packages" in filename
        or filename.endswith(".pyx")  # compiled: its files are named as they were built
    )


def _home(at: TracebackType) -> str:
    """Return the file of a frame, one of ours for what is as good as ours.

    That is a method that `dataclass` made of a class of ours, and what asyncio puts
    around a future of ours, which is no frame of ours any more.
    """
    code = at.tb_frame.f_code
    name = str(at.tb_frame.f_globals.get("__name__"))
    is_ours = name.partition(".")[0] == __name__.partition(".")[0]
    return (
        __file__ if is_ours or code.co_name == "_wrap_awaitable" else code.co_filename
    )


def without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Return `traceback` without the frames of this package.

    Frames of the standard library that ours called, or that called ours, go too:
    they only wait and pass on.
    """
    from mpreg_nb.serialize.tracebacks import hidden  # only once there is an error

    places = list(walk(traceback))
    unseen = hidden([_home(at) for at in places])
    shown: TracebackType | None = None
    for at, is_hidden in zip(reversed(places), reversed(unseen), strict=True):
        if not is_hidden:
            shown = TracebackType(shown, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return shown


def levels_to_user() -> int:
    """Return the `stacklevel` of a warning that points at the line of the user.

    To be called by who warns: that function is level 1.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def walk(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the entries of `traceback`, outermost first."""
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next
