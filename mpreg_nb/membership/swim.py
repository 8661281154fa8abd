"""The SWIM state machine: receives messages, does periodic work, returns effects.

It joins the parts of this folder::

    MessageHandlers -> MembershipState -> Broadcasts -> OutgoingMessages
    tick            -> failure detector, name claims -> OutgoingMessages
                    -> PeriodicWork (sync, seeds)    -> OutgoingMessages

Rules for the driver:

- All times are seconds on one monotonic clock, passed in as `now`.
- Carry out effects in their order. After each call read `deadline` again and
  sleep until it, then call `tick`. A late tick is harmless.
- One control link per peer, by the name that the handshake told. Report every
  change of it by `link`; `transport.pool` says which of two to keep, and a
  link that takes the place of another is reported as UP alone.
- Give every message that comes on a control link to `receive`, in order; those
  about catalogs are not membership's and give no effects.
"""

import math
from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from mpreg_nb.membership import anti_entropy
from mpreg_nb.membership.broadcast import size_bytes, subject
from mpreg_nb.membership.config import SwimConfig, retransmits, stretched_sync_s
from mpreg_nb.membership.events import (
    Dial,
    Died,
    Effect,
    JoinCompleted,
    Joined,
    LeaveSpread,
    Left,
    LinkEvent,
    NameFree,
    Notify,
    Paused,
    Restarted,
    Send,
)
from mpreg_nb.membership.failure_detector import Detector, RandomSource
from mpreg_nb.membership.join import FIRST_SEQ, NameClaims, Seeds
from mpreg_nb.membership.links import ControlLinks
from mpreg_nb.membership.member import Member
from mpreg_nb.membership.state import MemberEntry, MembershipState
from mpreg_nb.membership.suspicion import Awareness
from mpreg_nb.protocol.gossip import (
    Ack,
    Announce,
    CatalogPull,
    CatalogPush,
    Control,
    Digest,
    Gossip,
    Hello,
    IndirectAck,
    Item,
    Leave,
    Load,
    LoadNews,
    MemberRecord,
    MemberState,
    Nack,
    NodeName,
    Offer,
    Ping,
    PingReq,
    SyncDigest,
    SyncPull,
    SyncPush,
    Verdict,
    YouAreDead,
)


class OutgoingMessages:
    """Sends messages: attaches gossip and load, dials first where there is no link."""

    def __init__(
        self,
        settings: SwimConfig,
        state: MembershipState,
        links: ControlLinks,
        detector: Detector,
        health: Awareness,
    ) -> None:
        self.load: Load | None = None
        self._settings = settings
        self._state = state
        self._links = links
        self._detector = detector
        self._health = health

    def deliver(self, effects: Sequence[Effect], now: float) -> list[Effect]:
        """Return the effects for the driver, with the dials and closes they require."""
        done: list[Effect] = []
        if not effects:
            return done
        waiting = deque(effects)
        while waiting:
            effect = waiting.popleft()
            match effect:
                case Send(peer, message):
                    done += self.send(peer, message, now)
                case Notify(event):
                    done.append(effect)
                    match event:
                        case Joined(member):
                            waiting.extendleft(
                                reversed(self._joined(member.record, now))
                            )
                        case Died(name):
                            done += self._close_dead(name, now)
                        case Left(name):
                            self._detector.probes.drop(name)
                        case Restarted(name):
                            waiting.extendleft(self._close_replaced(name))
                case _:
                    done.append(effect)
        return done

    def send(self, peer: NodeName, message: Control, now: float) -> list[Effect]:
        """Send `message`; without a link, dial for a message that can wait."""
        if peer in self._links:
            self._links.touch(peer, now)
            return [Send(peer, self._with_news(peer, message))]
        if not isinstance(message, Ping | SyncDigest | YouAreDead):
            return []  # out of date before a link would be up
        entry = self._state.table.get(peer)
        if entry is None:
            return []
        self._links.wait(peer, message)
        return self._links.dial(peer, entry.record.urls, now)

    def items_for(self, peer: NodeName) -> tuple[Item, ...]:
        """Return the gossip items for one message to `peer`."""
        settings = self._settings
        return self._state.news.take(
            settings.gossip_bytes,
            retransmits(self._state.size, settings.retransmit_mult),
            to=peer,
        )

    def _with_news(self, peer: NodeName, message: Control) -> Control:
        match message:
            case Ping():
                items = self.items_for(peer)
                entry = self._state.table.get(peer)
                if entry is not None and entry.suspicion is not None:
                    # The suspect must be the first to know.
                    others = [item for item in items if subject(item) != peer]
                    items = (self._state.verdict_on(entry), *others)
                return replace(message, items=items, load=self._own_load())
            case Ack():
                return replace(
                    message, items=self.items_for(peer), load=self._own_load()
                )
            case PingReq() | IndirectAck() | Nack():
                items = self.items_for(peer)
                return replace(message, items=(*message.items, *items))
            case _:
                return message

    def _own_load(self) -> Load | None:
        is_poorly = self._health.score >= self._settings.degraded_health
        if self.load is None or not is_poorly or self.load.degraded:
            return self.load
        return replace(self.load, degraded=True)

    def _joined(self, record: MemberRecord, now: float) -> list[Effect]:
        self._detector.rotation.add(record.name)
        has_mesh = self._state.size <= self._settings.mesh_limit
        # The smaller name dials at once; the larger only if that comes to nothing.
        if has_mesh and self._state.own.record.name < record.name:
            return self._links.dial(record.name, record.urls, now)
        return []

    def _close_replaced(self, name: NodeName) -> list[Effect]:
        """Close the link to the previous process, which may never break by itself."""
        self._detector.probes.drop(name)
        epoch = self._state.table.entries[name].record.epoch
        return [] if self._links.is_to(name, epoch) else self._links.close(name)

    def _close_dead(self, name: NodeName, now: float) -> list[Effect]:
        """Send a dead member its verdict on the open link, then close the link."""
        self._detector.probes.drop(name)
        if name not in self._links:
            return []
        entry = self._state.table.entries[name]
        verdict = YouAreDead(verdict=self._state.verdict_on(entry))
        return [*self.send(name, verdict, now), *self._links.close(name)]


