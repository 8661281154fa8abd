"""Runs the items of a chunk one after the other, see `serialize.chunks`.

A chunk takes a few milliseconds, by the run times that its caller has measured. Where
its items take longer than that, it ends early: its caller sends the others again, in
smaller chunks, so that all workers have a part of them.
"""

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from mpreg_nb.errors import NotPicklable
from mpreg_nb.protocol.worker import JobFailed
from mpreg_nb.serialize.chunks import LONGEST_S, ChunkOutcome, pack_chunk, read_chunk
from mpreg_nb.serialize.pickle import pack_whole, unpack, unpack_call
from mpreg_nb.worker.channel import Task
from mpreg_nb.worker.execution import Answers, with_inputs

LONGEST_NS = int(LONGEST_S * 1e9)
"""A chunk that has run for so long begins no more items."""

MOST_BYTES = 1 << 20
"""Nor does one whose results are larger than this."""


def run_chunk(
    task: Task,
    invoke: Callable[[tuple[Any, ...], dict[str, Any]], object],
    answers: Answers,
    between: Callable[[int], None],
    is_interrupted: Callable[[], bool],
) -> bytes:
    """Return the outcome of a chunk as it travels.

    invoke: calls the function. between: called before each item but the first with
    the time that the one before took, in nanoseconds. is_interrupted: whether the chunk
    is to end, and a KeyboardInterrupt is not the function's own.

    Raises KeyboardInterrupt where the chunk is interrupted.
    """
    job = task.job
    results: list[bytes] = []
    run_us: list[int] = []
    size_bytes = 0
    failed: JobFailed | None = None
    began = ended = perf_counter_ns()
    own, inputs = with_inputs(task)
    # What one item writes there, the next would read.
    shared = [[memoryview(part).toreadonly() for part in parts] for parts in inputs]
    chunk = read_chunk(own[0])
    for data in chunk.items:
        if results:
            if ended - began > LONGEST_NS or size_bytes > MOST_BYTES:
                break
            between(1000 * run_us[-1])
        started = perf_counter_ns()
        try:
            if chunk.call:
                args, kwargs = unpack_call((chunk.call,), [(data,), *inputs])
            else:
                args, kwargs = unpack((data,), name="the arguments")
                for parts in shared:  # anew for each item, as if it had come with it
                    first, more = unpack(parts, name="the arguments")
                    args, kwargs = (*first, *args), {**more, **kwargs}
        except Exception as error:  # noqa: BLE001  user code runs in there
            failed = answers.unusable_arguments(job, error)
            break
        task.given = args, kwargs
        task.is_called = True
        try:
            value = invoke(args, kwargs)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and is_interrupted():
                raise
            failed = answers.failure(job, error, given=task.given)
            break
        try:
            result = pack_whole(value, name="result")
        except NotPicklable as error:
            failed = answers.failure(job, error, kind="not_picklable")
            break
        ended = perf_counter_ns()
        if len(result) > answers.limit:
            failed = answers.too_large(job, len(result), ended - started)
            break
        results.append(result)
        run_us.append((ended - started) // 1000)
        size_bytes += len(result)
    return pack_chunk(ChunkOutcome(results, run_us, failed))
