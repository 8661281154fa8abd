"""Calls of a map that travel as one: arguments on the way there, outcomes back.

To send a short call takes longer than to run it, so items of a map travel in chunks.
A chunk is one call to all on the way: it has one id and one fate. Its items are
pickled one by one, as calls of their own would be: they share no object. Large
arguments that all calls of a map have in common are an input of the chunk. Items run
one after the other. The outcome has a result for each item that ran to its end, then
the failure of the next one, if that is why it ends. What comes after has certainly not
run, and its caller sends it again.

Items of a map in a workflow travel so too. Their arguments are pickled once, with a
reference to the item, and the chunk brings the items beside them.
"""

import statistics
from collections import deque

import msgspec

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Failure
from mpreg_nb.protocol.worker import JobFailed

MOST_ITEMS = 256
"""Of one chunk. Larger ones are no faster."""

CHUNK_BYTES = 512 * 1024
"""Arguments of one chunk."""

CHUNKS_AHEAD = 4
"""Chunks in progress for each slot."""

PROBE_S = 0.003
"""How long a map waits for the first run time before it sends more calls one by one."""

LONGEST_S = 0.1
"""A chunk that has run for so long begins no more items."""

LAST_TIMES = 5
"""Run times of calls and chunks that the size of the next chunk follows."""


class ChunkSizes:
    """How many items the next chunk has, by the last run times.

    The median of them: where a processor does other things, some take long.
    """

    def __init__(self, chunk_s: float, slots: int) -> None:
        self._chunk_s = chunk_s
        self._slots = slots
        self._last_s: deque[float] = deque(maxlen=LAST_TIMES)
        self.item_s: float | None = None
        """Expected time of one item; None before the first is known."""

    def took(self, items: int, run_s: float) -> None:
        """Take the run time of so many items into account.

        >>> sizes = ChunkSizes(chunk_s=0.005, slots=2)
        >>> sizes.took(1, 100e-6)
        >>> sizes.next(left=None), sizes.next(left=100), sizes.next(left=1)
        (50, 25, 1)
        """
        self._last_s.append(run_s / items)
        self.item_s = statistics.median(self._last_s)

    def next(self, left: int | None) -> int:
        """Return the size of the next chunk; `left`: items to send, if known."""
        if self.item_s is None:
            return 1
        most = int(self._chunk_s / max(self.item_s, 1e-6))
        if left is not None:  # each slot has several chunks yet to come
            most = min(most, -(-left // (2 * self._slots)))
        return max(1, min(most, MOST_ITEMS))


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """The calls of a chunk: what each is given."""

    items: list[bytes]
    call: bytes = b""
    """Arguments of all calls, which refer to the item as to the first input; "": each
    item is the arguments of its call."""


class ChunkOutcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of the items of a chunk, in their order."""

    results: list[bytes]
    run_us: list[int]  # of each item that has a result
    failed: JobFailed | None = None  # the item after those, if it ran and failed


pack_chunk = msgspec.msgpack.Encoder().encode
"""Return a `Chunk` or a `ChunkOutcome` as it travels."""

_decode_chunk = msgspec.msgpack.Decoder(Chunk).decode
_decode_outcome = msgspec.msgpack.Decoder(ChunkOutcome).decode


def read_chunk(payload: Buffer) -> Chunk:
    """Return the calls of a chunk."""
    return _decode_chunk(payload)


def outcome_of_chunk(payload: Buffer) -> ChunkOutcome:
    """Return what a worker packed with `pack_chunk`.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    return _decode_outcome(payload)


def job_failure(ended: JobFailed, node: str) -> Failure:
    """Return why a job of a worker of `node` has no result, as its caller hears it."""
    return Failure(
        kind=ended.kind,
        message=ended.message,
        executed=ended.executed,
        node=node,
        types=ended.types,
        size_bytes=ended.size_bytes,
        limit_bytes=ended.limit_bytes,
        argument_types=ended.argument_types,
        lost=ended.lost,
    )
