"""Where the measured series of the demos are: inside packages of the extra `demo`."""

import csv
import importlib.util
from pathlib import Path


def require(*packages: str) -> None:
    """Raise ModuleNotFoundError, with the cure, for the first package that is missing.

    >>> require("csv")
    >>> require("csv", "no_such_package")
    Traceback (most recent call last):
        ...
    ModuleNotFoundError: this demo needs no_such_package: pip install 'mpreg_nb[demo]'
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"this demo needs {package}: pip install 'mpreg_nb[demo]'"
            )


def measured(series: str) -> list[list[str]]:
    """Return the rows of a series of statsmodels as they stand in its file."""
    require("statsmodels")
    package = importlib.util.find_spec("statsmodels")  # importing it takes a second
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise ModuleNotFoundError("statsmodels is there, but without its data")
    path = Path(folders[0], "datasets", series, f"{series}.csv")
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]
