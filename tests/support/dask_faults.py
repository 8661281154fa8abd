"""What happens to a Dask cluster in a history: its workers are killed and stopped."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import distributed

import mpreg_nb as mp
from tests.live.history import NODES, Fault, Faults, Kind, MakeFaults
from tests.support.dask_cluster import dask_cluster

BACK_S = 60.0
"""How long a Dask worker may take to come back after it was killed."""


class DaskFaults(Faults):
    """Kills and stops Dask workers; the nodes of the gateway have no such verbs."""

    def __init__(
        self, cluster: mp.Cluster, clients: Mapping[str, mp.Cluster], *, dask: Any
    ) -> None:
        """dask: a client of the Dask cluster."""
        self._dask = dask
        self._pids: dict[str, int] = {}
        super().__init__(cluster, clients)

    def _do(self, fault: Fault) -> str:
        text = f"{fault.kind} {fault.node}"
        self._note_processes()
        pid = self._pids[fault.node]
        match fault.kind:
            case "kill":
                _send(pid, signal.SIGKILL)
                self._await_another(fault.node, pid)
            case "pause":
                _send(pid, signal.SIGSTOP)
                threading.Timer(fault.seconds, _send, (pid, signal.SIGCONT)).start()
                text += f" for {fault.seconds:.1f} s"
            case _:
                text += f" for {fault.seconds:.1f} s at {self._half_open(fault)}"
        return text

    def _await_another(self, node: str, pid: int) -> None:
        """Wait until the nanny of a Dask worker has started it again."""
        deadline = time.monotonic() + BACK_S
        while self._pids.get(node, pid) == pid:
            assert time.monotonic() < deadline, f"{node} did not come back"
            time.sleep(0.1)
            self._note_processes()

    def _note_processes(self) -> None:
        with contextlib.suppress(OSError):  # a worker went while it was asked
            pids = self._dask.run(os.getpid, on_error="ignore")
            workers = self._dask.scheduler_info(n_workers=-1)["workers"]
            for address, pid in pids.items():
                if address in workers:
                    name = str(workers[address]["name"])
                    self._pids[name] = pid
                    self.processes[pid] = name


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # its nanny has ended it meanwhile
        os.kill(pid, number)


def draw_dask_faults(chance: random.Random, seconds: float) -> list[Fault]:
    """Draw what happens in so many seconds; none of it is in order."""
    faults: list[Fault] = []
    left_s = seconds
    while left_s > 0:
        kind: Kind = chance.choice(("kill", "kill", "pause", "half-open"))
        lasts_s = 0.0 if kind == "kill" else chance.uniform(0.3, 3.0)
        after_s = chance.uniform(0.5, 4.0)
        faults.append(Fault(kind, chance.choice(NODES), after_s, lasts_s))
        left_s -= after_s + lasts_s / 2 + (4.0 if kind == "kill" else 0.0)
    return faults


@contextmanager
def cluster_on_dask() -> Iterator[tuple[mp.Cluster, MakeFaults]]:
    """Have a Dask cluster with `NODES` as its workers, and the gateway to it."""
    client_of: Any = distributed.Client
    with (
        dask_cluster({name: [] for name in NODES}) as dask,
        mp.connect(dask.url) as cluster,
        client_of(dask.address, set_as_default=False) as client,
    ):
        cluster.wait_for(*NODES, timeout=BACK_S)
        yield cluster, partial(DaskFaults, dask=client)
