"""Where the time of a call and of a workflow goes: each process, each wake-up.

    python -m tests.benchmarks.budget [--runs 300] [--page]

Starts two nodes of one worker each and runs each row many times, one after the other.
Of every process it takes the processor time and how often it waited, as Linux counts
them (/proc/PID/schedstat and status), and divides by the runs. `--page` writes
docs/budget.md. What the node works out for a run from its plan alone is measured apart,
in this process.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from mpreg_nb.benchmark.measure import Baseline
from mpreg_nb.benchmark.rows import (
    LATENCY_ROWS,
    WORKER_CALL,
    Once,
    Testbed,
    opened,
    own_nodes,
    prepare,
)
from mpreg_nb.node.run_plan import run_plan
from mpreg_nb.protocol.messages import RunStart, StepPlan

PAGE = Path(__file__).parents[2] / "docs" / "budget.md"
ROWS = (
    WORKER_CALL,
    "chain of 8, one node",
    "chain of 8, alternating",
    "fan-in of 3 and 1",
)
GOALS = dict(zip(ROWS, (1.0, 3.0, 9.0, 4.0), strict=True))
WARM_UP = 30
ROUNDS = 5

Usage = tuple[float, int]
"""Processor time in microseconds, and how often the process waited."""


def usage(pids: Iterable[int]) -> Usage:
    """Return what these processes have used so far, all of their threads together."""
    spent_us, waits = 0.0, 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            spent_us += int((thread / "schedstat").read_text().split()[0]) / 1e3
            for line in (thread / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    waits += int(line.split()[1])
    return spent_us, waits


def processes() -> dict[str, list[int]]:
    """Return the ids of the processes of this cluster by what they are."""
    found: dict[str, list[int]] = {"client": [os.getpid()]}
    nodes = [
        child
        for child in psutil.Process().children(recursive=True)
        if "mpreg_nb.node" in child.cmdline()
    ]
    for node in sorted(nodes, key=lambda one: one.pid):
        name = "entry" if "entry" not in found else "other node"
        found[name] = [node.pid]
        workers = [child.pid for child in node.children()]
        found[f"worker of the {name}"] = workers
    return found


@dataclass(frozen=True)
class Budget:
    """What one run of a row takes."""

    name: str
    echo_us: float  # processor time of both ends of a bare echo, in the same round
    spent: dict[str, Usage]

    @property
    def all_us(self) -> float:
        """Processor time of all processes together."""
        return sum(us for us, _ in self.spent.values())

    @property
    def waits(self) -> float:
        """Wake-ups of all processes together."""
        return sum(waits for _, waits in self.spent.values())


async def _repeat(lab: Testbed, once: Once, runs: int) -> None:
    for _ in range(runs):
        await once(lab)


def echo_us(bare: Baseline, count: int = 300) -> float:
    """Return the processor time of one bare echo, of both of its ends."""
    ends = [os.getpid()]
    for child in psutil.Process().children():
        if "mpreg_nb.benchmark.measure" in child.cmdline():
            ends.append(child.pid)
    before_us, _ = usage(ends)
    bare.latencies_us(count)
    return (usage(ends)[0] - before_us) / count


def measured(
    runner: asyncio.Runner, lab: Testbed, name: str, runs: int, bare: Baseline
) -> Budget:
    """Return the round with the least processor time: others had more company."""
    once, _ = LATENCY_ROWS[name]
    who = processes()
    runner.run(_repeat(lab, once, WARM_UP))
    rounds: list[Budget] = []
    for _ in range(ROUNDS):
        unit_us = echo_us(bare)
        before = {each: usage(pids) for each, pids in who.items()}
        runner.run(_repeat(lab, once, runs))
        spent = {}
        for each, pids in who.items():
            spent_us, waits = usage(pids)
            old_us, old_waits = before[each]
            spent[each] = (spent_us - old_us) / runs, round((waits - old_waits) / runs)
        rounds.append(Budget(name, unit_us, spent))
    return min(rounds, key=lambda one: one.all_us / one.echo_us)


def planning_us(steps: int) -> float:
    """Return what a node works out for the first run of a chain of steps."""
    plans = tuple(
        StepPlan(
            name=f"s{number}",
            function="f",
            payload=b"x",
            inputs=(f"s{number - 1}",) if number else (),
        )
        for number in range(steps)
    )
    request = RunStart(id=bytes(16), workflow="w", steps=plans)
    taken = []
    for _ in range(500):
        began = time.thread_time()
        run_plan(request)
        taken.append(time.thread_time() - began)
    return statistics.median(taken) * 1e6


def table(budgets: Iterable[Budget]) -> str:
    """Return all rows as a table in Markdown."""
    budgets = list(budgets)
    columns = list(budgets[0].spent)
    lines = [
        f"| one run of | {' | '.join(columns)} | together | in echoes | goal |",
        f"| --- | {' | '.join('---' for _ in columns)} | --- | --- | --- |",
    ]
    for one in budgets:
        cells = [f"{us:,.0f} µs, {waits:g}" for us, waits in one.spent.values()]
        cells.append(f"{one.all_us:,.0f} µs, {one.waits:g}")
        cells.append(f"{one.all_us / one.echo_us:.1f}")
        lines.append(f"| {one.name} | {' | '.join(cells)} | {GOALS[one.name]:g} |")
    return "\n".join(lines)


PAGE_TEXT = """# Where the time goes

