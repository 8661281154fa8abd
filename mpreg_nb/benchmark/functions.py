"""The functions that the benchmark calls."""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

import psutil

# Names under which they are registered, on a cluster of the user perhaps.
SAME = "bench_same"
SAME_THREAD = "bench_same_thread"
GATHER = "bench_gather"
PAUSE = "bench_pause"
MEMORY = "bench_memory"


def same(value: Any) -> Any:
    """Return `value`; all other cost of a call is ours."""
    return value


def gather(*values: Any) -> int:
    """Return how many values there are."""
    return len(values)


def pause(seconds: float, speeds: Mapping[int, float]) -> int:
    """Wait as long as work of `seconds` takes here; return the process id of the node.

    speeds: process id of a node -> its speed; all others have speed 1.
    """
    node = os.getppid()
    time.sleep(seconds / speeds.get(node, 1.0))
    return node


def memory() -> tuple[float, int]:
    """Return the memory of the node of this worker in MB, and its processes.

    Memory that several processes share is divided among them (PSS) where the system
    tells it, and else counted for each.
    """
    node = psutil.Process(os.getppid())
    held = []
    for process in (node, *node.children(recursive=True)):
        # A process may end between the list and the look.
        with contextlib.suppress(psutil.NoSuchProcess):
            held.append(_memory_bytes(process))
    return sum(held) / 1e6, len(held)


def _memory_bytes(process: psutil.Process) -> int:
    if psutil.LINUX:
        return int(process.memory_full_info().pss)
    return int(process.memory_info().rss)  # of others, some systems tell only this
