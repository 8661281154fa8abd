"""Jobs that follow each other in one worker: what is said of each, whatever happens."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.node.worker_pool import Crashed
from mpreg_nb.protocol.worker import JobDone, JobFailed
from mpreg_nb.serialize.pickle import unpack
from tests.support.chains import Chain
from tests.support.workers import Office, run

pytestmark = pytest.mark.live


async def know(here: Office, *functions: Callable[..., Any]) -> None:
    """Run functions once, so that it is known how short they are."""
    for function in functions:
        await here.call(function, 0)


def add_one(number: int) -> int:
    return number + 1


def test_each_job_gets_the_result_before_and_an_answer_of_its_own(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[list[Any], list[bytes], int, int]:
        await know(here, add_one)
        chain = Chain(here).add(add_one, 1).add(add_one).add(add_one).submit()
        await chain.until(0, 1, 2)
        told = [o.goes_on for o in chain.outcomes.values() if isinstance(o, JobDone)]
        statistics = here.workers.statistics()
        return chain.values(), told, statistics.running, statistics.finished

    values, told, running, finished = run(tmp_path, scenario)

    assert values == [2, 3, 4]
    assert told == [b"\1" * 16, b"\2" * 16, b""]
    assert (running, finished) == (0, 4)


def test_answers_that_came_with_the_first_can_be_taken_at_once(tmp_path: Path) -> None:
    async def scenario(here: Office) -> tuple[list[Chain], int]:
        await know(here, add_one)
        chains: list[Chain] = []
        while not (chains and chains[-1].taken):  # whether they come together is chance
            chain = Chain(here).add(add_one, 1).add(add_one).add(add_one)
            chain.takes = True
            chains.append(chain.submit())
            await chain.until(0, 1, 2)
        return chains, here.workers.statistics().finished

    chains, finished = run(tmp_path, scenario)

    chain = chains[-1]
    taken = [answer for _, answer in chain.taken]
    values = {answer.id[0]: unpack((answer.payload,)) for answer in taken}
    assert {version for version, _ in chain.taken} == {chain.version}
    assert values.items() <= {1: 3, 2: 4}.items()
    assert sorted([*chain.outcomes, *values]) == [0, 1, 2]
    assert finished == 1 + 3 * len(chains)


@pytest.mark.parametrize("slots", [1, 2])
def test_jobs_are_not_taken_before_it_is_known_that_they_are_short(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> Chain:
        await know(here, add_one)
        if slots == 1:
            await know(here, naps)
        chain = Chain(here).add(naps, 1).add(add_one)
        await chain.submit(limit_s=0.01 if slots == 1 else 60.0).until(0)
        await here.call(add_one, 0)  # behind what the worker had gone on with
        return chain

    chain = run(tmp_path, scenario, slots=slots)

    assert chain.values() == [1]


def naps(number: int) -> int:
    import time

    time.sleep(0.02)
    return number


def fail_from_three(number: int) -> int:
    if number == 3:
        raise LookupError("three")
    return number + 1


def test_a_failure_ends_the_chain_and_what_follows_does_not_run(tmp_path: Path) -> None:
    async def scenario(here: Office) -> Chain:
        await know(here, add_one, fail_from_three)
        chain = Chain(here).add(add_one, 2).add(fail_from_three).add(add_one).submit()
        await chain.until(0, 1)
        await here.call(add_one, 0)
        return chain

    chain = run(tmp_path, scenario)

    failed = chain.outcomes[1]
    assert list(chain.outcomes) == [0, 1]
    assert isinstance(failed, JobFailed)
    assert (failed.kind, failed.executed) == ("application", "yes")


def test_a_large_result_ends_the_chain(tmp_path: Path) -> None:
    def enlarged(number: int) -> bytes:
        return bytes(number)

    async def scenario(here: Office) -> Chain:
        await know(here, add_one, enlarged)
        chain = Chain(here).add(enlarged, 1 << 20).add(add_one).submit()
        await chain.until(0)
        await here.call(add_one, 0)
        return chain

    assert list(run(tmp_path, scenario).outcomes) == [0]


def note_and_die(number: int, path: str = os.devnull) -> int:
    if number:
        with open(path, "a") as file:
            file.write("ran\n")
        os._exit(3)
    return number


def test_it_is_known_which_job_a_dead_worker_had_started(tmp_path: Path) -> None:
    path = tmp_path / "runs"

    async def scenario(here: Office) -> Chain:
        await know(here, add_one, note_and_die)
        chain = Chain(here).add(add_one, 1).add(note_and_die, str(path)).add(add_one)
        await chain.submit().until(0, 1)
        assert await here.call(add_one, 1) == 2
        return chain

    chain = run(tmp_path, scenario)

    crashed = chain.outcomes[1]
    assert list(chain.outcomes) == [0, 1]
    assert isinstance(chain.outcomes[0], JobDone)
    assert isinstance(crashed, Crashed)
    assert (crashed.executed, crashed.deaths) == ("yes", 1)
    assert path.read_text() == "ran\n"


def say_and_wait(number: int) -> int:
    import time

    if number:
        print("waits", flush=True)  # noqa: T201 - the test waits for it
        time.sleep(60)
    return number


def test_a_cancel_interrupts_the_job_that_runs_and_no_other_begins(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> Chain:
        await know(here, add_one, say_and_wait)
        chain = Chain(here).add(add_one, 1).add(say_and_wait).add(add_one).submit()
        await here.until(lambda: "waits" in here.prints_of(b"\1" * 16))
        here.workers.cancel(b"\1" * 16)
        await chain.until(1)
        await here.call(add_one, 0)
        return chain

    chain = run(tmp_path, scenario)

    cancelled = chain.outcomes[1]
    assert list(chain.outcomes) == [0, 1]
    assert isinstance(cancelled, JobFailed)
    assert (cancelled.kind, cancelled.executed) == ("cancelled", "yes")


def test_a_cancel_holds_for_jobs_that_a_worker_goes_on_with_meanwhile(
    tmp_path: Path,
) -> None:
    """The cancel is for a job that has ended; its answer is still to be read."""

    async def scenario(here: Office) -> Chain:
        import time

        await know(here, add_one, say_and_wait)
        chain = Chain(here).add(add_one, 1).add(say_and_wait).add(add_one).submit()
        time.sleep(0.2)  # noqa: ASYNC251 - nothing of the worker is read meanwhile
        here.workers.cancel(b"\0" * 16)
        await chain.until(0, 1)
        await here.call(add_one, 0)
        return chain

    chain = run(tmp_path, scenario)

    cancelled = chain.outcomes[1]
    assert list(chain.outcomes) == [0, 1]
    assert isinstance(cancelled, JobFailed)
    assert cancelled.kind == "cancelled"


def leave_threads(number: int) -> int:
    """Leave so many threads, in a long call, that the worker is replaced."""
    import threading
    import time

    for _ in range(number * 1001):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    time.sleep(number * 0.1)
    return number


def test_a_job_whose_worker_is_replaced_before_it_begins_runs_on_another(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[list[Any], list[str]]:
        await know(here, add_one, leave_threads)
        chain = Chain(here).add(leave_threads, 1).add(add_one).add(add_one).submit()
        await chain.until(0, 1, 2)
        return chain.values(), [event for event, _ in here.events]

    values, events = run(tmp_path, scenario)

    assert values == [1, 2, 3]
    assert "worker replaced" in events
