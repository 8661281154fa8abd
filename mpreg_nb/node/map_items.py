"""Which items of a map in a workflow go to a node next, and how many together.

Items whose calls are short travel in chunks, see `serialize.chunks`. The first go one
by one: the sizes of chunks follow their run times. So do large items, those that are
sent again after a failure, and all while one of the last ones took long.
Chunks get smaller towards the end, so that all workers end at about the same time.
"""

from collections import deque
from collections.abc import Collection, Sequence
from itertools import islice

from mpreg_nb.protocol.messages import ResultRef
from mpreg_nb.serialize.chunks import (
    CHUNK_BYTES,
    CHUNKS_AHEAD,
    LAST_TIMES,
    LONGEST_S,
    ChunkSizes,
)

PROBES = 8
"""Items that go one by one at first, or more where there are many slots."""

KNOWN_TIMES = 4
"""Of them, before the first chunk: the first call of each worker takes longer."""

PROBE_S = 0.02
"""How long to wait for these before more items go one by one: they may all be long."""


class MapItems:
    """The items of one map that wait to be sent."""

    def __init__(self, chunk_s: float, slots: int) -> None:
        """slots: how many calls all nodes that fit run at once."""
        self.waiting: dict[int, int] = {}
        """Item -> attempt, in the order to send them."""
        self.one_by_one = False
        """Whether a chunk could not begin: each item says by itself why."""
        self.gave_up_probing = False
        """Whether the first run times come too late to wait for them."""
        self._most_chunks = CHUNKS_AHEAD * slots
        self._sizes = ChunkSizes(chunk_s, slots)
        self._last_s: deque[float] = deque(maxlen=LAST_TIMES)
        self._probes = max(PROBES, 2 * slots)
        self._unknown = KNOWN_TIMES
        self._chunks = 0  # under way

    @property
    def is_probing(self) -> bool:
        """Whether it waits for the first run times, to know how large chunks are."""
        return self._unknown > 0 and not (self._probes or self.gave_up_probing)

    def take(self, packed: Sequence[bytes | ResultRef]) -> tuple[int, ...]:
        """Take the items of the next call out; () if it is to be sent later.

        packed: all items of the map.
        """
        size = self._next_size()
        taken: list[int] = []
        size_bytes = 0
        for item, attempt in islice(self.waiting.items(), size):
            data = packed[item]
            if attempt > 1 or not isinstance(data, bytes):
                taken = taken or [item]
                break
            taken.append(item)
            size_bytes += len(data)
            if size_bytes > CHUNK_BYTES:
                break
        for item in taken:
            del self.waiting[item]
        self._probes = max(0, self._probes - len(taken))
        self._chunks += len(taken) > 1
        return tuple(taken)

    def _next_size(self) -> int:
        if self._probes or self.one_by_one:
            return 1
        if self.is_probing:
            return 0
        if any(run_s > LONGEST_S for run_s in self._last_s):
            return 1
        size = self._sizes.next(len(self.waiting))
        return 0 if size > 1 and self._chunks >= self._most_chunks else size

    def over(self, count: int) -> None:
        """Note that a call of so many items has ended."""
        self._chunks -= count > 1

    def took(self, run_us: Collection[int]) -> None:
        """Learn from the run times of the items of one call."""
        if run_us:
            self._unknown -= 1
            self._sizes.took(len(run_us), sum(run_us) / 1e6)
            self._last_s.append(max(run_us) / 1e6)
