"""News that waits for messages to ride on.

Each item is sent a number of times that grows with the logarithm of the members,
to random peers; that reaches all of them but for a rare one, which a later sync
tells. Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 4.1; sending the
least sent first is memberlist's.
"""

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from mpreg_nb.protocol.gossip import Announce, Item, LoadNews, NodeName, Verdict

Key: TypeAlias = tuple[str, NodeName, int]

_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class _Waiting:
    item: Item
    size_bytes: int
    serial: int
    sends: int = 0


def size_bytes(item: Item) -> int:
    """Return how many bytes `item` takes in a message."""
    return len(_encode(item))


def subject(item: Item) -> NodeName:
    """Return the node that `item` is about."""
    return item.owner if isinstance(item, Announce) else item.name


class Broadcasts:
    """What is to be passed on, the newest item of each subject only."""

    def __init__(self) -> None:
        self._waiting: dict[Key, _Waiting] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: Item) -> None:
        """Pass `item` on, in place of older news of the same kind and subject."""
        match item:
            case Announce():
                # Deltas build on each other: each must get through.
                key = ("offers", item.owner, item.version)
            case LoadNews():
                key = ("load", item.name, 0)
            case _:
                key = ("member", item.name, 0)
        self._serial += 1
        self._waiting.pop(key, None)
        self._waiting[key] = _Waiting(item, size_bytes(item), self._serial)

    def drop(self, name: NodeName) -> None:
        """Forget what was to be told of the catalog and load of `name`."""
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
        row = [
            pair
            for pair in self._waiting.items()
            if pair[0][1] != to or isinstance(pair[1].item, Verdict)
        ]  # a node needs not be told of itself, unless it is accused
        if len(row) > 1:
            row.sort(key=lambda pair: _urgency(pair, to))
        taken: list[Item] = []
        left_bytes = limit_bytes
        for key, waiting in row:
            if waiting.size_bytes > left_bytes and taken:
                continue
            left_bytes -= waiting.size_bytes
            taken.append(waiting.item)
            waiting.sends += 1
            if waiting.sends >= retransmits:
                del self._waiting[key]
            if left_bytes <= 0:
                break
        if len(taken) > 1:
            # Deltas of one catalog must arrive in the order of their versions.
            taken.sort(key=_version)
        return tuple(taken)


def _urgency(pair: tuple[Key, _Waiting], to: NodeName) -> tuple[bool, int, int]:
    (_, name, _), waiting = pair
    return name != to, waiting.sends, -waiting.serial


def _version(item: Item) -> int:
    return item.version if isinstance(item, Announce) else 0
