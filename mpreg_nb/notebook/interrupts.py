"""Stop reaches a cell that awaits, at once.

A kernel answers Stop during such a cell by cancelling it, but from a handler of
the signal, which runs while its event loop sleeps: without something to wake it the
loop sleeps on, and the cell with it. Python itself can wake it: it writes a byte for
each signal to a socket that the loop reads.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

_NONE = -1  # as Python says that nobody is woken


class Alarm:
    """Wakes the loop of a kernel at signals, as soon as there is that loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def set(self, *_: object) -> None:
        """Begin, where a loop runs in the main thread and nothing wakes it yet."""
        if self._ends or threading.current_thread() is not threading.main_thread():
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # a terminal: each cell has a loop, and Stop ends it
            return
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        if before != _NONE:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            read.close()
            write.close()
            return
        self._ends = read, write
        self._loop.add_reader(read.fileno(), read.recv, 512)

    def stop(self) -> None:
        """End it."""
        if self._ends is None or self._loop is None:
            return
        (read, write), self._ends = self._ends, None
        if threading.current_thread() is threading.main_thread():
            found = signal.set_wakeup_fd(_NONE)
            if found not in (_NONE, write.fileno()):
                signal.set_wakeup_fd(found, warn_on_full_buffer=False)
        if not self._loop.is_closed():
            self._loop.remove_reader(read.fileno())
        read.close()
        write.close()


def attach(shell: Any) -> Callable[[], None]:
    """Let Stop reach awaiting cells of a kernel; return what ends that."""
    if getattr(shell, "kernel", None) is None:
        return lambda: None
    alarm = Alarm()
    alarm.set()
    shell.events.register("pre_run_cell", alarm.set)

    def detach() -> None:
        shell.events.unregister("pre_run_cell", alarm.set)
        alarm.stop()

    return detach
