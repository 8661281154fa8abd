"""Many deadlines, one alarm: a heap instead of a timer for each call."""

import heapq
import math


class Deadlines:
    """Keys with the moments at which they fall due.

    Moments are seconds of any monotonic clock. Taking a key out is lazy: its
    entry leaves the heap when it comes up, or when dead entries outnumber live.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, bytes]] = []
        self.due: dict[bytes, float] = {}
        """When each key falls due. To be changed by this class alone."""

    def __len__(self) -> int:
        return len(self.due)

    @property
    def next(self) -> float:
        """The earliest moment at which `tick` has something to tell, or inf."""
        heap = self._heap
        while heap and self.due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def add(self, key: bytes, due: float) -> None:
        """Let `key` fall due at `due`, instead of any moment set before."""
        self.due[key] = due
        heapq.heappush(self._heap, (due, key))

    def drop(self, key: bytes) -> None:
        """Forget `key`; unknown keys are no error."""
        if self.due.pop(key, None) is None:
            return
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self.due):
            self._heap = [(due, key) for key, due in self.due.items()]
            heapq.heapify(self._heap)

    def tick(self, now: float) -> list[bytes]:
        """Return the keys that are due, earliest first, and forget them."""
        fallen: list[bytes] = []
        while self.next <= now:
            _, key = heapq.heappop(self._heap)
            del self.due[key]
            fallen.append(key)
        return fallen
