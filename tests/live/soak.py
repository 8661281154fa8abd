"""A soak: many calls, runs and churn, while each kind of process is measured.

`python -m tests.live.soak 10` (`make soak MINUTES=10`) works a cluster so many minutes
long: calls, maps, workflows, functions that raise, print and end their worker,
registrations, and nodes that are removed, killed and started again. Memory, open
descriptors and threads of the kernel, of nodes and of workers, and the files of the
cluster must be flat after the first fifth of the time: nothing may leak. Before the
time begins, the nodes get as many runs as they remember, which a slow machine would
not have reached by then. Prints a table, draws a plot, and ends with 1 if something
grew.
"""

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil
import pytest

import mpreg_nb as mp
from mpreg_nb.node.workflows import REMEMBERED_RUNS
from tests.support.leaks import own_folders

Kind: TypeAlias = Literal["kernel", "node", "worker", "cluster"]
Series: TypeAlias = list[tuple[float, float]]

SHARE_TO_SETTLE = 0.2
"""Of the time: caches fill, pools grow to their size."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """How much a figure may grow from the first half of the rest to the second."""

    share: float
    more: float

    def limit(self, before: float) -> float:
        """Return the most that the second half may show."""
        return before * (1 + self.share) + self.more


ALLOWED = {
    "memory MB": Allowed(0.05, 4.0),
    "descriptors": Allowed(0.0, 3.0),
    "threads": Allowed(0.0, 2.0),
    "processes": Allowed(0.0, 1.0),
    "files": Allowed(0.0, 5.0),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one kind of process."""

    kind: str
    figure: str
    first: float
    before: float
    after: float
    limit: float

    @property
    def grew(self) -> bool:
        """Whether there is more in the second half than may be."""
        return self.after > self.limit


def judged(kind: str, figure: str, series: Series) -> Row:
    """Compare the medians of the two halves of what follows the beginning."""
    end_s = series[-1][0]
    begin_s = series[0][0] + SHARE_TO_SETTLE * (end_s - series[0][0])
    middle_s = (begin_s + end_s) / 2
    early = [value for at_s, value in series if begin_s <= at_s < middle_s]
    late = [value for at_s, value in series if at_s >= middle_s]
    before, after = statistics.median(early or [series[0][1]]), statistics.median(late)
    limit = ALLOWED[figure].limit(before)
    return Row(kind, figure, series[0][1], before, after, limit)


# ------------------------------------------------------------------------- the figures


@dataclass
class Figures:
    """What was measured, by kind of process and figure."""

    folder: Path
    series: dict[tuple[Kind, str], Series] = field(
        default_factory=lambda: defaultdict(list)
    )

    def measure(self) -> None:
        """Take all figures of this moment, of each kind those of its largest process.

        Nodes and workers are started again all the time; one node never is.
        """
        now = time.monotonic()
        by_kind: dict[Kind, list[psutil.Process]] = {"node": [], "worker": []}
        by_kind["kernel"] = [psutil.Process()]
        for process in psutil.Process().children(recursive=True):
            kind = _kind(process)
            if kind is not None:
                by_kind[kind].append(process)
        for kind, processes in by_kind.items():
            found = [one for one in map(_figures, processes) if one is not None]
            if not found:
                continue
            for figure in found[0]:
                most = max(one[figure] for one in found)
                self.series[kind, figure].append((now, most))
            self.series[kind, "processes"].append((now, float(len(found))))
        files = sum(1 for path in self.folder.rglob("*") if not path.is_dir())
        self.series["cluster", "files"].append((now, float(files)))

    def rows(self) -> list[Row]:
        """Return the verdict about each figure."""
        return [judged(kind, name, found) for (kind, name), found in self._sorted()]

    def _sorted(self) -> list[tuple[tuple[Kind, str], Series]]:
        return sorted(self.series.items())

    def draw(self, path: Path) -> None:
        """Draw each figure over time, one line for each kind of process."""
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib import pyplot as plt

        names = list(ALLOWED)
        drawing, axes = plt.subplots(
            1, len(names), figsize=(4 * len(names), 3.5), layout="constrained"
        )
        for name, axis in zip(names, axes, strict=True):
            for (kind, figure), series in self._sorted():
                if figure == name:
                    minutes = [(at_s - series[0][0]) / 60 for at_s, _ in series]
                    axis.plot(minutes, [value for _, value in series], label=kind)
            axis.set(title=name, xlabel="minutes", ylim=(0, None))
            axis.legend(fontsize="small")
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=100)
        plt.close(drawing)


def _kind(process: psutil.Process) -> Kind | None:
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    if "mpreg_nb.node" in words:
        return "node"
    return "worker" if "mpreg_nb.worker" in words else None


def _figures(process: psutil.Process) -> dict[str, float] | None:
    """Return the figures of one process; None where it has just ended."""
    try:
        return {
            "memory MB": process.memory_full_info().uss / 1e6,
            "descriptors": float(process.num_fds()),
            "threads": float(process.num_threads()),
        }
    except psutil.Error:
        return None


