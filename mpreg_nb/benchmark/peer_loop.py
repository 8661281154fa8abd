"""The loop that every peer runs: reads the name of a row, measures it once, answers.

Runs in the environment of the peer, by its path, and needs nothing of ours. Each peer
is three functions: call and wait; submit all and wait for them; map.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib import import_module as load
from typing import Any

import numpy as np

WORKERS = 2
REPEATS = 200
ROW_S = 0.5
"""A row is repeated for so long, and 200 times at most; its median counts."""

IN_FLIGHT = 64
ITEMS = 2000
MANY_ITEMS = 100_000
CHUNK = 1000
"""Items of so long a map that travel together, where a peer has to be told."""

MANY_S = 15.0
"""What would take longer to map over many items is not made to."""

STEPS = 8
SIZE_BYTES = 100_000_000


def same(value: Any) -> Any:
    """Return what came."""
    return value


class Pool:
    """Anything with `submit` that returns futures, and `map`."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor

    def call(self, value: Any) -> Any:
        """Call and wait."""
        return self.executor.submit(same, value).result()

    def many(self, values: Iterable[Any]) -> list[Any]:
        """Submit all of them, then wait."""
        futures = [self.executor.submit(same, value) for value in values]
        return [future.result() for future in futures]

    def map(self, values: Iterable[Any], chunk: int = 1) -> list[Any]:
        """Map in one go."""
        return list(self.executor.map(same, values, chunksize=chunk))


class Joblib:
    """joblib with its own way of calling."""

    def __init__(self, parallel: Any, delayed: Any) -> None:
        self.parallel, self.delayed = parallel, delayed

    def call(self, value: Any) -> Any:
        """Call and wait."""
        return self.parallel([self.delayed(same)(value)])[0]

    def many(self, values: Iterable[Any]) -> list[Any]:
        """Give it all of them."""
        return list(self.parallel(self.delayed(same)(value) for value in values))

    def map(self, values: Iterable[Any], chunk: int = 1) -> list[Any]:
        """Map in batches, whose size it chooses."""
        return self.many(values)


class Ray:
    """Tasks of Ray."""

    def __init__(self, ray: Any) -> None:
        self.ray, self.same = ray, ray.remote(same)

    def call(self, value: Any) -> Any:
        """Call and wait."""
        return self.ray.get(self.same.remote(value))

    def many(self, values: Iterable[Any]) -> list[Any]:
        """Submit all of them, then wait."""
        return list(self.ray.get([self.same.remote(value) for value in values]))

    def map(self, values: Iterable[Any], chunk: int = 1) -> list[Any]:
        """Submit all of them: it has no chunks."""
        return self.many(values)


class Ipyparallel:
    """A load-balanced view."""

    def __init__(self, view: Any) -> None:
        self.view = view

    def call(self, value: Any) -> Any:
        """Call and wait."""
        return self.view.apply_sync(same, value)

    def many(self, values: Iterable[Any]) -> list[Any]:
        """Submit all of them, then wait."""
        return [r.get() for r in [self.view.apply_async(same, v) for v in values]]

    def map(self, values: Iterable[Any], chunk: int = 100) -> list[Any]:
        """Map in chunks."""
        return list(self.view.map_sync(same, list(values), chunksize=chunk))


class Dask(Pool):
    """A client of `distributed`."""

    def many(self, values: Iterable[Any]) -> list[Any]:
        """Submit all of them, then wait."""
        submit = self.executor.submit
        futures = [submit(same, value, pure=False) for value in values]
        return list(self.executor.gather(futures))

    def call(self, value: Any) -> Any:
        """Call and wait."""
        return self.executor.submit(same, value, pure=False).result()

    def map(self, values: Iterable[Any], chunk: int = 1) -> list[Any]:
        """Map in batches: it has no chunks."""
        return list(self.executor.gather(self.executor.map(same, list(values))))


