"""Workers that a client has for its own calls, as their pool sees it."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.node import process_pool
from mpreg_nb.node.worker_process import LeaseRecord, WorkerLease
from mpreg_nb.protocol.worker import (
    Greeting,
    Job,
    JobDone,
    JobFrameReader,
    JobPrinted,
    RunRecord,
    ToHolder,
    frame,
)
from mpreg_nb.serialize.pickle import pack_arguments
from tests.support.files import until_exists, wait_for_file
from tests.support.until import until
from tests.support.worker_functions import echo, pid, say_and_sleep
from tests.support.workers import Office, links, run

pytestmark = pytest.mark.live

LARGE_BYTES = 32 << 20  # far more than a socket holds


class Client:
    """Holds a lease, and hears of its end; it reads answers when it is told to."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.record: LeaseRecord | None = None
        self.is_over = asyncio.Event()
        self.is_fenced = asyncio.Event()
        self.last_begun = -1
        self._calls = 0

    async def take(self, here: Office, *functions: Any) -> WorkerLease:
        """Lease a worker for calls of these functions, and connect to it."""
        self._here = here
        names = [(f.__name__, here.version_of(f)) for f in functions]
        await here.call(pid)  # there is a worker now
        lease = here.workers.lease(*names[0])  # type: ignore[attr-defined]
        assert isinstance(lease, WorkerLease)
        for name in names[1:]:
            here.workers.permit(lease, *name)  # type: ignore[attr-defined]
        await asyncio.wait_for(self.is_open.wait(), 60)
        self._end = socket.socket(socket.AF_UNIX)
        self._end.connect(lease.path)
        self._end.sendall(frame(Greeting(lease=lease.number, key=lease.key)))
        return lease

    def call(self, function: Any, *args: Any) -> None:
        self._calls += 1
        (payload,) = pack_arguments(args, {})
        job = Job(
            id=self._calls.to_bytes(16, "little"),
            version=self._here.version_of(function),
            function=function.__name__,
            payload=bytes(payload),
        )
        self._end.sendall(frame(job))

    def close(self) -> None:
        self._end.close()

    def wait_for_answer(self) -> None:
        self._end.recv(1, socket.MSG_PEEK)

    def answers(self) -> Iterator[tuple[Any, int]]:
        """Read all that comes: answers with the sizes of their parts."""
        reader: JobFrameReader[ToHolder] = JobFrameReader(ToHolder)
        while count := self._end.recv_into(reader.space()):
            for message, parts in reader.received(count):
                yield message, sum(map(len, parts))

    # What it hears as `LeaseEvents`.

    def opened(self, lease: WorkerLease) -> None:
        self.is_open.set()

    def ending(self, lease: WorkerLease) -> None:
        pass

    def fenced(self, lease: WorkerLease, begun: int) -> None:
        self.last_begun = begun
        self.is_fenced.set()

    def over(self, lease: WorkerLease, record: LeaseRecord) -> None:
        self.record = record
        self.is_over.set()

    def printed(self, lease: WorkerLease, message: JobPrinted) -> None:
        pass

    def counted(self, runs: list[tuple[str, str, RunRecord]]) -> None:
        pass


def run_with_client(tmp_path: Path, scenario: Any, **options: Any) -> Any:
    client = Client()
    try:
        return run(tmp_path, lambda h: scenario(h, client), leases=client, **options)
    finally:
        client.close()


def large(begun: str, go: str) -> bytes:
    import pathlib
    import time

    pathlib.Path(begun).touch()
    while not pathlib.Path(go).exists():
        time.sleep(0.01)
    return bytes(32 << 20)


def unfit() -> None:
    import os
    import threading

    for _ in range(2000):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    os.environ["MESS"] = "1"


