"""What nodes on another machine cost: their start, calls through tunnels and by TLS.

    python -m tests.benchmarks.ssh [repetitions]

The other machine is a real sshd on loopback with a home of its own. Calls are measured
as in `tests.benchmarks.tls`, each against a bare echo over what carries them: the echo
of `websockets` through a forwarded port of asyncssh, and by TLS. A start is cold where
an environment is made first, and warm where it is there. Only ratios mean anything
elsewhere.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest
import uvloop
from websockets.asyncio.client import connect

import mpreg_nb as mp
from mpreg_nb.launcher.started_nodes import Via
from mpreg_nb.transport.certificates import Authority
from tests.benchmarks.tls import (
    Row,
    bare_server,
    large_s,
    measure_bare,
    measure_calls,
    p50_us,
)
from tests.support.leaks import own_folders
from tests.support.ssh_hosts import SshHosts

HOST = "box"


@contextmanager
def host() -> Iterator[SshHosts]:
    with SshHosts(HOST) as hosts, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(hosts.home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield hosts


async def measure_bare_tunnel(hosts: SshHosts) -> Row:
    with bare_server(None) as port:
        async with (
            asyncssh.connect(
                HOST,
                config=[str(hosts.ssh / "config")],
                known_hosts=str(hosts.ssh / "known_hosts"),
                client_keys=[str(hosts.ssh / "id_ed25519")],
                compression_algs=["none"],
                encryption_algs="^aes128-gcm@openssh.com",
            ) as connection,
            await connection.forward_local_port("", 0, "127.0.0.1", port) as here,
            connect(
                f"ws://127.0.0.1:{here.get_port()}", compression=None, max_size=None
            ) as link,
        ):

            async def ask(value: bytes) -> object:
                await link.send(value)
                return await link.recv()

            found = {"echo, us": await p50_us(ask), "100 MB, s": await large_s(ask)}
    return found


def measure_cluster(via: Via) -> Row:
    """Measure calls of a node on the host, from here."""
    with mp.up(ssh={HOST: ()}, via=via, fresh=True) as cluster:
        cluster.register(lambda value: value, "same")  # nothing there has this file
        return uvloop.run(measure_calls(cluster))


def started_s(*, install: bool) -> float:
    began = time.perf_counter()
    with mp.up(ssh={HOST: ()}, install=install, fresh=True, timeout=300):
        return time.perf_counter() - began


def once(folder: Path) -> dict[str, Row]:
    files = Authority.make().issue("n1").write(folder / "bare", "bare")
    with host() as hosts:
        found: dict[str, Row] = {
            "start, new environment": {"s": started_s(install=True)},
            "start, the same again": {"s": started_s(install=True)},
            "start, Python as found": {"s": started_s(install=False)},
            "bare echo, ssh": asyncio.run(measure_bare_tunnel(hosts)),
            "calls, tunnel": measure_cluster("tunnel"),
            "bare echo, TLS": uvloop.run(measure_bare(files)),
            "calls, TLS": measure_cluster("tls"),
        }
    return found


BARE = {"calls, tunnel": "bare echo, ssh", "calls, TLS": "bare echo, TLS"}


def compare(repetitions: int) -> None:
    rows: list[dict[str, Row]] = []
    for _ in range(repetitions):
        with (
            tempfile.TemporaryDirectory(prefix="ssh-") as name,
            pytest.MonkeyPatch.context() as patch,
        ):
            own_folders(Path(name), patch)
            rows.append(once(Path(name)))

    def middle(who: str, what: str) -> float:
        return statistics.median(row[who][what] for row in rows)

    for who in rows[0]:
        for what in rows[0][who]:
            figure = middle(who, what)
            shown = f"{figure:10.2f}" if what.endswith("s") else f"{figure:10.1f}"
            against = ""
            if who in BARE:
                over = BARE[who]
                bare = middle(over, what if what in rows[0][over] else "echo, us")
                against = f"{figure / bare:6.2f} x {over}"
            print(f"{who:24} {what:16} {shown}  {against}")


if __name__ == "__main__":
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
