"""`display` in functions of a notebook: a builtin there, so also in workers."""

from typing import Any


def display(*objects: Any, **_: Any) -> None:
    """Print objects, so that the cell which made the call shows their texts."""
    for value in objects:
        print(repr(value))  # noqa: T201  prints of a function are shown in its cell
