"""Several calls of a map as one job of a worker."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.protocol.worker import Job, JobDone, JobFailed
from mpreg_nb.serialize.chunks import (
    Chunk,
    ChunkOutcome,
    PlainItems,
    outcome_of_chunk,
    pack_chunk,
    pack_plain,
)
from mpreg_nb.serialize.pickle import pack_arguments, unpack
from mpreg_nb.worker.chunks import LONGEST_NS, MOST_BYTES
from tests.support.worker_functions import pid, sleep
from tests.support.workers import Office, run

pytestmark = pytest.mark.live


def job_of(here: Office, function: Callable[..., Any], *items: Any) -> Job:
    packed = [bytes(pack_arguments((item,), {})[0]) for item in items]
    return Job(
        id=os.urandom(16),
        version=here.version_of(function),
        function=function.__name__,
        payload=pack_chunk(Chunk(packed)),
        items=len(items),
    )


async def ended(here: Office, job: Job) -> JobDone | JobFailed:
    over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    here.workers.submit(
        job, (), lambda outcome, parts: over.set_result((outcome, parts))
    )
    outcome, parts = await over
    if isinstance(outcome, JobDone) and parts:
        return JobDone(id=outcome.id, payload=bytes(parts[0]))
    return outcome  # type: ignore[no-any-return]


async def outcome_of(
    here: Office, function: Callable[..., Any], *items: Any
) -> ChunkOutcome:
    done = await ended(here, job_of(here, function, *items))
    assert isinstance(done, JobDone)
    return outcome_of_chunk(done.payload)


async def whole_outcome_of(
    here: Office, function: Callable[..., Any], *items: Any
) -> ChunkOutcome:
    """Send again what did not run: on a busy machine a chunk may end early."""
    results: list[bytes] = []
    run_us: list[int] = []
    while True:
        chunk = await outcome_of(here, function, *items[len(results) :])
        results += chunk.results
        run_us += chunk.run_us
        if chunk.failed is not None or len(results) == len(items):
            return ChunkOutcome(results, run_us, chunk.failed)


def values(chunk: ChunkOutcome) -> list[Any]:
    found: list[Any] = []
    counts = chunk.counts or [0] * len(chunk.results)
    for result, count in zip(chunk.results, counts, strict=True):
        value = unpack((result,))
        found += value if count else [value]
        assert count in (0, len(value) if count else 0)
    return found


async def plain_outcome_of(
    here: Office, function: Callable[..., Any], *items: Any, **kwargs: Any
) -> ChunkOutcome:
    """Send items that are plain values."""
    given = PlainItems(1, (), kwargs)
    given.add(items, pack_plain(list(items)))
    done = await ended(here, plain_job_of(here, function, given))
    assert isinstance(done, JobDone)
    return outcome_of_chunk(done.payload)


def plain_job_of(here: Office, function: Callable[..., Any], given: PlainItems) -> Job:
    return Job(
        id=os.urandom(16),
        version=here.version_of(function),
        function=function.__name__,
        payload=pack_chunk(given.chunk),
        items=len(given),
    )


async def whole_plain_outcome_of(
    here: Office, function: Callable[..., Any], *items: Any, **kwargs: Any
) -> ChunkOutcome:
    """Send again what did not run, as for others."""
    results: list[bytes] = []
    run_us: list[int] = []
    counts: list[int] = []
    while True:
        left = items[len(run_us) :]
        chunk = await plain_outcome_of(here, function, *left, **kwargs)
        results += chunk.results
        run_us += chunk.run_us
        counts += chunk.counts or [0] * len(chunk.results)
        if chunk.failed is not None or len(run_us) == len(items):
            return ChunkOutcome(results, run_us, chunk.failed, counts)


def halved(number: int) -> float:
    return 1 / (number - 2)


def grown(items: list[int]) -> list[int]:
    items.append(0)
    return items


async def doubled_later(number: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return 2 * number


def left_over(number: int) -> tuple[int, str | None, str]:
    import os

    found = len(os.environ.get("MESS", "")), os.environ.get("MESS"), os.getcwd()
    os.environ["MESS"] = "1"
    os.chdir("/")
    return found


def bytes_of(size: int) -> bytes:
    return b"x" * size


def spin_at_two(number: int) -> int:
    import sys

    if number == 2:
        sys.stdout.write("spins\n")
        while True:
            pass
    return number


@pytest.mark.parametrize("slots", [1, 2])
def test_a_chunk_gives_the_result_of_each_item(tmp_path: Path, slots: int) -> None:
    async def scenario(here: Office) -> None:
        chunk = await whole_outcome_of(here, halved, 3, 4, 6)

        assert values(chunk) == [1.0, 0.5, 0.25]
        assert len(chunk.run_us) == 3
        assert chunk.failed is None

    run(tmp_path, scenario, slots=slots)


@pytest.mark.parametrize("slots", [1, 2])
def test_items_of_coroutine_functions_are_awaited(tmp_path: Path, slots: int) -> None:
    async def scenario(here: Office) -> None:
        assert values(await whole_outcome_of(here, doubled_later, 1, 2, 3)) == [2, 4, 6]

    run(tmp_path, scenario, slots=slots)


@pytest.mark.parametrize("slots", [1, 2])
def test_the_failure_of_an_item_ends_the_chunk_with_the_results_before_it(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> None:
        chunk = await whole_outcome_of(here, halved, 3, 4, 2, 6)

        assert values(chunk) == [1.0, 0.5]
        assert chunk.failed is not None
        assert chunk.failed.message == "ZeroDivisionError: division by zero"
        assert chunk.failed.executed == "yes"

    run(tmp_path, scenario, slots=slots)


def test_a_result_that_cannot_travel_is_the_failure_of_its_item(tmp_path: Path) -> None:
    def locked(name: str) -> Any:
        import threading

        return threading.Lock() if name else 1

    async def scenario(here: Office) -> None:
        chunk = await whole_outcome_of(here, locked, "", "a lock")

        assert values(chunk) == [1]
        assert chunk.failed is not None
        assert chunk.failed.kind == "not_picklable"

    run(tmp_path, scenario)


def test_items_share_no_object(tmp_path: Path) -> None:
    same: list[int] = []

    async def scenario(here: Office) -> None:
        assert (
            values(await whole_outcome_of(here, grown, same, same, same)) == [[0]] * 3
        )

    run(tmp_path, scenario)


def test_what_an_item_leaves_behind_does_not_reach_the_next(tmp_path: Path) -> None:
    async def scenario(here: Office) -> None:
        found = values(await whole_outcome_of(here, left_over, 1, 2, 3))

        assert len(set(found)) == 1
        assert found[0][1] is None
        assert found[0][2] != "/"

    run(tmp_path, scenario)


def test_a_chunk_that_takes_long_ends_early_and_runs_no_item_twice(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> None:
        chunk = await outcome_of(here, sleep, *[2 * LONGEST_NS / 1e9] * 3)

        assert values(chunk) == ["slept"]
        assert chunk.failed is None

    run(tmp_path, scenario)


def test_a_chunk_with_large_results_ends_early(tmp_path: Path) -> None:
    async def scenario(here: Office) -> None:
        chunk = await outcome_of(here, bytes_of, 10, MOST_BYTES + 1, 10)

        assert [len(value) for value in values(chunk)] == [10, MOST_BYTES + 1][
            : len(chunk.results)
        ]

    run(tmp_path, scenario)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_chunk_is_cancelled_as_a_whole_and_its_worker_goes_on(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> None:
        worker = await here.call(pid)
        job = job_of(here, spin_at_two, 2, 3)
        over = asyncio.ensure_future(ended(here, job))
        await here.until(lambda: "spins" in here.prints_of(job.id))

        here.workers.cancel(job.id)

        outcome = await over
        assert isinstance(outcome, JobFailed)
        assert (outcome.kind, outcome.executed) == ("cancelled", "yes")
        assert await here.call(pid) == worker

    run(tmp_path, scenario, slots=slots)


MANY = 300


def halved_by(number: int, *, by: int = 2) -> float:
    return number / by


def in_a_list(number: int) -> Any:
    return [number] * 2 if number < MANY else (each for each in "ab")


def counted_down(number: int) -> int:
    while number > 0:
        number -= 1
    return number


@pytest.mark.parametrize("slots", [1, 2])
def test_plain_items_give_the_same_results_and_each_has_its_run_time(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> None:
        chunk = await whole_plain_outcome_of(here, halved_by, *range(MANY), by=4)
        again = await whole_plain_outcome_of(here, doubled_later, *range(MANY))

        assert values(chunk) == [number / 4 for number in range(MANY)]
        assert values(again) == [number * 2 for number in range(MANY)]
        assert len(chunk.run_us) == len(again.run_us) == MANY
        assert chunk.failed is again.failed is None

    run(tmp_path, scenario, slots=slots)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_plain_item_that_fails_ends_the_chunk_with_the_results_before_it(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> None:
        numbers = [*range(3, MANY), 2, *range(3, 40)]
        chunk = await whole_plain_outcome_of(here, halved, *numbers)
        unfit = await whole_plain_outcome_of(here, in_a_list, *range(MANY + 20))

        assert chunk.failed is not None
        assert values(chunk) == [1 / (number - 2) for number in range(3, MANY)]
        assert len(chunk.run_us) == MANY - 3
        assert chunk.failed.message == "ZeroDivisionError: division by zero"
        assert chunk.failed.argument_types == ("int",)
        assert unfit.failed is not None
        assert unfit.failed.kind == "not_picklable"
        assert values(unfit) == [[number] * 2 for number in range(MANY)]
        assert len(unfit.run_us) == MANY

    run(tmp_path, scenario, slots=slots)


def test_what_a_plain_item_leaves_behind_does_not_reach_the_next(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> None:
        found = values(await plain_outcome_of(here, left_over, *range(40)))

        assert len(set(found)) == 1
        assert found[0][1] is None
        assert found[0][2] != "/"

    run(tmp_path, scenario)


def test_a_chunk_of_plain_items_that_takes_long_ends_early(tmp_path: Path) -> None:
    async def scenario(here: Office) -> None:
        await plain_outcome_of(here, counted_down, *[1] * MANY)
        chunk = await plain_outcome_of(here, counted_down, *[2_000_000] * MANY)

        assert 0 < len(chunk.run_us) < 100
        assert chunk.failed is None
        assert min(chunk.run_us) > 10_000

    run(tmp_path, scenario)


def test_a_chunk_of_plain_items_with_large_results_ends_early(tmp_path: Path) -> None:
    async def scenario(here: Office) -> None:
        chunk = await plain_outcome_of(here, bytes_of, *[MOST_BYTES // 20] * MANY)

        assert {len(value) for value in values(chunk)} == {MOST_BYTES // 20}
        assert 0 < len(chunk.run_us) < MANY

    run(tmp_path, scenario)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_chunk_of_plain_items_is_cancelled_and_its_worker_goes_on(
    tmp_path: Path, slots: int
) -> None:
    def told_and_forever(number: int) -> int:
        if number == 0:
            spin_at_two(2)
        return number

    async def scenario(here: Office) -> None:
        worker = await here.call(pid)
        given = PlainItems(1)
        given.add(range(MANY), pack_plain(list(range(MANY))))
        job = plain_job_of(here, told_and_forever, given)
        over = asyncio.ensure_future(ended(here, job))
        await here.until(lambda: "spins" in here.prints_of(job.id))

        here.workers.cancel(job.id)

        outcome = await over
        assert isinstance(outcome, JobFailed)
        assert outcome.kind == "cancelled"
        assert await here.call(pid) == worker

    run(tmp_path, scenario, slots=slots)
