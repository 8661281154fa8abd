"""Workers of their own for callers whose calls share what they leave in memory.

A space is one worker process beside the others: it takes no slot while it is idle,
and its calls wait for nobody else's. It lasts until its caller closes it, the link
to its caller is lost, its process ends, or the node stops.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from mpreg_nb.node.functions import ShippedFunction
from mpreg_nb.node.pending_call import Sink
from mpreg_nb.node.worker_pool import DoneCallback, WorkerPool
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.worker import Job

MOST_ENDS = 1000
"""Spaces whose end is remembered, so that callers can be told the reason."""

Make = Callable[[Callable[[str, str], None]], WorkerPool]
"""Makes the worker of a space; takes what hears of events."""


class _OpenSpace(msgspec.Struct, eq=False):
    sink: Sink
    workers: WorkerPool


class Spaces:
    """The spaces of one node, by id."""

    def __init__(
        self,
        make: Make,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        on_event: Callable[[str, str], None],
    ) -> None:
        self._make = make
        self._spawn = spawn
        self._on_event = on_event
        self._open: dict[bytes, _OpenSpace] = {}
        self._stopping: set[WorkerPool] = set()
        self._ends: OrderedDict[bytes, str] = OrderedDict()
        self._calls: dict[bytes, bytes] = {}  # call -> space

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, sink: Sink, space_id: bytes) -> None:
        """Start the worker of a space; it takes calls at once."""

        def happened(event: str, detail: str) -> None:
            self._on_event(event, detail)
            if event == "worker died":
                workers.kill()  # else it would be replaced by an empty one
                self._end(space_id, f"its process ended: {detail}")

        workers = self._make(happened)
        self._open[space_id] = _OpenSpace(sink, workers)
        await workers.start()

    def close(self, space_id: bytes) -> None:
        """End a space, with all that it keeps."""
        self._end(space_id, "it was dropped")

    def sink_lost(self, sink: Sink) -> None:
        """End the spaces of a caller that is gone."""
        for space_id, space in list(self._open.items()):
            if space.sink is sink:
                self._end(space_id, "the connection to the notebook was lost")

    def end_of(self, space_id: bytes) -> str | None:
        """Return why there is no such space; None if there is."""
        if space_id in self._open:
            return None
        return self._ends.get(space_id, "the node was started again")

    def submit(
        self,
        space_id: bytes,
        function: ShippedFunction,
        job: Job,
        parts: Parts,
        done: DoneCallback,
        began: Callable[[bytes], None],
    ) -> None:
        """Run a job in a space that is open, after those that it has."""
        workers = self._open[space_id].workers
        if not workers.has_code(job.version):
            workers.add_code(job.version, function.name, function.parts)

        def ended(outcome: Any, made: Any) -> None:
            del self._calls[job.id]
            done(outcome, made)

        self._calls[job.id] = space_id
        workers.submit(job, parts, ended, began)

    def cancel(self, call_id: bytes) -> bool:
        """Cancel a call that is in a space; False if it is in none."""
        space = self._open.get(self._calls.get(call_id, b""))
        if space is not None:
            space.workers.cancel(call_id)
        return call_id in self._calls

    def _end(self, space_id: bytes, reason: str) -> None:
        space = self._open.pop(space_id, None)
        if space is None:
            return
        self._ends[space_id] = reason
        if len(self._ends) > MOST_ENDS:
            self._ends.popitem(last=False)
        self._stopping.add(space.workers)
        self._spawn(self._stop(space.workers, reason))

    async def _stop(self, workers: WorkerPool, cause: str) -> None:
        try:
            await workers.stop(cause=cause)
        finally:
            self._stopping.discard(workers)

    async def stop(self) -> None:
        """End all spaces; returns when their processes are gone."""
        stopped = "the node was stopped"
        for space_id in list(self._open):
            self._end(space_id, stopped)
        stops = [asyncio.ensure_future(self._stop(w, stopped)) for w in self._stopping]
        if stops:
            await asyncio.wait(stops)

    def kill(self) -> None:
        """End all spaces at once; what they run gets no outcome."""
        for space in self._open.values():
            space.workers.kill()
        for workers in self._stopping:
            workers.kill()
