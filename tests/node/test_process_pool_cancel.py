"""Calls that are cancelled end soon, whatever they do, and no other call with them."""

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from mpreg_nb.node import process_pool
from mpreg_nb.protocol.worker import RECALL, JobDone, JobFailed
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until
from tests.support.worker_functions import (
    SpinsWhenOpened,
    echo,
    ignore_interrupts,
    ignore_terminate_too,
    pid,
    say_and_sleep,
    say_and_spin,
    sleep,
    wait_long,
)
from tests.support.workers import Office, links, run, run_until_quick, value_of

pytestmark = pytest.mark.live


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("function", [say_and_sleep, say_and_spin, wait_long])
def test_a_running_call_is_interrupted_and_its_worker_stays(
    tmp_path: Path, function: Callable[..., Any], slots: int
) -> None:
    # The first two are sync, and one of them never leaves the interpreter.
    # A thread that sleeps in the system cannot be interrupted, only killed.
    stays = slots == 1 or function is not say_and_sleep

    async def scenario(here: Office) -> tuple[Any, float, bool]:
        before = await here.call(pid)
        call_id, end = here.submit(function)
        await here.until(lambda: here.prints_of(call_id) != "")
        cancelled = time.monotonic()
        here.workers.cancel(call_id)
        here.workers.cancel(call_id)
        outcome, _ = await end
        took = time.monotonic() - cancelled
        return outcome, took, await here.call(pid) == before

    longest_s = 0.5 if stays else 4.0
    outcome, took, same = run_until_quick(tmp_path, scenario, longest_s, slots=slots)

    assert isinstance(outcome, JobFailed)
    assert (outcome.kind, outcome.executed) == ("cancelled", "yes")
    assert same is stays
    assert took < longest_s


