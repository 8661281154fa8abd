"""A Dask cluster of processes for tests, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PROGRAM = """
import json, sys
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(dashboard_address=None, **json.loads(sys.argv[1])) as cluster:
        print(cluster.scheduler_address, flush=True)
        for line in sys.stdin:
            cluster.scale(int(line))
"""


class DaskCluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process = process
        self.address = address

    @property
    def url(self) -> str:
        """What `connect` takes."""
        return self.address.replace("tcp://", "dask://")

    def scale(self, workers: int) -> None:
        """Have so many workers, sooner or later."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{workers}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End the scheduler at once; its workers end with it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def dask_cluster(**options: Any) -> Iterator[DaskCluster]:
    """Have a Dask cluster until the end of the block; options of `LocalCluster`."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Dask logs much that is in order
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "the Dask cluster did not start"
            yield DaskCluster(process, address)
        finally:
            if process.poll() is None:
                process.communicate()  # closes its input, which ends it
            with suppress(ProcessLookupError):  # what it should have ended itself
                os.killpg(process.pid, signal.SIGKILL)
