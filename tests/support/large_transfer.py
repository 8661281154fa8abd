"""Two processes: one sends the other 100 MB and small messages; prints the cost.

Run with the name of an event loop, and unix or tcp. Peak memory is what the system
counts, from the moment before the transfer.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import uvloop

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Cancel, Notice
from mpreg_nb.transport.connection import Connection
from mpreg_nb.transport.dial import dial
from mpreg_nb.transport.listener import listen
from mpreg_nb.transport.token import Token

TOKEN = Token("a-token-for-tests-0123456789abcdef")
PART_MB = 100
SEED = 7


def peak_mb() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        [line] = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def array() -> Any:
    return np.random.default_rng(SEED).integers(0, 255, PART_MB * 1_000_000, np.uint8)


async def receive(carrier: str) -> None:
    """Listen, print the port, echo small messages, and report the large one."""
    received: list[Buffer] = []
    grown = 0.0

    def hear(link: Connection, message: Any, parts: tuple[Buffer, ...]) -> None:
        nonlocal grown
        if parts:
            received.extend(parts)
            grown = peak_mb() - before
        elif isinstance(message, Notice):  # it is over: there is time to compare
            equal = bool(np.array_equal(np.frombuffer(received[0], np.uint8), array()))
            text = json.dumps({"receiver_grew_mb": grown, "equal": equal})
            link.send(Notice(kind="draining", text=text))
        else:
            link.send(message)

    lost = asyncio.Event()

    def welcome(link: Connection) -> None:
        link.on_message = hear
        link.on_lost = lambda *_: lost.set()

    listener = await listen(
        token=TOKEN,
        node_name="n1",
        cluster_id=lambda: "c1",
        on_connection=welcome,
        local=carrier == "unix",
    )
    sys.stdout.write(f"{listener.url}\n")
    sys.stdout.flush()
    forget_peak()
    before = peak_mb()
    await lost.wait()
    await listener.close()


async def send(url: str) -> dict[str, Any]:
    """Send the large part, and small messages one after the other meanwhile."""
    large = array()
    done = asyncio.Event()
    answered = asyncio.Event()
    found: dict[str, Any] = {"part_mb": PART_MB}

    def hear(link: Connection, message: Any, parts: tuple[Buffer, ...]) -> None:
        if isinstance(message, Notice):
            found.update(json.loads(message.text))
            done.set()
        answered.set()

    def open_link(link: Connection) -> None:
        link.on_message = hear
        link.on_lost = lambda _, reason: sys.exit(f"the link was lost: {reason}")

    link = await dial(
        url, token=TOKEN, role="client", lane="data", name="c", on_open=open_link
    )
    found["carrier"] = link.peer.carrier
    forget_peak()
    before = peak_mb()
    link.send(Cancel(id=bytes(16)), (large.data,))
    taken: list[float] = []
    first = time.perf_counter()
    while link.statistics().streams_out:
        answered.clear()
        began = time.perf_counter()
        link.send(Cancel(id=bytes(16)))
        await answered.wait()
        taken.append(time.perf_counter() - began)
    found["whole_ms"] = (time.perf_counter() - first) * 1000
    found["sender_grew_mb"] = peak_mb() - before
    link.send(Notice(kind="draining"))
    await done.wait()
    link.on_lost = lambda *_: None  # as it should be
    link.close()
    await link.wait_closed()
    taken.sort()
    found["small_p99_ms"] = taken[len(taken) * 99 // 100] * 1000
    return found


def main(loop: str, carrier: str, side: str = "") -> None:
    run = {"asyncio": asyncio.run, "uvloop": uvloop.run}[loop]
    if side == "receive":
        run(receive(carrier))
        return
    receiver = subprocess.Popen(
        [sys.executable, __file__, loop, carrier, "receive"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    found = run(send(receiver.stdout.readline().strip()))
    receiver.wait(60)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(*sys.argv[1:])