@pytest.mark.parametrize("slots", [1, 2])
def test_function_did_not_run_if_it_is_cancelled_while_its_arguments_are_opened(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> Any:
        call_id, end = here.submit(echo, SpinsWhenOpened())
        await here.until(lambda: "spins" in here.prints_of(call_id))
        here.workers.cancel(call_id)
        outcome, _ = await end
        return outcome

    outcome = run(tmp_path, scenario, slots=slots)

    assert isinstance(outcome, JobFailed)
    assert (outcome.kind, outcome.executed) == ("cancelled", "no")


@pytest.mark.parametrize(
    ("function", "longest_s"), [(ignore_interrupts, 2.5), (ignore_terminate_too, 5.0)]
)
def test_a_function_that_ignores_it_is_killed_with_its_worker(
    tmp_path: Path, function: Callable[..., Any], longest_s: float
) -> None:
    async def scenario(here: Office) -> tuple[Any, float]:
        await here.call(echo, 1)
        call_id, end = here.submit(function)
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        here.workers.cancel(call_id)
        outcome, _ = await end
        took = time.monotonic() - begun
        assert await here.call(echo, 1) == 1
        return outcome, took

    outcome, took = run_until_quick(tmp_path, scenario, longest_s)

    assert (outcome.kind, outcome.executed) == ("cancelled", "yes")
    assert took < longest_s


def echo_or_leave(value: int) -> int:
    """Return what came, or end the process."""
    import os

    if value < 0:
        os._exit(3)
    return value


def test_a_dropped_call_has_not_run_though_its_worker_ends_right_afterwards(
    tmp_path: Path,
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    ready = str(tmp_path)

    async def scenario(here: Office) -> Any:
        for number in range(50):  # until the worker gets several ahead
            await here.call(echo_or_leave, number)
            await here.call(wait_for_file, ready, ready)
        here.submit(wait_for_file, str(begun), str(go))
        dropped_id, dropped = here.submit(echo_or_leave, 2)
        _, leaves = here.submit(echo_or_leave, -1)
        await asyncio.to_thread(until_exists, begun)
        here.workers.cancel(dropped_id)
        go.touch()
        await leaves
        return (await dropped)[0]

    outcome = run(tmp_path, scenario)

    assert (outcome.kind, outcome.executed) == ("cancelled", "no")


@pytest.mark.parametrize("slots", [1, 2])
def test_a_queued_call_is_dropped_at_once_and_the_others_go_on(
    tmp_path: Path, slots: int
) -> None:
    begun = [tmp_path / f"begun {number}" for number in range(slots)]
    go = tmp_path / "go"

    async def scenario(here: Office) -> tuple[Any, list[Any]]:
        running = [here.submit(wait_for_file, str(b), str(go))[1] for b in begun]
        queued_id, queued = here.submit(sleep, 60)
        last = here.submit(echo, 5)[1]
        for path in begun:
            await asyncio.to_thread(until_exists, path)
        here.workers.cancel(queued_id)
        outcome, _ = await queued  # while the others run: they wait for `go`
        go.touch()
        return outcome, [await value_of(end) for end in (*running, last)]

    outcome, values = run(tmp_path, scenario, slots=slots)

    assert (outcome.kind, outcome.executed) == ("cancelled", "no")
    assert values == ["done"] * slots + [5]


def test_cancels_of_short_calls_hit_no_other_call(tmp_path: Path) -> None:
    async def scenario(here: Office) -> list[str]:
        await here.call(echo, 0)
        submitted = [here.submit(echo, n) for n in range(300)]
        for call_id, _ in submitted[::3]:
            here.workers.cancel(call_id)
        kinds: list[str] = []
        for number, (_, end) in enumerate(submitted):
            outcome, _ = await end
            if isinstance(outcome, JobFailed):
                assert number % 3 == 0
                kinds.append(outcome.kind)
            else:
                kinds.append("done")
        return kinds

    kinds = run(tmp_path, scenario)

    assert len(kinds) == 300
    assert set(kinds) <= {"done", "cancelled"}


def test_a_cancel_that_comes_too_late_does_nothing(tmp_path: Path) -> None:
    async def scenario(here: Office) -> Any:
        call_id, end = here.submit(echo, 1)
        await end
        here.workers.cancel(call_id)
        here.workers.cancel(b"unknown".ljust(16))
        return await here.call(sleep, 0.2)

    assert run(tmp_path, scenario) == "slept"


@pytest.mark.parametrize("slots", [1, 2])
def test_an_import_is_not_torn_apart(tmp_path: Path, slots: int) -> None:
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "first.py").write_text("VALUE = 7\n")
    (package / "__init__.py").write_text(
        "from . import first\nimport time\ntime.sleep(0.6)\nVALUE = first.VALUE\n"
    )

    def importing(folder: str, pauses: int) -> int:
        import sys
        import time

        sys.path.insert(0, folder)
        import slow_package  # type: ignore[import-not-found]

        for _ in range(pauses):  # where a thread, too, can be interrupted
            time.sleep(0.01)
        value: int = slow_package.VALUE
        return value

    async def scenario(here: Office) -> tuple[Any, float, int]:
        await here.call(echo, 0)
        call_id, end = here.submit(importing, str(tmp_path), 6000)
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        here.workers.cancel(call_id)
        outcome, _ = await end
        took = time.monotonic() - begun
        return outcome, took, await here.call(importing, str(tmp_path), 0)

    outcome, took, value = run(tmp_path, scenario, slots=slots)

    assert outcome.kind == "cancelled"
    assert took < 1.5
    assert value == 7


@pytest.mark.parametrize("patience_s", [30.0, 0.0], ids=["spared", "without patience"])
def test_calls_beside_one_that_is_cancelled_during_a_long_import_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(process_pool, "IMPORT_PATIENCE_S", patience_s)
    module = tmp_path / "very_slow_module.py"
    module.write_text("import time\ntime.sleep(2.6)\n")

    def importing(folder: str) -> None:
        import sys
        import time

        sys.path.insert(0, folder)
        import very_slow_module  # type: ignore[import-not-found]  # noqa: F401

        while True:
            time.sleep(0.01)

    async def scenario(here: Office) -> tuple[Any, Any, bool]:
        before = await here.call(pid)
        beside = here.submit(sleep, 3.2)[1]
        call_id, end = here.submit(importing, str(tmp_path))
        await asyncio.sleep(0.2)
        here.workers.cancel(call_id)
        outcome, _ = await end
        return outcome, (await beside)[0], await here.call(pid) == before

    cancelled, beside, same = run(tmp_path, scenario, slots=2)

    assert cancelled.kind == "cancelled"
    assert isinstance(beside, JobDone)
    assert same is bool(patience_s)


def test_calls_beside_one_that_ignores_its_cancel_go_on_and_its_slot_is_back(
    tmp_path: Path,
) -> None:
    begun, go, after = (tmp_path / name for name in ("begun", "go", "after"))
    go.mkdir()

    async def scenario(here: Office) -> tuple[list[Any], bool, int]:
        before = await here.call(pid)
        _, beside = here.submit(wait_for_file, str(begun), str(go / "beside"))
        ignores_id, ignores = here.submit(say_and_sleep)
        await here.until(lambda: here.prints_of(ignores_id) != "")
        here.workers.cancel(ignores_id)

        # In the slot of the cancelled one, while it still sleeps.
        replaced = await here.call(pid) != before
        last = [
            here.submit(wait_for_file, str(each), str(go / "last"))
            for each in (after, tmp_path / "too many")
        ]
        await asyncio.to_thread(until_exists, after)
        too_many = (tmp_path / "too many").exists()
        running = here.workers.running
        (go / "beside").touch()
        (go / "last").touch()
        ends = [await end for end in (beside, ignores, *(end for _, end in last))]
        return [outcome for outcome, _ in ends], replaced and not too_many, running

    outcomes, replaced, running = run(tmp_path, scenario, slots=2)

    assert [type(outcome) for outcome in outcomes] == [
        JobDone,
        JobFailed,
        JobDone,
        JobDone,
    ]
    assert replaced
    assert running == 2


@pytest.mark.parametrize("slots", [1, 2])
def test_a_job_that_is_recalled_just_after_its_start_goes_on(
    tmp_path: Path, slots: int
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def scenario(here: Office) -> Any:
        call_id, end = here.submit(wait_for_file, str(begun), str(go))
        await asyncio.to_thread(until_exists, begun)
        process = links(here)[0].process
        process.interrupt(RECALL, call_id)
        await asyncio.to_thread(until, lambda: process.page.heard == process.told)
        go.touch()
        return (await end)[0]

    assert isinstance(run(tmp_path, scenario, slots=slots), JobDone)


def test_jobs_are_not_taken_back_whose_recall_could_not_be_sent(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[list[list[bytes]], int]:
        await here.call(echo, 0)
        await here.call(echo, 0)
        (link,) = links(here)
        link.process.kill(signal.SIGSTOP)
        try:
            while link.process.interrupt(bytes(16)):
                pass  # until no word more fits in the pipe
            _, end = here.submit(echo, 7)
            back: list[list[bytes]] = []
            link.recall(back.append)
        finally:
            link.process.kill(signal.SIGCONT)
        answer: int = await value_of(end)
        return back, answer

    assert run(tmp_path, scenario) == ([], 7)


def test_recalls_and_cancels_that_come_together_are_not_mixed_up(
    tmp_path: Path,
) -> None:
    ids = count(1 << 100)  # of calls that have ended

    async def scenario(here: Office) -> tuple[bool, Any]:
        call_id, end = here.submit(say_and_spin)
        await here.until(lambda: here.prints_of(call_id) != "")
        process = links(here)[0].process
        for _ in range(100):
            for _ in range(40):
                process.interrupt(RECALL, call_id)
                process.interrupt(next(ids).to_bytes(16, "big"))
            await asyncio.to_thread(until, lambda: process.page.heard == process.told)
        goes_on = not end.done()
        here.workers.cancel(call_id)
        return goes_on, (await end)[0]

    goes_on, outcome = run(tmp_path, scenario)

    assert goes_on
    assert isinstance(outcome, JobFailed)
    assert (outcome.kind, outcome.executed) == ("cancelled", "yes")


def has_said(here: Office, call_id: bytes) -> bool:
    return here.prints_of(call_id) != ""


def until_stopped(worker: int) -> None:
    process = psutil.Process(worker)
    until(lambda: process.status() == psutil.STATUS_STOPPED)


@pytest.mark.parametrize(("slots", "function"), [(1, say_and_sleep), (2, say_and_spin)])
def test_a_worker_that_was_stopped_hears_of_a_cancel_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slots: int,
    function: Callable[..., Any],
) -> None:
    monkeypatch.setattr(process_pool, "TERMINATE_S", 1e3)
    monkeypatch.setattr(process_pool, "KILL_S", 1e3)

    async def scenario(here: Office) -> list[str]:
        ends: list[str] = []
        for _ in range(10):
            call_id, end = here.submit(function)
            await here.until(partial(has_said, here, call_id))
            process = links(here)[0].process
            process.kill(signal.SIGSTOP)
            await asyncio.to_thread(until_stopped, process.pid)
            here.workers.cancel(call_id)
            process.kill(signal.SIGCONT)
            outcome, _ = await asyncio.wait_for(end, 30)
            assert isinstance(outcome, JobFailed)
            ends.append(outcome.kind)
        return ends

    assert run(tmp_path, scenario, slots=slots) == ["cancelled"] * 10
