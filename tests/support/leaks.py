"""What a test leaves behind: processes, listening sockets, threads, files.

Processes are found by descent and by environment: whatever a test starts, and
however it detaches itself, inherits the test's own folder for run-time files.
Other tests and users of the machine are so never mistaken for leaks.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

BOUND_S = 20.0
"""What ends later than this after its test is left over."""

LOOK_S = 0.02

# Python starts these once per process and ends them with it.
LASTING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


class Leaks:
    """Processes, files and threads now, compared with those at its creation.

    A node that existed then may replace a worker meanwhile: the worker ends with its
    node, and whoever started the node looks for both.
    """

    def __init__(self, folder: Path) -> None:
        """Record what exists now; `own_folders` made `folder` for this test alone."""
        self._folder = folder
        self._files_matter = True
        self._marker = str(folder / "runtime")
        self._processes = set(self._descendants())
        self._sockets = set(_listening())
        self._threads = set(threading.enumerate())

    def wait(self, bound_s: float = BOUND_S) -> list[str]:
        """Return a description of each leak that remains after `bound_s` seconds."""
        deadline = time.monotonic() + bound_s
        while left := self._left():
            if time.monotonic() > deadline:
                break
            time.sleep(LOOK_S)
        return left

    def forget_files(self) -> None:
        """Ignore files: a process that was killed could not delete its own."""
        self._files_matter = False

    def processes(self) -> list[psutil.Process]:
        """Return the processes that the test started and that are still there."""
        found = {*self._descendants(), *self._marked()} - self._processes
        found.discard(psutil.Process())
        before = {process.pid for process in self._processes if process.is_running()}
        new = [process for process in found if _parent(process) not in before]
        return sorted(new, key=lambda process: process.pid)

    def end(self) -> None:
        """End the processes that are left over, so that they mislead no other test."""
        left = self.processes()
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=BOUND_S)

    def _left(self) -> list[str]:
        return [
            *(f"process {_described(process)}" for process in self.processes()),
            *(
                f"listening socket {address}"
                for address in _listening()
                if address not in self._sockets
            ),
            *(
                f"thread {thread.name}"
                for thread in threading.enumerate()
                if not thread.daemon and thread not in self._threads
            ),
            *(f"file {path}" for path in self._files()),
        ]

    def _files(self) -> Iterator[Path]:
        if not self._files_matter:
            return
        for place in ("runtime/mpreg_nb", "state/mpreg_nb/clusters"):
            for path in (self._folder / place).rglob("*"):
                if path.name != ".lock":
                    yield path

    def _descendants(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if not any(word in " ".join(_command(process)) for word in LASTING)
        ]

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.environ().get("XDG_RUNTIME_DIR") == self._marker:
                    yield process
            except psutil.Error:
                continue


def own_folders(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let tokens, ledgers and logs go to `folder`, never to the user's files."""
    for variable, name in (("XDG_RUNTIME_DIR", "runtime"), ("XDG_STATE_HOME", "state")):
        place = folder / name
        place.mkdir(mode=0o700)
        patch.setenv(variable, str(place))
    patch.delenv("MPREG_NB_TOKEN", raising=False)
    patch.delenv("MPREG_NB_TOKEN_FILE", raising=False)
    patch.delenv("MPREG_NB_CA", raising=False)


@contextmanager
def nothing_left(folder: Path) -> Iterator[Leaks]:
    """Fail when the block leaves anything behind; to be used around a test."""
    own = folder / "own"
    own.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        own_folders(own, patch)
        leaks = Leaks(own)
        yield leaks
        left = leaks.wait()
        leaks.end()
    if left:
        pytest.fail("left over:\n  " + "\n  ".join(left))


def _listening() -> list[str]:
    return [
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for connection in psutil.Process().net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _described(process: psutil.Process) -> str:
    try:
        state: str = process.status()
    except psutil.NoSuchProcess:
        state = "gone"
    words = " ".join(_command(process)) or "?"
    return f"{process.pid} ({state}): {words}"
