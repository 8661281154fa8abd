"""How cost grows with the number of functions, nodes, steps, items, calls and runs.

    python -m tests.benchmarks.growth [--only ROW ...] [--quick]
        [--save FILE] [--before FILE] [--page]

Costs are processor time of all processes together, so that they mean the same on a
busy machine; only the start of many nodes is told in seconds too. `--save` writes the
points as JSON, and reads those of other rows from there. `--before` shows the points of
another build beside them; those of the build before its growth was mended are in
growth_before.json. `--page` writes docs/growth.md with its figure. `make growth` does
all of it.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import mpreg_nb as mp

DOCS = Path(__file__).parents[2] / "docs"
FIGURE = DOCS / "_static" / "growth.svg"
PAGE = DOCS / "growth.md"
BEFORE = Path(__file__).with_name("growth_before.json")

MIB = 1 << 20
BATCH = 50
"""Registrations that one point is the mean of."""

IDLE_S = 5.0
SETTLED_S = 2.0
"""After which what happened before is told to all nodes."""

RESULTS, RESULT_BYTES = 400, 15 * 1024

Point = tuple[int, float]


def small(value: int) -> int:
    """Return what came."""
    return value


def ones(size_bytes: int) -> Any:
    """Return an array of this size."""
    return np.ones(size_bytes // 8)


def family() -> list[psutil.Process]:
    """Return this process and all that it started."""
    here = psutil.Process()
    return [here, *here.children(recursive=True)]


def processor_s() -> float:
    """Return the processor time that they have taken so far."""
    taken = 0.0
    for process in family():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended between the list and the look
        taken += times.user + times.system
    return taken


def memory_mib(*, of_children: bool) -> float:
    """Return what this process holds, or all that it started."""
    gc.collect()
    here = psutil.Process()
    each = here.children(recursive=True) if of_children else [here]
    return sum(process.memory_info().rss for process in each) / MIB


@contextmanager
def nodes(count: int, **options: Any) -> Iterator[mp.Cluster]:
    """Start so many nodes, with `small` and `ones` registered."""
    with mp.up(count, fresh=True, **options) as cluster:
        cluster.register(small)
        cluster.register(ones)
        yield cluster


# ------------------------------------------------------------------ what is measured


def functions(counts: list[int]) -> Iterator[tuple[str, Point]]:
    """Register many functions; then do nothing for a while."""
    with nodes(2) as cluster:
        known = 0
        cluster.register(small, name="first")  # brings what registering needs
        for count in counts:
            while known < count - BATCH:
                cluster.register(small, name=f"f{known}")
                known += 1
            before = processor_s()
            made = max(1, count - known)
            while known < count:
                cluster.register(small, name=f"f{known}")
                known += 1
            taken_ms = (processor_s() - before) / made * 1e3
            yield "registering the N-th function", (count, taken_ms)
            time.sleep(SETTLED_S)
            before, began = processor_s(), time.monotonic()
            time.sleep(IDLE_S)
            idle = (processor_s() - before) / (time.monotonic() - began)
            yield "nothing to do, with N functions", (count, idle * 100)


def started(counts: list[int]) -> Iterator[tuple[str, Point]]:
    """Start many nodes, then map over all of them and call any of them."""
    for count in counts:
        before, began = processor_s(), time.monotonic()
        with nodes(count) as cluster:
            alive_s = time.monotonic() - began
            yield "N nodes: processor time to be alive", (count, processor_s() - before)
            yield "N nodes: time until all are alive", (count, alive_s)
            # The first brings the function to nodes and workers that have just started.
            for row in ("a map of 20,000 over N nodes", "the same map once more"):
                before = processor_s()
                cluster.map(small, range(20_000))
                yield row, (count, (processor_s() - before) / 20_000 * 1e6)
                time.sleep(SETTLED_S)
            cluster.call("small", 1)
            before = processor_s()
            for number in range(500):
                cluster.call("small", number)
            taken_us = (processor_s() - before) / 500 * 1e6
            yield "a call for any of N nodes", (count, taken_us)
            time.sleep(SETTLED_S)
            before, began = processor_s(), time.monotonic()
            time.sleep(IDLE_S)
            idle = (processor_s() - before) / (time.monotonic() - began)
            yield "nothing to do, with N nodes", (count, idle * 100)


def steps(counts: list[int]) -> Iterator[tuple[str, Point]]:
    """Run wide and deep workflows."""
    with nodes(2) as cluster:
        for count in counts:
            for shape in ("wide", "deep"):
                flow = mp.workflow(shape)
                step: Any = 0
                for number in range(count):
                    given = step if shape == "deep" else 0
                    step = flow.step(f"s{number}", "small", given)
                cluster.call("small", 1)
                before = processor_s()
                flow.run()
                taken_us = (processor_s() - before) / count * 1e6
                yield f"a step of a {shape} workflow of N", (count, taken_us)


def items(counts: list[int]) -> Iterator[tuple[str, Point]]:
    """Map over many items."""
    with nodes(2) as cluster:
        cluster.map(small, range(2000))
        for count in counts:
            before, held = processor_s(), memory_mib(of_children=False)
            cluster.map(small, range(count))
            taken_us = (processor_s() - before) / count * 1e6
            yield "an item of a map of N", (count, taken_us)
            grown = memory_mib(of_children=False) - held
            yield "memory of the notebook after a map of N", (count, grown)


def calls(counts: list[int]) -> Iterator[tuple[str, Point]]:
    """Make many calls."""
    with nodes(1) as cluster:
        for _ in range(2000):
            cluster.call("small", 1)
        held, made = memory_mib(of_children=True), 0
        for count in counts:
            while made < count:
                cluster.call("small", made)
                made += 1
            grown = memory_mib(of_children=True) - held
            yield "memory of a node after N calls", (count, grown)


def runs(counts: list[int]) -> Iterator[tuple[str, Point]]:
    """End many runs whose results are kept with them: each as large as may be."""
    with nodes(1):
        flow = mp.workflow("results")
        for number in range(RESULTS):
            flow.step(f"s{number}", "ones", RESULT_BYTES)
        flow.run()
        held, made = memory_mib(of_children=True), 0
        for count in counts:
            while made < count:
                flow.run()
                made += 1
            grown = memory_mib(of_children=True) - held
            yield "memory of a node after N runs of 6 MiB", (count, grown)


Measure = Callable[[list[int]], Iterator[tuple[str, Point]]]

MEASURES: dict[str, tuple[Measure, list[int]]] = {
    "functions": (functions, [100, 1000, 2000, 4000, 10_000]),
    "nodes": (started, [2, 10, 30, 60]),
    "steps": (steps, [100, 1000, 10_000]),
    "items": (items, [10_000, 100_000, 1_000_000]),
    "calls": (calls, [20_000, 100_000, 200_000]),
    "runs": (runs, [10, 50, 100]),
}

# Row -> its unit, and what is to be reached: at most so much at the largest N above;
# None: no more than at the smallest.
UNITS: dict[str, tuple[str, float | None]] = {
    "registering the N-th function": ("ms", None),
    "nothing to do, with N functions": ("% of a core", None),
    "N nodes: processor time to be alive": ("s", 30),
    "N nodes: time until all are alive": ("s", 15),
    "a map of 20,000 over N nodes": ("µs an item", 50),
    "the same map once more": ("µs an item", 50),
    "a call for any of N nodes": ("µs", None),
    "nothing to do, with N nodes": ("% of a core", 30),
    "a step of a wide workflow of N": ("µs", 60),
    "a step of a deep workflow of N": ("µs", 60),
    "an item of a map of N": ("µs", 10),
    "memory of the notebook after a map of N": ("MiB", 45),
    "memory of a node after N calls": ("MiB", 5),
    "memory of a node after N runs of 6 MiB": ("MiB", 320),
}


@dataclass
class Growth:
    """The points of each row, by N."""

    points: dict[str, list[Point]] = field(default_factory=dict)

    def take(self, row: str, point: Point) -> None:
        """Add a point."""
        self.points.setdefault(row, []).append(point)
        count, value = point
        print(f"{row:44} {count:>9,} {value:12,.2f} {UNITS[row][0]}", file=sys.stderr)

    def save(self, path: Path) -> None:
        """Write the points."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.points, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Growth":
        """Read what `save` wrote."""
        said = json.loads(path.read_text(encoding="utf-8"))
        return cls({row: [(n, v) for n, v in points] for row, points in said.items()})

    def rows(self, beside: "Growth") -> Iterator[tuple[str, ...]]:
        """Yield the cells of the table: the smallest and the largest N."""
        for row, points in self.points.items():
            unit, goal = UNITS[row]
            (few, first), (many, last) = points[0], points[-1]
            earlier = beside.points.get(row, [])
            before = max((p for p in earlier if p[0] <= many), default=None)
            yield (
                row,
                unit,
                f"{first:,.4g} at {few:,}",
                "" if before is None else f"{before[1]:,.4g} at {before[0]:,}",
                f"{last:,.4g} at {many:,}",
                "flat" if goal is None else f"{goal:,.4g}",
            )


