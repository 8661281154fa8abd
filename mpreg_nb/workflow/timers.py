"""When attempts are to be ended or repeated: a heap that forgets what is over."""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from mpreg_nb.workflow.states import Part


class Timer(NamedTuple):
    """Compared by its first two fields; `order` is never the same twice."""

    at_s: float
    order: int
    step: str
    attempt: int
    after_s: float
    rested: bool  # the next attempt may be sent; else: the time of this one is up
    part: Part = "call"


class Timers:
    """Timers of attempts. `still_wanted` says which of them have not been overtaken.

    An attempt that ends leaves its timer behind, to be dropped when it comes up:
    that costs nothing at the end of the attempt.
    """

    def __init__(self, still_wanted: Callable[[Timer], bool]) -> None:
        self._still_wanted = still_wanted
        self._heap: list[Timer] = []
        self._order = count()

    def add(
        self,
        now: float,
        after_s: float,
        step: str,
        attempt: int,
        *,
        rested: bool,
        part: Part = "call",
    ) -> None:
        """Wake `after_s` from now."""
        order = next(self._order)
        timer = Timer(now + after_s, order, step, attempt, after_s, rested, part)
        heapq.heappush(self._heap, timer)

    @property
    def deadline(self) -> float:
        """When the next one is due; infinity where there is none."""
        while self._heap and not self._still_wanted(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0].at_s if self._heap else math.inf

    def pop(self) -> Timer:
        """Take the next one, as of the `deadline` that was read last."""
        return heapq.heappop(self._heap)
