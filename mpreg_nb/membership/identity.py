"""The own record of a node: what it says of itself, and how it contradicts others.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002, section 4.2 (incarnations); the
generation of a name is Cassandra's.
"""

import math

from msgspec.structs import replace

from mpreg_nb.membership.awareness import Awareness
from mpreg_nb.membership.broadcast import Broadcasts
from mpreg_nb.membership.effects import Effect, Replaced, Send, Tell
from mpreg_nb.membership.member import is_same_process, precedence, verdict_of
from mpreg_nb.wire.gossip import (
    Gossip,
    MemberRecord,
    MemberState,
    NodeName,
    Verdict,
)

SETTLING_PERIODS = 10
"""For so long after its join a process is a newcomer to its name."""

NEWCOMER_RAISES, SETTLED_RAISES = 2, 3
"""How often a process outbids another of its name. The dead do not bid again: who
does is alive, and the one that has bid most often without success gives way."""


class Identity:
    """The own record, which no other node writes.

    Invariant: it is never SUSPECT or DEAD, and its incarnation is above that of
    every accusation that has come in.
    """

    def __init__(
        self,
        record: MemberRecord,
        news: Broadcasts,
        health: Awareness,
        *,
        period_s: float,
    ) -> None:
        self.record = record
        self.joined_at_s = math.inf
        self._news = news
        self._health = health
        self._settling_s = SETTLING_PERIODS * period_s
        self._raises: dict[bytes, int] = {}  # against which epoch, how often

    @property
    def joined(self) -> bool:
        """Whether the join is complete, so that others may know of this process."""
        return self.joined_at_s < math.inf

    @property
    def is_leaving(self) -> bool:
        """Whether this node has said goodbye."""
        return self.record.state is MemberState.LEFT

    def join(self, now: float) -> None:
        """Make the record known, from now on."""
        self.joined_at_s = now
        self._news.put(self.record)

    def leave(self) -> None:
        """Say goodbye with an incarnation that is above all accusations."""
        self.record = replace(
            self.record,
            state=MemberState.LEFT,
            incarnation=self.record.incarnation + 1,
            by=(self.record.name,),
        )
        self._news.put(verdict_of(self.record))

    def set_catalog_version(self, version: int) -> None:
        """Note how far the own catalog has come; the announcement tells it."""
        self.record = replace(self.record, catalog_version=version)

    def hear(self, verdict: Verdict, sender: NodeName, now: float) -> list[Effect]:
        """Take in what is said of a process with this node's name.

        Of this process: refute it. Of another: outrank it, since mostly that is
        dead; if it keeps outranking this one it is alive, and has the name.
        """
        me = self.record
        if is_same_process(me, verdict):
            if verdict.state is MemberState.ALIVE or self.is_leaving:
                return []
            if verdict.incarnation >= me.incarnation:
                self._health.worsen()
                self._raise(incarnation=verdict.incarnation + 1)
            return self._show(sender)
        if precedence(verdict) < precedence(me):
            return self._show(sender)
        if verdict.state <= MemberState.SUSPECT:
            raises = self._raises.get(verdict.epoch, 0)
            is_settled = now - self.joined_at_s >= self._settling_s
            if raises >= (SETTLED_RAISES if is_settled else NEWCOMER_RAISES):
                return [Tell(Replaced(verdict.generation))]
            self._raises[verdict.epoch] = raises + 1
        self._raise(generation=verdict.generation + 1)
        return self._show(sender)

    def _raise(self, **larger: int) -> None:
        self.record = replace(self.record, **larger)
        if self.joined:
            self._news.put(self.record)

    def _show(self, sender: NodeName) -> list[Effect]:
        return [Send(sender, Gossip(items=(self.record,)))] if self.joined else []
