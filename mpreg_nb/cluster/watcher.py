"""One thread that waits on behalf of all child processes of this one."""

import math
import os
import selectors
import threading
import time
from collections import deque
from typing import Protocol


class Watched(Protocol):
    """Something with descriptors and deadlines; called by one thread only."""

    def descriptors(self) -> set[int]:
        """Return what to wait for now; once empty, never again anything."""

    def step(self, now: float) -> float:
        """Do what is due at `now`; return the next deadline, or infinity."""

    def close(self) -> None:
        """Give back the descriptors, in a fork too: nobody waits for them here."""


class Watcher:
    """Steps each of its children whenever one has news or a deadline passes.

    A step looks by itself at what there is to do, so that an event too many is
    harmless. The thread starts with the first child and ends with the last.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._new: deque[Watched] = deque()
        self._children: dict[Watched, set[int]] = {}  # and what is registered
        self._wake = -1  # written to; -1 while no thread runs

    def watch(self, child: Watched) -> None:
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


WATCHER = Watcher()
"""The one of this process, for all its nodes."""

os.register_at_fork(after_in_child=WATCHER.forget)
