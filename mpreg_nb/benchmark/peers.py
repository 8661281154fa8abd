"""The same work with mpreg_nb and with its peers, each in a process of its own.

In each round every process measures a row once, in turn, so that all have the same
noise; before that each is started as often, in turn too. Two workers each, a user that
waits, defaults. `peer_loop.py` is what they run.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import psutil

from mpreg_nb.view.benchmark import PeerRow

MODULES: Mapping[str, str] = {
    "mpreg_nb": "mpreg_nb",
    "ProcessPool": "concurrent.futures",
    "loky": "loky",
    "joblib": "joblib",
    "Ray": "ray",
    "ipyparallel": "ipyparallel",
    "Dask": "distributed",
}
"""Name -> what it needs."""

ROWS = (
    *("blocking call", "64 in flight", "map of 2,000", "map of 100,000"),
    *("chain of 8", "fan-in of 3 and 1", "100 MB there and back", "memory"),
)
START = "start to first result"
LOOP = Path(__file__).with_name("peer_loop.py")
TRIES = 2
"""Some peers do not always start in time on a busy machine."""

END_S = 20.0
LEFT_S = 2.0
"""How long processes of a peer may outlive it."""

LONGEST_S = 120.0
"""What a peer takes longer for, it does not do any more: it is ended."""


def pythons() -> dict[str, str]:
    """Return name -> this Python, for each peer that is installed beside mpreg_nb."""
    return {
        name: sys.executable
        for name, module in MODULES.items()
        if find_spec(module) is not None
    }


class Peer(msgspec.Struct):
    """One peer: its process, and what it measured by row."""

    name: str
    process: "subprocess.Popen[str]"
    taken: dict[str, list[float]] = {}
    units: dict[str, str] = {}

    @classmethod
    def started(cls, name: str, python: str, starts: list[float]) -> "Peer":
        """Start the process of a peer; starts: what earlier ones took, and this one."""
        process = subprocess.Popen(  # noqa: S603  this Python, or one of a developer
            [python, str(LOOP), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "MPREG_NB_PLAIN": "1"},
        )
        return cls(name, process, {START: starts})

    def hear(self, row: str) -> str:
        """Take what the process answers; return why it did not measure, or ""."""
        if self.process.stdout is None:
            raise AssertionError("it was started with a pipe")
        limit = threading.Timer(LONGEST_S, self.process.kill)
        limit.start()
        try:
            line = self.process.stdout.readline()
        finally:
            limit.cancel()
        if not line:
            return f"ended with exit code {self.process.wait()}"
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            return str(said["error"])
        self.taken.setdefault(row, []).append(said["value"])
        self.units[row] = said["unit"]
        return ""

    def measure(self, row: str) -> str:
        """Have the process measure a row once; return why it did not, or ""."""
        if self.process.stdin is None:
            raise AssertionError("it was started with a pipe")
        try:
            self.process.stdin.write(f"{row}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return f"ended with exit code {self.process.wait()}"
        return self.hear(row)

    def end(self) -> None:
        """End the process, and what it started: some peers leave processes behind."""
        family: list[psutil.Process] = []
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for left in psutil.wait_procs(family, LEFT_S)[1]:
            with suppress(psutil.NoSuchProcess):
                left.kill()

    def rows(self) -> Iterator[PeerRow]:
        """Yield what was measured, over all rounds."""
        for row, values in self.taken.items():
            yield PeerRow(
                row=row,
                peer=self.name,
                unit=self.units[row],
                value=statistics.median(values),
                value_min=min(values),
                value_max=max(values),
            )


def compared(
    pythons: Mapping[str, str],
    *,
    rounds: int,
    only: str,
    progress: Callable[[str], object],
) -> tuple[PeerRow, ...]:
    """Measure the rows with `only` in their names with each of the peers.

    pythons: name of a peer -> the Python that has it. One that does not start is left
    out, and `progress` is told why.
    """
    rows: Sequence[str] = [row for row in ROWS if only in row]
    starts: dict[str, list[float]] = {name: [] for name in pythons}
    peers: list[Peer] = []
    with ExitStack() as stack:
        for number in range(1, rounds + 1):
            for name in list(starts):
                progress(f"peers: starting {name}, {number} of {rounds}")
                for _ in range(TRIES):
                    peer = Peer.started(name, pythons[name], starts[name])
                    stack.callback(peer.end)
                    if not (why := peer.hear(START)):
                        break
                    peer.end()
                if why:
                    progress(f"peers: {name} is left out: {why}")
                    del starts[name]
                elif number < rounds:
                    peer.end()
                else:
                    peers.append(peer)
        for number in range(1, rounds + 1):
            for row in rows:
                progress(f"peers, round {number} of {rounds}: {row}")
                for peer in peers:
                    if why := peer.measure(row):
                        progress(f"peers: {peer.name} has no {row}: {why}")
    found = [row for peer in peers for row in peer.rows()]
    order = [*(row for row in (START, *rows) if only in row)]
    found = [row for row in found if row.row in order]
    return tuple(sorted(found, key=lambda row: order.index(row.row)))