@pytest.mark.parametrize("beside", [pid, unfit])
def test_a_worker_lives_until_its_last_answer_is_read(
    tmp_path: Path, beside: Any
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def scenario(here: Office, client: Client) -> tuple[bool, Any]:
        lease = await client.take(here, large)
        client.call(large, str(begun), str(go))
        await asyncio.to_thread(until_exists, begun)
        here.workers.end_lease(lease)  # type: ignore[attr-defined]
        go.touch()
        await asyncio.to_thread(client.wait_for_answer)

        await here.call(beside)  # after it comes all that the worker had said before
        was_over = client.is_over.is_set()
        answers = await asyncio.to_thread(lambda: next(client.answers(), None))
        await asyncio.wait_for(client.is_over.wait(), 60)
        return was_over, answers

    was_over, (answer, size_bytes) = run_with_client(tmp_path, scenario, slots=2)

    assert not was_over
    assert isinstance(answer, JobDone)
    assert size_bytes >= LARGE_BYTES


@pytest.mark.parametrize("slots", [1, 2])
def test_which_jobs_will_not_begin_is_known_while_others_still_run(
    tmp_path: Path, slots: int
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def scenario(here: Office, client: Client) -> int:
        lease = await client.take(here, wait_for_file, pid)
        for number in range(slots):
            client.call(wait_for_file, f"{begun}{number}", str(go))
            await asyncio.to_thread(until_exists, Path(f"{begun}{number}"))
        client.call(pid)
        here.workers.end_lease(lease)  # type: ignore[attr-defined]
        await asyncio.wait_for(client.is_fenced.wait(), 60)
        assert not client.is_over.is_set()
        go.touch()
        await asyncio.wait_for(client.is_over.wait(), 60)
        return client.last_begun

    assert run_with_client(tmp_path, scenario, slots=slots) == slots


def test_no_worker_is_leased_while_another_one_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "TERMINATE_S", 0.2)
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def scenario(here: Office, client: Client) -> bool:
        lease = await client.take(here, pid)
        _, beside = here.submit(wait_for_file, str(begun), str(go))
        ignores_id, _ = here.submit(say_and_sleep)
        await here.until(lambda: here.prints_of(ignores_id) != "")
        here.workers.cancel(ignores_id)
        await here.until(lambda: bool(here.events))
        go.touch()
        await beside
        return lease.is_ending

    assert run_with_client(tmp_path, scenario, count=2, slots=2)


@pytest.mark.parametrize("ends", ["unfit", "killed"])
def test_a_replaced_worker_is_released_once_whatever_it_sends_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(process_pool, "TERMINATE_S", 0.2)
    begun, go = tmp_path / "begun", tmp_path / "go"

    def last(begun: str, go: str, unfit: bool) -> None:
        import pathlib
        import threading
        import time

        pathlib.Path(begun).touch()
        while not pathlib.Path(go).exists():
            time.sleep(0.01)
        for _ in range(2000 * unfit):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    def short() -> None:
        import sys
        import time

        sys.stdout.write("sleeps\n")
        time.sleep(2)

    async def scenario(here: Office) -> tuple[list[Any], list[Any]]:
        faults: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        _, end = here.submit(last, str(begun), str(go), ends == "unfit")
        ignores_id, ignores = here.submit(short)
        await here.until(lambda: here.prints_of(ignores_id) != "")
        link = links(here)[0]
        here.workers.cancel(ignores_id)
        await here.until(lambda: bool(here.events))
        await ignores
        go.touch()
        time.sleep(2)  # noqa: ASYNC251  what it says comes together
        if ends == "killed":
            os.kill(link.process.pid, signal.SIGKILL)
            time.sleep(0.3)  # noqa: ASYNC251
        outcome, _ = await end
        await asyncio.wait_for(link.gone.wait(), 10)
        return [type(outcome), len(links(here)), link in links(here)], faults

    assert run(tmp_path, scenario, slots=2) == ([JobDone, 1, False], [])


@pytest.mark.parametrize("slots", [1, 2])
def test_hundreds_of_messages_at_once_are_all_received(
    tmp_path: Path, slots: int
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def scenario(here: Office) -> None:
        _, end = here.submit(wait_for_file, str(begun), str(go))
        await asyncio.to_thread(until_exists, begun)
        process = links(here)[0].process
        os.kill(process.pid, signal.SIGSTOP)
        for number in range(400):
            process.interrupt((number + 1000).to_bytes(16, "little"))
        os.kill(process.pid, signal.SIGCONT)
        # What was signalled during the stop may be heard with the next message.
        _, other = here.submit(echo, 1)
        await asyncio.to_thread(until, lambda: process.page.heard == process.told)
        go.touch()
        await end
        await other

    run(tmp_path, scenario, slots=slots)
