"""How errors of ours read in a cell: the user's lines and the remote ones, not ours.

A failed workflow shows the traceback of each failed step, as far as there is room.
"""

import os
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from traceback import format_exception
from types import TracebackType
from typing import Any

from mpreg_nb.errors import MpregError, NodesFailed, RemoteError, WorkflowFailed

MOST_PARTS = 3
"""Failed steps of a workflow, or nodes of a cell, whose tracebacks are shown."""

WHILE_WAITING = (KeyboardInterrupt, CancelledError, TimeoutError)
"""What ends a wait from outside; where ours waited is of no use to the user."""

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Return `traceback` without the frames of this package.

    Frames of the standard library that ours called, or that called ours, go too:
    they only wait and pass on.
    """
    from mpreg_nb.wire.tracebacks import hidden  # only once there is an error

    frames = list(_walk(traceback))
    unseen = hidden([at.tb_frame.f_code.co_filename for at in frames])
    shown: TracebackType | None = None
    for at, is_hidden in zip(reversed(frames), reversed(unseen), strict=True):
        if not is_hidden:
            shown = TracebackType(shown, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return shown


def _walk(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def show_error(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
    tb_offset: int | None = None,
) -> list[str]:
    """Show `error` in `shell`, and keep it for `%tb` and `%debug`."""
    traceback = error.__traceback__ = without_ours(traceback)
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, traceback
    lines = _lines(shell, error, traceback, tb_offset)
    if isinstance(error, WorkflowFailed | NodesFailed):
        what = "step" if isinstance(error, WorkflowFailed) else "node"
        parts = list(zip(error.failed, error.exceptions, strict=False))
        for name, failure in parts[:MOST_PARTS]:
            lines.append(f"\n{what.capitalize()} {name!r}:")
            lines += _lines(shell, failure, failure.__traceback__, 0)
        if len(parts) > MOST_PARTS:
            lines.append(f"\n… and {len(parts) - MOST_PARTS} more failed {what}s")
    shell._showtraceback(kind, error, lines)
    return lines


def _lines(
    shell: Any,
    error: BaseException,
    traceback: TracebackType | None,
    tb_offset: int | None,
) -> list[str]:
    reasons = error.__cause__, error.__context__, error.__suppress_context__
    if not isinstance(error, RemoteError) and not any(map(_of_the_user, reasons[:2])):
        # Our messages say the reason; how we found out is of no use to the user.
        error.__cause__ = error.__context__ = None
    shown = without_ours(traceback)
    try:
        lines: list[str] = shell.InteractiveTB.structured_traceback(
            type(error), error, shown, tb_offset=tb_offset
        )
    except AssertionError:  # IPython cannot show frames that an `except*` has left
        below = shown.tb_next if shown is not None else None  # as IPython does
        lines = "".join(format_exception(type(error), error, below)).splitlines()
    finally:
        error.__cause__, error.__context__, error.__suppress_context__ = reasons
    return lines


def _of_the_user(reason: BaseException | None) -> bool:
    """Return whether `reason` was raised in code that is neither ours nor installed."""
    return reason is not None and any(
        not name.startswith((_PACKAGE, _LIBRARY)) and "site-packages" not in name
        for name in (
            at.tb_frame.f_code.co_filename for at in _walk(reason.__traceback__)
        )
    )


def is_shown_here(error: BaseException, traceback: TracebackType | None) -> bool:
    """Return whether `error` is of ours, or came while ours waited."""
    if isinstance(error, MpregError):
        return True
    return isinstance(error, WHILE_WAITING) and any(
        at.tb_frame.f_code.co_filename.startswith(_PACKAGE) for at in _walk(traceback)
    )


def _hide_in(error: BaseException | None) -> None:
    """Take our frames out of a group and its reasons; Python itself shows groups."""
    if error is None:
        return
    if is_shown_here(error, error.__traceback__):
        error.__traceback__ = without_ours(error.__traceback__)
    for reason in (error.__cause__, error.__context__):
        _hide_in(reason)
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            _hide_in(part)


def attach(shell: Any) -> Callable[[], None]:
    """Show errors of ours in `shell` by `show_error`; return what ends that.

    A handler that the user sets by `set_custom_exc` comes first.
    """
    original = shell.showtraceback

    def showtraceback(
        exc_tuple: Any = None,
        filename: str | None = None,
        tb_offset: int | None = None,
        exception_only: bool = False,
        running_compiled_code: bool = False,
    ) -> None:
        _, error, traceback = exc_tuple or sys.exc_info()
        if error is None and hasattr(sys, "last_value"):  # %tb
            error, traceback = sys.last_value, sys.last_traceback
        if isinstance(error, BaseExceptionGroup):
            _hide_in(error)
        if error is None or exception_only or not is_shown_here(error, traceback):
            original(
                exc_tuple, filename, tb_offset, exception_only, running_compiled_code
            )
            return
        show_error(shell, type(error), error, traceback, tb_offset)
        if shell.call_pdb:
            shell.debugger(force=True)

    shell.showtraceback = showtraceback

    def detach() -> None:
        if vars(shell).get("showtraceback") is showtraceback:
            shell.showtraceback = original

    return detach
