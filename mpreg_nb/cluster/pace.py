"""How fast something goes, and how long it will still take."""

from collections import deque

SHARE = 0.5
"""Of the time so far: the rate is that of this latest part, so that it follows."""

NOTES = 200
"""So many notes are kept of the time so far; more would tell nothing more."""

LEAST_ENDED = 3
"""With fewer ends nobody can tell how long the others will take."""


class Pace:
    """The rate of a count that grows. All times are of one monotonic clock."""

    def __init__(self, began: float, ended: int = 0) -> None:
        """`ended` is what the count was at the time `began`."""
        self._began = began
        self._first = ended
        self._notes: deque[tuple[float, int]] = deque([(began, ended)])
        self._latest = (began, ended)

    def note(self, ended: int, now: float) -> None:
        """Take in the count at the time `now`."""
        self._latest = (now, ended)
        elapsed_s = now - self._began
        if now - self._notes[-1][0] >= elapsed_s / NOTES:
            self._notes.append(self._latest)
        # The oldest note that is kept is the last before the latest part.
        while len(self._notes) > 1 and self._notes[1][0] <= now - SHARE * elapsed_s:
            self._notes.popleft()

    @property
    def per_s(self) -> float:
        """How many ended in a second, in the latest half of the time so far.

        Of the whole time, where too few ended in that half.
        """
        now, ended = self._latest
        at, before = self._notes[0]
        if ended - before < LEAST_ENDED:
            return self.mean_per_s
        return (ended - before) / max(1e-9, now - at)

    @property
    def mean_per_s(self) -> float:
        """How many ended in a second, in all the time so far."""
        now, ended = self._latest
        return max(0, ended - self._first) / max(1e-9, now - self._began)

    def left_s(self, total: int) -> float | None:
        """Return the seconds until `total` have ended; None if nobody can tell."""
        left = total - self._latest[1]
        if left <= 0 or self._latest[1] - self._first < LEAST_ENDED:
            return None
        return left / self.per_s


def per_second(rate: float) -> str:
    """Return a rate as it is read; nothing if it is none.

    >>> per_second(1234.5), per_second(83.2), per_second(0.456), per_second(0.0)
    ('1,234/s', '83/s', '0.46/s', '')
    """
    if rate <= 0:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
