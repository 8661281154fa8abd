"""What calls cost on a Dask cluster, beside what the same costs with Dask alone.

`python -m tests.benchmarks.dask [--quick]` prints a table. The Dask cluster is on this
machine: two workers of one thread, then four of eight. Times include the processes of
Dask, which share the cores; so ratios say more than times.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import distributed
import numpy as np

import mpreg_nb as mp
from tests.support.dask_cluster import dask_cluster

client_of: Any = distributed.Client

MB_100 = 12_500_000  # numbers of an array


def add(a: int, b: int = 1) -> int:
    return a + b


def nap(_: int) -> None:
    time.sleep(0.05)


def make(size: int) -> Any:
    return np.ones(size)


def double(values: Any) -> Any:
    return values * 2


def total(values: Any) -> float:
    return float(values.sum())


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds `work` takes."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def show(what: str, dask_s: float, here_s: float, unit: str = "ms") -> None:
    """Print one row; times are those of one call."""
    scale = {"ms": 1e3, "s": 1.0}[unit]
    dask, here = dask_s * scale, here_s * scale
    print(f"{what:44} {dask:9.2f} {here:9.2f} {unit:3} {here / dask:5.2f}")


def calls(client: Any, cluster: mp.Cluster, rounds: int) -> None:
    """One call after the other, in turn with Dask alone."""
    cluster.register(add, "add")
    cluster.call("add", 1)
    client.submit(add, 1).result()
    dask_s, here_s = [], []
    for _ in range(rounds):
        dask_s.append(timed(lambda: client.submit(add, 1, pure=False).result()))
        here_s.append(timed(lambda: cluster.call("add", 1)))
    show("a call, median", statistics.median(dask_s), statistics.median(here_s))


def many(client: Any, cluster: mp.Cluster, count: int) -> None:
    """So many small calls."""

    def alone() -> None:
        client.gather(client.map(add, range(count), pure=False))

    dask_s = timed(alone)
    here_s = timed(lambda: cluster.map("add", range(count)))
    show(f"{count:,} small calls", dask_s, here_s, "s")
    dask_s = timed(alone)
    here_s = timed(
        lambda: [f.result() for f in [cluster.submit("add", n) for n in range(count)]]
    )
    show(f"{count:,} submitted one by one", dask_s, here_s, "s")


def large(client: Any, cluster: mp.Cluster, size: int) -> None:
    """A large argument, a large result, and large values between two workers."""
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    array = np.ones(size)
    megabytes = f"{array.nbytes / 1e6:.0f} MB"

    def argument() -> None:
        scattered = client.scatter(array, hash=False)
        client.submit(total, scattered, pure=False).result()

    def chain() -> None:
        made = client.submit(make, size, workers=workers[:1], pure=False)
        doubled = client.submit(double, made, workers=workers[1:], pure=False)
        client.submit(total, doubled, workers=workers[:1], pure=False).result()

    def flow() -> None:
        steps = cluster.workflow("chain")
        made = steps.step("make", make, size).on(node="a")
        doubled = steps.step("double", double, made).on(node="b")
        steps.step("total", total, doubled).on(node="a")
        steps.run()

    for _ in range(2):  # workers import numpy in the first round
        rows = [
            ("an argument", argument, lambda: cluster.call(total, array)),
            (
                "a result",
                lambda: client.submit(make, size, pure=False).result(),
                lambda: cluster.call(make, size),
            ),
            ("made, doubled elsewhere, summed", chain, flow),
        ]
        found = [(what, timed(alone), timed(here)) for what, alone, here in rows]
    for what, dask_s, here_s in found:
        show(f"{megabytes}: {what}", dask_s, here_s, "s")


def wide(workers: int, threads: int) -> None:
    """Many slots: naps that could all be taken at once."""
    slots = workers * threads
    with (
        dask_cluster({f"w{n}": [] for n in range(workers)}, threads=threads) as dask,
        client_of(dask.address, set_as_default=False) as client,
    ):
        began_s = time.perf_counter()
        with mp.connect(dask.url) as cluster:
            cluster.wait_for(*(f"w{n}" for n in range(workers)), timeout=120)
            cluster.map(nap, range(slots))
            print(f"{slots} workers ready after {time.perf_counter() - began_s:.1f} s")
            count = slots * 10
            dask_s = timed(lambda: client.gather(client.map(nap, range(count))))
            here_s = timed(lambda: cluster.map(nap, range(count)))
            show(f"{count} naps of 50 ms, {slots} at once (0.5 s)", dask_s, here_s, "s")


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.dask")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    share = 10 if parser.parse_args(words).quick else 1
    print(f"{'':44} {'Dask':>9} {'here':>9}     ratio")
    with (
        dask_cluster({"a": [], "b": []}) as dask,
        client_of(dask.address, set_as_default=False) as client,
        mp.connect(dask.url) as cluster,
    ):
        cluster.wait_for("a", "b", timeout=120)
        calls(client, cluster, 200 // share)
        many(client, cluster, 10_000 // share)
        large(client, cluster, MB_100 // share)
    wide(4, 8 if share == 1 else 2)


if __name__ == "__main__":
    main()