# ---------------------------------------------------------------------------- the work


def square(number: int) -> int:
    """Return the square, and print now and then."""
    if number % 50 == 0:
        print("square", number)  # noqa: T201 - prints are a part of the load
    return number * number


def fail(number: int) -> None:
    """Raise."""
    raise ValueError(f"no {number}")


def end_worker() -> None:
    """End the worker that runs this."""
    import os

    os._exit(3)


def large(size_bytes: int) -> bytes:
    """Return a result that stays on its node when it is that of a step."""
    return bytes(size_bytes)


KEPT_BYTES = 20_000
"""A result that stays on the node that made it, for as long as its run is remembered.
Which nodes make more of the remembered runs is chance: what they hold together must be
less than a figure may grow."""


class Load:
    """What a busy notebook does, one thing after the other, as the seed draws it."""

    def __init__(self, cluster: mp.Cluster, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self.done = 0

    def fill(self, runs: int) -> None:
        """Have the node of the entry remember so many runs."""
        for _ in range(runs):
            self._workflow()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop`."""
        deeds = (
            self._calls,
            self._calls,
            self._calls,
            self._map,
            self._workflow,
            self._failures,
            self._crash,
            self._registration,
            self._cancelled,
        )
        while not stop.is_set():
            self._chance.choice(deeds)()
            self.done += 1

    def _calls(self) -> None:
        futures = [self._cluster.submit(square, number) for number in range(200)]
        _ended(futures)

    def _map(self) -> None:
        self._try(lambda: self._cluster.map(square, range(300)))

    def _workflow(self) -> None:
        flow = self._cluster.workflow("soak")
        first = flow.step("first", large, KEPT_BYTES)
        flow.step("second", len, first)
        flow.map("items", square, over=list(range(20)))
        self._try(flow.run)

    def _failures(self) -> None:
        _ended([self._cluster.submit(fail, number) for number in range(20)])

    def _crash(self) -> None:
        _ended([self._cluster.submit(end_worker)])

    def _registration(self) -> None:
        constant = self._chance.random()
        self._try(lambda: self._cluster.call(lambda: constant))

    def _cancelled(self) -> None:
        futures = [self._cluster.submit(time.sleep, 5) for _ in range(10)]
        for future in futures:
            future.cancel()
        _ended(futures)

    def _try(self, work: Callable[[], Any]) -> None:
        """Do it; a node may be gone just then, which is a part of the churn."""
        with contextlib.suppress(mp.errors.MpregError):
            work()


def _ended(futures: Sequence[Any]) -> None:
    """Wait for all of them; how they end does not matter here."""
    for future in futures:
        with contextlib.suppress(mp.errors.MpregError, CancelledError):
            future.exception(60)


def churn(cluster: mp.Cluster, stop: threading.Event, every_s: float) -> None:
    """Remove, or kill, one node after the other, and start it again; n1 stays."""
    for number in _endless():
        if stop.wait(every_s):
            return
        node = ("n2", "n3")[number % 2]
        if number % 4 < 2:
            cluster.remove(node)
            cluster.add(node)
        else:
            cluster.kill(node)
            cluster.grow(3)


def _endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def soak(
    seconds: float, *, every_s: float, churn_s: float, seed: int = 1, runs: int = 0
) -> Figures:
    """Work a cluster for so long, and return what was measured.

    runs: that it does before.
    """
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        own_folders(Path(name), patch)
        with mp.up(3, slots=2, fresh=True) as cluster:
            figures = Figures(Path(name))
            stop = threading.Event()
            load = Load(cluster, seed)
            load.fill(runs)
            threads = [
                threading.Thread(target=load.run, args=(stop,)),
                threading.Thread(target=churn, args=(cluster, stop, churn_s)),
            ]
            for thread in threads:
                thread.start()
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                figures.measure()
                time.sleep(every_s)
            stop.set()
            for thread in threads:
                thread.join()
    return figures


def main(words: Sequence[str], *, say: Callable[[str], object] = print) -> int:
    """Soak, print and draw; return 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--plot", type=Path, default=Path("build/soak.png"))
    options = parser.parse_args(words)
    seconds = options.minutes * 60
    every_s = max(0.5, seconds / 200)
    figures = soak(seconds, every_s=every_s, churn_s=15.0, runs=REMEMBERED_RUNS)
    say(f"{'':24}{'at first':>10}{'then':>10}{'at last':>10}{'limit':>10}")
    rows = figures.rows()
    for row in rows:
        said = f"{row.first:10.1f}{row.before:10.1f}{row.after:10.1f}{row.limit:10.1f}"
        say(f"{row.kind:8}{row.figure:16}{said}{'  GREW' if row.grew else ''}")
    figures.draw(options.plot)
    grew = sum(row.grew for row in rows)
    say(f"{options.minutes:g} minutes, {grew} figures grew; plot: {options.plot}")
    return int(bool(grew))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
