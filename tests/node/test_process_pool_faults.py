"""What goes wrong around one call costs that call, and no other."""

import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.node.worker_pool import Crashed
from mpreg_nb.protocol.worker import Job, JobDone, JobFailed
from mpreg_nb.serialize.chunks import Chunk, outcome_of_chunk, pack_chunk
from mpreg_nb.serialize.pickle import pack_arguments
from tests.support.chains import Chain
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until
from tests.support.worker_functions import (
    InterruptsWhenOpened,
    echo,
    kill_self,
    leave_loop,
)
from tests.support.workers import Ended, Office, links, run, value_of

pytestmark = pytest.mark.live


class Trouble(Exception):
    """What a receiver raises in these tests."""


def hear_faults() -> list[Any]:
    """Return what is told to the exception handler of the loop."""
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: faults.append(type(context.get("exception")))
    )
    return faults


def fail(*_: object) -> None:
    raise Trouble


def unread(here: Office) -> bytes:
    """Return what the worker has said that is not read yet; holds up the loop."""
    stream = links(here)[0].process.stream
    select.select([stream], [], [], 60)
    return stream.recv(1 << 16, socket.MSG_PEEK)


def say(text: str) -> str:
    print(text)  # noqa: T201
    return text


def holding(value: object) -> Callable[[], object]:
    def held() -> object:
        return value

    return held


# ------------------------------------------------------------------- in the node


