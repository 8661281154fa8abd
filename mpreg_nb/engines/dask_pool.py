"""The pool of a node whose workers are on a Dask worker: gives batches to Dask.

Jobs wait here, and Dask gets only as many as there are slots: what it has, it may move
or run again, and a cancel would have to find it first. A batch is one Dask task. Its
first job takes the slot; others that are known to be short travel with it, since a task
costs Dask about 10 ms.

Dask never repeats a batch on its own: each attempt has a key of its own, names the one
Dask worker that may run it, and is refused there if it has begun before (see
`dask_worker`).

Large results of steps stay in the memory of Dask (`ResultOnDask`): a job that needs one
has its future among the arguments of the task, and Dask brings it to the worker. So
have jobs whose arguments are values of a user of Dask (`ValueOfDask`).
"""

import ast
import asyncio
import itertools
import logging
import math
import platform
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import distributed
import msgspec
from msgspec.structs import replace

from mpreg_nb.call_context import Home
from mpreg_nb.calls.waiting_line import DeepestFirst
from mpreg_nb.engines.dask_messages import (
    Batch,
    GivenPart,
    MadePart,
    NotBegun,
    OpenPool,
    Part,
    PluginReady,
    PluginState,
    PoolCode,
    PoolEvent,
    PoolPrinted,
    PoolWaits,
    StayingPart,
    ValuePart,
    WorkerGone,
    encode,
    read_answers,
    read_reports,
    received,
    split,
)
from mpreg_nb.engines.dask_worker import cancel_job, close_pool, open_pool, run_batch
from mpreg_nb.node.process_pool import LENT, RuntimeEstimates, cancelled
from mpreg_nb.node.worker_pool import (
    Crashed,
    DoneCallback,
    HeldPart,
    Outcome,
    PoolStatistics,
    StartedCallback,
    lost_calls,
)
from mpreg_nb.protocol.messages import EngineRef, ResultRef
from mpreg_nb.protocol.worker import Job, JobDone, JobFailed, JobPrinted
from mpreg_nb.serialize.exceptions import message_of, type_names
from mpreg_nb.serialize.pickle import pack_exception, pack_whole

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Buffer, Parts

SCATTER_BYTES = 1 << 20
"""Arguments from here on are scattered: inside a task graph they cost six times as
much."""

BATCH_S = 0.02
"""Expected time of the jobs that share a task. A task costs Dask about half of that."""

BATCH_JOBS = 64
"""Jobs that share a task, at most."""

UNKNOWN_S, UNKNOWN_AGAIN_S = 30.0, 0.02
"""How long the scheduler may not know a value that is an argument, and how often it is
asked."""

CLOSE_S = 2.0
"""How long a Dask worker may take to answer when one of its pools is closed."""

_LOG = logging.getLogger(__name__)

# The package has no types for it.
_FUTURE: Any = distributed.Future


class _OnDask(HeldPart):
    """Something that Dask has, through a future that keeps it there."""

    is_object: bool

    def __init__(self, channel: "GatewayChannel", *, direct: bool) -> None:
        """direct: whether large values can come here without the scheduler."""
        self._channel = channel
        self._direct = direct
        self.future: Any = None

    async def hold(self) -> None:
        """Have a future of it.

        Raises:
            LookupError: Dask does not know it.
        """

    @property
    def status(self) -> str:
        """What Dask has said of it."""
        return "lost" if self.future is None else str(self.future.status)

    @property
    def is_lost(self) -> bool:
        """Whether Dask does not have it any more, or never had it."""
        return self.status in ("cancelled", "lost")

    async def _value(self) -> Any:
        await self.hold()
        try:
            return await self._channel.client.gather(self.future, direct=self._direct)
        except (Exception, asyncio.CancelledError) as error:  # of Dask, which has many
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise LookupError(f"Dask has lost it: {error}") from error


class ResultOnDask(_OnDask):
    """A part of a result that stayed on a Dask worker."""

    is_object = False

    def __init__(
        self,
        channel: "GatewayChannel",
        staying: StayingPart,
        made_by: bytes,
        *,
        direct: bool,
    ) -> None:
        """made_by: id of the job that made it."""
        super().__init__(channel, direct=direct)
        self.future = channel.future(staying.key)
        self.made_by = made_by
        self._size_bytes = staying.size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    async def fetch(self) -> "Buffer":
        """Return its bytes."""
        data: Buffer = (await self._value()).data
        return data


