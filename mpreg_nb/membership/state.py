"""The membership table: the node's own record, the records of others, and their merge.

Received records, verdicts, announcements and loads are merged here. Results are
events, items to gossip, and answers to members that hold an older state.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002, sections 4.2 (incarnations) and 4.4;
the generation of a name is Cassandra's.
"""

import math
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from mpreg_nb.membership.broadcast import Broadcasts
from mpreg_nb.membership.config import SwimConfig
from mpreg_nb.membership.events import (
    CatalogAnnounced,
    Confirmed,
    Died,
    Effect,
    Joined,
    Left,
    LoadChanged,
    NameReplaced,
    Notify,
    Restarted,
    Send,
    Suspected,
)
from mpreg_nb.membership.member import (
    Member,
    apply_verdict,
    is_own_farewell,
    is_same_process,
    merge,
    precedence,
    verdict_of,
    without_hearsay,
)
from mpreg_nb.membership.suspicion import Awareness, Suspicion
from mpreg_nb.protocol.gossip import (
    Announce,
    Gossip,
    Item,
    Load,
    LoadNews,
    MemberRecord,
    MemberState,
    NodeName,
    Verdict,
    YouAreDead,
)

LEAST_REMEMBERED = 64
"""Records of dead and gone members that are kept until they are too old."""

MOST_REMEMBERED = 10_000


class MemberEntry(msgspec.Struct):
    """One other node."""

    record: MemberRecord
    since_s: float  # when it came into its state
    suspicion: Suspicion | None = None  # while SUSPECT
    rtt_s: float | None = None
    load: Load | None = None
    load_serial: int = -1
    contradicted_at_s: float = -math.inf  # when it was last told what we hold of it
    dialled_at_s: float = -math.inf  # when it was last dialled as a dead member
    deaf_rounds: int = 0  # in a row, in which it answered others but not us
    refused: tuple[bytes, int] | None = None  # epoch, incarnation when it refused us


class MemberTable:
    """Entries by name, in the order in which they were met."""

    def __init__(self) -> None:
        self.entries: dict[NodeName, MemberEntry] = {}
        self.suspects: dict[NodeName, Suspicion] = {}
        self.revision = 0
        """Rises with every change of a record."""
        self.deadline = math.inf
        """When the first suspicion ends, or earlier: it stays after a refutation."""
        self.active: dict[NodeName, None] = {}
        """Names that are ALIVE or SUSPECT."""
        self.alive_names: dict[NodeName, None] = {}
        self._alive: tuple[NodeName, ...] | None = None

    def get(self, name: NodeName) -> MemberEntry | None:
        """Return the entry of `name`."""
        return self.entries.get(name)

    def add(self, record: MemberRecord, since_s: float) -> MemberEntry:
        """Add the record of an unknown node."""
        entry = self.entries[record.name] = MemberEntry(record, since_s)
        self.revision += 1
        self._moved(record)
        return entry

    def replace(self, entry: MemberEntry, record: MemberRecord) -> None:
        """Replace the record of `entry` by a newer one."""
        moved = entry.record.state is not record.state
        entry.record = record
        self.revision += 1
        if moved:
            self._moved(record)

    def set_suspicion(self, entry: MemberEntry, suspicion: Suspicion | None) -> None:
        """Start, replace or (None) end the suspicion of a member."""
        entry.suspicion = suspicion
        if suspicion is None:
            self.suspects.pop(entry.record.name, None)
        else:
            self.suspects[entry.record.name] = suspicion
            self.suspicion_changed(suspicion)

    @property
    def alive(self) -> tuple[NodeName, ...]:
        """Names that are ALIVE."""
        if self._alive is None:
            self._alive = tuple(self.alive_names)
        return self._alive

    def suspicion_changed(self, suspicion: Suspicion) -> None:
        """Move the deadline forward if `suspicion` now ends earlier."""
        self.deadline = min(self.deadline, suspicion.deadline)

    def set_deadline(self) -> None:
        """Compute the deadline from all suspicions."""
        self.deadline = min(
            (suspicion.deadline for suspicion in self.suspects.values()),
            default=math.inf,
        )

    def dead(self) -> list[MemberEntry]:
        """Return the entries that are DEAD, not those that LEFT."""
        return [
            entry
            for entry in self.entries.values()
            if entry.record.state is MemberState.DEAD
        ]

    def records(self, now: float, memory_s: float) -> Sequence[MemberRecord]:
        """Return the records to share with others; old ones of gone members not."""
        return [
            entry.record
            for entry in self.entries.values()
            if entry.record.state <= MemberState.SUSPECT
            or now - entry.since_s < memory_s
        ]

    def forget_old(self, now: float, *, memory_s: float, mult: int) -> list[NodeName]:
        """Drop records of dead and gone members that are too old or too many.

        Returns their names.
        """
        gone = [
            (entry.since_s, name)
            for name, entry in self.entries.items()
            if entry.record.state > MemberState.SUSPECT
        ]
        cap = min(MOST_REMEMBERED, max(LEAST_REMEMBERED, mult * (len(self.active) + 1)))
        gone.sort()
        dropped = [
            name
            for place, (since_s, name) in enumerate(gone)
            if now - since_s > memory_s or len(gone) - place > cap
        ]
        for name in dropped:
            del self.entries[name]
            self.revision += 1
        return dropped

    def _moved(self, record: MemberRecord) -> None:
        """Update the names by state for a new record or a new state."""
        name, state = record.name, record.state
        if state <= MemberState.SUSPECT:
            self.active[name] = None
        else:
            self.active.pop(name, None)
        if state is MemberState.ALIVE:
            self.alive_names[name] = None
            self._alive = None
        elif self.alive_names.pop(name, self) is None:
            self._alive = None


