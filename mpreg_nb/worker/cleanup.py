"""Restores what a function may have changed in the process of its worker.

Environment, umask, signal handlers, timers, locale and working folder are checked
after each call. Limits, priority, standard files and the like take longer to check:
that is done after the first call of a function, after calls that took long, and else
every 20 milliseconds. A forked child that nothing in this process holds is killed.

What cannot be restored, such as a hard limit that was lowered, makes the worker
unfit: its node starts another one in its place. A worker that keeps names for cells
(a space) keeps all this too, except what the worker itself needs.
"""

import _locale
import _signal  # type: ignore[import-not-found]
import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Any

from mpreg_nb.output.capture import OutputCapture
from mpreg_nb.working_folder import folder_of

LONG_NS = 500_000
"""A call of this time is followed by the slow checks."""

SLOW_CHECKS_EVERY_NS = 20_000_000
"""After short calls the slow checks, about 30 us, are made this often."""

MOST_THREADS = 1000
"""Threads that functions may leave in a worker; one with more is replaced."""

_ALWAYS_RESTORED = (signal.SIGINT, signal.SIGTERM)  # what cancels calls
_CHECKED_ALWAYS = (*_ALWAYS_RESTORED, signal.SIGALRM, signal.SIGCHLD)
_SAVED_FROM = 200  # descriptors from here on are seldom taken by user code


def _saved_from() -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed // 2 if 0 <= allowed < 2 * _SAVED_FROM else _SAVED_FROM


class StateRestorer:
    """The state of the process as it was before any function ran."""

    def __init__(self, capture: OutputCapture, *, keeps: bool = False) -> None:
        """`keeps`: leave what does not hinder the worker as functions set it."""
        self._capture = capture
        self._keeps = keeps
        self._process = os.getpid()
        self._files = [
            (fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _saved_from()), _identity(fd))
            for fd in range(3)
        ]
        self.children = ForkedChildren()
        self._checked_ns = 0
        self.unfit = ""
        """Why this worker must run no more calls; "" as long as it may."""

    def begin(self) -> None:
        """Note what is in place now that the worker is set up."""
        always = _ALWAYS_RESTORED if self._keeps else _CHECKED_ALWAYS
        self._handlers = [(int(n), _signal.getsignal(n)) for n in always]
        self._all_handlers = [] if self._keeps else _handlers()
        self._thread = ThreadState()
        self._environment = os.environ
        self._stored = WatchedVariables.installed()
        self._variables = dict(self._stored)
        self._locale = _locale.setlocale(_locale.LC_ALL, None)
        self._recursion_limit = sys.getrecursionlimit()
        self._limits = _limits()
        self._switch_s = sys.getswitchinterval()
        self._threads = threading.active_count()
        self._cores = _cores()

    def leave_copy(self) -> None:
        """End this process if it is a copy that a function forked and let return."""
        if os.getpid() != self._process:
            os._exit(0)

    def end_copies(self) -> None:
        """Kill the copies that functions forked and left; no call may be running."""
        if self.children.copies and not self._keeps:
            self.children.end()

    def after(self, now_ns: int, run_ns: int, *, is_first: bool) -> None:
        """Restore what the last call changed; no other call may be running.

        is_first: its function has not run in this process before.
        """
        if not self._capture.is_installed:
            self._capture.install()
        for number, handler in self._handlers:
            # Not by `signal`, which makes enums of everything: 100 times slower.
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        if not self._keeps:
            self._restore_what_is_checked_always()
        if (
            is_first
            or run_ns >= LONG_NS
            or now_ns - self._checked_ns >= SLOW_CHECKS_EVERY_NS
        ):
            self._checked_ns = now_ns
            self._restore_files()
            if not self._keeps:
                self._restore_the_rest()

    def _restore_what_is_checked_always(self) -> None:
        os.umask(self._thread.umask)
        _signal.alarm(0)  # it would hit the next call
        if self._stored.changed or os.environ is not self._environment:
            self._restore_environment()
        if _locale.setlocale(_locale.LC_ALL, None) != self._locale:
            _locale.setlocale(_locale.LC_ALL, self._locale)
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        if not gc.isenabled():
            gc.enable()

    def _restore_environment(self) -> None:
        vars(os)["environ"] = self._environment
        zone = self._stored.get(b"TZ")
        for name in self._stored.keys() - self._variables.keys():
            del os.environb[name]
        for name, value in self._variables.items():
            if self._stored.get(name) != value:
                os.environb[name] = value
        if zone != self._stored.get(b"TZ"):
            time.tzset()
        self._stored.changed = False

    def _restore_files(self) -> None:
        for fd, saved, identity in self._files:
            if _identity(fd) != identity:
                os.dup2(saved, fd)

    def _restore_the_rest(self) -> None:
        for number, handler in self._all_handlers:
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        for timer in (_signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
            _signal.setitimer(timer, 0)
        if sys.getswitchinterval() != self._switch_s:
            sys.setswitchinterval(self._switch_s)
        if os.getpgrp() != self._process:  # the node signals this group
            os.setpgid(0, 0)
        if _cores() != self._cores:
            os.sched_setaffinity(0, self._cores)
        for limit, pair in self._limits.items():
            if resource.getrlimit(limit) != pair:
                self._restore_limit(limit, pair)
        self._thread.restore_priority()
        if self._thread.is_slow:
            self.unfit = "a function lowered its priority"
        left = threading.active_count() - self._threads
        if left > MOST_THREADS:
            self.unfit = f"functions left {left} threads"

    def _restore_limit(self, limit: int, pair: tuple[int, int]) -> None:
        try:
            resource.setrlimit(limit, pair)
        except (ValueError, OSError):  # only root can raise a hard limit
            self.unfit = "a function lowered a limit of its process for good"


class WatchedVariables(dict[bytes, bytes]):
    """What `os.environ` keeps its variables in; notes that one was set or deleted.

    To compare all of them after each call would take a microsecond.
    """

    changed = False

    @classmethod
    def installed(cls) -> "WatchedVariables":
        """Return those of this process, in place of what `os` had."""
        watched = cls(vars(os.environ)["_data"])
        for environment in (os.environ, os.environb):
            vars(environment)["_data"] = watched
        return watched

    def __setitem__(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().__setitem__(name, value)

    def __delitem__(self, name: bytes) -> None:
        self.changed = True
        super().__delitem__(name)


class ThreadState:
    """What Linux keeps for each thread: who may open its files, priority, signals.

    Threads of a worker do not share the umask where they have folders of their own.
    """

    def __init__(self) -> None:
        """Note the state of this thread."""
        self.umask = os.umask(0o077)
        os.umask(self.umask)
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self.is_slow = False
        """Whether its priority was lowered, and could not be raised again."""

    def restore(self) -> None:
        """Restore the umask of this thread."""
        os.umask(self.umask)

    def restore_priority(self) -> None:
        """Restore priority and blocked signals of this thread, if that is allowed."""
        if os.getpriority(os.PRIO_PROCESS, 0) != self._priority:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, self._priority)
            except PermissionError:
                self.is_slow = True
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)


