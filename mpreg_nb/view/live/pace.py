"""How many calls of this client ended in each second of the last minute."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpreg_nb.client.statistics import CallRow


KEPT_S = 60
NOW_S = 5
"""The rate of now is the mean of so many seconds that are over."""


class CallRate:
    """Calls by second, of the wall clock. Made from a count that only grows."""

    def __init__(self) -> None:
        self._calls: dict[int, float] = {}  # second since 1970 -> calls
        self._count = 0
        self._at = math.nan

    def take(
        self, rows: "Callable[[], Iterable[CallRow]]", count: int, now: float
    ) -> None:
        """Take in how many calls have ended until `now`.

        rows: gives the last calls; asked the first time only.
        """
        if math.isnan(self._at):
            for row in rows():
                self._add(row.started_at + row.total_us / 1e6, 1.0)
        elif count > self._count:
            self._spread(count - self._count, max(self._at, now - KEPT_S), now)
        self._count, self._at = count, now
        oldest = math.floor(now) - KEPT_S
        for second in [second for second in self._calls if second < oldest]:
            del self._calls[second]

    def rates(self) -> list[float]:
        """Return calls a second, the newest second that is over last."""
        if math.isnan(self._at):
            return []
        newest = math.floor(self._at) - 1
        return [
            round(self._calls.get(newest - back, 0.0), 1)
            for back in range(KEPT_S - 1, -1, -1)
        ]

    @property
    def now(self) -> float:
        """Calls a second at this moment."""
        return round(sum(self.rates()[-NOW_S:]) / NOW_S, 1)

    @property
    def origin(self) -> int:
        """What changes when the rates do."""
        return math.floor(self._at) if self._calls else 0

    def _spread(self, calls: int, since: float, now: float) -> None:
        """Spread calls evenly over a stretch of time in which nobody looked."""
        length_s = now - since
        if length_s <= 0:
            self._add(now, calls)
            return
        for second in range(math.floor(since), math.floor(now) + 1):
            part_s = min(second + 1, now) - max(second, since)
            self._add(second, calls * part_s / length_s)

    def _add(self, at: float, calls: float) -> None:
        second = math.floor(at)
        self._calls[second] = self._calls.get(second, 0.0) + calls
