"""How long an echo takes through our links, against a plain `websockets` echo.

    python tests/benchmarks/echo.py [repetitions]

Client and server are two processes on two cores (Linux, with `taskset`). Latency
of one call at a time is taken while idle-priority spinners keep the cores awake,
since waking a halted virtual core costs more than the echo; throughput with 64
calls in flight, and of a 100 MB payload there and back, without them. Variants
alternate; shown are medians and spreads. `bytes` is uvloop with no protocol at
all: what the machine takes by itself. Only ratios mean anything elsewhere.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias, cast

import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Call, Reply
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.dial import dial
from mpreg_nb.transport.listener import listen
from mpreg_nb.transport.token import Token

TOKEN = Token("a-token-for-benchmarks-only")
PAYLOAD = os.urandom(100)
LARGE_BYTES = 100_000_000
IN_FLIGHT = 64
LATENCY_S = 0.6
WARM_UP = 300

Ask: TypeAlias = Callable[[], Awaitable[object]]

SPINNER = """
import os, time
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent, end = os.getppid(), time.monotonic() + 300
while time.monotonic() < end and os.getppid() == parent:
    for _ in range(20_000): pass
"""


# -------------------------------------------------------------- bare websockets


async def serve_bare(port: int) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", port, compression=None, max_size=None):
        await asyncio.Event().wait()


@asynccontextmanager
async def ask_bare(port: int) -> AsyncIterator[Ask]:
    url = f"ws://127.0.0.1:{port}"
    async with connect(url, compression=None, max_size=None) as connection:
        # Replies come in the order of the requests: whose they are is no matter.
        async def ask() -> object:
            await connection.send(PAYLOAD)
            return await connection.recv()

        yield ask


# ----------------------------------------------------- bytes without a protocol


class Bytes(asyncio.Protocol):
    """What the loop and the system take by themselves: no limits, no framing."""

    def __init__(self, on_bytes: Callable[[asyncio.Transport, bytes], object]) -> None:
        self._on_bytes = on_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._on_bytes(self.transport, data)


async def serve_bytes(port: int) -> None:
    def make() -> Bytes:
        return Bytes(lambda transport, data: transport.write(data))

    await asyncio.get_running_loop().create_server(make, "127.0.0.1", port)
    await asyncio.Event().wait()


@asynccontextmanager
async def ask_bytes(port: int) -> AsyncIterator[Ask]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()

    def make() -> Bytes:
        return Bytes(lambda transport, data: future.set_result(data))

    transport, _ = await loop.create_connection(make, "127.0.0.1", port)

    async def ask() -> object:
        nonlocal future
        future = loop.create_future()
        transport.write(PAYLOAD)
        return await future

    yield ask
    transport.close()


# ------------------------------------------------------------------- our links


async def serve_ours(port: int) -> None:
    def answer(connection: Connection, call: Any, parts: tuple[Buffer, ...]) -> None:
        reply = Reply(id=call.id, payload=call.payload, node="n1")
        connection.send(reply, parts)

    def open_link(connection: Connection) -> None:
        connection.on_message = answer

    await listen(
        token=TOKEN,
        node_name="n1",
        cluster_id=lambda: "c1",
        on_connection=open_link,
        port=port,
    )
    await asyncio.Event().wait()


@asynccontextmanager
async def ask_ours(port: int) -> AsyncIterator[Ask]:
    loop = asyncio.get_running_loop()
    waiting: dict[bytes, asyncio.Future[object]] = {}
    counter = 0

    def settle(connection: Connection, reply: Any, parts: tuple[Buffer, ...]) -> None:
        waiting.pop(reply.id).set_result(parts)

    def open_link(connection: Connection) -> None:
        connection.on_message = settle

    connection = await dial(
        f"ws://127.0.0.1:{port}",
        token=TOKEN,
        role="client",
        lane="data",
        name="bench",
        on_open=open_link,
    )

    async def ask(parts: tuple[Buffer, ...] = ()) -> object:
        nonlocal counter
        counter += 1
        id = counter.to_bytes(16, "big")
        future = waiting[id] = loop.create_future()
        payload = b"" if parts else PAYLOAD
        connection.send(Call(id=id, function="echo", payload=payload), parts)
        return await future

    yield ask
    connection.close()
    await connection.wait_closed()


# --------------------------------------------------------------------- measures


async def latencies_us(ask: Ask) -> dict[str, float]:
    for _ in range(WARM_UP):
        await ask()
    taken: list[float] = []
    clock = time.perf_counter
    end = clock() + LATENCY_S
    while (began := clock()) < end:
        await ask()
        taken.append(clock() - began)
    taken.sort()
    return {
        "p50_us": taken[len(taken) // 2] * 1e6,
        "p99_us": taken[len(taken) * 99 // 100] * 1e6,
    }


async def calls_per_s(ask: Ask) -> dict[str, float]:
    total = 60_000
    left = iter(range(total))

    async def caller() -> None:
        for _ in left:
            await ask()

    for _ in range(WARM_UP):
        await ask()
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return {"calls_per_s": total / (time.perf_counter() - began)}


async def large_bytes_per_s(ask: Callable[[tuple[Buffer, ...]], Awaitable[Any]]) -> Any:
    """There and back, so two transfers; the second of two rounds counts."""
    part = os.urandom(1 << 20) * (LARGE_BYTES >> 20)
    for _ in range(2):
        began = time.perf_counter()
        (echoed,) = await ask((part,))
        took_s = time.perf_counter() - began
        assert echoed == part
    return {"large_gb_per_s": 2 * len(part) / took_s / 1e9}


Opener: TypeAlias = Callable[[int], AbstractAsyncContextManager[Any]]
SIDES: dict[str, tuple[Callable[[int], Awaitable[None]], Opener]] = {
    "bare": (serve_bare, ask_bare),
    "bytes": (serve_bytes, ask_bytes),
    "ours": (serve_ours, ask_ours),
}
MEASURES: dict[str, Callable[[Any], Awaitable[dict[str, float]]]] = {
    "latency": latencies_us,
    "throughput": calls_per_s,
    "large": large_bytes_per_s,
}
RUNNERS: dict[str, Callable[[Any], Any]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}
LATENCY_OF = ("bare/asyncio", "bytes/uvloop", "ours/asyncio", "ours/uvloop")


async def measure(side: str, what: str, port: int) -> dict[str, float]:
    async with SIDES[side][1](port) as ask:
        return await MEASURES[what](ask)


# ------------------------------------------------------------------- processes


@contextmanager
def awake_cores() -> Iterator[None]:
    spinners = [
        subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", SPINNER])
        for core in range(os.cpu_count() or 1)
    ]
    time.sleep(0.3)
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


@contextmanager
def server(variant: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(on_core(1, "serve", variant, str(port)))
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                break
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


def on_core(core: int, *arguments: str) -> list[str]:
    return ["taskset", "-c", str(core), sys.executable, __file__, *arguments]


def once(variant: str, what: str) -> dict[str, float]:
    with server(variant) as port:
        run = subprocess.run(
            on_core(0, "measure", variant, what, str(port)),
            stdout=subprocess.PIPE,
            timeout=60,
            check=True,
        )
    found: dict[str, float] = json.loads(run.stdout)
    return found


def compare(repetitions: int) -> None:
    found: dict[tuple[str, str], list[float]] = {}

    def note(variant: str, what: str) -> None:
        for name, value in once(variant, what).items():
            found.setdefault((variant, name), []).append(value)

    for _ in range(repetitions):
        with awake_cores():
            for variant in LATENCY_OF:
                note(variant, "latency")
        for variant in ("ours/asyncio", "ours/uvloop"):
            note(variant, "throughput")
            note(variant, "large")
    base = {
        name: statistics.median(found["bare/asyncio", name])
        for name in ("p50_us", "p99_us")
    }
    print(f"bare echo p50 {base['p50_us']:.1f} us, median of {repetitions}")
    for (variant, name), values in sorted(found.items()):
        middle = statistics.median(values)
        ratio = f"  ratio {middle / base['p50_us']:.2f}" if name in base else ""
        spread = f"{min(values):,.1f} to {max(values):,.1f}"
        print(f"{variant:13} {name:15} {middle:12,.1f}  ({spread}){ratio}")


def main() -> None:
    match sys.argv[1:]:
        case ["serve", variant, port]:
            side, _, loop = variant.partition("/")
            RUNNERS[loop](SIDES[side][0](int(port)))
        case ["measure", variant, what, port]:
            side, _, loop = variant.partition("/")
            print(json.dumps(RUNNERS[loop](measure(side, what, int(port)))))
        case [repetitions]:
            compare(int(repetitions))
        case _:
            compare(5)


if __name__ == "__main__":
    main()
