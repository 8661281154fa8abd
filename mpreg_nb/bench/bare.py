"""The unit of all figures: an echo with plain `websockets` on plain asyncio."""

import asyncio
import subprocess
import sys
import time
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

PAYLOAD = bytes(range(120))


class BareEcho:
    """A server in a process of its own, and a client on an event loop here."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "mpreg_nb.bench.bare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._server.stdout is None:
            raise AssertionError("the server was started with a pipe")
        self._url = f"ws://127.0.0.1:{int(self._server.stdout.readline())}"
        self._loop = asyncio.new_event_loop()
        self._link: Any = self._loop.run_until_complete(
            connect(self._url, compression=None, ping_interval=None, proxy=None)
        )

    def latencies_us(self, count: int) -> list[float]:
        """Return how long each of `count` echoes took, one after the other."""
        return self._loop.run_until_complete(self._measure(count))

    async def _measure(self, count: int) -> list[float]:
        link, clock = self._link, time.perf_counter
        taken = []
        for _ in range(count):
            began = clock()
            await link.send(PAYLOAD)
            await link.recv()
            taken.append((clock() - began) * 1e6)
        return taken

    def close(self) -> None:
        """End the link and the server."""
        self._loop.run_until_complete(self._link.close())
        self._loop.close()
        self._server.communicate()


async def _serve() -> None:
    async def echo(link: ServerConnection) -> None:
        async for message in link:
            await link.send(message)

    async with serve(
        echo, "127.0.0.1", 0, compression=None, ping_interval=None
    ) as server:
        (listening,) = server.sockets
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        # Standard input ends when whoever measures has ended.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
