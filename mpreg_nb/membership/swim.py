"""Membership as one machine: what came in, what to do, until when to sleep.

It joins the parts of this folder:

    inbox -> beliefs (table, identity, suspicion, reports) -> broadcast -> post
    tick  -> detector (probe, rotation, awareness), claims ------------->  post
          -> duties (sync, seeds, links)                   ------------->  post

Rules for the driver:

- All times are seconds on one monotonic clock, passed in as `now`.
- Carry out effects in their order. After each call read `deadline` again and
  sleep until it, then call `tick`. A late tick is harmless.
- One control link per peer, by the name that the handshake told. Report every
  change of it by `link`; `transport.peers` says which of two to keep, and a
  link that takes the place of another is reported as UP alone.
- Give every message that comes on a control link to `receive`, in order; those
  about catalogs are not membership's and give no effects.
"""

import math
from collections.abc import Iterable, Sequence

from mpreg_nb.membership.awareness import Awareness
from mpreg_nb.membership.beliefs import Beliefs
from mpreg_nb.membership.broadcast import size_bytes
from mpreg_nb.membership.claims import Claims
from mpreg_nb.membership.detector import Detector
from mpreg_nb.membership.duties import Duties
from mpreg_nb.membership.effects import (
    Effect,
    LeaveSpread,
    LinkEvent,
    NameFree,
    Paused,
    Send,
    Tell,
)
from mpreg_nb.membership.inbox import Inbox
from mpreg_nb.membership.knobs import SwimSettings
from mpreg_nb.membership.links import Links
from mpreg_nb.membership.member import Member
from mpreg_nb.membership.post import Post
from mpreg_nb.membership.rotation import Dice
from mpreg_nb.membership.seeds import Seeds
from mpreg_nb.membership.table import Entry
from mpreg_nb.wire.gossip import (
    Announce,
    Control,
    Gossip,
    Hello,
    Leave,
    Load,
    MemberRecord,
    MemberState,
    NodeName,
    Offer,
)


