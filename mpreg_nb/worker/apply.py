"""What an executor runs: a function that came along with its arguments."""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from mpreg_nb.wire.payload import pack, unpack

MOST_PREPARED = 1000
"""Executors whose initializers a worker remembers; the oldest are forgotten."""

_prepared: dict[bytes, None] = {}
_preparing = threading.Lock()


class Initializer:
    """A function that runs once in each worker, before what an executor sends there."""

    def __init__(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Take `function` as it is now.

        Raises:
            NotPicklable: it, or one of its arguments, cannot travel.
        """
        self._key = os.urandom(16)
        packed = pack((function, args), name="initializer")
        self._parts = tuple(map(bytes, packed))  # pickled once, not with each call

    def run_once(self) -> None:
        """Run the function, unless it has run in this process.

        Raises what it raises; then it runs again before the next call.
        """
        with _preparing:
            if self._key in _prepared:
                return
            function, args = unpack(self._parts, name="initializer")
            function(*args)
            _prepared[self._key] = None
            if len(_prepared) > MOST_PREPARED:
                del _prepared[next(iter(_prepared))]


def apply(
    function: Callable[..., Any],
    args: Iterable[Any],
    kwargs: Any,
    initializer: Initializer | None = None,
) -> Any:
    """Return `function(*args, **kwargs)`."""
    if initializer is not None:
        initializer.run_once()
    return function(*args, **kwargs)


def apply_each(
    function: Callable[..., Any],
    items: Iterable[tuple[Any, ...]],
    initializer: Initializer | None = None,
) -> list[Any]:
    """Return `function(*item)` for each of `items`."""
    if initializer is not None:
        initializer.run_once()
    return [function(*item) for item in items]
