"""Measures all rows of the benchmark in units of a bare echo.

Latencies are taken while idle spinners keep the processors awake, since a halted
virtual processor takes tens of microseconds to wake, which is most of what an echo
costs. A spinner is a process of the lowest class on each processor, which gives way to
everything else. Rates are taken without them. Rows are interleaved and repeated; each
repetition is divided by the bare echo of the same round, and the median of these
ratios is reported.
"""

import asyncio
import contextlib
import gc
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import psutil
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from mpreg_nb.benchmark.capacity import (
    MOST_NODES,
    SCALING,
    SPEEDS,
    UNEQUAL,
    register_pause,
    scaled_per_s,
    scaling_row,
    unequal_row,
)
from mpreg_nb.benchmark.peers import ROWS as PEER_ROWS
from mpreg_nb.benchmark.peers import START
from mpreg_nb.benchmark.raw_tcp import RawTcp
from mpreg_nb.benchmark.rows import (
    LATENCY_ROWS,
    TWO_NODES,
    WORKER_CALL,
    Testbed,
    array_gb_per_s,
    blocking_latencies_us,
    calls_per_s,
    latencies_us,
    mapped_per_s,
    memory_mb,
    opened,
    own_nodes,
    prepare,
    requests_per_s,
    workflows_per_s,
)
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.connect import engine_of
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.view.benchmark import (
    Bench,
    LatencyRow,
    MemoryRow,
    RateRow,
    ScalingRow,
    TransferRow,
    UnequalRow,
)

PAYLOAD = bytes(range(120))


class Baseline:
    """A server in a process of its own, and a client on an event loop here."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "mpreg_nb.benchmark.measure"],
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

    def is_on_one_core(self) -> bool | None:
        """Whether both ends ran on one processor last; None: this system says not."""
        if not hasattr(psutil.Process, "cpu_num"):
            return None
        server = psutil.Process(self._server.pid)
        return bool(server.cpu_num() == psutil.Process().cpu_num())

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
        # Standard input ends when the measuring process has ended.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())


_SPIN = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(200_000):
        pass
"""


@contextlib.contextmanager
def awake() -> Iterator[bool]:
    """Keep all processors awake in the block; yield whether this system supports it."""
    if not hasattr(os, "SCHED_IDLE"):
        yield False
        return
    spinners = [
        subprocess.Popen([sys.executable, "-S", "-c", _SPIN, str(processor)])  # noqa: S603
        for processor in sorted(os.sched_getaffinity(0))
    ]
    try:
        yield True
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()


T = TypeVar("T")

BLOCKING = "call, blocking"
BLOCKING_GOAL = 2.3
IN_FLIGHT = "64 in flight, one worker"
IN_FLIGHT_GOAL_PER_S = 30_000
THROUGHPUT = "throughput, one connection"
WORKFLOWS = "workflows of 6 steps"
MEMORY = "memory, node and worker"
# What the document of MPREG gives for itself.
MPREG_LATENCY_US = (870.0, 1240.0, 2600.0)  # of the call of a worker process
MPREG_THROUGHPUT_PER_S = 1523.0
MPREG_WORKFLOWS_PER_S = 8.0
TRANSFER_BYTES = 100_000_000
TRANSFER = "100 MB there and back"
TRANSFER_GOAL = 3.0
MAPPED = "map of 2,000"
MAPPED_GOAL_PER_S = 15_000
COUNTS = {1: "one node", 2: "two nodes"}

Taken = tuple[float, float, float, float, float, float]
"""Mean, p50, p95 and p99 of one round in microseconds; p50 and p99 in bare echoes."""


def check_only(only: str, *, given: int | None = None, peers: bool = False) -> None:
    """Raise if no row that can be measured contains `only` in its name.

    given: how many nodes the cluster has that is measured; None: nodes are started.
    peers: whether peers are measured too.

    Raises:
        ValueError: there is none; the message names all.
    """
    nodes = 2 if given is None else given
    rows = [name for name in LATENCY_ROWS if nodes > 1 or name not in TWO_NODES]
    rows += [BLOCKING, IN_FLIGHT, THROUGHPUT, WORKFLOWS, mapped_row(nodes), TRANSFER]
    rows.append(MEMORY)
    if given is None:
        rows += [*SCALING.values(), UNEQUAL]
    if peers:
        rows += [START, *PEER_ROWS]
    if not any(only in row for row in rows):
        few = "" if given is None else " of a given cluster"
        few = " of one node" if given == 1 else few
        raise ValueError(
            f"no row{few} has {only!r} in its name. The rows are: {'; '.join(rows)}"
        )


def mapped_row(nodes: int) -> str:
    """Return the name of the row of `map` on so many nodes."""
    return f"{MAPPED}, {COUNTS.get(nodes, f'{nodes} nodes')}"


class Stopped(Exception):
    """The measurement was stopped."""


