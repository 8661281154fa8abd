"""Shows progress while a call, a map or a run blocks for longer than a moment.

The waiting thread wakes a few times a second and shows the progress. So no thread is
started, a short wait costs nothing, and the display ends with the wait, be it by a
result, an error or Stop. A terminal shows one line, which is overwritten; a notebook
sets a screen of its own by `set_screen`. At the end one line is left.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from mpreg_nb.client.output import interrupted_by_prints
from mpreg_nb.cluster.config import CONFIG
from mpreg_nb.units import duration
from mpreg_nb.view import plain_mode
from mpreg_nb.view.diagram_text import columns, printable
from mpreg_nb.view.palette import BUSY, IDLE
from mpreg_nb.view.tables import safe

if TYPE_CHECKING:
    from mpreg_nb.client.future import Over


EVERY_S = 0.25
"""Least time between two updates."""

SHARE = 0.2
"""Largest share of the time of the waiting thread that updates take."""

CHARACTERS_PER_S = 300_000
"""Largest rate to a front end; a notebook's server stops output of 1 MB/s."""

_WIDTH = 80  # of a terminal of unknown width


class Progress(Protocol):
    """The progress of a call, a map or a run."""

    @property
    def key(self) -> object:
        """Waits of one cell with the same key share a place on the screen."""
        ...

    @property
    def is_kept(self) -> bool:
        """Whether a page that is reloaded during the wait shows its end."""
        ...

    def shows(self, value: object) -> bool:
        """Return whether the display of `value` already shows the end of this wait."""
        ...

    def line(self, ended: str = "") -> str:
        """Return the progress in one line.

        ended: "done", "failed" or "stopped"; "" while the wait goes on.
        """
        ...

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the progress for a front end, by MIME type, text/plain included."""
        ...


class Screen(Protocol):
    """The place where the progress of one wait is shown."""

    def show(self, progress: Progress) -> int:
        """Show the progress; return the number of characters that were sent."""
        ...

    def end(self, progress: Progress, ended: str) -> None:
        """Show the progress for the last time."""
        ...


class ProgressReporter:
    """Shows the progress of waits inside, once `after_s` seconds have passed."""

    def __init__(self, progress: Progress, after_s: float | None = None) -> None:
        """after_s: by default `progress_after_s` of `mp.config`."""
        self._progress = progress
        self._screen: Screen | None = None
        self._due = time.monotonic() + (
            CONFIG.progress_after_s if after_s is None else after_s
        )

    def __enter__(self) -> "ProgressReporter":
        return self

    @property
    def shows(self) -> bool:
        """Whether the wait took long enough for progress to be shown."""
        return self._screen is not None

    def wait(self, over: "Over", timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds; return whether the wait is over."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            until = min(end, self._due)
            if over(None if until == math.inf else max(0.0, until - now)):
                return True
            if time.monotonic() >= end:
                return False
            self._show()

    def _show(self) -> None:
        began = time.monotonic()
        if self._screen is None:
            self._screen = _make_screen[0]()
            if self._screen is None:
                self._due = math.inf
                return
        sent = self._screen.show(self._progress)
        now = time.monotonic()
        pause_s = max(EVERY_S, (now - began) / SHARE, sent / CHARACTERS_PER_S)
        self._due = now + pause_s

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        screen, self._screen = self._screen, None
        if screen is not None:
            stopped = kind is not None and not issubclass(kind, Exception)
            ended = "stopped" if stopped else "failed" if kind else "done"
            screen.end(self._progress, ended)


def wait_shown(progress: Progress, over: "Over", timeout: float | None) -> bool:
    """Wait as `over` does, and show progress; costs a short wait next to nothing."""
    after_s = CONFIG.progress_after_s
    if timeout is not None and timeout <= after_s:
        return over(timeout)
    if over(None if after_s == math.inf else after_s):
        return True
    with ProgressReporter(progress, after_s=0.0) as reporter:
        return reporter.wait(over, None if timeout is None else timeout - after_s)


def in_seconds(seconds: float, *, whole: bool = False) -> str:
    """Return a duration as text that is read while it grows: without hundredths.

    whole: without tenths too, for an estimate.

    >>> in_seconds(2.04), in_seconds(83), in_seconds(2.04, whole=True)
    ('2.0 s', '1 min 23 s', '2 s')
    """
    if seconds >= 59.5:
        return duration(seconds * 1e3)
    return f"{max(1, round(seconds))} s" if whole else f"{seconds:.1f} s"


def as_bundle(line: str, share: float | None = None) -> dict[str, str]:
    """Return a line for a front end, with a bar if the total is known."""
    bar = ""
    if share is not None:
        bar = (
            f'<div style="height:4px;max-width:480px;background:{IDLE.mark}40">'
            f'<div style="height:4px;width:{100 * share:.1f}%;background:{BUSY.mark}">'
            "</div></div>"
        )
    html = f'<div style="padding:2px 0"><div>{safe(line)}</div>{bar}</div>'
    return {"text/plain": printable(line), "text/html": html}


def folded(line: str, bundle: dict[str, str]) -> dict[str, str]:
    """Return a line that opens the content of `bundle`, in front ends that can."""
    html = (
        f'<details style="padding:2px 0"><summary>{safe(line)}</summary>'
        f"{bundle['text/html']}</details>"
    )
    return {"text/plain": printable(line), "text/html": html}


# ------------------------------------------------------------------- terminal


class TerminalLine:
    """One line at the end of a terminal, overwritten by each update; the last stays."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # another thread prints for calls
        self._is_written = False
        self._uninterrupted = interrupted_by_prints(self.clear)

    def show(self, progress: Progress) -> int:
        """Write the line again."""
        return self._write(progress.line())

    def clear(self) -> None:
        """Erase the line, for output of others."""
        with self._lock:
            if self._is_written:
                self._is_written = False
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def end(self, progress: Progress, ended: str) -> None:
        """Leave a line that shows how the wait ended."""
        self._uninterrupted()
        self._write(progress.line(ended), "\n")
        _terminal.release()

    def _write(self, line: str, end: str = "") -> int:
        line = _fitting(printable(line), _columns(self._stream) - 1)
        with self._lock:
            self._stream.write(f"\r{line}\x1b[K{end}")
            self._stream.flush()
            self._is_written = not end
        return len(line)


_terminal = threading.Lock()  # held by the line, of which there is one at a time


def _make_terminal_line() -> Screen | None:
    if plain_mode.asked() or not plain_mode.is_terminal(sys.stderr):
        return None
    if not _terminal.acquire(False):
        return None
    return TerminalLine(sys.stderr)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _WIDTH
    except (OSError, ValueError):
        return _WIDTH


def _fitting(line: str, width: int) -> str:
    if columns(line) <= width:
        return line
    while line and columns(line) > width - 1:
        line = line[:-1]
    return f"{line}…"


_make_screen: list[Callable[[], Screen | None]] = [_make_terminal_line]


def set_screen(make: Callable[[], Screen | None] | None) -> None:
    """Use `make` for the screen of each wait; None: the terminal, if there is one.

    Where `make` returns None, nothing is shown.
    """
    _make_screen[0] = make or _make_terminal_line
