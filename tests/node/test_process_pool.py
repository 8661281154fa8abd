"""Workers end and are replaced; the node and the other calls go on."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mpreg_nb.node.worker_pool import Crashed
from mpreg_nb.protocol.worker import JobFailed
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until
from tests.support.worker_functions import (
    LeavesWhenOpened,
    echo,
    fault,
    kill_self,
    leave,
    pid,
    say_and_sleep,
    sleep,
)
from tests.support.workers import Crash, Office, is_alive, run, value_of

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("function", "args", "cause"),
    [
        (leave, (3,), "exit code 3"),
        (fault, (), "signal SIGSEGV"),
        (kill_self, (), "signal SIGKILL"),
    ],
    ids=["exit", "fault", "kill"],
)
@pytest.mark.parametrize("slots", [1, 3])
def test_a_crash_costs_one_call_and_says_how_it_ended(
    tmp_path: Path,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    cause: str,
    slots: int,
) -> None:
    async def scenario(here: Office) -> Crashed:
        await here.call(echo, 0)
        with pytest.raises(Crash) as caught:
            await here.call(function, *args)
        assert await here.call(echo, 1) == 1
        assert here.events[0][0] == "worker died"
        assert cause in here.events[0][1]
        return caught.value.crashed

    crashed = run(tmp_path, scenario, slots=slots)

    assert crashed.cause == cause
    assert (crashed.executed, crashed.deaths) == ("yes", 1)
    assert crashed.memory_mb is not None
    assert 10 < crashed.memory_mb < 1000
    if function is leave:
        assert crashed.last_lines == ("about to leave",)
    if function is fault:
        assert any("Segmentation fault" in line for line in crashed.last_lines)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_job_whose_arguments_end_its_worker_is_not_reported_as_run(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> Crashed:
        with pytest.raises(Crash) as caught:
            await here.call(echo, LeavesWhenOpened())
        return caught.value.crashed

    crashed = run(tmp_path, scenario, slots=slots)

    assert (crashed.cause, crashed.executed) == ("exit code 4", "unknown")


def test_it_is_unknown_which_of_several_calls_in_a_dead_worker_had_started(
    tmp_path: Path,
) -> None:
    begun = tmp_path / "begun"

    async def scenario(here: Office) -> set[str]:
        _, waits = here.submit(wait_for_file, str(begun), str(tmp_path / "never"))
        await asyncio.to_thread(until_exists, begun)
        cancelled_id, cancelled = here.submit(say_and_sleep)
        await here.until(lambda: "sleeps" in here.prints_of(cancelled_id))
        here.workers.cancel(cancelled_id)
        _, leaves = here.submit(leave, 3)
        ends = (waits, cancelled, leaves)
        outcomes = [(await asyncio.wait_for(end, 30))[0] for end in ends]
        return {o.executed for o in outcomes if isinstance(o, Crashed | JobFailed)}

    assert run(tmp_path, scenario, slots=3) == {"unknown"}


def test_jobs_that_had_not_started_run_on_another_worker(tmp_path: Path) -> None:
    async def scenario(here: Office) -> list[Any]:
        for _ in range(3):  # short, so that many are handed over at once
            await here.call(echo, 0)
            await here.call(maybe_die, False)
        ends = [here.submit(maybe_die, number == 5)[1] for number in range(50)]
        return [(await end)[0] for end in ends]

    def maybe_die(die: bool) -> int:
        import os

        if die:
            os._exit(1)
        return os.getpid()

    outcomes = run(tmp_path, scenario)

    crashed = [o for o in outcomes if isinstance(o, Crashed)]
    # Those before the fatal one had ended, but their answers may have been held.
    assert [c.deaths for c in crashed][-1] == 1
    assert all(c.deaths == 0 for c in crashed[:-1])
    assert isinstance(outcomes[5], Crashed)
    assert not any(isinstance(o, Crashed) for o in outcomes[6:])


def test_a_call_that_kills_every_worker_is_counted(tmp_path: Path) -> None:
    async def scenario(here: Office) -> list[int]:
        deaths = []
        call_id, end = here.submit(leave, 1)
        for _ in range(2):
            outcome, _ = await end
            assert isinstance(outcome, Crashed)
            deaths.append(outcome.deaths)
            here._ids = iter([int.from_bytes(call_id, "big")])  # type: ignore[assignment]
            _, end = here.submit(leave, 1)
        await end
        return deaths

    assert run(tmp_path, scenario) == [1, 2]


def test_children_of_a_worker_end_with_it(tmp_path: Path) -> None:
    def spawn() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "60"]).pid

    async def scenario(here: Office) -> int:
        child: int = await here.call(spawn)
        assert is_alive(child)
        with pytest.raises(Crash):
            await here.call(leave, 1)
        return child

    assert not is_alive(run(tmp_path, scenario))


def test_a_worker_that_is_idle_and_dies_is_replaced(tmp_path: Path) -> None:
    async def scenario(here: Office) -> bool:
        first = await here.call(pid)
        os.kill(first, signal.SIGKILL)
        await here.until(lambda: bool(here.events))
        return bool(await here.call(pid) != first)

    assert run(tmp_path, scenario)


def test_no_worker_outlives_a_node_that_is_killed(tmp_path: Path) -> None:
    program = dedent("""
        import asyncio, sys
        from pathlib import Path
        from tests.support.workers import office
        from tests.support.worker_functions import pid, sleep, spin

        async def main():
            async with office(Path(sys.argv[1]), count=3) as here:
                first = [await here.call(pid)]
                here.submit(spin)
                here.submit(sleep, 60)
                await asyncio.sleep(0.2)
                print(*here.pids(), flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
        """)
    node = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert node.stdout is not None
    with node.stdout:
        pids = [int(word) for word in node.stdout.readline().split()]

    node.kill()
    node.wait()

    assert len(pids) == 3
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, pids))


def test_workers_that_do_not_start_fail_the_calls_that_wait(tmp_path: Path) -> None:
    async def scenario(here: Office) -> Any:
        _, end = here.submit(echo, 1)
        return (await end)[0]

    environment = {**os.environ, "PYTHONHOME": "/nowhere"}
    outcome = run(tmp_path, scenario, environment=environment)

    assert isinstance(outcome, Crashed)
    assert outcome.executed == "no"
    assert outcome.cause.startswith("workers do not start: exit code 1")


def test_secrets_are_not_in_the_environment_of_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> list[str]:
        import os

        return [name for name in os.environ if "TOKEN" in name]

    monkeypatch.setenv("MPREG_NB_TOKEN", "secret")
    monkeypatch.setenv("MPREG_NB_TOKEN_FILE", "/secret")

    assert run(tmp_path, lambda here: here.call(seen)) == []


def test_slots_run_sync_and_async_functions_at_the_same_time(tmp_path: Path) -> None:
    def meet(folder: str, number: int) -> str:
        import os
        import time

        open(f"{folder}/{number}.here", "x").close()
        while sum(name.endswith(".here") for name in os.listdir(folder)) < 4:
            time.sleep(0.01)
        return "met"

    async def meet_too(folder: str, number: int) -> str:
        import asyncio
        import os

        os.close(os.open(f"{folder}/{number}.here", os.O_CREAT))
        while sum(name.endswith(".here") for name in os.listdir(folder)) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return "met too"

    async def scenario(here: Office) -> list[Any]:
        functions = (meet, meet_too, meet, meet_too)
        ends = [
            here.submit(function, str(tmp_path), number)[1]
            for number, function in enumerate(functions)
        ]
        return [await value_of(end) for end in ends]

    values = run(tmp_path, scenario, slots=4)

    assert values == ["met", "met too", "met", "met too"]


def test_no_more_calls_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    go = tmp_path / "go"

    def begun() -> int:
        return len([*tmp_path.glob("*.begun")])

    async def scenario(here: Office) -> list[int]:
        await asyncio.gather(*(here.call(sleep, 0.01) for _ in range(9)))
        ends = [
            here.submit(wait_for_file, str(tmp_path / f"{n}.begun"), str(go))[1]
            for n in range(6)
        ]
        await asyncio.to_thread(until, lambda: begun() >= 2)
        seen = [here.workers.running, here.workers.queued, begun()]
        go.touch()
        for end in ends:
            await end
        return seen

    assert run(tmp_path, scenario, slots=2) == [2, 4, 2]


def test_a_long_call_delays_no_answer_before_it(tmp_path: Path) -> None:
    def spend(gate: str) -> str:
        import pathlib
        import time

        while gate and not pathlib.Path(gate).exists():
            time.sleep(0.01)
        return gate

    gate = tmp_path / "gate"

    async def scenario(here: Office) -> list[Any]:
        for _ in range(5):
            await here.call(spend, "")
        ends = [here.submit(spend, g)[1] for g in ("", "", "", str(gate))]
        answers = [await value_of(end) for end in ends[:3]]
        gate.touch()
        return [*answers, await value_of(ends[3])]

    assert run(tmp_path, scenario) == ["", "", "", str(gate)]


def test_statistics_count_what_ran(tmp_path: Path) -> None:
    async def scenario(here: Office) -> Any:
        await here.call(echo, 1)
        with pytest.raises(Crash):
            await here.call(leave, 0)
        await here.call(echo, 1)
        return here.workers.statistics()

    statistics = run(tmp_path, scenario, count=2)

    assert (statistics.workers, statistics.slots) == (2, 2)
    assert (statistics.finished, statistics.deaths) == (3, 1)
    assert (statistics.running, statistics.queued) == (0, 0)
