"""What a job needs around its function: arguments unpacked, answer packed."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from mpreg_nb.errors import MpregError, NotPicklable
from mpreg_nb.output.capture import PrintingCall
from mpreg_nb.protocol.worker import BEFORE, Job, JobDone, JobFailed, frame, sizes
from mpreg_nb.serialize.exceptions import (
    argument_types,
    message_of,
    raised_class,
    type_names,
    unpicklable,
)
from mpreg_nb.serialize.items import pack_items
from mpreg_nb.serialize.json_rpc import pack_json, unpack_json_call
from mpreg_nb.serialize.pickle import pack, pack_exception, unpack, unpack_call
from mpreg_nb.settings import INLINE_BYTES
from mpreg_nb.shared_memory.exchange import SegmentExchange
from mpreg_nb.shared_memory.segments import MEMORY
from mpreg_nb.worker.channel import Arguments, Task

if TYPE_CHECKING:
    from mpreg_nb.protocol.codec import Parts


HOW_TO_WRITE = (
    "Large arguments are in memory that several processes read, so they cannot be "
    "written to. Copy what the function changes: x = np.array(x), or df = df.copy()."
)
"""Added to the error of a function that tries."""

Frames: TypeAlias = list[bytes | bytearray | memoryview]
"""A message and its parts, ready to be written."""


def call_of(job: Job, tell_waiting: Callable[[bytes, bool], None]) -> PrintingCall:
    """Return the context of a call, through which user code knows its call."""
    deadline_s = None
    if job.remaining_ms is not None:
        deadline_s = time.monotonic() + job.remaining_ms / 1e3
    return PrintingCall(job.id, job.function, deadline_s, tell_waiting, job.depth)


def arguments(task: Task) -> Arguments:
    """Return the arguments of the call; the task keeps them for the error report.

    Raises:
        NotPicklable: they cannot be rebuilt here.
        LookupError: they refer to a part of a result that is not there.
    """
    task.given = _unpacked(task)
    return task.given


def _unpacked(task: Task) -> Arguments:
    job, parts = task.job, task.parts
    if not job.inputs and not job.json:
        args, kwargs = unpack(parts or (job.payload,), name="the arguments")
        return args, kwargs
    whole, inputs = with_inputs(task)
    if job.json:
        return unpack_json_call(whole, inputs)
    return unpack_call(whole, inputs)


def with_inputs(task: Task) -> "tuple[Parts, list[Parts]]":
    """Return the parts of the arguments themselves, and those of each input."""
    job, parts = task.job, task.parts
    own = len(parts)
    for given in job.inputs:
        if isinstance(given, int) and given != BEFORE:
            own -= given
    whole: Parts = parts[:own] or (job.payload,)
    inputs: list[Parts] = []
    for given in job.inputs:
        if given == BEFORE and task.before is not None:
            inputs.append((task.before,))
        elif isinstance(given, int):
            inputs.append(parts[own : own + given])
            own += given
        else:
            inputs.append((given,))
    return whole, inputs


class Answers:
    """Makes the frames of answers."""

    def __init__(self, max_payload_bytes: int, memory: SegmentExchange | None) -> None:
        """memory: what is shared with the node, if anything is."""
        self.limit = max_payload_bytes
        self._memory = memory

    def done(
        self,
        job: Job,
        value: object,
        run_ns: int,
        *,
        queued_ns: int = 0,
        is_direct: bool = False,
        follower: Task | None = None,
    ) -> Frames:
        """Return the answer with a result, or why the result cannot travel.

        queued_ns: how long the job waited here. is_direct: it goes to who holds a
        lease, who shares no memory with this worker. follower: the task that gets the
        result, and begins next, if that is small.
        """
        parts: Parts
        try:
            if job.json:
                parts = (pack_json(value),)
            elif job.split and isinstance(value, list):
                parts = pack_items(value)
            elif job.items and isinstance(value, bytes):
                parts = (value,)  # it is packed, see `run_chunk`
            else:
                parts = pack(value, name="result")
        except NotPicklable as error:
            return self.failed(job, error, run_ns, kind="not_picklable")
        if len(parts) == 1 and len(parts[0]) <= INLINE_BYTES:
            payload = bytes(parts[0])
            if follower is not None:
                follower.before = payload
            return [
                frame(
                    JobDone(
                        id=job.id,
                        payload=payload,
                        run_us=run_ns // 1000,
                        queued_us=queued_ns // 1000,
                        goes_on=b"" if follower is None else follower.job.id,
                    )
                )
            ]
        lengths = sizes(parts)
        if sum(lengths) > self.limit:
            return [frame(self.too_large(job, sum(lengths), run_ns))]
        run_us, queued_us = run_ns // 1000, queued_ns // 1000
        if self._memory is not None and not is_direct:
            parts = MEMORY.place(parts)
            shared = self._memory.export(parts)
            if shared is not None:
                return [frame(JobDone(id=job.id, shared=shared, run_us=run_us))]
        message = JobDone(id=job.id, sizes=lengths, run_us=run_us, queued_us=queued_us)
        return [frame(message), *parts]

    def too_large(self, job: Job, size_bytes: int, run_ns: int) -> JobFailed:
        """Return why a result does not travel."""
        return JobFailed(
            id=job.id,
            kind="too_large",
            message=f"the result of {job.function} is too large",
            size_bytes=size_bytes,
            limit_bytes=self.limit,
            run_us=run_ns // 1000,
        )

    def failed(
        self,
        job: Job,
        error: BaseException,
        run_ns: int = 0,
        *,
        kind: str = "application",
        executed: str = "yes",
        given: Arguments = ((), {}),
    ) -> Frames:
        """Return the answer with an exception, raised for the arguments `given`."""
        message = self.failure(
            job, error, run_ns, kind=kind, executed=executed, given=given
        )
        if len(message.payload) <= INLINE_BYTES:
            return [frame(message)]
        parts = (message.payload,)
        return [frame(replace(message, payload=b"", sizes=sizes(parts))), *parts]

    def raised(self, task: Task, error: BaseException, run_ns: int = 0) -> Frames:
        """Return the answer with what ended a task, in its function or before it."""
        executed = "yes" if task.is_called else "no"
        return self.failed(task.job, error, run_ns, executed=executed, given=task.given)

    def failure(
        self,
        job: Job,
        error: BaseException,
        run_ns: int = 0,
        *,
        kind: str = "application",
        executed: str = "yes",
        given: Arguments = ((), {}),
    ) -> JobFailed:
        """Return the same as one message, however large it is."""
        is_read_only = job.shared or (job.items and int in map(type, job.inputs))
        if is_read_only and isinstance(error, ValueError) and "read-only" in str(error):
            error.add_note(HOW_TO_WRITE)
        text = message_of(error)
        if kind == "not_picklable" and isinstance(error, NotPicklable):
            text = unpicklable(error)
        name = raised_class(error).__name__
        return JobFailed(
            id=job.id,
            kind=kind,  # type: ignore[arg-type]
            message=text if kind != "application" else f"{name}: {text}",
            executed=executed,  # type: ignore[arg-type]
            types=type_names(raised_class(error)),
            payload=bytes(pack_exception(error)[0]),
            run_us=run_ns // 1000,
            argument_types=argument_types(*given),
        )

    def unusable(self, job: Job, error: BaseException) -> Frames:
        """Return the answer for code or arguments that cannot be rebuilt here."""
        kind = "not_picklable" if isinstance(error, MpregError) else "application"
        return self.failed(job, error, kind=kind, executed="no")

    def unusable_arguments(self, job: Job, error: BaseException) -> JobFailed:
        """Return the same for the arguments of one item of a chunk."""
        kind = "not_picklable" if isinstance(error, MpregError) else "application"
        return self.failure(job, error, kind=kind, executed="no")

    def cancelled(self, job: Job, *, begun: bool, run_ns: int = 0) -> Frames:
        """Return the answer of a job that was interrupted or dropped."""
        message = JobFailed(
            id=job.id,
            kind="cancelled",
            message=f"{job.function} was cancelled",
            executed="yes" if begun else "no",
            run_us=run_ns // 1000,
        )
        return [frame(message)]
