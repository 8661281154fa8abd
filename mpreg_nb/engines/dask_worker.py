"""What runs on a Dask worker: the worker processes of the nodes of a gateway.

The plugin keeps pools as a node keeps its own. A Dask task, which runs on the event
loop of the Dask worker, gives a pool a batch of jobs and returns their outcomes. So
code of users never runs in the threads of Dask, and can be interrupted and killed.

A batch runs at most once. Dask runs a task again when the worker that had it is lost;
so a batch names the incarnation of the plugin, which ends with its process, and each
incarnation remembers the batches that it has begun.

Large parts of kept results become values of Dask here, which belong to the Dask client
of the gateway: they are gone when that lets go of them, or is gone itself.
"""

import asyncio
import logging
import platform
import secrets
import shutil
import time
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from distributed import Worker, WorkerPlugin, get_worker
from distributed.worker_state_machine import SecedeEvent

from mpreg_nb.call_context import Home
from mpreg_nb.engines.dask_messages import (
    Batch,
    BatchAnswers,
    GivenPart,
    MadePart,
    NotBegun,
    OpenPool,
    Part,
    PluginReady,
    PluginState,
    PoolEvent,
    PoolPrinted,
    PoolWaits,
    Report,
    StayingPart,
    ValuePart,
    encode,
    read_batch,
    read_open,
    sent,
    split,
)
from mpreg_nb.errors import NotPicklable
from mpreg_nb.node.process_pool import ProcessPool, cancelled
from mpreg_nb.node.worker_pool import Outcome
from mpreg_nb.node.worker_process import WorkerHandle
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.messages import installed
from mpreg_nb.protocol.worker import Job, JobFailed, JobPrinted
from mpreg_nb.serialize.exceptions import unpicklable
from mpreg_nb.serialize.pickle import pack, pack_exception

_LOG = logging.getLogger(__name__)

REMEMBERED = 100_000
"""Batches of which a plugin remembers that they have begun, and cancels that came
before their job."""

STAY_BYTES = 64 * 1024
"""Parts of kept results from here on stay; a value costs Dask about a millisecond."""

STOP_S = 2.0
"""How long worker processes may take to end when the plugin goes."""


class _ReportingPool(ProcessPool):
    """A pool that reports which of its jobs wait for the cluster."""

    def report_waits(self, told: Any) -> None:
        """Call `told` with the ids of the jobs that wait, whenever they change."""
        self._told = told
        self._waiting: frozenset[bytes] = frozenset()

    def waits(self, link: WorkerHandle) -> None:
        """Report the jobs that wait, then find places as every pool does."""
        waiting = frozenset().union(*(each.waiting for each in self.links))
        if waiting != self._waiting:
            self._waiting = waiting
            self._told(waiting)
        super().waits(link)


