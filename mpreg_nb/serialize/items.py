"""Splits the value of a map into items, and gathers their results.

Split, a value is a head and parts. The head is a list in msgpack with an entry for
each item: its pickle, if that is small, else how many of the parts are the item's,
in their order. So a node can deal out items that it never opens.

Gathered, results are one pickle again: of a call that opens each of them.
"""

import pickle
from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from mpreg_nb.errors import InvalidWorkflow
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.settings import RIDE_ALONG_BYTES

MOST_ITEMS = 10_000
"""Of one map; each is a call of its own."""

HEAD_BYTES = 2 << 20
"""Of all small items together; those that come after are dealt out as large ones."""

MOST_PARTS = 16_384
"""Of one gathered value, a quarter of what a message may have; more are copied."""

Entry: TypeAlias = bytes | int

_decode = msgspec.msgpack.Decoder(list[Entry]).decode


def take_apart(
    over: Iterable[Any], step: str, *, is_condition: bool = False
) -> list[Any]:
    """Return the items of `over`, which map step `step` goes over.

    is_condition: return one item if all of `over` is true, and no item if not.

    Raises:
        TypeError: it has no items.
        InvalidWorkflow: it has more than 10,000.
    """
    if is_condition:
        return [True] if all(over) else []
    try:
        iterator = iter(over)
    except TypeError:
        raise TypeError(
            f"map step {step!r} iterates over a value of type {type(over).__name__}, "
            "which is not iterable. Give it a list or another iterable"
        ) from None
    items = list(islice(iterator, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        known = f"{len(over):,}" if isinstance(over, Sized) else "more"
        raise InvalidWorkflow(
            f"map step {step!r} iterates over {known} items, and the limit is "
            f"{MOST_ITEMS:,}. Make each item a batch"
        )
    return items


def pack_items(items: Iterable[Any]) -> tuple[Buffer, ...]:
    """Return the head and the parts of `items`; for workers, since it pickles.

    Raises:
        NotPicklable: an item cannot travel; the path names it.
    """
    from mpreg_nb.serialize.pickle import pack, size_bytes

    entries: list[Entry] = []
    parts: list[Buffer] = []
    room = HEAD_BYTES
    for number, item in enumerate(items):
        packed = pack(item, name=f"item[{number}]")
        size = size_bytes(packed)
        if len(packed) == 1 and size <= min(RIDE_ALONG_BYTES, room):
            entries.append(bytes(packed[0]))
            room -= size
        else:
            entries.append(len(packed))
            parts.extend(packed)
    return (msgspec.msgpack.encode(entries), *parts)


def read_head(head: Buffer) -> list[Entry]:
    """Return the entries of the head that `pack_items` made."""
    return _decode(head)


class _Gathered:
    """Pickled as a call that opens each of `items`, which are pickles."""

    def __init__(self, items: Sequence[Sequence[Buffer]]) -> None:
        self._items = items

    def __reduce__(self) -> tuple[Any, ...]:
        buffers = [
            [pickle.PickleBuffer(part) for part in parts] for parts in self._items
        ]
        return open_all, (buffers,)


def gather(items: Sequence[Sequence[Buffer]]) -> tuple[Buffer, ...]:
    """Return the parts of the list of `items`, each given by its own parts.

    Opens none of them. Large parts are referred to, not copied, and so are those that
    are with an engine.
    """
    kept: list[Buffer] = []
    elsewhere: dict[int, Buffer] = {}  # by the id of the bytes that stand for them

    def here(part: Any) -> Buffer:
        if isinstance(part, bytes | bytearray | memoryview):
            return part
        stand_in = bytearray()
        elsewhere[id(stand_in)] = part
        return stand_in

    items = [[here(part) for part in parts] for parts in items]

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if id(raw.obj) in elsewhere:
            kept.append(elsewhere[id(raw.obj)])
            return False
        if raw.nbytes < RIDE_ALONG_BYTES or len(kept) >= MOST_PARTS:
            return True
        kept.append(raw)
        return False

    head = pickle.dumps(_Gathered(items), 5, buffer_callback=keep)
    return (head, *kept)


def open_all(items: Sequence[Sequence[Buffer]]) -> list[Any]:
    """Return the values of `items`. Pickles call this."""
    from mpreg_nb.serialize.pickle import unpack

    return [unpack(parts, name=f"item[{n}]") for n, parts in enumerate(items)]
