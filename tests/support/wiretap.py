"""A proxy between the two ends of a link that records, and may change, the bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast


class Wiretap:
    """Stands between a dialler and a listener; keeps, and may change, what passes."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.url = ""
        self.sent: list[bytes] = []  # by the dialler
        self.answered: list[bytes] = []  # by the listener
        self.change_sent: Callable[[bytes], bytes] = bytes
        self.change_answered: Callable[[bytes], bytes] = bytes
        self.tasks: set[asyncio.Task[None]] = set()

    def caught(self) -> "Half":
        """Return the near end of one link; it opens the far end by itself."""
        near, far = Half(self.sent), Half(self.answered)
        near.change = lambda data: self.change_sent(data)
        far.change = lambda data: self.change_answered(data)
        near.other, far.other = far, near

        async def open_far() -> None:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: far, "127.0.0.1", self.target_port)

        self.tasks.add(asyncio.create_task(open_far()))
        return near


class Half(asyncio.Protocol):
    """One end of a wiretap; passes on what it gets, and its end."""

    other: "Half"
    change: Callable[[bytes], bytes]

    def __init__(self, kept: list[bytes]) -> None:
        self.kept = kept
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.writelines(self.waiting)

    def data_received(self, data: bytes) -> None:
        self.kept.append(data)
        changed = self.change(data)
        if self.other.transport is None:
            self.other.waiting.append(changed)
        elif not self.other.transport.is_closing():
            self.other.transport.write(changed)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other.transport is not None:
            self.other.transport.close()


@asynccontextmanager
async def wiretap(target_port: int, port: int = 0) -> AsyncIterator[Wiretap]:
    """Stand before `target_port`; port: where to listen, 0 for a free one."""
    tap = Wiretap(target_port)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(tap.caught, "127.0.0.1", port)
    tap.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        server.close()
        await asyncio.gather(*tap.tasks)
