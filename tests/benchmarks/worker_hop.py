"""What the hop into a worker process and back costs, without any network.

    python tests/benchmarks/worker_hop.py [--idle-spinners] [--asyncio]

Prints the time of one job that returns its argument, how many such jobs pass in a
second with 64 in flight, the rate of a 100 MB array there and back, and the time
and memory of a start. Latencies want the spinners: they keep a virtual machine
from halting its processors between the messages.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from mpreg_nb.node.process_pool import ProcessPool
from mpreg_nb.node.worker_pool import Outcome
from mpreg_nb.protocol.worker import Job
from mpreg_nb.serialize.pickle import pack, pack_function, unpack

LATENCY_JOBS = 5_000
RATE_JOBS = 50_000
IN_FLIGHT = 64
REPEATS = 5


def echo(value: Any) -> Any:
    return value


class Bench:
    def __init__(self, workers: ProcessPool) -> None:
        self.workers = workers
        shipped = pack_function(echo)
        self.version = shipped.version
        workers.add_code(shipped.version, "echo", shipped.parts)
        self._ids = count(1)
        self._payload = bytes(pack(((1,), {}))[0])

    def submit(self, done: Callable[[Outcome, Any], None], parts: Any = ()) -> None:
        job = Job(
            id=next(self._ids).to_bytes(16, "big"),
            version=self.version,
            function="echo",
            payload=b"" if parts else self._payload,
        )
        self.workers.submit(job, parts, done)

    async def one(self, parts: Any = ()) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.submit(lambda *answer: future.set_result(answer), parts=parts)
        return await future

    async def latencies_us(self) -> list[float]:
        taken = []
        for _ in range(LATENCY_JOBS):
            begun = time.perf_counter()
            await self.one()
            taken.append((time.perf_counter() - begun) * 1e6)
        return sorted(taken)

    async def rate(self) -> float:
        finished = asyncio.get_running_loop().create_future()
        sent = ended = 0

        def next_one(*_: Any) -> None:
            nonlocal sent, ended
            ended += 1
            if sent < RATE_JOBS:
                sent += 1
                self.submit(next_one)
            elif ended == RATE_JOBS:
                finished.set_result(None)

        begun = time.perf_counter()
        for _ in range(IN_FLIGHT):
            sent += 1
            self.submit(next_one)
        await finished
        return RATE_JOBS / (time.perf_counter() - begun)

    async def large_gb_per_s(self) -> float:
        import numpy as np

        array = np.ones(100_000_000 // 8)
        begun = time.perf_counter()
        outcome, parts = await self.one(pack(((array,), {})))
        back = unpack(parts or (outcome.payload,))
        took = time.perf_counter() - begun
        if back[-1] != 1:
            raise RuntimeError("another array came back")
        return 0.2 / took


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def own_costs_us() -> dict[str, float]:
    payload = pack(((1,), {}))
    works: dict[str, Callable[[], Any]] = {
        "pack": lambda: pack(((1,), {})),
        "unpack": lambda: unpack(payload),
    }
    found = {}
    for name, work in works.items():
        begun = time.perf_counter()
        for _ in range(20_000):
            work()
        found[name] = (time.perf_counter() - begun) / 20_000 * 1e6
    return found


async def measure() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        workers = ProcessPool(1, 1, Path(scratch), lambda *_: None, lambda *_: None)
        await workers.start()
        bench = Bench(workers)
        await bench.one()
        start_ms = (time.perf_counter() - begun) * 1e3
        held_mb = memory_mb(workers.links[0].process.pid)
        print(f"start to first answer {start_ms:8.1f} ms, holding {held_mb:.1f} MiB")
        p50s, p99s, rates, large = [], [], [], []
        for _ in range(REPEATS):
            taken = await bench.latencies_us()
            p50s.append(taken[len(taken) // 2])
            p99s.append(taken[len(taken) * 99 // 100])
            rates.append(await bench.rate())
            large.append(await bench.large_gb_per_s())
        told("one job, p50", p50s, "us")
        told("one job, p99", p99s, "us")
        told(f"{IN_FLIGHT} in flight", rates, "jobs/s")
        told("100 MB there and back", large, "GB/s")
        for name, cost in own_costs_us().items():
            print(f"{name:24}{cost:10.2f} us")
        await workers.stop()


def told(name: str, values: list[float], unit: str) -> None:
    low, high = min(values), max(values)
    middle = statistics.median(values)
    print(f"{name:24}{middle:10.2f} {unit}  ({low:.2f} to {high:.2f})")


@contextlib.contextmanager
def spinners(wanted: bool) -> Iterator[None]:
    """Keep each processor awake with a process that gives way to any other."""
    code = (
        "import os\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
        "parent = os.getppid()\n"
        "while os.getppid() == parent:\n    sum(range(20_000))\n"
    )
    number = os.cpu_count() or 1
    running = [
        subprocess.Popen([sys.executable, "-c", code])
        for _ in range(number if wanted else 0)
    ]
    try:
        time.sleep(0.3 if wanted else 0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle-spinners", action="store_true")
    parser.add_argument("--asyncio", action="store_true", help="instead of uvloop")
    options = parser.parse_args()
    with spinners(options.idle_spinners):
        if options.asyncio:
            asyncio.run(measure())
        else:
            import uvloop

            uvloop.run(measure())


if __name__ == "__main__":
    main()
