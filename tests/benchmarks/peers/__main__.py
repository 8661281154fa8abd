"""mpreg_nb and its peers in one loop and one table, each in an environment of its own.

    python -m tests.benchmarks.peers [--rounds 5] [--only NAME ...] [--rows TEXT]
        [--folder FOLDER]

Makes an environment for each peer with uv, the first time. A peer that does not
install or does not start is left out, with the reason, as is a row that would take
it too long. All figures are medians over the rounds, in which the peers take turns.
`make peers` does all of it; `mpreg-nb bench --peers` does the same with the peers that
are installed beside mpreg_nb.
"""

import argparse
import subprocess
import sys
import time
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
    whole = place / "installed"  # an install that was interrupted is done again
    if not whole.exists():
        uv = Path(sys.executable).with_name("uv")
        program = str(uv) if uv.exists() else "uv"
        subprocess.run(
            [program, "venv", "-q", "--clear", "-p", sys.executable, str(place)],
            check=True,
        )
        packages = PACKAGES.get(name, (MODULES[name],))
        install = [program, "pip", "install", "-q", "--python", str(python)]
        subprocess.run([*install, "numpy", "psutil", *packages], check=True)
        whole.touch()
    return str(python)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(MODULES), choices=MODULES)
    parser.add_argument("--rows", default="", help="only rows with this text")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "peers")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pythons = {}
    began = time.monotonic()
    for name in given.only:
        try:
            pythons[name] = environment(given.folder, name)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"{name} does not install: {error}")
    say(f"installed after {time.monotonic() - began:.0f} s")
    rows = compared(pythons, rounds=given.rounds, only=given.rows, progress=say)
    print("\n".join(peers_table(rows)))
    say(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
