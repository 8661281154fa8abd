"""Runs the items of a chunk one after the other, see `serialize.chunks`.

A chunk takes a few milliseconds, by the run times that its caller has measured. Where
its items take longer than that, it ends early: its caller sends the others again, in
smaller chunks, so that all workers have a part of them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import perf_counter_ns
from typing import Any, TypeAlias

from mpreg_nb.errors import NotPicklable
from mpreg_nb.protocol.worker import Job, JobFailed
from mpreg_nb.serialize.chunks import (
    LONGEST_S,
    Chunk,
    ChunkOutcome,
    are_plain,
    pack_chunk,
    read_chunk,
)
from mpreg_nb.serialize.pickle import pack_together, pack_whole, unpack, unpack_call
from mpreg_nb.worker.channel import Arguments, Task
from mpreg_nb.worker.execution import Answers, with_inputs
from mpreg_nb.worker.purity import is_pure

LONGEST_NS = int(LONGEST_S * 1e9)
"""A chunk that has run for so long begins no more items."""

MOST_BYTES = 1 << 20
"""Nor does one whose results are larger than this."""

BURST_NS = 200_000
"""Items of a function that changes nothing run for so long without a look around."""

SHORT_NS = 4_000
"""So many of them are timed together as take no more: each has its share of the time.
To read the clock takes longer than a short function."""

LONG_NS = 16_000
"""If they take more, one of them may have taken much longer than the others."""

MOST_TIMED = 32
"""Items that are timed together, at most."""

TIMED_ALONE = 64
"""Items that are each timed alone, at first and after such a time."""

FEW = 16
"""With fewer items it is not worth a look whether their function changes anything."""

RunNext: TypeAlias = Callable[[int, Callable[[Any], object]], None]
"""Runs so many items, or those that are left, and gives each result to a function."""


class ChunkRun:
    """One chunk while it runs, and what has become of its items so far."""

    def __init__(self, job: Job, answers: Answers) -> None:
        self.failed: JobFailed | None = None
        self.run_us: list[int] = []
        self._job = job
        self._answers = answers
        self._results: list[bytes] = []
        self._counts: list[int] = []
        self._waiting: list[object] = []  # results that are to be packed together
        self._size_bytes = 0
        self._timed = 1  # so many items are timed together
        self._alone = TIMED_ALONE
        self._began = perf_counter_ns()

    def is_over(self, now_ns: int) -> bool:
        """Whether no further item is to begin."""
        is_long = now_ns - self._began > LONGEST_NS
        return is_long or self.failed is not None or self._size_bytes > MOST_BYTES

    def wait_for_others(self, value: object, run_us: int) -> None:
        """Take a plain result of an item, to be packed with those of others."""
        self._waiting.append(value)
        self.run_us.append(run_us)

    def add(self, value: object, started_ns: int) -> bool:
        """Take the result of an item; False: it cannot travel, so the item failed."""
        if not self.pack_waiting() or not self._pack(value, started_ns):
            return False
        self.run_us.append((perf_counter_ns() - started_ns) // 1000)
        return True

    def _pack(self, value: object, started_ns: int) -> bool:
        try:
            result = pack_whole(value, name="result")
        except NotPicklable as error:
            self.failed = self._answers.failure(self._job, error, kind="not_picklable")
            return False
        if len(result) > self._answers.limit:
            run_ns = perf_counter_ns() - started_ns
            self.failed = self._answers.too_large(self._job, len(result), run_ns)
            return False
        self._keep(result, 0)
        return True

    def _keep(self, result: bytes, count: int) -> None:
        self._results.append(result)
        self._counts.append(count)
        self._size_bytes += len(result)

    def pack_waiting(self) -> bool:
        """Pack the results that wait; False: one cannot travel, so its item failed."""
        values, self._waiting = self._waiting, []
        if not values:
            return True
        together = pack_together(values)
        if together is not None and len(together) <= self._answers.limit:
            self._keep(together, len(values))
            return True
        done = len(self.run_us) - len(values)
        for value in values:
            if not self._pack(value, perf_counter_ns()):
                del self.run_us[done:]
                return False
            done += 1
        return True

    def burst(self, run_next: RunNext) -> tuple[int, BaseException | None]:
        """Run items of a function that changes nothing for `BURST_NS`, or to the end.

        Return how many have a result, and the error of the next one.
        """
        values = self._waiting
        raised: BaseException | None = None
        before, keep = len(values), values.append
        now = perf_counter_ns()
        due = now + BURST_NS
        while now < due and raised is None:
            had = len(values)
            try:
                run_next(self._timed, keep)
            except BaseException as error:  # noqa: BLE001  the border of user code
                raised = error
            last, now = now, perf_counter_ns()
            count = len(values) - had
            if not count:
                break
            # The sum of all is right to a microsecond.
            took_us = now // 1000 - last // 1000
            if count == 1 and raised is None:
                self.run_us.append(took_us)
            else:
                self.run_us += _shares(took_us, count + (raised is not None))[:count]
            self._time_next(count, now - last)
        return len(values) - before, raised

    def _time_next(self, count: int, took_ns: int) -> None:
        """Choose how many of the next items are timed together.

        count: how many were just now. took_ns: what these took.
        """
        if took_ns > LONG_NS:
            self._alone = TIMED_ALONE
        elif self._alone > 0:
            self._alone -= count
        most = 1 if self._alone > 0 else SHORT_NS * count // (took_ns + 1)
        self._timed = max(1, min(most, MOST_TIMED))

    def outcome(self) -> bytes:
        """Return what became of the items as it travels."""
        self.pack_waiting()
        counts = self._counts if any(self._counts) else []
        return pack_chunk(ChunkOutcome(self._results, self.run_us, self.failed, counts))


def run_chunk(
    task: Task,
    function: Callable[..., Any],
    invoke: Callable[[tuple[Any, ...], dict[str, Any]], object],
    answers: Answers,
    between: Callable[[int], None],
    is_interrupted: Callable[[], bool],
    ended: Callable[[int], None],
) -> bytes:
    """Return the outcome of a chunk as it travels.

    invoke: calls the function. between: called before each item but the first with
    the time that the one before took, in nanoseconds. is_interrupted: whether the chunk
    is to end, and a KeyboardInterrupt is not the function's own. ended: called with how
    many items of a function that changes nothing have ended since.

    Raises KeyboardInterrupt where the chunk is interrupted.
    """
    job = task.job
    run = ChunkRun(job, answers)
    own, inputs = with_inputs(task)
    chunk = read_chunk(own[0])
    columns, by_name = chunk.columns()
    reader = _reader(chunk, inputs, by_name)
    calls: Iterator[Any] = (
        zip(*columns, strict=False) if chunk.together else iter(chunk.items)
    )
    may_be_pure = chunk.together and job.items > FEW and not inputs
    for number, data in enumerate(calls):
        if number and run.is_over(perf_counter_ns()):
            break
        try:
            if number:
                between(1000 * run.run_us[-1])
            started = perf_counter_ns()
            args, kwargs = reader(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and is_interrupted():
                raise
            run.failed = answers.unusable_arguments(job, error)
            break
        task.given = args, kwargs
        task.is_called = True
        try:
            value = invoke(args, kwargs)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and is_interrupted():
                raise
            run.failed = answers.failure(job, error, given=task.given)
            break
        if chunk.together and _is_small(value):
            run.wait_for_others(value, (perf_counter_ns() - started) // 1000)
        elif not run.add(value, started):
            break
        if not number and may_be_pure and is_pure(function):
            between(1000 * run.run_us[-1])
            pure = partial(function, **kwargs) if kwargs else function
            run_next = _runner(pure, columns)
            raised = _run_pure(job.items - 1, run, run_next, is_interrupted, ended)
            if raised is not None:
                again, _ = chunk.columns()
                args = next(islice(zip(*again, strict=False), len(run.run_us), None))
                task.given = args, kwargs
                run.failed = answers.failure(job, raised, given=task.given)
            break
    return run.outcome()


def _run_pure(
    left: int,
    run: ChunkRun,
    run_next: RunNext,
    is_interrupted: Callable[[], bool],
    ended: Callable[[int], None],
) -> BaseException | None:
    """Run the `left` items; nothing is to be restored between them.

    Return the error of the one after those that have a result, if that is why it ends.
    """
    while left > 0:
        done, error = run.burst(run_next)
        if isinstance(error, KeyboardInterrupt) and is_interrupted():
            raise error
        left -= done
        ended(done)
        if not run.pack_waiting():
            return None
        if error is not None or not done or run.is_over(perf_counter_ns()):
            return error
    return None


def _runner(function: Callable[..., Any], columns: list[Iterator[Any]]) -> RunNext:
    """Return what runs the next items: each has the next value of each column."""
    if len(columns) == 1:
        [values] = columns

        def run_next(count: int, keep: Callable[[Any], object]) -> None:
            for value in islice(values, count):
                keep(function(value))
    else:
        calls = zip(*columns, strict=False)

        def run_next(count: int, keep: Callable[[Any], object]) -> None:
            for args in islice(calls, count):
                keep(function(*args))

    return run_next


def _shares(total: int, count: int) -> list[int]:
    """Return `count` numbers that differ by one at most, and give `total`.

    >>> _shares(7, 3)
    [3, 2, 2]
    """
    each, more = divmod(total, count)
    return [each + 1] * more + [each] * (count - more)


def _is_small(value: object) -> bool:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value) < 1000  # type: ignore[arg-type]
    return kind is not tuple and are_plain((value,))


def _reader(
    chunk: Chunk, inputs: "list[Any]", by_name: dict[str, Any]
) -> Callable[[Any], Arguments]:
    """Return what makes the arguments of a call from what travelled of it."""
    if chunk.call:
        call = chunk.call
        return lambda data: unpack_call((call,), [(data,), *inputs])
    # What one item writes there, the next would read.
    shared = [[memoryview(part).toreadonly() for part in parts] for parts in inputs]

    def read(data: Any) -> Arguments:
        args, kwargs = (
            (data, dict(by_name))
            if chunk.together
            else unpack((data,), name="the arguments")
        )
        for parts in shared:  # anew for each item, as if it had come with it
            first, more = unpack(parts, name="the arguments")
            args, kwargs = (*first, *args), {**more, **kwargs}
        return args, kwargs

    return read
