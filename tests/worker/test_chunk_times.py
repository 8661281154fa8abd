"""What the items of a chunk took, where many of them are timed together."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pytest

from mpreg_nb.worker import chunks
from mpreg_nb.worker.chunks import (
    BURST_NS,
    MOST_TIMED,
    SHORT_NS,
    TIMED_ALONE,
    ChunkRun,
    RunNext,
)

SHORT, LONG = SHORT_NS // 100, 1000 * SHORT_NS
US = 1000


class Clock:
    """Time that passes only while an item runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def runs(self, times_ns: Iterable[int]) -> RunNext:
        """Return what runs items that take so long; a negative time fails."""
        left = iter(times_ns)

        def run_next(count: int, keep: Callable[[Any], object]) -> None:
            for time_ns in islice(left, count):
                self.now_ns += abs(time_ns)
                if time_ns < 0:
                    raise StopIteration
                keep(time_ns)

        return run_next


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(chunks, "perf_counter_ns", lambda: clock.now_ns)
    return clock


def run_of() -> ChunkRun:
    return ChunkRun(None, None)  # type: ignore[arg-type]  # for what cannot travel


def all_of(run: ChunkRun, run_next: RunNext) -> BaseException | None:
    while True:
        done, error = run.burst(run_next)
        if error is not None or not done:
            return error


def test_each_item_has_a_time_and_their_sum_is_right(clock: Clock) -> None:
    run, times = run_of(), [SHORT] * 10_000

    assert all_of(run, clock.runs(times)) is None

    assert len(run.run_us) == len(times)
    assert sum(run.run_us) == sum(times) // US
    assert max(run.run_us) == 1


def test_an_item_that_is_not_short_has_its_own_time(clock: Clock) -> None:
    run, times = run_of(), [SHORT_NS, 3 * SHORT_NS, 2 * SHORT_NS] * 100

    all_of(run, clock.runs(times))

    assert run.run_us == [time // US for time in times]


def test_the_first_items_and_those_after_a_long_one_are_timed_alone(
    clock: Clock,
) -> None:
    times = [SHORT] * 1000
    times[TIMED_ALONE - 1] = LONG  # while each has its own time
    times[500] = LONG  # while others are timed with it
    times[500 + MOST_TIMED + TIMED_ALONE // 2] = LONG
    run = run_of()

    all_of(run, clock.runs(times))

    long = [at for at, run_us in enumerate(run.run_us) if run_us > 1]
    first, *shared, last = long
    assert (first, last) == (TIMED_ALONE - 1, 500 + MOST_TIMED + TIMED_ALONE // 2)
    assert run.run_us[first] == run.run_us[last] == LONG // US
    assert 500 in shared
    assert len(shared) <= MOST_TIMED
    assert sum(run.run_us) == sum(times) // US


def test_an_item_that_fails_ends_the_burst_with_the_results_before_it(
    clock: Clock,
) -> None:
    times = [SHORT] * 300
    run = run_of()

    error = all_of(run, clock.runs([*times, -LONG, *times]))

    assert isinstance(error, StopIteration)
    assert len(run.run_us) == len(times)


def test_a_burst_ends_in_time(clock: Clock) -> None:
    run = run_of()

    done, _ = run.burst(clock.runs([SHORT] * 100_000))

    assert abs(done - BURST_NS // SHORT) <= MOST_TIMED
