"""How jobs end that get no answer: their worker died, or they were cancelled."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from mpreg_nb.errors import Executed
from mpreg_nb.node.worker_process import End
from mpreg_nb.wire.jobs import Job, JobFailed

DEATHS_KEPT = 10_000
"""Calls whose deaths are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """The worker process ended before job `id` had an answer."""

    id: bytes
    cause: str  # "exit code 3", "signal SIGSEGV"
    executed: Executed  # "no" where no worker could be started
    memory_mb: float | None = None
    last_lines: tuple[str, ...] = ()
    deaths: int = 1  # workers that died under this call id, this one included


class Deaths:
    """How many workers died, and how many of them under each call.

    A call may be tried again on another worker; one that kills that too is not to
    be tried a third time.
    """

    def __init__(self) -> None:
        self.count = 0
        self._by_call: OrderedDict[bytes, int] = OrderedDict()

    def crashed(
        self, call_id: bytes, end: End, lines: Iterable[str], *, guilty: bool
    ) -> Crashed:
        """Return the outcome of a call that had begun when its worker died."""
        if guilty:
            self._by_call[call_id] = self._by_call.get(call_id, 0) + 1
            if len(self._by_call) > DEATHS_KEPT:
                self._by_call.popitem(last=False)
        return Crashed(
            id=call_id,
            cause=end.cause,
            executed="yes",
            memory_mb=end.memory_mb,
            last_lines=tuple(lines),
            deaths=self._by_call.get(call_id, 0),
        )


def cancelled(job: Job, *, begun: bool) -> JobFailed:
    """Return the outcome of a job that was dropped, or killed with its worker."""
    return JobFailed(
        id=job.id,
        kind="cancelled",
        message=f"{job.function} was cancelled",
        executed="yes" if begun else "no",
    )


def overloaded(job: Job) -> JobFailed:
    """Return the outcome where all workers wait for calls, maybe for just this one."""
    return JobFailed(
        id=job.id,
        kind="overloaded",
        message="every worker waits for calls that its own calls made",
        executed="no",
    )
