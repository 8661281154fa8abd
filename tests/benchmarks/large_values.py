"""An array of 100 MB to a function and back, beside raw TCP in the same run.

    python -m tests.benchmarks.large_values [--mb 100] [--rounds 5] [--sockets]

Prints GB/s there and back (both ways count), of raw TCP between two processes, of a
function that returns what it got, and of one that returns a new array; then how long
small calls of the same kernel take while arrays move, and how much memory the
processes hold. With --sockets, shared memory is switched off.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import psutil

import mpreg_nb as mp
from mpreg_nb.benchmark.raw_tcp import RawTcp


def same(value: Any) -> Any:
    """Return what came."""
    return value


def another(value: Any) -> Any:
    """Return an array of the same size, made once, that was not sent here."""

    kept = vars(sys).get("_mpreg_kept_array")
    if kept is None or kept.size != value.size:
        kept = vars(sys)["_mpreg_kept_array"] = value + 1
    return kept


def small(value: int) -> int:
    """Return what came, which is small."""
    return value


def rates(once: Callable[[], object], rounds: int, moved_bytes: int) -> list[float]:
    """Return GB/s of each round."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        once()
        found.append(moved_bytes / (time.perf_counter() - began) / 1e9)
    return found


def shown(name: str, found: list[float], unit: float) -> str:
    """Return one line of the table; `unit` is the rate of raw TCP."""
    middle = statistics.median(found)
    return (
        f"{name:32} {middle:6.2f} GB/s  {middle / unit:5.2f} x raw TCP   "
        f"{min(found):.2f} to {max(found):.2f}"
    )


def latencies_ms(cluster: mp.Cluster, meanwhile: Callable[[], object]) -> list[float]:
    """Return how long small calls took until `meanwhile` had ended."""
    over = threading.Event()

    def work() -> None:
        try:
            meanwhile()
        finally:
            over.set()

    thread = threading.Thread(target=work)
    thread.start()
    taken = []
    while not over.is_set():
        began = time.perf_counter()
        cluster.call("small", 1)
        taken.append((time.perf_counter() - began) * 1e3)
    thread.join()
    return sorted(taken)


def memory_mb() -> list[tuple[str, float]]:
    """Return what this process and its children hold, shared pages by their share."""
    here = psutil.Process()
    return [
        (process.name(), process.memory_full_info().pss / 1e6)
        for process in (here, *here.children(recursive=True))
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sockets", action="store_true")
    given = parser.parse_args()
    if given.sockets:
        mp.config("shared_memory_mb", 0)
    array = np.random.default_rng(1).random(given.mb * 1_000_000 // 8)
    moved = 2 * array.nbytes
    tcp = RawTcp(array.nbytes)
    with mp.up({"large": "large", "small": "small"}) as cluster:
        for function in (same, another):
            cluster.register(function, resources={"large"})
        cluster.register(small, resources={"small"})
        cases: dict[str, Callable[[], object]] = {
            "raw TCP": tcp.gb_per_s,
            "the same array back": lambda: cluster.call("same", array),
            "a new array back": lambda: cluster.call("another", array),
        }
        found: dict[str, list[float]] = {name: [] for name in cases}
        for once in cases.values():
            once()
        for _ in range(given.rounds):  # in turn, so that all have the same noise
            for name, once in cases.items():
                found[name] += rates(once, 1, moved)
        unit = statistics.median(found["raw TCP"])
        for name, each in found.items():
            print(shown(name, each, unit))
        for name in ("the same array back", "a new array back"):
            again = partial(rates, cases[name], given.rounds, moved)
            taken = latencies_ms(cluster, again)
            p50, p99 = statistics.median(taken), taken[int(len(taken) * 0.99)]
            said = f"p50 {p50:.2f} ms, p99 {p99:.1f} ms, of {len(taken)}"
            print(f"small calls meanwhile ({name}): {said}")
        held = [f"{name} {mb:.0f}" for name, mb in memory_mb()]
        print(f"memory, MB (PSS): {', '.join(held)}")
    tcp.close()


if __name__ == "__main__":
    main()