EARLY_SYNCS = 3
"""Table comparisons soon after the join: the first partner may also have been new."""


class PeriodicWork:
    """Periodic work other than probes: gossip, comparisons, redials, link upkeep."""

    def __init__(
        self,
        settings: SwimConfig,
        state: MembershipState,
        links: ControlLinks,
        outgoing: OutgoingMessages,
        seeds: Seeds,
        rng: RandomSource,
        now: float,
    ) -> None:
        self._settings = settings
        self._state = state
        self._links = links
        self._outgoing = outgoing
        self._seeds = seeds
        self._rng = rng
        self._gossip_at_s = now
        self._sync_at_s = now + settings.sync_interval_s * rng.random()
        self._early_syncs = 0
        self._redial_at_s = now + settings.dead_redial_s * rng.random()
        self._housekeeping_at_s = now + settings.period_s * rng.random()
        self._told_load: Load | None = None
        self._told_load_at_s = -math.inf
        self._load_serial = 0
        self._root: tuple[int, MemberRecord, bytes] | None = None

    @property
    def deadline(self) -> float:
        """When the next piece of work is due."""
        due_s = self._housekeeping_at_s
        if not self._state.own.is_leaving:
            due_s = min(due_s, self._sync_at_s, self._redial_at_s, self._seeds.deadline)
        if self._links.up and len(self._state.news):
            return min(due_s, self._gossip_at_s)
        return due_s

    def tick(self, now: float) -> list[Effect]:
        """Do the work that is due at `now`."""
        effects: list[Effect] = []
        if self._housekeeping_at_s <= now:
            self._housekeeping_at_s = now + self._settings.period_s
            self._tell_load(now)
            if not self._state.own.is_leaving:
                effects += self._keep_links(now)
                effects += self._state.remind_suspects(now)
                effects += self._keep_joining()
        if self._gossip_at_s <= now and len(self._state.news):
            effects += self._gossip(now)
        if self._state.own.is_leaving:
            return effects
        if self._sync_at_s <= now:
            effects += self.compare(now)
        if self._redial_at_s <= now:
            effects += self._redial(now)
        if self._seeds.deadline <= now:
            effects += self.dial_seeds(now)
        return effects

    def settle(self, now: float) -> None:
        """Compare tables soon after the join: the first partner may lack members."""
        self._early_syncs = EARLY_SYNCS
        self._sync_at_s = now + self._settings.period_s

    # ----------------------------------------------------------------- compare

    def records(self, now: float) -> Sequence[MemberRecord]:
        """Return all records that other nodes should hold, the own record first."""
        memory_s = self._settings.dead_memory_s
        told = self._state.table.records(now, memory_s)
        return (self._state.own.record, *told)

    def lines(self, now: float) -> tuple[Digest, ...]:
        """Return one digest line for each record."""
        return tuple(anti_entropy.digest(record) for record in self.records(now))

    def root(self, now: float) -> bytes:
        """Return the hash of all digest lines, cached until a record changes."""
        revision, me = self._state.table.revision, self._state.own.record
        if self._root is None or self._root[:2] != (revision, me):
            self._root = (revision, me, anti_entropy.root(self.lines(now)))
        return self._root[2]

    def digest(self, now: float, *, whole: bool) -> SyncDigest:
        """Return the first message of a comparison (root) or the second one (whole)."""
        entries = self.lines(now) if whole else None
        return SyncDigest(root=self.root(now), entries=entries)

    def compare(self, now: float) -> list[Effect]:
        """Compare tables with one random member, and forget old dead members."""
        settings, table = self._settings, self._state.table
        pause_s = stretched_sync_s(self._state.size, settings.sync_interval_s)
        if self._early_syncs:
            self._early_syncs -= 1
            pause_s = 2 * settings.period_s
        self._sync_at_s = now + pause_s
        for name in table.forget_old(
            now, memory_s=settings.dead_memory_s, mult=settings.dead_memory_mult
        ):
            self._links.forget(name)
        linked = [peer for peer in self._links.up if peer in table.alive_names]
        peers = linked or table.alive
        if not peers:
            return []
        peer = peers[self._rng.randrange(len(peers))]
        return [Send(peer, self.digest(now, whole=False))]

    def _keep_joining(self) -> list[Effect]:
        """Request the first exchange again, since its answer may have been lost."""
        if self._state.own.joined:
            return []
        me = anti_entropy.digest(self._state.own.record)
        digest = SyncDigest(root=anti_entropy.root([me]), entries=(me,))
        return [Send(peer, digest) for peer in tuple(self._links.up)[:1]]

    # ----------------------------------------------------------------- pass on

    def _gossip(self, now: float) -> list[Effect]:
        self._gossip_at_s = now + self._settings.gossip_interval_s
        active = self._state.table.active
        peers = [peer for peer in self._links.up if peer in active]
        count = min(self._settings.gossip_fanout, len(peers))
        effects: list[Effect] = []
        for peer in self._rng.sample(peers, count):
            items = self._outgoing.items_for(peer)
            if items:
                effects.append(Send(peer, Gossip(items=items)))
        return effects

    def _tell_load(self, now: float) -> None:
        load = self._outgoing.load
        least_s = max(self._settings.load_interval_s, self._state.size / 50)
        if load is None or now - self._told_load_at_s < least_s:
            return
        told = self._told_load
        if told is not None and not _differs(load, told, self._settings.load_change):
            return
        self._told_load, self._told_load_at_s = load, now
        me = self._state.own.record
        if told is not None and self._state.own.joined:
            self._load_serial += 1
            news = LoadNews(
                name=me.name,
                generation=me.generation,
                serial=self._load_serial,
                load=load,
            )
            self._state.news.put(news)

    # ------------------------------------------------------------------ redial

    def _keep_links(self, now: float) -> list[Effect]:
        settings, table, links = self._settings, self._state.table, self._links
        me = self._state.own.record.name
        if self._state.size <= settings.mesh_limit:
            wanted = [
                name
                for name in table.alive_names
                if name not in links.up
                and links.may_dial(name, now)
                and (
                    me < name or now - table.entries[name].since_s >= settings.period_s
                )
            ]
            return self._dial(wanted, now)
        effects = links.close_idle(now)
        lacking = settings.kept_links - len(links)
        if lacking > 0:
            free = [name for name in table.alive if links.may_dial(name, now)]
            count = min(lacking, len(free))
            effects += self._dial(self._rng.sample(free, count), now)
        return effects

    def _dial(self, names: Sequence[NodeName], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for name in names:
            urls = self._state.table.entries[name].record.urls
            effects += self._links.dial(name, urls, now)
        return effects

    def _redial(self, now: float) -> list[Effect]:
        """Dial one dead member: only a dial can find that a partition has healed."""
        self._redial_at_s = now + self._settings.dead_redial_s
        dead = self._state.table.dead()
        if not dead:
            return []
        longest_ago_s = min(entry.dialled_at_s for entry in dead)
        due = [entry for entry in dead if entry.dialled_at_s == longest_ago_s]
        entry = due[self._rng.randrange(len(due))]
        entry.dialled_at_s = now
        return self._links.dial(entry.record.name, entry.record.urls, now)

    def dial_seeds(self, now: float) -> list[Effect]:
        """Dial the seeds that are due and whose URL no member has."""
        table = self._state.table
        known = dict.fromkeys(
            url
            for record in (
                self._state.own.record,
                *(table.entries[name].record for name in table.active),
            )
            for url in record.urls
        )
        return [Dial(url, (url,)) for url in self._seeds.due(now, known)]


def _differs(load: Load, told: Load, share: float) -> bool:
    change = abs(load.running + load.queued - told.running - told.queued)
    return load.degraded != told.degraded or change >= share * max(1, told.slots)


class MessageHandlers:
    """Handles the messages of the control lane, one method for each type."""

    def __init__(
        self,
        state: MembershipState,
        detector: Detector,
        claims: NameClaims,
        periodic: PeriodicWork,
        links: ControlLinks,
        seeds: Seeds,
    ) -> None:
        self._state = state
        self._detector = detector
        self._claims = claims
        self._periodic = periodic
        self._links = links
        self._seeds = seeds

    def receive(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        """Handle `message`; a sender held SUSPECT or DEAD receives that verdict."""
        entry = self._state.table.get(sender)
        was_dead = entry is not None and entry.record.state is MemberState.DEAD
        effects = self._dispatch(message, sender, now)
        if entry is None or self._state.own.is_leaving:
            return effects
        state = entry.record.state
        if state is MemberState.SUSPECT or state is MemberState.DEAD:
            effects += self._state.send_verdict(entry, now)
        elif was_dead and state is MemberState.ALIVE:
            # A partition has healed: compare the whole tables at once.
            effects.append(Send(sender, self._periodic.digest(now, whole=True)))
        return effects

    def _dispatch(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        match message:
            case Ping():
                return self._ping(message, sender, now)
            case Ack(seq=seq):
                effects = self._receive_items(message.items, sender, now)
                effects += self._state.reports.load(sender, message.load)
                if seq >= FIRST_SEQ:
                    return effects + self._claims.ack(seq, sender)
                return effects + self._detector.follow(
                    self._detector.probes.ack(seq, sender, now), now
                )
            case Gossip(items=items):
                effects = self._receive_items(items, sender, now)
                return effects + self._state.reports.load(sender, message.load)
            case PingReq():
                return self._ping_request(message, sender, now)
            case IndirectAck(seq=seq, items=items):
                effects = self._receive_items(items, sender, now)
                steps = self._detector.probes.indirect_ack(seq, sender)
                return effects + self._detector.follow(steps, now)
            case Nack(seq=seq, items=items):
                effects = self._receive_items(items, sender, now)
                return effects + self._detector.follow(
                    self._detector.probes.nack(seq, sender), now
                )
            case SyncDigest():
                return self._compare(message, sender, now)
            case SyncPull(names=names):
                return self._push(names, sender, now)
            case SyncPush():
                return self._pushed(message, sender, now)
            case YouAreDead(verdict=verdict):
                return self._state.receive_verdict(verdict, sender, now)
            case Hello(record=record, joined=joined):
                if record.name != sender:
                    return []
                self._links.greeted(sender, record.epoch)
                if not joined:
                    return []
                return self._state.receive_record(record, sender, now)
            case Leave():
                return self._leave(message, sender, now)
            case CatalogPull() | CatalogPush():
                return []  # the driver passes these to the catalog

    # ----------------------------------------------------------- kinds of message

    def _receive_items(
        self, items: Sequence[Item], sender: NodeName, now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            effects += self._state.receive(item, sender, now)
        return effects

    def _ping(self, message: Ping, sender: NodeName, now: float) -> list[Effect]:
        me = self._state.own.record
        effects: list[Effect] = []
        if message.epoch == me.epoch:
            effects.append(Send(sender, Ack(seq=message.seq)))
        elif self._state.own.joined:
            # The sender looks for the previous process of this name.
            effects.append(Send(sender, Gossip(items=(me,))))
        effects += self._receive_items(message.items, sender, now)
        effects += self._state.reports.load(sender, message.load)
        return effects

    def _ping_request(
        self, message: PingReq, sender: NodeName, now: float
    ) -> list[Effect]:
        effects = self._receive_items(message.items, sender, now)
        own = self._state.own.record
        if message.target == own.name:
            if message.epoch == own.epoch:
                effects.append(Send(sender, IndirectAck(seq=message.seq)))
            return effects
        entry = self._state.table.get(message.target)
        if entry is None:
            return effects
        record = entry.record
        if record.epoch != message.epoch or record.state > MemberState.SUSPECT:
            # The asker does not know yet that this process was replaced or is gone.
            is_gone = record.state > MemberState.SUSPECT
            item: Item = self._state.verdict_on(entry) if is_gone else record
            effects.append(Send(sender, Nack(seq=message.seq, items=(item,))))
            return effects
        if self._detector.is_refused(entry):
            effects.append(Send(sender, Nack(seq=message.seq)))
            return effects
        return effects + self._detector.help(message, sender, now)

    def _compare(
        self, message: SyncDigest, sender: NodeName, now: float
    ) -> list[Effect]:
        if message.entries is None:
            if message.root == self._periodic.root(now):
                return []
            return [Send(sender, self._periodic.digest(now, whole=True))]
        records = {record.name: record for record in self._periodic.records(now)}
        found = anti_entropy.differences(records, message.entries)
        effects: list[Effect] = []
        for line in found.catalogs:
            effects += self._catalog_line(line, sender)
        effects += self._push(found.push, sender, now)
        if found.pull:
            effects.append(Send(sender, SyncPull(names=found.pull)))
        return effects

    def _catalog_line(self, line: Digest, sender: NodeName) -> list[Effect]:
        return self._state.reports.catalog(
            line.name, line.generation, line.catalog_version, sender
        )

    def _push(
        self, names: Sequence[NodeName], sender: NodeName, now: float
    ) -> list[Effect]:
        """Send the records of `names`; an empty push ends a comparison."""
        own, table = self._state.own.record, self._state.table
        records = []
        for name in names:
            entry = table.get(name)
            if name == own.name:
                records.append(own)
            elif entry is not None and entry.record.state > MemberState.SUSPECT:
                age_s = int(max(0.0, now - entry.since_s))
                records.append(replace(entry.record, age_s=age_s))
            elif entry is not None:
                verdict = self._state.verdict_on(entry)
                records.append(replace(entry.record, by=verdict.by))
        return [Send(sender, push) for push in anti_entropy.pushes(records)]

    def _pushed(self, message: SyncPush, sender: NodeName, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for record in message.records:
            effects += self._state.receive_record(
                record, sender, now, synced=record.name != sender
            )
        if message.last and not self._state.own.joined:
            effects += self.complete_join(sender, now)
        return effects

    def complete_join(self, through: NodeName, now: float) -> list[Effect]:
        """Announce this node, which now holds all records of `through`."""
        own = self._state.own
        own.join(now)
        self._seeds.settle(now)
        self._periodic.settle(now)
        completed = Notify(JoinCompleted(through, own.record.generation))
        if through == own.record.name:
            return [completed]
        return [Send(through, Gossip(items=(own.record,))), completed]

    def _leave(self, message: Leave, sender: NodeName, now: float) -> list[Effect]:
        farewell = Verdict(
            name=sender,
            generation=message.generation,
            epoch=message.epoch,
            incarnation=message.incarnation,
            state=MemberState.LEFT,
            by=(sender,),
        )
        effects = self._state.receive_verdict(farewell, sender, now)
        return [
            Notify(Left(sender, message.reason))
            if isinstance(effect, Notify) and isinstance(effect.event, Left)
            else effect
            for effect in effects
        ]


class Swim:
    """The membership of one node. It never reads a clock and never does I/O.

    Invariant: the own record is never SUSPECT or DEAD, and its incarnation is
    above that of every accusation that has come in.
    """

    def __init__(
        self, settings: SwimConfig, me: MemberRecord, rng: RandomSource, now: float
    ) -> None:
        self._settings = settings
        self._health = Awareness(settings.health_max)
        self._state = MembershipState(settings, me, self._health)
        self._own = self._state.own
        self._table = self._state.table
        self._links = ControlLinks(settings)
        self._detector = Detector(
            settings, self._state, self._links, self._health, rng, now
        )
        self._seeds = Seeds(settings)
        self._claims = NameClaims(settings.claim_patience_s)
        self._outgoing = OutgoingMessages(
            settings, self._state, self._links, self._detector, self._health
        )
        self._periodic = PeriodicWork(
            settings, self._state, self._links, self._outgoing, self._seeds, rng, now
        )
        self._handlers = MessageHandlers(
            self._state,
            self._detector,
            self._claims,
            self._periodic,
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
            effects += self._periodic.dial_seeds(now)
        elif not self._own.joined:
            effects += self._handlers.complete_join(me.name, now)
        return self._done(effects, now)

    def receive(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        """Handle a message that `sender` sent on its control link."""
        effects = self._wake(now)
        self._links.touch(sender, now)
        effects += self._handlers.receive(message, sender, now)
        return self._done(effects, now)

    def link(self, peer: str, event: LinkEvent, now: float) -> list[Effect]:
        """Handle a change of the control link to `peer`.

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
        """Do the work that is due; call it at or after `deadline`."""
        effects = self._wake(now)
        if not self._own.is_leaving:
            effects += self._detector.tick(now)
            effects += self._state.declare_dead(now)
        effects += self._periodic.tick(now)
        effects += self._claims.tick(now)
        if self._leave_at_s <= now:
            self._leave_at_s = math.inf
            effects.append(Notify(LeaveSpread()))
        return self._done(effects, now)

    def announce(
        self, catalog_version: int, delta: tuple[Offer, ...] | None, now: float
    ) -> list[Effect]:
        """Announce that the own catalog has reached `catalog_version`.

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
            self._state.news.put(item)
        return self._done(effects, now)

    def leave(
        self, now: float, *, drain_s: float = 0.0, reason: str = ""
    ) -> list[Effect]:
        """Announce that this node leaves; pings are answered until the driver stops.

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
        effects += [Send(peer, goodbye) for peer in self._links.up]
        spread_s = self._settings.leave_spread_s if len(self._links) else 0.0
        self._leave_at_s = now + spread_s
        return self._done(effects, now)

    def loop_lag(self, lag_s: float, now: float) -> list[Effect]:
        """Count a lag of the event loop, measured by the driver, as bad health."""
        effects = self._wake(now)
        if lag_s > self._settings.lag_share * self._settings.ack_timeout_s:
            self._lagged(now)
        return self._done(effects, now)

    def set_load(self, load: Load) -> None:
        """Replace the load that rides on pings and acks."""
        self._outgoing.load = load

    def tell_load(self, load: Load, now: float) -> list[Effect]:
        """Send the load to all members, where everybody has a link to everybody.

        Larger clusters hear of it with the pings, acks and news that are sent anyway.
        """
        self._outgoing.load = load
        effects = self._wake(now)
        if self._state.size <= self._settings.mesh_limit and self._own.joined:
            effects += [Send(peer, Gossip(load=load)) for peer in self._links.up]
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
            effects.append(Notify(NameFree(name, epoch)))
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
            load=self._outgoing.load,
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

    def _member(self, entry: MemberEntry) -> Member:
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
            effects.append(Send(peer, self._periodic.digest(now, whole=True)))
        elif self._seeds.just_dialled(now) and self._table.get(peer) is None:
            effects.append(Send(peer, self._periodic.digest(now, whole=False)))
        return effects + [Send(peer, message) for message in waiting]

    # ------------------------------------------------------------------- clock

    def _wake(self, now: float) -> list[Effect]:
        """Detect a pause of this process before timers judge other nodes by it."""
        gap_s, late_s = now - self._last_s, now - self._due_s
        self._last_s = now
        if not self._table.entries:
            return []  # there is no member that could be suspected wrongly
        if gap_s > self._settings.pause_periods * self._settings.period_s:
            # Messages wait unread since the pause: no silence is evidence.
            self._detector.restart(now)
            self._state.restart_suspicions(now)
            self._health.worsen()
            self._claims.postpone(now + self._settings.claim_patience_s)
            return [Notify(Paused(gap_s)), *self._periodic.compare(now)]
        if late_s > self._settings.lag_share * self._settings.ack_timeout_s:
            self._lagged(now)
            until = now + self._settings.ack_timeout_s
            self._detector.probes.postpone(until)
            self._state.postpone(until)
            self._claims.postpone(until)
        return []

    def _lagged(self, now: float) -> None:
        if now - self._lagged_at_s >= self._settings.period_s:
            self._lagged_at_s = now
            self._health.worsen()

    def _done(self, effects: Sequence[Effect], now: float) -> list[Effect]:
        done = self._outgoing.deliver(effects, now)
        due_s = min(self._periodic.deadline, self._claims.deadline, self._leave_at_s)
        if not self._own.is_leaving:
            due_s = min(due_s, self._detector.deadline, self._table.deadline)
        self._due_s = due_s
        return done
