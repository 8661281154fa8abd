"""What one node holds of the others and of itself, and what changes its mind.

Everything that is heard (records, verdicts, announcements, loads) ends here; what
comes out is events, news to pass on, and answers to those who are mistaken.

Source: Das, Gupta, Motivala, "SWIM", DSN 2002, sections 4.2 and 4.4.
"""

from msgspec.structs import replace

from mpreg_nb.membership.awareness import Awareness
from mpreg_nb.membership.broadcast import Broadcasts
from mpreg_nb.membership.effects import (
    Confirmed,
    Died,
    Effect,
    Joined,
    Left,
    Restarted,
    Send,
    Suspected,
    Tell,
)
from mpreg_nb.membership.identity import Identity
from mpreg_nb.membership.knobs import SwimSettings
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
from mpreg_nb.membership.reports import Reports, told_catalog
from mpreg_nb.membership.suspicion import Suspicion
from mpreg_nb.membership.table import Entry, Table
from mpreg_nb.wire.gossip import (
    Announce,
    Gossip,
    Item,
    LoadNews,
    MemberRecord,
    MemberState,
    NodeName,
    Verdict,
    YouAreDead,
)

ALIVE, SUSPECT, DEAD, LEFT = MemberState

MOST_HEARSAY = 1024
"""Verdicts on unknown nodes that are remembered as passed on."""


