"""Processes by id and start time, and one thread that waits for all children.

A process is known by its id together with when it started, counted from the
boot of the machine, so that setting the wall clock changes nothing. After the next
boot it is gone, whoever has its id then.
"""

import math
import os
import select
import selectors
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import psutil

TOLERANCE_S = 2.0
"""Two starts of one process id this close are one: clocks are read twice."""

KILLED_S = 5.0
"""The system needs this long at most to end what was killed."""

LOOK_S = 0.05
"""Between two looks where the system cannot tell that a process has ended."""


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """One process of this machine, for ever."""

    # Zero and less mean groups of processes to the system, never one.
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    started_s: float  # from boot to start
    boot: str = ""  # which boot of the machine; "": the last one, or not known

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the machine was not started again since."""
        return self.boot in ("", boot_id())


@cache
def boot_id() -> str:
    """Return what names this boot of the machine; "" where the system has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def stamp(pid: int) -> ProcessId:
    """Return who the process with this id is now; its remains count too.

    Raises ProcessLookupError when there is none.
    """
    try:
        started_s = psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"there is no process {pid}") from None
    return ProcessId(pid=pid, started_s=round(started_s, 2), boot=boot_id())


def is_alive(known: ProcessId) -> bool:
    """Return whether that very process still runs; remains do not.

    While it ends, its main thread may be gone before others that hold its files.
    """
    try:
        process = psutil.Process(known.pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        remains = is_zombie and process.num_threads() <= 1
    except psutil.Error:
        return False
    return not remains and not _is_replaced(known)


def end_all(known: Iterable[ProcessId], *, drain: float) -> tuple[ProcessId, ...]:
    """End these session leaders and their sessions; return those that were alive.

    Each leader gets SIGTERM and `drain` seconds; then all that is left of its
    session gets SIGKILL, also where the leader had died before. Blocks until
    they are gone.
    """
    leaders = tuple(known)
    alive = tuple(one for one in leaders if is_alive(one))
    # Taken while the leaders live: with them their ids could go to others.
    sessions = _sessions(leaders)
    for one in alive:
        send(one, signal.SIGTERM)
    for one in sessions:
        send(one, signal.SIGCONT)  # what is stopped would not hear
    await_end(alive, timeout=drain)
    # Looked for again: a leader that drains may have started a process.
    rest = {*alive, *sessions, *_sessions(leaders)}
    for one in rest:
        send(one, signal.SIGKILL)
    await_end(rest, timeout=KILLED_S)
    return alive


def await_end(known: Collection[ProcessId], *, timeout: float) -> bool:
    """Wait until all of `known` have ended; False when some outlive `timeout`."""
    deadline = time.monotonic() + timeout
    for one in known:
        descriptor = open_pidfd(one.pid)
        try:
            while is_alive(one):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                if descriptor < 0:
                    time.sleep(min(left_s, LOOK_S))
                else:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(left_s * 1000)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
    return True


def open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when `pid` ends, or -1.

    -1 where the system has none, or no such process.
    """
    if sys.platform != "linux":
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def send(known: ProcessId, number: signal.Signals) -> None:
    """Send a signal to that very process; nothing happens where it has ended."""
    if is_alive(known):
        try:
            os.kill(known.pid, number)
        except ProcessLookupError:
            return


def session_of(leader: ProcessId) -> set[ProcessId]:
    """Return the processes of the session that `leader` leads, or has led."""
    return _sessions((leader,))


def _sessions(leaders: Collection[ProcessId]) -> set[ProcessId]:
    # An id is not given out again while a session bears it, so members of the
    # session of a dead leader are its own unless the id has a new owner.
    ids = {one.pid for one in leaders if not _is_replaced(one)}
    found = set()
    for pid in psutil.pids():
        try:
            if os.getsid(pid) in ids:
                found.add(stamp(pid))
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _is_replaced(known: ProcessId) -> bool:
    if not known.is_of_this_boot:
        return True
    try:
        now = stamp(known.pid)
    except (ProcessLookupError, psutil.AccessDenied):
        return False
    return abs(now.started_s - known.started_s) >= TOLERANCE_S


class Child(Protocol):
    """Something with descriptors and deadlines; called by one thread only."""

    def descriptors(self) -> set[int]:
        """Return what to wait for now; once empty, never again anything."""

    def step(self, now: float) -> float:
        """Do what is due at `now`; return the next deadline, or infinity."""

    def close(self) -> None:
        """Give back the descriptors, in a fork too: nobody waits for them here."""


class ChildReaper:
    """Steps each of its children whenever one has news or a deadline passes.

    A step looks by itself at what there is to do, so that an event too many is
    harmless. The thread starts with the first child and ends with the last.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._new: deque[Child] = deque()
        self._children: dict[Child, set[int]] = {}  # and what is registered
        self._wake = -1  # written to; -1 while no thread runs

    def watch(self, child: Child) -> None:
        """Step `child` from now on, until it has no descriptors."""
        with self._lock:
            self._new.append(child)
            if self._wake >= 0:
                os.write(self._wake, b".")
                return
            woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        threading.Thread(
            target=self._run, args=(woken,), name="mpreg_nb-nodes", daemon=True
        ).start()

    def wake(self) -> None:
        """Step all children soon: a deadline came nearer."""
        with self._lock:
            if self._wake >= 0:
                try:
                    os.write(self._wake, b".")
                except BlockingIOError:
                    return  # plenty of calls to wake are waiting already

    def _run(self, woken: int) -> None:
        children = self._children
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            deadline = 0.0
            while True:
                timeout = None if deadline == math.inf else deadline - time.monotonic()
                ready = selector.select(timeout)
                if any(key.fd == woken for key, _ in ready):
                    os.read(woken, 4096)
                while self._new:
                    children[self._new.popleft()] = set()
                deadline = min(
                    (child.step(time.monotonic()) for child in children),
                    default=math.inf,
                )
                for child, registered in list(children.items()):
                    wanted = child.descriptors()
                    for descriptor in registered - wanted:
                        selector.unregister(descriptor)
                    for descriptor in wanted - registered:
                        selector.register(descriptor, selectors.EVENT_READ)
                    children[child] = wanted
                    if not wanted:
                        del children[child]
                        child.close()
                if not children and self._ended():
                    os.close(woken)
                    return

    def _ended(self) -> bool:
        with self._lock:
            if self._new:
                return False
            os.close(self._wake)
            self._wake = -1
            return True

    def forget(self) -> None:
        """Begin anew in a fork: no thread was copied, the children are not its own.

        It must not hold their pipes: a node sees by them that its parent has ended.
        """
        for child in (*self._children, *self._new):
            child.close()
        self._reset()


WATCHER = ChildReaper()
"""The one of this process, for all its nodes."""

os.register_at_fork(after_in_child=WATCHER.forget)
