"""A Dask cluster of processes for tests, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

PROGRAM = """
import json, sys
from distributed import Nanny, Scheduler, Security, SpecCluster

if __name__ == "__main__":
    workers, threads, port, secure = json.loads(sys.argv[1])
    security = Security.temporary() if secure else Security()
    protocol = "tls://" if secure else "tcp://"
    common = {"protocol": protocol, "security": security, "dashboard": False}

    def worker(resources):
        held = dict.fromkeys(resources, 1)
        options = {"nthreads": threads, "resources": held, **common}
        return {"cls": Nanny, "options": options}

    place = {"host": "127.0.0.1", "port": port}
    with SpecCluster(
        workers={name: worker(held) for name, held in workers.items()},
        scheduler={"cls": Scheduler, "options": {**place, **common}},
        worker=worker([]),
        security=security,
    ) as cluster:
        fields = {name: getattr(security, name) for name in security.__slots__}
        fields = {name: value for name, value in fields.items() if value}
        ready = {"address": cluster.scheduler_address, "security": fields}
        print(json.dumps(ready), flush=True)
        sys.stdin.read()
"""


class DaskCluster:
    """A scheduler and its workers, each a process."""

    def __init__(
        self, process: "subprocess.Popen[str]", address: str, security: dict[str, Any]
    ) -> None:
        self._process = process
        self.address = address
        self.security = security

    @property
    def url(self) -> str:
        """What `connect` takes."""
        return self.address.replace("tcp://", "dask://")

    def kill(self) -> None:
        """End the scheduler at once; its workers end with it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def dask_cluster(
    workers: Mapping[str, Sequence[str]],
    *,
    threads: int = 1,
    port: int = 0,
    secure: bool = False,
) -> Iterator[DaskCluster]:
    """Have a Dask cluster until the end of the block.

    workers: name -> resources.
    threads: of each worker.
    """
    options = json.dumps([workers, threads, port, secure])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Dask logs much that is in order
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the Dask cluster did not start"
            yield DaskCluster(process, **json.loads(line))
        finally:
            if process.poll() is None:
                process.communicate()  # closes its input, which ends it
            with suppress(ProcessLookupError):  # what it should have ended itself
                os.killpg(process.pid, signal.SIGKILL)
