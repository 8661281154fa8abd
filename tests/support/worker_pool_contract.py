"""What every `WorkerPool` must do, whatever its workers are.

A test module of a pool has a fixture `make_pool` of module scope, imports `here`, and
has a class that inherits `WorkerPoolContract`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest

from mpreg_nb.errors import RemoteError
from mpreg_nb.node.worker_pool import Crashed, WorkerPool
from mpreg_nb.protocol.codec import Parts
from mpreg_nb.protocol.worker import Job, JobDone, JobFailed, JobPrinted
from mpreg_nb.serialize.pickle import pack, unpack
from tests.support.cells import run_cell
from tests.support.chains import Chain
from tests.support.worker_functions import echo, ignore_interrupts, leave
from tests.support.workers import Crash, Office, value_of

OnOutput: TypeAlias = Callable[[JobPrinted, Parts], None]
OnEvent: TypeAlias = Callable[[str, str], None]
MakePool: TypeAlias = Callable[[OnOutput, OnEvent], WorkerPool | Awaitable[WorkerPool]]
"""Makes a pool that has not started, in the event loop that it will run in."""


class PoolAtWork(Office):
    """One pool for many tests, and the event loop that it runs in."""

    def __init__(self, make: MakePool, runner: asyncio.Runner) -> None:
        self._runner = runner
        super().__init__(self.run(self._start(make)))

    async def _start(self, make: MakePool) -> WorkerPool:
        made = make(lambda *printed: self.hear(*printed), self._on_event)
        pool = await made if isinstance(made, Awaitable) else made
        await pool.start()
        return pool

    def _on_event(self, event: str, detail: str) -> None:
        self.happen(event, detail)

    def run(self, scenario: Coroutine[Any, Any, Any]) -> Any:
        """Run a scenario to its end, within a time limit."""

        async def limited() -> Any:
            return await asyncio.wait_for(scenario, 60)

        return self._runner.run(limited())

    async def fill(self) -> list[tuple[bytes, Any]]:
        """Have every slot run a function that only a cancel ends."""
        filling = [
            self.submit(announce_and_spin)
            for _ in range(self.workers.statistics().slots)
        ]
        await self.until(lambda: all(self.prints_of(each) for each, _ in filling))
        return filling

    async def cancel_all(self, submitted: list[tuple[bytes, Any]]) -> list[Any]:
        """Cancel jobs and return their outcomes."""
        for call_id, _ in submitted:
            self.workers.cancel(call_id)
        return [(await end)[0] for _, end in submitted]


def announce_and_spin() -> None:
    print("runs", flush=True)  # noqa: T201 - the test waits for it
    while True:
        pass


def announce_and_ignore_interrupts() -> None:
    print("runs", flush=True)  # noqa: T201 - the test waits for it
    ignore_interrupts()


@contextmanager
def pool_at_work(make: MakePool) -> Iterator[PoolAtWork]:
    """Start a pool, and stop it after the block."""
    with asyncio.Runner() as runner:
        at_work = PoolAtWork(make, runner)
        yield at_work
        at_work.run(at_work.workers.stop())


@pytest.fixture(scope="module")
def here(make_pool: MakePool) -> Iterator[PoolAtWork]:
    with pool_at_work(make_pool) as at_work:
        yield at_work


def version_of(source: str) -> Any:
    return run_cell(source)["f"]


class WorkerPoolContract:
    """The tests. Each leaves the pool as it found it."""

    def test_each_of_many_jobs_has_exactly_one_outcome(self, here: PoolAtWork) -> None:
        async def scenario() -> list[Any]:
            ends = [here.submit(echo, number)[1] for number in range(200)]
            return [await value_of(end) for end in ends]

        # A second outcome of a job would raise InvalidStateError in its callback.
        assert here.run(scenario()) == list(range(200))

    def test_a_job_starts_once_and_before_its_outcome(self, here: PoolAtWork) -> None:
        async def scenario() -> tuple[bytes, list[bytes]]:
            call_id, end = here.submit(echo, 1)
            end.add_done_callback(lambda _: seen.extend(here.started))
            await end
            await asyncio.sleep(0)
            return call_id, seen

        here.started.clear()
        seen: list[bytes] = []
        call_id, started = here.run(scenario())

        assert started == [call_id]

    def test_a_following_job_that_was_announced_has_an_outcome(
        self, here: PoolAtWork
    ) -> None:
        async def scenario() -> Chain:
            await here.call(echo, 0)
            chain = Chain(here).add(echo, 1).add(echo).add(echo).submit()
            await chain.until(0)
            while (last := chain.announced()) not in chain.outcomes:
                await chain.until(last)
            await here.call(echo, 0)
            return chain

        chain = here.run(scenario())

        assert list(chain.outcomes) == list(range(chain.announced() + 1))
        assert set(chain.values()) == {1}

    def test_large_arguments_and_results_travel_as_parts(
        self, here: PoolAtWork
    ) -> None:
        rows = bytes(3_000_000)

        async def scenario() -> tuple[Any, Any]:
            _, end = here.submit(echo, rows)
            return await end

        outcome, parts = here.run(scenario())

        assert isinstance(outcome, JobDone)
        assert outcome.payload == b""
        assert unpack(parts) == rows

    def test_an_exception_comes_back_as_itself(self, here: PoolAtWork) -> None:
        failing = version_of("def f(): raise KeyError('rows')")

        with pytest.raises(KeyError, match="rows") as caught:
            here.run(here.call(failing))

        assert isinstance(caught.value, RemoteError)

    def test_a_job_without_code_is_refused_at_once(self, here: PoolAtWork) -> None:
        def never(*outcome: object) -> None:
            raise AssertionError(outcome)

        async def scenario() -> None:
            job = Job(id=bytes(15) + b"x", version="unknown", function="f")
            here.workers.submit(job, (), never)

        assert not here.workers.has_code("unknown")
        with pytest.raises(LookupError, match="unknown"):
            here.run(scenario())
        assert here.run(here.call(echo, 1)) == 1

    def test_versions_of_one_name_are_kept_apart(self, here: PoolAtWork) -> None:
        old, new = (version_of(f"def f(): return {n}") for n in (1, 2))

        async def scenario() -> list[Any]:
            ends = [here.submit(each)[1] for each in (old, new, old, new)]
            return [await value_of(end) for end in ends]

        assert here.run(scenario()) == [1, 2, 1, 2]

    def test_jobs_that_wait_keep_code_that_is_forgotten(self, here: PoolAtWork) -> None:
        late = version_of("def f(): return 'late'")

        async def scenario() -> tuple[bool, Any]:
            filling = await here.fill()
            _, end = here.submit(late)
            version = here.version_of(late)
            here.workers.forget_code(version)
            forgotten = not here.workers.has_code(version)
            await here.cancel_all(filling)
            return forgotten, await value_of(end)

        assert here.run(scenario()) == (True, "late")

    def test_jobs_beyond_the_slots_wait_and_are_counted(self, here: PoolAtWork) -> None:
        async def scenario() -> tuple[int, int]:
            filling = await here.fill()
            waiting = [here.submit(echo, number) for number in range(4)]
            counts = here.workers.running, here.workers.queued
            await here.cancel_all(filling)
            for _, end in waiting:
                await end
            return counts

        slots = here.workers.statistics().slots

        assert here.run(scenario()) == (slots, 4)
        assert (here.workers.running, here.workers.queued) == (0, 0)

    def test_a_job_that_waits_is_dropped_by_a_cancel(self, here: PoolAtWork) -> None:
        async def scenario() -> tuple[Any, bool]:
            filling = await here.fill()
            waiting = here.submit(echo, 1)
            (outcome,) = await here.cancel_all([waiting])
            started = waiting[0] in here.started
            await here.cancel_all(filling)
            return outcome, started

        outcome, started = here.run(scenario())

        assert isinstance(outcome, JobFailed)
        assert (outcome.kind, outcome.executed, started) == ("cancelled", "no", False)

    def test_a_job_that_runs_is_interrupted_by_a_cancel(self, here: PoolAtWork) -> None:
        async def scenario() -> list[Any]:
            return await here.cancel_all(await here.fill())

        outcomes = here.run(scenario())

        assert {(o.kind, o.executed) for o in outcomes} == {("cancelled", "yes")}
        assert here.run(here.call(echo, 1)) == 1

    def test_a_function_that_ignores_a_cancel_is_ended_by_force(
        self, here: PoolAtWork
    ) -> None:
        async def scenario() -> list[Any]:
            stubborn = here.submit(announce_and_ignore_interrupts)
            await here.until(lambda: here.prints_of(stubborn[0]) != "")
            return await here.cancel_all([stubborn])

        (outcome,) = here.run(scenario())

        assert (outcome.kind, outcome.executed) == ("cancelled", "yes")
        assert here.run(here.call(echo, 1)) == 1

    def test_cancels_of_unknown_and_ended_jobs_do_nothing(
        self, here: PoolAtWork
    ) -> None:
        async def scenario() -> Any:
            call_id, end = here.submit(echo, 1)
            await end
            for each in (call_id, b"unknown".ljust(16)):
                here.workers.cancel(each)
            return await here.call(echo, 2)

        assert here.run(scenario()) == 2

    def test_a_crash_is_an_outcome_and_the_next_job_runs(
        self, here: PoolAtWork
    ) -> None:
        async def scenario() -> tuple[Crashed, Any]:
            with pytest.raises(Crash) as caught:
                await here.call(leave, 3)
            return caught.value.crashed, await here.call(echo, 1)

        before = here.workers.statistics().deaths
        crashed, after = here.run(scenario())

        assert (crashed.cause, crashed.executed) == ("exit code 3", "yes")
        assert after == 1
        assert here.workers.statistics().deaths == before + 1

    def test_prints_come_in_order_and_before_the_outcome(
        self, here: PoolAtWork
    ) -> None:
        printing = version_of("def f():\n    for n in range(50): print(n)")

        async def scenario() -> str:
            call_id, end = here.submit(printing)
            end.add_done_callback(lambda _: seen.append(here.prints_of(call_id)))
            await end
            await asyncio.sleep(0)
            return seen[0]

        seen: list[str] = []

        assert here.run(scenario()) == "".join(f"{n}\n" for n in range(50))

    def test_a_pool_that_stops_gives_an_outcome_to_every_job(
        self, make_pool: MakePool
    ) -> None:
        with asyncio.Runner() as runner:
            other = PoolAtWork(make_pool, runner)

            async def scenario() -> list[Any]:
                submitted = await other.fill()
                submitted += [other.submit(echo, number) for number in range(3)]
                await other.workers.stop(cause="the test is over")
                return [(await end)[0] for _, end in submitted]

            outcomes = other.run(scenario())

        running, waiting = outcomes[:-3], outcomes[-3:]
        assert all(isinstance(outcome, Crashed) for outcome in outcomes)
        assert {outcome.cause for outcome in outcomes} == {"the test is over"}
        assert {outcome.executed for outcome in waiting} == {"no"}
        assert {outcome.executed for outcome in running} == {"unknown"}

    def test_code_and_argument_bytes_are_not_opened_by_the_pool(
        self, here: PoolAtWork, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Trap:
            """Raises where its pickle is opened in this process."""

            def __reduce__(self) -> Any:
                return refuse_here, ()

        (payload,) = pack(((Trap(),), {}))
        monkeypatch.setattr("tests.support.worker_pool_contract.is_tested_here", True)

        async def scenario() -> Any:
            await here.call(echo, 0)
            ended = asyncio.get_running_loop().create_future()
            job = Job(
                id=bytes(15) + b"t",
                version=here.version_of(echo),
                function="echo",
                payload=bytes(payload),
            )
            here.workers.submit(job, (), lambda *end: ended.set_result(end))
            return await ended

        outcome, _ = here.run(scenario())

        assert isinstance(outcome, JobDone), outcome


is_tested_here = False


def refuse_here() -> str:
    if is_tested_here:
        raise AssertionError("the pool opened a pickle")
    return "opened by a worker"
