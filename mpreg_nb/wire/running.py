"""Which call the code that runs now belongs to.

A worker sets it around each function; what a function asks of the cluster looks
here for its own call's deadline.
"""

from contextvars import ContextVar


class RunningCall:
    """One call while its function runs."""

    __slots__ = ("deadline_s", "function", "id")

    def __init__(self, id: bytes, function: str, deadline_s: float | None) -> None:
        self.id = id
        self.function = function
        self.deadline_s = deadline_s
        """On this process's monotonic clock; None: there is none."""


running_call: ContextVar[RunningCall | None] = ContextVar("mpreg_call", default=None)