Each cell shows what one run takes in that process: the processor time, and the
number of times that the process waited and was woken. The entry is the node that
the client is connected to; it coordinates the workflow. There are two nodes with
one worker each. `python -m tests.benchmarks.budget --page` repeats the
measurement and writes this page.

{table}

*In echoes* is the processor time of all processes divided by that of a bare
`websockets` echo (both ends), measured in the same round. The goal is the elapsed
time of a run divided by that of an echo, as `mpreg-nb bench` measures it. Other
load on the machine makes a run take longer, but changes processor times less,
and hardly changes the number of waits.

A run passes through its processes one after the other, so it takes about their
total processor time plus one wake-up for each wait. If all plain steps run on one
node, the worker gets them as one job and continues from step to step by itself.
The entry then uses the most time: it handles a message, a state, a call and a row
for each step. If steps alternate between two nodes, each step is a separate call
from the entry to a worker and back, and every second call also passes through the
other node. An echo takes two wake-ups, so the goal allows fewer wake-ups than
*alternating* needs: it cannot be reached as long as each step passes through its
node. In *fan-in* three such calls run at the same time, and the fourth waits for
the last of them.

For a chain of 8 steps, computing order and dependencies from the plan takes
{planning:,.0f} µs: {share:.0f} % of what the entry spends on *chain of 8, one node*.
That is for the first run of a plan: the node keeps them for the next ones.

During the measurement, the load was {load:.0f} on {processors} processors.
"""


def all_budgets(runs: int, only: str) -> list[Budget]:
    """Start the nodes and measure each row with `only` in its name."""
    bare = Baseline()
    try:
        with own_nodes() as cluster, asyncio.Runner() as runner:
            first, second = prepare(cluster)
            stack = AsyncExitStack()
            lab = runner.run(stack.enter_async_context(opened(cluster, first, second)))
            try:
                return [
                    measured(runner, lab, name, runs, bare)
                    for name in ROWS
                    if only in name
                ]
            finally:
                runner.run(stack.aclose())
    finally:
        bare.close()


def main() -> None:
    """Measure, print the table, and write the page if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    budgets = all_budgets(options.runs, options.only)
    planning = planning_us(8)
    print(table(budgets))
    print(f"planning a chain of 8: {planning:.0f} µs")
    if options.page:
        chain = next(one for one in budgets if one.name == "chain of 8, one node")
        share = 100 * planning / chain.spent["entry"][0]
        PAGE.write_text(
            PAGE_TEXT.format(
                table=table(budgets),
                planning=planning,
                share=share,
                load=os.getloadavg()[0],
                processors=os.cpu_count(),
            )
        )


if __name__ == "__main__":
    main()