def test_calls_have_their_outcomes_though_their_prints_cannot_be_passed_on(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[Any, list[Any]]:
        await here.call(say, "")
        faults = hear_faults()
        here.hear = fail  # type: ignore[method-assign,assignment]
        _, ended = here.submit(say, "text")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        until(lambda: b"done" in unread(here))  # print and answer are read together
        return await value_of(ended), faults

    assert run(tmp_path, scenario) == ("text", [Trouble])


def test_outcomes_are_told_though_that_of_another_call_cannot_be(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[int, list[Any]]:
        await here.call(echo, 0)
        await here.call(echo, 0)  # short, so that answers come together
        faults = hear_faults()
        told: list[bytes] = []
        all_told = asyncio.Event()

        def tell(outcome: Any, _: object) -> None:
            told.append(outcome.id)
            if len(told) == 50:
                all_told.set()
            raise Trouble

        version = here.version_of(echo)
        (payload,) = map(bytes, pack_arguments((1,), {}))
        for number in range(50):
            job_id = (1000 + number).to_bytes(16, "big")
            job = Job(id=job_id, version=version, function="echo", payload=payload)
            here.workers.submit(job, (), tell)
        await all_told.wait()
        await asyncio.sleep(0)
        return len(set(told)), faults

    assert run(tmp_path, scenario) == (50, [Trouble] * 50)


def test_a_dead_worker_is_replaced_though_nobody_could_be_told(tmp_path: Path) -> None:
    async def scenario(here: Office) -> tuple[Any, list[Any]]:
        await here.call(echo, 0)
        faults = hear_faults()
        here.happen = fail  # type: ignore[method-assign,assignment]
        _, ended = here.submit(kill_self)
        dead = here.pids()
        assert isinstance((await ended)[0], Crashed)
        await asyncio.to_thread(until, lambda: here.pids() not in ([], dead))
        return await here.call(echo, 7), faults

    assert run(tmp_path, scenario) == (7, [Trouble])


def test_all_calls_of_a_dead_worker_have_outcomes_though_one_cannot_be_told(
    tmp_path: Path,
) -> None:
    begun, never = tmp_path / "begun", tmp_path / "never"

    async def scenario(here: Office) -> tuple[Any, Any, list[Any]]:
        faults = hear_faults()
        version = here.version_of(wait_for_file)
        (payload,) = map(bytes, pack_arguments((str(begun), str(never)), {}))
        job = Job(id=b"1" * 16, version=version, function="f", payload=payload)
        here.workers.submit(job, (), fail)
        await asyncio.to_thread(until_exists, begun)
        _, ended = here.submit(kill_self)
        outcome, _ = await ended
        return type(outcome), await here.call(echo, 7), faults

    assert run(tmp_path, scenario, slots=2) == (Crashed, 7, [Trouble])


def result_that_cannot_be_read(_: object) -> Any:
    raise OSError("too many open files")


def test_a_call_fails_whose_result_in_shared_memory_cannot_be_read(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[Any, Any]:
        await here.call(echo, 0)
        memory = links(here)[0]._memory
        assert memory is not None
        memory.accept = result_that_cannot_be_read  # type: ignore[method-assign,assignment]
        _, ended = here.submit(bytearray, 8 << 20)
        return (await ended)[0], await here.call(echo, 7)

    outcome, after = run(tmp_path, scenario, shared_memory_bytes=64 << 20)

    assert isinstance(outcome, JobFailed)
    assert (outcome.kind, outcome.executed) == ("node_lost", "yes")
    assert "too many open files" in outcome.message
    assert after == 7


def test_words_that_a_worker_did_not_get_are_not_counted(tmp_path: Path) -> None:
    async def scenario(here: Office) -> tuple[list[bool], bool, Any]:
        await here.call(echo, 0)
        process = links(here)[0].process
        process.kill(signal.SIGSTOP)
        try:
            ids = [bytes([7]) * 16] * 3000  # of no call; the second time, a part fits
            sent = [process.interrupt(*ids), process.interrupt(*ids)]
            is_part = 3000 < process.told < 6000
        finally:
            process.kill(signal.SIGCONT)
        await asyncio.to_thread(until, lambda: process.page.heard == process.told)
        return sent, is_part, await here.call(echo, 7)

    assert run(tmp_path, scenario) == ([True, False], True, 7)


def speak() -> None:
    import os
    import time

    print("of an earlier call")  # noqa: T201
    os.write(1, b"past Python\n")
    time.sleep(0.01)


def write_and_die() -> None:
    import os
    import signal

    print("printed")  # noqa: T201
    os.write(1, b"written\n")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_crash_shows_the_last_lines_of_no_earlier_call(
    tmp_path: Path, slots: int
) -> None:
    async def scenario(here: Office) -> list[set[str]]:
        lines = []
        for function in (kill_self, write_and_die):
            await here.call(speak)
            _, ended = here.submit(function)
            crashed, _ = await ended
            assert isinstance(crashed, Crashed)
            lines.append(set(crashed.last_lines))
        return lines

    assert run(tmp_path, scenario, slots=slots) == [set(), {"printed", "written"}]


# ------------------------------------------------- of jobs that follow each other


def add_one(number: int) -> int:
    return number + 1


def wait_and_write(number: int, go: str = "", text: str = "") -> int:
    import os
    import time

    while go and not os.path.exists(go):
        time.sleep(0.001)
    if text:
        os.write(1, text.encode())
        time.sleep(0.01)
    return number + 1


async def chain_that_waits(here: Office, *args: str) -> Chain:
    """Begin a chain whose last job waits; its first answers are not read yet."""
    for function in (add_one, wait_and_write):
        await here.call(function, 0)
    chain = Chain(here).add(add_one, 1).add(add_one).add(wait_and_write, *args)
    (link,) = links(here)
    begun = link.process.page.begun
    chain.submit()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    until(lambda: link.process.page.begun == begun + 3)  # holds up the loop
    return chain


def test_answers_that_are_read_while_those_before_are_passed_on_are_not_lost(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"

    async def scenario(here: Office) -> list[Any]:
        chain = await chain_that_waits(here, str(go))
        ended, chain_ended = chain.outcomes, chain._ended

        def tell(outcome: Any, parts: object) -> None:
            if not ended:
                go.touch()
                unread(here)
                here.workers.catch_up()
            chain_ended(outcome, parts)

        for item in here.workers._items.values():  # type: ignore[attr-defined]
            item.done = tell
        await chain.until(0, 1, 2)
        return chain.values()

    assert run(tmp_path, scenario) == [2, 3, 4]


def test_what_a_job_writes_past_python_is_not_given_to_those_that_it_follows(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"

    async def scenario(here: Office) -> list[str]:
        chain = await chain_that_waits(here, str(go), "of the last\n")
        (link,) = links(here)
        number = link.process.page.begun
        go.touch()
        until(lambda: link.process.page.ended == number)
        await chain.until(0, 1, 2)
        return [here.prints_of(bytes([n]) * 16) for n in range(3)]

    assert run(tmp_path, scenario) == ["", "", "of the last\n"]


# ----------------------------------------------------------------- in the worker


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(
    ("function", "args"),
    [
        (echo, (InterruptsWhenOpened(),)),
        (leave_loop, (InterruptsWhenOpened(),)),
        (holding(InterruptsWhenOpened()), ()),
    ],
    ids=["arguments", "arguments of a coroutine", "code"],
)
def test_a_function_did_not_run_that_could_not_be_called(
    tmp_path: Path, function: Callable[..., Any], args: tuple[Any, ...], slots: int
) -> None:
    async def scenario(here: Office) -> tuple[Any, bool, Any]:
        beside = await until_beside(here, tmp_path) if slots > 1 else None
        before = here.pids()
        _, ended = here.submit(function, *args)
        outcome, _ = await ended
        value = await beside_ended(beside, tmp_path)
        return outcome, here.pids() == before, value

    outcome, is_same, value = run(tmp_path, scenario, slots=slots)

    assert isinstance(outcome, JobFailed)
    assert (outcome.kind, outcome.executed) == ("application", "no")
    assert is_same
    assert value in (None, "done")


async def until_beside(here: Office, folder: Path) -> Ended:
    """Begin a call that runs until `beside_ended`."""
    begun, go = folder / "beside", folder / "beside_goes"
    _, ended = here.submit(wait_for_file, str(begun), str(go))
    await asyncio.to_thread(until_exists, begun)
    return ended


async def beside_ended(ended: "Ended | None", folder: Path) -> Any:
    if ended is None:
        return None
    (folder / "beside_goes").touch()
    await value_of(ended)
    return "done"


async def leave_a_task(code: int) -> None:
    import asyncio

    asyncio.get_running_loop().call_soon(sys_exit, code)
    await asyncio.sleep(0.01)


def sys_exit(code: int) -> None:
    import sys

    sys.exit(code)


def test_calls_beside_a_coroutine_of_a_map_that_means_to_end_the_process_go_on(
    tmp_path: Path,
) -> None:
    async def scenario(here: Office) -> tuple[Any, Any, bool, Any]:
        beside = await until_beside(here, tmp_path)
        before = here.pids()
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (item,) = map(bytes, pack_arguments((3,), {}))
        job = Job(
            id=os.urandom(16),
            version=here.version_of(leave_loop),
            function="leave_loop",
            payload=pack_chunk(Chunk([item])),
            items=1,
        )
        here.workers.submit(job, (), lambda outcome, _: over.set_result(outcome))
        chunk = await over
        await here.call(leave_a_task, 3)
        value = await beside_ended(beside, tmp_path)
        return chunk, value, here.pids() == before, await here.call(echo, 7)

    chunk, value, is_same, after = run(tmp_path, scenario, slots=2)

    assert isinstance(chunk, JobDone)
    failed = outcome_of_chunk(chunk.payload).failed
    assert failed is not None
    assert failed.message == "SystemExit: 3"
    assert (value, is_same, after) == ("done", True, 7)
