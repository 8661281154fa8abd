"""Results of workflow steps that stay on this node until they are fetched.

The node never opens them. Those that nobody asked for longest go first when the
limit is reached; whoever asks for one that went is told that it is gone.
"""

from collections import OrderedDict
from dataclasses import dataclass

from mpreg_nb.settings import RIDE_ALONG_BYTES
from mpreg_nb.wire.codec import Buffer
from mpreg_nb.wire.messages import Call, Kept


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What is held, and what had to go."""

    results: int
    held_bytes: int
    evicted: int


class Store:
    """Payloads by the id of the call that made them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._evicted = 0
        self._results: OrderedDict[bytes, tuple[Buffer, ...]] = OrderedDict()

    def put(self, key: bytes, parts: tuple[Buffer, ...]) -> int:
        """Hold `parts` and return their size; the newest result always stays."""
        self.release(key)
        size_bytes = sum(map(len, parts))
        self._results[key] = parts
        self._held_bytes += size_bytes
        while self._held_bytes > self._limit_bytes and len(self._results) > 1:
            _, old = self._results.popitem(last=False)
            self._held_bytes -= sum(map(len, old))
            self._evicted += 1
        return size_bytes

    def get(self, key: bytes) -> tuple[Buffer, ...] | None:
        """Return the parts of a result, or None when it is not held."""
        parts = self._results.get(key)
        if parts is not None:
            self._results.move_to_end(key)
        return parts

    def find(self, kept: Kept) -> tuple[Buffer, ...] | None:
        """Return the parts that `kept` names, or None when they are not held."""
        parts = self.get(kept.id)
        if parts is None or not kept.count:
            return parts
        return parts[kept.first : kept.first + kept.count]

    def hold(
        self, me: str, key: bytes, payload: bytes, parts: tuple[Buffer, ...]
    ) -> bytes | Kept:
        """Return a value as those get it who refer to it: itself, or where it is.

        me: the name of this node.
        """
        whole = parts or (payload,)
        if len(whole) == 1 and len(whole[0]) <= RIDE_ALONG_BYTES:
            return bytes(whole[0])
        return Kept(me, key, self.put(key, whole))

    def keep(
        self, me: str, call: Call, payload: bytes, parts: tuple[Buffer, ...]
    ) -> tuple[Kept | None, bytes, tuple[Buffer, ...]]:
        """Hold what `call` gave, if large; return where, and what is to be sent.

        Of a value that was taken apart the head is sent: to who deals out the items.
        """
        if call.split:
            if len(parts) < 2:
                return None, payload, parts
            return Kept(me, call.id, self.put(call.id, parts[1:])), b"", parts[:1]
        result = self.hold(me, call.id, payload, parts)
        return (result, b"", ()) if isinstance(result, Kept) else (None, result, ())

    def release(self, key: bytes) -> None:
        """Let a result go; unknown keys are no error."""
        parts = self._results.pop(key, None)
        if parts is not None:
            self._held_bytes -= sum(map(len, parts))

    def statistics(self) -> StoreStatistics:
        """Return what is held now."""
        return StoreStatistics(len(self._results), self._held_bytes, self._evicted)
