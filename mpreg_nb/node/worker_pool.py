"""The seam between a node and what runs its jobs.

A node submits jobs and gets one outcome for each; it does not know in which process,
or on which machine, they run. `ProcessPool` is the pool of worker processes of this
node. `tests/support/worker_pool_contract.py` has the tests that every pool must pass.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from mpreg_nb.call_context import Home
from mpreg_nb.errors import Executed
from mpreg_nb.protocol.messages import EngineRef, ResultRef
from mpreg_nb.protocol.worker import Job, JobDone, JobFailed, JobPrinted

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts


class HeldPart(ABC):
    """A part of a result that stays with the engine that made it.

    A pool whose workers are elsewhere gives these in the place of bytes, for jobs that
    say `keep`, and takes them as parts of other jobs. Who needs the bytes calls
    `brought`.
    """

    made_by: bytes
    """Id of the call that made it; empty: it is a value of a user of the engine."""

    @property
    @abstractmethod
    def is_lost(self) -> bool:
        """Whether the engine is known to have lost it."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many bytes it is."""

    @abstractmethod
    async def fetch(self) -> "Buffer":
        """Return its bytes.

        Raises:
            LookupError: the engine has lost it.
        """


def is_held(parts: Sequence[object]) -> bool:
    """Return whether some of the parts are with an engine."""
    return any(isinstance(part, HeldPart) for part in parts)


def lost_calls(parts: Sequence[object]) -> tuple[bytes, ...]:
    """Return the ids of those calls whose results among `parts` are lost."""
    lost = (part for part in parts if isinstance(part, HeldPart) and part.is_lost)
    return tuple({part.made_by: None for part in lost if part.made_by})


async def brought(parts: "tuple[Buffer, ...]") -> "tuple[Buffer, ...]":
    """Return the same parts, with the bytes of those that are with an engine.

    Raises:
        LookupError: the engine has lost one.
    """

    async def one(part: "Buffer | HeldPart") -> "Buffer":
        return await part.fetch() if isinstance(part, HeldPart) else part

    return tuple(await asyncio.gather(*map(one, parts)))


class Crashed(msgspec.Struct, frozen=True, kw_only=True):
    """The worker ended before job `id` had an outcome of its own."""

    id: bytes
    cause: str  # "exit code 3", "signal SIGSEGV"
    executed: Executed  # "no" where no worker could be started
    memory_mb: float | None = None
    last_lines: tuple[str, ...] = ()
    deaths: int = 1  # workers that died under this call id, this one included
    ran: int | None = None  # of a chunk: how many of its items had ended, if known


Outcome: TypeAlias = JobDone | JobFailed | Crashed
DoneCallback: TypeAlias = "Callable[[Outcome, tuple[Buffer, ...]], None]"
"""Receives the outcome of one job, and its result or exception as parts."""

StartedCallback: TypeAlias = Callable[[bytes], None]
"""Receives the id of a job that may have effects from now on."""


class PoolStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures for snapshots and metrics."""

    workers: int
    slots: int  # in all workers together
    running: int
    queued: int
    deaths: int
    finished: int


class WorkerPool(Protocol):
    """Runs jobs, each in a worker, a limited number at the same time.

    Payloads, results and exceptions are bytes that the pool never opens. Each job
    that was submitted gets exactly one outcome, also when it is cancelled, its worker
    ends, or the pool stops. What functions print, and what happens to workers, goes
    to the callbacks that a pool was made with; what a job prints comes before its
    outcome. All methods are called, and all callbacks come, in one event loop.
    """

    async def start(self) -> None:
        """Start the workers; returns before they are ready. Jobs may be submitted."""

    async def stop(self, timeout_s: float = 2.0, *, cause: str = "") -> None:
        """End all workers, by force after the timeout.

        Jobs without an outcome get a `Crashed` with this cause.
        """

    def kill(self) -> None:
        """End all workers at once and start no others; jobs get no outcome."""

    def has_code(self, version: str) -> bool:
        """Whether jobs may name `version`."""

    def add_code(self, version: str, function: str, parts: "Parts") -> None:
        """Keep the pickled code of a version, for the jobs that will name it."""

    def forget_code(self, version: str) -> None:
        """Drop the code of a version; jobs that were submitted before still run."""

    def submit(
        self,
        job: Job,
        parts: "Parts",
        done: DoneCallback,
        started: StartedCallback | None = None,
        chain_s: float = 0.0,
    ) -> None:
        """Run `job` when a slot is free; its arguments are its payload, or `parts`.

        The jobs that follow it (`Job.then`) are an offer: those that the pool does not
        take are submitted later. A pool may take as many as are done in `chain_s`
        seconds. Of one that it goes on with it says so in the answer of the one before
        (`JobDone.goes_on`), whose `done` then gets its outcome too, unless
        `take_answer` gave it before.

        `started` comes before the function runs, and again where the job had not begun
        and was moved to another worker; `done` exactly once.

        Raises:
            LookupError: `add_code` was not called for the version of the job.
        """

    def catch_up(self) -> None:
        """Take in now what workers have said, as far as it is there."""

    def version_of(self, call_id: bytes) -> str | None:
        """Return the version of a job that is here and was not cancelled, if one is."""

    def take_answer(self, call_id: bytes) -> tuple[str, JobDone] | None:
        """Return version and small result of a job that followed, if both are here.

        To be asked while `done` gets the answer of the job before it.
        """

    def cancel(self, call_id: bytes) -> None:
        """Drop a job that has not started, else interrupt it, in the end by force.

        Its outcome is then a `JobFailed` of kind "cancelled", unless it ended first.
        Does nothing for unknown ids and for a second time.
        """

    @property
    def running(self) -> int:
        """Jobs that have a slot."""

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""

    def statistics(self) -> PoolStatistics:
        """Return the figures of this moment."""


class MakePool(Protocol):
    """Makes the pools of one node; the class `ProcessPool` is one."""

    def __call__(
        self,
        count: int,
        slots: int,
        scratch: Path,
        on_output: "Callable[[JobPrinted, Parts], None]",
        on_event: Callable[[str, str], None],
        *,
        max_payload_bytes: int,
        home: Home | None,
        keeps: bool = False,
    ) -> WorkerPool:
        """Return a pool of `count` workers with `slots` calls at once in each."""


class EngineResults(Protocol):
    """What the nodes of one engine reach without asking each other."""

    def join(
        self, node: str, find: "Callable[[ResultRef], tuple[Buffer, ...] | None]"
    ) -> None:
        """Have the others find the results of a node by `find`, until it has left."""

    def find(self, wanted: ResultRef | EngineRef) -> "tuple[Buffer, ...] | None":
        """Return the parts of a result of these nodes, or of a value of the engine.

        Returns None for the results of other nodes, and where it is not held.
        """


class WorkerHost(msgspec.Struct, frozen=True, kw_only=True):
    """Where the workers of a node run, if that is not where the node runs."""

    make_pool: MakePool
    host: str
    versions: dict[str, str]  # "python" and packages, as `installed` returns them
    results: EngineResults
