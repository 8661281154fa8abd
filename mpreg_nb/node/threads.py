"""How many threads numeric libraries start in one worker.

OpenMP, BLAS and Numba start one for each core of the machine. Several workers on
one machine would then hold each other up, so they share the cores.
"""

import os
from collections.abc import MutableMapping

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
