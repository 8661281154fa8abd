"""How the rate grows with the nodes, and how unequal nodes share mixed work.

The work is a pause, so that the rates tell how well the nodes are kept busy, however
many processors this machine has.
"""

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import msgspec

from mpreg_nb.benchmark.functions import PAUSE, pause
from mpreg_nb.benchmark.rows import narrowed, version
from mpreg_nb.client.calls import CallOptions
from mpreg_nb.client.client import Client
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.current import parts_of
from mpreg_nb.view.benchmark import NodeShare, ScalingRow, UnequalRow

MOST_NODES = 5
SCALING = {
    nodes: f"scaling, {nodes} node{'s' if nodes > 1 else ''}"
    for nodes in range(1, MOST_NODES + 1)
}
SCALED_WORK_S = 0.01

UNEQUAL = "mixed work, unequal nodes"
SPEEDS = {"fast": 1.0, "half": 0.5, "quarter": 0.25}
MIXED_WORK_S = (0.002, 0.008, 0.032)
MPREG_MIXED_PER_S = 24.0

IN_FLIGHT = 4
"""Calls at once for each node, so that no node waits for the caller."""

JOINED_S = 20.0


def register_pause(cluster: Cluster) -> None:
    """Register the function that is the work of these rows."""
    cluster.register(pause, name=PAUSE)


async def scaled_per_s(
    cluster: Cluster, nodes: Sequence[str], rounds: int, seconds: float
) -> list[float]:
    """Return the rates of equal work on `nodes`, which are all of the cluster."""
    async with _opened(cluster, nodes) as bed:
        work_s = itertools.repeat(SCALED_WORK_S)
        done = [await _measured(bed, work_s, {}, seconds) for _ in range(rounds)]
    return [per_s for per_s, _ in done]


def scaling_row(nodes: int, rates: Sequence[float], one_per_s: float) -> ScalingRow:
    """Return the row of so many nodes, when one alone has `one_per_s`."""
    per_s = statistics.median(rates)
    return ScalingRow(
        row=SCALING[nodes],
        nodes=nodes,
        per_s=per_s,
        per_s_min=min(rates),
        per_s_max=max(rates),
        times_one=per_s / one_per_s,
        work_ms=SCALED_WORK_S * 1e3,
    )


async def unequal_row(cluster: Cluster, rounds: int, seconds: float) -> UnequalRow:
    """Measure short, middle and long work, mixed, on nodes of unequal speed."""
    async with _opened(cluster, tuple(SPEEDS)) as bed:
        speeds = {bed.pids[name]: speed for name, speed in SPEEDS.items()}
        chosen = random.Random(1)
        work_s = (chosen.choice(MIXED_WORK_S) for _ in itertools.count())
        done = [await _measured(bed, work_s, speeds, seconds) for _ in range(rounds)]
    rates = [per_s for per_s, _ in done]
    by_pid = sum((ended for _, ended in done), Counter[int]())
    speed = sum(SPEEDS.values())
    return UnequalRow(
        row=UNEQUAL,
        per_s=statistics.median(rates),
        per_s_min=min(rates),
        per_s_max=max(rates),
        most_per_s=speed / statistics.fmean(MIXED_WORK_S),
        mpreg_per_s=MPREG_MIXED_PER_S,
        shares=tuple(
            NodeShare(
                node=name,
                share=by_pid[bed.pids[name]] / by_pid.total(),
                speed_share=SPEEDS[name] / speed,
            )
            for name in SPEEDS
        ),
    )


class _Testbed(msgspec.Struct, frozen=True):
    client: Client
    options: CallOptions
    pids: dict[str, int]  # by node


@contextlib.asynccontextmanager
async def _opened(cluster: Cluster, nodes: Iterable[str]) -> AsyncIterator[_Testbed]:
    """Open a client; yield when it has called a worker of each of `nodes`."""
    client = Client(cluster.urls, parts_of(cluster).client.links.token)
    try:
        await client.open()
        await client.snapshot()
        options = version(cluster, PAUSE)
        pids = {
            node: await client.call(
                PAUSE, (0.0, {}), None, narrowed(options, node, wait_s=JOINED_S)
            )
            for node in nodes
        }
        yield _Testbed(client, options, pids)
    finally:
        await client.close()


async def _measured(
    bed: _Testbed, work_s: Iterable[float], speeds: Mapping[int, float], seconds: float
) -> tuple[float, Counter[int]]:
    """Return the rate with calls that follow each other, and how many each node ran."""
    ended: Counter[int] = Counter()
    clock = time.perf_counter
    work, end = iter(work_s), clock() + seconds

    async def caller() -> None:
        while clock() < end:
            node = await bed.client.call(PAUSE, (next(work), speeds), None, bed.options)
            ended[node] += 1

    began = clock()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT * len(bed.pids))))
    return ended.total() / (clock() - began), ended
