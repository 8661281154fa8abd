"""Many round trips of 100 MB, and kills at any moment: what is left of the memory?

    python -m tests.live.large_values [ROUND TRIPS] [KILLS]

First it tells how many copies of an array each process had at most, of an argument and
of a result, in shared memory, through sockets and through a second node. Takes some
minutes; `make large-values` runs it. Ends with 1 if anything is wrong: more than 2.2
copies of the array in a process, descriptors or segments that stay, a value that
changed, or memory that outlives the processes that shared it.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import mpreg_nb as mp
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.shared_memory.segments import DEFAULT_LIMIT_MB, MEMORY

SIZE_MB = 100
MOST_COPIES = 2.2
IDLE_MB = 150
"""What a process of ours takes at most without any array."""

SEGMENT = "memfd:mpreg_nb"
MARK = "MPREG_NB_LARGE_VALUES"

CALLER = """
import numpy as np, mpreg_nb as mp
cluster = mp.up(1)
cluster.register(lambda x: x + 1, name="more")
print("ready", flush=True)
array = np.ones(2_000_000)
while True:
    cluster.call("more", array)
"""


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def same(value: Any) -> Any:
    """Return what came."""
    return value


def first(value: Any) -> float:
    """Return the first item."""
    return float(value[0])


def ones(size_mb: int) -> Any:
    """Return an array of this size."""
    return np.ones(size_mb * 1_000_000 // 8)


def ours() -> Iterator[psutil.Process]:
    """Yield this process and all that it started, however they detached themselves."""
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or MARK in process.environ():
                yield process
        except psutil.Error:
            continue


def segments(process: psutil.Process) -> int:
    """Return how many segments a process has mapped."""
    try:
        text = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    except OSError:
        return 0
    return text.count(SEGMENT)


def copies(process: psutil.Process) -> float:
    """Return how many arrays fit into what a process holds; it shares some of it."""
    return (process.memory_full_info().pss / 1e6 - IDLE_MB) / SIZE_MB


def memory_mb(pid: int, field: str) -> float:
    """Return what the system says that a process holds (VmRSS), or held (VmHWM)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024 / 1e6


def most_copies(work: Callable[[], object]) -> dict[str, float]:
    """Return how many arrays each process held at most while it worked, by its kind."""
    pids: dict[int, str] = {}
    for process in ours():
        words = " ".join(process.cmdline())
        kind = "node" if "--lifeline" in words else "worker"
        pids[process.pid] = "notebook" if process.pid == os.getpid() else kind
    before = {pid: memory_mb(pid, "VmRSS") for pid in pids}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")  # the peak
    work()
    found: dict[str, float] = {}
    for pid, kind in pids.items():
        copies = (memory_mb(pid, "VmHWM") - before[pid]) / SIZE_MB
        found[kind] = max(copies, found.get(kind, 0.0))
    return found


def through_second(cluster: mp.Cluster, name: str, value: object) -> object:
    """Call a function of one node through another."""
    client = parts_of(cluster).client
    urls = {one.record.name: one.record.urls[0] for one in client.state.nodes}

    async def call() -> object:
        other = Client([urls["n1"]], client.links.token, direct=False)
        await other.open()
        try:
            return await other.call(name, (value,), None, CallOptions(node="n2"))
        finally:
            await other.close()

    return asyncio.run(call())


def peaks() -> Iterator[str]:
    """Yield which process held too many copies of an array, on which way."""
    array = np.random.default_rng(1).random(SIZE_MB * 1_000_000 // 8)
    ways: dict[str, tuple[int, Callable[..., object]]] = {
        "shared memory": (
            DEFAULT_LIMIT_MB,
            lambda c, *call: c.on(node="n2").call(*call),
        ),
        "sockets": (0, lambda c, *call: c.on(node="n2").call(*call)),
        "sockets, through a second node": (0, through_second),
    }
    values = {"an argument": ("first", array), "a result": ("ones", SIZE_MB)}
    for way, (limit_mb, call) in ways.items():
        mp.config("shared_memory_mb", limit_mb)
        for value, (name, given) in values.items():
            with mp.up(2, fresh=True) as cluster:
                for function in (same, first, ones):
                    cluster.register(function)
                for node in ("n1", "n2"):
                    cluster.on(node=node).call("same", np.ones(10))
                found = most_copies(lambda: call(cluster, name, given))  # noqa: B023
            text = ", ".join(f"{kind} {most:.1f}" for kind, most in found.items())
            say(f"copies at most of {value} ({way}): {text}")
            for kind, most in found.items():
                if most > MOST_COPIES:
                    yield f"{value}, {way}: the {kind} held {most:.1f} copies"
    mp.config("shared_memory_mb", DEFAULT_LIMIT_MB)


def round_trips(count: int) -> Iterator[str]:
    """Yield what is wrong after so many of them."""
    array = np.random.default_rng(1).random(SIZE_MB * 1_000_000 // 8)
    with mp.up(1, fresh=True) as cluster:
        cluster.register(same)
        before: list[int] = []
        most = 0.0
        for number in range(count):
            found = cluster.call("same", array)
            if not (found[:10] == array[:10]).all() or found[-1] != array[-1]:
                yield f"round trip {number}: another value came back"
            if number % 50 == 10:
                most = max(most, *map(copies, ours()))
            if number == 10:
                before = [process.num_fds() for process in ours()]
        after = [process.num_fds() for process in ours()]
        say(f"{count} round trips: at most {most:.1f} copies in a process")
        if most > MOST_COPIES:
            yield f"a process held {most:.1f} copies"
        if any(now > then + 4 for now, then in zip(after, before, strict=True)):
            yield f"descriptors: {before} before, {after} after"
        del found
    MEMORY.trim()
    if left := segments(psutil.Process()):
        yield f"this process still maps {left} segments"


def kills(count: int) -> Iterator[str]:
    """Yield what is left each time that a caller, a node or a worker is killed."""
    rng = random.Random(1)
    for number in range(count):
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert caller.stdout is not None
        caller.stdout.readline()
        time.sleep(rng.random() * 0.3)  # any moment
        processes = [process for process in ours() if process.pid != os.getpid()]
        victim = rng.choice(processes)
        name = "caller" if victim.pid == caller.pid else "node or worker"
        victim.kill()
        time.sleep(rng.random() * 0.2)
        for process in processes:
            if process.is_running():
                os.kill(process.pid, signal.SIGKILL)
        caller.wait()
        psutil.wait_procs(processes, timeout=60)
        left = [f"{p.pid}" for p in ours() if p.pid != os.getpid() and segments(p)]
        say(f"kill {number + 1}: {name}, {len(left)} processes left with segments")
        if left:
            yield f"after the kill of a {name} there are segments in {', '.join(left)}"


def main() -> int:
    """Do all of it; return 1 if anything is wrong."""
    os.environ[MARK] = "1"
    counts = [int(word) for word in sys.argv[1:]] or [1000, 20]
    named = set(os.listdir("/dev/shm"))  # noqa: S108  only to look
    wrong = [
        *peaks(),
        *round_trips(counts[0]),
        *kills(counts[1] if len(counts) > 1 else 20),
    ]
    if new := set(os.listdir("/dev/shm")) - named:  # noqa: S108
        say(f"new in /dev/shm, of whichever program: {sorted(new)}")
    for line in wrong:
        say(f"WRONG: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
