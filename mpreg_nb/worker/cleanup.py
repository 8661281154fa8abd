"""Restores what a function may have changed: working folder, signals, limits, locale.

The cheap looks are made after each job, the others after those that ran for a
while: who closes the standard files mostly does more than that.
"""

import _locale
import _signal  # type: ignore[import-not-found]
import fcntl
import os
import resource
import signal
import sys
import threading
from types import FrameType
from typing import Any

from mpreg_nb.worker.capture import OutputCapture
from mpreg_nb.working_folder import folder_of

LONG_NS = 500_000
"""A job of this time is followed by all looks."""

_SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))  # what ends calls
_SAVED_FROM = 200  # descriptors from here on are seldom taken by user code


def _saved_from() -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed // 2 if 0 <= allowed < 2 * _SAVED_FROM else _SAVED_FROM


class StateRestorer:
    """The state of the process as it was before any function ran."""

    def __init__(self, capture: OutputCapture) -> None:
        self._capture = capture
        self._handlers: list[tuple[int, Any]] = []
        self._locale = _locale.setlocale(_locale.LC_ALL, None)
        self._recursion_limit = sys.getrecursionlimit()
        self._process = os.getpid()
        self._files = [
            (fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _saved_from()), _identity(fd))
            for fd in range(3)
        ]

    def begin(self) -> None:
        """Note what is in place now that the worker is set up."""
        self._handlers = [(n, _signal.getsignal(n)) for n in _SIGNALS]

    def leave_copy(self) -> None:
        """End this process if it is a copy that a function forked and let return."""
        if os.getpid() != self._process:
            os._exit(0)

    def after(self, run_ns: int) -> None:
        """Look, and put right."""
        self.leave_copy()
        if not self._capture.is_installed:
            self._capture.install()
        for number, handler in self._handlers:
            # Not by `signal`, which makes enums of everything: 100 times slower.
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        if _locale.setlocale(_locale.LC_ALL, None) != self._locale:
            _locale.setlocale(_locale.LC_ALL, self._locale)
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        if run_ns >= LONG_NS:
            self._look_closely()

    def _look_closely(self) -> None:
        for fd, saved, identity in self._files:
            if _identity(fd) != identity:
                os.dup2(saved, fd)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:  # closed
        return None
    return status.st_dev, status.st_ino


def is_importing(frame: FrameType | None) -> bool:
    """Whether code under `frame` imports a module.

    That is not to be interrupted: the modules inside of a package that were done
    stay, and make the next import of the package fail in strange ways.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


_CLONE_FS = 0x200
"""Of Linux' <sched.h>: what a thread shares of working folder and umask."""


class Folder:
    """Takes calls to the folder of their caller, else to the scratch folder."""

    def __init__(self, scratch: str) -> None:
        self._scratch = os.fsencode(os.path.abspath(scratch))
        self._asked: bytes | None = None  # None: look again
        self._now = b""

    def enter(self, asked: bytes) -> None:
        """Go where a call belongs: functions may have moved, folders may be gone."""
        if asked == self._asked:
            try:
                if os.getcwdb() == self._now:
                    return
            except OSError:  # it was removed
                pass
        self._asked = asked
        folder = folder_of(asked)
        if folder:
            try:
                os.chdir(folder)
            except OSError:  # it is gone, or not for this user
                self._asked = None
            else:
                self._now = os.getcwdb()
                return
        os.makedirs(self._scratch, exist_ok=True)
        os.chdir(self._scratch)
        self._now = os.getcwdb()


class Folders:
    """A folder for each thread of a worker with several slots.

    Linux lets a thread have a working folder of its own. Where it does not, as on
    other systems or in some containers, the call that began last decides for all;
    so it does among async functions, which share a thread.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._own = threading.local()

    def enter(self, asked: bytes) -> None:
        """Go where a call belongs, in this thread."""
        folder: Folder | None = getattr(self._own, "folder", None)
        if folder is None:
            _separate()
            folder = self._own.folder = Folder(self._scratch)
        folder.enter(asked)


def _separate() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).unshare(_CLONE_FS)  # where it is forbidden, all share one