class Beliefs:
    """The own record, the table of the others, and the news about them."""

    def __init__(
        self, settings: SwimSettings, me: MemberRecord, health: Awareness
    ) -> None:
        self.table = Table()
        self.news = Broadcasts()
        self.own = Identity(me, self.news, health, period_s=settings.period_s)
        self.reports = Reports(self.table, self.news)
        self._me = me.name
        self._settings = settings
        self._hearsay: dict[Verdict, None] = {}

    @property
    def size(self) -> int:
        """Members that are alive or suspect, this node included."""
        return len(self.table.active) + 1

    # ------------------------------------------------------------ what is heard

    def hear(self, item: Item, sender: NodeName, now: float) -> list[Effect]:
        """Take in one item of gossip."""
        match item:
            case MemberRecord():
                return self.hear_record(item, sender, now)
            case Verdict():
                return self.hear_verdict(item, sender, now)
            case Announce():
                return self.reports.announced(item, sender)
            case LoadNews():
                return self.reports.busy(item)

    def hear_record(
        self,
        record: MemberRecord,
        sender: NodeName,
        now: float,
        *,
        synced: bool = False,
    ) -> list[Effect]:
        """Take in a full record; a synced one is not the latest news."""
        if record.name == self._me:
            return self.own.hear(verdict_of(record), sender, now)
        if not _is_credible(record):
            return []
        entry = self.table.get(record.name)
        if entry is None:
            return self._meet(record, sender, now, synced)
        known = entry.record
        if synced and known.state is not DEAD:
            record = without_hearsay(record)
        if precedence(record) == precedence(known) and record.state is SUSPECT:
            return self._confirm(entry, verdict_of(record), now)
        merged = merge(known, record)
        if merged is known:
            if sender == record.name and precedence(record) < precedence(known):
                return self.contradict(entry, now)
            return []
        return self._change(entry, merged, sender, now, synced=synced)

    def hear_verdict(
        self, verdict: Verdict, sender: NodeName, now: float
    ) -> list[Effect]:
        """Take in what somebody says of the state of a member."""
        if verdict.name == self._me:
            return self.own.hear(verdict, sender, now)
        if verdict.state is ALIVE or not _is_credible(verdict):
            return []
        entry = self.table.get(verdict.name)
        if entry is None:
            self._pass_on_once(verdict)
            return []
        known = entry.record
        if precedence(verdict) < precedence(known):
            # The sender has missed that this was refuted, or that it is history.
            return (
                [Send(sender, Gossip(items=(known,)))] if known.state is ALIVE else []
            )
        if not is_same_process(known, verdict):
            self._pass_on_once(verdict)
            return []
        if precedence(verdict) == precedence(known) and verdict.state is SUSPECT:
            return self._confirm(entry, verdict, now)
        merged = apply_verdict(known, verdict)
        if merged is known:
            return []
        return self._change(entry, merged, sender, now, refused=verdict.refused)

    # ------------------------------------------------------ what follows from it

    def accuse(self, name: NodeName, now: float, *, refused: bool) -> list[Effect]:
        """Suspect `name` on the strength of this node's own probe.

        The suspect is told first, so that it can refute before others believe it.
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
            *self.hear_verdict(verdict, self._me, now),
        ]

    def remind_suspects(self, now: float) -> list[Effect]:
        """Tell those whom this node itself accuses once more, lest that was lost."""
        effects: list[Effect] = []
        for name, suspicion in self.table.suspects.items():
            if self._me in suspicion.accusers:
                effects += self.contradict(self.table.entries[name], now)
        return effects

    def bury_overdue(self, now: float) -> list[Effect]:
        """Declare dead whoever has not refuted in time."""
        effects: list[Effect] = []
        for name, suspicion in list(self.table.suspects.items()):
            if suspicion.deadline <= now:
                entry = self.table.entries[name]
                dead = replace(entry.record, state=DEAD, by=(self._me,))
                effects += self._change(entry, dead, self._me, now)
        return effects

    def doubt_anew(self, now: float) -> None:
        """Start all suspicions again: while this process stood still none could be
        refuted here."""
        for name in list(self.table.suspects):
            self.table.doubt(self.table.entries[name], self._suspicion(now))

    def postpone(self, until: float) -> None:
        """Let no suspicion end before `until`."""
        for suspicion in self.table.suspects.values():
            suspicion.postpone(until)

    def contradict(self, entry: Entry, now: float) -> list[Effect]:
        """Tell a node what is held of it, if it has not just been told."""
        if now - entry.contradicted_at_s < self._settings.ack_timeout_s:
            return []
        entry.contradicted_at_s = now
        return [Send(entry.record.name, YouAreDead(verdict=self.verdict_on(entry)))]

    def verdict_on(self, entry: Entry) -> Verdict:
        """Return what is held here of a node, with all accusers known."""
        suspicion = entry.suspicion
        if suspicion is None:
            return verdict_of(entry.record)
        return replace(
            verdict_of(entry.record, suspicion.refused), by=suspicion.accusers
        )

    def _meet(
        self, record: MemberRecord, sender: NodeName, now: float, synced: bool
    ) -> list[Effect]:
        if record.age_s > self._settings.dead_memory_s:
            return []
        entry = self.table.add(replace(record, age_s=0), now - record.age_s)
        if record.state > SUSPECT:
            # Nobody here ever counted on it: remembered for redials, not announced.
            if not synced:
                self.news.put(verdict_of(record))
            return []
        entry.since_s = now
        return self._welcome(entry, None, sender, now, synced=synced)

    def _change(
        self,
        entry: Entry,
        record: MemberRecord,
        sender: NodeName,
        now: float,
        *,
        synced: bool = False,
        refused: tuple[NodeName, ...] = (),
    ) -> list[Effect]:
        """Put `record`, which outranks the known one, in its place."""
        old = entry.record
        record = replace(record, age_s=0)
        self.table.replace(entry, record)
        is_new_process = not is_same_process(old, record)
        if precedence(old) == precedence(record):
            # Nothing but the version of its catalog can have changed.
            return [told_catalog(record, sender)] if record.state <= SUSPECT else []
        if is_new_process or old.state is not record.state:
            entry.since_s = now
        effects: list[Effect] = []
        if is_new_process:
            entry.rtt_s, entry.load, entry.load_serial = None, None, -1
            self.news.drop(record.name)
            effects.append(Tell(Restarted(record.name, record.generation)))
        if record.state <= SUSPECT:
            before = None if is_new_process or old.state > SUSPECT else old
            effects += self._welcome(
                entry, before, sender, now, synced=synced, refused=refused
            )
            return effects
        self.table.doubt(entry, None)
        self.news.drop(record.name)
        self.news.put(verdict_of(record))
        if old.state <= SUSPECT:
            if record.state is DEAD:
                effects.append(Tell(Died(record.name, record.by)))
            else:
                effects.append(Tell(Left(record.name)))
        return effects

    def _welcome(
        self,
        entry: Entry,
        before: MemberRecord | None,  # of the same process, if it was a member
        sender: NodeName,
        now: float,
        *,
        synced: bool,
        refused: tuple[NodeName, ...] = (),
    ) -> list[Effect]:
        """Take up a record that is ALIVE or SUSPECT."""
        record = entry.record
        effects: list[Effect] = []
        if before is None:
            effects.append(Tell(Joined(Member(record=record, since_s=now))))
        if record.catalog_version > (before.catalog_version if before else 0):
            effects.append(told_catalog(record, sender))
        was_suspect = before is not None and before.state is SUSPECT
        if record.state is ALIVE:
            self.table.doubt(entry, None)
            if was_suspect:
                effects.append(Tell(Confirmed(record.name)))
            if self.own.joined:
                self.news.put(record)
            return effects
        suspicion = self._suspicion(now)
        for name in record.by or (sender,):
            suspicion.accuse(name, now, refused=name in refused)
        self.table.doubt(entry, suspicion)
        if not was_suspect:
            effects.append(Tell(Suspected(record.name, suspicion.accusers)))
        verdict = self.verdict_on(entry)
        if synced:
            # Old news: the suspect can answer before others need to hear of it.
            effects.append(Send(record.name, YouAreDead(verdict=verdict)))
        else:
            self.news.put(verdict)
        return effects

    def _confirm(self, entry: Entry, verdict: Verdict, now: float) -> list[Effect]:
        """Add accusers to a suspicion that is held here already."""
        suspicion = entry.suspicion
        if suspicion is not None:
            fresh = [
                suspicion.accuse(name, now, refused=name in verdict.refused)
                for name in verdict.by
            ]
            if any(fresh):
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
