"""The environment of node and worker processes: standard files and thread limits.

OpenMP, BLAS and Numba start one thread for each core of the machine. Several workers
on one machine would slow each other down, so they share the cores.
"""

import os
import sys
from collections.abc import MutableMapping


def fill_standard_files() -> None:
    """Open the null device in the place of standard files that are closed.

    Else a socket or pipe of ours would become standard input, output or error:
    what is printed would go to a node, and a child could not inherit it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def have_standard_files() -> None:
    """Let this process print also where it was started without standard files."""
    fill_standard_files()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def share_cores(environment: MutableMapping[str, str], workers: int) -> None:
    """Let each of so many workers use its part of the cores, at least one.

    What the user has set stays.
    """
    for name in VARIABLES:
        environment.setdefault(name, str(max(1, _cores() // max(1, workers))))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # a container may allow only some
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
