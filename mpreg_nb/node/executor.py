"""Runs calls on this node: in worker processes, or in the node's own process.

Shipped code runs in worker processes, or in a thread of the node's own process if it
was registered so. Functions that a program registered in this process run in it, and
builtins are answered at once.

The node's own process opens pickles only for functions that run in it, so the module
that does it is imported with the first such call.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias

import msgspec

from mpreg_nb.calls.pending import Outcome
from mpreg_nb.errors import LOST_SPACE, NotPicklable
from mpreg_nb.node.functions import (
    CodeDistributor,
    OwnFunction,
    Registry,
    ShippedFunction,
)
from mpreg_nb.node.monitor import Counters
from mpreg_nb.node.peer_requests import PeerRequests
from mpreg_nb.node.pending_call import (
    Followers,
    PendingCall,
    broken,
    failure_of,
)
from mpreg_nb.node.results import InputParts, InputResolver, ResultStore
from mpreg_nb.node.spaces import Spaces
from mpreg_nb.node.thread_output import ThreadOutput
from mpreg_nb.node.worker_pool import (
    Crashed,
    EngineResults,
    WorkerPool,
    brought,
    is_held,
    lost_calls,
)
from mpreg_nb.protocol.codec import Buffer, Parts
from mpreg_nb.protocol.gossip import Offer
from mpreg_nb.protocol.messages import Call, Failed, Failure, Output, Reply
from mpreg_nb.protocol.worker import BEFORE, Job, JobDone, JobFailed, JobPrinted
from mpreg_nb.serialize.exceptions import (
    argument_types,
    execution_failed,
    message_of,
    raised_class,
    type_names,
    unpicklable,
)
from mpreg_nb.serialize.items import pack_items, take_apart
from mpreg_nb.serialize.json_rpc import pack_json, unpack_json_call
from mpreg_nb.settings import INLINE_BYTES
from mpreg_nb.shared_memory.segments import MEMORY

THREADS = 32
"""Sync functions that run here at the same time; more wait."""

Ended: TypeAlias = tuple[JobDone | JobFailed, tuple[Buffer, ...]]
Find: TypeAlias = Callable[[], Callable[..., Any]]
Captured: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Sends what is printed inside to the caller."""


