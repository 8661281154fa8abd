"""How errors of ours read in a cell: the user's lines and the remote ones, not ours.

A failed workflow shows the traceback of each failed step, as far as there is room.
"""

import sys
from collections.abc import Callable
from traceback import format_exception
from types import TracebackType
from typing import Any

from IPython.core.error import UsageError

from mpreg_nb.boundary import (
    PACKAGE,
    cut,
    is_meant,
    is_of_the_user,
    walk,
    wants_all_frames,
    without_ours,
)
from mpreg_nb.errors import MpregError, NodesFailed, RemoteError, WorkflowFailed

MOST_PARTS = 3
"""Failed steps of a workflow, or nodes of a cell, whose tracebacks are shown."""


_READ_ONLY = "assignment destination is read-only"

HOW_TO_WRITE = (
    "Large results of calls are in memory that several processes read, so they cannot "
    "be written to. Copy what you change: x = np.array(x), or df = df.copy()."
)
"""Added to the error of a cell that tries."""


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
    vars(sys)["last_exc"] = error  # what debuggers take from Python 3.12 on
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
    if not isinstance(error, RemoteError) and not any(map(is_of_the_user, reasons[:2])):
        # Our messages say the reason; how we found out is of no use to the user.
        error.__cause__ = error.__context__ = None
    shown = without_ours(traceback)
    has_parts = isinstance(error, BaseExceptionGroup)
    if has_parts and not isinstance(error, WorkflowFailed | NodesFailed):
        # As IPython does, which cannot show the parts of a group by itself.
        return _in_plain_text(error, shown)
    try:
        lines: list[str] = shell.InteractiveTB.structured_traceback(
            type(error), error, shown, tb_offset=tb_offset
        )
    except AssertionError:  # IPython cannot show frames that an `except*` has left
        lines = _in_plain_text(error, shown)
    finally:
        error.__cause__, error.__context__, error.__suppress_context__ = reasons
    return lines


def _in_plain_text(error: BaseException, shown: TracebackType | None) -> list[str]:
    below = shown.tb_next if shown is not None else None  # as IPython does
    return "".join(format_exception(type(error), error, below)).splitlines()


def _add_note(error: ValueError) -> None:
    if HOW_TO_WRITE not in getattr(error, "__notes__", ()):
        error.add_note(HOW_TO_WRITE)


def is_shown_here(error: BaseException, traceback: TracebackType | None) -> bool:
    """Return whether `error` is of ours, or came through ours to the user.

    As what ended a wait, or as what code of the user raised that a magic ran.
    """
    # IPython shows these two in its own way, without any frame.
    if wants_all_frames() or isinstance(error, UsageError | SyntaxError):
        return False
    if isinstance(error, MpregError):
        return True
    return any(
        at.tb_frame.f_code.co_filename.startswith(PACKAGE) for at in walk(traceback)
    ) and is_meant(error, traceback)


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
        if isinstance(error, BaseExceptionGroup) and not wants_all_frames():
            cut(error)
        if isinstance(error, ValueError) and str(error).endswith(_READ_ONLY):
            _add_note(error)
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
