"""mpreg_nb and its peers in one loop and one table, each in an environment of its own.

    python -m tests.benchmarks.peers [--rounds 3] [--only NAME ...] [--folder FOLDER]

Makes an environment for each peer with uv, the first time, and starts a process in
each. In every round each process measures every row once, in turn, so that all have
the same noise. Two workers each, a blocking user, defaults. A peer that does not
install or does not start is left out, with the reason.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
PEERS: dict[str, tuple[str, ...]] = {
    "mpreg_nb": ("-e", str(REPOSITORY)),
    "ProcessPool": (),
    "loky": ("loky",),
    "joblib": ("joblib",),
    "Ray": ("ray",),
    "ipyparallel": ("ipyparallel",),
    "Dask": ("distributed",),
}
"""Name -> what to install beside numpy and psutil."""


@dataclass
class Peer:
    """One peer: its process, and what it measured by row."""

    name: str
    process: "subprocess.Popen[str]"
    taken: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def measure(self, row: str) -> None:
        """Have the process measure a row once."""
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("it was started with pipes")
        self.process.stdin.write(f"{row}\n")
        self.process.stdin.flush()
        said: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        if "value" in said:
            self.taken.setdefault(row, []).append(said["value"])
            self.units[row] = said["unit"]
        else:
            print(f"{self.name}, {row}: {said.get('error')}", file=sys.stderr)


def environment(folder: Path, name: str, packages: tuple[str, ...]) -> Path:
    """Return the Python of an environment, made if there is none."""
    place = folder / name
    python = place / "bin" / "python"
    if not python.exists():
        uv = Path(sys.executable).with_name("uv")
        program = str(uv) if uv.exists() else "uv"
        subprocess.run(
            [program, "venv", "-q", "-p", sys.executable, str(place)], check=True
        )
        install = [program, "pip", "install", "-q", "--python", str(python)]
        subprocess.run([*install, "numpy", "psutil", *packages], check=True)
    return python


def started(folder: Path, name: str) -> Peer | str:
    """Return a peer that is ready, or why there is none."""
    try:
        python = environment(folder, name, PEERS[name])
    except (OSError, subprocess.CalledProcessError) as error:
        return f"does not install: {error}"
    process = subprocess.Popen(
        [str(python), str(HERE / "loop.py"), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "MPREG_NB_PLAIN": "1"},
    )
    if process.stdout is None:
        raise AssertionError("it was started with a pipe")
    said = process.stdout.readline()
    if not said:
        return f"does not start: exit code {process.wait()}"
    peer = Peer(name, process)
    peer.taken["start to first result"] = [json.loads(said)["value"]]
    peer.units["start to first result"] = "s"
    return peer


def table(peers: list[Peer]) -> str:
    """Return the medians of all rounds, a row a measurement."""
    rows = list(dict.fromkeys(row for peer in peers for row in peer.taken))
    lines = [f"{'':28}" + "".join(f"{peer.name:>13}" for peer in peers)]
    for row in rows:
        unit = next(peer.units[row] for peer in peers if row in peer.units)
        cells = [
            f"{statistics.median(peer.taken[row]):13,.4g}"
            if row in peer.taken
            else f"{'-':>13}"
            for peer in peers
        ]
        lines.append(f"{f'{row}, {unit}':28}{''.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "peers")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    peers = []
    for name in given.only:
        found = started(given.folder, name)
        if isinstance(found, Peer):
            peers.append(found)
        else:
            print(f"{name} {found}", file=sys.stderr)
    rows = (HERE / "rows.txt").read_text(encoding="utf-8").splitlines()
    for number in range(given.rounds):
        for row in rows:
            print(f"round {number + 1} of {given.rounds}: {row}", file=sys.stderr)
            for peer in peers:
                peer.measure(row)
    for peer in peers:
        if peer.process.stdin is not None:
            peer.process.stdin.close()
    print(table(peers))
    for peer in peers:
        peer.process.wait()


if __name__ == "__main__":
    main()