class Mpreg:
    """A cluster of two nodes."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def call(self, value: Any) -> Any:
        """Call and wait."""
        return self.cluster.call(same, value)

    def many(self, values: Iterable[Any]) -> list[Any]:
        """Submit all of them, then wait."""
        futures = [self.cluster.submit(same, value) for value in values]
        return [future.result() for future in futures]

    def map(self, values: Iterable[Any], chunk: int = 1) -> list[Any]:
        """Map in chunks, whose size it chooses."""
        return list(self.cluster.map(same, values))


def opened(name: str, stack: ExitStack) -> Any:
    """Return the peer of this name, started."""
    if name == "mpreg_nb":
        cluster = load("mpreg_nb").up(WORKERS, fresh=True)
        return Mpreg(stack.enter_context(cluster))
    if name == "ProcessPool":
        return Pool(stack.enter_context(ProcessPoolExecutor(WORKERS)))
    if name == "loky":
        executor = load("loky").get_reusable_executor(WORKERS)
        return Pool(stack.enter_context(executor))
    if name == "joblib":
        joblib = load("joblib")
        parallel = stack.enter_context(joblib.Parallel(n_jobs=WORKERS))
        return Joblib(parallel, joblib.delayed)
    if name == "Ray":
        ray = load("ray")
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
        stack.callback(ray.shutdown)
        return Ray(ray)
    if name == "ipyparallel":
        client = stack.enter_context(load("ipyparallel").Cluster(n=WORKERS))
        client.wait_for_engines(WORKERS)
        return Ipyparallel(client.load_balanced_view())
    client = load("distributed").Client(n_workers=WORKERS, threads_per_worker=1)
    return Dask(stack.enter_context(client))


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_s(work: Callable[[], object]) -> float:
    """Return the median time of `work`, once it has warmed up."""
    work()
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < ROW_S:
        taken.append(seconds(work))
    return sorted(taken)[len(taken) // 2]


def chain(peer: Any) -> None:
    """Call step after step, driven from here."""
    value: Any = 1
    for _ in range(STEPS):
        value = peer.call(value)


def fan_in(peer: Any) -> None:
    """Call three at once, and one with their results."""
    peer.call(peer.many(range(3)))


def many_per_s(peer: Any) -> float:
    """Map over many items, in chunks; once, since it takes long."""
    few_s = min(seconds(lambda: peer.map(range(ITEMS), CHUNK)) for _ in range(2))
    if few_s * MANY_ITEMS / ITEMS > MANY_S:
        raise TimeoutError(f"{ITEMS:,} items take {few_s:.1f} s")
    return MANY_ITEMS / seconds(lambda: peer.map(range(MANY_ITEMS), CHUNK))


def memory_mb() -> float:
    """Return what this process and all that it started hold; shared pages by share."""
    import psutil

    here = psutil.Process()
    family = (here, *here.children(recursive=True))
    return float(sum(p.memory_full_info().pss for p in family) / 1e6)


def measured(peer: Any, row: str, array: Any) -> tuple[float, str]:
    """Return the value of a row and its unit."""
    if row == "blocking call":
        return median_s(lambda: peer.call(1)) * 1e6, "us"
    if row == "64 in flight":
        return IN_FLIGHT / median_s(lambda: peer.many(range(IN_FLIGHT))), "/s"
    if row == "map of 2,000":
        return ITEMS / median_s(lambda: peer.map(range(ITEMS))), "/s"
    if row == "map of 100,000":
        return many_per_s(peer), "/s"
    if row == "chain of 8":
        return median_s(lambda: chain(peer)) * 1e6, "us"
    if row == "fan-in of 3 and 1":
        return median_s(lambda: fan_in(peer)) * 1e6, "us"
    if row == "memory":
        return memory_mb(), "MB"
    return 2 * SIZE_BYTES / median_s(lambda: peer.call(array)) / 1e9, "GB/s"


def main() -> None:
    """Say when the first result is there, then answer each line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer

    def answer(work: Callable[[], tuple[float, str]]) -> bool:
        try:
            value, unit = work()
        except Exception as error:  # noqa: BLE001  the border of a peer's code
            said: dict[str, Any] = {"error": repr(error)}
        else:
            said = {"value": value, "unit": unit}
        answers.write(json.dumps(said) + "\n")
        answers.flush()
        return "value" in said

    array = np.ones(SIZE_BYTES // 8)
    peers: list[Any] = []
    with ExitStack() as stack:

        def start() -> None:
            peers.append(opened(sys.argv[1], stack))
            peers[0].call(1)

        if answer(lambda: (seconds(start), "s")):
            for line in sys.stdin:
                answer(partial(measured, peers[0], line.strip(), array))


if __name__ == "__main__":
    main()
