"""Keeps the processors awake, so that a ping-pong measures programs.

A virtual processor that has halted takes tens of microseconds to wake, which
would be most of what an echo costs. A process of the lowest class that spins on
each processor keeps them awake and gives way to everything else.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_SPIN = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(200_000):
        pass
"""


@contextlib.contextmanager
def awake() -> Iterator[bool]:
    """Keep all processors awake inside; yields whether this system can."""
    if not hasattr(os, "SCHED_IDLE"):
        yield False
        return
    spinners = [
        subprocess.Popen([sys.executable, "-S", "-c", _SPIN, str(processor)])  # noqa: S603
        for processor in sorted(os.sched_getaffinity(0))
    ]
    try:
        yield True
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()
