"""What code in a worker can know of the call that it runs for.

A function may ask the cluster for something and wait. While it does, it holds a
slot that its own request may need, so it says so: `BlockedOnCluster`. Outside of
workers all of this is there and says nothing.
"""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Home:
    """The node of this worker, for functions that call the cluster themselves."""

    url: str
    token: str = field(repr=False)
    ca: str = ""
    """What its certificate is checked with, if its URL begins with wss://."""


class CallContext:
    """One call while its function runs."""

    __slots__ = ("_tell", "_waits", "deadline_s", "depth", "function", "id")

    _changing = threading.Lock()  # one for all: they wait seldom

    def __init__(
        self,
        id: bytes,
        function: str,
        deadline_s: float | None = None,
        tell: Callable[[bytes, bool], None] | None = None,
        depth: int = 0,
    ) -> None:
        """depth: how many calls, one of the other, wait for this one."""
        self.id = id
        self.depth = depth
        self.function = function
        self.deadline_s = deadline_s
        """On this process's monotonic clock; None: there is none."""
        self._tell = tell
        self._waits = 0  # of its threads or tasks, at once

    def wait(self, change: int) -> None:
        """Count one more wait, or one less, and tell when it is the first or last."""
        with self._changing:
            before, self._waits = self._waits, self._waits + change
            if self._tell is not None and bool(before) != bool(self._waits):
                self._tell(self.id, bool(self._waits))


running_call: ContextVar[CallContext | None] = ContextVar("mpreg_call", default=None)

_home: list[tuple[Home, Callable[[Home], None]]] = []


def home() -> Home | None:
    """Return the node of this worker; None in any other process."""
    return _home[-1][0] if _home else None


def depth_of_calls() -> int:
    """Return how many calls, one of the other, wait for those that are made here."""
    call = running_call.get()
    if call is not None:
        return call.depth + 1
    return 1 if _home else 0  # in a thread of its own


def time_left_s() -> float | None:
    """Return what is left of the time of the call that runs here; None: no limit."""
    call = running_call.get()
    if call is None or call.deadline_s is None:
        return None
    return max(0.001, call.deadline_s - time.monotonic())


def connect_home() -> None:
    """Connect to the node of this worker, as `set_home` said."""
    node, connect = _home[-1]
    connect(node)


def set_home(node: Home, connect: Callable[[Home], None]) -> None:
    """Set the node that this process works for.

    connect: connects to it; its cluster becomes the current one of this process.
    """
    _home[:] = [(node, connect)]


class BlockedOnCluster:
    """Gives up the slot of this call while it waits for what the cluster does.

    To be put around every wait of a client, in threads and in coroutines; once each.
    A generator would cost each call a microsecond.
    """

    __slots__ = ("_call",)

    def __enter__(self) -> None:
        self._call = running_call.get()
        if self._call is not None:
            self._call.wait(1)

    def __exit__(self, *error: object) -> None:
        if self._call is not None:
            self._call.wait(-1)