class ValueOfDask(_OnDask):
    """A value that a user of Dask has there; its bytes are made where it is needed."""

    is_object = True
    made_by = b""

    def __init__(self, channel: "GatewayChannel", key: Any, *, direct: bool) -> None:
        """key: of the value; the program of the user keeps it until the call ends."""
        super().__init__(channel, direct=direct)
        self._key = key

    async def hold(self) -> None:
        """Have a future of it, once the scheduler knows it.

        What the program of the user tells the scheduler can come after the call, and
        take long there: a scheduler imports what a graph needs.
        """
        client = self._channel.client
        until_s = time.monotonic() + UNKNOWN_S
        while self.future is None:
            found = await client.scheduler.get_task_status(keys=[self._key])
            if found.get(self._key) is not None:
                self.future = self._channel.future(self._key)
            elif time.monotonic() > until_s:
                raise LookupError(
                    f"the Dask scheduler has no value {self._key!r}: it was released, "
                    "or is of another Dask cluster"
                )
            else:
                await asyncio.sleep(UNKNOWN_AGAIN_S)

    def __len__(self) -> int:
        return 0  # not known here

    async def fetch(self) -> "Buffer":
        """Return the value as one part."""
        return pack_whole(await self._value())


class ResultsOnDask:
    """The `EngineResults` of the nodes of one gateway."""

    def __init__(self, channel: "GatewayChannel") -> None:
        self._channel = channel
        self._stores: dict[str, Callable[[ResultRef], tuple[Buffer, ...] | None]] = {}

    def join(
        self, node: str, find: "Callable[[ResultRef], tuple[Buffer, ...] | None]"
    ) -> None:
        """Have the others find the results of a node by `find`, until it has left."""
        self._stores[node] = find

    def leave(self, node: str) -> None:
        """Find the results of a node no longer."""
        self._stores.pop(node, None)

    def find(self, wanted: ResultRef | EngineRef) -> "tuple[Buffer, ...] | None":
        """Return the parts of a result of these nodes, or of a value of Dask."""
        if isinstance(wanted, ResultRef):
            store = self._stores.get(wanted.owner)
            return store(wanted) if store is not None else None
        key = ast.literal_eval(wanted.key)
        value: Any = ValueOfDask(self._channel, key, direct=self._channel.direct)
        return (value,)


class GatewayChannel:
    """What the pools of a gateway share: its Dask client and the topic of reports."""

    def __init__(self, client: Any, gateway: str) -> None:
        """client: an asynchronous `distributed.Client`, which has no types.

        gateway: name of the plugin and of the topic.
        """
        self.client = client
        self.gateway = gateway
        self.pools: dict[str, DaskWorkerPool] = {}
        self.on_ready: Callable[[str], object] = lambda address: None
        """Hears the address of each Dask worker whose plugin is ready."""
        self.on_gone: Callable[[str], object] = lambda address: None
        """Hears the address of each Dask worker that the scheduler has no longer."""
        self.on_missing: Callable[[], object] = lambda: None
        """Hears that a plugin is missing where it was."""
        self.direct = False
        """Whether this process reaches the Dask workers themselves."""
        self._tasks: set[asyncio.Task[None]] = set()

    def subscribe(self) -> None:
        """Receive the reports of the plugins, from now on."""
        self.client.subscribe_topic(self.gateway, self._receive)

    def _receive(self, event: tuple[float, Any]) -> None:
        if not isinstance(event[1], bytes):
            return  # a program of the user publishes on our topic
        for report in read_reports(event[1]):
            if isinstance(report, PluginReady):
                self.on_ready(report.address)
                continue
            if isinstance(report, WorkerGone):
                self.on_gone(report.address)
                continue
            pool = self.pools.get(report.pool)
            if pool is not None:
                pool.receive(report)

    async def run(self, function: Any, address: str, *args: Any) -> Any:
        """Run a function of `dask_worker` on a Dask worker, beside its tasks."""
        found = await self.client.run(
            function, self.gateway, *args, workers=[address], on_error="raise"
        )
        return found[address]

    def future(self, key: Any) -> Any:
        """Return a future of a value that Dask has, which keeps it there."""
        future = _FUTURE(key, self.client)
        # Says to the scheduler who wants it, and has it say how it is.
        self.client._send_to_scheduler({"op": "client-desires-keys", "keys": [key]})
        return future

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _DaskJob(msgspec.Struct):
    """A job from its submission to its outcome."""

    job: Job
    parts: "Parts"
    code: "tuple[str, Parts]"  # name of the function
    done: DoneCallback
    started: StartedCallback | None
    began: float = 0.0
    due: float = math.inf
    batch: "_DaskTask | None" = None  # None: it waits here
    cancelled: bool = False
    ended: bool = False

    @property
    def depth(self) -> int:
        """How many calls wait for it."""
        return self.job.depth


