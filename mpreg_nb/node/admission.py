"""Which calls a node does not take in: it has too many, or has no time for them."""

from collections.abc import Mapping

from mpreg_nb.node.pending import Pending
from mpreg_nb.settings import Limits
from mpreg_nb.wire.messages import Failure

LEAST_TIME_MS = 5
"""A call with less time left than this is refused: it could not be answered."""


class Admission:
    """The limits of one node, and what it holds."""

    def __init__(
        self, me: str, pending: Mapping[bytes, Pending], limits: Limits
    ) -> None:
        self._me = me
        self._pending = pending
        self._limits = limits
        self.held_bytes = 0  # arguments of all calls under way
        self.draining = False

    def refusal(self, pending: Pending) -> Failure | None:
        """Return why a call is not taken in, if it is not."""
        waiting = len(self._pending)
        if pending.call.id in self._pending:
            text = "a call with this id is already running"
            return Failure(kind="bad_request", message=text)
        held_bytes = self.held_bytes + pending.size_bytes
        too_much = waiting and held_bytes > self._limits.queued_bytes
        if too_much or waiting >= self._limits.calls_per_node:
            return Failure(
                kind="overloaded", node=self._me, size_bytes=waiting, retry_after_ms=50
            )
        left_ms = pending.call.remaining_ms
        if left_ms is not None and left_ms <= LEAST_TIME_MS:
            return Failure(kind="deadline", node=self._me)
        return Failure(kind="draining", node=self._me) if self.draining else None
