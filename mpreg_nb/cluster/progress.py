"""What is shown while a call, a map or a run blocks for longer than a moment.

The thread that waits wakes a few times a second, looks and shows. So nothing is
started for it, a short wait costs nothing, and whatever ends the wait (a result, an
error, Stop) ends the showing too. On a terminal one line is written over and over;
a notebook gives a screen of its own by `set_screen`. At the end one line is left.
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
"""Between two pictures, at least."""

SHARE = 0.2
"""Of the time of the waiting thread that pictures may take at most."""

CHARACTERS_PER_S = 300_000
"""Sent to a front end at most; a notebook's server cuts off what sends 1 MB/s."""

_WIDTH = 80  # of a terminal that does not say


class Progress(Protocol):
    """Something that is waited for."""

    @property
    def key(self) -> object:
        """Waits of one cell with the same key share a place on the screen."""
        ...

    @property
    def is_kept(self) -> bool:
        """Whether its end is shown on a page, too, that is loaded again meanwhile."""
        ...

    def shows(self, value: object) -> bool:
        """Say whether `value`, when it is shown, shows the same as this at its end."""
        ...

    def line(self, ended: str = "") -> str:
        """Say how far it is, in one line. ended: how the wait ended, "" while it goes.

        One of "done", "failed", "stopped".
        """
        ...

    def bundle(self, ended: str = "") -> dict[str, str]:
        """Return the same for a front end, by MIME type; text/plain is among them."""
        ...


class Screen(Protocol):
    """Where it is shown. One for each wait."""

    def show(self, watched: Progress) -> int:
        """Show it as it is now; return how many characters were sent."""
        ...

    def end(self, watched: Progress, ended: str) -> None:
        """Show it for the last time."""
        ...


class ProgressReporter:
    """Shows what is waited for inside, once `after_s` seconds have passed."""

    def __init__(self, watched: Progress, after_s: float | None = None) -> None:
        """after_s: by default what the user has set."""
        self._watched = watched
        self._screen: Screen | None = None
        self._due = time.monotonic() + (
            CONFIG.progress_after_s if after_s is None else after_s
        )

    def __enter__(self) -> "ProgressReporter":
        return self

    @property
    def shows(self) -> bool:
        """Whether it took long enough for something to be shown."""
        return self._screen is not None

    def wait(self, over: "Over", timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds, and return whether it is over."""
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
        sent = self._screen.show(self._watched)
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
            screen.end(self._watched, ended)


def wait_shown(watched: Progress, over: "Over", timeout: float | None) -> bool:
    """Wait as `over` does, with progress; costs a short wait next to nothing."""
    after_s = CONFIG.progress_after_s
    if timeout is not None and timeout <= after_s:
        return over(timeout)
    if over(None if after_s == math.inf else after_s):
        return True
    with ProgressReporter(watched, after_s=0.0) as patience:
        return patience.wait(over, None if timeout is None else timeout - after_s)


def in_seconds(seconds: float, *, whole: bool = False) -> str:
    """Return a time that is read while it runs: without hundredths.

    whole: without tenths too, for a time that is only estimated.

    >>> in_seconds(2.04), in_seconds(83), in_seconds(2.04, whole=True)
    ('2.0 s', '1 min 23 s', '2 s')
    """
    if seconds >= 59.5:
        return duration(seconds * 1e3)
    return f"{max(1, round(seconds))} s" if whole else f"{seconds:.1f} s"


def as_bundle(line: str, share: float | None = None) -> dict[str, str]:
    """Return a line for a front end, with a bar where the whole is known."""
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
    """Return a line that opens what `bundle` shows, where a front end can do that."""
    html = (
        f'<details style="padding:2px 0"><summary>{safe(line)}</summary>'
        f"{bundle['text/html']}</details>"
    )
    return {"text/plain": printable(line), "text/html": html}


# ------------------------------------------------------------------- terminal


class TerminalLine:
    """One line at the end of a terminal, written over and over; its last form stays."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # prints of calls come on another thread
        self._is_written = False
        self._uninterrupted = interrupted_by_prints(self.clear)

    def show(self, watched: Progress) -> int:
        """Write the line anew."""
        return self._write(watched.line())

    def clear(self) -> None:
        """Make room for something else."""
        with self._lock:
            if self._is_written:
                self._is_written = False
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def end(self, watched: Progress, ended: str) -> None:
        """Leave a line that says how it ended."""
        self._uninterrupted()
        self._write(watched.line(ended), "\n")
        _terminal.release()

    def _write(self, line: str, end: str = "") -> int:
        line = _fitting(printable(line), _columns(self._stream) - 1)
        with self._lock:
            self._stream.write(f"\r{line}\x1b[K{end}")
            self._stream.flush()
            self._is_written = not end
        return len(line)


_terminal = threading.Lock()  # held by the one line that there is


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
    """Let `make` give the screen of each wait; None: the terminal, if there is one.

    It may return None, and then nothing is shown.
    """
    _make_screen[0] = make or _make_terminal_line
