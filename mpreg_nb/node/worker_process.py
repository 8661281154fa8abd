"""One worker process as the operating system has it: start, signals, end."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

import psutil

from mpreg_nb.wire.page import PAGE_BYTES, Page

SOCKET_BYTES = 1 << 20
"""Asked for in both directions; the system may give less."""

SECRETS = "MPREG_NB_TOKEN"
"""Variables that begin so are not for user code."""

_PER_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # what ru_maxrss counts


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _PER_MB


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended."""

    status: int  # exit code, or the negative number of the signal
    memory_mb: float | None  # the most it held, or what it held when last looked at

    @property
    def cause(self) -> str:
        """In words.

        >>> End(3, None).cause, End(-9, 20.0).cause
        ('exit code 3', 'signal SIGKILL')
        """
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return f"signal {signal.Signals(-self.status).name}"
        except ValueError:  # real-time signals have no names
            return f"signal {-self.status}"


class WorkerProcess:
    """A child in a process group of its own, and the node's ends of its channels.

    `on_end` is called in a thread of ours, once. Whatever the worker started and
    left in its group is killed with it.
    """

    def __init__(
        self,
        scratch: Path,
        environment: Mapping[str, str],
        on_end: Callable[[End], None],
    ) -> None:
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as theirs:
            self._start(scratch, environment, opened, theirs)
            opened.pop_all()  # it runs: the ends are ours until `close`
        self.pid = self._popen.pid
        self.told = 0  # ids of calls that the worker was to hear
        self._ended = False
        self._ending = Lock()
        Thread(
            target=self._wait, args=(on_end,), name="mpreg-wait", daemon=True
        ).start()

    def _start(
        self,
        scratch: Path,
        environment: Mapping[str, str],
        ours: contextlib.ExitStack,
        theirs: contextlib.ExitStack,
    ) -> None:
        """Open the channels, each end on its stack, and start the program."""
        self.stream, channel = socket.socketpair()
        ours.enter_context(self.stream)
        theirs.enter_context(channel)
        for end in (self.stream, channel):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        cancels, self._cancels = os.pipe()
        self.log, log = os.pipe()
        shared = _shared_memory()
        for fd in (self._cancels, self.log):
            ours.callback(os.close, fd)
            os.set_blocking(fd, False)
        for fd in (cancels, log, shared):
            theirs.callback(os.close, fd)
        self.stream.setblocking(False)
        self.page = Page(shared)
        # A child inherits the peak of its parent until it has a higher one itself.
        self._inherited_mb = _peak_mb()
        self._sampled_mb: float | None = None
        given = (channel.fileno(), cancels, shared)
        # PR_SET_PDEATHSIG in the worker refers to the thread that calls this.
        self._popen = subprocess.Popen(  # noqa: S603  our own program
            [
                *(sys.executable, "-P", "-X", "faulthandler"),
                *("-m", "mpreg_nb.worker", *map(str, given), str(os.getpid())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=scratch,
            env=_without_secrets(environment),
            pass_fds=given,
            process_group=0,
        )

    def sample(self) -> None:
        """Note how much memory the worker holds, for the report of its end."""
        try:
            held = psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return  # it has just ended
        self._sampled_mb = round(held / 1e6, 1)

    def interrupt(self, *call_ids: bytes) -> None:
        """Have the worker drop or interrupt calls; `told` counts the words said.

        After the word RECALL a call is dropped if it has not begun, and else let be.
        """
        try:
            os.write(self._cancels, b"".join(call_ids))
        except (BlockingIOError, BrokenPipeError):
            return  # it does not look any more, or is gone: killing ends it
        self.told += len(call_ids)
        with self._ending:
            if not self._ended:
                os.kill(self.pid, signal.SIGINT)

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the worker and all that it started."""
        with self._ending:
            if not self._ended:
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Close our ends; a worker that still runs ends itself."""
        self.stream.close()
        os.close(self._cancels)
        os.close(self.log)
        self.page.close()

    def _wait(self, on_end: Callable[[End], None]) -> None:
        if hasattr(os, "waitid"):
            # Not reaped yet, so its process group cannot be anybody else's.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._sweep()
        else:
            _, status, usage = os.wait4(self.pid, 0)
        with self._ending:
            self._ended = True
            if hasattr(os, "waitid"):
                _, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._popen.returncode = code
        peak_mb = usage.ru_maxrss / _PER_MB
        known = peak_mb > self._inherited_mb
        on_end(End(code, round(peak_mb, 1) if known else self._sampled_mb))

    def _sweep(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return  # nothing is left, or what is left became another user's


def _shared_memory() -> int:
    """Return a descriptor of memory that can be shared."""
    if hasattr(os, "memfd_create"):
        shared = os.memfd_create("mpreg-page")
    else:
        with tempfile.TemporaryFile() as file:
            shared = os.dup(file.fileno())
    os.ftruncate(shared, PAGE_BYTES)
    return shared


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(SECRETS)
    }
