"""`mpreg-nb bench`: the table, measured on two nodes of this machine.

Latencies are taken while idle spinners keep the processors awake, rates without
them. Rows are interleaved and repeated; each repetition is divided by the bare
echo of the same round, and the median of these ratios is printed.
"""

import asyncio
import gc
import statistics
import sys

from mpreg_nb.bench.bare import BareEcho
from mpreg_nb.bench.quiet import awake
from mpreg_nb.bench.rows import (
    LATENCY_ROWS,
    Bench,
    blocking_latencies_us,
    calls_per_s,
    gather,
    latencies_us,
    mapped_per_s,
    same,
)
from mpreg_nb.client.client import Client
from mpreg_nb.client.options import CallOptions
from mpreg_nb.cluster.cluster import Cluster
from mpreg_nb.cluster.starting import up
from mpreg_nb.transport.token import load_token

BLOCKING_GOAL = 2.3
RATE_GOAL_PER_S = 30_000
MAP_GOAL_PER_S = 15_000


def main(*, quick: bool = False, only: str = "") -> int:
    """Measure and print; return the exit code."""
    rounds, count = (3, 300) if quick else (7, 1000)
    with up({"b1": "first", "b2": "second"}, fresh=True) as cluster:
        runner = asyncio.Runner(loop_factory=_loop)
        bare = BareEcho()
        try:
            bench = runner.run(_prepare(cluster))
            _measure(bench, bare, runner, rounds, count, only)
            runner.run(_close(bench))
        finally:
            bare.close()
            runner.close()
    return 0


def _measure(
    bench: Bench,
    bare: BareEcho,
    runner: asyncio.Runner,
    rounds: int,
    count: int,
    only: str,
) -> None:
    rows = {name: row for name, row in LATENCY_ROWS.items() if only in name}
    blocking = only in "call, blocking"
    taken: dict[str, list[tuple[float, float, float]]] = {}
    units: list[float] = []
    gc.freeze()
    with awake() as quiet:
        bare.latencies_us(300)
        for once, _ in rows.values():
            runner.run(latencies_us(bench, once, 50))
        for _ in range(rounds):
            unit = statistics.median(bare.latencies_us(count))
            units.append(unit)
            for name, (once, _) in rows.items():
                number = count if "of" not in name else count // 4
                us = runner.run(latencies_us(bench, once, number))
                taken.setdefault(name, []).append(_ratios(us, unit))
            if blocking:
                us = blocking_latencies_us(bench, count)
                taken.setdefault("call, blocking", []).append(_ratios(us, unit))
    goals = {name: goal for name, (_, goal) in rows.items()}
    goals["call, blocking"] = BLOCKING_GOAL
    _line(f"unit: a bare websockets echo, p50 {statistics.median(units):.0f} µs")
    if not quiet:
        _line("(this system cannot keep its processors awake: ratios are too low)")
    _line(f"{'row':28} {'p50':>7} {'p99':>7} {'spread of p50':>15} {'goal':>7}")
    for name, figures in taken.items():
        p50s = sorted(p50 for p50, _, _ in figures)
        p99 = statistics.median(p99 for _, p99, _ in figures)
        _line(
            f"{name:28} {statistics.median(p50s):6.2f}x {p99:6.2f}x "
            f"{p50s[0]:6.2f} - {p50s[-1]:5.2f}x {goals[name]:6.1f}x"
        )
    if only in "64 in flight":
        rates = [runner.run(calls_per_s(bench, 64, 1.0)) for _ in range(rounds)]
        _rates("64 in flight, one worker", rates, RATE_GOAL_PER_S)
    if only in "map":
        rates = [mapped_per_s(bench, 2000) for _ in range(rounds)]
        _rates("map of 2,000, two nodes", rates, MAP_GOAL_PER_S)


def _ratios(us: list[float], unit: float) -> tuple[float, float, float]:
    ordered = sorted(us)
    p99 = ordered[int(len(ordered) * 0.99)]
    return statistics.median(ordered) / unit, p99 / unit, unit


def _rates(name: str, rates: list[float], goal: int) -> None:
    low, high = min(rates), max(rates)
    _line(
        f"{name:28} {statistics.median(rates):8,.0f}/s"
        f"  {low:,.0f} - {high:,.0f}  goal {goal:,}/s"
    )


async def _prepare(cluster: Cluster) -> Bench:
    urls = {
        picture.record.name: picture.record.urls[0]
        for picture in cluster.client.mirror.nodes
    }
    token = load_token()
    direct = Client([urls["b1"]], token)
    through_first = Client([urls["b1"]], token, direct=False)
    await direct.open()
    await through_first.open()

    def register() -> tuple[CallOptions, CallOptions]:
        cluster.register(same, name="same_thread", isolation="thread")
        cluster.register(same)
        cluster.register(gather)
        return tuple(  # type: ignore[return-value]
            CallOptions(version=offer.version, holder=offer.origin)
            for name in ("same", "gather")
            if (offer := cluster.client.offer(name)) is not None
        )

    options, gather_options = await asyncio.to_thread(register)
    await direct.snapshot()
    return Bench(cluster, direct, through_first, options, gather_options, "b1", "b2")


async def _close(bench: Bench) -> None:
    await bench.direct.close()
    await bench.through_first.close()


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