class Measurement:
    """One run of the bench. `said` has lines of progress, then how it ended."""

    def __init__(
        self, cluster: Cluster, *, quick: bool, only: str, more_nodes: bool = False
    ) -> None:
        """more_nodes: also rows that start nodes; if `quick`, only with `only`."""
        self.said: queue.SimpleQueue[str | Bench | BaseException] = queue.SimpleQueue()
        self._cluster = cluster
        self._rounds, self._count, self._seconds = (
            (3, 300, 0.5) if quick else (7, 1000, 1.0)
        )
        self._only = only
        self._more_nodes = more_nodes and bool(only or not quick)
        self._one_core: list[bool] = []  # by round
        self._stopping = threading.Event()
        self._loop = _new_loop()
        self._task: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(
            target=self._work, name="mpreg-bench", daemon=True
        )

    def start(self) -> None:
        """Start the measurement and return at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the measurement within a fraction of a second.

        Nodes that are being started come up first, and then end.
        """
        self._stopping.set()
        self._loop.call_soon_threadsafe(self._cancel)
        self.join()

    def join(self) -> None:
        """Wait for the end of the measurement."""
        self._thread.join()
        self._loop.close()

    # --------------------------------------------------------- in its own thread

    def _work(self) -> None:
        try:
            self.said.put(self._measure())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self.said.put(error)

    def _measure(self) -> Bench:
        first, second = prepare(self._cluster)
        stack = AsyncExitStack()
        bare = Baseline()
        try:
            # Entered in one task and left in another: it is of no task.
            lab = self._run(
                stack.enter_async_context(opened(self._cluster, first, second))
            )
            bench = self._all_rows(lab, bare)
        finally:
            bare.close()
            self._loop.run_until_complete(stack.aclose())
        return bench

    def _all_rows(self, lab: Testbed, bare: Baseline) -> Bench:
        gc.freeze()
        try:
            with awake() as quiet:
                units_us, taken = self._latencies(lab, bare)
            memory = tuple(self._memory(lab))  # before it holds large values
            rates = tuple(self._rates(lab))
            transfers = tuple(self._transfers(lab))
            scaling = tuple(self._scaling())
            unequal = tuple(self._unequal())
        finally:
            gc.unfreeze()
        goals = {name: goal for name, (_, goal) in LATENCY_ROWS.items()}
        goals[BLOCKING] = BLOCKING_GOAL
        latencies = (_row(name, taken[name], goals[name]) for name in taken)
        return Bench(
            unit_us=statistics.median(units_us),
            quiet=quiet,
            latencies=tuple(latencies),
            rates=rates,
            transfers=transfers,
            scaling=scaling,
            unequal=unequal,
            memory=memory,
            one_core=statistics.fmean(self._one_core) if self._one_core else None,
        )

    def _latencies(
        self, lab: Testbed, bare: Baseline
    ) -> tuple[list[float], dict[str, list[Taken]]]:
        rows = {
            name: once
            for name, (once, _) in LATENCY_ROWS.items()
            if self._only in name and not (lab.alone and name in TWO_NODES)
        }
        blocking = self._only in BLOCKING
        taken: dict[str, list[Taken]] = {}
        units_us: list[float] = []
        bare.latencies_us(300)
        for once in rows.values():
            self._run(latencies_us(lab, once, 50))
        for number in range(1, self._rounds + 1):
            unit_us = statistics.median(bare.latencies_us(self._count))
            units_us.append(unit_us)
            one_core = bare.is_on_one_core()
            if one_core is not None:
                self._one_core.append(one_core)
            self._say(
                f"latencies, round {number} of {self._rounds}: "
                f"a bare echo takes {unit_us:.0f} µs"
            )
            for name, once in rows.items():
                count = self._count if "of" not in name else self._count // 4
                us = self._run(latencies_us(lab, once, count))
                taken.setdefault(name, []).append(_taken(us, unit_us))
            if blocking:
                us = self._checked(lambda: blocking_latencies_us(lab, self._count))
                taken.setdefault(BLOCKING, []).append(_taken(us, unit_us))
        return units_us, taken

    def _rates(self, lab: Testbed) -> Iterable[RateRow]:
        if self._only in IN_FLIGHT:
            self._say(f"rates: {IN_FLIGHT}")
            rates = [
                self._run(calls_per_s(lab, 64, self._seconds))
                for _ in range(self._rounds)
            ]
            yield _rate(IN_FLIGHT, rates, IN_FLIGHT_GOAL_PER_S)
        if self._only in THROUGHPUT:
            self._say(f"rates: {THROUGHPUT}")
            rates = [
                self._run(requests_per_s(lab, 64, self._seconds))
                for _ in range(self._rounds)
            ]
            yield _rate(THROUGHPUT, rates, mpreg=MPREG_THROUGHPUT_PER_S)
        if self._only in WORKFLOWS:
            self._say(f"rates: {WORKFLOWS}")
            rates = [
                self._run(workflows_per_s(lab, 8, self._seconds))
                for _ in range(self._rounds)
            ]
            yield _rate(WORKFLOWS, rates, mpreg=MPREG_WORKFLOWS_PER_S)
        mapped = mapped_row(len(lab.cluster.urls))
        if self._only in mapped:
            self._say(f"rates: {mapped}")
            rates = [
                self._checked(lambda: mapped_per_s(lab, 2000))
                for _ in range(self._rounds)
            ]
            yield _rate(mapped, rates, MAPPED_GOAL_PER_S)

    def _transfers(self, lab: Testbed) -> Iterable[TransferRow]:
        if self._only not in TRANSFER:
            return
        self._say(f"rates: {TRANSFER}")
        rates: list[float] = []
        ratios: list[float] = []
        with contextlib.closing(RawTcp(TRANSFER_BYTES)) as tcp:
            for _ in range(self._rounds + 1):
                unit = self._checked(tcp.gb_per_s)
                rates.append(self._checked(lambda: array_gb_per_s(lab, TRANSFER_BYTES)))
                ratios.append(rates[-1] / unit)
        rates, ratios = rates[1:], ratios[1:]  # the first brought the memory
        yield TransferRow(
            row=TRANSFER,
            gb_per_s=statistics.median(rates),
            gb_per_s_min=min(rates),
            gb_per_s_max=max(rates),
            times_tcp=statistics.median(ratios),
            goal_times_tcp=TRANSFER_GOAL,
        )

    def _memory(self, lab: Testbed) -> Iterable[MemoryRow]:
        engine = engine_of(parts_of(self._cluster).client)
        if self._only not in MEMORY or engine is not None:
            return  # the workers of an engine are not children of a node
        held = self._checked(lambda: memory_mb(lab))
        sizes_mb = [size_mb for size_mb, _ in held]
        yield MemoryRow(
            row=MEMORY,
            memory_mb=statistics.median(sizes_mb),
            memory_mb_min=min(sizes_mb),
            memory_mb_max=max(sizes_mb),
            processes=max(processes for _, processes in held),
        )

    def _scaling(self) -> Iterable[ScalingRow]:
        wanted = any(self._only in row for row in SCALING.values())
        if not (wanted and self._more_nodes):
            return
        names = [f"s{number}" for number in range(1, MOST_NODES + 1)]
        one_per_s = 0.0
        with self._started(names[:1]) as cluster:
            for nodes in SCALING:
                self._say(f"rates: {SCALING[nodes]}")
                if nodes > 1:
                    self._checked(partial(cluster.add, names[nodes - 1]))
                work = scaled_per_s(cluster, names[:nodes], self._rounds, self._seconds)
                rates = self._run(work)
                one_per_s = one_per_s or statistics.median(rates)
                yield scaling_row(nodes, rates, one_per_s)

    def _unequal(self) -> Iterable[UnequalRow]:
        if self._only not in UNEQUAL or not self._more_nodes:
            return
        self._say(f"rates: {UNEQUAL}")
        with self._started(SPEEDS) as cluster:
            yield self._run(unequal_row(cluster, self._rounds, 2 * self._seconds))

    @contextlib.contextmanager
    def _started(self, names: Iterable[str]) -> Iterator[Cluster]:
        """Start nodes for some rows, beside those of the others."""
        starting = self._checked(lambda: own_nodes(dict.fromkeys(names, ())))
        with starting as cluster:
            register_pause(cluster)
            yield cluster

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop; `stop` ends it."""
        self._task = self._loop.create_task(work)
        if self._stopping.is_set():
            self._task.cancel()
        try:
            result: T = self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            raise Stopped from None
        finally:
            self._task = None
        return result

    def _checked(self, work: Callable[[], T]) -> T:
        """Do what blocks for a fraction of a second."""
        if self._stopping.is_set():
            raise Stopped
        return work()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _say(self, text: str) -> None:
        self.said.put(text)


def _taken(us: Sequence[float], unit_us: float) -> Taken:
    ordered = sorted(us)
    p50_us, p99_us = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    mean_us, p95_us = statistics.fmean(ordered), ordered[int(len(ordered) * 0.95)]
    return mean_us, p50_us, p95_us, p99_us, p50_us / unit_us, p99_us / unit_us


def _row(name: str, taken: Sequence[Taken], goal: float) -> LatencyRow:
    mean_us, p50_us, p95_us, p99_us, p50_echoes, p99_echoes = zip(*taken, strict=True)
    return LatencyRow(
        row=name,
        mean_us=statistics.median(mean_us),
        p50_us=statistics.median(p50_us),
        p95_us=statistics.median(p95_us),
        p99_us=statistics.median(p99_us),
        p50_echoes=statistics.median(p50_echoes),
        p99_echoes=statistics.median(p99_echoes),
        p50_echoes_min=min(p50_echoes),
        p50_echoes_max=max(p50_echoes),
        goal_echoes=goal,
        mpreg_us=MPREG_LATENCY_US if name == WORKER_CALL else None,
    )


def _rate(
    name: str,
    rates: Sequence[float],
    goal: float | None = None,
    mpreg: float | None = None,
) -> RateRow:
    return RateRow(
        row=name,
        per_s=statistics.median(rates),
        per_s_min=min(rates),
        per_s_max=max(rates),
        goal_per_s=goal,
        mpreg_per_s=mpreg,
    )


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
