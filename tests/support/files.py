"""Files with which a test and its functions in other processes wait for each other."""

import time
from pathlib import Path


def wait_for_file(begun: str, go_on: str) -> str:
    """Report that it runs, wait for the second file, return the process group."""
    import pathlib
    import time

    pathlib.Path(begun).touch()
    while not pathlib.Path(go_on).exists():
        time.sleep(0.01)
    return "done"


def until_exists(path: Path, bound_s: float = 20.0) -> None:
    end = time.monotonic() + bound_s
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.01)
