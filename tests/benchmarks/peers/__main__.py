"""mpreg_nb and its peers in one loop and one table, each in an environment of its own.

    python -m tests.benchmarks.peers [--rounds 3] [--only NAME ...] [--folder FOLDER]

Makes an environment for each peer with uv, the first time. A peer that does not
install or does not start is left out, with the reason. `mpreg-nb bench --peers` does
the same with the peers that are installed beside mpreg_nb.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from mpreg_nb.benchmark.peers import MODULES, compared
from mpreg_nb.view.benchmark import peers_table

REPOSITORY = Path(__file__).parents[3]
PACKAGES = {"mpreg_nb": ("-e", str(REPOSITORY)), "ProcessPool": ()}
"""What to install beside numpy and psutil, where it is not the module."""


def environment(folder: Path, name: str) -> str:
    """Return the Python of an environment, made if there is none."""
    place = folder / name
    python = place / "bin" / "python"
    if not python.exists():
        uv = Path(sys.executable).with_name("uv")
        program = str(uv) if uv.exists() else "uv"
        subprocess.run(
            [program, "venv", "-q", "-p", sys.executable, str(place)], check=True
        )
        packages = PACKAGES.get(name, (MODULES[name],))
        install = [program, "pip", "install", "-q", "--python", str(python)]
        subprocess.run([*install, "numpy", "psutil", *packages], check=True)
    return str(python)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(MODULES), choices=MODULES)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "peers")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pythons = {}
    for name in given.only:
        try:
            pythons[name] = environment(given.folder, name)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"{name} does not install: {error}")
    rows = compared(pythons, rounds=given.rounds, only="", progress=say)
    print("\n".join(peers_table(rows)))


if __name__ == "__main__":
    main()