SETTLING_PERIODS = 10
"""For this long after its join a process counts as a newcomer to its name."""

NEWCOMER_RAISES, SETTLED_RAISES = 2, 3
"""How often a process raises its generation above another process of its name. A
dead process does not raise it again; of two live ones the newcomer gives way first."""


class LocalMember:
    """The own record, which only this node changes.

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
        """Gossip the own record from now on."""
        self.joined_at_s = now
        self._news.put(self.record)

    def leave(self) -> None:
        """Set the own state to LEFT, with an incarnation above all accusations."""
        self.record = replace(
            self.record,
            state=MemberState.LEFT,
            incarnation=self.record.incarnation + 1,
            by=(self.record.name,),
        )
        self._news.put(verdict_of(self.record))

    def set_catalog_version(self, version: int) -> None:
        """Set the catalog version in the own record."""
        self.record = replace(self.record, catalog_version=version)

    def receive(self, verdict: Verdict, sender: NodeName, now: float) -> list[Effect]:
        """Handle a verdict about a process with this node's name.

        About this process: refute it. About another process: raise the generation
        above it, since it is probably dead; if it raises its own again and again,
        it is alive and keeps the name.
        """
        me = self.record
        if is_same_process(me, verdict):
            if verdict.state is MemberState.ALIVE or self.is_leaving:
                return []
            if verdict.incarnation >= me.incarnation:
                self._health.worsen()
                self._raise(incarnation=verdict.incarnation + 1)
            return self._send_record(sender)
        if precedence(verdict) < precedence(me):
            return self._send_record(sender)
        if verdict.state <= MemberState.SUSPECT:
            raises = self._raises.get(verdict.epoch, 0)
            is_settled = now - self.joined_at_s >= self._settling_s
            if raises >= (SETTLED_RAISES if is_settled else NEWCOMER_RAISES):
                return [Notify(NameReplaced(verdict.generation))]
            self._raises[verdict.epoch] = raises + 1
        self._raise(generation=verdict.generation + 1)
        return self._send_record(sender)

    def _raise(self, **larger: int) -> None:
        self.record = replace(self.record, **larger)
        if self.joined:
            self._news.put(self.record)

    def _send_record(self, sender: NodeName) -> list[Effect]:
        return [Send(sender, Gossip(items=(self.record,)))] if self.joined else []


class MemberReports:
    """Tracks the catalog version and the last load of each member."""

    def __init__(self, table: MemberTable, news: Broadcasts) -> None:
        self._table = table
        self._news = news

    def receive_announcement(self, item: Announce, sender: NodeName) -> list[Effect]:
        """Handle an announced catalog version, and gossip it."""
        effects = self.catalog(item.owner, item.generation, item.version, sender, item)
        if effects:
            self._news.put(item)
        return effects

    def catalog(
        self,
        owner: NodeName,
        generation: int,
        version: int,
        sender: NodeName,
        item: Announce | None = None,
    ) -> list[Effect]:
        """Record the catalog version of `owner`."""
        entry = self._table.get(owner)
        if (
            entry is None
            or entry.record.generation != generation
            or entry.record.state > MemberState.SUSPECT
            or entry.record.catalog_version >= version
        ):
            return []
        record = replace(entry.record, catalog_version=version)
        self._table.replace(entry, record)
        return [catalog_announced(record, sender, item)]

    def receive_load_news(self, item: LoadNews) -> list[Effect]:
        """Handle the gossiped load of a member, and gossip it."""
        entry = self._table.get(item.name)
        if (
            entry is None
            or entry.record.generation != item.generation
            or entry.load_serial >= item.serial
        ):
            return []
        entry.load_serial = item.serial
        self._news.put(item)
        return self.load(item.name, item.load)

    def load(self, name: NodeName, load: Load | None) -> list[Effect]:
        """Record the load that a member sent about itself."""
        entry = self._table.get(name)
        if entry is None or load is None:
            return []
        entry.load = load
        return [Notify(LoadChanged(name, load))]


def catalog_announced(
    record: MemberRecord, heard_from: NodeName, item: Announce | None = None
) -> Notify:
    """Return the event that the catalog of `record` is at its version."""
    return Notify(
        CatalogAnnounced(
            record.name,
            record.generation,
            record.catalog_version,
            None if item is None else item.delta,
            heard_from,
        )
    )


ALIVE, SUSPECT, DEAD, LEFT = MemberState

MOST_HEARSAY = 1024
"""Verdicts on unknown nodes that are remembered, so that each is gossiped once."""


class MembershipState:
    """The own record, the table of the others, and the news about them."""

    def __init__(
        self, settings: SwimConfig, me: MemberRecord, health: Awareness
    ) -> None:
        self.table = MemberTable()
        self.news = Broadcasts()
        self.own = LocalMember(me, self.news, health, period_s=settings.period_s)
        self.reports = MemberReports(self.table, self.news)
        self._me = me.name
        self._settings = settings
        self._hearsay: dict[Verdict, None] = {}

    @property
    def size(self) -> int:
        """Members that are alive or suspect, this node included."""
        return len(self.table.active) + 1

    # ------------------------------------------------------------ what is heard

    def receive(self, item: Item, sender: NodeName, now: float) -> list[Effect]:
        """Handle one item of gossip."""
        match item:
            case MemberRecord():
                return self.receive_record(item, sender, now)
            case Verdict():
                return self.receive_verdict(item, sender, now)
            case Announce():
                return self.reports.receive_announcement(item, sender)
            case LoadNews():
                return self.reports.receive_load_news(item)

    def receive_record(
        self,
        record: MemberRecord,
        sender: NodeName,
        now: float,
        *,
        synced: bool = False,
    ) -> list[Effect]:
        """Handle a full record; one from a table comparison may be out of date."""
        if record.name == self._me:
            return self.own.receive(verdict_of(record), sender, now)
        if not _is_credible(record):
            return []
        entry = self.table.get(record.name)
        if entry is None:
            return self._add_member(record, sender, now, synced)
        known = entry.record
        if (
            record.state is known.state is ALIVE
            and record.incarnation == known.incarnation
            and is_same_process(known, record)
            and record.catalog_version <= known.catalog_version
        ):
            return []  # known already, as most records are
        if synced and known.state is not DEAD:
            record = without_hearsay(record)
        if precedence(record) == precedence(known) and record.state is SUSPECT:
            return self._add_accusers(entry, verdict_of(record), now)
        merged = merge(known, record)
        if merged is known:
            if sender == record.name and precedence(record) < precedence(known):
                return self.send_verdict(entry, now)
            return []
        return self._apply(entry, merged, sender, now, synced=synced)

    def receive_verdict(
        self, verdict: Verdict, sender: NodeName, now: float
    ) -> list[Effect]:
        """Handle a verdict about the state of a member."""
        if verdict.name == self._me:
            return self.own.receive(verdict, sender, now)
        if verdict.state is ALIVE or not _is_credible(verdict):
            return []
        entry = self.table.get(verdict.name)
        if entry is None:
            self._pass_on_once(verdict)
            return []
        known = entry.record
        if precedence(verdict) < precedence(known):
            # The sender does not know the refutation, or the newer process.
            return (
                [Send(sender, Gossip(items=(known,)))] if known.state is ALIVE else []
            )
        if not is_same_process(known, verdict):
            self._pass_on_once(verdict)
            return []
        if precedence(verdict) == precedence(known) and verdict.state is SUSPECT:
            return self._add_accusers(entry, verdict, now)
        merged = apply_verdict(known, verdict)
        if merged is known:
            return []
        return self._apply(entry, merged, sender, now, refused=verdict.refused)

    # ------------------------------------------------------ what follows from it

    def accuse(self, name: NodeName, now: float, *, refused: bool) -> list[Effect]:
        """Suspect `name` after a failed probe of this node.

        The suspect receives the verdict first, so that it can refute in time.
        """
        entry = self.table.get(name)
        if entry is None or entry.record.state > SUSPECT:
            return []
        me = (self._me,)
        verdict = replace(
            verdict_of(entry.record, me if refused else ()), state=SUSPECT, by=me
        )
        return [
            Send(name, YouAreDead(verdict=verdict)),
            *self.receive_verdict(verdict, self._me, now),
        ]

    def remind_suspects(self, now: float) -> list[Effect]:
        """Send its verdict again to each member that this node accuses."""
        effects: list[Effect] = []
        for name, suspicion in self.table.suspects.items():
            if self._me in suspicion.accusers:
                effects += self.send_verdict(self.table.entries[name], now)
        return effects

    def declare_dead(self, now: float) -> list[Effect]:
        """Declare suspects dead that have not refuted in time."""
        effects: list[Effect] = []
        if self.table.deadline > now:
            return effects
        for name, suspicion in list(self.table.suspects.items()):
            if suspicion.deadline <= now:
                entry = self.table.entries[name]
                dead = replace(entry.record, state=DEAD, by=(self._me,))
                effects += self._apply(entry, dead, self._me, now)
        self.table.set_deadline()
        return effects

    def restart_suspicions(self, now: float) -> None:
        """Start all suspicions again: a paused process reads no refutations."""
        for name in list(self.table.suspects):
            self.table.set_suspicion(self.table.entries[name], self._suspicion(now))

    def postpone(self, until: float) -> None:
        """Let no suspicion end before `until`: a refutation may wait unread."""
        for suspicion in self.table.suspects.values():
            suspicion.postpone(until)
        self.table.set_deadline()

    def send_verdict(self, entry: MemberEntry, now: float) -> list[Effect]:
        """Send a node its SUSPECT or DEAD verdict, at most once per ack timeout."""
        if now - entry.contradicted_at_s < self._settings.ack_timeout_s:
            return []
        entry.contradicted_at_s = now
        return [Send(entry.record.name, YouAreDead(verdict=self.verdict_on(entry)))]

    def verdict_on(self, entry: MemberEntry) -> Verdict:
        """Return the verdict on a member, with all accusers known here."""
        suspicion = entry.suspicion
        if suspicion is None:
            return verdict_of(entry.record)
        return replace(
            verdict_of(entry.record, suspicion.refused), by=suspicion.accusers
        )

    def _add_member(
        self, record: MemberRecord, sender: NodeName, now: float, synced: bool
    ) -> list[Effect]:
        if record.age_s > self._settings.dead_memory_s:
            return []
        young = replace(record, age_s=0) if record.age_s else record
        entry = self.table.add(young, now - record.age_s)
        if record.state > SUSPECT:
            # Kept for redials; no event, since it was never a member here.
            if not synced:
                self.news.put(verdict_of(record))
            return []
        entry.since_s = now
        return self._apply_active(entry, None, sender, now, synced=synced)

    def _apply(
        self,
        entry: MemberEntry,
        record: MemberRecord,
        sender: NodeName,
        now: float,
        *,
        synced: bool = False,
        refused: tuple[NodeName, ...] = (),
    ) -> list[Effect]:
        """Replace the known record by `record`, which has precedence over it."""
        old = entry.record
        record = replace(record, age_s=0) if record.age_s else record
        self.table.replace(entry, record)
        is_new_process = not is_same_process(old, record)
        if precedence(old) == precedence(record):
            # Only the catalog version can have changed.
            return (
                [catalog_announced(record, sender)] if record.state <= SUSPECT else []
            )
        if is_new_process or old.state is not record.state:
            entry.since_s = now
        effects: list[Effect] = []
        if is_new_process:
            entry.rtt_s, entry.load, entry.load_serial = None, None, -1
            self.news.drop(record.name)
            effects.append(Notify(Restarted(record.name, record.generation)))
        if record.state <= SUSPECT:
            before = None if is_new_process or old.state > SUSPECT else old
            effects += self._apply_active(
                entry, before, sender, now, synced=synced, refused=refused
            )
            return effects
        self.table.set_suspicion(entry, None)
        self.news.drop(record.name)
        self.news.put(verdict_of(record))
        if old.state <= SUSPECT:
            if record.state is DEAD:
                effects.append(Notify(Died(record.name, record.by)))
            else:
                effects.append(Notify(Left(record.name)))
        return effects

    def _apply_active(
        self,
        entry: MemberEntry,
        before: MemberRecord | None,  # of the same process, if it was a member
        sender: NodeName,
        now: float,
        *,
        synced: bool,
        refused: tuple[NodeName, ...] = (),
    ) -> list[Effect]:
        record = entry.record
        effects: list[Effect] = []
        if before is None:
            effects.append(Notify(Joined(Member(record=record, since_s=now))))
        if record.catalog_version > (before.catalog_version if before else 0):
            effects.append(catalog_announced(record, sender))
        was_suspect = before is not None and before.state is SUSPECT
        if record.state is ALIVE:
            self.table.set_suspicion(entry, None)
            if was_suspect:
                effects.append(Notify(Confirmed(record.name)))
            if self.own.joined:
                self.news.put(record)
            return effects
        suspicion = self._suspicion(now)
        for name in record.by or (sender,):
            suspicion.accuse(name, now, refused=name in refused)
        self.table.set_suspicion(entry, suspicion)
        if not was_suspect:
            effects.append(Notify(Suspected(record.name, suspicion.accusers)))
        verdict = self.verdict_on(entry)
        if synced:
            # Out of date perhaps: let the suspect refute before it is gossiped.
            effects.append(Send(record.name, YouAreDead(verdict=verdict)))
        else:
            self.news.put(verdict)
        return effects

    def _add_accusers(
        self, entry: MemberEntry, verdict: Verdict, now: float
    ) -> list[Effect]:
        suspicion = entry.suspicion
        if suspicion is not None:
            fresh = [
                suspicion.accuse(name, now, refused=name in verdict.refused)
                for name in verdict.by
            ]
            if any(fresh):
                self.table.suspicion_changed(suspicion)
                self.news.put(self.verdict_on(entry))
        return []

    def _suspicion(self, now: float) -> Suspicion:
        return Suspicion(
            self.size,
            now,
            mult=self._settings.suspicion_mult,
            max_mult=self._settings.suspicion_max_mult,
            period_s=self._settings.period_s,
        )

    def _pass_on_once(self, verdict: Verdict) -> None:
        if verdict not in self._hearsay:
            self._hearsay[verdict] = None
            if len(self._hearsay) > MOST_HEARSAY:
                del self._hearsay[next(iter(self._hearsay))]
            self.news.put(verdict)


def _is_credible(said: MemberRecord | Verdict) -> bool:
    return said.state is not LEFT or is_own_farewell(said)
