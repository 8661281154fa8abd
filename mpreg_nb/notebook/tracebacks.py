"""How errors of ours read in a cell: the user's lines and the remote ones, not ours.

A failed workflow shows the traceback of each failed step, as far as there is room.
"""

import os
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mpreg_nb.errors import MpregError, NodesFailed, RemoteError, WorkflowFailed

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

MOST_PARTS = 3
"""Failed steps of a workflow, or nodes of a cell, whose tracebacks are shown."""

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Return `traceback` without the frames of this package.

    Frames of the standard library that ours called go too: they only wait.
    """
    kept: list[TracebackType] = []
    inside = False
    for at in _walk(traceback):
        name = at.tb_frame.f_code.co_filename
        waits = name.startswith(_LIBRARY) and "site-packages" not in name
        inside = name.startswith(_PACKAGE) or (inside and waits)
        if not inside:
            kept.append(at)
    shown: TracebackType | None = None
    for at in reversed(kept):
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
    """Show `error` in `shell`, as IPython calls for errors of certain classes."""
    # For %debug, which shall find all frames.
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
    try:
        lines: list[str] = shell.InteractiveTB.structured_traceback(
            type(error), error, without_ours(traceback), tb_offset=tb_offset
        )
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


def attach(shell: "InteractiveShell") -> Callable[[], None]:
    """Show errors of ours in `shell` by `show_error`; return what ends that.

    Where the user has set a handler of their own, that is left alone.
    """
    if shell.custom_exceptions:
        return lambda: None
    ours = (MpregError,)
    shell.set_custom_exc(ours, show_error)  # type: ignore[no-untyped-call]

    def detach() -> None:
        if shell.custom_exceptions == ours:
            shell.set_custom_exc((), None)  # type: ignore[no-untyped-call]

    return detach
