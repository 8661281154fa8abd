"""Real workers for a test, and the functions to give them."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.call_context import Home
from mpreg_nb.node.process_pool import ProcessPool
from mpreg_nb.node.worker_pool import Crashed, Outcome, WorkerPool
from mpreg_nb.node.worker_process import WorkerHandle
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.worker import Job, JobDone, JobPrinted
from mpreg_nb.serialize.exceptions import remote_error
from mpreg_nb.serialize.pickle import pack_arguments, pack_function, unpack

Ended: TypeAlias = "asyncio.Future[tuple[Outcome, tuple[Any, ...]]]"


class Crash(Exception):
    """Raised by `Office.call` where a node would report a crash."""

    def __init__(self, crashed: Crashed) -> None:
        super().__init__(crashed)
        self.crashed = crashed


class Office:
    """Workers, with all their messages that are no answers."""

    def __init__(self, workers: WorkerPool) -> None:
        self.workers = workers
        self.printed: list[JobPrinted] = []
        self.events: list[tuple[str, str]] = []
        self.started: list[bytes] = []
        self.depth = 0  # of the jobs that are submitted
        self._versions: dict[Callable[..., Any], str] = {}
        self._ids = count(1)
        self._heard = asyncio.Event()

    def hear(self, message: JobPrinted, parts: Parts = ()) -> None:
        if parts:  # a long result follows its message
            message = msgspec.structs.replace(message, text=bytes(parts[0]).decode())
        self.printed.append(message)
        self._heard.set()

    def happen(self, event: str, detail: str) -> None:
        self.events.append((event, detail))
        self._heard.set()

    def prints_of(self, call_id: bytes) -> str:
        return "".join(p.text for p in self.printed if p.id == call_id)

    def submit(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[bytes, Ended]:
        version = self.version_of(function)
        call_id = next(self._ids).to_bytes(16, "big")
        head, *buffers = pack_arguments(args, kwargs)
        inline = not buffers and len(head) <= 1 << 16
        job = Job(
            id=call_id,
            version=version,
            function=function.__name__,
            payload=bytes(head) if inline else b"",
            depth=self.depth,
        )
        ended: Ended = asyncio.get_running_loop().create_future()
        self.workers.submit(
            job,
            () if inline else (head, *buffers),
            lambda outcome, parts: (
                None if ended.cancelled() else ended.set_result((outcome, parts))
            ),
            self.started.append,
        )
        return call_id, ended

    def version_of(self, function: Callable[..., Any]) -> str:
        """Send the code of a function to the workers; return its version."""
        version = self._versions.get(function)
        if version is None:
            shipped = pack_function(function)
            version = self._versions[function] = shipped.version
            self.workers.add_code(version, function.__name__, shipped.parts)
        return version

    async def call(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        _, ended = self.submit(function, *args, **kwargs)
        return await value_of(ended)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for prints or events that make `condition` true."""
        while not condition():
            self._heard.clear()
            await self._heard.wait()

    def pids(self) -> list[int]:
        return [link.process.pid for link in links(self)]


def links(here: Office) -> tuple[WorkerHandle, ...]:
    """Return the worker processes of this moment."""
    assert isinstance(here.workers, ProcessPool)
    return here.workers.links


async def value_of(ended: Ended) -> Any:
    """Return the value of a call, or raise what its caller would get."""
    outcome, parts = await asyncio.wait_for(ended, 60)
    if isinstance(outcome, Crashed):
        raise Crash(outcome)
    whole = parts or (outcome.payload,)
    if isinstance(outcome, JobDone):
        return unpack(whole)
    if outcome.kind == "cancelled":
        raise asyncio.CancelledError(outcome.executed)
    raise remote_error(whole, function="f", node="n1")


@asynccontextmanager
async def office(
    scratch: Path,
    count: int = 1,
    slots: int = 1,
    home: tuple[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Office]:
    """Have workers; at the end none of their processes may be left."""
    made: list[Office] = []
    workers = ProcessPool(
        count,
        slots,
        scratch / "scratch",
        lambda *printed: made[0].hear(*printed),
        lambda event, detail: made[0].happen(event, detail),
        home=None if home is None else Home(*home),
        **options,
    )
    made.append(Office(workers))
    await workers.start()
    pids = made[0].pids()
    try:
        yield made[0]
    finally:
        pids += made[0].pids()
        await workers.stop()
        left = [pid for pid in pids if is_alive(pid)]
        if left:
            raise AssertionError(f"processes left: {left}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def run_until_quick(
    scratch: Path,
    scenario: Callable[[Office], Coroutine[Any, Any, Any]],
    longest_s: float,
    **options: Any,
) -> Any:
    """Run a scenario that returns its time second; again while it is too long.

    A machine that others use is slow at times, not three times in a row.
    """
    for _ in range(3):
        outcome = run(scratch, scenario, **options)
        if outcome[1] < longest_s:
            break
    return outcome


def run(
    scratch: Path,
    scenario: Callable[[Office], Coroutine[Any, Any, Any]],
    **options: Any,
) -> Any:
    """Run a test's scenario with workers."""

    async def within() -> Any:
        async with office(scratch, **options) as here:
            return await asyncio.wait_for(scenario(here), 60)

    return asyncio.run(within())
