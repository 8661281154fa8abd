"""What a call costs over TLS, against a bare echo over the same TLS.

    python -m tests.benchmarks.tls [repetitions]

The bare echo is that of `websockets` on uvloop, in a process of its own, with the same
certificate. Calls are awaited, one at a time: of the builtin echo, which the node
answers itself, and of a function in a worker. Then 100 MB there and back. Only ratios
mean anything elsewhere.
"""

import asyncio
import contextlib
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

import mpreg_nb as mp
from mpreg_nb.transport.certificates import Authority
from mpreg_nb.transport.tls import TlsFiles, dialling, load_ca, read_tls
from tests.support.leaks import own_folders
from tests.support.tls_nodes import local_nodes_over_tls

PAYLOAD = os.urandom(100)
LARGE = os.urandom(1 << 20) * 95  # 100 MB
CALLS = 1500
WARM_UP = 200

Ask: TypeAlias = Callable[[bytes], Awaitable[Any]]


def same(value: bytes) -> bytes:
    return value


async def serve_bare(certificate: str, key: str, ca: str) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    tls = None
    if certificate:
        files = TlsFiles(certificate=certificate, key=key, ca=ca)
        tls = read_tls(files).accept
    async with serve(
        echo, "127.0.0.1", 0, ssl=tls, compression=None, max_size=None
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()


@contextmanager
def bare_server(files: TlsFiles | None) -> Iterator[int]:
    words = [files.certificate, files.key, files.ca] if files else ["", "", ""]
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.tls", "serve", *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait()


@asynccontextmanager
async def ask_bare(files: TlsFiles | None) -> AsyncIterator[Ask]:
    tls: ssl.SSLContext | None = None
    if files:
        tls = dialling(load_ca(files.ca))
    with bare_server(files) as port:
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
        async with connect(url, ssl=tls, compression=None, max_size=None) as link:

            async def ask(value: bytes) -> object:
                await link.send(value)
                return await link.recv()

            yield ask


async def p50_us(ask: Ask) -> float:
    for _ in range(WARM_UP):
        await ask(PAYLOAD)
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await ask(PAYLOAD)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


async def large_s(ask: Ask) -> float:
    """There and back; the faster of three rounds."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        echoed = await ask(LARGE)
        taken.append(time.perf_counter() - began)
        assert len(echoed) == len(LARGE)
    return min(taken)


Row: TypeAlias = dict[str, float]


async def measure_bare(files: TlsFiles | None) -> Row:
    async with ask_bare(files) as ask:
        return {"echo, us": await p50_us(ask), "100 MB, s": await large_s(ask)}


async def measure_calls(cluster: mp.Cluster) -> Row:
    """Measure calls of a cluster of one node; its function `same` returns its argument.

    By a client of its own, over the links that it has.
    """
    async with mp.connect_async(*cluster.urls, ca=cluster.ca or None) as here:
        await here.call("echo", PAYLOAD)
        builtin: Ask = lambda value: here.call("echo", value)  # noqa: E731
        worker: Ask = lambda value: here.call("same", value)  # noqa: E731
        return {
            "echo, us": await p50_us(builtin),
            "in a worker, us": await p50_us(worker),
            "100 MB, s": await large_s(builtin),
        }


def measure_cluster() -> Row:
    """Measure calls of a cluster of one node, as its links are."""
    with mp.up(1, fresh=True) as cluster:
        cluster.register(same)

        return uvloop.run(measure_calls(cluster))


def once(folder: Path) -> dict[str, Row]:
    files = Authority.make().issue("n1").write(folder / "bare", "bare")
    found = {
        "bare echo, TCP": uvloop.run(measure_bare(None)),
        "bare echo, TLS": uvloop.run(measure_bare(files)),
        "calls, Unix socket": measure_cluster(),
    }
    with local_nodes_over_tls(folder):
        found["calls, TLS"] = measure_cluster()
    return found


def compare(repetitions: int) -> None:
    rows: list[dict[str, Row]] = []
    for _ in range(repetitions):
        with (
            tempfile.TemporaryDirectory(prefix="tls-") as name,
            pytest.MonkeyPatch.context() as patch,
        ):
            own_folders(Path(name), patch)
            rows.append(once(Path(name)))
    base = {
        what: statistics.median(row["bare echo, TLS"][what] for row in rows)
        for what in ("echo, us", "100 MB, s")
    }
    for who in rows[0]:
        for what in rows[0][who]:
            middle = statistics.median(row[who][what] for row in rows)
            against = base.get(what, base["echo, us"])
            shown = f"{middle:10.2f}" if what.endswith(", s") else f"{middle:10.1f}"
            print(f"{who:20} {what:16} {shown}  {middle / against:6.2f} x bare TLS")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", certificate, key, ca]:
            with contextlib.suppress(KeyboardInterrupt):
                uvloop.run(serve_bare(certificate, key, ca))
        case [repetitions]:
            compare(int(repetitions))
        case _:
            compare(3)
