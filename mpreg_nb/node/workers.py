"""The worker processes of a node: started, fed, interrupted, replaced."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mpreg_nb.wire.jobs import Done, Job, JobFailed, Printed

if TYPE_CHECKING:
    from mpreg_nb.wire.codec import Buffer, Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """The worker process ended before job `id` had an answer."""

    id: bytes
    cause: str  # "exit code 3", "signal SIGSEGV"
    executed: str  # "yes", or "no" where no worker could be started
    memory_mb: float | None = None
    last_lines: tuple[str, ...] = ()
    deaths: int = 1  # workers that died under this call id, this one included


Outcome: TypeAlias = Done | JobFailed | Crashed
DoneCallback: TypeAlias = "Callable[[Outcome, tuple[Buffer, ...]], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersStatistics:
    """Figures for pictures and metrics."""

    workers: int
    slots: int  # in all workers together
    running: int
    queued: int
    deaths: int
    finished: int


class Workers:
    """`count` processes with `slots` calls at once in each; all in one loop.

    Every job that was submitted gets exactly one outcome through its `done`.
    """

    def __init__(
        self,
        count: int,
        slots: int,
        scratch: Path,
        on_output: Callable[[Printed], None],
        on_event: Callable[[str, str], None],
        *,
        max_payload_bytes: int = 1 << 30,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Start the processes; returns when they run, not yet when they are ready."""

    async def stop(self, timeout_s: float = 2.0) -> None:
        """End all processes; jobs that are left get a Crashed. Kills after timeout."""

    def submit(
        self,
        job: Job,
        parts: "Parts",
        done: DoneCallback,
        started: Callable[[bytes], None] | None = None,
    ) -> None:
        """Queue `job`; its `sizes` are filled in here from `parts`.

        `started` is told the id when the job is handed to a worker: from there on
        it may have effects. `add_code` must have been called for its version.
        """

    def add_code(self, version: str, function: str, parts: "Parts") -> None:
        """Keep the code of a version; workers get it with their first job for it."""

    def has_code(self, version: str) -> bool:
        """Whether jobs may name `version`."""
        raise NotImplementedError

    def forget_code(self, version: str) -> None:
        """Drop the code of a version that no job will name any more."""

    def cancel(self, call_id: bytes) -> None:
        """End a job: dropped if queued, else interrupted, then killed with its worker.

        Its `done` is called as always; unknown ids and second cancels do nothing.
        """

    @property
    def running(self) -> int:
        """Jobs that have been handed to workers."""
        raise NotImplementedError

    @property
    def queued(self) -> int:
        """Jobs that wait in the node."""
        raise NotImplementedError

    def statistics(self) -> WorkersStatistics:
        """Return the figures of this moment."""
        raise NotImplementedError
