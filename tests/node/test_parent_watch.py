import asyncio
import os
import select
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from mpreg_nb.node.__main__ import ParentWatch

SOON_S = 60.0


def run(scenario: Callable[[], Coroutine[object, object, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(SOON_S):
            await scenario()

    asyncio.run(bounded())


class Cut:
    """Remembers each call, and can be waited for."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.seen = asyncio.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.seen.set()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_closed_pipe_cuts_once() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        cut = Cut()
        ParentWatch(cut, descriptor=read)

        os.close(write)
        await cut.seen.wait()
        await turns()

        assert cut.reasons == ["its lifeline was closed"]
        os.close(read)

    run(scenario)


def test_a_closed_socket_cuts() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        cut = Cut()
        with ours:
            ParentWatch(cut, descriptor=ours.fileno())

            theirs.close()
            await cut.seen.wait()

        assert cut.reasons == ["its lifeline was closed"]

    run(scenario)


def test_what_is_written_into_the_pipe_cuts_nothing() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        cut = Cut()
        lifeline = ParentWatch(cut, descriptor=read)

        os.write(write, b"hello")
        while _readable(read):
            await turns(1)
        await turns()

        assert cut.reasons == []
        lifeline.close()
        os.close(read)
        os.close(write)

    run(scenario)


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_another_parent_cuts_once_at_the_next_look() -> None:
    async def scenario() -> None:
        parents = [100, 100, 1, 1, 1]
        cut = Cut()
        ParentWatch(cut, parent=100, look_s=0.001, parent_now=lambda: parents.pop(0))

        await cut.seen.wait()
        await turns()

        assert cut.reasons == ["the process that started it has ended"]
        assert parents == [1, 1]

    run(scenario)


def test_a_parent_that_went_before_the_first_look_is_noticed() -> None:
    async def scenario() -> None:
        cut = Cut()
        lifeline = ParentWatch(cut, parent=100, parent_now=lambda: 1)

        assert cut.reasons == []
        await cut.seen.wait()

        lifeline.close()
        assert cut.reasons == ["the process that started it has ended"]

    run(scenario)


def test_both_signs_together_cut_once() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        os.close(write)
        cut = Cut()
        ParentWatch(cut, descriptor=read, parent=100, look_s=0, parent_now=lambda: 1)

        await cut.seen.wait()
        await turns()

        assert len(cut.reasons) == 1
        os.close(read)

    run(scenario)


def test_a_closed_lifeline_never_calls() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        cut = Cut()
        lifeline = ParentWatch(cut, descriptor=read, parent=100, parent_now=lambda: 1)

        lifeline.close()
        lifeline.close()
        os.close(write)
        await turns()

        assert cut.reasons == []
        os.close(read)

    run(scenario)


def test_a_file_is_no_lifeline(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "file"
        path.touch()
        with path.open() as file, pytest.raises(ValueError, match="is not a pipe"):
            ParentWatch(Cut(), descriptor=file.fileno())

    run(scenario)


def test_a_descriptor_that_is_not_open_is_no_lifeline() -> None:
    async def scenario() -> None:
        read, write = os.pipe()
        os.close(read)
        os.close(write)

        with pytest.raises(OSError, match="Bad file descriptor"):
            ParentWatch(Cut(), descriptor=read)

    run(scenario)