class WorkerPools(WorkerPlugin):
    """The pools that one gateway has on one Dask worker."""

    idempotent = True  # Dask workers that come later get it too

    def __init__(self, gateway: str) -> None:
        """gateway: name of the plugin, and of the topic that reports go to."""
        self.name = gateway

    async def setup(self, worker: Worker) -> None:
        """Get ready on a Dask worker; pools are opened later."""
        self._worker = worker
        self.incarnation = secrets.token_hex(8)
        self._folder = Path(worker.local_directory, self.name)
        self._pools: dict[str, _ReportingPool] = {}
        self._begun: OrderedDict[str, None] = OrderedDict()
        self._cancelled: OrderedDict[bytes, None] = OrderedDict()
        self._tasks: dict[bytes, str] = {}  # job -> key of its Dask task
        self._reports: list[Report] = []
        self._is_leaving = False
        self._report(PluginReady(address=worker.address))

    async def teardown(self, worker: Worker) -> None:
        """End all worker processes and remove their files."""
        self._is_leaving = True  # a report would create the topic again
        pools, self._pools = list(self._pools.values()), {}
        cause = "the gateway has left, or the Dask worker is closing"
        await asyncio.gather(*(pool.stop(STOP_S, cause=cause) for pool in pools))
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # -------------------------------------------------------------------- pools

    async def open(self, wanted: OpenPool) -> None:
        """Start a pool."""
        # From another machine the URL would lead nowhere, or to somebody else.
        here = wanted.home_url and wanted.home_host == platform.node()
        home = Home(wanted.home_url, wanted.home_token) if here else None
        name = wanted.pool

        def printed(message: JobPrinted, parts: Parts) -> None:
            whole = tuple(bytes(part) for part in parts)
            self._report(PoolPrinted(pool=name, printed=message, parts=whole))

        def happened(event: str, detail: str) -> None:
            self._report(PoolEvent(pool=name, event=event, detail=detail))

        def waits(jobs: frozenset[bytes]) -> None:
            for job in jobs:
                self._give_up_slot(job)
            self._report(PoolWaits(pool=name, jobs=tuple(jobs)))

        pool = _ReportingPool(
            wanted.count,
            wanted.slots,
            self._folder / name,
            printed,
            happened,
            max_payload_bytes=wanted.max_payload_bytes,
            home=home,
            keeps=wanted.keeps,
        )
        pool.report_waits(waits)
        self._pools[name] = pool
        await pool.start()

    async def close(self, name: str, timeout_s: float) -> None:
        """End a pool; its jobs get outcomes."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            await pool.stop(timeout_s)

    def cancel(self, name: str, job: bytes, key: str) -> bool:
        """Cancel a job of the batch `key`; False: it has not come, and will not begin.

        A job that ended a moment ago stays as it is.
        """
        if key not in self._begun:
            _remember(self._cancelled, job)
            return False
        pool = self._pools.get(name)
        if pool is not None:
            pool.cancel(job)
        return True

    # --------------------------------------------------------------------- jobs

    async def run(
        self, key: str, batch: Batch, parts: list[GivenPart], values: list[Any]
    ) -> tuple[bytes, list[MadePart]]:
        """Run a batch; return its answers, and their parts."""
        refused = self._refused(key, batch)
        if refused:
            return encode(NotBegun(reason=refused)), []
        pool = self._pools[batch.pool]
        codes = [code.count for code in batch.codes]
        found = split(parts, (*codes, *batch.counts))
        for code, code_parts in zip(batch.codes, found, strict=False):
            bare = tuple(_data(part, values) for part in code_parts)
            pool.add_code(code.version, code.function, bare)
        if not all(pool.has_code(job.version) for job in batch.jobs):
            return encode(NotBegun(reason="code")), []
        given = [
            await _whole(job, job_parts, values)
            for job, job_parts in zip(batch.jobs, found[len(codes) :], strict=True)
        ]
        refused = self._refused(key, batch)  # that may have taken long
        if refused:
            return encode(NotBegun(reason=refused)), []
        _remember(self._begun, key)
        ends = [
            self._submit(pool, key, job, whole)
            for job, whole in zip(batch.jobs, given, strict=True)
        ]
        for version in batch.forget:
            pool.forget_code(version)
        try:
            outcomes = [await end for end in ends]
        finally:
            for job in batch.jobs:
                self._tasks.pop(job.id, None)
        made = [
            await self._placed(job, parts, batch.client)
            for job, (_, parts) in zip(batch.jobs, outcomes, strict=True)
        ]
        self._flush()  # prints come before the outcome
        answers = BatchAnswers(
            outcomes=tuple(sent(outcome) for outcome, _ in outcomes),
            counts=tuple(map(len, made)),
        )
        return encode(answers), [part for parts in made for part in parts]

    async def _placed(
        self, job: Job, parts: tuple[Buffer, ...], client: str
    ) -> list[MadePart]:
        """Return the parts of an outcome; of what is kept, the large ones stay."""
        placed: list[MadePart] = [Part(part) for part in parts]
        if not job.keep or self._is_leaving:
            return placed
        stay: dict[Any, object] = {}
        sizes: dict[str, int] = {}
        for number, part in enumerate(parts):
            size_bytes = memoryview(part).nbytes
            # Of items that were taken apart, the node deals out the head.
            if size_bytes < STAY_BYTES or (job.split and not number):
                continue
            key = f"{job.function}-result-{secrets.token_hex(16)}"
            stay[key], sizes[key] = Part(part), size_bytes
            placed[number] = StayingPart(key, size_bytes)
        if stay:
            # As `Client.scatter` does inside of a task, but for the gateway's client.
            self._worker.update_data(data=stay)
            try:
                await self._worker.scheduler.update_data(
                    who_has={key: [self._worker.address] for key in stay},
                    nbytes=sizes,
                    client=client,
                )
            except Exception as error:  # noqa: BLE001 - of Dask: its scheduler is gone
                _LOG.info("a result of %s does not stay: %s", job.function, error)
                return [Part(part) for part in parts]
        return placed

    def _refused(self, key: str, batch: Batch) -> str:
        """Return why a batch must not begin here; "" if it may."""
        if key in self._begun:
            return "again"
        if batch.incarnation != self.incarnation or batch.pool not in self._pools:
            return "gone"
        return ""

    def _submit(
        self, pool: ProcessPool, key: str, job: Job, whole: "_Whole | JobFailed"
    ) -> "asyncio.Future[tuple[Outcome, tuple[Buffer, ...]]]":
        end: asyncio.Future[tuple[Outcome, tuple[Buffer, ...]]]
        end = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome, made: tuple[Buffer, ...]) -> None:
            if not end.cancelled():  # Dask gave the task up
                end.set_result((outcome, made))

        if job.id in self._cancelled:
            done(cancelled(job), ())
        elif isinstance(whole, JobFailed):
            done(whole, ())
        else:
            self._tasks[job.id] = key
            pool.submit(whole.job, whole.parts, done)
        return end

    def _give_up_slot(self, job: bytes) -> None:
        """Let Dask run another task while this job waits for the cluster."""
        key = self._tasks.get(job)
        task = self._worker.state.tasks.get(key) if key is not None else None
        if task is not None and task.state == "executing":
            self._worker.handle_stimulus(
                SecedeEvent(
                    key=task.key,
                    compute_duration=0.0,
                    stimulus_id=f"mpreg-waits-{time.time()}",
                )
            )

    # ------------------------------------------------------------------ reports

    def _report(self, report: Report) -> None:
        """Send a report, together with others of this turn of the loop."""
        if not self._reports:
            asyncio.get_running_loop().call_soon(self._flush)
        self._reports.append(report)

    def _flush(self) -> None:
        reports, self._reports = self._reports, []
        if reports and not self._is_leaving:
            self._worker.log_event(self.name, encode(tuple(reports)))

    def state(self) -> PluginState:
        """Return what a gateway has to know before its node starts."""
        return PluginState(
            incarnation=self.incarnation, host=platform.node(), versions=installed()
        )


def _remember(known: "OrderedDict[Any, None]", key: Any) -> None:
    known[key] = None
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def _data(part: GivenPart, values: list[Any]) -> Buffer:
    if isinstance(part, ValuePart):
        part = values[part.number]
        assert isinstance(part, Part)  # noqa: S101 - objects are taken apart first
    return part.data


class _Whole(NamedTuple):
    """A job and its parts, with the values that Dask has brought for it."""

    job: Job
    parts: tuple[Buffer, ...]


async def _whole(
    job: Job, parts: list[GivenPart], values: list[Any]
) -> _Whole | JobFailed:
    if not any(isinstance(part, ValuePart) and part.is_object for part in parts):
        return _Whole(job, tuple(_data(part, values) for part in parts))
    own = len(parts) - sum(count for count in job.inputs if isinstance(count, int))
    whole = [_data(part, values) for part in parts[:own]]
    rest = iter(parts[own:])
    inputs: list[bytes | int] = []
    for given in job.inputs:
        if isinstance(given, bytes):
            inputs.append(given)
            continue
        before = len(whole)
        for part in islice(rest, given):
            if isinstance(part, ValuePart) and part.is_object:
                try:
                    whole += await asyncio.to_thread(pack, values[part.number])
                except NotPicklable as error:
                    return JobFailed(
                        id=job.id,
                        kind="not_picklable",
                        message=unpicklable(error),
                        executed="no",
                        payload=bytes(pack_exception(error)[0]),
                    )
            else:
                whole.append(_data(part, values))
        inputs.append(len(whole) - before)
    lengths = tuple(memoryview(part).nbytes for part in whole)
    changed = msgspec.structs.replace(job, sizes=lengths, inputs=tuple(inputs))
    return _Whole(changed, tuple(whole))


# What a gateway runs on a Dask worker. `run_batch` is a task, the others are calls of
# `Client.run`, beside the tasks.


async def run_batch(
    gateway: str, key: str, batch: bytes, parts: list[GivenPart], values: list[Any]
) -> tuple[bytes, list[MadePart]]:
    """Run a batch in the pools of `gateway`.

    values: of the futures that its parts refer to, which Dask has brought here.
    """
    plugin = _plugin(get_worker(), gateway)
    if plugin is None:
        return encode(NotBegun(reason="gone")), []
    return await plugin.run(key, read_batch(batch), parts, values)


def plugin_state(gateway: str, dask_worker: Worker) -> bytes:
    """Return the state of the plugin, or nothing where it was not set up."""
    plugin = _plugin(dask_worker, gateway)
    return encode(plugin.state()) if plugin is not None else b""


async def open_pool(gateway: str, wanted: bytes, dask_worker: Worker) -> None:
    """Start a pool."""
    plugin = _plugin(dask_worker, gateway)
    if plugin is None:
        raise RuntimeError(f"plugin {gateway} has left this Dask worker")
    await plugin.open(read_open(wanted))


async def close_pool(
    gateway: str, pool: str, timeout_s: float, dask_worker: Worker
) -> None:
    """End a pool, if it is there."""
    plugin = _plugin(dask_worker, gateway)
    if plugin is not None:
        await plugin.close(pool, timeout_s)


def cancel_job(
    gateway: str, pool: str, job: bytes, key: str, dask_worker: Worker
) -> bool:
    """Cancel a job of the batch `key`; False: it has not come, and will not begin."""
    plugin = _plugin(dask_worker, gateway)
    return plugin is not None and plugin.cancel(pool, job, key)


def _plugin(worker: Worker, gateway: str) -> WorkerPools | None:
    plugin = worker.plugins.get(gateway)
    return plugin if isinstance(plugin, WorkerPools) else None
