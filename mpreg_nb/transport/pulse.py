"""Notice that the other end of a link is gone though nothing said so.

A machine that loses power or a cable sends no goodbye. One timer per link looks
every `ping_s` whether anything came; if not it pings, and if there is nothing
by the next look either, the link is dead.
"""

import asyncio
from collections.abc import Callable


class Pulse:
    """Watches one link from `start` to `stop`."""

    def __init__(
        self,
        ping_s: float,
        *,
        bytes_in: Callable[[], int],
        ping: Callable[[], None],
        on_dead: Callable[[str], None],
    ) -> None:
        self._ping_s = ping_s
        self._bytes_in = bytes_in
        self._ping = ping
        self._on_dead = on_dead
        self._loop = asyncio.get_running_loop()
        self._seen = 0
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look."""
        self._seen = self._bytes_in()
        self._timer = self._loop.call_later(self._ping_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        seen, self._seen = self._seen, self._bytes_in()
        silent = seen == self._seen
        if silent and self._pinged:
            self._on_dead(f"no sign of life for {2 * self._ping_s:g} s")
            return
        if silent:
            self._ping()
        self._pinged = silent
        self._timer = self._loop.call_later(self._ping_s, self._look)
