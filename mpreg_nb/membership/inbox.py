"""What each message of the control lane does, by its kind."""

from collections.abc import Sequence

from msgspec.structs import replace

from mpreg_nb.membership import sync
from mpreg_nb.membership.beliefs import Beliefs
from mpreg_nb.membership.claims import FIRST_SEQ, Claims
from mpreg_nb.membership.detector import Detector
from mpreg_nb.membership.duties import Duties
from mpreg_nb.membership.effects import (
    Effect,
    JoinCompleted,
    Left,
    Send,
    Tell,
)
from mpreg_nb.membership.links import Links
from mpreg_nb.membership.seeds import Seeds
from mpreg_nb.wire.gossip import (
    Ack,
    CatalogPull,
    CatalogPush,
    Control,
    Digest,
    Gossip,
    Hello,
    IndirectAck,
    Item,
    Leave,
    MemberState,
    Nack,
    NodeName,
    Ping,
    PingReq,
    SyncDigest,
    SyncPull,
    SyncPush,
    Verdict,
    YouAreDead,
)


class Inbox:
    """Gives each message to the part of the node that it is for."""

    def __init__(
        self,
        beliefs: Beliefs,
        detector: Detector,
        claims: Claims,
        duties: Duties,
        links: Links,
        seeds: Seeds,
    ) -> None:
        self._beliefs = beliefs
        self._detector = detector
        self._claims = claims
        self._duties = duties
        self._links = links
        self._seeds = seeds

    def receive(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        """Take in `message`, and tell the sender if it is mistaken about itself."""
        entry = self._beliefs.table.get(sender)
        was_dead = entry is not None and entry.record.state is MemberState.DEAD
        effects = self._dispatch(message, sender, now)
        if entry is None or self._beliefs.own.is_leaving:
            return effects
        state = entry.record.state
        if state is MemberState.SUSPECT or state is MemberState.DEAD:
            effects += self._beliefs.contradict(entry, now)
        elif was_dead and state is MemberState.ALIVE:
            # It was out of reach, and others with it: compare all at once.
            effects.append(Send(sender, self._duties.digest(now, whole=True)))
        return effects

    def _dispatch(self, message: Control, sender: NodeName, now: float) -> list[Effect]:
        match message:
            case Ping():
                return self._ping(message, sender, now)
            case Ack(seq=seq):
                effects = self._hear(message.items, sender, now)
                effects += self._beliefs.reports.load(sender, message.load)
                if seq >= FIRST_SEQ:
                    return effects + self._claims.ack(seq, sender)
                return effects + self._detector.follow(
                    self._detector.probes.ack(seq, sender, now), now
                )
            case Gossip(items=items):
                effects = self._hear(items, sender, now)
                return effects + self._beliefs.reports.load(sender, message.load)
            case PingReq():
                return self._ping_request(message, sender, now)
            case IndirectAck(seq=seq, items=items):
                effects = self._hear(items, sender, now)
                steps = self._detector.probes.indirect_ack(seq, sender)
                return effects + self._detector.follow(steps, now)
            case Nack(seq=seq, items=items):
                effects = self._hear(items, sender, now)
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
                return self._beliefs.hear_verdict(verdict, sender, now)
            case Hello(record=record, joined=joined):
                if record.name != sender:
                    return []
                self._links.greeted(sender, record.epoch)
                if not joined:
                    return []
                return self._beliefs.hear_record(record, sender, now)
            case Leave():
                return self._leave(message, sender, now)
            case CatalogPull() | CatalogPush():
                return []  # not membership's

    # ----------------------------------------------------------- kinds of message

    def _hear(
        self, items: Sequence[Item], sender: NodeName, now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            effects += self._beliefs.hear(item, sender, now)
        return effects

    def _ping(self, message: Ping, sender: NodeName, now: float) -> list[Effect]:
        me = self._beliefs.own.record
        effects: list[Effect] = []
        if message.epoch == me.epoch:
            effects.append(Send(sender, Ack(seq=message.seq)))
        elif self._beliefs.own.joined:
            # It is looking for the process that had this name before.
            effects.append(Send(sender, Gossip(items=(me,))))
        effects += self._hear(message.items, sender, now)
        effects += self._beliefs.reports.load(sender, message.load)
        return effects

    def _ping_request(
        self, message: PingReq, sender: NodeName, now: float
    ) -> list[Effect]:
        effects = self._hear(message.items, sender, now)
        own = self._beliefs.own.record
        if message.target == own.name:
            if message.epoch == own.epoch:
                effects.append(Send(sender, IndirectAck(seq=message.seq)))
            return effects
        entry = self._beliefs.table.get(message.target)
        if entry is None:
            return effects
        record = entry.record
        if record.epoch != message.epoch or record.state > MemberState.SUSPECT:
            # The asker has not heard yet what became of the process it looks for.
            is_gone = record.state > MemberState.SUSPECT
            item: Item = self._beliefs.verdict_on(entry) if is_gone else record
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
            if message.root == self._duties.root(now):
                return []
            return [Send(sender, self._duties.digest(now, whole=True))]
        records = {record.name: record for record in self._duties.records(now)}
        found = sync.differences(records, message.entries)
        effects: list[Effect] = []
        for line in found.catalogs:
            effects += self._catalog_line(line, sender)
        effects += self._push(found.push, sender, now)
        if found.pull:
            effects.append(Send(sender, SyncPull(names=found.pull)))
        return effects

    def _catalog_line(self, line: Digest, sender: NodeName) -> list[Effect]:
        return self._beliefs.reports.catalog(
            line.name, line.generation, line.catalog_version, sender
        )

    def _push(
        self, names: Sequence[NodeName], sender: NodeName, now: float
    ) -> list[Effect]:
        """Send the records of `names`; an empty row too, it ends a comparison."""
        own, table = self._beliefs.own.record, self._beliefs.table
        records = []
        for name in names:
            entry = table.get(name)
            if name == own.name:
                records.append(own)
            elif entry is not None and entry.record.state > MemberState.SUSPECT:
                age_s = int(max(0.0, now - entry.since_s))
                records.append(replace(entry.record, age_s=age_s))
            elif entry is not None:
                verdict = self._beliefs.verdict_on(entry)
                records.append(replace(entry.record, by=verdict.by))
        return [Send(sender, push) for push in sync.pushes(records)]

    def _pushed(self, message: SyncPush, sender: NodeName, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for record in message.records:
            effects += self._beliefs.hear_record(
                record, sender, now, synced=record.name != sender
            )
        if message.last and not self._beliefs.own.joined:
            effects += self.complete_join(sender, now)
        return effects

    def complete_join(self, through: NodeName, now: float) -> list[Effect]:
        """Make this node known: it knows what `through` knows."""
        own = self._beliefs.own
        own.join(now)
        self._seeds.settle(now)
        self._duties.settle(now)
        completed = Tell(JoinCompleted(through, own.record.generation))
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
        effects = self._beliefs.hear_verdict(farewell, sender, now)
        return [
            Tell(Left(sender, message.reason))
            if isinstance(effect, Tell) and isinstance(effect.event, Left)
            else effect
            for effect in effects
        ]