class _Begun(msgspec.Struct, frozen=True):
    """A coroutine function and what to call it with, on the event loop."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class FunctionThreads:
    """Threads that run one piece of work after the other; started when it is needed.

    `ThreadPoolExecutor` costs twice as much for each piece. They end with the process,
    whatever they do. To be called on the event loop.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._count = 0
        self._given = 0  # pieces of work that have not ended
        self._is_stopped = False

    def run(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread; it is to raise nothing, and its end is to be told."""
        self._given += 1
        self._work.put(work)
        if self._given > self._count and self._count < THREADS:
            self._count += 1
            name = f"mpreg-function_{self._count}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def ended(self) -> None:
        """Note that a piece of work has ended."""
        self._given -= 1

    def stop(self) -> None:
        """Begin nothing any more; what runs is left alone."""
        self._is_stopped = True
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None and not self._is_stopped:
            work()
            del work  # its arguments would stay until the next call comes


class _Run(msgspec.Struct, eq=False):
    """A call that runs in this process."""

    pending: PendingCall
    began_s: float
    captured: Captured
    task: asyncio.Task[None] | None = None  # of a coroutine function
    # Taken by the thread that begins it, or by who cancels it before.
    begins: threading.Lock = msgspec.field(default_factory=threading.Lock)


class InProcessExecutor:
    """The calls that run in this process."""

    def __init__(
        self,
        ended: Callable[[PendingCall, JobDone | JobFailed, tuple[Buffer, ...]], None],
        output: ThreadOutput | None,
    ) -> None:
        """output: of code that came over the wire; None: it stays in this process."""
        self._ended = ended
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._threads = FunctionThreads()
        self._runs: dict[bytes, _Run] = {}
        self._shipped: dict[str, Callable[..., Any]] = {}

    @property
    def running(self) -> int:
        """Calls that run here now."""
        return len(self._runs)

    def run(
        self, pending: PendingCall, function: Callable[..., Any], inputs: InputParts
    ) -> None:
        """Run a function of this process; its end is told as a worker's would be."""
        self._begin(pending, lambda: function, inputs, nullcontext)

    def run_shipped(
        self, pending: PendingCall, shipped: ShippedFunction, inputs: InputParts
    ) -> None:
        """Run code that came over the wire, in a thread of this process."""
        captured: Captured = nullcontext
        if self._output is not None:
            call = pending.call
            captured = partial(self._output.of, call.id, call.function)
        self._begin(pending, partial(self._open, shipped), inputs, captured)

    def forget_code(self, version: str) -> None:
        """Let go of a function that came over the wire."""
        self._shipped.pop(version, None)

    def cancel(self, call_id: bytes) -> bool:
        """Stop waiting for a call; False if it does not run here.

        A coroutine is cancelled. A thread cannot be: it runs on, unheard. What waits
        for a thread never begins.
        """
        run = self._runs.get(call_id)
        if run is None:
            return False
        if run.task is not None:
            run.task.cancel()
        elif run.begins.acquire(blocking=False):
            self._end(run, _cancelled(run, executed="no"), ())
        else:
            self._end(run, _cancelled(run), ())
        return True

    def stop(self) -> None:
        """Cancel all that runs here; threads that do not end are left alone."""
        self._threads.stop()
        for call_id in list(self._runs):
            self.cancel(call_id)

    def _begin(
        self,
        pending: PendingCall,
        find: Find,
        inputs: InputParts,
        captured: Captured,
    ) -> None:
        run = _Run(pending, self._loop.time(), captured)
        call = pending.call
        self._runs[call.id] = run

        def work() -> Ended | _Begun | None:
            if not run.begins.acquire(blocking=False):  # it was cancelled
                return None
            return _run_or_begin(call, pending.parts, find, inputs, captured)

        self._run_in_thread(run, work)

    def _run_in_thread(
        self, run: _Run, work: Callable[[], Ended | _Begun | None]
    ) -> None:
        def work_and_tell() -> None:
            came: Ended | _Begun | None
            try:
                came = work()
            except BaseException as error:  # noqa: BLE001 - the border of user code
                came = _failed(run.pending.call, error, (), {})
            try:
                self._loop.call_soon_threadsafe(self._came, run, came)
            except RuntimeError:  # the loop was closed: nobody waits
                return

        self._threads.run(work_and_tell)

    def _came(self, run: _Run, came: Ended | _Begun | None) -> None:
        """Go on with what a thread has brought, if the call was not cancelled."""
        self._threads.ended()
        if came is None or self._runs.get(run.pending.id) is not run:
            return
        if isinstance(came, _Begun):
            run.task = asyncio.ensure_future(self._await(run, came))
            run.task.add_done_callback(partial(self._awaited, run))
        else:
            self._end(run, *came)

    def _awaited(self, run: _Run, task: "asyncio.Task[None]") -> None:
        """End a call whose coroutine was cancelled before its first step."""
        if task.cancelled():  # else it has told the end itself
            self._end(run, _cancelled(run, executed="no"), ())

    async def _await(self, run: _Run, begun: _Begun) -> None:
        call = run.pending.call
        try:
            with run.captured():
                value = await begun.function(*begun.args, **begun.kwargs)
        except BaseException as error:  # noqa: BLE001 - the border of user code
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                # The call was cancelled, and not by the function itself.
                self._end(run, _cancelled(run), ())
            else:
                self._end(run, *_failed(call, error, begun.args, begun.kwargs))
        else:
            run.task = None
            self._run_in_thread(run, partial(_packed, call, value))

    def _end(
        self, run: _Run, ended: JobDone | JobFailed, parts: tuple[Buffer, ...]
    ) -> None:
        del self._runs[run.pending.id]
        run_us = int((self._loop.time() - run.began_s) * 1e6)
        ended = msgspec.structs.replace(ended, run_us=run_us)
        self._ended(run.pending, ended, parts)

    def _open(self, shipped: ShippedFunction) -> Callable[..., Any]:
        from mpreg_nb.serialize.pickle import unpack_function

        function = self._shipped.get(shipped.version)
        if function is None:
            function = self._shipped[shipped.version] = unpack_function(shipped.parts)
        return function


def _cancelled(run: _Run, executed: Literal["no", "yes"] = "yes") -> JobFailed:
    text = "cancelled while it ran" if executed == "yes" else "cancelled before it ran"
    return JobFailed(
        id=run.pending.id, kind="cancelled", message=text, executed=executed
    )


def _run_or_begin(
    call: Call,
    parts: tuple[Buffer, ...],
    find: Find,
    inputs: InputParts,
    captured: Captured,
) -> Ended | _Begun:
    """Run a function to its end; one that wants the event loop is given back."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    try:
        function = take_apart if call.split else find()
        args, kwargs = _arguments(call, parts, inputs)
    except BaseException as error:  # noqa: BLE001 - unpickling runs user code
        ended, made = _failed(call, error, args, kwargs)
        return msgspec.structs.replace(ended, executed="no"), made
    if asyncio.iscoroutinefunction(function):
        return _Begun(function, args, kwargs)
    try:
        with captured():
            value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - the border of user code
        return _failed(call, error, args, kwargs)
    return _packed(call, value)


def _arguments(
    call: Call, parts: tuple[Buffer, ...], inputs: InputParts
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    whole = parts or (call.payload,)
    given = tuple((i,) if isinstance(i, bytes) else i for i in inputs)
    if call.json:
        return unpack_json_call(whole, given)
    from mpreg_nb.serialize.pickle import unpack_call

    return unpack_call(whole, given)


def _packed(call: Call, value: object) -> Ended:
    from mpreg_nb.serialize.pickle import pack

    parts: tuple[Buffer, ...]
    try:
        if call.json:
            parts = (pack_json(value),)
        elif call.split and isinstance(value, list):
            parts = pack_items(value)
        else:
            parts = pack(value, name="result")
    except NotPicklable as error:
        text = unpicklable(error)
        failed = JobFailed(id=call.id, kind="not_picklable", message=text)
        return failed, ()
    except BaseException as error:  # noqa: BLE001 - pickling runs user code
        return _failed(call, error, (), {})
    if _travels_inline(parts):
        return JobDone(id=call.id, payload=bytes(parts[0])), ()
    return JobDone(id=call.id), MEMORY.place(parts)


def _failed(
    call: Call,
    error: BaseException,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Ended:
    from mpreg_nb.serialize.pickle import pack_exception

    cls = raised_class(error)
    parts = pack_exception(error)
    inline = _travels_inline(parts)
    failed = JobFailed(
        id=call.id,
        kind="application",
        message=f"{cls.__name__}: {message_of(error)}",
        types=type_names(cls),
        payload=bytes(parts[0]) if inline else b"",
        argument_types=argument_types(args, kwargs),
    )
    return failed, () if inline else parts


def _travels_inline(parts: tuple[Buffer, ...]) -> bool:
    return len(parts) == 1 and len(parts[0]) <= INLINE_BYTES


LOG = logging.getLogger("mpreg_nb.node")


class RunningCalls:
    """The calls that are here to run, by id; passes on what they print."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._calls: dict[bytes, PendingCall] = {}

    def is_empty(self) -> bool:
        """Return whether no call is here."""
        return not self._calls

    def get(self, call_id: bytes) -> PendingCall | None:
        """Return the call of this id, if it is here."""
        return self._calls.get(call_id)

    def add(self, pending: PendingCall) -> None:
        """Note that a call is here."""
        self._calls[pending.id] = pending

    def drop(self, pending: PendingCall) -> bool:
        """Note that a call is here no longer; False: it was not."""
        return self._calls.pop(pending.id, None) is not None

    def given_back(self, call_id: bytes) -> None:
        """Note that a call waits again that a worker had."""
        pending = self._calls.get(call_id)
        if pending is not None:
            pending.owner.given_back(pending)

    def printed(self, message: JobPrinted, parts: Parts = ()) -> None:
        """Pass on what a running call wrote or displayed."""
        pending = self._calls.get(message.id)
        if pending is not None and not pending.answered:
            pending.sink.send(
                Output(
                    id=message.id,
                    node=self._me,
                    stream=message.stream,
                    text=message.text,
                    lines_cut=message.lines_cut,
                    characters_cut=message.characters_cut,
                ),
                parts,
            )


class Executor:
    """Runs calls here, and tells the owner of each how it goes."""

    def __init__(
        self,
        me: str,
        *,
        registry: Registry,
        store: ResultStore,
        code_distributor: CodeDistributor,
        peer_requests: PeerRequests,
        workers: WorkerPool,
        spaces: Spaces,
        has_workers: bool,
        runs_shipped: bool,
        thread_output: ThreadOutput | None = None,
        counters: Counters,
        here: RunningCalls,
        engine: EngineResults | None = None,
    ) -> None:
        """runs_shipped: whether functions may ask for a thread of this process.

        engine: has values, where the workers are its own.
        """
        self._me = me
        self._registry = registry
        self._store = store
        self._code_distributor = code_distributor
        self._inputs = InputResolver(
            me, store, peer_requests, shares=True, engine=engine
        )
        self._workers = workers
        self._spaces = spaces
        self._has_workers = has_workers
        self._runs_shipped = runs_shipped
        self._counters = counters
        self._here = here
        self._own = InProcessExecutor(self._own_ended, thread_output)
        self._tasks: dict[bytes, asyncio.Task[None]] = {}  # calls that wait for data
        self._taken: dict[bytes, bytes] = {}  # what a worker went on with -> the next

    @property
    def queued(self) -> int:
        """Calls that wait for a free slot."""
        return self._workers.queued

    @property
    def running(self) -> int:
        """Calls that have a slot."""
        return self._workers.running + self._own.running

    # ------------------------------------------------------------------- begin

    def run(self, pending: PendingCall, offer: Offer) -> None:
        """Run the call; its end is told to its owner."""
        self._here.add(pending)
        pending.isolation = offer.isolation
        function = self._registry.get(pending.version)
        inputs = self._inputs.at_hand(pending.call.inputs)
        if function is None:
            self._spawn(pending, self._obtain_and_run(pending, offer))
        elif inputs is None:
            self._spawn(pending, self._gather_and_run(pending, function))
        else:
            self._start(pending, function, inputs)

    def catch_up(self) -> None:
        """Take in now what workers have said."""
        self._workers.catch_up()

    def goes_on_with(self, call_id: bytes) -> str | None:
        """Return the version of a call that a worker here has gone on with, if so."""
        return self._workers.version_of(call_id)

    def take_answer(self, call: Call) -> tuple[str, JobDone] | None:
        """Return version and small result of a call that a worker here went on with.

        None: the answer is not here. Else the call is counted, and over.
        """
        found = self._workers.take_answer(call.id)
        if found is not None:
            version, answer = found
            self._taken[call.id] = answer.goes_on
            self._counters.outcomes["ok"] += 1
            self._counters.count(
                call.function, version, run_us=answer.run_us, queued_us=0, failed=False
            )
        return found

    def keep(self, pending: PendingCall) -> None:
        """Note a call that a worker here has gone on with."""
        self._here.add(pending)

    def obtain_then_route(
        self, pending: PendingCall, then: Callable[[PendingCall, bool], None]
    ) -> None:
        """Look for a version that the catalog does not have; say if it was found."""

        async def look() -> None:
            call = pending.call
            found = call.version is not None and await self._code_distributor.obtain(
                call.function, call.version, call.holder
            )
            self._tasks.pop(call.id, None)
            then(pending, found)

        self._spawn(pending, look())

    def cancel(self, pending: PendingCall) -> None:
        """Stop a call that is here; its end is told to its owner."""
        call_id = pending.call.id
        task = self._tasks.pop(call_id, None)
        if task is not None:
            task.cancel()
            self._fail(pending, Failure(kind="cancelled", executed="no"))
        elif not (self._own.cancel(call_id) or self._spaces.cancel(call_id)):
            self._workers.cancel(call_id)

    def withdraw(self, pending: PendingCall) -> bool:
        """Forget a call that has not begun, and never begin it; False: too late."""
        call_id = pending.call.id
        if pending.started or not self._here.drop(pending):
            return False
        task = self._tasks.pop(call_id, None)
        if task is not None:
            task.cancel()
        elif not self._spaces.cancel(call_id):
            self._workers.cancel(call_id)
        return True

    def forget_input(self, key: bytes) -> None:
        """Let go of an input that was fetched from another node."""
        self._inputs.forget(key)

    def forget_code(self, version: str) -> None:
        """Let go of code that the registry holds no longer; queued calls have it."""
        self._workers.forget_code(version)
        self._own.forget_code(version)

    def stop(self) -> None:
        """Cancel what waits for data and what runs in this process."""
        for task in self._tasks.values():
            task.cancel()
        self._inputs.stop()
        self._own.stop()

    def _spawn(self, pending: PendingCall, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[pending.call.id] = asyncio.ensure_future(work)
        task.add_done_callback(partial(self._looked_for, pending))

    def _looked_for(self, pending: PendingCall, task: "asyncio.Task[None]") -> None:
        """End a call if looking for what it needs raised."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._tasks.pop(pending.call.id, None)
            self._fail(pending, broken(error, self._me))
            raise error  # to the handler of the loop

    async def _obtain_and_run(self, pending: PendingCall, offer: Offer) -> None:
        found = await self._code_distributor.obtain(
            offer.function, offer.version, pending.call.holder
        )
        function = self._registry.get(offer.version)
        if not found or function is None:
            self._tasks.pop(pending.call.id, None)
            self._fail(pending, Failure(kind="no_code", node=self._me))
        else:
            await self._gather_and_run(pending, function)

    async def _gather_and_run(
        self, pending: PendingCall, function: ShippedFunction | OwnFunction
    ) -> None:
        inputs = await self._inputs.gather(pending.call.inputs)
        self._tasks.pop(pending.call.id, None)
        if isinstance(inputs, Failure):
            self._fail(pending, inputs)
        else:
            self._start(pending, function, inputs)

    async def _bring_and_start(
        self, pending: PendingCall, function: OwnFunction, inputs: InputParts
    ) -> None:
        """Run a function of this process on values that are with the engine."""
        try:
            found = [i if isinstance(i, bytes) else await brought(i) for i in inputs]
        except LookupError as error:
            self._tasks.pop(pending.call.id, None)
            parts = [part for one in inputs for part in one]
            failure = Failure(
                kind="gone",
                message=str(error),
                node=self._me,
                lost=lost_calls(parts),
            )
            self._fail(pending, failure)
            return
        self._tasks.pop(pending.call.id, None)
        self._start(pending, function, tuple(found))

    def _start(
        self,
        pending: PendingCall,
        function: ShippedFunction | OwnFunction,
        inputs: tuple[bytes | tuple[Buffer, ...], ...],
    ) -> None:
        call = pending.call
        if isinstance(function, OwnFunction):
            if any(is_held(one) for one in inputs if not isinstance(one, bytes)):
                work = self._bring_and_start(pending, function, inputs)
                self._spawn(pending, work)
                return
            if function.where == "inline" and not (call.keep or call.json or inputs):
                reply = Reply(
                    id=call.id,
                    payload=call.payload,
                    node=self._me,
                    version=pending.version,
                    builtin=True,
                    load=pending.owner.news(),
                )
                self._here.drop(pending)
                self._end(pending, reply, pending.parts, queued_us=0, run_us=0)
                return
            if self._refuses_chunk(pending):
                return
            pending.owner.began(pending)
            self._own.run(pending, function.function, inputs)
        elif pending.isolation == "thread" and self._runs_shipped:
            if self._refuses_chunk(pending):
                return
            pending.owner.began(pending)
            self._own.run_shipped(pending, function, inputs)
        elif not self._has_workers:
            self._here.drop(pending)
            pending.owner.retry_elsewhere(pending)
        else:
            self._submit(pending, function, inputs)

    def _refuses_chunk(self, pending: PendingCall) -> bool:
        """End a chunk of a function that runs in this process now; it has not run."""
        if pending.call.items:
            reason = "it was registered anew while it was mapped. Map it again"
            self._fail(pending, Failure(kind="bad_request", message=reason))
        return bool(pending.call.items)

    def _submit(
        self,
        pending: PendingCall,
        function: ShippedFunction,
        inputs: tuple[bytes | tuple[Buffer, ...], ...],
    ) -> None:
        call = pending.call
        if call.space and (end := self._spaces.end_of(call.space)) is not None:
            reason = f"{LOST_SPACE}: {end}"
            self._fail(pending, Failure(kind="gone", message=reason, node=self._me))
            return
        if not self._workers.has_code(function.version):
            self._workers.add_code(function.version, function.name, function.parts)
        parts = pending.parts
        described: tuple[bytes | int, ...] = ()
        if inputs:
            described = tuple(i if isinstance(i, bytes) else len(i) for i in inputs)
            for item in inputs:
                if not isinstance(item, bytes):
                    parts = (*parts, *item)
        job = Job(
            id=call.id,
            version=function.version,
            function=call.function,
            payload=call.payload,
            sizes=tuple(map(len, parts)) if parts else (),
            inputs=described,
            json=call.json,
            quiet=call.quiet,
            remaining_ms=call.remaining_ms and pending.remaining_ms(time.monotonic()),
            split=call.split,
            folder=call.folder,
            items=call.items,
            depth=call.depth,
            keep=call.keep and not call.items,
        )
        if pending.then is not None:
            followers = tuple(self._followers(pending.then))
            job = msgspec.structs.replace(job, then=followers)
            self._workers.submit(
                job, parts, self._job_ended, self._job_began, pending.then.limit_s
            )
            return
        if call.space:
            self._spaces.submit(
                call.space, function, job, parts, self._job_ended, self._job_began
            )
        else:
            self._workers.submit(job, parts, self._job_ended, self._job_began)

    def _followers(self, then: Followers) -> Iterator[Job]:
        """Return the jobs that could follow a call in its worker."""
        for call in then.calls:
            version = call.version or ""
            function = self._registry.get(version)
            if not isinstance(function, ShippedFunction):
                return  # it is not here yet
            if not self._workers.has_code(version):
                self._workers.add_code(version, function.name, function.parts)
            yield Job(
                id=call.id,
                version=version,
                function=call.function,
                payload=call.payload,
                inputs=tuple(
                    one if isinstance(one, bytes) else BEFORE for one in call.inputs
                ),
                quiet=call.quiet,
                folder=call.folder,
                depth=call.depth,
            )

    # --------------------------------------------------------------------- end

    def _job_began(self, call_id: bytes) -> None:
        pending = self._here.get(call_id)
        if pending is not None:
            pending.owner.began(pending)

    def _job_ended(
        self, ended: JobDone | JobFailed | Crashed, parts: tuple[Buffer, ...]
    ) -> None:
        pending = self._here.get(ended.id)
        if pending is not None:
            self._own_ended(pending, ended, parts)
        if isinstance(ended, JobDone) and ended.goes_on:
            goes_on = ended.goes_on
            while goes_on in self._taken:
                goes_on = self._taken.pop(goes_on)
            if goes_on and self._here.get(goes_on) is None:  # it is not wanted any more
                self._workers.cancel(goes_on)

    def _own_ended(
        self,
        pending: PendingCall,
        ended: JobDone | JobFailed | Crashed,
        parts: tuple[Buffer, ...],
    ) -> None:
        self._here.drop(pending)  # before its answer says how busy this node is
        try:
            if type(ended) is JobDone:
                self._returned(pending, ended.payload, parts, ended.run_us)
            elif type(ended) is JobFailed:
                self._raised(pending, ended, parts)
            else:
                self._fail(pending, failure_of(ended, self._me))  # type: ignore[arg-type]
        except Exception as error:
            LOG.exception("the outcome of %s was lost", pending.call.function)
            text = f"its outcome could not be passed on: {error}"
            failure = Failure(kind="node_lost", message=text, executed="unknown")
            self._fail(pending, failure)

    def _returned(
        self,
        pending: PendingCall,
        payload: bytes,
        parts: tuple[Buffer, ...],
        run_us: int,
    ) -> None:
        call = pending.call
        queued_us, kept = self._queued_us(pending, run_us), None
        if call.keep and not call.items:
            kept, payload, parts = self._store.keep(self._me, call, payload, parts)
        reply = Reply(
            id=call.id,
            payload=payload,
            node=self._me,
            version=pending.version,
            queued_us=queued_us,
            run_us=run_us,
            kept=kept,
            load=None if pending.is_own else pending.owner.news(),
        )
        self._end(pending, reply, parts, queued_us=queued_us, run_us=run_us)

    def _raised(
        self, pending: PendingCall, ended: JobFailed, parts: tuple[Buffer, ...]
    ) -> None:
        queued_us = self._queued_us(pending, ended.run_us)
        failure = failure_of(ended, self._me)
        failed = Failed(
            id=pending.call.id,
            failure=failure,
            payload=ended.payload,
            version=pending.version,
            queued_us=queued_us,
            run_us=ended.run_us,
            load=pending.owner.news(),
        )
        self._end(pending, failed, parts, queued_us=queued_us, run_us=ended.run_us)
        if ended.kind == "application":
            self._log(pending, failure)

    def _log(self, pending: PendingCall, failure: Failure) -> None:
        """Note the failure of a program's own function, or of a foreign program's call.

        A notebook shows its failures itself; they would only drown the rest here.
        """
        own = isinstance(self._registry.get(pending.version), OwnFunction)
        if own or pending.call.json:
            types = failure.argument_types
            name = pending.call.function
            LOG.error("%s", execution_failed(name, failure.message, types))

    def _fail(self, pending: PendingCall, failure: Failure) -> None:
        self._here.drop(pending)
        owner = pending.owner
        owner.finish(pending, pending.failed(failure, owner.news()))

    def _end(
        self,
        pending: PendingCall,
        outcome: Outcome,
        parts: tuple[Buffer, ...],
        *,
        queued_us: int,
        run_us: int,
    ) -> None:
        call = pending.call
        pending.owner.finish(pending, outcome, parts)
        failure = outcome.failure if isinstance(outcome, Failed) else None
        ended_in_queue = (
            failure is not None
            and failure.kind in ("cancelled", "deadline")
            and failure.executed == "no"
        )
        if not call.split and not ended_in_queue:  # else the function was not called
            self._counters.count(
                call.function,
                pending.version,
                run_us=run_us,
                queued_us=queued_us,
                failed=failure is not None and failure.kind != "cancelled",
                calls=call.items or 1,
            )

    def _queued_us(self, pending: PendingCall, run_us: int) -> int:
        here_us = int((time.monotonic() - pending.began) * 1e6)
        return max(0, here_us - pending.waited_us - run_us)
