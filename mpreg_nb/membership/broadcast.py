"""Gossip items that wait for messages to carry them.

Each item is sent a number of times that grows with the logarithm of the members,
to random peers; that reaches all of them but for a rare one, which a later sync
tells. Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 4.1; sending the
least sent first is memberlist's.
"""

from collections import deque
from operator import attrgetter
from typing import TypeAlias

import msgspec

from mpreg_nb.protocol.gossip import Announce, Item, LoadNews, NodeName, Verdict

Key: TypeAlias = tuple[str, NodeName, int]

SENT_ONCE = 1 << 48
"""What one send adds to the rank of an item; above all serial numbers."""

MOST_DELTAS = 16
"""Of one catalog that wait: who misses an older one notices, and pulls all at once."""

_encode = msgspec.msgpack.Encoder().encode
_rank = attrgetter("rank")


class _Waiting(msgspec.Struct):
    item: Item
    size_bytes: int
    rank: int  # the least sent first, of these the newest
    sends: int = 0


def size_bytes(item: Item) -> int:
    """Return how many bytes `item` takes in a message."""
    return len(_encode(item))


def subject(item: Item) -> NodeName:
    """Return the name of the node that `item` describes."""
    return item.owner if isinstance(item, Announce) else item.name


class Broadcasts:
    """The queue of items to gossip; only the newest item of each subject."""

    def __init__(self) -> None:
        self._waiting: dict[Key, _Waiting] = {}
        self._deltas: dict[NodeName, deque[Key]] = {}  # that waited last
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: Item) -> None:
        """Queue `item`, in place of an older item of the same kind and subject."""
        key = _key(item)
        self._serial += 1
        if isinstance(item, Announce):
            deltas = self._deltas.setdefault(item.owner, deque(maxlen=MOST_DELTAS))
            if len(deltas) == MOST_DELTAS:
                self._waiting.pop(deltas[0], None)
            deltas.append(key)
        self._waiting.pop(key, None)
        self._waiting[key] = _Waiting(item, size_bytes(item), -self._serial)

    def drop(self, name: NodeName) -> None:
        """Remove the queued catalog and load items of `name`."""
        self._deltas.pop(name, None)
        for key in [key for key in self._waiting if key[1] == name]:
            if key[0] != "member":
                del self._waiting[key]

    def take(
        self, limit_bytes: int, retransmits: int, to: NodeName = ""
    ) -> tuple[Item, ...]:
        """Return items for one message to `to`, at most `limit_bytes` of them.

        First what is about `to` itself, then the least sent, of these the newest.
        An item larger than the limit goes alone. Each return counts as one send.
        """
        row: list[_Waiting] = []
        about_it: list[_Waiting] = []
        for key, waiting in self._waiting.items():
            if key[1] != to:
                row.append(waiting)
            elif isinstance(waiting.item, Verdict):
                about_it.append(waiting)  # other items on itself it knows
        if len(row) > 1:
            row.sort(key=_rank)
        taken: list[Item] = []
        left_bytes = limit_bytes
        for waiting in (*about_it, *row):
            if waiting.size_bytes > left_bytes and taken:
                continue
            left_bytes -= waiting.size_bytes
            taken.append(waiting.item)
            waiting.sends += 1
            waiting.rank += SENT_ONCE
            if waiting.sends >= retransmits:
                del self._waiting[_key(waiting.item)]
            if left_bytes <= 0:
                break
        if len(taken) > 1 and any(isinstance(item, Announce) for item in taken):
            # Deltas of one catalog must arrive in the order of their versions.
            taken.sort(key=_version)
        return tuple(taken)


def _key(item: Item) -> Key:
    match item:
        case Announce():
            # Deltas build on each other: each must get through.
            return "offers", item.owner, item.version
        case LoadNews():
            return "load", item.name, 0
        case _:
            return "member", item.name, 0


def _version(item: Item) -> int:
    return item.version if isinstance(item, Announce) else 0
