"""Which process is meant: a process id alone may since have gone to another.

A process is known by its id together with when it started, counted from the
boot of the machine, so that setting the wall clock changes nothing.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Collection, Iterable
from typing import Annotated

import msgspec
import psutil

TOLERANCE_S = 2.0
"""Two starts of one process id this close are one: clocks are read twice."""

KILLED_S = 5.0
"""The system needs this long at most to end what was killed."""

LOOK_S = 0.05
"""Between two looks where the system cannot tell that a process has ended."""


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """One process of this machine, for ever."""

    # Zero and less mean groups of processes to the system, never one.
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    started_s: float  # from boot to start


def stamp(pid: int) -> Stamp:
    """Return who the process with this id is now; its remains count too.

    Raises ProcessLookupError when there is none.
    """
    try:
        started_s = psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"there is no process {pid}") from None
    return Stamp(pid=pid, started_s=round(started_s, 2))


def is_alive(known: Stamp) -> bool:
    """Return whether that very process still runs; remains do not."""
    try:
        remains = psutil.Process(known.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return not remains and not _is_replaced(known)


def end_all(known: Iterable[Stamp], *, drain: float) -> tuple[Stamp, ...]:
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


def await_end(known: Collection[Stamp], *, timeout: float) -> bool:
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


def send(known: Stamp, number: signal.Signals) -> None:
    """Send a signal to that very process; nothing happens where it has ended."""
    if is_alive(known):
        try:
            os.kill(known.pid, number)
        except ProcessLookupError:
            return


def session_of(leader: Stamp) -> set[Stamp]:
    """Return the processes of the session that `leader` leads, or has led."""
    return _sessions((leader,))


def _sessions(leaders: Collection[Stamp]) -> set[Stamp]:
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


def _is_replaced(known: Stamp) -> bool:
    try:
        now = stamp(known.pid)
    except (ProcessLookupError, psutil.AccessDenied):
        return False
    return abs(now.started_s - known.started_s) >= TOLERANCE_S
