"""Runs source as a notebook does: compiled under a file name of its own."""

import linecache
from itertools import count
from typing import Any

_numbers = count(1)


def run_cell(source: str, space: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a cell in `space`, or in a fresh one; return it.

    Every run gets another file name, as in a kernel that was started again.
    """
    filename = f"/nowhere/ipykernel_{next(_numbers)}/cell.py"
    space = {"__name__": "__main__"} if space is None else space
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    exec(compile(source, filename, "exec"), space)  # noqa: S102  cells of tests
    return space
