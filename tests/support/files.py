"""Files with which a test and its functions in other processes wait for each other."""

from pathlib import Path

from tests.support.until import until


def wait_for_file(begun: str, go_on: str) -> str:
    """Report that it runs, wait for the second file, return the process group."""
    import pathlib
    import time

    pathlib.Path(begun).touch()
    while not pathlib.Path(go_on).exists():
        time.sleep(0.01)
    return "done"


def until_exists(path: Path) -> None:
    until(path.exists)
