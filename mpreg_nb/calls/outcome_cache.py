"""Outcomes of calls that may be asked for again.

A caller that loses the link to a node sends an idempotent call again, with the same id.
Where that call ran already, its outcome is told again instead of running it twice. One
whose outcome is no longer kept runs anew, which such a call may.

Of other calls nothing is kept after their end: who made one sends it again only where
it certainly did not run. So no node can tell whether an id of such a call is new.
"""

from collections import OrderedDict
from hashlib import blake2b

import msgspec

from mpreg_nb.calls.pending import Outcome
from mpreg_nb.protocol.codec import Buffer
from mpreg_nb.protocol.messages import Call

KEPT_S = 300.0
"""How long an outcome is kept; nobody retries for so long."""

MOST_KEPT = 100_000
MOST_KEPT_BYTES = 64 << 20
"""Outcomes that are kept on one node; the oldest go first."""

ENTRY_BYTES = 500
"""What is kept of each call beside its result: many small ones are bounded too."""

READ_BYTES = 64 * 1024
"""How much of each part of the arguments is compared, besides its size."""


def fingerprint(call: Call, parts: tuple[Buffer, ...]) -> bytes:
    """Return what tells calls of one id apart that are not the same call."""
    digest = blake2b(call.function.encode(), digest_size=16)
    for part in (call.payload, *parts):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(memoryview(part)[:READ_BYTES])
    return digest.digest()


class KeptOutcome(msgspec.Struct, frozen=True):
    """How a call ended, and which call it was."""

    fingerprint: bytes
    outcome: Outcome
    parts: tuple[Buffer, ...]
    until: float
    size_bytes: int


class OutcomeCache:
    """The outcomes that one node keeps, bounded by number, bytes and time."""

    def __init__(
        self, *, most: int = MOST_KEPT, most_bytes: int = MOST_KEPT_BYTES
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, KeptOutcome] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, call_id: bytes) -> bool:
        return call_id in self._kept

    def add(
        self,
        call: Call,
        arguments: tuple[Buffer, ...],
        outcome: Outcome,
        parts: tuple[Buffer, ...],
        now: float,
    ) -> None:
        """Keep the outcome of a call, unless it is larger than all may be."""
        size_bytes = ENTRY_BYTES + len(outcome.payload) + sum(map(len, parts))
        self._drop(call.id)
        if size_bytes > self._most_bytes:
            return
        self._kept[call.id] = KeptOutcome(
            fingerprint(call, arguments), outcome, parts, now + KEPT_S, size_bytes
        )
        self.size_bytes += size_bytes
        while self._kept:
            oldest = next(iter(self._kept.values()))
            full = len(self._kept) > self._most or self.size_bytes > self._most_bytes
            if not full and oldest.until > now:
                break
            self._drop(next(iter(self._kept)))

    def get(self, call_id: bytes) -> KeptOutcome | None:
        """Return how the call of this id ended, if that is known."""
        return self._kept.get(call_id)

    def _drop(self, call_id: bytes) -> None:
        dropped = self._kept.pop(call_id, None)
        if dropped is not None:
            self.size_bytes -= dropped.size_bytes
