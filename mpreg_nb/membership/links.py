"""The control links of one node: which are up, which to dial, which to close.

Up to `mesh_limit` members everybody keeps a link to everybody. Above it a node
keeps a few, opens others where it probes or syncs, and closes the idle ones.
"""

import math
from collections.abc import Sequence

from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import Close, Dial, Effect
from mpreg_nb.protocol.gossip import Control, NodeName

LOST_S = 30.0
"""A dial whose outcome was not reported for so long may be made again."""

OUTBOX = 8
"""Messages that wait for one dial; the oldest go first."""

LONGEST_BACKOFF_S = 60.0


class ControlLinks:
    """The control links of one node, as its driver reported them."""

    def __init__(self, settings: SwimConfig) -> None:
        self._settings = settings
        self.up: dict[NodeName, float] = {}
        """Nodes that a link is up to, with the time when it was last used."""
        self._epochs: dict[NodeName, bytes] = {}  # of the process at the other end
        self._dialling: dict[NodeName, float] = {}  # -> since when
        self._outbox: dict[NodeName, list[Control]] = {}
        self._failures: dict[NodeName, int] = {}
        self._not_before_s: dict[NodeName, float] = {}
        self._lost: dict[NodeName, None] = {}  # ended without a goodbye

    def __contains__(self, peer: NodeName) -> bool:
        return peer in self.up

    def __len__(self) -> int:
        return len(self.up)

    def is_to(self, peer: NodeName, epoch: bytes) -> bool:
        """Whether the link to `peer`, if any, may be one to that process."""
        return self._epochs.get(peer, epoch) == epoch

    def is_lost(self, peer: NodeName) -> bool:
        """Whether the last link to `peer` was reset, or the last dial refused."""
        return peer in self._lost

    def touch(self, peer: NodeName, now: float) -> None:
        """Record that the link to `peer` was used."""
        if peer in self.up:
            self.up[peer] = now

    # --------------------------------------------------------------- reported

    def opened(self, peer: NodeName, now: float) -> list[Control]:
        """Record that a link is up; return the messages that waited for it."""
        self.up[peer] = now
        self._epochs.pop(peer, None)
        self._dialling.pop(peer, None)
        self._failures.pop(peer, None)
        self._not_before_s.pop(peer, None)
        self._lost.pop(peer, None)
        return self._outbox.pop(peer, [])

    def greeted(self, peer: NodeName, epoch: bytes) -> None:
        """Record the epoch of the process that sent Hello on the link."""
        if peer in self.up:
            self._epochs[peer] = epoch

    def closed(self, peer: NodeName, *, lost: bool) -> None:
        """Record that a link is gone."""
        self.up.pop(peer, None)
        self._epochs.pop(peer, None)
        if lost:
            self._lost[peer] = None

    def failed(self, peer: NodeName, now: float, *, refused: bool) -> None:
        """Record that a dial failed; drop the messages that waited for it."""
        self._dialling.pop(peer, None)
        self._outbox.pop(peer, None)
        count = self._failures[peer] = min(self._failures.get(peer, 0) + 1, 16)
        pause_s = min(LONGEST_BACKOFF_S, self._settings.period_s * 2.0 ** (count - 1))
        self._not_before_s[peer] = now + pause_s
        if refused:
            self._lost[peer] = None

    def forget(self, peer: NodeName) -> None:
        """Drop all state of a peer that is no longer a member."""
        self._outbox.pop(peer, None)
        self._failures.pop(peer, None)
        self._not_before_s.pop(peer, None)
        self._lost.pop(peer, None)

    # ------------------------------------------------------------------ asked

    def dial(self, peer: NodeName, urls: Sequence[str], now: float) -> list[Effect]:
        """Open a link, unless it is up or being opened."""
        since_s = self._dialling.get(peer, -math.inf)
        if peer in self.up or now - since_s < LOST_S or not urls:
            return []
        self._dialling[peer] = now
        return [Dial(peer, tuple(urls))]

    def wait(self, peer: NodeName, message: Control) -> None:
        """Keep `message` until the link to `peer` is up."""
        box = self._outbox.setdefault(peer, [])
        box.append(message)
        del box[:-OUTBOX]

    def close(self, peer: NodeName) -> list[Effect]:
        """Close the link to `peer`, if there is one."""
        if self.up.pop(peer, None) is None:
            return []
        self._epochs.pop(peer, None)
        return [Close(peer)]

    def may_dial(self, peer: NodeName, now: float) -> bool:
        """Whether there is no link to `peer`, no dial in progress and no backoff."""
        return (
            peer not in self.up
            and now - self._dialling.get(peer, -math.inf) >= LOST_S
            and now >= self._not_before_s.get(peer, -math.inf)
        )

    def close_idle(self, now: float) -> list[Effect]:
        """Close idle links, and the least recently used ones above the limit."""
        keep, most = self._settings.kept_links, self._settings.max_links
        if len(self.up) <= keep:
            return []
        oldest_first = sorted(self.up, key=lambda peer: (self.up[peer], peer))
        effects: list[Effect] = []
        for peer in oldest_first[: len(oldest_first) - keep]:
            is_idle = now - self.up[peer] >= self._settings.idle_link_s
            if not is_idle and len(self.up) <= most:
                break
            effects += self.close(peer)
        return effects
