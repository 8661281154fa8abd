"""One timer of the event loop that follows a deadline, however often it moves."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def run_each(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Call `work` with each item; what one raises does not keep it from the others.

    It goes to the exception handler of the loop.
    """
    for item in items:
        try:
            work(item)
        except Exception as error:  # noqa: BLE001 - told, and the others must go on
            context = {"message": f"{work!r} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


class DeadlineTimer:
    """Calls `ring(now)` at or after the moment that was set last.

    Setting a later moment costs nothing: the timer rings at the earlier one, and
    whoever is rung looks at its own deadline and sets the alarm again.
    """

    def __init__(self, ring: Callable[[float], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._stopped = False

    def set(self, due: float) -> None:
        """Ring by `due` (on the monotonic clock); infinity asks for nothing."""
        if due >= self._due or self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        delay_s = max(0.0, due - time.monotonic())
        self._timer = self._loop.call_later(delay_s, self._call)

    def stop(self) -> None:
        """Never ring again."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _call(self) -> None:
        self._timer = None
        self._due = math.inf
        self._ring(time.monotonic())