class ForkedChildren:
    """Copies of this process that functions fork.

    One that an object still refers to, as a pool of `multiprocessing` that a module
    keeps for the next call, may stay. So may other programs that functions start:
    all of them end with the worker.
    """

    def __init__(self) -> None:
        self.copies: set[int] = set()
        """Those that there may be. To be changed by this class alone."""
        self._known: set[int] = set()  # children that are no copies
        self._name = _name(os.getpid())
        self._command = _command(os.getpid())
        os.register_at_fork(after_in_parent=self._notice)

    def _notice(self) -> None:
        """Note which child has just been forked."""
        children = _children()
        self.copies |= children - self._known
        self._known = children

    def end(self) -> None:
        """Kill the copies that no object refers to, and reap them."""
        held = _held_processes()
        for child in self.copies - held:
            self.copies.discard(child)
            command = _command(child)
            if command == self._command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            elif command or _name(child) != self._name:
                continue  # it runs another program, or ran one, or is reaped
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
        self._known = _children()


def _held_processes() -> set[int]:
    """Return the ids of the processes of `multiprocessing` that an object refers to."""
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return set()
    # It refers to all that run itself, so this is done without it.
    started: set[Any] = vars(module)["_children"]
    found = [(weakref.ref(process), process.pid) for process in started]
    started.clear()
    held = {process: pid for refer, pid in found if (process := refer()) is not None}
    started.update(held)
    return set(held.values())


def _children() -> set[int]:
    """Return the ids of the children of this process; Linux only."""
    found: set[int] = set()
    folder = "/proc/self/task"
    for thread in os.listdir(folder) if os.path.isdir(folder) else ():
        with (
            contextlib.suppress(FileNotFoundError),  # the thread has just ended
            open(f"{folder}/{thread}/children") as file,
        ):
            found.update(map(int, file.read().split()))
    return found


def _command(process: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    return _about(process, "cmdline")


def _name(process: int) -> bytes:
    """Return the short name of a process, known until it is reaped."""
    return _about(process, "comm")


def _about(process: int, file_name: str) -> bytes:
    try:
        with open(f"/proc/{process}/{file_name}", "rb") as file:
            return file.read()
    except OSError:  # it is reaped, or this is not Linux
        return b""


def _handlers() -> list[tuple[int, Any]]:
    found = [(int(n), _signal.getsignal(n)) for n in signal.valid_signals()]
    return [(n, handler) for n, handler in found if handler is not None]


def _limits() -> dict[int, tuple[int, int]]:
    numbers = {
        number for name, number in vars(resource).items() if name.startswith("RLIMIT_")
    }
    return {number: resource.getrlimit(number) for number in sorted(numbers)}


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


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