HEAD = ("what", "unit", "at few", "before, at many", "at many", "goal")


def text(growth: Growth, beside: Growth) -> str:
    """Return the table for a terminal."""
    rows = [HEAD, *growth.rows(beside)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def draw(growth: Growth, beside: Growth) -> None:
    """Write the figure: a chart for each row."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "growth"  # the same points make the same file
    count = len(growth.points)
    figure, axes = plt.subplots(-(-count // 3), 3, figsize=(12, 2.6 * -(-count // 3)))
    for each, (row, points) in zip(axes.flat, growth.points.items(), strict=False):
        unit, goal = UNITS[row]
        if row in beside.points:
            each.plot(*zip(*beside.points[row], strict=True), "o--", color="0.6")
        each.plot(*zip(*points, strict=True), "o-", color="C0")
        if goal is not None:
            each.axhline(goal, color="C2", linewidth=0.8)
        each.set_xscale("log")
        counts = [count for count, _ in points]
        each.set_xticks(counts, [f"{count:,}" for count in counts])
        each.set_xticks([], minor=True)
        each.set_ylim(bottom=min(0, *(value for _, value in points)))
        each.set_title(row, fontsize=9)
        each.set_ylabel(unit, fontsize=8)
        each.tick_params(labelsize=7)
    for each in list(axes.flat)[count:]:
        each.set_visible(False)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})


def page(growth: Growth, beside: Growth) -> None:
    """Write the page of the documentation."""
    draw(growth, beside)
    table = "\n".join(
        f"| {' | '.join(cells)} |"
        for cells in (HEAD, ["---"] * len(HEAD), *growth.rows(beside))
    )
    PAGE.write_text(
        "# How cost grows\n\n"
        "The table shows what one more function, node, step, item, call or run costs "
        "when\nthere are already many. Costs are the total processor time of kernel, "
        "nodes and\nworkers on a machine with two cores, unless the row names another "
        "quantity.\n`make growth` repeats the measurement and writes this page. The "
        "figures vary with\nthe load of the machine: compare figures of the same row, "
        "and repeat the\nmeasurement before you trust a difference of less than 20 %."
        "\n\n"
        f"{table}\n\n"
        "*flat* means that the cost should not grow with N. In the figure, this "
        "version is\nblue, the version before the growth was fixed is grey, and the "
        "goal is green.\n\n"
        "![Cost of each row by N](_static/growth.svg)\n",
        encoding="utf-8",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(MEASURES), choices=MEASURES)
    parser.add_argument("--quick", action="store_true", help="the first two N alone")
    parser.add_argument("--most", type=int, help="no N beyond this")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--before", type=Path, default=BEFORE)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    growth = Growth()
    if given.save is not None and given.save.exists():
        growth = Growth.read(given.save)  # other rows stay as they were measured
    for name in given.only:
        measure, counts = MEASURES[name]
        counts = counts[:2] if given.quick else counts
        fresh = Growth()
        for row, point in measure([n for n in counts if n <= (given.most or n)]):
            fresh.take(row, point)
        growth.points |= fresh.points
        if given.save is not None:
            growth.save(given.save)
    beside = Growth.read(given.before)
    print(text(growth, beside))
    if given.page:
        page(growth, beside)


if __name__ == "__main__":
    main()