class Swim:
    """The membership of one node. It never reads a clock and never does I/O.

    Invariant: the own record is never SUSPECT or DEAD, and its incarnation is
    above that of every accusation that has come in.
    """

    def __init__(
        self, settings: SwimSettings, me: MemberRecord, rng: Dice, now: float
    ) -> None:
        self._settings = settings
        self._health = Awareness(settings.health_max)
        self._beliefs = Beliefs(settings, me, self._health)
        self._own = self._beliefs.own
        self._table = self._beliefs.table
        self._links = Links(settings)
        self._detector = Detector(
            settings, self._beliefs, self._links, self._health, rng, now
        )
        self._seeds = Seeds(settings)
        self._claims = Claims(settings.claim_patience_s)
        self._post = Post(
            settings, self._beliefs, self._links, self._detector, self._health
        )
        self._duties = Duties(
            settings, self._beliefs, self._links, self._post, self._seeds, rng, now
        )
        self._inbox = Inbox(
            self._beliefs,
            self._detector,
            self._claims,
            self._duties,
            self._links,
            self._seeds,
        )
        self._leave_at_s = math.inf
        self._lagged_at_s = -math.inf
        self._started_s = now
        self._last_s = now  # of the last call
        self._due_s = now  # of the next tick, as of the last call

    # ------------------------------------------------------------ what happens

    def join(self, seed_urls: Sequence[str], now: float) -> list[Effect]:
        """Dial the seeds until one full exchange succeeds; without seeds, begin.

        Tells `JoinCompleted`, at once where there are no seeds. Seeds are dialled
        again for ever (`seed_redial_s`); giving up is the driver's. Own urls among
        them are passed over.
        """
        effects = self._wake(now)
        me = self._own.record
        self._seeds.start([url for url in seed_urls if url not in me.urls], now)
        if len(self._seeds):
            effects += self._duties.dial_seeds(now)
        elif not self._own.joined:
            effects += self._inbox.complete_join(me.name, now)
        return self._done(effects, now)

    def receive(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        """Take in what `sender` sent on its control link."""
        effects = self._wake(now)
        self._links.touch(sender, now)
        effects += self._inbox.receive(message, sender, now)
        return self._done(effects, now)

    def link(self, peer: str, event: LinkEvent, now: float) -> list[Effect]:
        """Take in what became of the control link to `peer`.

        `peer` is a node's name; for a seed that could not be reached, its url.
        """
        effects = self._wake(now)
        match event:
            case LinkEvent.UP:
                effects += self._opened(peer, now)
            case LinkEvent.CLOSED:
                self._links.closed(peer, lost=False)
            case LinkEvent.DOWN:
                self._links.closed(peer, lost=True)
                if not self._own.is_leaving:
                    effects += self._detector.lost(peer, now)
            case LinkEvent.REFUSED | LinkEvent.TIMED_OUT:
                if not self._seeds.failed(peer, now):
                    refused = event is LinkEvent.REFUSED
                    self._links.failed(peer, now, refused=refused)
                    effects += self._detector.unreachable(peer, now, refused=refused)
        return self._done(effects, now)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due; to be called at or after `deadline`."""
        effects = self._wake(now)
        if not self._own.is_leaving:
            effects += self._detector.tick(now)
            effects += self._beliefs.bury_overdue(now)
        effects += self._duties.tick(now)
        effects += self._claims.tick(now)
        if self._leave_at_s <= now:
            self._leave_at_s = math.inf
            effects.append(Tell(LeaveSpread()))
        return self._done(effects, now)

    def announce(
        self, catalog_version: int, delta: tuple[Offer, ...] | None, now: float
    ) -> list[Effect]:
        """Tell all that the own catalog has reached `catalog_version`.

        delta: what led there from the version before; None, or one that is too
        long to ride on gossip, makes the others pull.
        """
        effects = self._wake(now)
        self._own.set_catalog_version(catalog_version)
        if self._own.joined:
            me = self._own.record
            item = Announce(
                owner=me.name,
                generation=me.generation,
                version=catalog_version,
                delta=delta,
            )
            if delta is not None and size_bytes(item) > self._settings.gossip_bytes:
                item = Announce(
                    owner=me.name, generation=me.generation, version=catalog_version
                )
            self._beliefs.news.put(item)
        return self._done(effects, now)

    def leave(
        self, now: float, *, drain_s: float = 0.0, reason: str = ""
    ) -> list[Effect]:
        """Say goodbye to all; pings are still answered until the driver stops.

        Tells `LeaveSpread` when links may be closed (`leave_spread_s` later).
        """
        effects = self._wake(now)
        if self._own.is_leaving:
            return self._done(effects, now)
        self._own.leave()
        self._detector.probes.clear()
        me = self._own.record
        goodbye = Leave(
            generation=me.generation,
            epoch=me.epoch,
            incarnation=me.incarnation,
            drain_s=drain_s,
            reason=reason,
        )
        effects += [Send(peer, goodbye) for peer in self._links.peers]
        spread_s = self._settings.leave_spread_s if len(self._links) else 0.0
        self._leave_at_s = now + spread_s
        return self._done(effects, now)

    def loop_lag(self, lag_s: float, now: float) -> list[Effect]:
        """Take in by how much the event loop was late, as the driver measured."""
        effects = self._wake(now)
        if lag_s > self._settings.lag_share * self._settings.ack_timeout_s:
            self._lagged(now)
        return self._done(effects, now)

    def set_load(self, load: Load) -> None:
        """Replace the load that rides on pings and acks."""
        self._post.load = load

    def tell_load(self, load: Load, now: float) -> list[Effect]:
        """Send the load to all members, where everybody has a link to everybody.

        Larger clusters hear of it with the pings, acks and news that are sent anyway.
        """
        self._post.load = load
        effects = self._wake(now)
        if self._beliefs.size <= self._settings.mesh_limit and self._own.joined:
            effects += [Send(peer, Gossip(load=load)) for peer in self._links.peers]
        return self._done(effects, now)

    def claim(self, name: NodeName, epoch: bytes, now: float) -> list[Effect]:
        """Ask whether a process that was just authenticated may have `name`.

        For an inbound link whose name already has a link or a record with another
        epoch (the epoch is in the handshake or in the first message, `Hello`). Hold
        the link until `NameFree` or `NameTaken` is told: at once where nobody
        lives under the name, else after a ping of the holder.
        """
        effects = self._wake(now)
        entry = self._table.get(name)
        is_free = (
            entry is None
            or entry.record.state > MemberState.SUSPECT
            or entry.record.epoch == epoch
            or (self._links.is_lost(name) and name not in self._links)
        )
        if entry is None or is_free:
            effects.append(Tell(NameFree(name, epoch)))
        else:
            ping = self._claims.ask(name, epoch, entry.record.epoch, now)
            effects.append(Send(name, ping))
        return self._done(effects, now)

    # ------------------------------------------------------------ what is known

    @property
    def deadline(self) -> float:
        """When to call `tick`, on the driver's clock."""
        return self._due_s

    @property
    def me(self) -> MemberRecord:
        """The own record, as others will hear of it."""
        return self._own.record

    @property
    def joined(self) -> bool:
        """Whether the join is complete."""
        return self._own.joined

    @property
    def health(self) -> int:
        """Local health: 0 is well, larger is slower (Lifeguard)."""
        return self._health.score

    @property
    def members(self) -> tuple[Member, ...]:
        """All known nodes, this one first, also the dead and the gone."""
        me = Member(
            record=self._own.record,
            since_s=self._started_s,
            linked=True,
            rtt_s=0.0,
            load=self._post.load,
        )
        return (me, *(self._member(entry) for entry in self._table.entries.values()))

    @property
    def alive(self) -> tuple[NodeName, ...]:
        """Names of the members that are ALIVE, this node first."""
        return (self._own.record.name, *self._table.alive)

    def member(self, name: NodeName) -> Member | None:
        """Return what is known of another node, if anything."""
        entry = self._table.get(name)
        return None if entry is None else self._member(entry)

    def _member(self, entry: Entry) -> Member:
        return Member(
            record=entry.record,
            since_s=entry.since_s,
            linked=entry.record.name in self._links,
            rtt_s=entry.rtt_s,
            load=entry.load,
        )

    # ------------------------------------------------------------------- links

    def _opened(self, peer: NodeName, now: float) -> list[Effect]:
        waiting = self._links.opened(peer, now)
        self._detector.reached(peer)
        hello = Hello(record=self._own.record, joined=self._own.joined)
        effects: list[Effect] = [Send(peer, hello)]
        if not self._own.joined:
            effects.append(Send(peer, self._duties.digest(now, whole=True)))
        elif self._seeds.just_dialled(now) and self._table.get(peer) is None:
            effects.append(Send(peer, self._duties.digest(now, whole=False)))
        return effects + [Send(peer, message) for message in waiting]

    # ------------------------------------------------------------------- clock

    def _wake(self, now: float) -> list[Effect]:
        """Notice that this process stood still, before anything is made of it."""
        gap_s, late_s = now - self._last_s, now - self._due_s
        self._last_s = now
        if not self._table.entries:
            return []  # a node that knows nobody can wrong nobody
        if gap_s > self._settings.pause_periods * self._settings.period_s:
            # What came in meanwhile was not read: nobody's silence means anything.
            self._detector.restart(now)
            self._beliefs.doubt_anew(now)
            self._health.worsen()
            self._claims.postpone(now + self._settings.claim_patience_s)
            return [Tell(Paused(gap_s)), *self._duties.compare(now)]
        if late_s > self._settings.lag_share * self._settings.ack_timeout_s:
            self._lagged(now)
            until = now + self._settings.ack_timeout_s
            self._detector.probes.postpone(until)
            self._beliefs.postpone(until)
            self._claims.postpone(until)
        return []

    def _lagged(self, now: float) -> None:
        if now - self._lagged_at_s >= self._settings.period_s:
            self._lagged_at_s = now
            self._health.worsen()

    def _done(self, effects: Iterable[Effect], now: float) -> list[Effect]:
        done = self._post.deliver(effects, now)
        self._due_s = min(
            math.inf if self._own.is_leaving else self._detector.deadline,
            math.inf if self._own.is_leaving else self._table.deadline,
            self._duties.deadline,
            self._claims.deadline,
            self._leave_at_s,
        )
        return done