class _DaskTask(msgspec.Struct, eq=False):
    """Jobs that were given to Dask together, under a key of their own."""

    items: list[_DaskJob]
    key: str = ""

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take another key: under one that Dask knows it would return what it has."""
        # The dashboard of Dask shows what is before the digits.
        self.key = f"{self.items[0].job.function}-{secrets.token_hex(16)}"


def _is_over(item: _DaskJob) -> bool:
    return item.ended


class DaskWorkerPool:
    """A `WorkerPool` on one Dask worker."""

    def __init__(
        self,
        channel: GatewayChannel,
        address: str,
        state: PluginState,
        direct: bool,
        count: int,
        slots: int,
        scratch: Path,
        on_output: "Callable[[JobPrinted, Parts], None]",
        on_event: Callable[[str, str], None],
        *,
        max_payload_bytes: int = 1 << 30,
        home: Home | None = None,
        keeps: bool = False,
    ) -> None:
        """Take settings; nothing runs before `start`.

        address: of the Dask worker; `state` is that of our plugin there.
        direct: whether large values can go straight to that worker and back. Else
            they pass the scheduler.
        scratch: not used, since the workers have their folder on their own machine.
        """
        self._channel = channel
        self._address = address
        self._incarnation = state.incarnation
        self._direct = direct
        self._count = count
        self._slots = count * slots
        self._on_output = on_output
        self._on_event = on_event
        self._wanted = OpenPool(
            pool=secrets.token_hex(6),
            count=count,
            slots=slots,
            max_payload_bytes=max_payload_bytes,
            keeps=keeps,
            home_url=home.url if home else "",
            home_token=home.token if home else "",
            home_host=platform.node(),
        )
        self._keeps = keeps
        self._items: dict[bytes, _DaskJob] = {}
        self._queue: DeepestFirst[_DaskJob] = DeepestFirst(_is_over)
        self._attempts: set[_DaskTask] = set()
        self._codes: dict[str, tuple[str, Parts]] = {}
        self._there: set[str] = set()  # versions that the plugin has
        self._forget: list[str] = []  # versions that it should drop
        self._waiting: frozenset[bytes] = frozenset()
        self._expected = RuntimeEstimates()
        self._opened: asyncio.Task[None] | None = None
        self._is_closed = False
        self._deaths = self._finished = 0

    # --------------------------------------------------------------- life cycle

    async def start(self) -> None:
        """Begin to start the workers; jobs wait until that is done."""
        self._channel.pools[self._wanted.pool] = self
        self._opened = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        await self._channel.run(open_pool, self._address, encode(self._wanted))

    async def stop(
        self, timeout_s: float = 2.0, *, cause: str = "the node is stopping"
    ) -> None:
        """End all workers, by force after the timeout; jobs get a `Crashed`."""
        self._is_closed = True
        for item in list(self._items.values()):
            executed = "no" if item.batch is None else "unknown"
            self._end(
                item,
                Crashed(
                    id=item.job.id,
                    cause=cause,
                    executed=executed,  # type: ignore[arg-type]
                ),
                (),
            )
        await self._close(timeout_s)

    def kill(self) -> None:
        """End all workers at once; jobs get no outcome."""
        self._is_closed = True
        self._items.clear()
        self._queue.clear()
        self._channel.spawn(self._close(0.0))

    def lost(self, reason: str) -> None:
        """Give the jobs that Dask had an outcome: their Dask worker is gone."""
        self._is_closed = True
        for attempt in list(self._attempts):
            self._lost(attempt, reason)

    async def _close(self, timeout_s: float) -> None:
        self._channel.pools.pop(self._wanted.pool, None)
        if self._opened is None:
            return
        closing = self._channel.run(
            close_pool, self._address, self._wanted.pool, timeout_s
        )
        try:
            async with asyncio.timeout(CLOSE_S + timeout_s):
                await self._opened
                await closing
        except Exception as error:  # noqa: BLE001 - of Dask: its worker is gone
            closing.close()
            _LOG.info("a pool on %s was not closed: %s", self._address, error)

    # --------------------------------------------------------------------- code

    def has_code(self, version: str) -> bool:
        """Whether jobs may name `version`."""
        return version in self._codes

    def add_code(self, version: str, function: str, parts: "Parts") -> None:
        """Keep the code of a version; the plugin gets it with the first job for it."""
        self._codes[version] = function, tuple(parts)

    def forget_code(self, version: str) -> None:
        """Drop the code of a version; jobs that wait have it."""
        self._codes.pop(version, None)
        self._expected.forget(version)
        if version in self._there:
            self._there.discard(version)
            self._forget.append(version)

    # --------------------------------------------------------------------- jobs

    @property
    def running(self) -> int:
        """Jobs that have a slot."""
        return min(len(self._attempts), self._most, len(self._items))

    @property
    def queued(self) -> int:
        """Jobs that wait, here or behind others of their batch."""
        return len(self._items) - self.running

    @property
    def _most(self) -> int:
        """Batches that Dask may have at once."""
        # A job that waits for the cluster has given its slot up.
        return self._slots + (0 if self._keeps else min(len(self._waiting), LENT))

    def statistics(self) -> PoolStatistics:
        """Return the figures of this moment."""
        return PoolStatistics(
            workers=self._count,
            slots=self._slots,
            running=self.running,
            queued=self.queued,
            deaths=self._deaths,
            finished=self._finished,
        )

    def submit(
        self,
        job: Job,
        parts: "Parts",
        done: DoneCallback,
        started: StartedCallback | None = None,
        chain_s: float = 0.0,
    ) -> None:
        """Queue `job`; `started` is told when it is given to Dask."""
        if job.version not in self._codes:
            raise LookupError(f"no code for version {job.version}; call add_code first")
        if job.then:  # a task is given to Dask by itself
            job = replace(job, then=())
        item = _DaskJob(job, parts, self._codes[job.version], done, started)
        if job.remaining_ms is not None:
            item.began = time.monotonic()
            item.due = item.began + job.remaining_ms / 1e3
        self._items[job.id] = item
        self._queue.add(item)
        self._feed()

    def _feed(self) -> None:
        """Give Dask what fits."""
        while self._queue and len(self._attempts) < self._most and not self._is_closed:
            items = list(self._take())
            if not items:
                return
            attempt = _DaskTask(items)
            self._attempts.add(attempt)
            for item in items:
                item.batch = attempt
                started, item.started = item.started, None  # called only once
                if started is not None:
                    started(item.job.id)
            self._channel.spawn(self._attempt(attempt))

    def _take(self) -> Iterator[_DaskJob]:
        """Take the jobs of the next batch out of the queue."""
        free = self._most - len(self._attempts)
        share = min(BATCH_JOBS, math.ceil(len(self._queue) / max(1, free)))
        total_s = 0.0
        for number in itertools.count():
            item = self._queue.next(time.monotonic())
            if item is None or number >= max(1, share):
                return
            cost_s = self._expected.get(item.job)
            alone = cost_s is None or self._keeps or item.parts
            if number and (alone or total_s + (cost_s or 0.0) > BATCH_S):
                return
            self._queue.take(item)
            yield item
            if alone:
                return
            total_s += cost_s or 0.0

    async def _attempt(self, attempt: _DaskTask) -> None:
        """Run a batch on Dask and give its jobs their outcomes."""
        try:
            assert self._opened is not None  # noqa: S101 - `start` comes first
            await asyncio.shield(self._opened)
            if not await self._try(attempt, all_codes=False):
                await self._try(attempt, all_codes=True)
        except asyncio.CancelledError as error:  # Dask's own is one too
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._lost(attempt, f"Dask cancelled it: {error}")
                raise
            await self._unable(attempt, f"Dask cancelled it: {error}")
        except Exception as error:  # noqa: BLE001 - of Dask, which has many
            _LOG.warning("Dask lost %s: %r", attempt.key, error)
            await self._unable(attempt, f"Dask could not run it: {error}")
        finally:
            self._attempts.discard(attempt)
            self._feed()

    async def _try(self, attempt: _DaskTask, *, all_codes: bool) -> bool:
        """Run a batch; False: nothing of it began, since the plugin lacks a version."""
        for item in attempt.items:
            for part in item.parts:
                if isinstance(part, _OnDask):
                    await part.hold()
        head, parts, values = self._packed(attempt, all_codes=all_codes)
        client, key = self._channel.client, attempt.key
        size_bytes = sum(
            memoryview(part.data).nbytes for part in parts if isinstance(part, Part)
        )
        scattered = None
        # Annotations, from a configuration file too, would go into the task.
        with dask.config.set(annotations={}):
            given: Any = parts
            if size_bytes > SCATTER_BYTES:
                given = scattered = await client.scatter(
                    parts, workers=[self._address], hash=False, direct=self._direct
                )
            future = client.submit(
                run_batch,
                self._channel.gateway,
                key,
                head,
                given,
                [value.future for value in values],
                key=key,
                workers=[self._address],
                allow_other_workers=False,
                retries=0,
                pure=False,
            )
        try:
            answer, made = await client.gather(future, direct=self._direct)
        finally:
            future.release()  # else the result would stay in the memory of Dask
            del scattered, given, values
        answers = read_answers(answer)
        if not isinstance(answers, NotBegun):
            self._there.update(item.job.version for item in attempt.items)
            self._attempts.discard(attempt)  # its slot is free for who hears of the end
            pairs = zip(answers.outcomes, split(made, answers.counts), strict=True)
            for outcome, made_parts in pairs:
                found = tuple(self._here(outcome.id, part) for part in made_parts)
                self._ended(received(outcome), found)
            return True
        if answers.reason == "code" and not all_codes:
            attempt.renew()
            return False
        if answers.reason == "again":
            self._lost(attempt, "the Dask worker was lost while it ran")
        else:
            self._channel.on_missing()
            self._lost(attempt, "the Dask worker was restarted", executed="no")
        return True

    def _here(self, job: bytes, part: MadePart) -> "Buffer":
        """Return the bytes of a part, or what stands for them here."""
        if isinstance(part, Part):
            return part.data
        held: Any = ResultOnDask(self._channel, part, job, direct=self._direct)
        return held  # type: ignore[no-any-return]  # see HeldPart

    def _packed(
        self, attempt: _DaskTask, *, all_codes: bool
    ) -> tuple[bytes, list[GivenPart], list[_OnDask]]:
        codes: list[PoolCode] = []
        parts: list[GivenPart] = []
        values: dict[_OnDask, int] = {}  # and its number
        for item in attempt.items:
            version, (function, code) = item.job.version, item.code
            known = version in self._there and not all_codes
            if not known and version not in {each.version for each in codes}:
                codes.append(
                    PoolCode(version=version, function=function, count=len(code))
                )
                parts.extend(map(Part, code))
        for item in attempt.items:
            for part in item.parts:
                if isinstance(part, _OnDask):
                    number = values.setdefault(part, len(values))
                    parts.append(ValuePart(number, part.is_object))
                else:
                    parts.append(Part(part))
        sent = {code.version for code in codes}
        forget = tuple(v for v in self._forget if v not in sent)
        self._forget.clear()
        batch = Batch(
            pool=self._wanted.pool,
            incarnation=self._incarnation,
            jobs=tuple(item.job for item in attempt.items),
            counts=tuple(len(item.parts) for item in attempt.items),
            codes=tuple(codes),
            forget=forget,
            client=self._channel.client.id,
        )
        return encode(batch), parts, list(values)

    # ------------------------------------------------------------------ outcomes

    def _ended(self, outcome: Outcome, parts: "tuple[Buffer, ...]") -> None:
        item = self._items.get(outcome.id)
        if item is not None:
            if isinstance(outcome, JobDone) and not item.job.split:
                self._expected.learn(item.job, outcome.run_us)
            self._end(item, outcome, parts)

    def _end(
        self, item: _DaskJob, outcome: Outcome, parts: "tuple[Buffer, ...]"
    ) -> None:
        item.ended = True
        del self._items[item.job.id]
        self._finished += 1
        item.parts, done = (), item.done  # what Dask holds for it is let go now
        done(outcome, parts)

    async def _unable(self, attempt: _DaskTask, reason: str) -> None:
        """Give jobs that Dask did not run their outcomes: maybe it lacked a value."""
        executed = "unknown"
        for item in attempt.items:
            values = [part for part in item.parts if isinstance(part, _OnDask)]
            if not values or item.ended:
                continue
            if await self._has_begun(item, attempt):
                continue
            executed = "no"
            failed = [each for each in values if each.status == "error"]
            if failed and not item.ended:
                error = await failed[0].future.exception()
                self._end(item, _failed_argument(item.job, error), ())
            elif any(each.is_lost for each in values) and not item.ended:
                calls = lost_calls(values)
                lacks = JobFailed(
                    id=item.job.id,
                    kind="gone" if calls else "bad_request",
                    message=reason,
                    executed="no",
                    lost=calls,
                )
                self._end(item, lacks, ())
        self._lost(attempt, reason, executed)

    async def _has_begun(self, item: _DaskJob, attempt: _DaskTask) -> bool:
        """Ask the plugin whether a job has begun; it never begins if it has not."""
        try:
            begun: bool = await self._channel.run(
                cancel_job,
                self._address,
                self._wanted.pool,
                item.job.id,
                attempt.key,
            )
        except Exception as error:  # noqa: BLE001 - of Dask: its worker is gone
            _LOG.info("%s cannot say what has begun: %s", self._address, error)
            return True
        return begun

    def _lost(self, attempt: _DaskTask, reason: str, executed: Any = "unknown") -> None:
        for item in attempt.items:
            if not item.ended and item.job.id in self._items:
                lost = JobFailed(
                    id=item.job.id,
                    kind="node_lost",
                    message=reason,
                    executed=executed,
                )
                self._end(item, lost, ())

    def receive(self, report: PoolPrinted | PoolEvent | PoolWaits) -> None:
        """Take a report of the plugin."""
        if isinstance(report, PoolPrinted):
            item = self._items.get(report.printed.id)
            if item is not None and not item.job.quiet:
                self._on_output(report.printed, report.parts)
        elif isinstance(report, PoolEvent):
            self._deaths += report.event == "worker died"
            self._on_event(report.event, report.detail)
        else:
            self._waiting = frozenset(report.jobs)
            self._feed()

    # ------------------------------------------------------------------- cancel

    def catch_up(self) -> None:
        """Do nothing: it goes on with no job by itself."""

    def version_of(self, call_id: bytes) -> str | None:
        """Return the version of a job that is here and was not cancelled, if one is."""
        item = self._items.get(call_id)
        return None if item is None or item.cancelled else item.job.version

    def take_answer(self, call_id: bytes) -> None:
        """Return None: it goes on with no job by itself."""

    def cancel(self, call_id: bytes) -> None:
        """Drop a job that waits here, else have it cancelled on the Dask worker."""
        item = self._items.get(call_id)
        if item is None or item.cancelled:
            return
        item.cancelled = True
        if item.batch is None:
            self._end(item, cancelled(item.job), ())
        else:
            self._channel.spawn(self._cancel(item, item.batch))

    async def _cancel(self, item: _DaskJob, attempt: _DaskTask) -> None:
        # Never by `Future.cancel`: Dask would say that it is cancelled at once, and
        # the function would go on.
        begun = await self._has_begun(item, attempt)
        if not begun and not item.ended:
            self._end(item, cancelled(item.job), ())


def _failed_argument(job: Job, error: BaseException) -> JobFailed:
    """Return the outcome of a job whose argument Dask could not compute."""
    error.add_note("Dask raised it when it computed an argument of the call.")
    return JobFailed(
        id=job.id,
        kind="application",
        message=f"{type(error).__name__}: {message_of(error)}",
        executed="no",
        types=type_names(type(error)),
        payload=bytes(pack_exception(error)[0]),
    )
