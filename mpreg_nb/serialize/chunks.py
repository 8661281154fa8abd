"""Calls of a map that travel as one: arguments on the way there, outcomes back.

To send a short call takes longer than to run it, so items of a map travel in chunks.
A chunk is one call to all on the way: it has one id and one fate. Its items are
pickled one by one, as calls of their own would be: they share no object. Large
arguments that all calls of a map have in common are an input of the chunk. Items run
one after the other. The outcome has a result for each item that ran to its end, then
the failure of the next one, if that is why it ends. What comes after has certainly not
run, and its caller sends it again.

Items that are plain values, such as numbers, cannot be changed. So sharing them cannot
be seen, and they are pickled many at a time; so are such results.

Items of a map in a workflow travel so too. Their arguments are pickled once, with a
reference to the item, and the chunk brings the items beside them.
"""

import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from types import NoneType
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Failure
from mpreg_nb.protocol.worker import JobFailed

MOST_ITEMS = 256
"""Of one chunk, if they are pickled one by one. Larger ones are no faster."""

MOST_PLAIN_ITEMS = 8192
"""Of one chunk of plain values."""

CHUNK_BYTES = 512 * 1024
"""Arguments of one chunk."""

CHUNKS_AHEAD = 4
"""Chunks in progress for each slot."""

PROBE_S = 0.003
"""How long a map waits for the first run time before it sends more calls one by one."""

LONGEST_S = 0.1
"""A chunk that has run for so long begins no more items."""

LEAST_S = 0.0005
"""Chunks of `map` need not be shorter than this, towards the end either."""

LAST_TIMES = 5
"""Run times of calls and chunks that the size of the next chunk follows."""


class ChunkSizes:
    """How many items the next chunk has, by the last run times.

    The median of them: where a processor does other things, some take long.
    """

    def __init__(
        self,
        chunk_s: float,
        slots: int,
        most: int = MOST_ITEMS,
        item_s: float | None = None,
        least_s: float = 0.0,
    ) -> None:
        """most: items of a chunk. least_s: none need take less time than this."""
        self._chunk_s = chunk_s
        self._slots = slots
        self._most = most
        self._least_s = least_s
        self._last_s: deque[float] = deque(maxlen=LAST_TIMES)
        self._of_chunks = False
        self.item_s = item_s
        """Expected time of one item; None before the first is known."""

    def took(self, items: int, run_s: float) -> None:
        """Take the run time of so many items into account.

        >>> sizes = ChunkSizes(chunk_s=0.005, slots=2)
        >>> sizes.took(1, 100e-6)
        >>> sizes.next(left=None), sizes.next(left=100), sizes.next(left=1)
        (50, 25, 1)
        """
        if items > 1 and not self._of_chunks:
            self._of_chunks = True
            self._last_s.clear()  # in a chunk an item takes less than by itself
        self._last_s.append(run_s / items)
        # Workers need this file, too: `statistics` would take 3 % of their start.
        self.item_s = sorted(self._last_s)[len(self._last_s) // 2]

    def next(self, left: int | None) -> int:
        """Return the size of the next chunk; `left`: items to send, if known."""
        if self.item_s is None:
            return 1
        item_s = max(self.item_s, 1e-7)
        most = int(self._chunk_s / item_s)
        if left is not None:  # each slot has several chunks yet to come
            least = min(-(-left // self._slots), int(self._least_s / item_s))
            most = min(most, max(least, -(-left // (2 * self._slots))))
        return max(1, min(most, self._most))


_PLAIN = frozenset((int, float, complex, bool, NoneType, str, bytes))


def are_plain(values: Sequence[object]) -> bool:
    """Whether all are numbers, texts, bytes or None, or flat tuples of such.

    >>> are_plain([1, "a", (2.0, None)]), are_plain([[1]]), are_plain([((1,),)])
    (True, False, False)
    """
    kinds = set(map(type, values))
    if tuple in kinds:
        tuples: Iterable[tuple[object, ...]]
        tuples = (one for one in values if type(one) is tuple)
        kinds.remove(tuple)
        kinds.update(map(type, chain.from_iterable(tuples)))
    return kinds <= _PLAIN


class PlainItems:
    """What calls are given, where all of it is plain values."""

    __slots__ = ("_first", "_kwargs", "_packed", "_values", "_width")

    def __init__(
        self,
        width: int,
        first: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """width: how many values each call has of its own; the rest is for all."""
        self._width = width
        self._first = first
        self._kwargs = dict(kwargs or {})
        self._values: list[object] = []
        self._packed: list[bytes] = []

    def add(self, values: Sequence[object], packed: bytes) -> None:
        """Add the values of more calls, one after the other, and their pickle."""
        self._values += values
        self._packed.append(packed)

    def __len__(self) -> int:
        return len(self._values) // self._width

    def __getitem__(self, which: slice) -> "PlainItems":
        start, stop, _ = which.indices(len(self))
        part = PlainItems(self._width, self._first, self._kwargs)
        values = self._values[start * self._width : stop * self._width]
        part.add(values, pack_plain(values))
        return part

    @property
    def chunk(self) -> "Chunk":
        """These as they travel."""
        common = (self._first, self._kwargs)
        shared = pack_plain(common) if self._first or self._kwargs else b""
        return Chunk([], together=self._packed, width=self._width, shared=shared)


Items: TypeAlias = tuple[bytes, ...] | PlainItems
"""What the calls of a chunk are given: the pickle of each, or values."""


def pack_plain(values: object) -> bytes:
    """Return the pickle of plain values."""
    return pickle.dumps(values, 5)


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """The calls of a chunk: what each is given."""

    items: list[bytes]
    call: bytes = b""
    """Arguments of all calls, which refer to the item as to the first input; "": each
    item is the arguments of its call."""
    together: list[bytes] = []
    """In place of `items`: pickles of lists, with the values of one call after the
    other."""
    width: int = 1
    """How many values of these lists each call has."""
    shared: bytes = b""
    """The arguments that come before them, and those by name; "": none."""

    def columns(self) -> tuple[list[Iterator[Any]], dict[str, Any]]:
        """Return the arguments of the calls in `together`, and those by name.

        An iterator for each position: the next call has the next value of each. Those
        by name are the same for all.
        """
        loads = pickle.loads
        # All now: it would count as time of the item that comes next.
        values = iter(list(chain.from_iterable(map(loads, self.together))))
        first, kwargs = loads(self.shared) if self.shared else ((), {})
        return [*map(repeat, first), *[values] * self.width], kwargs


class ChunkOutcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of the items of a chunk, in their order."""

    results: list[bytes]
    run_us: list[int]  # of each item that has a result
    failed: JobFailed | None = None  # the item after those, if it ran and failed
    counts: list[int] = []
    """How many results each of `results` is the list of; 0: it is one result itself.
    Empty where each is one."""


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
